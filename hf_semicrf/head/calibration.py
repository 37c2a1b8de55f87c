"""Fit the two numbers of decoding, temperature and threshold, on held-out sentences.

Both are read off the potentials, so the encoder runs once over the sentences whatever is tried.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hf_semicrf import ops
from hf_semicrf.options import check

TEMPERATURES = (0.25, 8.0)
THRESHOLDS = tuple(n / 40 for n in range(2, 29))  # 0.05 to 0.7
SEARCH_STEPS = 14  # each leaves 0.62 of the interval: 0.4 % of the temperature in the end
QUANTILE = 1.96  # of the normal distribution: 95 % intervals
WIDEST = 0.2  # of the interval of an F1 that a threshold is read off
TINY = 1e-9  # log of a probability that rounds to 0


class Scored(NamedTuple):
    """A batch of sentences with the scores of all their segmentations and with the true one.

    Args:
        potentials: Scores in nats, not divided by a temperature.
        labels: Types of the true segmentation [B, N]; past the length anything.
        starts: Its segment starts [B, N] bool.
    """

    potentials: ops.Potentials
    labels: Tensor
    starts: Tensor

    def tempered(self, temperature: float) -> ops.Potentials:
        """The potentials divided by a temperature."""
        return self.potentials.map(lambda x: x / temperature)


def sentence_loss(batch: Scored, temperature: float) -> Tensor:
    """Negative log-likelihood of the true segmentations at a temperature, summed, in nats."""
    nll = ops.negative_log_likelihood(batch.tempered(temperature), batch.labels, batch.starts)
    return nll.double().sum()


def segment_loss(batch: Scored, temperature: float) -> Tensor:
    """Log loss of the posteriors of all entity segments at a temperature, summed, in nats.

    Each segment of a type other than the outside either is a true entity or is none.
    """
    posterior = ops.marginals(batch.tempered(temperature), segment=True).segment
    assert posterior is not None
    gold = segment_mask(batch.labels, batch.starts, batch.potentials)[..., 1:]
    right = torch.where(gold, posterior[..., 1:], 1 - posterior[..., 1:])
    return -right.double().clamp(min=TINY).log().sum()


LOSSES: dict[str, Callable[[Scored, float], Tensor]] = {
    "sentence": sentence_loss,
    "segment": segment_loss,
}


@torch.no_grad()
def fit_temperature(batches: Sequence[Scored], loss: str = "sentence") -> float:
    """The temperature with the lowest loss, found by golden-section search.

    The loss per sentence is convex in the temperature's inverse, so there is one minimum.

    Args:
        batches: Held-out sentences.
        loss: Log loss of whole "sentence" segmentations or of each entity "segment".

    Raises:
        ValueError: There are no sentences, the loss is unknown, or it is not finite.

    Source: Guo et al. (2017), "On Calibration of Modern Neural Networks", section 4.2.
    """
    check(loss=loss)
    if not batches:
        raise ValueError("expected at least one batch to fit a temperature on, got none")

    def total(log_temperature: float) -> float:
        return _total(batches, math.exp(log_temperature), loss)

    low, high = map(math.log, TEMPERATURES)
    ratio = (math.sqrt(5) - 1) / 2
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = total(left), total(right)
    for _ in range(SEARCH_STEPS - 2):
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = total(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = total(right)
    return round(math.exp((low + high) / 2), 3)


@torch.no_grad()
def fit_threshold(
    batches: Sequence[Scored], temperature: float = 1.0, rule: str = "half_f1"
) -> float:
    """A threshold for `ops.minimum_risk`.

    Args:
        batches: Held-out sentences.
        temperature: The temperature of decoding.
        rule: "half_f1" for half of the highest F1 on the sentences, at which the F1 of a corpus is
            highest when the posteriors are right; "best_f1" for the threshold that had it.

    Raises:
        ValueError: There are no sentences, an option is out of range, or scores are not finite.

    Source: Lipton et al. (2014), "Optimal Thresholding of Classifiers to Maximize F1 Measure".
    """
    check(temperature=temperature, rule=rule)
    if not batches:
        raise ValueError("expected at least one batch to fit a threshold on, got none")
    counts = _total_counts(batches, temperature)
    f1 = [2 * right / max(found + gold, 1) for right, found, gold in counts]
    best = max(f1)
    return round(best / 2, 4) if rule == "half_f1" else THRESHOLDS[f1.index(best)]


@torch.no_grad()
def temperature_doubt(
    batches: Sequence[Scored], temperature: float, loss: str = "sentence"
) -> str | None:
    """Why held-out sentences do not carry a temperature; None where they do.

    They carry it if the range of temperatures that a likelihood-ratio test at 95 % does not reject
    lies inside the range that is searched. Sentences that are all told right carry none: the surer
    the model, the better.

    Args:
        batches: What the temperature was fitted on.
        temperature: What `fit_temperature` found.
        loss: As `fit_temperature` takes it.

    Source: Wilks (1938), "The Large-Sample Distribution of the Likelihood Ratio".
    """
    check(temperature=temperature, loss=loss)
    bar = _total(batches, temperature, loss) + QUANTILE**2 / 2
    for end in TEMPERATURES:
        if _total(batches, end, loss) <= bar:
            low, high = TEMPERATURES
            return (
                f"any temperature from {min(temperature, end):.2f} to {max(temperature, end):.2f} "
                f"explains the validation data, and only {low} to {high} is searched"
            )
    return None


@torch.no_grad()
def threshold_doubt(
    batches: Sequence[Scored], temperature: float = 1.0, threshold: float | None = None
) -> str | None:
    """Why held-out sentences do not carry a threshold; None where they do.

    They carry it if some entity is found, and their F1 is known to 0.2, or known to be another than
    the one at which the present threshold is right. "Known" is a 95 % interval, where F1 is a share
    of (found + true entities) / 2 trials.

    Args:
        batches: What the threshold was fitted on.
        temperature: The temperature of decoding.
        threshold: The present threshold, right where F1 is twice as high; None for Viterbi, which
            says nothing of F1.

    Source: Wilson (1927), "Probable Inference", for the interval.
    """
    check(temperature=temperature, threshold=threshold)
    counts = _total_counts(batches, temperature)
    right, found, gold = max(counts, key=lambda row: 2 * row[0] / max(row[1] + row[2], 1))
    if not right:
        return f"none of the {gold:.0f} entities of the validation data is found at any threshold"
    trials = (found + gold) / 2
    low, high = _wilson(right / trials, trials)
    refuted = threshold is not None and not low <= 2 * threshold <= high
    if high - low > WIDEST and not refuted:
        return (
            f"the validation data has {gold:.0f} entities, by which F1 lies between {low:.2f} and "
            f"{high:.2f} (95 %): expected a range of at most {WIDEST}"
        )
    return None


def _total(batches: Sequence[Scored], temperature: float, loss: str) -> float:
    """The loss of all batches at a temperature."""
    value = float(torch.stack([LOSSES[loss](batch, temperature) for batch in batches]).sum())
    if not math.isfinite(value):
        raise ValueError(
            f"expected a finite loss of the held-out sentences, got {value} at the temperature "
            f"{temperature:.3g}: scores are not finite, or the model allows no such labels"
        )
    return value


def _wilson(share: float, trials: float) -> tuple[float, float]:
    """The 95 % interval of a share of trials."""
    squared = QUANTILE**2 / trials
    centre = (share + squared / 2) / (1 + squared)
    half = QUANTILE / (1 + squared) * math.sqrt(share * (1 - share) / trials + squared / 4 / trials)
    return centre - half, centre + half


def _total_counts(batches: Sequence[Scored], temperature: float) -> list[list[float]]:
    """Correct, found and true entities of all batches, at each of `THRESHOLDS`."""
    counts = torch.stack([_counts(batch, temperature) for batch in batches]).sum(0).tolist()
    if math.isnan(counts[0][0]):
        raise ValueError("expected finite scores of the held-out sentences, got others")
    return counts


def _counts(batch: Scored, temperature: float) -> Tensor:
    """Correct, found and true entities of a batch, at each of `THRESHOLDS` [n, 3], or NaN."""
    p = batch.potentials
    posterior = ops.marginals(batch.tempered(temperature), segment=True).segment
    assert posterior is not None
    gold = segment_mask(batch.labels, batch.starts, p)[..., 1:]
    rows = []
    for threshold in THRESHOLDS:
        found = segment_mask(*ops.minimum_risk(posterior, p.lengths, threshold), p)[..., 1:]
        rows.append(torch.stack([(found & gold).sum(), found.sum(), gold.sum()]))
    return torch.stack(rows) + posterior.double().sum() * 0  # NaN and all


def segment_mask(labels: Tensor, starts: Tensor, p: ops.Potentials) -> Tensor:
    """Which segments a segmentation consists of, by start and length less one [B, N, L, C] bool.

    Args:
        labels: Type of each position [B, N]; past the length anything.
        starts: Whether a segment starts at the position [B, N] bool.
        p: Potentials of the sentences, for their sizes and lengths.
    """
    batch, positions, longest, types = p.sizes
    inside, begin, ends = ops.segment_bounds(starts, p.lengths)
    n = torch.arange(positions, device=labels.device)
    index = (begin * longest + n - begin) * types + labels
    closes = inside & ends
    counts = p.duration.new_zeros(batch, positions * longest * types)
    counts = counts.scatter_add(1, torch.where(closes, index, 0), closes.to(counts.dtype))
    return (counts > 0).unflatten(1, (positions, longest, types))
