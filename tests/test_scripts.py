"""The scripts as a user runs them: train, then predict, on a tiny encoder and tiny corpora."""

from __future__ import annotations

import io
import json
from html.parser import HTMLParser

import pytest
from huggingface_hub import ModelCard
from seqeval.metrics import f1_score
from tiny import save_tiny_bert, script, sentences, write_jsonl
from transformers import AutoModelForTokenClassification

from hf_semicrf import SemiCRFForTokenClassification

SETTINGS = "--learning_rate 1e-2 --head_learning_rate 1e-1 --num_train_epochs 12 --use_cpu"
SETTINGS += " --per_device_train_batch_size 8 --disable_tqdm True --eval_strategy epoch"


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return save_tiny_bert(tmp_path_factory.mktemp("tiny") / "bert")


@pytest.fixture(scope="module")
def trained(bert, tmp_path_factory):
    """The output folder of one run of train.py."""
    folder = tmp_path_factory.mktemp("run")
    files = ["--train_file", write_jsonl(folder / "train.jsonl", sentences(48))]
    for name in ("validation", "test"):
        files += [f"--{name}_file", write_jsonl(folder / f"{name}.jsonl", sentences(12))]
    out = ["--model_name_or_path", bert, "--output_dir", str(folder / "out")]
    script("train").main([*out, *files, *SETTINGS.split()])
    return folder / "out"


def test_train_learns_and_writes_all_that_is_promised(trained, bert):
    results = json.loads((trained / "all_results.json").read_text())
    assert results["test_overall_f1"] > 0.9
    assert {"test_PER_f1", "test_LOC_number", "validation_overall_f1", "train_loss"} <= set(results)
    assert results["test_PER_number"] == 8
    card = (trained / "README.md").read_text()
    assert ModelCard(card).data.pipeline_tag == "token-classification"
    assert "Exact entity matches on the test data" in card and bert not in card
    assert "| 2 words |" in card and "expected calibration error" in card
    assert "(scores.png)" in card and (trained / "scores.png").stat().st_size > 5000
    assert "| test | 12 |" in card
    assert not ModelCard(card).data.get("widget")  # local data stays local
    model = AutoModelForTokenClassification.from_pretrained(trained)
    assert isinstance(model, SemiCRFForTokenClassification)
    assert model.config.max_segment_length == 2  # the longest name in the training data
    assert model.config.head_temperature != 1.0  # both are fitted on the validation data
    assert model.config.threshold == pytest.approx(results["validation_overall_f1"] / 2, abs=0.05)
    assert bert not in (trained / "config.json").read_text()


def test_reported_f1_is_seqevals_on_the_predictions(trained, tmp_path):
    rows = sentences(12)
    results = json.loads((trained / "all_results.json").read_text())
    file = write_jsonl(tmp_path / "test.jsonl", [{"tokens": row["tokens"]} for row in rows])
    output = tmp_path / "entities.jsonl"
    script("predict").main([str(trained), "--file", file, "--output", str(output)])
    predicted = []
    for line in output.read_text().splitlines():
        row = json.loads(line)
        tags = ["O"] * len(row["tokens"])
        for entity in row["entities"]:
            tags[entity["start"]] = f"B-{entity['label']}"
            for position in range(entity["start"] + 1, entity["end"]):
                tags[position] = f"I-{entity['label']}"
        predicted.append(tags)
    f1 = f1_score([row["ner_tags"] for row in rows], predicted)
    assert results["test_overall_f1"] == pytest.approx(f1)


def test_predict_gives_character_offsets(trained, capsys):
    text = "Yesterday  Ada Lovelace saw Oslo"
    script("predict").main([str(trained), text])
    row = json.loads(capsys.readouterr().out)
    assert row["text"] == text
    found = [(e["label"], text[e["start"] : e["end"]], e["text"]) for e in row["entities"]]
    assert found == [("PER", "Ada Lovelace", "Ada Lovelace"), ("LOC", "Oslo", "Oslo")]
    assert all(0 < entity["score"] <= 1 for entity in row["entities"])


def test_predict_reads_standard_input_and_writes_colours(trained, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("Grace Hopper flew .\n\nsaw Lima .\n"))
    script("predict").main([str(trained), "--format", "ansi"])
    lines = capsys.readouterr().out.split("\n")
    assert len(lines) == 4 and lines[1] == ""
    assert "\x1b[" in lines[0] and "PER" in lines[0] and "LOC" in lines[2]


@pytest.mark.parametrize(("kind", "mark"), [("html", "mark"), ("uncertainty", "i")])
def test_predict_writes_a_page(kind, mark, trained, tmp_path):
    page = tmp_path / "page.html"
    arguments = ["Ada Lovelace saw <script> Oslo", "--format", kind, "--output", str(page)]
    script("predict").main([str(trained), *arguments])
    tags = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: tags.append(tag)
    parser.feed(page.read_text())
    assert mark in tags and "script" not in tags


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "either --dataset_name or --train_file"),
        ("--train_file nowhere.jsonl", "found none at 'nowhere.jsonl'"),
        ("--train_file {empty}", "at least one sentence"),
        ("--train_file {no_outside}", "label 'O'"),
        ("--train_file {train} --test_file {other}", "test data, sentence 1: tag 'B-SHIP' is not"),
        ("--train_file {train} --max_segment_length 0", "at least 1"),
        ("--train_file {train} --labels LABEL_0 LABEL_1", "placeholders"),
        ("--train_file {no_words}", "at least one word"),
    ],
)
def test_errors_of_train_say_what_is_wrong(bert, tmp_path, arguments, message):
    good = {"tokens": ["a"], "ner_tags": ["B-PER"]}
    outside = {"tokens": ["a"], "ner_tags": ["O"]}
    nothing = {"tokens": [], "ner_tags": []}
    files = {
        "train": write_jsonl(tmp_path / "train.jsonl", [good, outside]),
        "empty": write_jsonl(tmp_path / "empty.jsonl", []),
        "no_outside": write_jsonl(tmp_path / "no_outside.jsonl", [good]),
        "no_words": write_jsonl(tmp_path / "no_words.jsonl", [good, outside, nothing]),
        "other": write_jsonl(tmp_path / "o.jsonl", [good, {**outside, "ner_tags": ["B-SHIP"]}]),
    }
    common = ["--model_name_or_path", bert, "--output_dir", str(tmp_path / "out"), "--use_cpu"]
    with pytest.raises(SystemExit, match=message) as caught:
        script("train").main([*common, *arguments.format(**files).split()])
    assert str(caught.value).startswith("train.py: ")


def test_errors_of_predict_say_what_is_wrong(trained, tmp_path):
    with pytest.raises(SystemExit, match="predict.py: .*found none at '.*nowhere.txt'"):
        script("predict").main([str(trained), "--file", str(tmp_path / "nowhere.txt")])
    with pytest.raises(SystemExit, match="got both"):
        script("predict").main([str(trained), "text", "--file", "nowhere.txt"])
    with pytest.raises(SystemExit, match="predict.py: "):
        script("predict").main([str(tmp_path / "no_model"), "text"])
