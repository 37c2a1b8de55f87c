"""What `predict` says of a text beside its entities, and what constraints do to it."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch
from oracle import Sentence
from tiny import save_tiny_bert
from torch.testing import assert_close
from transformers import AutoTokenizer

from hf_semicrf import SemiCRFForTokenClassification, prepare_tokenizer
from hf_semicrf.results import Prediction

LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
FLOAT32 = {"rtol": 0, "atol": 1e-6}  # what is returned; the model computes in float64
TEXTS = ["Ada Lovelace saw Paris .", "Oslo saw", ["Grace", "Hopper", "flew"]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    return save_tiny_bert(tmp_path_factory.mktemp("tiny") / "bert")


@pytest.fixture(scope="module")
def tokenizer(folder):
    return prepare_tokenizer(AutoTokenizer.from_pretrained(folder))


@pytest.fixture(scope="module")
def model(folder):
    torch.manual_seed(0)
    model = SemiCRFForTokenClassification.from_pretrained(
        folder, labels=LABELS, max_segment_length=3, threshold=0.2, head_temperature=1.5
    )
    with torch.no_grad():
        for parameter in model.classifier.parameters():
            parameter.normal_()
    return model.double()


def enumerated(model, tokenizer, text):
    """The text's sentence, with its potentials divided by the temperature, by enumeration."""
    words = text.split() if isinstance(text, str) else text
    inputs = tokenizer([words], is_split_into_words=True, return_tensors="pt")
    ids = inputs.word_ids(0)
    mask = [i > 0 and w is not None and w != ids[i - 1] for i, w in enumerate(ids)]
    with torch.no_grad():
        head = model(**inputs, word_mask=torch.tensor([mask]), output_head=True).head
    return Sentence(head.potentials.map(lambda x: x.double() / 1.5), 0)


def entities_of(segmentation):
    return [(s, e, ("O", "PER", "LOC")[c]) for s, e, c in segmentation if c]


def places(text, spans):
    """Entities in words as the text's units."""
    if not isinstance(text, str):
        return [(name, s, e) for s, e, name in spans]
    starts = [sum(len(w) + 1 for w in text.split()[:n]) for n in range(len(text.split()))]
    ends = [s + len(w) for s, w in zip(starts, text.split(), strict=True)]
    return [(name, starts[s], ends[e - 1]) for s, e, name in spans]


def triples(entities):
    return [(e["label"], e["start"], e["end"]) for e in entities]


def test_posteriors_entropy_and_n_best_are_those_of_enumeration(model, tokenizer):
    found = model.analyze(TEXTS, tokenizer, n_best=4)
    plain = model.predict(TEXTS, tokenizer)
    assert [prediction.entities for prediction in found] == plain
    for text, prediction in zip(TEXTS, found, strict=True):
        sentence = enumerated(model, tokenizer, text)
        assert prediction.text == text and prediction.types == ("O", "PER", "LOC")
        assert prediction.entropy == pytest.approx(sentence.entropy(), abs=1e-4)
        token, start, end = (torch.zeros(sentence.positions, 3) for _ in range(3))
        for (s, e, c), probability in sentence.segment_marginals().items():
            token[s:e, c] += probability
            start[s, c] += probability
            end[e - 1, c] += probability
        for x, y in ((prediction.token, token), (prediction.start, start), (prediction.end, end)):
            assert_close(x, y, **FLOAT32)
        pairs = zip(sentence.probabilities, sentence.all, strict=True)
        best = sorted(pairs, key=lambda pair: -pair[0])[:4]
        assert len(prediction.alternatives) == 4
        for alternative, (probability, segmentation) in zip(
            prediction.alternatives, best, strict=True
        ):
            assert alternative["probability"] == pytest.approx(probability, abs=1e-5)
            expected = places(text, entities_of(segmentation))
            assert triples(alternative["entities"]) == expected


def test_a_certain_text_has_no_second_segmentation(model, tokenizer):
    [prediction] = model.analyze(
        ["Oslo"], tokenizer, n_best=9, constraints=[[{"start": 0, "end": 4, "label": "LOC"}]]
    )
    assert triples(prediction.entities) == [("LOC", 0, 4)]
    assert [a["probability"] for a in prediction.alternatives] == [pytest.approx(1.0)]
    assert prediction.entropy == pytest.approx(0.0, abs=1e-5)


def test_constraints_are_exact_and_independent_of_the_batch(model, tokenizer):
    constraints = [
        [{"start": 0, "end": 12, "label": "PER"}, {"start": 13, "end": 16, "label": "O"}],
        None,
        [{"start": 0, "end": 2, "label": ["PER", "LOC"], "exclude": True}],
    ]
    found = model.analyze(TEXTS, tokenizer, constraints=constraints)
    free = model.predict(TEXTS, tokenizer)
    assert ("PER", 0, 12) in triples(found[0].entities)
    assert found[0].entities[0]["score"] == pytest.approx(1.0, abs=1e-5)
    assert found[0].token[2].tolist() == [pytest.approx(1.0, abs=1e-5), 0.0, 0.0]
    assert triples(found[1].entities) == triples(free[1])
    assert not {("PER", 0, 2), ("LOC", 0, 2)} & set(triples(found[2].entities))
    sentence = enumerated(model, tokenizer, TEXTS[0])
    agree = [
        (probability, y)
        for probability, y in zip(sentence.probabilities, sentence.all, strict=True)
        if (0, 2, 1) in y and (2, 3, 0) in y
    ]
    total = math.fsum(probability for probability, _ in agree)
    for n, c in ((3, 2), (3, 1), (4, 1)):
        mass = [chance for chance, y in agree if any((s, k) == (n, c) for s, _, k in y)]
        assert float(found[0].start[n, c]) == pytest.approx(math.fsum(mass) / total, abs=1e-5)


