"""What a length scores before anything is read: free, or by a law of few parameters, with a tail.

With L the head's `max_segment_length`, the score of length d of a type is

    free, geometric, negative_binomial   duration[d], a parameter each, for d <= L
    poisson    level + (d - 1) log_mean - log (d - 1)!        for d <= L
    gamma      level + shape log(d / L) - rate d / L          for d <= L

and beyond L, but where lengths are free,

    geometric          score(L + k) = enter + (k - 1) stay
    negative_binomial  score(L + k) = enter + (k - 1) stay + log binomial(k + r - 2, r - 1)
    poisson, gamma     score(L + k) = score(L) + k stay

Scores are linear in the parameters and need no normaliser: the partition function has it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

SHAPED = {"poisson": 2, "gamma": 3}  # parameters a type, beside the tail's


def shaped(prior: str, parameters: Tensor, longest: int) -> Tensor:
    """Scores of the lengths 1..L [L, C] by a law.

    Args:
        prior: "poisson" or "gamma".
        parameters: Level and log-mean, or level, shape and rate [2 or 3, C].
        longest: L.
    """
    d = torch.arange(1, longest + 1, device=parameters.device, dtype=parameters.dtype)[:, None]
    if prior == "poisson":
        level, log_mean = parameters
        return level + (d - 1) * log_mean - torch.lgamma(d)
    level, shape, rate = parameters
    return level + shape * (d / longest).log() - rate * (d / longest)


def fitted(
    lengths: Sequence[int], prior: str, longest: int, order: int
) -> tuple[Tensor, Tensor | None]:
    """Parameters of one type from the lengths of its segments, as probabilities would have them.

    Half a segment is added to each length and to the tail, so that none is impossible. Means and
    variances are matched. For a law of few parameters L should lie beyond the mean.

    Args:
        lengths: Lengths of segments, in positions; those beyond L count for the tail, and without
            one not at all.
        prior: The law.
        longest: L.
        order: Order of a negative binomial.

    Returns:
        The scores of lengths [L] or the parameters of the law [2 or 3], float64, and those of the
        tail: enter and stay [2], or stay [1]; None without one.
    """
    found = torch.tensor(list(lengths), dtype=torch.float64)
    if prior == "free":
        found = found[found <= longest]
    total = len(found) + 0.5 * (longest + (prior != "free"))
    excess = found[found > longest] - longest - 1
    r = order if prior == "negative_binomial" else 1
    mean = (float(excess.sum()) + 0.5) / (len(excess) + 1)
    stay = math.log(mean / (mean + r))
    if prior not in SHAPED:
        counts = torch.bincount(found[found <= longest].long(), minlength=longest + 1)[1:]
        scores = ((counts + 0.5) / total).log()
        enter = math.log((len(excess) + 0.5) / total) + r * math.log(r / (mean + r))
        tail = None if prior == "free" else torch.tensor([enter, stay], dtype=torch.float64)
        return scores, tail
    average = float(found.mean()) if len(found) else 1.0
    spread = float(found.var(correction=0)) if len(found) else 1.0
    if prior == "poisson":
        free = [math.log(max(average - 1, 0.1))]
    else:
        spread = max(spread, average / 4)
        free = [average**2 / spread - 1, average / spread * longest]
    parameters = torch.tensor([0.0, *free], dtype=torch.float64)
    scores = shaped(prior, parameters[:, None], longest)[:, 0]
    beyond = scores[-1] + stay - math.log1p(-math.exp(stay))
    parameters[0] = -torch.logsumexp(torch.cat([scores, beyond[None]]), 0)
    return parameters, torch.tensor([stay], dtype=torch.float64)
