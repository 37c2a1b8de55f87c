"""The recurrence over boundaries, in both directions at once: one program a sentence and direction.

With U[s, c] = pre[s, c] + start[s, c] + the emissions since s, the open segments' scores, a step is

    alpha[t+1, c] = end[t, c] + logsumexp_{t-L < s <= t} U[s, c] + duration[t-s, c]
    pre[t+1, c]   = logsumexp_{c'} alpha[t+1, c'] + transition[c', c]

U stays in registers, a row a start, and new starts replace the rows of expired ones. What a step
waits for is short: of the sum over s only the newest start depends on the step before, so the
rest of the sum is taken one step ahead. All values are relative to an offset in float64, which
moves each step. The suffix recurrence is the same one, read from right to left.

Where no transition is 2^48 times less likely than the likeliest into its type (FAST), what waits
stays a sum of weights, without logarithms: with w = exp2(alpha - offset), a step is

    w[t+1, c] = entered[t, c] exp2(highest[c] + score of the segment [t, t+1) - delta) + rest
    entered[t+1, c] = sum_{c'} w[t+1, c'] exp2(transition[c', c] - highest[c])

and the offset moves by delta, a bound on log2 w that is known one product earlier. It is at most 48
too large, so that `entered` is above 2^-96 where any w is: what underflows, below 2^-126, adds to
no digit of it. Otherwise a step is a log-sum-exp, and -inf and huge scores stay exact. `alpha` and
`pre` are logarithms in both.

Segments longer than the window: time is cut into blocks of WINDOW steps. Row j of a block then
starts out as the sum over all segments that began before the block and end at its position j; a
start inside the block takes the row over once that position has passed.

Memory traffic: 3 N C reads, 2 N C writes a program; N L C more reads with segment scores.
Source: Sarawagi and Cohen (2004), equation 5.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from hf_semicrf.ops.forward_backward import State
from hf_semicrf.ops.kernels.common import (
    LN2,
    LOG2E,
    contiguous,
    finite,
    load_scaled,
    log2,
    log_sum_exp2,
    power_of_two,
    window_segments,
    window_table,
)
from hf_semicrf.ops.potentials import Potentials

MAX_WINDOW_ELEMENTS = 8192  # of the window's tile: more would not fit in registers
MAX_RESIDENT_TYPES = 128  # up to which the transitions stay in registers


@triton.jit
def _row(forward, backward, reverse, offset, c, count, none):
    """A row's first ``count`` entries, as they are; of the second tensor when reading leftwards."""
    if forward is None and backward is None:
        return none
    elif forward is None:
        return tl.load(backward + offset + c, mask=c < tl.where(reverse == 1, count, 0), other=0.0)
    elif backward is None:
        return tl.load(forward + offset + c, mask=c < tl.where(reverse == 1, 0, count), other=0.0)
    else:
        pointer = tl.where(reverse == 1, backward, forward)
        return tl.load(pointer + offset + c, mask=c < count, other=0.0)


@triton.jit
def _rows(emission, segment, start, end, reverse, first, t, length, longest, types, c, none):
    """What step t reads: emissions, start and end scores, and segments of length 1.

    In nats: a multiplication here would wait for memory.
    """
    n = tl.where(reverse == 1, length - 1 - t, t)
    at = (first + n) * types
    count = tl.where(t < length, types, 0)
    return (
        _row(emission, emission, reverse, at, c, count, none),
        _row(start, end, reverse, at, c, count, none),
        _row(end, start, reverse, at, c, count, none),
        _row(segment, segment, reverse, at * longest, c, count, none),
    )


