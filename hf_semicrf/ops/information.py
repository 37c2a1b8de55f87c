"""Entropy of the distribution over segmentations, and its divergence from another one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hf_semicrf.ops.checks import Backend, check_same_sizes, checked, resolve_backend, told
from hf_semicrf.ops.host import covariance, entropy_scan, factored
from hf_semicrf.ops.host import entropy as entropies
from hf_semicrf.ops.host.magnitude import centred, unusable
from hf_semicrf.ops.potentials import Potentials, only_read
from hf_semicrf.ops.tail_operations import checked_tail
from hf_semicrf.ops.tails import TailedPotentials, expanded, written_out


def entropy(p: Potentials | TailedPotentials, backend: Backend = "auto") -> Tensor:
    """Compute the entropy of the distribution over segmentations, in nats [B].

    In float64. NaN where no segmentation is legal. O(N (L C + C^2)) time. Differentiable once in
    every potential: the gradient is minus the covariance of the score and the counts.

    Args:
        p: Potentials, with a tail or without one.
        backend: Which implementation runs.

    Raises:
        ValueError: Shapes, dtypes, devices or lengths do not fit.
        RuntimeError: The back end is not available.
    """
    if isinstance(p, TailedPotentials):
        return entropy(_ordinary(p), backend)
    p = checked(p)
    back_end = resolve_backend(backend, p.lengths.device)
    if back_end == "triton":
        wrong = unusable(only_read(p.map(Tensor.detach)))
        return entropy_scan.entropy(p).masked_fill(wrong, torch.nan).to(p.duration.dtype)
    value = told(p, entropies.entropy(p, back_end))
    return torch.where(value == -torch.inf, torch.nan, value).to(p.duration.dtype)


def kl_divergence(
    p: Potentials | TailedPotentials,
    q: Potentials | TailedPotentials,
    backend: Backend = "auto",
) -> Tensor:
    """Compute the Kullback-Leibler divergence of q from p, in nats [B].

    It is the mean of log p - log q under p, in float64. ``inf`` where q forbids a segmentation that
    p allows, NaN where p allows none. O(N (L C + C^2)) time. Differentiable once in every potential
    of both; with respect to q the gradient is q's expected counts less those of p.

    Args:
        p: Potentials, with a tail or without one.
        q: Potentials of the same sizes and lengths. Scores that one of the two leaves out are 0.
        backend: Which implementation runs.

    Raises:
        ValueError: Shapes, dtypes, devices or lengths do not fit, or differ between p and q.
        RuntimeError: The back end is not available.
    """
    if isinstance(p, TailedPotentials) and isinstance(q, TailedPotentials):
        p, q = checked_tail(p), checked_tail(q)
        check_same_sizes(p.body, q.body)
        write = expanded if p.order == q.order == 1 else written_out
        return kl_divergence(write(p), write(q), backend)
    p, q = checked(p), checked(q)
    check_same_sizes(p, q)
    dtype = torch.promote_types(p.duration.dtype, q.duration.dtype)
    back_end = resolve_backend(backend, p.lengths.device)
    (exact, _), (other, _) = centred(p), centred(q)
    exact, other = _fill_missing(exact, like=other), _fill_missing(other, like=exact)
    ratio = _pairwise(torch.sub, exact, other)
    log_z, expected = _expected_score(exact, ratio, back_end)
    other_log_z = told(q, factored.log_partition(other, back_end))
    divergence = expected - told(p, log_z) + other_log_z
    p, q = exact, other
    divergence = torch.where(_leaves_support(p, q, back_end), torch.inf, divergence)
    return torch.where(log_z > -torch.inf, divergence, torch.nan).to(dtype)


def _ordinary(p: TailedPotentials) -> Potentials:
    """Potentials without a tail that count every segmentation once."""
    p = checked_tail(p)
    return expanded(p) if p.order == 1 else written_out(p)


def _expected_score(p: Potentials, scores: Potentials, backend: str) -> tuple[Tensor, Tensor]:
    """Compute log Z of ``p`` and the mean of other scores under it, float64 [B] both.

    Scores that are not finite count nothing: what they score is impossible, or of no interest.
    """
    log_z, counts = covariance.expectations(p, scores.segment is not None, backend)
    expected = torch.zeros_like(log_z)
    every = (*counts[:4], *counts.split(p.duration.shape[0]))
    for score, count in zip(scores[:-1], every, strict=True):
        if score is not None:
            expected = expected + (count * torch.where(score.isfinite(), score, 0)).flatten(1).sum(
                1
            )
    return log_z, expected


def _fill_missing(p: Potentials, like: Potentials) -> Potentials:
    """Put zeros for the scores that only ``like`` has."""
    pairs = zip(p, like, strict=True)
    return Potentials._make(
        torch.zeros_like(y) if x is None and y is not None else x for x, y in pairs
    )


def _pairwise(
    function: Callable[[Tensor, Tensor], Tensor], p: Potentials, q: Potentials
) -> Potentials:
    """Apply a function to each potential of p and that of q."""
    scores = [
        None if x is None or y is None else function(x, y)
        for x, y in zip(p[:-1], q[:-1], strict=True)
    ]
    return Potentials._make([*scores, p.lengths])


def _leaves_support(p: Potentials, q: Potentials, backend: str) -> Tensor:
    """Say whether p allows a segmentation with an event that q forbids [B] bool."""

    def forbidden(x: Tensor, y: Tensor) -> Tensor:
        return torch.where(x == -torch.inf, x, (y == -torch.inf).to(x.dtype))

    worst = _pairwise(forbidden, p.map(Tensor.detach), q)
    labels, starts = factored.best(worst, backend)
    return factored.segmentation_score(worst, labels, starts, backend) > 0
