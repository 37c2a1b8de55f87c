"""The splitter is part of a model: chosen in training, saved, used in prediction, replaceable."""

from __future__ import annotations

import json

import pytest
import torch
from tiny import save_tiny_bert, write_jsonl
from transformers import AutoTokenizer

from hf_semicrf import (
    SemiCRFConfig,
    SemiCRFForTokenClassification,
    SemiCRFPipeline,
    TokenizeAndAlign,
    prepare_tokenizer,
)
from hf_semicrf.cli import predict, train
from hf_semicrf.data import choose_splitter
from hf_semicrf.text import Splitter

LABELS = ["O", "B-PER", "I-PER"]
MAILS = [f"{name}.{n}@post.example" for n in range(6) for name in ("r.lind", "bo", "mara_q")]
SUMS = ["1,200.75", "12.50", "3,000", "0.99"]


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return save_tiny_bert(tmp_path_factory.mktemp("bert") / "bert", *MAILS, *SUMS, "write to now")


def words(model, tokenizer, text, **options):
    [prediction] = model.analyze([text], tokenizer, **options)
    return [text[start:end] for start, end in prediction.words]


def test_the_splitter_is_saved_and_an_old_configuration_keeps_its_own(bert, tmp_path):
    tokenizer = prepare_tokenizer(AutoTokenizer.from_pretrained(bert))
    text = "well-known e\u0301 a/b"
    for splitter, expected in (
        ("unicode", ["well-known", "e\u0301", "a", "/", "b"]),
        ("hyphens", ["well", "-", "known", "e\u0301", "a", "/", "b"]),
        (r"pattern:\S+", ["well-known", "e\u0301", "a/b"]),
    ):
        model = SemiCRFForTokenClassification.from_pretrained(
            bert, labels=LABELS, splitter=splitter
        )
        model.save_pretrained(tmp_path)
        assert json.loads((tmp_path / "config.json").read_text())["splitter"] == splitter
        model = SemiCRFForTokenClassification.from_pretrained(tmp_path)
        assert model.config.splitter == splitter
        assert words(model, tokenizer, text) == expected
    assert words(model, tokenizer, text, splitter="hyphens")[:3] == ["well", "-", "known"]
    assert SemiCRFConfig(labels=LABELS).splitter == "unicode"
    saved = json.loads((tmp_path / "config.json").read_text())
    del saved["splitter"]
    (tmp_path / "config.json").write_text(json.dumps(saved))
    model = SemiCRFForTokenClassification.from_pretrained(tmp_path)
    assert model.config.splitter == "simple"
    assert words(model, tokenizer, text) == ["well-known", "e", "\u0301", "a", "/", "b"]


