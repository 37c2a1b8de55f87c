"""Entity scores against sets of spans counted here, and against seqeval itself."""

from __future__ import annotations

import random
import warnings
from types import SimpleNamespace

import evaluate
import numpy as np
import pytest
from seqeval.metrics import classification_report
from seqeval.scheme import IOB2
from transformers import EvalPrediction

from hf_semicrf.evaluation import seqeval_metric
from hf_semicrf.evaluation.metrics import entity_scores, seqeval_metrics
from hf_semicrf.evaluation.seqeval_metric import SeqevalMetric
from hf_semicrf.labels.schemes import PREFIXES, LabelScheme

TYPES = ("PER", "creative-work")


def scheme(name):
    tags = [f"{p}-{t}" for t in TYPES for p in PREFIXES[name]] if PREFIXES[name] else TYPES
    return LabelScheme.from_labels(["O", *tags], name)


def random_spans(draw, n):
    """Entities with at least one word between them, which every scheme can express."""
    spans, position = [], draw.randint(0, 2)
    while position < n:
        end = min(n, position + draw.randint(1, 4))
        spans.append((position, end, draw.choice(TYPES)))
        position = end + draw.randint(1, 3)
    return spans


def corpus(seed=0, sentences=40):
    """(length, true spans, predicted spans) of each sentence; about half of the spans agree."""
    draw = random.Random(seed)
    rows = []
    for _ in range(sentences):
        n = draw.randint(1, 20)
        gold = random_spans(draw, n)
        kept = [span for span in gold if draw.random() < 0.8]
        moved = [
            (s, e, draw.choice(TYPES)) if draw.random() < 0.3 else (s, e, t) for s, e, t in kept
        ]
        rows.append((n, gold, moved if draw.random() < 0.7 else random_spans(draw, n)))
    return rows


def ratio(part, whole):
    return part / whole if whole else 0.0


def expected_scores(rows):
    """The definition: an entity is right if its sentence, span and type are."""
    gold = {(row, *span) for row, (_, spans, _) in enumerate(rows) for span in spans}
    found = {(row, *span) for row, (_, _, spans) in enumerate(rows) for span in spans}
    scores = {}
    for name in ("overall", *sorted({entity[3] for entity in gold | found})):
        true = {entity for entity in gold if name in ("overall", entity[3])}
        said = {entity for entity in found if name in ("overall", entity[3])}
        precision, recall = ratio(len(true & said), len(said)), ratio(len(true & said), len(true))
        scores[f"{name}_precision"], scores[f"{name}_recall"] = precision, recall
        scores[f"{name}_f1"] = ratio(2 * precision * recall, precision + recall)
        if name != "overall":
            scores[f"{name}_number"] = len(true)
    return scores


def as_prediction(rows, tagger):
    """Padded arrays with a position of -100 after every word, as sub-words have them."""
    length = 2 * max(n for n, _, _ in rows)
    labels = np.full((len(rows), length), -100)
    predicted = np.random.default_rng(0).integers(0, len(tagger.labels), labels.shape)
    for row, (n, gold, found) in enumerate(rows):
        labels[row, : 2 * n : 2] = tagger.spans_to_tags(gold, n)
        predicted[row, : 2 * n : 2] = tagger.spans_to_tags(found, n)
    return labels, predicted


@pytest.mark.parametrize("name", PREFIXES)
@pytest.mark.parametrize("form", ["ids", "logits", "tuple"])
def test_scores_are_those_of_the_definition(name, form):
    tagger, rows = scheme(name), corpus()
    labels, predicted = as_prediction(rows, tagger)
    logits = np.log(np.eye(len(tagger.labels))[predicted] + 0.1)
    predictions = {"ids": predicted, "logits": logits, "tuple": (logits, np.zeros(3))}[form]
    config = SimpleNamespace(id2label=dict(enumerate(tagger.labels)))
    # IOB1 cannot be told from IOB2 by its labels, and is read alike
    scores = seqeval_metrics(config)(EvalPrediction(predictions=predictions, label_ids=labels))
    accuracy = (predicted == labels)[labels != -100].mean()
    assert scores.pop("overall_accuracy") == pytest.approx(accuracy, abs=1e-12)
    assert scores == pytest.approx(expected_scores(rows), abs=1e-12)
    assert all(type(value) in (int, float) for value in scores.values())


def test_seqeval_agrees_on_legal_tags():
    tagger, rows = scheme("IOB2"), corpus(seed=1)
    gold, found = (
        [[tagger.labels[tag] for tag in tagger.spans_to_tags(row[side], row[0])] for row in rows]
        for side in (1, 2)
    )
    report = classification_report(gold, found, mode="strict", scheme=IOB2, output_dict=True)
    scores = entity_scores(found, gold, tagger)
    assert scores["overall_f1"] == pytest.approx(report["micro avg"]["f1-score"], abs=1e-12)
    for name in TYPES:
        assert scores[f"{name}_recall"] == pytest.approx(report[name]["recall"], abs=1e-12)
        assert scores[f"{name}_number"] == report[name]["support"]


def test_neighbours_and_boundaries_count():
    tagger = scheme("IOB2")
    gold = [["B-PER", "B-PER", "O"]]
    assert entity_scores([["B-PER", "I-PER", "O"]], gold, tagger)["overall_f1"] == 0.0
    assert entity_scores(gold, gold, tagger)["PER_number"] == 2
    orphan = entity_scores([["B-PER", "B-PER", "I-PER"]], [["I-PER", "B-PER", "I-PER"]], tagger)
    assert orphan["overall_f1"] == 1.0
    assert orphan["overall_accuracy"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("predicted", "gold", "accuracy"),
    [
        ([["O", "O"]], [["O", "O"]], 1.0),
        ([["O", "B-PER"]], [["O", "O"]], 0.5),
        ([["O", "O"]], [["O", "B-PER"]], 0.5),
        ([[]], [[]], 0.0),
        ([], [], 0.0),
    ],
)
def test_nothing_to_divide_by_is_quiet(predicted, gold, accuracy):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = entity_scores(predicted, gold, scheme("IOB2"))
    assert scores["overall_precision"] == scores["overall_recall"] == scores["overall_f1"] == 0.0
    assert scores["overall_accuracy"] == accuracy


