"""Expected counts from the state of a tail's scan, all positions in parallel, on any device.

Starts and ends follow from the two directions at one boundary, those of segments beyond L too. What
has started and not ended gives the positions of each type, and those of segments beyond L:

    p(n lies in a segment beyond L) = sum of their starts up to n - sum of their ends before n

All in float64. Source: Sarawagi and Cohen (2004), equation 4.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from hf_semicrf.ops.host.magnitude import LARGEST, centred
from hf_semicrf.ops.host.scan import BLOCK_ELEMENTS
from hf_semicrf.ops.host.tail_scan import TailState
from hf_semicrf.ops.potentials import segment_scores
from hf_semicrf.ops.tails import TailedPotentials


class TailCounts(NamedTuple):
    """Expected counts of what `TailedPotentials` score, times each sentence's weight.

    Args:
        emission: Positions of each type [B, N, C].
        start: Segments that start at n [B, N, C].
        end: Segments whose last position is n [B, N, C].
        duration: Segments of each length up to L [L, C], of all sentences, like all that follow.
        transition: Neighbouring types [C_src, C_dst].
        initial: First types [C].
        final: Last types [C].
        enter: Segments beyond L [C].
        stay: Their positions after the first L + 1 [C].
    """

    emission: Tensor
    start: Tensor
    end: Tensor
    duration: Tensor
    transition: Tensor
    initial: Tensor
    final: Tensor
    enter: Tensor
    stay: Tensor


def running_sum(x: Tensor) -> Tensor:
    """Sums over the first 1, 2, ... positions [B, N, C].

    Along the last axis of a copy: along any other one a GPU adds up position by position.
    """
    return x.mT.contiguous().cumsum(-1).mT


def expectations(
    p: TailedPotentials, state: TailState, weight: Tensor | None, shared: bool
) -> TailCounts:
    """Compute expected counts times ``weight`` [B], or once each.

    A sentence without a legal segmentation expects nothing; one whose log Z is NaN expects NaN,
    unless its weight is 0.

    Args:
        p: Potentials.
        state: From the scan.
        weight: Factor of each sentence; 1 where None.
        shared: Whether to count what the sentences share; zeros otherwise.
    """
    body, _ = centred(p.body)
    # what is as good as forbidden has been read as such
    body = body.map(lambda x: x.masked_fill(x < -LARGEST, -torch.inf))
    batch, positions, longest, types = body.sizes
    n = torch.arange(positions, device=body.lengths.device)
    log_z, log_z_offset = state.total
    weight = torch.ones_like(log_z) if weight is None else weight.double()
    possible = (log_z != -torch.inf) & (weight != 0)
    factor = torch.where(possible, weight, 0)[:, None, None]
    # [B, N, 1]
    inside = (n < body.lengths[:, None])[..., None] & possible[:, None, None]
    shift = torch.where(possible, log_z, 0)[:, None, None]
    # [2, B, N + 1, 1] and [B, 1, 1]
    offset, of_z = state.offset[..., None], log_z_offset[:, None, None]

    def mass(left: Tensor, right: Tensor, begins: slice, ends: slice, score: Tensor | None = None):
        """Probabilities of what lies between boundaries; the state is -inf past a length."""
        log_p = left[:, begins] + right[:, ends] - shift
        log_p += (offset[0][:, begins] + offset[1][:, ends] - of_z) * math.log(2)
        if score is not None:
            log_p += score
        p = log_p.clamp_(max=0).exp_() * factor
        return torch.where(inside[:, -p.shape[1] :], p, 0)

    (pre, post), (alpha, beta), (over, under) = state.pre, state.alpha, state.beyond
    first, last = slice(0, positions), slice(1, positions + 1)
    start, end = mass(pre, beta, first, first), mass(alpha, post, last, last)
    sign = weight.sign()[:, None, None]  # rounding must not change it

    def running(opened: Tensor, closed: Tensor) -> Tensor:
        """Which share of positions lies between [B, N, C]."""
        step = opened.clone()
        step[:, 1:] -= closed[:, :-1]
        return torch.where(inside, (running_sum(step) * sign).clamp_(min=0) * sign, 0)

    emission = running(start, end)
    if body.emission is not None:  # starts less ends need not cancel to the last bit
        emission.masked_fill_(body.emission == -torch.inf, 0)
    duration, transition = (
        torch.zeros_like(p.duration.double()),
        body.transition.new_zeros(types, types),
    )
    ones = body.transition.new_zeros(types)
    counts = TailCounts(emission, start, end, duration, transition, *[ones] * 4)
    if not shared:
        return counts
    for d, (lo, score) in enumerate(segment_scores(body, 0, positions)):
        through = mass(pre, post, slice(0, positions - lo), slice(lo + 1, positions + 1), score)
        duration[d] = through.sum((0, 1))
    opened, closed = mass(pre, under, first, first), mass(over, post, last, last)
    enter = closed.sum((0, 1))
    # every segment beyond L has L + 1 positions that do not stay
    of_each = running(opened, closed).sum(1) - (longest + 1) * closed.sum(1)
    stay = ((of_each * sign[:, 0]).clamp_(min=0) * sign[:, 0]).sum(0)
    stay = torch.where(p.stay == -torch.inf, 0, stay)
    size = max(1, BLOCK_ELEMENTS // (batch * types * types))
    for begin in range(1, positions, size):
        block = slice(begin, min(begin + size, positions))
        # [B, n, C_src, C_dst]
        exponent = (offset[0][:, block] + offset[1][:, block] - of_z) * math.log(2) - shift
        before = (alpha[:, block] + exponent)[..., None]
        log_p = before + body.transition + beta[:, block, None]
        step = log_p.clamp_(max=0).exp_() * factor[..., None]
        transition += torch.where(inside[:, block, :, None], step, 0).sum((0, 1))
    at_end = (n + 1 == body.lengths[:, None])[..., None]
    final = torch.where(at_end, end, 0).sum((0, 1))
    return counts._replace(initial=start[:, 0].sum(0), final=final, enter=enter, stay=stay)
