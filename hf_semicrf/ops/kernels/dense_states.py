"""The states of the dense recurrence, from both ends of every sequence at once.

    left:  x[r, c] = beta[r, c]        = ⊕_{d, i} x[r-d, i] + edge[r-d, d, c, i]
    right: x[r, c] = gamma[N-r, c]     = ⊕_{d, i} x[r-d, i] + edge[N-r, d, i, c]        x[0] = 0

Phase 0 goes to the middle from both sides, which is all that a score needs: every edge is read by
one side or crosses the middle (dense_cut). Phase 1 goes on to the far ends, for gradients.

The steps are cut into blocks. What reaches a block from before it does not depend on the block:
`_far` computes it for all steps of the block in parallel, on the whole GPU, and reads nearly all of
the tensor; `_near` then takes the steps one by one and adds what starts within the block. Where a
step is small, `_near` alone takes all of it. States are float64; a tile is summed in ACC relative
to an anchor, the last finite maximum.

What ACC does not tell apart becomes NaN as it is read (`usable`), and with it all that follows. The
sequences whose score float32 leaves in doubt (dense_cut) are `precise`: they are taken again in
float64, by `_near` alone, with launches from which the programs of all others return at once.

Memory traffic: each edge is read once, K·C²·(T-1)·B elements; of a precise sequence three times.
Source: Sarawagi and Cohen (2004), section 3, from both ends.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from hf_semicrf.ops.kernels.common import SMALL

LARGEST = tl.constexpr(2e10)  # of a score that float64 tells apart, in nats: ops/dense/scan.py
FORBIDDEN = tl.constexpr(1e8)  # float32 takes scores below -FORBIDDEN for -inf

# Elements that one program holds at a time, and its warps.
_NEAR_TILE, _NEAR_WARPS = 8192, 8
_FAR_TILE, _FAR_WARPS = 4096, 4
_PROGRAMS_PER_SM = 32  # that _far is split into at least
_MOST_PIECES = 16


class Plan(NamedTuple):
    """How one shape is cut up."""

    steps: int  # of a block; all of them if `far` is False
    far: bool  # whether _far runs
    split: int  # programs of _far that share a step's durations
    outs: int  # output types of a program of _far
    wide: int  # output types of a program of _near: all


def plan(batch: int, rows: int, size: int, types: int, processors: int) -> Plan:
    """Choose the blocks of a shape [batch, rows, size, types, types] for a number of SMs.

    What the compiler sees depends on size and types alone: no batch or length compiles anew.
    """
    wide = triton.next_power_of_2(types)
    outs = min(wide, 32)
    tile = wide * types  # padded elements of one duration
    if size * tile <= 4 * _NEAR_TILE:
        return Plan(rows // 2 + 1, False, 1, outs, wide)
    steps = min(32, max(8, triton.next_power_of_2(2 * _NEAR_TILE // tile + 1) // 2))
    programs = 2 * batch * steps * triton.cdiv(types, outs)
    enough = _PROGRAMS_PER_SM * processors // programs + 1
    split = min(enough, size * tile // _FAR_TILE, _MOST_PIECES)
    return Plan(steps, True, split, outs, wide)


@triton.jit
def is_here(precise, b, ACC: tl.constexpr):
    """Whether a sequence is taken in ACC."""
    return (tl.load(precise + b) != 0) == (ACC == tl.float64)


@triton.jit
def usable(x):
    """Scores as their dtype can add them up.

    Those far below are forbidden; NaN stands for what is not told apart. Whether a result may
    depend on what was forbidden is dense_cut's to say.
    """
    if x.dtype == tl.float64:
        x = tl.where(x <= LARGEST, x, float("nan"))
        return tl.where(x < -LARGEST, float("-inf"), x)
    else:
        small = tl.where(tl.abs(x) <= SMALL, x, float("nan"))
        return tl.where(x < -FORBIDDEN, float("-inf"), small)


@triton.jit
def span(length, phase, RIGHT: tl.constexpr):
    """First and last r of a side in a phase."""
    steps = length - 1
    middle = (steps + 1) // 2
    if RIGHT:
        return phase * (steps - middle + 1), tl.where(phase == 1, steps, steps - middle)
    return phase * middle, tl.where(phase == 1, steps, middle) - 1


@triton.jit
def weights(
    edge, q, count, low, out, size, C: tl.constexpr, FIRST: tl.constexpr, RIGHT: tl.constexpr
):
    """Edges [OUT, Q] of the inputs q [Q], flat over (duration, type), to the types out [OUT]."""
    d = (low + q // C).to(tl.int64)
    i = q % C
    if RIGHT:
        place = (d * (FIRST * C * C) + i * C)[None, :] + out[:, None]
    else:
        start = d * ((FIRST - size).to(tl.int64) * (C * C)) + i
        place = start[None, :] + (out * C)[:, None]
        if C % 2 == 1:  # runs of odd length: say which axis is the contiguous one
            place = tl.max_contiguous(place, [1, 2])
    return tl.load(edge + place, mask=(q < count)[None, :] & (out < C)[:, None], other=0.0)


@triton.jit
def states(state, q, count, low, anchor, C: tl.constexpr, RIGHT: tl.constexpr, ACC: tl.constexpr):
    """States [Q] of the inputs q, less the anchor; -inf from count on."""
    d = low + q // C
    if RIGHT:
        place = d * C + q % C
    else:
        place = q % C - d * C
    return (tl.load(state + place, mask=q < count, other=float("-inf")) - anchor).to(ACC)


@triton.jit
def broken(value, axis: tl.constexpr):
    """How many are NaN or +inf, which a maximum would not tell."""
    return tl.sum(tl.where(value < float("inf"), 0.0, 1.0), axis)


@triton.jit
def add(top, mass, weight, state, MAX: tl.constexpr):
    """Add weight [OUT, Q] + state [Q] to the running maximum and scaled sum, both [OUT].

    With maxima, the sum counts values that are none.
    """
    value = weight + state[None, :]
    peak = tl.maximum(top, tl.max(value, 1))
    if MAX:
        mass += broken(value, 1).to(mass.dtype)
    else:
        safe = tl.where(peak == float("-inf"), 0.0, peak)
        mass = mass * tl.exp(top - safe) + tl.sum(tl.exp(value - safe[:, None]), 1)
    return peak, mass


@triton.jit
def close(top, mass, MAX: tl.constexpr):
    """The sum that a running maximum and a scaled sum stand for; NaN for NaN and +inf."""
    if MAX:
        return tl.where(mass > 0.0, float("nan"), top)
    else:
        return tl.where((top == float("-inf")) & (mass == mass), top, top + tl.log(mass))


@triton.jit
def pull(
    edge, state, low, high, anchor, out, size,
    C: tl.constexpr, FIRST: tl.constexpr, RIGHT: tl.constexpr, MAX: tl.constexpr,
    ACC: tl.constexpr, OUT: tl.constexpr, Q: tl.constexpr,
):  # fmt: skip
    """⊕ over durations low..high and input types, to the types out [OUT], less the anchor."""
    lane = tl.arange(0, Q)
    count = (high - low + 1) * C
    top = tl.full((OUT,), float("-inf"), ACC)
    mass = tl.zeros((OUT,), ACC)
    for base in range(0, count, Q):
        weight = weights(edge, base + lane, count, low, out, size, C, FIRST, RIGHT)
        state_q = states(state, base + lane, count, low, anchor, C, RIGHT, ACC)
        top, mass = add(top, mass, usable(weight.to(ACC)), state_q, MAX)
    return close(top, mass, MAX)


@triton.jit
def _far_side(
    # potentials, states and scratch
    edge, lengths, beta, gamma, anchors, partial,
    # where
    b, rows, size, count, phase, block, steps, split,
    C: tl.constexpr, FIRST: tl.constexpr, RIGHT: tl.constexpr, MAX: tl.constexpr,
    ACC: tl.constexpr, TILES: tl.constexpr,
    OUT: tl.constexpr, Q: tl.constexpr,
):  # fmt: skip
    step = tl.program_id(1) // (split * TILES)
    piece = tl.program_id(1) // TILES % split
    out = tl.program_id(1) % TILES * OUT + tl.arange(0, OUT)
    length = tl.load(lengths + b).to(tl.int32)
    first, last = span(length, phase, RIGHT)
    r = first + block * steps + step
    if r <= last:
        low = step + 1
        high = tl.minimum(count, r)
        share = tl.cdiv(tl.maximum(high - low + 1, 0), split)
        low += piece * share
        high = tl.minimum(high, low + share - 1)
        if RIGHT:
            n = (length - 1 - r).to(tl.int64)
            state = gamma
        else:
            n = r.to(tl.int64)
            state = beta
        sequence = b.to(tl.int64)
        anchor = tl.load(anchors + 2 * b + RIGHT)
        total = pull(
            edge + (sequence * rows + n) * size * (C * C),
            state + (sequence * (rows + 1) + n) * C,
            # durations, and output types
            low, high, anchor, out, size, C, FIRST, RIGHT, MAX, ACC, OUT, Q,
        )  # fmt: skip
        place = (((2 * sequence + RIGHT) * steps + step) * split + piece) * C
        tl.store(partial + place + out, anchor + total.to(tl.float64), mask=out < C)


@triton.jit(do_not_specialize=["rows", "size", "count", "phase", "block", "steps", "split"])
def _far(
    # potentials, states and scratch
    edge, lengths, beta, gamma, anchors, precise, partial,
    # where
    rows, size, count, phase, block, steps, split,
    C: tl.constexpr, FIRST: tl.constexpr, MAX: tl.constexpr, ACC: tl.constexpr,
    TILES: tl.constexpr, OUT: tl.constexpr, Q: tl.constexpr,
):  # fmt: skip
    """What reaches each step of a block from before the block."""
    b = tl.program_id(0) // 2
    if not is_here(precise, b, ACC):
        return
    if tl.program_id(0) % 2 == 0:
        _far_side(
            # potentials, states and scratch
            edge, lengths, beta, gamma, anchors, partial,
            # where
            b, rows, size, count, phase, block, steps, split,
            C, FIRST, False, MAX, ACC, TILES, OUT, Q,
        )  # fmt: skip
    else:
        _far_side(
            # potentials, states and scratch
            edge, lengths, beta, gamma, anchors, partial,
            # where
            b, rows, size, count, phase, block, steps, split,
            C, FIRST, True, MAX, ACC, TILES, OUT, Q,
        )  # fmt: skip


@triton.jit
def _near_side(
    # potentials, states and scratch
    edge, lengths, beta, gamma, anchors, partial,
    # where
    b, rows, size, count, phase, block, steps, split,
    C: tl.constexpr, FIRST: tl.constexpr, RIGHT: tl.constexpr, MAX: tl.constexpr,
    ACC: tl.constexpr, FAR: tl.constexpr, PIECES: tl.constexpr,
    OUT: tl.constexpr, Q: tl.constexpr,
):  # fmt: skip
    out = tl.arange(0, OUT)
    piece = tl.arange(0, PIECES)
    lane = tl.arange(0, Q)
    length = tl.load(lengths + b).to(tl.int32)
    first, last = span(length, phase, RIGHT)
    begin = first + block * steps
    end = tl.minimum(begin + steps - 1, last)
    sequence = b.to(tl.int64)
    side = 2 * sequence + RIGHT
    anchor = tl.where(begin > 0, tl.load(anchors + side), 0.0)
    # One boundary on is +1 for the left side and -1 for the right one.
    if RIGHT:
        turn = -1
        origin = length - 1
        state_0 = gamma + sequence * (rows + 1) * C
    else:
        turn = 1
        origin = length * 0
        state_0 = beta + sequence * (rows + 1) * C
    edge_0 = edge + sequence * rows * size * (C * C)
    pitch = size.to(tl.int64) * (C * C)

    reach = tl.minimum(count, begin)
    if FAR:
        reach = 0
    inputs = reach * C
    weight = weights(
        edge_0 + (origin + turn * begin) * pitch, lane, tl.where(begin <= end, inputs, 0), 1, out,
        size, C, FIRST, RIGHT,
    )  # fmt: skip
    for r in range(begin, end + 1):
        n = origin + turn * r
        state = state_0 + n.to(tl.int64) * C
        following = tl.minimum(count, r + 1)
        if FAR:
            following = tl.minimum(count, r + 1 - begin)
        following = tl.where(r < end, following * C, 0)
        top = tl.full((OUT,), float("-inf"), ACC)
        mass = tl.zeros((OUT,), ACC)
        for base in range(0, tl.maximum(inputs, 1), Q):
            # The next tile is on its way while this one is added.
            done = base + Q >= inputs
            later = weights(
                edge_0 + (n + tl.where(done, turn, 0)) * pitch,
                tl.where(done, 0, base + Q) + lane, tl.where(done, following, inputs), 1, out,
                size, C, FIRST, RIGHT,
            )  # fmt: skip
            state_q = states(state, base + lane, inputs, 1, anchor, C, RIGHT, ACC)
            top, mass = add(top, mass, usable(weight.to(ACC)), state_q, MAX)
            weight = later
        if FAR:
            place = ((side * steps + r - begin) * split + piece)[:, None] * C + out[None, :]
            known = (out < C)[None, :] & (piece < split)[:, None]
            before = tl.load(partial + place, mask=known, other=float("-inf")) - anchor
            before = before.to(ACC)
            peak = tl.maximum(top, tl.max(before, 0))
            if MAX:
                mass += broken(before, 0).to(mass.dtype)
            else:
                safe = tl.where(peak == float("-inf"), 0.0, peak)
                mass = mass * tl.exp(top - safe) + tl.sum(tl.exp(before - safe[None, :]), 0)
            top = peak
        total = close(top, mass, MAX)
        if (
            ACC != tl.float64
        ):  # states that lie so far apart lose digits which a later score may need
            within = (tl.abs(total) <= 2 * SMALL) | (total == float("-inf"))
            total = tl.where(within, total, float("nan"))
        value = tl.where(r == 0, 0.0, anchor + total.to(tl.float64))
        tl.store(state + out, value, mask=out < C)
        highest = tl.max(tl.where(out < C, value, float("-inf")), 0)
        anchor = tl.where(highest > float("-inf"), highest, anchor)
        inputs = following
        tl.debug_barrier()  # the store is seen by the next step's loads
    tl.store(anchors + side, anchor)


@triton.jit(do_not_specialize=["rows", "size", "count", "phase", "block", "steps", "split"])
def _near(
    # potentials, states and scratch
    edge, lengths, beta, gamma, anchors, precise, partial,
    # where
    rows, size, count, phase, block, steps, split,
    C: tl.constexpr, FIRST: tl.constexpr, MAX: tl.constexpr, ACC: tl.constexpr, FAR: tl.constexpr,
    PIECES: tl.constexpr, OUT: tl.constexpr, Q: tl.constexpr,
):  # fmt: skip
    """The steps of a block, one after the other."""
    b = tl.program_id(0) // 2
    if not is_here(precise, b, ACC):
        return
    if tl.program_id(0) % 2 == 0:
        _near_side(
            # potentials, states and scratch
            edge, lengths, beta, gamma, anchors, partial,
            # where
            b, rows, size, count, phase, block, steps, split,
            C, FIRST, False, MAX, ACC, FAR, PIECES, OUT, Q,
        )  # fmt: skip
    else:
        _near_side(
            # potentials, states and scratch
            edge, lengths, beta, gamma, anchors, partial,
            # where
            b, rows, size, count, phase, block, steps, split,
            C, FIRST, True, MAX, ACC, FAR, PIECES, OUT, Q,
        )  # fmt: skip


def durations(size: int) -> tuple[int, int]:
    """Number of durations of an axis K of this size, and the index of duration 1."""
    return (1, 0) if size == 1 else (size - 1, 1)


def _tile(elements: int, warps: int, outs: int, inputs: int, acc: tl.dtype) -> dict[str, int]:
    """OUT and Q of a tile of at most `elements`, no wider than the inputs there are."""
    if acc == tl.float64:  # which takes twice the registers, and a long time to compile
        elements //= 8
    width = min(triton.next_power_of_2(inputs), max(4, elements // outs))
    return {"OUT": outs, "Q": width, "num_warps": warps}


def far_tile(outs: int, inputs: int, acc: tl.dtype) -> dict[str, int]:
    """The tile of `pull` for `inputs` pairs of a duration and a type."""
    return _tile(_FAR_TILE, _FAR_WARPS, outs, inputs, acc)


def near_tile(outs: int, inputs: int, acc: tl.dtype) -> dict[str, int]:
    """The tile of a step of `_near` for `inputs` pairs of a duration and a type."""
    return _tile(_NEAR_TILE, _NEAR_WARPS, outs, inputs, acc)


def advance(
    edge: Tensor, lengths: Tensor, beta: Tensor, gamma: Tensor, anchors: Tensor, precise: Tensor,
    semiring: str, phase: int, layout: Plan, acc: tl.dtype,
) -> None:  # fmt: skip
    """Fill one phase's half of beta and gamma, in place, of the sequences that are taken in acc.

    Args:
        edge: Potentials [B, T-1, K, C, C], contiguous, nats.
        lengths: Boundaries of each sequence [B], in 1..T.
        beta: States of the left side [B, T, C], float64.
        gamma: States of the right side [B, T, C], float64.
        anchors: Last finite maximum of each side [B, 2], float64; phase 0 writes it.
        precise: Whether a sequence is taken in float64 [B] bool.
        semiring: `"log"` or `"max"`.
        phase: 0 to the middle, 1 from there on.
        layout: From `plan`.
        acc: The dtype of a tile's sums.
    """
    batch, rows, size, types, _ = edge.shape
    count, first = durations(size)
    partial = beta.new_empty((batch, 2, layout.steps if layout.far else 0, layout.split, types))
    constants = {"C": types, "FIRST": first, "MAX": semiring == "max", "ACC": acc}
    tiles = triton.cdiv(types, layout.outs)
    inputs = types * (min(count, layout.steps) if layout.far else count)
    for block in range(triton.cdiv(rows // 2 + 1, layout.steps)):
        run_far = layout.far and (phase > 0 or block > 0)
        split = layout.split if run_far else 0
        shared = (
            *(edge, lengths, beta, gamma, anchors, precise, partial),
            *(rows, size, count, phase, block),
        )
        if run_far:
            _far[(2 * batch, layout.steps * split * tiles)](
                *shared, layout.steps, split,
                TILES=tiles, **constants, **far_tile(layout.outs, types * count, acc),
            )  # fmt: skip
        _near[(2 * batch,)](
            *shared, layout.steps, split, FAR=layout.far, PIECES=_MOST_PIECES,
            **constants, **near_tile(layout.wide, inputs, acc),
        )  # fmt: skip
