"""Segments stay segments: what `predict` returns, and what can be done with it."""

from __future__ import annotations

import inspect
import json

import pandas
import pytest
import torch
from tiny import save_tiny_bert, save_tiny_tagger
from transformers import AutoTokenizer

from hf_semicrf import SemiCRFForTokenClassification, SemiCRFPipeline, prepare_tokenizer
from hf_semicrf.evaluation import as_tagged
from hf_semicrf.labels import LabelScheme

WORDS = ["Mara", "Joren", "left"]
PLAIN = ["O", "PER", "LOC"]


def load(folder, **settings):
    model = SemiCRFForTokenClassification.from_pretrained(folder, **settings)
    return model, prepare_tokenizer(AutoTokenizer.from_pretrained(folder))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return load(save_tiny_tagger(tmp_path_factory.mktemp("trained")))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    torch.manual_seed(3)
    bert = save_tiny_bert(tmp_path_factory.mktemp("plain") / "bert", " ".join(WORDS))
    return load(bert, labels=PLAIN, max_segment_length=3)


def test_an_entity_is_a_dictionary(trained):
    model, tokenizer = trained
    [found] = model.predict(["Ada Lovelace saw Paris"], tokenizer, threshold=0.0)
    entity = found[0]
    assert type(entity) is dict and list(entity) == ["label", "score", "start", "end", "text"]
    assert json.loads(json.dumps(found)) == found == [{**e} for e in found]
    assert entity.get("label") == entity["label"] and entity.get("type") is None
    assert pandas.DataFrame(found)["text"].tolist() == [e["text"] for e in found]
    [again] = model.predict(["Ada Lovelace saw Paris"], tokenizer, constraints=[found])
    assert [(e["start"], e["end"], e["label"]) for e in again] == [
        (e["start"], e["end"], e["label"]) for e in found
    ]


def test_neighbours_of_one_type_without_prefixes_stay_two(plain):
    model, tokenizer = plain
    known = [
        {"start": 0, "end": 1, "label": "PER"},
        {"start": 1, "end": 2, "label": "PER"},
        {"start": 2, "end": 3, "label": "O"},
    ]
    [found] = model.predict([WORDS], tokenizer, constraints=[known])
    assert [(e["start"], e["end"], e["label"]) for e in found] == [(0, 1, "PER"), (1, 2, "PER")]
    assert [e["score"] for e in found] == [pytest.approx(1.0)] * 2
    whole = {"start": 0, "end": 2, "label": "PER"}
    [found] = model.predict([WORDS], tokenizer, constraints=[[whole]], threshold=0.9)
    assert [(e["start"], e["end"]) for e in found][0] == (0, 2)


def test_the_n_best_differ_and_their_probabilities_are_of_what_is_shown(plain):
    model, tokenizer = plain
    [prediction] = model.analyze([WORDS], tokenizer, n_best=200)
    shown = [
        tuple((e["start"], e["end"], e["label"]) for e in alternative["entities"])
        for alternative in prediction.alternatives
    ]
    assert len(shown) == len(set(shown)) > 20
    assert sum(a["probability"] for a in prediction.alternatives) == pytest.approx(1.0, abs=1e-4)
    # all alternatives together give each entity its posterior
    [[first, *_]] = model.predict([WORDS], tokenizer, threshold=0.0)
    span = (first["start"], first["end"], first["label"])
    total = sum(
        a["probability"] for a, y in zip(prediction.alternatives, shown, strict=True) if span in y
    )
    assert total == pytest.approx(first["score"], abs=1e-4)


def test_a_prediction_is_json(trained):
    model, tokenizer = trained
    [prediction] = model.analyze(["Ada Lovelace saw Paris"], tokenizer, n_best=2)
    written = json.loads(json.dumps(prediction.to_dict()))
    assert written["entities"] == prediction.entities
    assert written["token"] == prediction.token.tolist() and len(written["alternatives"]) == 2
    assert written["text"] == "Ada Lovelace saw Paris" and written["words"][1] == [4, 12]


def test_viterbi_has_its_own_word(trained):
    model, tokenizer = trained
    texts = ["Ada Lovelace saw Paris", "saw Grace Hopper Oslo"]
    best = model.analyze(texts, tokenizer, n_best=1)
    expected = [
        [(e["start"], e["end"], e["label"]) for e in p.alternatives[0]["entities"]] for p in best
    ]
    model.set_threshold(1.0)  # at which nothing is decoded
    assert model.predict(texts, tokenizer) == [[], []]
    for found in (
        model.predict(texts, tokenizer, decode="viterbi"),
        [p.entities for p in model.analyze(texts, tokenizer, decode="viterbi")],
    ):
        assert [[(e["start"], e["end"], e["label"]) for e in row] for row in found] == expected
    with pytest.raises(ValueError, match=r'decode="viterbi" or a threshold, got both \(0.3\)'):
        model.predict(texts, tokenizer, decode="viterbi", threshold=0.3)
    model.set_threshold(None)  # in a configuration, null is Viterbi
    found = model.predict(texts, tokenizer)
    assert [[(e["start"], e["end"], e["label"]) for e in row] for row in found] == expected
    model.set_threshold(0.4)


def test_the_pipeline_takes_the_options_of_predict_and_names_analyze(trained):
    model, tokenizer = trained
    tagger = SemiCRFPipeline(model=model, tokenizer=tokenizer)
    text = "Ada Lovelace saw Paris"
    assert tagger(text, decode="viterbi") == model.predict([text], tokenizer, decode="viterbi")[0]
    for option in ({"n_best": 2}, {"return_posteriors": True}):
        with pytest.raises(TypeError, match="model.analyze"):
            tagger(text, **option)
    shared = inspect.signature(model.predict).parameters.keys()
    assert inspect.signature(model.analyze).parameters.keys() - shared == {"n_best"}


def test_logits_are_made_only_where_they_are_asked_for(trained, monkeypatch):
    model, tokenizer = trained
    batch = tokenizer([["Ada", "saw"]], is_split_into_words=True, return_tensors="pt")
    expected = model(**batch).logits
    assert expected.shape[-1] == 5

    def refuse(*_):
        raise AssertionError("tags were made")

    monkeypatch.setattr("hf_semicrf.model.modeling_semicrf.tag_logits", refuse)
    assert model(**batch, output_logits=False).logits is None
    assert model.predict(["Ada saw"], tokenizer) == [
        [e for e in model.analyze(["Ada saw"], tokenizer)[0].entities]
    ]


def test_predictions_are_compared_as_the_tags_of_the_data_can_say_them():
    spans = [(0, 1, "PER", 0.9), (1, 3, "PER", 0.6), (3, 4, "LOC", 0.8), (5, 6, "ORG", 0.7)]
    plain = LabelScheme.from_labels(PLAIN)
    assert as_tagged(spans, plain) == [
        (0, 3, "PER", 0.6),
        (3, 4, "LOC", 0.8),
        (5, 6, "ORG", 0.7),
    ]
    iob2 = LabelScheme.from_labels(["O", "B-PER", "I-PER", "B-LOC", "I-LOC"])
    assert as_tagged(spans, iob2) == spans
    assert as_tagged([], plain) == []
