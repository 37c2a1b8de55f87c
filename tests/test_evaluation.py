"""The breakdown of a tagger's scores, against hand counts, plain definitions and seqeval."""

from __future__ import annotations

import json

import numpy as np
import pytest

from hf_semicrf.evaluation import LENGTHS, breakdown
from hf_semicrf.metrics import entity_scores
from hf_semicrf.segments import LabelScheme

SCHEME = LabelScheme.from_labels(["O", "B-A", "I-A", "B-B", "I-B"])


def random_spans(generator, words=30):
    spans, at = [], 0
    while at < words:
        length = int(generator.integers(1, 8))
        if generator.random() < 0.6 and at + length <= words:
            spans.append((at, at + length, "AB"[generator.integers(2)]))
        at += length
    return spans


def random_case(seed=0, sentences=40):
    """Truth, and findings that keep most of it, with scores."""
    generator = np.random.default_rng(seed)
    gold = [random_spans(generator) for _ in range(sentences)]
    other = [random_spans(generator) for _ in range(sentences)]
    kept = [g if generator.random() < 0.6 else o for g, o in zip(gold, other, strict=True)]
    return gold, [[(*span, float(generator.random())) for span in row] for row in kept]


def test_a_hand_counted_case():
    gold = [[(0, 1, "A"), (1, 3, "A"), (5, 10, "B")], [(0, 3, "A")]]
    found = [[(0, 1, "A", 0.95), (1, 3, "B", 0.85), (5, 10, "B", 0.75)], [(0, 4, "A", 0.25)]]
    result = breakdown(gold, found)
    right = {"precision": 1.0, "recall": 1.0, "f1": 1.0, "number": 1, "predicted": 1}
    wrong = {"precision": 0.0, "recall": 0.0, "f1": 0.0, "number": 1, "predicted": 1}
    assert result["lengths"] == {"1": right, "2": wrong, "3-4": wrong, "5+": right}
    # two of the truth touch another of their type, none of the findings does
    neighbours = {"precision": 0.0, "recall": 0.5, "f1": 0.0, "number": 2, "predicted": 0}
    assert result["neighbours"] == neighbours
    assert [row["predicted"] for row in result["reliability"]] == [1, 1, 1, 1]
    assert [row["precision"] for row in result["reliability"]] == [0.0, 1.0, 0.0, 1.0]
    expected = (0.25 + 0.25 + 0.85 + 0.05) / 4
    assert result["calibration_error"] == pytest.approx(expected, abs=1e-12)
    assert json.loads(json.dumps(result)) == result


def test_the_lengths_together_are_seqevals_counts():
    gold, found = random_case()
    tags = [SCHEME.spans_to_tags(row, 30) for row in gold]
    said = [SCHEME.spans_to_tags([span[:3] for span in row], 30) for row in found]
    scores = entity_scores(said, tags, SCHEME)
    rows = breakdown(gold, found)["lengths"]
    assert list(rows) == list(LENGTHS)
    number = sum(row["number"] for row in rows.values())
    predicted = sum(row["predicted"] for row in rows.values())
    recalled = sum(row["recall"] * row["number"] for row in rows.values())
    right = sum(row["precision"] * row["predicted"] for row in rows.values())
    assert right == pytest.approx(recalled)
    assert recalled / number == pytest.approx(scores["overall_recall"])
    assert right / predicted == pytest.approx(scores["overall_precision"])
    for row in rows.values():
        both = row["precision"] + row["recall"]
        assert row["f1"] == pytest.approx(2 * row["precision"] * row["recall"] / both)


def test_the_calibration_error_vanishes_for_a_calibrated_tagger_only():
    generator = np.random.default_rng(3)
    scores = generator.random(20_000)
    gold = [[(0, 1, "A")] if generator.random() < score else [] for score in scores]
    found = [[(0, 1, "A", float(score))] for score in scores]
    assert breakdown(gold, found)["calibration_error"] < 0.02
    sure = [[(0, 1, "A", 1.0)] for _ in scores]
    rate = sum(map(len, gold)) / len(gold)
    assert breakdown(gold, sure)["calibration_error"] == pytest.approx(1 - rate)


def test_bins_cover_the_scores_and_count_each_once():
    gold, found = random_case(seed=1)
    found[0].append((29, 30, "C", 1.0))
    for bins in (1, 3, 10):
        rows = breakdown(gold, found, bins)["reliability"]
        assert sum(row["predicted"] for row in rows) == sum(map(len, found))
        assert all(row["low"] <= row["score"] <= row["high"] for row in rows)
        assert all(row["high"] - row["low"] == pytest.approx(1 / bins) for row in rows)


def test_nothing_found_and_nothing_there():
    result = breakdown([[]], [[]])
    assert result["lengths"] == {} and result["reliability"] == []
    assert result["calibration_error"] == 0 and result["neighbours"]["number"] == 0


def test_errors():
    with pytest.raises(ValueError, match=r"as many sentences found as gold \(2\), got 1"):
        breakdown([[], []], [[]])
    with pytest.raises(ValueError, match=r"scores in 0..1, got 1.5 for the entity \(0, 1, 'A'\)"):
        breakdown([[]], [[(0, 1, "A", 1.5)]])
    with pytest.raises(ValueError, match="at least one bin, got 0"):
        breakdown([[]], [[]], bins=0)
