"""The recurrence where lengths beyond L follow a tail: sums in both directions, or maxima.

With W[s, c], the weights of the open segments of up to L positions, and open_j[c], those of the
tail's r stages, a step over position t is

    open_j  <- sum_{i <= j} open_i stay emission + W[t-L] enter emission
    W[s]    <- W[s] emission;  W[t] = pre start emission
    alpha    = (sum_s W[s] duration[t-s] + open_r) end
    pre      = sum_{c'} alpha[c'] transition[c', c]

One kernel, three rings. WEIGHTS multiplies exponentials in float64, without a logarithm in what a
step waits for; every fourth step divides all of them by a power of two, which `offset` counts. What
lies 2^-1000 below the largest is lost: the two directions of a sentence then disagree, and it is
scanned again in LOGS, as is one whose scores leave what four steps may gain. MAXIMA keeps of each
boundary and type the segment's begin and the type before; their paths are followed in PyTorch.

Memory traffic: 3 N C reads, 3 N C writes a program, in float64.
Source: Guedon (2003), section 4; Rabiner (1989), section V.A, for the scaling.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from hf_semicrf.ops.host.magnitude import centred
from hf_semicrf.ops.host.tail_scan import TailState
from hf_semicrf.ops.host.tail_viterbi import follow
from hf_semicrf.ops.kernels.common import finite, power_of_two
from hf_semicrf.ops.tails import TailedPotentials

WEIGHTS, LOGS, MAXIMA = (tl.constexpr(n) for n in range(3))
RESCALE = 4  # steps
MOST_GAIN = 100.0  # nats in a step: exp(4 * 100) is far below 2^1023
MOST_LOSS = 600.0  # nats: exp(-600) is above 2^-1022
AGREE = 1e-7  # nats between the two directions; rounding leaves 1e-16 a step


@triton.jit
def _times(x, y, RING: tl.constexpr):
    if RING == WEIGHTS:
        z = x * y
    else:
        z = x + y
    return z


@triton.jit
def _plus(x, y, RING: tl.constexpr):
    if RING == WEIGHTS:
        z = x + y
    else:
        z = tl.maximum(x, y)
        if RING == LOGS:
            top = finite(z)
            z = tl.log(tl.exp(x - top) + tl.exp(y - top)) + top
    return z


@triton.jit
def _total(x, axis: tl.constexpr, RING: tl.constexpr):
    if RING == WEIGHTS:
        z = tl.sum(x, axis)
    else:
        z = tl.max(x, axis)
        if RING == LOGS:
            top = finite(z)
            z = tl.log(tl.sum(tl.exp(x - tl.expand_dims(top, axis)), axis)) + top
    return z


@triton.jit
def _only(x, mask, axis: tl.constexpr, RING: tl.constexpr):
    """The one entry along an axis for which the mask is set; the ring's zero without one."""
    if RING == WEIGHTS:
        z = tl.sum(tl.where(mask, x, 0.0), axis)
    else:
        z = tl.max(tl.where(mask, x, -float("inf")), axis)
    return z


@triton.jit
def _read(scores, first_row, t, length, reverse, c, TYPES: tl.constexpr):
    """Emission, start and end of step t, or of the last step where there is none."""
    t = tl.minimum(t, length - 1)
    n = tl.where(reverse == 1, length - 1 - t, t)
    at = scores + (first_row + n) * (3 * TYPES) + c
    return tl.load(at), tl.load(at + (1 + reverse) * TYPES), tl.load(at + (2 - reverse) * TYPES)


