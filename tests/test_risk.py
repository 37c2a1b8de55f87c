"""Controlled thresholds on documents whose true risk is known, and the data that carry none."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom

from hf_semicrf.evaluation import LOWEST, NotCarriedError, control_recall
from hf_semicrf.evaluation.risk import Sample, allowed_misses, best_recall, entities_needed

LARGEST = 6


def documents(rng: np.random.Generator, count: int, never: float = 0.0):
    """Entities of documents that share a mood: scores, documents, and the missed share at each t.

    A document has 1 to `LARGEST` entities, and a power a that is 1 or 4: each of its scores is
    u^(1/a), so that at a threshold t an entity is missed with probability t^a. Long documents are
    more often of the bad kind. A share of the entities has the score 0.
    """
    sizes = rng.integers(1, LARGEST + 1, count)
    bad = rng.random(count) < sizes / (2 * LARGEST)
    units = np.repeat(np.arange(count), sizes)
    power = np.where(bad, 1.0, 4.0)[units]
    scores = rng.random(len(units)) ** (1 / power)
    scores[rng.random(len(units)) < never] = 0.0
    return scores, units


def true_miss(threshold: np.ndarray, never: float = 0.0) -> np.ndarray:
    """The share of entities missed at a threshold, in documents of any number."""
    sizes = np.arange(1, LARGEST + 1)
    bad = (sizes * sizes / (2 * LARGEST)).sum() / sizes.sum()
    return never + (1 - never) * (bad * threshold + (1 - bad) * threshold**4)


def test_a_mean_of_99_documents_carries_99_percent_and_a_confidence_takes_299():
    def carried(count: int, confidence: float | None) -> bool:
        try:
            control_recall(np.ones(count), np.arange(count), 0.99, confidence, largest=1)
        except NotCarriedError:
            return False
        return True

    assert carried(99, None) and not carried(98, None)
    assert carried(299, 0.95) and not carried(298, 0.95)
    assert entities_needed(0.99, None, 1) == 99 and entities_needed(0.99, 0.95, 1) == 299
    with pytest.raises(NotCarriedError, match=r"0\.9898 is the best that they carry") as caught:
        control_recall(np.ones(99), np.arange(99), 0.99)  # the bound costs a document
    assert caught.value.best == 0.9898


def test_the_threshold_is_the_highest_that_the_mean_allows():
    scores = np.arange(1, 101) / 100
    control = control_recall(scores, np.arange(100), 0.9, largest=1)
    # k misses of 100 with (k + 1) / 101 <= 0.1
    assert control[:5] == (0.1, 100, 100, 1, 9) and (scores < control.threshold).sum() == 9


def test_the_confidence_of_single_entities_is_the_exact_binomial():
    for trials, recall, confidence in ((40, 0.8, 0.9), (500, 0.95, 0.99), (2000, 0.98, 0.95)):
        sample = Sample.of(np.ones(trials), np.arange(trials), 1)
        most = allowed_misses(sample, recall, confidence)
        kept = binom.cdf(np.arange(trials), trials, 1 - recall) <= 1 - confidence
        assert most == kept.sum() - 1


@pytest.mark.parametrize("recall", [0.8, 0.9])
def test_the_mean_miss_over_data_and_a_new_document_is_what_was_promised(recall):
    rng = np.random.default_rng(1)
    missed = np.array([
        true_miss(control_recall(*documents(rng, 120), recall).threshold) for _ in range(1500)
    ])  # fmt: skip
    error = missed.std() / math.sqrt(len(missed))
    assert missed.mean() <= 1 - recall + 2 * error
    assert missed.mean() >= 0.8 * (1 - recall)  # and it is no more careful than it has to be


def test_entities_that_are_never_found_count():
    rng = np.random.default_rng(2)
    missed = [
        true_miss(control_recall(*documents(rng, 200, 0.05), 0.85).threshold, 0.05)
        for _ in range(500)
    ]
    assert 0.1 < np.mean(missed) <= 0.15 + 2 * np.std(missed) / math.sqrt(500)
    with pytest.raises(NotCarriedError, match="that are never found") as caught:
        control_recall(*documents(rng, 400, 0.2), 0.85)
    assert 0.7 < caught.value.best < 0.85


@pytest.mark.parametrize(("recall", "confidence"), [(0.8, 0.9), (0.9, 0.95)])
def test_a_confidence_is_kept_for_its_share_of_data(recall, confidence):
    rng = np.random.default_rng(3)
    broken, total = 0, 300
    for _ in range(total):
        threshold = control_recall(*documents(rng, 300), recall, confidence).threshold
        broken += true_miss(threshold) > 1 - recall
    risk = 1 - confidence
    assert broken <= total * risk + 3 * math.sqrt(total * risk * (1 - risk))


def test_a_confidence_is_kept_where_documents_lose_all_or_nothing():
    """Every entity of a document is missed, or none: as far from independent as can be."""
    rng, broken, total, size = np.random.default_rng(4), 0, 300, 4
    for _ in range(total):
        scores = np.repeat(rng.random(400), size)
        control = control_recall(scores, np.repeat(np.arange(400), size), 0.9, 0.9)
        broken += control.threshold > 0.1  # which is the share that it misses
    assert broken <= total * 0.1 + 3 * math.sqrt(total * 0.09)


def test_the_best_recall_is_carried_and_no_higher_one_is():
    rng = np.random.default_rng(5)
    for confidence in (None, 0.9):
        scores, units = documents(rng, 150)
        best = best_recall(Sample.of(scores, units, None), confidence)
        assert control_recall(scores, units, best, confidence).threshold >= LOWEST
        with pytest.raises(NotCarriedError) as caught:
            control_recall(scores, units, best + 2e-4, confidence)
        assert caught.value.best == best


def test_what_is_enough_is_enough():
    for confidence, size in ((None, 3), (0.95, 3), (0.95, 1)):
        needed = entities_needed(0.95, confidence, size)
        count = -(-needed // size) + 1  # the largest is set aside
        scores, units = np.ones(count * size), np.repeat(np.arange(count), size)
        assert control_recall(scores, units, 0.95, confidence).entities >= needed
        with pytest.raises(NotCarriedError):
            fewer = units < count - 2
            control_recall(scores[fewer], units[fewer], 0.95, confidence)


def test_documents_come_in_any_order_and_under_any_number():
    rng = np.random.default_rng(6)
    scores, units = documents(rng, 100)
    first = control_recall(scores, units * 7 - 50, 0.8)
    order = rng.permutation(len(scores))
    again = control_recall(scores[order], units[order] * 7 - 50, 0.8)
    assert first == again


@pytest.mark.parametrize(
    ("scores", "given", "message"),
    [
        ([0.5], [0, 1], "a document for each of 1 scores, got 2"),
        ([math.nan], [0], "scores in 0..1, got nan"),
        ([-0.1, 0.5], [0, 1], "scores in 0..1, got -0.1"),
        ([], [], "got 0 entities in 0 documents"),
        ([0.5] * 3, [0] * 3, "got 0 entities in 0 documents of at most 3"),
    ],
)
def test_bad_data_are_refused(scores, given, message):
    with pytest.raises(ValueError, match=message):
        control_recall(scores, given, 0.9)


def test_a_bound_that_does_not_hold_is_refused():
    with pytest.raises(ValueError, match="documents of at most 2 entities, got one of 3"):
        control_recall([0.5] * 3, [0] * 3, 0.9, largest=2)