# the table counts as unaligned: wide loads of it would spread a column over more threads
@triton.jit(do_not_specialize=["table", "batch", "positions", "longest", "types"])
def scan_kernel(
    emission, segment, start, end, duration, transition, initial, final, lengths,
    log_z, pre_out, alpha_out, offset_out, table,
    batch, positions, longest, types,
    WINDOW: tl.constexpr, TYPES: tl.constexpr, SOURCES: tl.constexpr, LONG: tl.constexpr,
    KEEP: tl.constexpr,
):  # fmt: skip
    """One sentence, one direction; see the head of this file."""
    b, reverse = tl.program_id(0).to(tl.int64), tl.program_id(1)
    length = tl.load(lengths + b).to(tl.int32)
    dtype: tl.constexpr = duration.dtype.element_ty
    minus_inf = -float("inf")
    c = tl.arange(0, TYPES)
    source = tl.arange(0, SOURCES)
    real = c < types
    none = tl.zeros([TYPES], dtype)
    first = b * positions  # this sentence's first row in an input
    kept = (reverse.to(tl.int64) * batch + b) * (positions + 1)  # and its boundary 0 in an output

    # transition[source, c]; its transpose when reading from right to left
    stride_source = tl.where(reverse == 1, 1, types)
    stride_c = tl.where(reverse == 1, types, 1)
    table += (reverse * tl.num_programs(0) + tl.program_id(0)) * ((2 * WINDOW + SOURCES) * TYPES)
    window_table(table, duration, longest, types, LOG2E, WINDOW, TYPES, LONG)
    if SOURCES == TYPES:
        cell = source[:, None] * TYPES + c[None, :]
        valid = (source[:, None] < types) & real[None, :]
        read = load_scaled(
            transition, source[:, None] * stride_source + c[None, :] * stride_c, valid, minus_inf
        )
        # by way of memory, so that the layout is that of the window in both directions
        tl.store(table + 2 * WINDOW * TYPES + cell, read)
    tl.debug_barrier()

    initial_row = _row(initial, final, reverse, 0, c, types, none) * LOG2E
    initial_row = tl.where(real, initial_row, minus_inf)
    shortest = load_scaled(duration, c, real, minus_inf)
    if KEEP:
        at = kept + tl.where(reverse == 1, length, 0)
        tl.store(alpha_out + at * types + c, none + minus_inf, mask=real)
        tl.store(offset_out + at, tl.zeros([], tl.float64))

    if SOURCES == TYPES:
        steps = tl.load(table + 2 * WINDOW * TYPES + cell)
        highest = finite(tl.max(steps, 0))
        safe = tl.min(tl.where(valid, steps - highest[None, :], 0.0)) > -48.0
        if safe:
            alpha, offset = _walk(
                emission, segment, start, end, duration, transition, pre_out, alpha_out, offset_out,
                table, first, kept, reverse, length, longest, types, stride_source, stride_c,
                initial_row, shortest, tl.exp2(steps - highest[None, :]), highest, none,
                WINDOW, TYPES, SOURCES, LONG, KEEP, True,
            )  # fmt: skip
        else:
            alpha, offset = _walk(
                emission, segment, start, end, duration, transition, pre_out, alpha_out, offset_out,
                table, first, kept, reverse, length, longest, types, stride_source, stride_c,
                initial_row, shortest, steps, highest, none,
                WINDOW, TYPES, SOURCES, LONG, KEEP, False,
            )  # fmt: skip
    else:
        alpha, offset = _walk(
            emission, segment, start, end, duration, transition, pre_out, alpha_out, offset_out,
            table, first, kept, reverse, length, longest, types, stride_source, stride_c,
            initial_row, shortest, none[None, :], none, none,
            WINDOW, TYPES, SOURCES, LONG, KEEP, False,
        )  # fmt: skip

    if reverse == 0:
        last = tl.where(real, alpha + load_scaled(final, c, real, minus_inf), minus_inf)
        top = finite(tl.max(last, 0))
        total = tl.log2(tl.sum(tl.exp2(last - top), 0)) + top
        tl.store(log_z + b, (total.to(tl.float64) + offset) * LN2)