def test_a_function_is_asked_for_again(bert, tmp_path):
    def halves(text):
        return [(0, len(text) // 2), (len(text) // 2, len(text))]

    tokenizer = prepare_tokenizer(AutoTokenizer.from_pretrained(bert))
    model = SemiCRFForTokenClassification.from_pretrained(bert, labels=LABELS, splitter=halves)
    assert model.config.splitter == "function"
    model.save_pretrained(tmp_path)
    model = SemiCRFForTokenClassification.from_pretrained(tmp_path)
    assert words(model, tokenizer, "abcd", splitter=halves) == ["ab", "cd"]
    tagger = SemiCRFPipeline(model=model, tokenizer=tokenizer)
    for call in (lambda: model.predict(["abcd"], tokenizer), lambda: tagger("abcd")):
        with pytest.raises(ValueError, match="the function that splits text .* not saved"):
            call()
    assert model.predict([["a", "b"]], tokenizer) is not None  # words need no splitter
    with pytest.raises(ValueError, match="expected a splitter among"):
        SemiCRFConfig(labels=LABELS, splitter="letters")


def test_words_may_come_with_their_places(bert):
    model = SemiCRFForTokenClassification.from_pretrained(bert, labels=LABELS)
    tokenizer = AutoTokenizer.from_pretrained(bert)
    text, offsets = "d'Ada ⟂ in Oslo", [[0, 2], [2, 5], [8, 10], [11, 15]]
    row = {"text": text, "offsets": offsets}
    [found] = model.analyze([row], tokenizer)
    assert found.words == [tuple(span) for span in offsets] and found.text == text
    [same] = model.analyze([text], tokenizer, splitter=lambda _: offsets)
    assert torch.equal(found.token, same.token)
    tagger = SemiCRFPipeline(model=model, tokenizer=tokenizer, threshold=0.0)
    assert tagger([row, text]) == model.predict([row, text], tokenizer, threshold=0.0)
    for wrong in ([[0, 99]], [[3, 1]], [[2, 5], [0, 2]], [3], [[0, 1.5]], [["0", "2"]], "ab"):
        with pytest.raises(ValueError, match=r"expected words in order|pairs of words|\"offsets\""):
            model.predict([{"text": text, "offsets": wrong}], tokenizer)


def test_training_chooses_the_splitter_that_agrees_with_the_data(bert, tmp_path, capsys):
    rows = [{"tokens": ["write", "to", m, "now"], "ner_tags": ["O", "O", "B-MAIL", "O"]}
            for m in MAILS]  # fmt: skip
    rows += [{"tokens": [s, "now"], "ner_tags": ["B-SUM", "O"]} for s in SUMS]
    file = write_jsonl(tmp_path / "mails.jsonl", rows)
    out = str(tmp_path / "out")
    options = "--num_train_epochs 12 --learning_rate 5e-3 --head_learning_rate 5e-3 --use_cpu True"
    train.main(["--model_name_or_path", bert, "--train_file", file, "--output_dir", out,
                *options.split()])  # fmt: skip
    said = capsys.readouterr().err
    assert "splitter spaces: of 80 words, prediction would split otherwise" in said
    assert "unicode 22, hyphens 22, punctuation 22, web 4, spaces 0" in said
    assert "spaces: of 80 words, prediction would split" in (tmp_path / "out/README.md").read_text()
    assert json.loads((tmp_path / "out" / "config.json").read_text())["splitter"] == "spaces"
    predict.main([out, f"write to {MAILS[0]} now", "--format", "jsonl"])
    [entity] = json.loads(capsys.readouterr().out)["entities"]
    assert (entity["label"], entity["text"]) == ("MAIL", MAILS[0])
    # asked for, and kept when it trains on
    train.main(["--model_name_or_path", bert, "--train_file", file, "--output_dir", out,
                "--splitter", "hyphens", "--max_steps", "1", "--use_cpu", "True"])  # fmt: skip
    train.main(["--model_name_or_path", out, "--train_file", file, "--output_dir", out,
                "--max_steps", "1", "--use_cpu", "True"])  # fmt: skip
    assert json.loads((tmp_path / "out" / "config.json").read_text())["splitter"] == "hyphens"


def test_the_choice_needs_a_margin_and_takes_known_texts():
    plain = [["Mara", "saw", "Bo", "."]] * 200
    assert choose_splitter([*plain, ["a-b"]]).name == "unicode"
    choice = choose_splitter([*plain, ["well", "-", "known"]])
    assert choice.name == "unicode" and choice.agreeing["hyphens"] == choice.words == 803
    assert choose_splitter([["beta", "-", "blocker"]] * 9).name == "hyphens"
    assert choose_splitter([["see", "http://t.co/x"]]).name == "web"  # before spaces
    known = [("beta - blocker", [(0, 4), (5, 6), (7, 14)])] * 9
    assert choose_splitter([["beta", "-", "blocker"]] * 9, known).name == "unicode"
    assert choose_splitter([["(", "x", ")", ","]]).agreeing["spaces"] == 0


def test_words_are_tokenised_as_written_in_training_and_prediction_alike():
    from test_data import gpt2_like

    tokenizer = prepare_tokenizer(gpt2_like())
    tokens, text = ["to", "Paris", "'s", "plane"], "to Paris's plane"
    config = SemiCRFConfig(labels=LABELS)
    [trained] = TokenizeAndAlign(tokenizer, config)({"tokens": [tokens]})["input_ids"]
    assert trained == tokenizer(text)["input_ids"]
    [before] = TokenizeAndAlign(tokenizer, config.label2id)({"tokens": [tokens]})["input_ids"]
    assert before != trained
    [spaces] = TokenizeAndAlign(tokenizer, config, splitter="spaces")({"tokens": [tokens]})[
        "input_ids"
    ]
    assert spaces == before
    assert Splitter().spans("to Paris")[1] == (3, 8)
