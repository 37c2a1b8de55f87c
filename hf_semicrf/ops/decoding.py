"""Decoding: the most probable segmentations, those of least risk, and samples."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_semicrf.ops import tail_operations
from hf_semicrf.ops.checks import (
    Backend,
    check_same_sizes,
    check_tensors,
    check_thresholds,
    checked,
    resolve_backend,
    told,
    values_are_checked,
)
from hf_semicrf.ops.host import factored, ranking, risk, sampling
from hf_semicrf.ops.host.magnitude import narrowed_from_below
from hf_semicrf.ops.posteriors import Marginals
from hf_semicrf.ops.potentials import Potentials
from hf_semicrf.ops.registry import kernels_for
from hf_semicrf.ops.tail_operations import checked_tail
from hf_semicrf.ops.tails import TailedPotentials, collapsed, expanded, written_out
from hf_semicrf.options import check


def viterbi(
    p: Potentials | TailedPotentials, backend: Backend = "auto"
) -> tuple[Tensor, Tensor, Tensor]:
    """Find the segmentation with the highest score.

    O(N (L C + C^2)) time, O(N C) memory. Not differentiable in the path; the score is.

    Args:
        p: Potentials, with a tail or without one.
        backend: Which implementation runs.

    Returns:
        Score [B] in nats, labels [B, N] and starts [B, N]; NaN, -1 and False for a sentence with
        NaN or ``+inf`` where values are not checked.

    Raises:
        ValueError: Shapes, dtypes, devices or lengths do not fit.
        RuntimeError: The back end is not available.
    """
    if isinstance(p, TailedPotentials):
        return tail_operations.viterbi(p, backend)
    p = checked(p)
    back_end = resolve_backend(backend, p.lengths.device)
    labels, starts = factored.best(p, back_end)
    return told(p, factored.best_score(p, labels, starts, back_end)), labels, starts


def best_segmentation(
    p: Potentials | TailedPotentials, backend: Backend = "auto"
) -> tuple[Tensor, Tensor]:
    """Find the labels [B, N] and starts [B, N] of :func:`viterbi`, without the score."""
    if isinstance(p, TailedPotentials):
        return tail_operations.best_segmentation(p, backend)
    p = checked(p)
    return factored.best(p, resolve_backend(backend, p.lengths.device))


def minimum_risk(
    segment: Tensor,
    lengths: Tensor,
    threshold: float | Tensor = 0.5,
    backend: Backend = "auto",
    legal: Potentials | None = None,
) -> tuple[Tensor, Tensor]:
    """Find the segmentation with the most expected correct segments, less ``threshold`` for each.

    Type 0 is the outside, which counts nothing and has segments of length 1: of all tilings, the
    one with the highest sum of ``segment - threshold`` over its segments of other types. The F1 of
    a corpus is highest at a threshold of half its value (Lipton et al., 2014), so below 0.5.
    O(N L C) time.

    Args:
        segment: Posterior of each segment, by start and length less one [B, N, L, C], as
            :func:`marginals` returns it.
        lengths: Positions of each sentence [B].
        threshold: What a segment's posterior has to exceed, in 0..1; or that of each length less
            one and type [L, C].
        backend: Which implementation runs.
        legal: Potentials whose ``-inf`` forbids; a posterior of 0 does not, in itself.

    Returns:
        Labels [B, N] and starts [B, N].

    Raises:
        ValueError: The threshold is out of range, or shapes do not fit.
        RuntimeError: The back end is not available.

    Source: Goodman (1996), "Parsing Algorithms and Metrics", for segments instead of constituents.
    """
    check_tensors(segment=segment, lengths=lengths)
    if segment.ndim != 4:
        raise ValueError(f"expected segment of shape [B, N, L, C], got {list(segment.shape)}")
    longest, types = segment.shape[2:]
    each = threshold if isinstance(threshold, Tensor) and threshold.ndim == 2 else None
    if each is None:
        number = check(optional=False, threshold=threshold)["threshold"]
    else:
        check_thresholds(each, longest, types, segment.device)
        number = 0.0
    back_end = resolve_backend(backend, segment.device)
    by_kernel = back_end == "triton" and legal is None and risk.fits(longest, types)
    kernels = kernels_for("pack", segment.device, backend)
    p = _checked_without_others(
        Potentials(segment=segment),
        lengths,
        longest,
        types,
        are_read=not by_kernel and (kernels is None or legal is None),
    )
    segment = segment.detach().to(p.duration.dtype)
    if each is not None:
        each = each.to(segment.dtype)
    if by_kernel:
        return risk.minimum_risk(segment, p.lengths, number, each)
    if kernels is not None and legal is not None:
        legal = checked(legal)
        check_same_sizes(p, legal)
        segment = segment if each is None else segment - each
        return factored.best(kernels.gains(segment, number, legal), back_end)
    gain = segment - (number if each is None else each)
    gain[..., 0] = -torch.inf
    gain[:, :, 0, 0] = 0
    return _best_tiling(p._replace(segment=gain), legal, backend)


def minimum_token_risk(
    marginals: Marginals,
    lengths: Tensor,
    longest: int,
    backend: Backend = "auto",
    legal: Potentials | None = None,
) -> tuple[Tensor, Tensor]:
    """Find the segmentation with the most expected correct tokens: :func:`minimum_risk` by tokens.

    A token is correct when its type is, and whether it starts a segment: when its B, I or O tag
    is. Type 0 is the outside, whose segments have length 1. O(N L C) time.

    Args:
        marginals: Posteriors of types and starts [B, N, C], from :func:`marginals`.
        lengths: Positions of each sentence [B].
        longest: Longest segment allowed, L, in positions.
        backend: Which implementation runs.
        legal: Potentials whose ``-inf`` forbids, with segments of at most ``longest``.

    Returns:
        Labels [B, N] and starts [B, N].

    Raises:
        ValueError: The longest segment is below 1, or shapes do not fit.
        RuntimeError: The back end is not available.

    Source: Goodman (1996), "Parsing Algorithms and Metrics", for tokens instead of constituents.
    """
    check(longest=longest)
    if not isinstance(marginals, Marginals):
        raise TypeError(f"expected Marginals, got {type(marginals).__name__}")
    check_tensors(token=marginals.token, start=marginals.start, lengths=lengths)
    inner = marginals.token - marginals.start  # a token that starts nothing
    types = inner.shape[-1]
    gains = Potentials(emission=inner, start=marginals.start - inner)
    p = _checked_without_others(gains, lengths, longest, types)
    duration = p.duration.clone()
    duration[1:, 0] = -torch.inf
    return _best_tiling(p._replace(duration=duration), legal, backend)


def _checked_without_others(
    p: Potentials, lengths: Tensor, longest: int, types: int, are_read: bool = True
) -> Potentials:
    """Check potentials whose other scores are all zero; or anything where they are not read."""
    are_read = are_read or values_are_checked(lengths.device)
    zero = (torch.zeros if are_read else torch.empty)((), device=lengths.device)
    return checked(
        p._replace(
            duration=zero.expand(longest, types),
            transition=zero.expand(types, types),
            initial=zero.expand(types),
            final=zero.expand(types),
            lengths=lengths,
        )
    )


def _best_tiling(
    p: Potentials, legal: Potentials | None, backend: Backend
) -> tuple[Tensor, Tensor]:
    """Find the labels and starts [B, N] of the legal tiling with the highest score."""
    if legal is not None:
        rules = legal.map(lambda x: torch.where(x == -torch.inf, x, 0))
        scores = (
            y if x is None else x if y is None else x + y
            for x, y in zip(p[:-1], rules[:-1], strict=True)
        )
        p = checked(Potentials._make([*scores, p.lengths]))
    return factored.best(p, resolve_backend(backend, p.lengths.device))


def k_best(
    p: Potentials | TailedPotentials, k: int, backend: Backend = "auto"
) -> tuple[Tensor, Tensor, Tensor]:
    """Find the k segmentations with the highest scores, all distinct, best first.

    Exact. Of equal scores the first is the one whose last segment has the lower type, then the
    shorter one, then the one whose segment before that has the lower type, and so on leftwards.
    O(k N (L C + C^2)) time on Triton, O(k^2 N (L C + C^2)) on the host for PyTorch, in float64 on
    both; O(k N C) memory.
    The scores have no derivative; ``segmentation_score(p, labels[:, i], starts[:, i])`` has one.

    Args:
        p: Potentials, with a tail or without one.
        k: Segmentations of each sentence.
        backend: Which implementation runs.

    Returns:
        Scores [B, k] in nats, labels [B, k, N] and starts [B, k, N]; where a sentence has fewer
        than k legal segmentations the rest is -inf, -1 and False.

    Raises:
        ValueError: k is below 1, or shapes, dtypes, devices or lengths do not fit.
        RuntimeError: The back end is not available.

    Source: Huang and Chiang (2005), "Better k-best Parsing", algorithm 1, for segments.
    """
    check(k=k)
    if isinstance(p, TailedPotentials):
        p = checked_tail(p)
        if p.order > 1:
            return k_best(written_out(p), k, backend)
        score, labels, starts = k_best(expanded(p), k, backend)
        return score, *collapsed(labels, starts, p.sizes[3])
    p = checked(p)
    score, labels, starts = ranking.k_best(p, k, resolve_backend(backend, p.lengths.device))
    return told(p, narrowed_from_below(score, p.duration.dtype)), labels, starts


def sample(
    p: Potentials | TailedPotentials,
    n: int,
    generator: torch.Generator | None = None,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor]:
    """Draw independent, exact samples of the distribution over segmentations.

    The same generator state gives the same samples on either back end, up to rounding. O(N (L C +
    C^2)) time for the scan, then O(L + C) for each segment drawn; O(n N) memory.

    Args:
        p: Potentials, with a tail or without one.
        n: Samples of each sentence.
        generator: Source of the random numbers, on any device; None for PyTorch's default, which
            torch.compile asks for.
        backend: Which implementation runs.

    Returns:
        Labels [n, B, N] and starts [n, B, N]; -1 and False throughout a sentence that has no legal
        segmentation.

    Raises:
        ValueError: n is below 1, or shapes, dtypes, devices or lengths do not fit.
        RuntimeError: The back end is not available.

    Source: Scott (2002), "Bayesian Methods for Hidden Markov Models", section 2.1: forward
        filtering and backward sampling, here of segments.
    """
    check(n=n)
    if isinstance(p, TailedPotentials):
        p = checked_tail(p)
        return collapsed(*sample(expanded(p), n, generator, backend), p.sizes[3])
    p = checked(p)
    device = p.lengths.device
    uniform = torch.rand(
        (2, n, *p.sizes[:2]),
        dtype=torch.float64,
        generator=generator,
        device=device if generator is None else generator.device,
    )
    back_end = resolve_backend(backend, device)
    labels, starts = sampling.sample(p, uniform.to(device), back_end)
    if values_are_checked(device) and bool((labels[0, :, 0] < 0).any()):
        told(p, factored.log_partition(p, back_end))  # which tells the impossible from the unknown
    return labels, starts