def test_what_was_found_can_be_given_back(model, tokenizer):
    found = model.predict(TEXTS, tokenizer)
    assert any(found)
    again = model.predict(TEXTS, tokenizer, constraints=found)
    for before, after in zip(found, again, strict=True):
        assert set(triples(before)) <= set(triples(after))
        for entity in after:
            if (entity["label"], entity["start"], entity["end"]) in triples(before):
                assert entity["score"] == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(
    "spans, message",
    [
        ([{"start": 1, "end": 3, "label": "PER"}], "text 1: expected .* of whole words"),
        ([{"label": "PER"}], "text 1: expected .* of whole words"),
        ([{"start": 0, "end": 4, "label": "ORG"}], "text 1: expected label among"),
        (
            [{"start": 0, "end": 4, "label": "PER"}, {"start": 0, "end": 8, "label": "PER"}],
            r"text 1: expected .* meets, got \[\{'start': 0, 'end': 1, 'label': 'PER'\}",
        ),
    ],
)
def test_constraints_that_cannot_be_met_are_refused(model, tokenizer, spans, message):
    with pytest.raises(ValueError, match=message):
        model.predict(TEXTS, tokenizer, constraints=[None, spans, None])
    with pytest.raises(ValueError, match="for each of the 3 texts, got 1"):
        model.predict(TEXTS, tokenizer, constraints=[spans])


def test_a_text_in_several_windows(model, tokenizer):
    words = (TEXTS[0] + " ").split() * 30
    [whole] = model.analyze([words], tokenizer)
    assert whole.token.shape == whole.start.shape == (len(words), 3)
    assert_close(whole.token.sum(1), torch.ones(len(words)), **FLOAT32)
    assert 0 < whole.entropy < len(words) * math.log(6)
    with pytest.raises(ValueError, match="fit the encoder whole for n_best, got .* in text 0"):
        model.analyze([words], tokenizer, n_best=2)
    spans = [{"start": n, "end": n + 2, "label": "LOC"} for n in range(0, len(words), 10)]
    [entities] = model.predict([words], tokenizer, constraints=[spans])
    assert {("LOC", s["start"], s["end"]) for s in spans} <= set(triples(entities))
    with pytest.raises(ValueError, match="overlap enough for each span to be whole in one"):
        every = [{"start": n, "end": n + 2, "label": "LOC"} for n in range(0, len(words), 2)]
        odd = [{"start": n + 1, "end": n + 3, "label": "LOC"} for n in range(0, len(words) - 2, 2)]
        model.predict([words], tokenizer, constraints=[every], overlap=0)
        model.predict([words], tokenizer, constraints=[odd], overlap=0)


def test_an_empty_text(model, tokenizer):
    [prediction] = model.analyze([""], tokenizer, n_best=2)
    assert isinstance(prediction, Prediction) and prediction.entities == []
    assert prediction.token.shape == (0, 3) and prediction.entropy == 0
    assert prediction.alternatives == []
    with pytest.raises(ValueError, match="expected n_best as an int of at least 0, got -1"):
        model.analyze(["Oslo"], tokenizer, n_best=-1)


def test_the_examples_of_the_pages_run(model, tokenizer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pytest.importorskip("matplotlib")
    docs = Path(__file__).parent.parent / "docs"
    parts = [
        (docs / "distribution.md").read_text().partition("## Constraints")[2],
        (docs / "label.md").read_text(),
        (docs / "predict.md").read_text().partition("## How sure the model is")[2],
    ]
    space = {"model": model, "tokenizer": tokenizer}
    for page in parts:
        for block in re.findall(r"^```python\n(.*?)^```", page, re.M | re.S):
            exec(compile(block, "docs", "exec"), space)
    model.config.unknown = "error"
    found = triples(space["entities"])
    assert ("PER", 0, 12) in found and found[1][1:] == (17, 22)
    assert space["loss"] > 0 and len(space["prediction"].alternatives) == 3
    assert (tmp_path / "uncertainty.png").exists() and "<article" in space["page"]


def test_a_text_that_no_segmentation_under_the_rules_fits_is_refused(folder, tokenizer):
    rules = {"initial": ["PER"], "final": ["PER"], "lengths": {"PER": [2, 2]}}
    model = SemiCRFForTokenClassification.from_pretrained(folder, labels=LABELS, constraints=rules)
    [found] = model.predict(["Ada Lovelace"], tokenizer)
    assert triples(found) == [("PER", 0, 12)]
    with pytest.raises(ValueError, match=r"text 1: .* \[0, 1\) meets, got \[\] .* {'initial': "):
        model.predict(["Ada Lovelace", "Oslo"], tokenizer)