@triton.jit
def _walk(
    emission, segment, start, end, duration, transition, pre_out, alpha_out, offset_out,
    table, first, kept, reverse, length, longest, types, stride_source, stride_c,
    initial_row, shortest, steps, highest, none,
    WINDOW: tl.constexpr, TYPES: tl.constexpr, SOURCES: tl.constexpr, LONG: tl.constexpr,
    KEEP: tl.constexpr, FAST: tl.constexpr,
):  # fmt: skip
    """All steps; the last boundary's alpha and offset. ``steps`` are weights where FAST."""
    dtype: tl.constexpr = duration.dtype.element_ty
    minus_inf = -float("inf")
    c = tl.arange(0, TYPES)
    source = tl.arange(0, SOURCES)
    row = tl.arange(0, WINDOW)[:, None]
    real = c < types

    pre = initial_row
    alpha = none + minus_inf
    open_segments = tl.full([WINDOW, TYPES], minus_inf, dtype)
    shift = tl.sum(none)
    offset = tl.zeros([], tl.float64)
    em, enter, leave, unit = _rows(
        emission, segment, start, end, reverse, first, 0, length, longest, types, c, none
    )
    em, enter, leave, unit = em * LOG2E, enter * LOG2E, leave * LOG2E, shortest + unit * LOG2E
    # what step t reads is loaded in step t - 2
    em2, enter2, leave2, unit2 = _rows(
        emission, segment, start, end, reverse, first, 1, length, longest, types, c, none
    )
    rest_top, rest_sum = none + minus_inf, none
    if FAST:
        # the first segment of length 1 counts as one of the rest: `initial` is not a product
        rest_top, rest_sum = pre + enter + em + unit + leave, none + 1.0
        entered = none
        gain = highest + enter + em + unit + leave
        reach = none + minus_inf  # log2 w of the boundary before, and the highest gain
    if segment is not None:
        scores = window_segments(
            segment, first, 1, length, reverse, longest, types, WINDOW, TYPES, LONG
        )

    block = length
    if LONG:
        block = WINDOW
    for t0 in range(0, length, block):
        if LONG:
            tl.debug_barrier()  # pre of earlier blocks was written by other threads
            older_top, older_sum = _older(
                emission, segment, start, end, duration, pre_out, offset_out, first, kept, offset,
                t0, length, reverse, longest, types, real, none, WINDOW, TYPES,
            )  # fmt: skip
            open_segments = older_top + log2(older_sum)
            open_segments = tl.where(older_sum > 0.0, open_segments, minus_inf)
            if t0 > 0:
                rest_top = tl.max(tl.where(row == 0, open_segments, minus_inf), 0) + em + leave
                rest_sum = none + 1.0
            shift = tl.sum(none)
        for t in range(t0, tl.minimum(t0 + block, length)):
            em1, enter1, leave1 = em2 * LOG2E, enter2 * LOG2E, leave2 * LOG2E
            unit1 = shortest + unit2 * LOG2E
            em2, enter2, leave2, unit2 = _rows(
                emission, segment, start, end, reverse, first, t + 2, length, longest, types,
                c, none,
            )  # fmt: skip
            if WINDOW > 1 and segment is not None:
                scores2 = window_segments(
                    segment, first, t + 2, length, reverse, longest, types, WINDOW, TYPES, LONG
                )
            n = tl.where(reverse == 1, length - t, t)
            at = (kept + n) * types
            following = tl.where(reverse == 1, at - types, at + types)
            if FAST:
                # what waits for the step before: the newest segment joins the rest, types change
                delta = finite(tl.max(tl.maximum(reach, rest_top), 0))
                rest = rest_sum * tl.exp2(rest_top - delta)
                weight = entered * tl.exp2(tl.minimum(gain - delta, 100.0)) + rest
                pre = tl.where(t > 0, log2(entered) + highest, pre)
                entered = tl.sum(weight[:, None] * steps, 0)
                gain = highest + enter1 + em1 + unit1 + leave1
                reach = log2(weight) + tl.max(tl.where(real, gain, minus_inf), 0)
            if KEEP:
                tl.store(pre_out + at + c, pre, mask=real)

            newest = pre + enter + em
            single = newest + (unit + leave)
            if FAST:
                single = tl.where(t > 0, single, minus_inf)
            top = finite(tl.maximum(rest_top, single))
            total = rest_sum * tl.exp2(rest_top - top) + tl.exp2(single - top)
            alpha = log2(total) + top
            if not FAST:
                delta = finite(tl.max(alpha, 0))
            alpha -= delta
            offset += delta.to(tl.float64)
            if KEEP:
                tl.store(alpha_out + following + c, alpha, mask=real)
                tl.store(offset_out + kept + tl.where(reverse == 1, n - 1, n + 1), offset)
            if SOURCES < TYPES:
                tl.debug_barrier()
                pre = _enter_in_blocks(
                    alpha_out + following, transition, stride_source, stride_c, types, c, source,
                    none,
                )  # fmt: skip
            elif not FAST:
                pre = log_sum_exp2(alpha[:, None] + steps)

            # the rest of the next step's sum: all segments but its newest
            if WINDOW > 1:
                open_segments = tl.where(
                    row == t % WINDOW, newest[None, :], open_segments + (em - shift)[None, :]
                )
                slot = (t + 1) % WINDOW
                rest = tl.load(table + (slot + WINDOW) * TYPES + (c[None, :] - row * TYPES))
                rest += open_segments
                if segment is not None:
                    rest += scores * LOG2E
                    scores = scores2
                top = tl.max(rest, 0)
                rest_sum = tl.sum(tl.exp2(rest - finite(top)[None, :]), 0)
                rest_top = top + (em1 + leave1 - delta)
            elif FAST:
                rest_top, rest_sum = none + minus_inf, none
            shift = delta
            em, enter, leave, unit = em1, enter1, leave1, unit1
    if FAST:
        pre = log2(entered) + highest
    if KEEP:
        at = kept + tl.where(reverse == 1, 0, length)
        tl.store(pre_out + at * types + c, pre, mask=real)
    return alpha, offset


