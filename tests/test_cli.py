"""The commands as a user runs them: train, then predict, on a tiny encoder and tiny corpora."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
import threading
from html.parser import HTMLParser
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from seqeval.metrics import f1_score
from tiny import error_of, save_tiny_bert, sentences, write_jsonl
from transformers import AutoModelForTokenClassification, AutoTokenizer

from hf_semicrf import SemiCRFForTokenClassification, __version__, prepare_tokenizer
from hf_semicrf.cli import COMMANDS, common, demo, predict, train
from hf_semicrf.cli import main as hf_semicrf

SETTINGS = "--learning_rate 1e-2 --head_learning_rate 1e-1 --num_train_epochs 12 --use_cpu"
SETTINGS += " --per_device_train_batch_size 8 --disable_tqdm True --eval_strategy epoch"


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return save_tiny_bert(tmp_path_factory.mktemp("tiny") / "bert")


@pytest.fixture(scope="module")
def trained(bert, tmp_path_factory):
    """The output folder of one run of `train`."""
    folder = tmp_path_factory.mktemp("run")
    files = ["--train_file", write_jsonl(folder / "train.jsonl", sentences(48))]
    for name in ("validation", "test"):
        files += [f"--{name}_file", write_jsonl(folder / f"{name}.jsonl", sentences(12))]
    out = ["--model_name_or_path", bert, "--output_dir", str(folder / "out")]
    train.main([*out, *files, *SETTINGS.split()])
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
    # the tagger is right on all of the few validation sentences: they carry no temperature
    assert model.config.head_temperature == 1.0 and "temperature kept at 1.0" in card
    f1 = results["validation_overall_f1"]
    assert model.config.threshold in (0.4, pytest.approx(f1 / 2, abs=0.05))
    assert bert not in (trained / "config.json").read_text()


def test_reported_f1_is_seqevals_on_the_predictions(trained, tmp_path):
    rows = sentences(12)
    results = json.loads((trained / "all_results.json").read_text())
    file = write_jsonl(tmp_path / "test.jsonl", [{"tokens": row["tokens"]} for row in rows])
    output = tmp_path / "entities.jsonl"
    predict.main([str(trained), "--file", file, "--output", str(output)])
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
    predict.main([str(trained), text])
    row = json.loads(capsys.readouterr().out)
    assert row["text"] == text
    found = [(e["label"], text[e["start"] : e["end"]], e["text"]) for e in row["entities"]]
    assert found == [("PER", "Ada Lovelace", "Ada Lovelace"), ("LOC", "Oslo", "Oslo")]
    assert all(0 < entity["score"] <= 1 for entity in row["entities"])


def test_predict_reads_a_file_as_it_is_told(trained, tmp_path, capsys):
    file = tmp_path / "letters.csv"
    file.write_text("number,Body\n1,Ada left.\n")
    error = error_of(predict.main, trained, "--file", file)
    assert "--text_column" in error and "text_column=" not in error
    predict.main([str(trained), "--file", str(file), "--text_column", "Body"])
    [row] = map(json.loads, capsys.readouterr().out.splitlines())
    assert (row["text"], row["number"]) == ("Ada left.", "1")
    file = tmp_path / "last.conll"
    file.write_text("B-PER NNP Ada\nO VBD left\n", encoding="latin-1")
    predict.main([str(trained), "--file", str(file), "--columns", "-1", "--encoding", "latin-1"])
    assert json.loads(capsys.readouterr().out)["tokens"] == ["Ada", "left"]


def test_columns_are_written_in_the_words_of_the_model(trained, tmp_path, capsys):
    folder = tmp_path / "spaces"
    shutil.copytree(trained, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "splitter": "spaces"}))
    predict.main([str(folder), "a-b/c, d.", "--format", "conll"])
    lines = capsys.readouterr().out.split("\n")
    assert [line.split("\t")[0] for line in lines if line] == ["a-b/c,", "d."]


def test_predict_reads_standard_input_and_writes_colours(trained, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("Grace Hopper flew .\n\nsaw Lima .\n"))
    predict.main([str(trained), "--format", "ansi"])
    lines = capsys.readouterr().out.split("\n")
    assert len(lines) == 4 and lines[1] == ""
    assert "\x1b[" in lines[0] and "PER" in lines[0] and "LOC" in lines[2]


@pytest.mark.parametrize(("kind", "mark"), [("html", "mark"), ("uncertainty", "i")])
def test_predict_writes_a_page(kind, mark, trained, tmp_path):
    page = tmp_path / "page.html"
    arguments = ["Ada Lovelace saw <script> Oslo", "--format", kind, "--output", str(page)]
    predict.main([str(trained), *arguments])
    tags = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: tags.append(tag)
    parser.feed(page.read_text())
    assert mark in tags and "script" not in tags


@pytest.mark.parametrize("given", [["threshold=0.99"], ["decode=viterbi"], ["max_length=5"]])
def test_predict_says_how_to_decode(given, trained, capsys):
    text = "Yesterday Ada Lovelace saw Oslo"
    predict.main([str(trained), text, *(f"--{part.replace('_', '-')}" for part in given)])
    found = json.loads(capsys.readouterr().out)["entities"]
    model = AutoModelForTokenClassification.from_pretrained(trained)
    tokenizer = prepare_tokenizer(AutoTokenizer.from_pretrained(trained))
    name, value = given[0].split("=")
    read = {"threshold": float, "decode": str, "max_length": int}[name]
    (expected,) = model.predict([text], tokenizer, **{name: read(value)})
    assert found == expected


def test_standard_input_is_answered_as_it_comes():
    def lines():
        yield "one\n"
        first.wait(10)
        yield from ("two\n", "three\n", "four")

    first = threading.Event()
    groups = predict._as_they_come(lines(), 2)
    assert next(groups) == ["one"]  # while the second line has not come
    first.set()
    rest = list(groups)
    assert [line for group in rest for line in group] == ["two", "three", "four"]
    assert max(map(len, rest)) <= 2

    def broken():
        yield "one\n"
        raise OSError("gone")

    groups = predict._as_they_come(broken(), 2)
    assert next(groups) == ["one"]
    with pytest.raises(OSError, match="gone"):
        next(groups)


def test_predict_answers_a_pipe_line_by_line(trained):
    command = [sys.executable, "-m", "hf_semicrf", "predict", str(trained), "--device", "cpu"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        for text in ("Ada Lovelace flew .", "saw Oslo"):
            process.stdin.write(text + "\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["text"] == text  # standard input is open
        process.stdin.close()
        assert process.wait(60) == 0 and process.stdout.read() == ""


def test_the_bar_stands_on_standard_error(monkeypatch, capsys):
    class Model:
        config = None

        def predict(self, texts, tokenizer, batch_size, **options):
            return [(text, batch_size, options) for text in texts]

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    found = common.WithProgress(Model()).predict("abcdefghi", None, 2, threshold=0.5)
    assert found == [(letter, 2, {"threshold": 0.5}) for letter in "abcdefghi"]
    printed = capsys.readouterr()
    assert "9/9" in printed.err and not printed.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "one of the arguments --dataset_name --train_file is required"),
        ("--train_file nowhere.jsonl", "found none at 'nowhere.jsonl'"),
        ("--train_file {train} --dataset_name wnut_17", "not allowed with argument"),
        ("--train_file {train} --max_segment_length 0", "at least 1, got '0'"),
        ("--train_file {train} --threshold 1.5", "in 0..1, got '1.5'"),
        ("--train_file {train} --head_temperature inf", "above 0, got 'inf'"),
        ("--train_file {train} --constraints [1]", "expected a JSON object, got '[1]'"),
        ("--train_file {train} --unknown maybe", "invalid choice: 'maybe'"),
        ("--train_file {empty} --max_seg 3", "unknown arguments: --max_seg 3"),
        ("--train_file {empty} --num_train_epochs many", "number of at least 0, got 'many'"),
        ("--train_file {empty} --eval_strategy never", "'never'"),
        ("--train_file {empty} --resume_from_checkpoint nowhere", "no folder at 'nowhere'"),
        ("--train_file {empty}", "at least one sentence"),
        ("--train_file {broken}", "broken.jsonl"),
        ("--train_file {no_outside}", "label 'O'"),
        ("--train_file {other} --labels O B-PER I-PER", "o.jsonl, line 2: tag 'B-SHIP' is not"),
        ("--train_file {train} --labels LABEL_0 LABEL_1", "placeholders"),
        ("--train_file {no_words}", "at least one sentence"),
        ("--train_file {train} --eval_strategy epoch", "eval_dataset"),
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
        "no_words": write_jsonl(tmp_path / "no_words.jsonl", [nothing]),
        "other": write_jsonl(tmp_path / "o.jsonl", [good, {**outside, "ner_tags": ["B-SHIP"]}]),
    }
    (tmp_path / "broken.jsonl").write_text("{")
    files["broken"] = str(tmp_path / "broken.jsonl")
    shared = ["--model_name_or_path", bert, "--output_dir", str(tmp_path / "out"), "--use_cpu"]
    error = error_of(train.main, *shared, *arguments.format(**files).split())
    assert error.startswith("hf-semicrf train: ") and message in error


def test_errors_of_predict_say_what_is_wrong(trained, tmp_path):
    def error(*arguments):
        said = error_of(predict.main, *arguments)
        assert said.startswith("hf-semicrf predict: ")
        return said

    nowhere = tmp_path / "nowhere.txt"
    assert f"found none at '{nowhere}'" in error(trained, "--file", nowhere)
    file = write_jsonl(tmp_path / "texts.jsonl", [{"text": "a"}])
    assert "got both" in error(trained, "text", "--file", file)
    assert "no_model" in error(tmp_path / "no_model", "text")
    assert "in a folder that exists" in error(trained, "a", "--output", tmp_path / "no" / "out")
    assert "at least 1, got '0'" in error(trained, "text", "--batch_size", "0")
    assert "at least 0, got '-1'" in error(trained, "text", "--overlap", "-1")
    both = ["--threshold", "0.5", "--decode", "viterbi"]
    assert "not allowed with argument" in error(trained, "text", *both)
    assert "unrecognized arguments: --thresh" in error(trained, "text", "--thresh=0.5")
    assert "no device is called 'tpuu'" in error(trained, "text", "--device", "tpuu")
    wrong = write_jsonl(tmp_path / "wrong.jsonl", [{"words": "a"}])
    assert 'line 1: expected "text" or "tokens"' in error(trained, "--file", wrong)
    assert "got 'cuda:99'" in error(trained, "text", "--device", "cuda:99")


HEAVY = {"torch", "transformers", "tokenizers", "datasets", "seqeval", "accelerate", "evaluate"}
HEAVY |= {"huggingface_hub", "numpy", "pyarrow", "faker", "tqdm"}
QUICK = [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)]
QUICK += [["fly"], ["predict"], ["predict", "m", "--file", "nowhere.txt"], ["suggest", "m"]]
QUICK += [["train", "--model_name_or_path", "m", "--train_file", "nowhere.jsonl"]]
QUICK += [["evaluate", "m", "--dataset_name", "d", "--bins", "0"], ["push", "nowhere", "a/b"]]


def test_help_and_errors_of_arguments_import_nothing_heavy():
    code = f"""
