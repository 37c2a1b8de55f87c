"""Posteriors of positions and segments, and the best score through each."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from hf_semicrf.ops import tail_operations
from hf_semicrf.ops.checks import Backend, checked, checked_spans, resolve_backend, told
from hf_semicrf.ops.forward_backward import State
from hf_semicrf.ops.host import covariance, ranking, span_marginals, tailed
from hf_semicrf.ops.potentials import Potentials
from hf_semicrf.ops.registry import kernels, kernels_for
from hf_semicrf.ops.tail_operations import checked_tail
from hf_semicrf.ops.tails import TailedPotentials, expanded, written_out


class Marginals(NamedTuple):
    """Posterior probabilities.

    Args:
        token: That position n lies in a segment of type c [B, N, C].
        start: That a segment of type c starts at n [B, N, C].
        end: That n is the last position of a segment of type c [B, N, C].
        segment: Of each segment, by start and length less one [B, N, L, C]; None unless asked for.
    """

    token: Tensor
    start: Tensor
    end: Tensor
    segment: Tensor | None = None


def marginals(
    p: Potentials | TailedPotentials, segment: bool = False, backend: Backend = "auto"
) -> Marginals:
    """Compute the posteriors of types, starts and ends at each position, and of segments.

    O(N (L C + C^2)) time; O(N C) memory, and B N L C more for ``segment``. Differentiable once: the
    gradient is the covariance of counts, computed in float64.

    Args:
        p: Potentials, with a tail or without one.
        segment: Whether to return the [B, N, L, C] posterior of every segment too.
        backend: Which implementation runs.

    Raises:
        ValueError: Shapes, dtypes, devices or lengths do not fit.
        RuntimeError: The back end is not available.
    """
    if isinstance(p, TailedPotentials):
        _refuse_segments(segment)
        return _with_tail(checked_tail(p), backend)
    p = checked(p)
    back_end = resolve_backend(backend, p.lengths.device)
    log_z, counts = covariance.expectations(p, segment, back_end, with_shared=False)
    told(p, log_z)
    pack = kernels_for("pack", p.lengths.device, backend)
    if pack is not None and not counts.start.requires_grad:
        within = (counts.emission, counts.start, counts.end, counts.segment if segment else None)
        pack.clamp_(*within)
        return Marginals(*within)
    token, start, end, through_segments = (
        x.clamp(0, 1)  # rounding leaves a certain event a little beside 1
        for x in (counts.emission, counts.start, counts.end, counts.segment)
    )
    return Marginals(token, start, end, through_segments if segment else None)


def marginals_calls(p: Potentials) -> list[Callable[[], object]]:
    """What `marginals` with segments launches on Triton, as calls that do not wait for each other.

    Their results say nothing: they are for threads in which the kernels are compiled.

    Args:
        p: Potentials with what the ones to come will have, of any sizes with the same L and C.
    """
    batch, positions, longest, types = p.sizes
    new = partial(p.duration.new_zeros, dtype=torch.float64)
    per_boundary = (2, batch, positions + 1)
    state = State(
        pre=new((*per_boundary, types)),
        alpha=new((*per_boundary, types)),
        offset=new(per_boundary),
        total=new((batch, 2)),
    )
    row = p.duration.new_zeros(batch, positions, types)
    segment = p.duration.new_zeros(batch, positions, longest, types)
    scan, counts, pack = (kernels(name) for name in ("scan", "expectations", "pack"))
    return [
        lambda: counts.expectations(p, state.total, state, None, None, True, None),
        lambda: scan.scan(p),
        lambda: pack.clamp_(row, row, row, segment),
    ]


def segment_marginals(
    p: Potentials | TailedPotentials, spans: Tensor, backend: Backend = "auto"
) -> Tensor:
    """Compute the probability that each of some spans is a segment, for every type.

    As ``marginals(p, segment=True).segment``, without its [B, N, L, C] tensor: O(N (L C + C^2) +
    S L C) time, O((N + S) C) memory. Not differentiable. In float32 on Triton the scans' rounding
    errors add up over a long text; float64 potentials avoid that.

    Args:
        p: Potentials, with a tail or without one.
        spans: First position and position after the last of each span [B, S, 2], half-open; empty
            spans, such as (0, 0), fill up shorter rows.
        backend: Which implementation runs.

    Returns:
        Probabilities [B, S, C]; 0 for spans that are empty, longer than L, or reach past a
        sentence's length.

    Raises:
        ValueError: Shapes, dtypes, devices or lengths do not fit; on the CPU also where a span does
            not lie within the N positions.
        RuntimeError: The back end is not available.
    """
    if isinstance(p, TailedPotentials):
        return tail_operations.segment_marginals(p, spans, backend)
    p = checked(p)
    spans = checked_spans(p, spans)
    back_end = resolve_backend(backend, p.lengths.device)
    return told(p, span_marginals.segment_marginals(p, spans, back_end))


class MaxMarginals(NamedTuple):
    """Scores in nats of the best segmentation through each place; -inf where none is legal.

    Args:
        token: In which position n lies in a segment of type c [B, N, C].
        start: In which a segment of type c starts at n [B, N, C].
        end: In which n is the last position of a segment of type c [B, N, C].
        segment: Which holds a segment, by start and length less one [B, N, L, C]; None unless
            asked for.
    """

    token: Tensor
    start: Tensor
    end: Tensor
    segment: Tensor | None = None


def max_marginals(
    p: Potentials | TailedPotentials, segment: bool = False, backend: Backend = "auto"
) -> MaxMarginals:
    """Find the best segmentation's score through each type, start and end at each position.

    The highest of all is Viterbi's score, and how far another place lies below it is what the best
    segmentation through that place loses. O(N (L C + C^2)) time, in float64 on either back end.
    Triton takes O(N C) memory, and B N L C more for ``segment``; PyTorch B N L C on the host. Not
    differentiable.

    Args:
        p: Potentials, with a tail or without one.
        segment: Whether to return the [B, N, L, C] scores through every segment too.
        backend: Which implementation runs.

    Raises:
        ValueError: Shapes, dtypes, devices or lengths do not fit.
        RuntimeError: The back end is not available.
    """
    if isinstance(p, TailedPotentials):
        _refuse_segments(segment)
        p = checked_tail(p)
        if p.order > 1:
            return max_marginals(written_out(p), backend=backend)
        through = max_marginals(expanded(p), backend=backend)
        return MaxMarginals(*(x.amax(-2) for x in _kinds(through, p)))
    p = checked(p)
    back_end = resolve_backend(backend, p.lengths.device)
    token, start, end, through_segments = ranking.max_marginals(p, segment, back_end)
    told(p, token)
    return MaxMarginals(token, start, end, through_segments if segment else None)


def _refuse_segments(segment: bool) -> None:
    if segment:
        raise ValueError(
            "expected segment=False with a tail, whose segments have no longest length: "
            "segment_marginals takes spans of any length"
        )


def _with_tail(p: TailedPotentials, backend: Backend) -> Marginals:
    """Posteriors of checked potentials with a tail."""
    if torch.is_grad_enabled() and any(x.requires_grad for x in p.scores().values()):
        found = marginals(expanded(p), backend=backend)
        return Marginals(*(x.sum(-2).clamp(max=1) for x in _kinds(found, p)))
    log_z, counts = tailed.counts_of(p, resolve_backend(backend, p.lengths.device))
    tail_operations.told(p, log_z)
    within = (counts.emission, counts.start, counts.end)
    return Marginals(*(x.clamp(0, 1).to(p.enter.dtype) for x in within))


def _kinds(found: Marginals | MaxMarginals, p: TailedPotentials) -> tuple[Tensor, ...]:
    """What `expanded` types say of positions, starts and ends of a type [B, N, K, C] each."""
    token, start, end = (x.unflatten(-1, (-1, p.sizes[3])) for x in found[:3] if x is not None)
    return token, start[..., :2, :], torch.stack([end[..., 0, :], end[..., -1, :]], -2)


def segment_sums(segment: Tensor) -> Marginals:
    """Sum the posteriors of all segments to those of types, starts and ends.

    Args:
        segment: Posterior of each segment, by start and length less one [B, N, L, C].
    """
    start = segment.sum(2)
    end = torch.zeros_like(start)
    for d in range(min(segment.shape[1:3])):
        end[:, d:] += segment[:, : segment.shape[1] - d, d]
    opened = start.to(torch.float64, copy=True)
    opened[:, 1:] -= end[:, :-1]
    return Marginals(opened.cumsum(1).to(start.dtype), start, end, segment)