@triton.jit
def _enter_in_blocks(alpha, transition, stride_source, stride_c, types, c, source, none):
    """The log-sum over sources that do not fit in registers, a block of them at a time."""
    top = none - float("inf")
    total = none
    for s0 in range(0, types, source.shape[0]):
        s = s0 + source
        before = tl.load(alpha + s, mask=s < types, other=-float("inf"))
        score = before[:, None] + load_scaled(
            transition, s[:, None] * stride_source + c[None, :] * stride_c,
            (s[:, None] < types) & (c[None, :] < types), -float("inf"),
        )  # fmt: skip
        new_top = tl.maximum(top, tl.max(score, 0))
        shift = finite(new_top)
        total = total * tl.exp2(top - shift) + tl.sum(tl.exp2(score - shift[None, :]), 0)
        top = new_top
    return log2(total) + finite(top)


@triton.jit
def _older(
    emission, segment, start, end, duration, pre_out, offset_out, first, kept, offset,
    t0, length, reverse, longest, types, real, none, WINDOW: tl.constexpr, TYPES: tl.constexpr,
):  # fmt: skip
    """For each position t0 + j: the log-sum of the segments that start before t0 and end there.

    Without the emissions from t0 on, which the steps add, and the end score. As (top, total):
    log2(total) + top, total = 0 for nothing.
    """
    c = tl.arange(0, TYPES)
    j = tl.arange(0, WINDOW)
    content = none
    top = tl.full([WINDOW, TYPES], 0.0, none.dtype) - float("inf")
    total = tl.full([WINDOW, TYPES], 0.0, none.dtype)
    for back in range(1, tl.minimum(t0, longest - 1) + 1):
        s = t0 - back
        n = tl.where(reverse == 1, length - 1 - s, s)
        at = kept + tl.where(reverse == 1, length - s, s)
        row = (first + n) * types
        content += _row(emission, emission, reverse, row, c, types, none) * LOG2E
        moved = (tl.load(offset_out + at) - offset).to(none.dtype)
        open_segment = tl.load(pre_out + at * types + c, mask=real, other=-float("inf"))
        open_segment += content + moved
        open_segment += _row(start, end, reverse, row, c, types, none) * LOG2E
        index = back + j  # the length, less one, of the segment that ends at t0 + j
        inside = (index < longest)[:, None] & real[None, :]
        score = load_scaled(duration, index[:, None] * types + c[None, :], inside, -float("inf"))
        if segment is not None:
            begin = tl.where(reverse == 1, length - 1 - t0 - j, s)
            offsets = ((first + begin) * longest + index)[:, None] * types + c[None, :]
            inside = inside & (t0 + j < length)[:, None]
            score += load_scaled(segment, offsets, inside, 0.0)
        score += open_segment[None, :]
        new_top = tl.maximum(top, score)
        shift = finite(new_top)
        total = total * tl.exp2(top - shift) + tl.exp2(score - shift)
        top = new_top
    return finite(top), total