@pytest.mark.parametrize("name", PREFIXES)
@pytest.mark.parametrize("load", [SeqevalMetric, lambda: evaluate.load(seqeval_metric.__file__)])
def test_the_evaluate_metric_gives_the_same_numbers(name, load):
    tagger, rows = scheme(name), corpus(seed=2)
    labels, predicted = as_prediction(rows, tagger)
    config = SimpleNamespace(id2label=dict(enumerate(tagger.labels)))
    expected = seqeval_metrics(config)(EvalPrediction(predictions=predicted, label_ids=labels))
    tags = {
        key: [
            [tagger.labels[tag] for tag in row[mask]]
            for row, mask in zip(values, labels != -100, strict=True)
        ]
        for key, values in (("predictions", predicted), ("references", labels))
    }
    assert load().compute(**tags) == expected
    assert load().compute(**tags, labels=list(tagger.labels)) == expected


def test_the_evaluate_metric_without_any_entity():
    assert SeqevalMetric().compute(predictions=[["O"]], references=[["O"]]) == {
        "overall_precision": 0.0,
        "overall_recall": 0.0,
        "overall_f1": 0.0,
        "overall_accuracy": 1.0,
    }


def test_a_type_named_overall_has_keys_of_its_own():
    tagger = LabelScheme.from_labels(["O", "B-overall", "I-overall", "B-PER", "I-PER"])
    scores = entity_scores([[1, 0, 0, 0, 0]], [[1, 0, 3, 0, 3]], tagger)
    assert scores["overall_precision"] == 1.0
    assert scores["overall_recall"] == pytest.approx(1 / 3)
    assert scores["overall_f1"] == pytest.approx(0.5)
    assert scores["type_overall_f1"] == 1.0 and scores["type_overall_number"] == 1
    assert scores["PER_number"] == 2 and "overall_number" not in scores
    both = LabelScheme.from_labels(["O", "overall", "type_overall"])
    scores = entity_scores([[1, 2]], [[1, 0]], both)
    assert scores["type_type_overall_f1"] == 1.0 and scores["type_overall_f1"] == 0.0


@pytest.mark.parametrize("name", ["micro avg", "macro avg", "weighted avg", "-a-", "a-", "O-", "7"])
def test_types_with_names_that_the_library_uses_otherwise(name):
    tagger = LabelScheme.from_labels(["O", "B-PER", "I-PER", f"B-{name}", f"I-{name}"])
    scores = entity_scores([[1, 2, 3, 0]], [[1, 2, 3, 4]], tagger)
    assert scores["overall_f1"] == 0.5
    assert (scores["PER_f1"], scores[f"{name}_f1"], scores[f"{name}_number"]) == (1.0, 0.0, 1)


def test_the_scheme_of_the_configuration_counts():
    labels, words = ["O", "E-mail", "S-Bahn"], np.array([[1, 2, 2, 0]])
    with pytest.raises(ValueError, match="in one way"):
        seqeval_metrics(SimpleNamespace(id2label=dict(enumerate(labels))))
    config = SimpleNamespace(scheme=LabelScheme.from_labels(labels, "plain"))
    scores = seqeval_metrics(config)(EvalPrediction(predictions=words, label_ids=words))
    assert scores["S-Bahn_number"] == scores["E-mail_number"] == 1
    tags = {key: [["E-mail", "S-Bahn"]] for key in ("predictions", "references")}
    metric = SeqevalMetric().compute(**tags, labels=labels, label_scheme="plain")
    assert metric["S-Bahn_f1"] == 1.0


def test_words_of_unknown_tags_are_no_entities():
    tagger = scheme("IOB2")
    scores = entity_scores([["B-PER", "?"]], [["B-PER", None]], tagger)
    assert scores["overall_f1"] == scores["overall_accuracy"] == 1.0
    scores = entity_scores([["B-PER", "I-PER"]], [["B-PER", -100]], tagger)
    assert scores["overall_f1"] == 0.0 and scores["overall_accuracy"] == 0.5


def test_tags_that_the_label_list_lacks_of_a_type_that_it_has():
    tagger = LabelScheme.from_labels(["O", "B-PER", "E-PER"])
    scores = entity_scores([["S-PER", "O"]], [["B-PER", "O"]], tagger)
    assert scores["overall_f1"] == 1.0 and scores["overall_accuracy"] == 0.5


def test_errors():
    tagger = scheme("IOB2")
    with pytest.raises(ValueError, match="as many predicted tags as reference tags"):
        entity_scores([["O"]], [["O", "O"]], tagger)
    with pytest.raises(ValueError, match="tag 'B-LOC' is not in the label list"):
        entity_scores([["B-LOC"]], [["O"]], tagger)
    compute = seqeval_metrics(SimpleNamespace(id2label={0: "O", 1: "B-PER"}))
    with pytest.raises(ValueError, match=r"labels \[2, 3\], got \[2, 4\]"):
        compute(EvalPrediction(predictions=np.zeros((2, 4)), label_ids=np.zeros((2, 3))))
    with pytest.raises(ValueError, match="pass labels="):
        seqeval_metrics(SimpleNamespace(id2label={0: "LABEL_0", 1: "LABEL_1"}))