@triton.jit(do_not_specialize=["batch", "positions", "longest"])
def tail_kernel(
    # emission, start and end side by side [B, N, 3, TYPES], and what sentences share, as the ring
    # has them; [2, ...] for the two directions of initial and transition
    scores, duration, enter, stay, initial, transition, lengths, runs,
    # results
    pre_out, alpha_out, over_out, offset_out, total_out, begin_out, source_out,
    # sizes
    batch, positions, longest,
    WINDOW: tl.constexpr, TYPES: tl.constexpr, ORDER: tl.constexpr, STAGES: tl.constexpr,
    RING: tl.constexpr, RESCALE: tl.constexpr,
):  # fmt: skip
    """One sentence, one direction, where ``runs`` says so; see the head of this file."""
    b, reverse = tl.program_id(0).to(tl.int64), tl.program_id(1)
    if tl.load(runs + b) != 0:
        length = tl.load(lengths + b).to(tl.int32)
        first_row = b * positions
        first_boundary = (reverse.to(tl.int64) * batch + b) * (positions + 1)
        c = tl.arange(0, TYPES)
        source = tl.arange(0, TYPES)[:, None]
        row = tl.arange(0, WINDOW)[:, None]
        stage = tl.arange(0, STAGES)[:, None]
        later = tl.arange(0, STAGES)[:, None, None] >= tl.arange(0, STAGES)[None, :, None]
        nothing = tl.zeros([TYPES], tl.float64)
        if RING != WEIGHTS:
            nothing = nothing - float("inf")
        window = tl.zeros([WINDOW, TYPES], tl.float64) + nothing[None, :]
        opened = tl.zeros([STAGES, TYPES], tl.float64) + nothing[None, :]
        steps = tl.load(transition + reverse * (TYPES * TYPES) + source * TYPES + c[None, :])
        enters, stays = tl.load(enter + c), tl.load(stay + c)
        shortest = tl.load(duration + c)
        pre = tl.load(initial + reverse * TYPES + c)
        alpha, over = nothing, nothing
        offset, of_alpha = tl.zeros([], tl.int64), tl.zeros([], tl.int64)
        origin = tl.zeros([TYPES], tl.int32)

        n = tl.where(reverse == 1, length, 0)
        at = (first_boundary + n) * TYPES + c
        if RING != MAXIMA:
            tl.store(pre_out + at, pre)
            tl.store(alpha_out + at, alpha)
            tl.store(over_out + at, over)
            tl.store(offset_out + first_boundary + n, offset)
        em, begins, ends = _read(scores, first_row, 0, length, reverse, c, TYPES)
        em1, begins1, ends1 = _read(scores, first_row, 1, length, reverse, c, TYPES)
        em2, begins2, ends2 = _read(scores, first_row, 2, length, reverse, c, TYPES)
        em3, begins3, ends3 = _read(scores, first_row, 3, length, reverse, c, TYPES)
        durations = tl.load(duration + ((0 - row) & (WINDOW - 1)) * TYPES + c[None, :])
        for t in range(0, length):
            em4, begins4, ends4 = _read(scores, first_row, t + 4, length, reverse, c, TYPES)
            age = (t - row) & (WINDOW - 1)  # length less one of each row's segment
            next_durations = tl.load(duration + ((t + 1 - row) & (WINDOW - 1)) * TYPES + c[None, :])
            # the tail
            whole = (row == ((t - longest) & (WINDOW - 1))) & (t >= longest)
            entering = _times(_only(window, whole, 0, RING), _times(enters, em, RING), RING)
            staying = _times(opened, _times(stays, em, RING)[None, :], RING)
            if RING == MAXIMA:
                stayed = _only(staying, stage == 0, 0, RING)
                origin = tl.where(entering >= stayed, t - longest, origin)
            if STAGES == 1:
                opened = _plus(staying, entering[None, :], RING)
            else:
                reached = tl.where(later, staying[None, :, :], nothing[None, None, :])
                opened = _plus(_total(reached, 1, RING), entering[None, :], RING)
                opened = tl.where(stage < ORDER, opened, nothing[None, :])
            longer = _only(opened, stage == ORDER - 1, 0, RING)
            over = _times(longer, ends, RING)
            # what does not wait for the step before
            newest = row == (t & (WINDOW - 1))
            window = tl.where(newest, nothing[None, :], _times(window, em[None, :], RING))
            ended = _times(window, durations, RING)
            rest = _total(ended, 0, RING)
            first = _times(begins, em, RING)
            # what does
            opens = _times(pre, first, RING)
            single = _times(opens, shortest, RING)
            alpha = _plus(_times(_plus(single, rest, RING), ends, RING), over, RING)
            pre = _total(_times(alpha[:, None], steps, RING), 0, RING)
            window = tl.where(newest, opens[None, :], window)

            n = tl.where(reverse == 1, length - 1 - t, t + 1)
            at = (first_boundary + n) * TYPES + c
            if RING == MAXIMA:
                best = tl.maximum(single, rest)
                equal = tl.where(newest, single[None, :], ended) == best[None, :]
                short = tl.min(tl.where(equal, age, WINDOW), 0)
                begin = tl.where(longer > best, origin, t - short)
                tl.store(begin_out + at, tl.maximum(begin, 0))
                scored = alpha[:, None] + steps
                equal = scored == tl.max(scored, 0)[None, :]
                tl.store(source_out + at, tl.min(tl.where(equal, source, TYPES), 0))
            else:
                tl.store(pre_out + at, pre)
                tl.store(alpha_out + at, alpha)
                tl.store(over_out + at, over)
                tl.store(offset_out + first_boundary + n, offset)
            if RING == WEIGHTS:
                of_alpha = offset
                if t % RESCALE == RESCALE - 1:
                    top = tl.maximum(tl.max(tl.max(window, 1), 0), tl.max(tl.max(opened, 1), 0))
                    top = tl.maximum(top, tl.max(pre, 0))
                    exponent = (top.to(tl.int64, bitcast=True) >> 52) & 2047
                    exponent = tl.where((exponent > 0) & (exponent < 2046), exponent, 1023)
                    scale = ((2046 - exponent) << 52).to(tl.float64, bitcast=True)
                    window, opened, pre = window * scale, opened * scale, pre * scale
                    offset += exponent - 1023
            durations = next_durations
            em, begins, ends = em1, begins1, ends1
            em1, begins1, ends1 = em2, begins2, ends2
            em2, begins2, ends2 = em3, begins3, ends3
            em3, begins3, ends3 = em4, begins4, ends4
        if RING == MAXIMA:
            last = _times(alpha, tl.load(initial + TYPES + c), RING)
            kind = tl.min(tl.where(last == tl.max(last, 0), c, TYPES), 0)
            tl.store(total_out + b, tl.minimum(kind, TYPES - 1))
        else:
            last = _times(alpha, tl.load(initial + (1 - reverse) * TYPES + c), RING)
            place = total_out + 2 * (reverse * batch + b)
            tl.store(place, _total(last, 0, RING))
            tl.store(place + 1, of_alpha.to(tl.float64))