class Plan(NamedTuple):
    """How the scans are laid out for a longest segment and a number of types.

    Args:
        window: Rows of the window's tile, one a start.
        types: Its columns.
        sources: Source types that are read at a time; all of them where they stay in registers.
        long: Whether segments outgrow the window, so that time is cut into blocks.
        warps: One warp needs no barrier; more where a thread would hold too many registers.
    """

    window: int
    types: int
    sources: int
    long: bool
    warps: int

    @classmethod
    def of(cls, longest: int, types: int) -> Plan:
        """The layout for segments of at most ``longest`` positions."""
        tile = power_of_two(max(types, 2))
        window = min(power_of_two(longest), max(2, MAX_WINDOW_ELEMENTS // tile))
        sources = tile if tile <= MAX_RESIDENT_TYPES else min(tile // 2, 32)
        elements = max(window * tile, sources * tile)
        return cls(window, tile, sources, longest > window, max(1, min(16, elements // 1024)))

    def table(self, programs: int, like: Tensor) -> Tensor:
        """Room for each program's :func:`common.window_table` and transitions."""
        return like.new_empty(programs, 2 * self.window + self.sources, self.types)

    def options(self) -> dict[str, int | bool]:
        """The kernels' compile-time arguments."""
        return {
            "WINDOW": self.window,
            "TYPES": self.types,
            "SOURCES": self.sources,
            "LONG": self.long,
            "num_warps": self.warps,
        }


def log_partition(p: Potentials) -> Tensor:
    """Log-sum over all segmentations, in nats, float64 [B]."""
    return _launch(p, directions=1)[0]


def scan(p: Potentials) -> tuple[Tensor, State]:
    """Log-sum over all segmentations, float64 [B], and both directions' state in base 2."""
    return _launch(p, directions=2)


def _launch(p: Potentials, directions: int) -> tuple[Tensor, State]:
    """Run the scan; the state of a single direction is scratch."""
    batch, positions, longest, types = p.sizes
    plan = Plan.of(longest, types)
    keep = directions == 2 or plan.long or plan.sources < plan.types
    shape = (directions, batch, positions + 1) if keep else (0,)
    pre = p.duration.new_empty((*shape, types) if keep else shape)
    alpha = torch.empty_like(pre)
    offset = p.duration.new_empty(shape, dtype=torch.float64)
    log_z = p.duration.new_empty(batch, dtype=torch.float64)
    scan_kernel[(batch, directions)](
        *contiguous(p), log_z, pre, alpha, offset, plan.table(directions * batch, pre),
        batch, positions, longest, types, KEEP=keep, **plan.options(),
    )  # fmt: skip
    return log_z, State(pre, alpha, offset)
