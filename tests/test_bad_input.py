"""What is no list of texts, no tag and no saved configuration is refused in words that say so."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from datasets import Dataset
from tiny import StandIn, save_tiny_bert
from transformers import AutoConfig, AutoTokenizer

from hf_semicrf import (
    LabelScheme,
    SemiCRFConfig,
    SemiCRFDataCollator,
    SemiCRFForTokenClassification,
    SemiCRFPipeline,
)
from hf_semicrf.data import read_corpus
from hf_semicrf.inference import analyze, predict

LABELS = ["O", "B-PER", "I-PER"]


class Silent(StandIn):
    """A model that finds nothing, in any text."""

    def forward(self, word_mask, **_):
        return self.output(word_mask, [[] for _ in word_mask])


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return save_tiny_bert(tmp_path_factory.mktemp("tiny") / "bert")


@pytest.fixture(scope="module")
def tokenizer(bert):
    return AutoTokenizer.from_pretrained(bert)


@pytest.fixture(scope="module")
def tagger(bert, tokenizer):
    model = SemiCRFForTokenClassification.from_pretrained(bert, labels=LABELS)
    return SemiCRFPipeline(model=model, tokenizer=tokenizer)


NO_LISTS = [
    *(5, None, 1.5, True, "a b", b"a b", bytearray(b"a"), {"a"}, frozenset("a"), {"a": 1}),
    *({"a": 1}.keys(), {"a": 1}.values(), iter(["a"]), (text for text in ["a"]), object()),
    *(np.array("a"), np.array([["a"]]), torch.zeros(1, 2)),
]


@pytest.mark.parametrize("texts", NO_LISTS, ids=lambda texts: f"{type(texts).__name__}")
@pytest.mark.parametrize("function", [predict, analyze])
def test_what_is_no_list_of_texts_is_refused_with_its_type(function, texts, tokenizer):
    message = f"^expected a list of texts, got {type(texts).__name__} "
    with pytest.raises(ValueError, match=message):
        function(Silent(LABELS), texts, tokenizer)
    if texts is not None:
        with pytest.raises(ValueError, match=message.replace("texts", "constraints")):
            function(Silent(LABELS), [], tokenizer, constraints=texts)


@pytest.mark.parametrize(
    "text", [None, 5, b"a", {"a"}, {"text": "a"}, ["a", None], [["a", 1]], [1]]
)
def test_what_is_no_text_is_refused_with_its_number(text, tokenizer, tagger):
    message = "^expected a string.* list of words.* as a text, got .* \\(text 1\\)$"
    with pytest.raises(ValueError, match=message):
        predict(Silent(LABELS), ["a", text], tokenizer)
    if not isinstance(text, dict):
        with pytest.raises(ValueError, match=message):
            tagger(["a", text], batch_size=2)


@pytest.mark.parametrize(
    "texts",
    [
        *([], (), ["a b"], ("a b",), [["a", "b"]], [("a", "b")], np.array(["a b"])),
        Dataset.from_dict({"text": ["a b"]})["text"],
    ],
    ids=lambda texts: type(texts).__name__,
)
def test_lists_and_their_like_are_taken(texts, tokenizer):
    assert predict(Silent(LABELS), texts, tokenizer) == [[]] * len(texts)


@pytest.mark.parametrize("tokenizer", [None, "bert-base-cased", 5])
def test_what_is_no_tokenizer_is_refused(tokenizer):
    with pytest.raises(
        ValueError, match=f"^expected a tokenizer of transformers, got {tokenizer!r}"
    ):
        predict(Silent(LABELS), [], tokenizer)


@pytest.mark.parametrize("texts", [5, None, {"a"}, frozenset("a"), b"a", torch.zeros(1, 2)])
def test_the_pipeline_takes_no_set_and_no_bytes(tagger, texts):
    with pytest.raises(ValueError, match="^expected a text or texts, got "):
        tagger(texts)


def test_the_pipeline_takes_streams(tagger):
    assert len(list(tagger(text for text in ["a", "b"]))) == 2


@pytest.mark.parametrize(
    "span",
    [
        *(5, "ab", None, [0, 1], {"start": True, "end": 1}, {"start": 0.0, "end": 1}),
        *({"start": "0", "end": 1}, {"end": 1}, {"start": [0], "end": 1}, {"start": 0, "end": 9}),
    ],
)
def test_what_is_no_span_is_refused(span, tokenizer):
    with pytest.raises(ValueError, match="^text 0: expected .*start.* got "):
        predict(Silent(LABELS), ["a"], tokenizer, constraints=[[span]])


@pytest.mark.parametrize(
    "tag", [1.5, True, False, np.True_, np.float32(0.5), float("nan"), float("inf"), 10**30, -1]
)
def test_what_is_no_whole_number_is_no_tag(tag):
    scheme = LabelScheme.from_labels(LABELS)
    for read in (scheme.tags_to_spans, scheme.tag_ids):
        with pytest.raises(ValueError, match=f"tag {re.escape(repr(tag))} is not in the label"):
            read([0, tag])


@pytest.mark.parametrize("one", [1, np.int64(1), np.uint8(1), np.float64(1), torch.tensor(1)])
def test_whole_numbers_are_tags_whoever_made_them(one):
    scheme = LabelScheme.from_labels(LABELS)
    assert scheme.tags_to_spans([0, one]) == [(1, 2, "PER")]
    assert scheme.tag_ids([one, -100]) == [1, -100]


@pytest.mark.parametrize("tags", [5, None, "O"])
def test_what_is_no_list_of_tags_is_refused(tags):
    with pytest.raises(ValueError, match=f"^expected a list of tags, got {tags!r}"):
        LabelScheme.from_labels(LABELS).tags_to_spans(tags)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("threshold", "0.4", "expected threshold as a number in 0..1 or None, got '0.4'"),
        ("head_temperature", float("nan"), "expected head_temperature as .* above 0, got nan"),
        ("max_segment_length", -1, "expected max_segment_length as an int of at least 1, got -1"),
        ("mix_layers", 1.0, "expected mix_layers as an int of at least 0, got 1.0"),
        ("potentials", "dense", "expected potentials as one of .* got 'dense'"),
        ("unknown", "ignore", "expected unknown as one of .* got 'ignore'"),
        ("label_scheme", "BIO", "expected label_scheme as one of .* got 'BIO'"),
        ("has_word_starts", "yes", "expected has_word_starts as True or False, got 'yes'"),
        ("base_model", 5, "expected base_model as a string .* got 5"),
        ("splitter", 5, "expected a splitter.* got int 5"),
        ("encoder_config", "bert", "expected encoder_config as .* got 'bert'"),
        ("encoder_config", {"model_type": "no"}, "expected encoder_config of .* got 'no'"),
        ("constraints", [1], "expected constraints as a mapping, got \\[1\\]"),
        ("constraints", {"lengths": [1]}, "expected lengths as a mapping from types, got \\[1\\]"),
        ("constraints", {"types": 5}, "expected types among .* got 5"),
        ("constraints", {"initial": [["PER"]]}, "expected initial among .*'PER'"),
        *(
            ("constraints", {"lengths": {"PER": bounds}}, "length of 'PER' in words, .* got ")
            for bounds in (["1", 2], [1.5, 2], [True, 2], [1], 3, "12", None, [1, float("nan")])
        ),
    ],
)
def test_a_saved_configuration_with_a_bad_value_is_refused(name, value, message, tmp_path):
    SemiCRFConfig(labels=LABELS).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), name: value}))
    for load in (AutoConfig.from_pretrained, SemiCRFConfig.from_pretrained):
        with pytest.raises((ValueError, TypeError), match=message):
            load(tmp_path)


def test_a_setting_that_overrides_a_saved_one_is_checked_too(tmp_path):
    SemiCRFConfig(labels=LABELS).save_pretrained(tmp_path)
    for load in (AutoConfig.from_pretrained, SemiCRFConfig.from_pretrained):
        assert load(tmp_path, threshold=0.2, splitter="spaces").threshold == 0.2
        with pytest.raises(ValueError, match="expected threshold as .* got -1"):
            load(tmp_path, threshold=-1)


@pytest.mark.parametrize("wrong", [1.5, float("nan"), "1", None, [1]])
def test_labels_that_are_no_whole_numbers_are_refused_by_the_collator(wrong, tokenizer):
    row = {"input_ids": [2, 5, 3], "labels": [-100, 1, -100], "word_mask": [False, True, False]}
    collate = SemiCRFDataCollator(tokenizer)
    assert collate([row])["labels"].tolist() == [row["labels"]]
    assert collate([{**row, "labels": torch.tensor(row["labels"])}])["labels"][0, 1] == 1
    for name in ("labels", "word_mask"):
        with pytest.raises(ValueError, match=f"expected whole numbers in {name}, got .* in row 0"):
            collate([{**row, name: [-100, wrong, -100]}])


@pytest.mark.parametrize("encoding", ["klingon", "hex", "a\0b", 5, ""])
def test_an_encoding_that_there_is_not_is_refused_before_the_file_is_looked_for(encoding):
    with pytest.raises(ValueError, match="^expected encoding as "):
        read_corpus("nowhere.jsonl", encoding=encoding)


@pytest.mark.parametrize("columns", [0, 5, "ab", [0, 1], [True, 1], [1.0, 2], [], [1, 2, 3, 4]])
def test_columns_that_there_are_not_are_refused_before_the_file_is_looked_for(columns):
    with pytest.raises(ValueError, match="^expected columns=.* got "):
        read_corpus("nowhere.conll", columns=columns)


@pytest.mark.parametrize("labels", ["OA", 5, 1.5, b"O"])
def test_what_is_no_list_of_labels_is_refused(labels, bert):
    for make in (SemiCRFForTokenClassification.from_pretrained, SemiCRFConfig):
        with pytest.raises(ValueError, match="^expected (a list of )?labels"):
            make(*([bert] if make is not SemiCRFConfig else []), labels=labels)
