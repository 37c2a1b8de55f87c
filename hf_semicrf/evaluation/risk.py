"""Choose thresholds at which the recall on new documents is controlled. NumPy alone, no model.

A document with m entities, of which some are missed at a threshold, has the loss

    loss = missed - (1 - recall) m,    -(1 - recall) m <= loss <= recall m

which falls with the threshold. Its mean is 0 or less where the share of entities that are missed is
at most 1 - recall. Documents without entities lose nothing at any threshold and are left out.

How large a loss can be is not known beforehand. So the document with most entities, M, is set
aside: the others and a new document that is no larger are exchangeable, and none loses more than
recall M.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from hf_semicrf.options import check

LOWEST = 1e-6  # a candidate's posterior: below, float32 says little
BET = 0.95  # the stake on one document, of all the wealth that it can take
DIGITS = 4  # of the best recall that is told
ROUNDING = 1e-9  # of sums of decimal fractions


class Control(NamedTuple):
    """A threshold and what it was read off.

    Args:
        threshold: Segments whose posterior is at least this are candidates.
        documents: Documents that it was read off: those with entities, less the largest.
        entities: Their entities.
        largest: Entities of the largest document M: none of more is spoken of.
        missed: Entities that are missed at the threshold, of `entities`.
        method: "conformal risk control"; with a confidence "binomial bound", or "betting bound"
            where documents have several entities.
    """

    threshold: float
    documents: int
    entities: int
    largest: int
    missed: int
    method: str


class NotCarriedError(ValueError):
    """The data cannot carry a recall.

    Attributes:
        best: The highest recall that they carry, rounded down to four digits; 0 for none.
    """

    def __init__(self, message: str, best: float):
        super().__init__(message)
        self.best = best


class Sample(NamedTuple):
    """The documents that a threshold is read off.

    Args:
        scores: For each entity the highest threshold at which it is found, ascending [E].
        documents: The document of each, from 0 [E].
        counts: Entities of each document [D].
        largest: Entities that a document has at most.
    """

    scores: np.ndarray
    documents: np.ndarray
    counts: np.ndarray
    largest: int

    @classmethod
    def of(cls, scores: Any, documents: Any, largest: int | None) -> Sample:
        """Sort entities; without a bound the first document of most entities is set aside."""
        scores = np.asarray(scores, dtype=np.float64)
        _, documents, counts = np.unique(documents, return_inverse=True, return_counts=True)
        if largest is None:
            first = int(counts.argmax()) if len(counts) else -1
            largest = int(counts.max(initial=0))
            scores, documents = scores[documents != first], documents[documents != first]
            _, documents, counts = np.unique(documents, return_inverse=True, return_counts=True)
        order = np.argsort(scores, kind="stable")
        return cls(scores[order], documents[order], counts, largest)

    @property
    def unreachable(self) -> int:
        """Entities that are found at no threshold."""
        return int(np.searchsorted(self.scores, LOWEST))


def control_recall(
    scores: Any,
    documents: Any,
    recall: float,
    confidence: float | None = None,
    largest: int | None = None,
) -> Control:
    """The highest threshold at which the share of entities missed on new documents is controlled.

    Without a confidence its expectation is, over the data and a new document: that of the loss is
    at most 0 if documents are exchangeable. With one, the share is at most 1 - recall for all but
    1 - confidence of the data that one could have drawn, if documents are independent draws.

    Args:
        scores: For each entity the highest threshold at which it is found [E]; 0 for never.
        documents: The document of each, as integers [E].
        recall: The share of entities that is to be found.
        confidence: The share of data for which this is to hold; None for the expectation.
        largest: A bound on the entities of a document that is known beforehand; by default the
            data's, at the price of the largest document.

    Raises:
        NotCarriedError: There is too little data, or too much of it is never found.
        ValueError: An option is out of range, or a score is no probability.

    Source: Angelopoulos et al. (2022), "Conformal Risk Control", theorem 1, with
    B = recall M and alpha = 0. Bates et al. (2021), "Distribution-Free, Risk-Controlling Prediction
    Sets", theorem 1; Angelopoulos et al. (2021), "Learn then Test", section 4.1, fixed sequence;
    Waudby-Smith and Ramdas (2024), "Estimating Means of Bounded Random Variables by Betting",
    section 4, for the bound.
    """
    own = check(optional=False, recall=recall)
    own |= check(confidence=confidence, largest=largest)
    if len(scores) != len(documents):
        raise ValueError(
            f"expected a document for each of {len(scores)} scores, got {len(documents)}"
        )
    values = np.asarray(scores, dtype=np.float64)
    if not ((values >= 0) & (values <= 1 + 1e-4)).all():
        raise ValueError(
            f"expected scores in 0..1, got {values[~((values >= 0) & (values <= 1))][0]}"
        )
    if largest is not None and len(values):
        most = int(np.unique(documents, return_counts=True)[1].max())
        if most > own["largest"]:
            raise ValueError(f"expected documents of at most {largest} entities, got one of {most}")
    sample = Sample.of(values, documents, largest)
    recall, confidence = own["recall"], own["confidence"]
    misses = allowed_misses(sample, recall, confidence)
    if misses < sample.unreachable:
        raise _refusal(sample, recall, confidence)
    threshold = float(sample.scores[misses])
    missed = int(np.searchsorted(sample.scores, threshold))
    method = "conformal risk control"
    if confidence is not None:
        method = "binomial bound" if sample.largest == 1 else "betting bound"
    numbers = len(sample.counts), len(sample.scores), sample.largest
    return Control(threshold, *numbers, missed, method)


def allowed_misses(sample: Sample, recall: float, confidence: float | None) -> int:
    """Entities that may be missed, those of lowest score; -1 for a recall that is not carried."""
    entities = len(sample.scores)
    if not entities:
        return -1
    if confidence is None:  # n R + B <= 0
        budget = (1 - recall) * entities - recall * sample.largest
        return max(math.floor(budget + ROUNDING), -1)
    if sample.largest == 1:
        return binomial_misses(entities, 1 - recall, 1 - confidence)
    # the bound is kept at all thresholds below one at which it is kept
    low, high = -1, entities
    while high - low > 1:
        middle = (low + high) // 2
        below = int(np.searchsorted(sample.scores, sample.scores[middle]))
        missed = np.bincount(sample.documents[:below], minlength=len(sample.counts))
        kept = bound_is_kept(missed, sample.counts, sample.largest, recall, confidence)
        low, high = (middle, high) if kept else (low, middle)
    return low


def bound_is_kept(
    missed: np.ndarray, counts: np.ndarray, largest: int, recall: float, confidence: float
) -> bool:
    """Whether documents say, at a confidence, that the expected loss is at most 0.

    Were it above 0, the wealth of who bets on low losses would fall in expectation, and at any time
    exceed 1 / (1 - confidence) with a probability of at most 1 - confidence. The stakes depend on
    the sizes of earlier documents alone, so that no more misses make no less wealth.

    Args:
        missed: Entities of each document that are missed [D].
        counts: Entities of each document [D].
        largest: Entities that a document has at most.
        recall: In 0..1.
        confidence: In 0..1.
    """
    target = -math.log1p(-confidence)
    order = np.random.default_rng(0).permutation(len(counts))  # the data's own may mean something
    counts, losses = counts[order], (missed - (1 - recall) * counts)[order]
    # the variance of a loss at the bound, where misses come in pairs
    variances = 2 * (1 - recall) * (1 + np.cumsum(counts) - counts) / np.arange(1, len(counts) + 1)
    stakes = np.minimum(BET / (recall * largest), np.sqrt(2 * target / (len(counts) * variances)))
    return bool(np.log1p(-stakes * losses).cumsum().max(initial=0) >= target)


def binomial_misses(trials: int, share: float, risk: float) -> int:
    """The most misses k with P(misses <= k) <= risk, were the share missed this one; -1 for none.

    Source: Clopper and Pearson (1934), "The Use of Confidence or Fiducial Limits".
    """
    k = np.arange(trials + 1)
    log_factorial = np.concatenate([[0], np.log(k[1:]).cumsum()])
    log_choose = log_factorial[-1] - log_factorial - log_factorial[::-1]
    probability = np.exp(log_choose + k * math.log(share) + (trials - k) * math.log1p(-share))
    return int((probability.cumsum() <= risk * (1 + ROUNDING)).sum()) - 1


def best_recall(sample: Sample, confidence: float | None) -> float:
    """The highest recall that documents carry, found by bisection; rounded down, 0 for none."""
    low, high = 0, 10**DIGITS  # carried, and not
    while high - low > 1:
        middle = (low + high) // 2
        carried = allowed_misses(sample, middle / 10**DIGITS, confidence) >= sample.unreachable
        low, high = (middle, high) if carried else (low, middle)
    return low / 10**DIGITS


def entities_needed(recall: float, confidence: float | None, largest: int) -> int:
    """Entities that carry a recall if all are found, in documents of the largest size."""
    if confidence is None:
        return math.ceil(recall * largest / (1 - recall) - ROUNDING)
    target = -math.log1p(-confidence)
    if largest == 1:
        return math.ceil(target / -math.log(recall) - ROUNDING)
    return largest * math.ceil(target / math.log1p(BET * (1 - recall) / recall) - ROUNDING)


def _refusal(sample: Sample, recall: float, confidence: float | None) -> NotCarriedError:
    best = best_recall(sample, confidence)
    how = "in expectation" if confidence is None else f"with confidence {confidence}"
    needed = entities_needed(recall, confidence, sample.largest)
    never = sample.unreachable
    return NotCarriedError(
        f"expected data that carry a recall of {recall} {how}, got {len(sample.scores):,} entities "
        f"in {len(sample.counts):,} documents of at most {sample.largest} each, the largest set "
        f"aside, and {never:,} that are never found: {best} is the best that they carry; "
        f"{recall} takes {needed:,} entities and more where some are missed",
        best,
    )
