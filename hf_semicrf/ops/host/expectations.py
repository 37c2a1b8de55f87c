"""Expected counts from the state of a scan in both directions, all positions in parallel.

    p(s, e, c) = exp(pre[s, c] + seg(s, e, c) + post[e, c] - log Z)

All in float64, of the potentials and the log Z that the state is of.

Source: Sarawagi and Cohen (2004), equation 4.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hf_semicrf.ops.forward_backward import Expectations, State
from hf_semicrf.ops.host.magnitude import prepare
from hf_semicrf.ops.host.scan import BLOCK_ELEMENTS
from hf_semicrf.ops.potentials import Potentials, segment_scores


def expectations(
    p: Potentials,
    log_z: Tensor,
    state: State,
    weight: Tensor,
    gold: tuple[Tensor, Tensor] | None,
    with_segment: bool,
    add_up: bool,
) -> Expectations:
    """Compute expected counts times ``weight`` [B], less those of a gold segmentation or None.

    All positions in parallel, length by length; memory is O(B N C), and B N L C more for
    ``with_segment``. A sentence that has no legal segmentation (log Z = -inf) expects nothing; one
    whose log Z is NaN expects NaN, unless its weight is 0.

    Args:
        p: Potentials.
        log_z: Log Z, float64 [B].
        state: From :func:`scan.scan`.
        weight: Factor of each sentence [B].
        gold: Labels [B, N], and from :func:`score.segmentation_score` the ends [B, N]; or None.
        with_segment: Whether to count segments by start and length.
        add_up: Whether to add up what the sentences share: R = 1 instead of B.
    """
    dtype = p.duration.dtype
    p = prepare(p).potentials
    batch, positions, longest, types = p.sizes
    gold_weight = weight.double()
    possible = (log_z != -torch.inf) & (weight != 0)
    weight = torch.where(possible, gold_weight, 0)[:, None]  # [B, 1]
    log_z = torch.where(possible, state.total[:, 0], 0)
    start = p.duration.new_zeros(batch, positions, types)
    end = torch.zeros_like(start)
    duration = p.duration.new_zeros(batch, longest, types)
    segment = p.duration.new_zeros((batch, positions, longest, types) if with_segment else (0,))
    inside = torch.arange(positions, device=p.lengths.device) < p.lengths[:, None]
    # [B, N + 1, C] each
    pre, post = state.pre
    pre = pre - log_z[:, None, None]

    for d, (lo, score) in enumerate(segment_scores(p, 0, positions)):
        begins, ends = slice(0, positions - lo), slice(lo, positions)
        # [B, N - lo, C]
        log_p = pre[:, begins] + score + post[:, lo + 1 :]
        mass = torch.exp(log_p.clamp_(max=0)) * weight[..., None]
        mass = torch.where((inside[:, ends] & possible[:, None])[..., None], mass, 0)
        start[:, begins] += mass
        end[:, ends] += mass
        duration[:, d] = mass.sum(1)
        if with_segment:
            segment[:, begins, d] = mass

    # a position lies in what has started and not ended before it [B, N, C]
    opened = start.clone()
    opened[:, 1:] -= end[:, :-1]
    sign = weight[..., None].sign()  # rounding must not change it
    emission = (opened.cumsum(1) * sign).clamp_(min=0) * sign
    emission = torch.where(inside[..., None], emission, 0)
    if p.emission is not None:  # starts less ends need not cancel to the last bit
        emission.masked_fill_(p.emission == -torch.inf, 0)
    transition = _expected_transitions(p, log_z, state) * weight[..., None]
    transition = torch.where(possible[:, None, None], transition, 0)
    if gold is not None:
        _subtract((emission, segment, start, end, duration, transition), gold, inside, gold_weight)
    # [B, 1, C]
    last = (p.lengths - 1)[:, None, None].expand(batch, 1, types)
    shared = (duration, transition, start[:, 0], end.gather(1, last))
    # [B, (L + C + 2) C]
    counts = torch.cat([x.flatten(1) for x in shared], 1)
    if add_up:
        counts = counts.sum(0, keepdim=True)
    return Expectations(*(x.to(dtype) for x in (emission, segment, start, end, counts)))


def _subtract(
    counts: tuple[Tensor, ...], gold: tuple[Tensor, Tensor], inside: Tensor, weight: Tensor
) -> None:
    """Subtract one segmentation's counts, times a weight [B], in place."""
    emission, segment, start, end, duration, transition = counts
    labels, ends = gold
    batch, positions, types = start.shape
    longest = duration.shape[1]
    labels = torch.where(inside, labels, 0)
    weight = weight[:, None].expand(batch, positions)
    # whether a segment ends or starts at a position [B, N]
    closes = ends > 0
    opens = torch.nn.functional.pad(closes, (1, 0), value=True)[:, :-1] & inside
    length_minus_one = (ends - 1).clamp(0, longest - 1)
    scored = closes & (ends <= longest)

    def subtract(count: Tensor, index: Tensor, where: Tensor) -> None:
        count.flatten(1).scatter_add_(1, index, -weight[:, : index.shape[1]] * where)

    # index of each position and its type in a flat [N, C]
    at = torch.arange(positions, device=labels.device) * types + labels
    subtract(emission, at, inside)
    subtract(start, at, opens)
    subtract(end, at, closes)
    subtract(duration, length_minus_one * types + labels, scored)
    subtract(transition, labels[:, :-1] * types + labels[:, 1:], opens[:, 1:])
    if segment.numel():
        begin = (torch.arange(positions, device=labels.device) - length_minus_one).clamp(min=0)
        subtract(segment, (begin * longest + length_minus_one) * types + labels, scored)


def _expected_transitions(p: Potentials, log_z: Tensor, state: State) -> Tensor:
    """Count the neighbouring types that are expected [B, C_src, C_dst], in blocks of positions."""
    batch, positions, _, types = p.sizes
    out = p.transition.new_zeros(batch, types, types)
    size = max(1, BLOCK_ELEMENTS // (batch * types * types))
    for first in range(1, positions, size):
        n = slice(first, min(first + size, positions))
        # [B, n, C]
        left = state.alpha[0, :, n] - log_z[:, None, None]
        # [B, n, C_src, C_dst]
        log_p = left[..., :, None] + p.transition + state.alpha[1, :, n, None, :]
        inner = torch.arange(positions, device=p.lengths.device)[n] < p.lengths[:, None]
        out += torch.where(inner[..., None, None], log_p.clamp_(max=0).exp_(), 0).sum(1)
    return out