def scan(p: TailedPotentials) -> tuple[Tensor, TailState]:
    """Sum over all segmentations: log Z in nats, float64 [B], and both directions' state."""
    body, level = centred(p.body)
    q = TailedPotentials(body, p.enter.double(), p.stay.double(), p.order)
    batch, positions, _, types = p.sizes
    tensors = _packed(q)
    shape = (2, batch, positions + 1)
    tile = tensors[0].shape[-1]
    outputs = [level.new_empty((*shape, tile), dtype=torch.float64) for _ in range(3)]
    offset = torch.empty(shape, dtype=torch.int64, device=level.device)
    total = torch.full((2, batch, 2), torch.nan, dtype=torch.float64, device=level.device)
    results = (*outputs, offset, total, None, None)
    fits = _fits(q)
    _launch(q, [x.exp() for x in tensors], fits, results, (batch, 2), WEIGHTS)
    # [2, B]
    logs = total[..., 0].log() + total[..., 1] * math.log(2)
    good = fits & ((logs[0] - logs[1]).abs() <= AGREE) & logs[0].isfinite()
    _launch(q, tensors, ~good, results, (batch, 2), LOGS)
    beyond = torch.arange(positions + 1, device=level.device) > p.lengths[:, None]

    def in_nats(x: Tensor) -> Tensor:
        x = torch.where(good[:, None, None], x.log(), x)[..., :types]
        return x.masked_fill(beyond[..., None], -torch.inf)

    pre, alpha, over = (in_nats(x) for x in outputs)
    offset = offset.masked_fill(beyond, 0).double()
    log_z = torch.where(good, total[0, :, 0].log(), total[0, :, 0])
    state = TailState(pre, alpha, over, offset, torch.stack([log_z, total[0, :, 1]]))
    return log_z + total[0, :, 1] * math.log(2) + level, state