import contextlib, io, sys
from hf_semicrf.cli import main
for arguments in {QUICK!r}:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            main(arguments)
        except SystemExit as end:
            wrong = not {{"--help", "--version"}} & set(arguments)
            assert bool(end.code) == wrong, (arguments, end.code)
    found = set({sorted(HEAVY)!r}) & set(sys.modules)
    assert not found, (arguments, found)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_a_script_is_the_command_of_its_name(name):
    path = Path(__file__).parent.parent / "scripts" / f"{name}.py"
    done = subprocess.run(
        [sys.executable, path, "--help"], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.startswith(f"usage: hf-semicrf {name}") and not done.stderr


def test_the_help_of_train_says_where_the_rest_stands(capsys):
    with pytest.raises(SystemExit):
        hf_semicrf(["train", "--help"])
    short = capsys.readouterr().out
    assert "--help-all" in short and "--train_file" in short and "--weight_decay" not in short
    with pytest.raises(SystemExit):
        hf_semicrf(["train", "--help-all"])
    assert {"--weight_decay", "--head_learning_rate", "--train_file"} <= set(
        re.findall(r"--\w+", capsys.readouterr().out)
    )


def test_the_version_stands_in_one_place(capsys):
    with pytest.raises(SystemExit):
        hf_semicrf(["--version"])
    assert capsys.readouterr().out == f"hf-semicrf {__version__}\n"
    project = (Path(__file__).parent.parent / "pyproject.toml").read_text()
    assert 'version = { attr = "hf_semicrf.__version__" }' in project


def test_the_demo_says_what_it_needs(monkeypatch):
    monkeypatch.setattr(demo, "find_spec", lambda name: None)
    assert error_of(demo.main).endswith("pip install hf_semicrf[demo]")


def test_flags_may_be_written_with_dashes():
    given = ["--batch-size", "3", "--train-file=a-b", "-x", "--", "--as-is"]
    assert common.underscored(given) == ["--batch_size", "3", "--train_file=a-b", *given[3:]]