def best(p: TailedPotentials) -> tuple[Tensor, Tensor]:
    """Find the highest-scoring segmentation, of a tail of order 1: labels and starts [B, N]."""
    body, _ = centred(p.body)
    q = TailedPotentials(body, p.enter.double(), p.stay.double(), p.order)
    batch, positions, _, types = p.sizes
    tensors = _packed(q)
    tile = tensors[0].shape[-1]
    begin, source = (
        torch.zeros(batch, positions + 1, tile, dtype=torch.int32, device=p.lengths.device)
        for _ in range(2)
    )
    last = torch.empty(batch, dtype=torch.int64, device=p.lengths.device)
    runs = torch.ones_like(p.lengths, dtype=torch.bool)
    results = (None, None, None, None, last, begin, source)
    _launch(q, tensors, runs, results, (batch, 1), MAXIMA)
    begin = begin[..., :types].flatten(1).long()
    at_begin = source[..., :types].flatten(1).long()
    kind = torch.arange(types, device=begin.device).repeat(positions + 1)
    previous = begin * types + at_begin.gather(1, begin * types + kind)
    return follow(previous, p.lengths * types + last.clamp(max=types - 1), types)


def _packed(p: TailedPotentials) -> list[Tensor]:
    """The scores as the kernel reads them, -inf for types and lengths that there are not."""
    batch, positions, longest, types = p.sizes
    tile, window = power_of_two(max(2, types)), power_of_two(longest)
    body = p.body
    inside = (torch.arange(positions, device=body.lengths.device) < body.lengths[:, None])[
        ..., None
    ]
    own = p.enter.new_zeros(batch, positions, 3, tile)
    for n, x in enumerate((body.emission, body.start, body.end)):
        if x is not None:
            own[:, :, n, :types] = torch.where(inside, x, 0)

    def padded(x: Tensor, *shape: int) -> Tensor:
        out = x.new_full((*shape, tile), -torch.inf)
        out[tuple(slice(n) for n in x.shape)] = x
        return out

    ends = torch.stack([body.initial, body.final])
    steps = torch.stack([body.transition, body.transition.mT])
    shared = (p.duration, window), (p.enter,), (p.stay,), (ends, 2), (steps, 2, tile)
    return [own, *(padded(*x) for x in shared)]


def _fits(p: TailedPotentials) -> Tensor:
    """Whether a sentence's scores stay within what weights may gain and lose in a step [B] bool."""
    positions = p.sizes[1]
    inside = (torch.arange(positions, device=p.lengths.device) < p.lengths[:, None])[..., None]
    gain = torch.zeros_like(p.lengths, dtype=torch.float64)
    loss = torch.zeros_like(gain)
    for name, x in p.scores().items():
        # -inf loses nothing that could come back; NaN fits nowhere
        x = torch.where(x == -torch.inf, 0, x)
        own = name in ("emission", "start", "end")
        x = torch.where(inside, x, 0).flatten(1) if own else x.flatten()[None]
        gain = gain + x.amax(1).clamp(min=0)
        loss = loss - x.amin(1).clamp(max=0)
    return (gain <= MOST_GAIN) & (loss <= MOST_LOSS)


def _launch(
    p: TailedPotentials,
    tensors: list[Tensor],
    runs: Tensor,
    results: tuple[Any, ...],
    grid: tuple[int, int],
    ring: tl.constexpr,
) -> None:
    """Run the kernel over the sentences for which ``runs`` is set."""
    batch, positions, longest, _ = p.sizes
    window, tile = tensors[1].shape
    tail_kernel[grid](
        *tensors, p.lengths, runs.to(torch.uint8),
        # results
        *results,
        # sizes
        batch, positions, longest,
        WINDOW=window, TYPES=tile, ORDER=p.order, STAGES=power_of_two(p.order), RING=ring.value,
        RESCALE=RESCALE,         num_warps=max(1, min(8, window * tile // 512)),
    )  # fmt: skip
