"""The recurrence over boundaries, in both directions at once: one program a sentence and direction.

With U[s, c], the scores of the open segments (window.py), a step is

    alpha[t+1, c] = end[t, c] + logsumexp_{t-L < s <= t} U[s, c] + duration[t-s, c]
    pre[t+1, c]   = logsumexp_{c'} alpha[t+1, c'] + transition[c', c]

What a step waits for is short: of the sum over s only the newest start depends on the step before,
so the rest of the sum is taken one step ahead. All values are relative to an offset in float64,
which moves each step. The suffix recurrence is the same one, read from right to left.

Where no transition is 2^48 times less likely than the likeliest into its type (FAST), what waits
stays a sum of weights, without logarithms: with w = exp2(alpha - offset), a step is

    w[t+1, c] = entered[t, c] exp2(highest[c] + score of the segment [t, t+1) - delta) + rest
    entered[t+1, c] = sum_{c'} w[t+1, c'] exp2(transition[c', c] - highest[c])

and the offset moves by delta, a bound on log2 w that is known one product earlier. It is at most 48
too large, so that `entered` is above 2^-96 where any w is: what underflows, below 2^-126, adds to
no digit of it. Otherwise a step is a log-sum-exp, and -inf and huge scores stay exact. `alpha` and
`pre` are logarithms in both.

A sentence with a score above `SMALL` in magnitude is scanned again, in float64, and its log Z is
NaN where `ops.host.magnitude` says so: by the survey.

Memory traffic: 3 N C reads, 2 N C writes a program; N L C more reads with segment scores.
Source: Sarawagi and Cohen (2004), equation 5.
"""

from __future__ import annotations

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
    log2,
    log_sum_exp2,
    state_in,
    usable,
)
from hf_semicrf.ops.kernels.magnitude import is_large, magnitudes
from hf_semicrf.ops.kernels.survey import is_told, survey
from hf_semicrf.ops.kernels.window import (
    Plan,
    advance_window,
    read_earlier_segments,
    read_first_steps,
    read_row,
    read_segments,
    read_step,
    write_durations,
)
from hf_semicrf.ops.potentials import Potentials


# the tables count as unaligned: wide loads of them would spread a column over more threads
@triton.jit(do_not_specialize=["table", "wide", "batch", "positions", "longest", "types"])
def scan_kernel(
    # potentials
    emission, segment, start, end, duration, transition, initial, final, lengths,
    # results and scratch
    log_z, pre_out, alpha_out, offset_out, total_out, table, wide, large,
    # sizes
    batch, positions, longest, types,
    WINDOW: tl.constexpr, TYPES: tl.constexpr, SOURCES: tl.constexpr, LONG: tl.constexpr,
    PRECISE_WINDOW: tl.constexpr, PRECISE_SOURCES: tl.constexpr, PRECISE_LONG: tl.constexpr,
    ROWS: tl.constexpr, KEEP: tl.constexpr,
):  # fmt: skip
    """One sentence, one direction; see the head of this file."""
    b, reverse = tl.program_id(0).to(tl.int64), tl.program_id(1)
    length = tl.load(lengths + b).to(tl.int32)
    first_row = b * positions  # of this sentence in an input
    first_boundary = (reverse.to(tl.int64) * batch + b) * (positions + 1)  # and in an output
    pre_out += first_boundary * types
    alpha_out += first_boundary * types
    offset_out += first_boundary
    program = reverse * tl.num_programs(0) + tl.program_id(0)
    table += program * ((2 * WINDOW + SOURCES) * TYPES)
    wide += program * ((2 * PRECISE_WINDOW + PRECISE_SOURCES) * TYPES)
    precise = duration.dtype.element_ty == tl.float64
    if duration.dtype.element_ty != tl.float64:
        precise = is_large(large, b)
        if not precise:
            total = _scan_as(
                # potentials
                emission, segment, start, end, duration, transition, initial, final,
                # results and scratch
                pre_out, alpha_out, offset_out, table,
                # where
                first_row, reverse, length, longest, types,
                WINDOW, TYPES, SOURCES, LONG, KEEP, SOURCES == TYPES, duration.dtype.element_ty,
            )  # fmt: skip
            if reverse == 0:
                tl.store(log_z + b, total * LN2)
                tl.store(total_out + 2 * b, total)
                tl.store(total_out + 2 * b + 1, tl.zeros([], tl.float64))
    if precise:
        total = _scan_apart(
            # potentials
            emission, segment, start, end, duration, transition, initial, final,
            # results and scratch
            pre_out, alpha_out, offset_out, wide,
            # where
            first_row, reverse, length, longest, types,
            PRECISE_WINDOW, TYPES, PRECISE_SOURCES, PRECISE_LONG, True, tl.float64,
        )  # fmt: skip
        if reverse == 0:
            level, least = survey(
                emission, segment, start, end, duration, transition, initial, final,
                first_row, length, longest, types, TYPES, ROWS,
            )  # fmt: skip
            total = tl.where(is_told(total * LN2, least), total, float("nan"))
            tl.store(log_z + b, total * LN2 + level)
            tl.store(total_out + 2 * b, total)
            tl.store(total_out + 2 * b + 1, tl.zeros([], tl.float64) + 1.0)


@triton.jit(noinline=True)
def _scan_apart(
    # potentials
    emission, segment, start, end, duration, transition, initial, final,
    # results and scratch
    pre_out, alpha_out, offset_out, table,
    # where
    first_row, reverse, length, longest, types,
    WINDOW: tl.constexpr, TYPES: tl.constexpr, SOURCES: tl.constexpr, LONG: tl.constexpr,
    KEEP: tl.constexpr, dtype: tl.constexpr,
):  # fmt: skip
    """The scan with logarithms, as a call: the compiler takes the square of a function's size."""
    return _scan_as(
        emission, segment, start, end, duration, transition, initial, final,
        pre_out, alpha_out, offset_out, table,
        first_row, reverse, length, longest, types,
        WINDOW, TYPES, SOURCES, LONG, KEEP, False, dtype,
    )  # fmt: skip


@triton.jit
def _scan_as(
    # potentials
    emission, segment, start, end, duration, transition, initial, final,
    # results and scratch
    pre_out, alpha_out, offset_out, table,
    # where
    first_row, reverse, length, longest, types,
    WINDOW: tl.constexpr, TYPES: tl.constexpr, SOURCES: tl.constexpr, LONG: tl.constexpr,
    KEEP: tl.constexpr, FAST: tl.constexpr, dtype: tl.constexpr,
):  # fmt: skip
    """The scan in a dtype, where FAST by weights if they allow it; log Z in base 2 and no level."""
    minus_inf = -float("inf")
    c = tl.arange(0, TYPES)
    source = tl.arange(0, SOURCES)
    real = c < types
    zeros = tl.zeros([TYPES], dtype)
    pre_out, alpha_out = state_in(pre_out, dtype), state_in(alpha_out, dtype)
    if KEEP:
        at = tl.where(reverse == 1, length, 0)
        tl.store(alpha_out + at * types + c, zeros + minus_inf, mask=real)
        tl.store(offset_out + at, tl.zeros([], tl.float64))

    # transition[source, c]; its transpose when reading from right to left
    stride_source = tl.where(reverse == 1, 1, types)
    stride_c = tl.where(reverse == 1, types, 1)
    write_durations(table, duration, longest, types, WINDOW, TYPES, LONG, LOG2E, dtype)
    if SOURCES == TYPES:
        cell = source[:, None] * TYPES + c[None, :]
        valid = (source[:, None] < types) & real[None, :]
        at = source[:, None] * stride_source + c[None, :] * stride_c
        read = tl.load(transition + at, mask=valid, other=minus_inf)
        # by way of memory, so that the layout is that of the window in both directions
        tl.store(table + 2 * WINDOW * TYPES + cell, usable(read.to(dtype)) * LOG2E)
    tl.debug_barrier()

    initial_row = read_row(initial, final, reverse, 0, c, types, zeros)
    final_row = read_row(final, initial, reverse, 0, c, types, zeros)
    shortest = tl.load(duration + c, mask=real, other=minus_inf).to(dtype)
    initial_row = tl.where(real, initial_row * LOG2E, minus_inf)
    shortest = usable(shortest) * LOG2E

    steps = zeros[None, :]  # no transitions where they do not fit
    highest = zeros
    if SOURCES == TYPES:
        steps = tl.load(table + 2 * WINDOW * TYPES + cell)
        highest = finite(tl.max(steps, 0))
    final_row = tl.where(real, final_row * LOG2E, minus_inf)
    if FAST:
        if tl.min(tl.where(valid, steps - highest[None, :], 0.0)) > -48.0:
            total = _scan_steps(
                # potentials
                emission, segment, start, end, duration, transition,
                # results and scratch
                pre_out, alpha_out, offset_out, table,
                # where
                first_row, reverse, length, longest, types,
                stride_source, stride_c,
                # what is in registers: `steps` as weights
                initial_row, final_row, shortest, tl.exp2(steps - highest[None, :]), highest, zeros,
                WINDOW, TYPES, SOURCES, LONG, KEEP, True,
            )  # fmt: skip
        else:
            total = _scan_apart(
                # potentials
                emission, segment, start, end, duration, transition, initial, final,
                # results and scratch
                pre_out, alpha_out, offset_out, table,
                # where
                first_row, reverse, length, longest, types,
                WINDOW, TYPES, SOURCES, LONG, KEEP, dtype,
            )  # fmt: skip
    else:
        total = _scan_steps(
            # potentials
            emission, segment, start, end, duration, transition,
            # results and scratch
            pre_out, alpha_out, offset_out, table,
            # where
            first_row, reverse, length, longest, types,
            stride_source, stride_c,
            # what is in registers
            initial_row, final_row, shortest, steps, highest, zeros,
            WINDOW, TYPES, SOURCES, LONG, KEEP, False,
        )  # fmt: skip
    return total


@triton.jit
def _scan_steps(
    emission, segment, start, end, duration, transition,
    pre_out, alpha_out, offset_out, table,
    first_row, reverse, length, longest, types,
    stride_source, stride_c,
    initial_row, final_row, shortest, steps, highest, zeros,
    WINDOW: tl.constexpr, TYPES: tl.constexpr, SOURCES: tl.constexpr, LONG: tl.constexpr,
    KEEP: tl.constexpr, FAST: tl.constexpr,
):  # fmt: skip
    """All steps, and log Z of the last. ``steps`` are weights where FAST."""
    dtype: tl.constexpr = zeros.dtype
    minus_inf = -float("inf")
    c = tl.arange(0, TYPES)
    source = tl.arange(0, SOURCES)
    row = tl.arange(0, WINDOW)[:, None]
    real = c < types

    pre = initial_row
    alpha = zeros + minus_inf
    open_segments = tl.full([WINDOW, TYPES], minus_inf, dtype)
    shift = tl.sum(zeros)
    offset = tl.zeros([], tl.float64)
    em, enter, leave, unit, em2, enter2, leave2, unit2 = read_first_steps(
        emission, segment, start, end,
        # where
        reverse, first_row, length, longest, types,
        # what is in registers
        c, zeros, shortest, LOG2E,
    )  # fmt: skip
    rest_top, rest_sum = zeros + minus_inf, zeros
    if FAST:
        # the first segment of length 1 counts as one of the rest: `initial` is not a product
        rest_top, rest_sum = pre + enter + em + unit + leave, zeros + 1.0
        entered = zeros
        gain = highest + enter + em + unit + leave
        reach = zeros + minus_inf  # log2 w of the boundary before, and the highest gain
    if segment is not None:
        scores = read_segments(
            segment, first_row, 1, length, reverse, longest, types, WINDOW, TYPES, LONG
        )

    block = length
    if LONG:
        block = WINDOW
    for t0 in range(0, length, block):
        if LONG:
            tl.debug_barrier()  # pre of earlier blocks was written by other threads
            earlier_top, earlier_sum = _earlier_sums(
                emission, segment, start, end, duration, pre_out, offset_out,
                # where
                first_row, t0, length, reverse, longest, types,
                # what is in registers
                offset, zeros, WINDOW, TYPES,
            )  # fmt: skip
            open_segments = earlier_top + log2(earlier_sum)
            open_segments = tl.where(earlier_sum > 0.0, open_segments, minus_inf)
            if t0 > 0:
                rest_top = tl.max(tl.where(row == 0, open_segments, minus_inf), 0) + em + leave
                rest_sum = zeros + 1.0
            shift = tl.sum(zeros)
        for t in range(t0, tl.minimum(t0 + block, length)):
            em1, enter1, leave1 = em2 * LOG2E, enter2 * LOG2E, leave2 * LOG2E
            unit1 = shortest + unit2 * LOG2E
            em2, enter2, leave2, unit2 = read_step(
                emission, segment, start, end,
                # where
                reverse, first_row, t + 2, length, longest, types,
                c, zeros,
            )  # fmt: skip
            if WINDOW > 1 and segment is not None:
                scores2 = read_segments(
                    segment, first_row, t + 2, length, reverse, longest, types, WINDOW, TYPES, LONG
                )
            n = tl.where(reverse == 1, length - t, t)
            at = n * types
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
                tl.store(offset_out + tl.where(reverse == 1, n - 1, n + 1), offset)
            if SOURCES < TYPES:
                tl.debug_barrier()
                pre = _enter_in_blocks(
                    alpha_out + following, transition,
                    # where
                    stride_source, stride_c, types,
                    c, source, zeros,
                )  # fmt: skip
            elif not FAST:
                pre = log_sum_exp2(alpha[:, None] + steps)

            # the rest of the next step's sum: all segments but its newest
            if WINDOW > 1:
                open_segments, rest = advance_window(
                    table, open_segments, newest, em - shift, t, WINDOW, TYPES
                )
                rest += open_segments
                if segment is not None:
                    rest += usable(scores.to(dtype)) * LOG2E
                    scores = scores2
                top = tl.max(rest, 0)
                rest_sum = tl.sum(tl.exp2(rest - finite(top)[None, :]), 0)
                rest_top = top + (em1 + leave1 - delta)
            elif FAST:
                rest_top, rest_sum = zeros + minus_inf, zeros
            shift = delta
            em, enter, leave, unit = em1, enter1, leave1, unit1
    if FAST:
        pre = log2(entered) + highest
    if KEEP:
        at = tl.where(reverse == 1, 0, length)
        tl.store(pre_out + at * types + c, pre, mask=real)
    last = tl.where(real, alpha + final_row, minus_inf)
    top = finite(tl.max(last, 0))
    total = tl.log2(tl.sum(tl.exp2(last - top), 0)) + top
    return total.to(tl.float64) + offset


@triton.jit
def _enter_in_blocks(alpha, transition, stride_source, stride_c, types, c, source, zeros):
    """The log-sum over sources that do not fit in registers, a block of them at a time."""
    top = zeros - float("inf")
    total = zeros
    for s0 in range(0, types, source.shape[0]):
        s = s0 + source
        before = tl.load(alpha + s, mask=s < types, other=-float("inf"))
        step = tl.load(
            transition + s[:, None] * stride_source + c[None, :] * stride_c,
            mask=(s[:, None] < types) & (c[None, :] < types), other=-float("inf"),
        )  # fmt: skip
        score = before[:, None] + usable(step.to(zeros.dtype)) * LOG2E
        new_top = tl.maximum(top, tl.max(score, 0))
        shift = finite(new_top)
        total = total * tl.exp2(top - shift) + tl.sum(tl.exp2(score - shift[None, :]), 0)
        top = new_top
    return log2(total) + finite(top)


@triton.jit
def _earlier_sums(
    emission, segment, start, end, duration, pre_out, offset_out,
    first_row, t0, length, reverse, longest, types,
    offset, zeros, WINDOW: tl.constexpr, TYPES: tl.constexpr,
):  # fmt: skip
    """For each position t0 + j: the log-sum of the segments that start before t0 and end there.

    Without the emissions from t0 on, which the steps add, and the end score. As (top, total):
    log2(total) + top, total = 0 for nothing.
    """
    content = zeros
    top = tl.full([WINDOW, TYPES], 0.0, zeros.dtype) - float("inf")
    total = tl.full([WINDOW, TYPES], 0.0, zeros.dtype)
    for back in range(1, tl.minimum(t0, longest - 1) + 1):
        content, scores, _ = read_earlier_segments(
            emission, segment, start, end, duration, pre_out, offset_out,
            # where
            first_row, t0, back, length, reverse, longest, types,
            # sums so far
            content, offset, zeros,
            WINDOW, TYPES, LOG2E,
        )  # fmt: skip
        new_top = tl.maximum(top, scores)
        shift = finite(new_top)
        total = total * tl.exp2(top - shift) + tl.exp2(scores - shift)
        top = new_top
    return finite(top), total


def log_partition(p: Potentials) -> Tensor:
    """Log-sum over all segmentations, in nats, float64 [B]."""
    return _launch(p, directions=1)[0]


def scan(p: Potentials) -> tuple[Tensor, State]:
    """Log-sum over all segmentations, float64 [B], and both directions' state in base 2."""
    return _launch(p, directions=2)


def in_float64(state: State) -> State:
    """The state as numbers, where the memory of a sentence may hold float32: see `state_in`."""
    precise = state.total[:, 1, None, None] > 0

    def read(x: Tensor) -> Tensor:
        narrow = x.flatten(2).view(torch.float32)[..., : x[0, 0].numel()].reshape(x.shape)
        return torch.where(precise, x, narrow.double())

    return state._replace(pre=read(state.pre), alpha=read(state.alpha))


def _launch(p: Potentials, directions: int) -> tuple[Tensor, State]:
    """Run the scan; the state of a single direction is scratch, and for the most part unused."""
    batch, positions, longest, types = p.sizes
    plan = Plan.of(longest, types)
    keep = directions == 2 or plan.long or plan.sources < plan.types
    shape = (directions, batch, positions + 1)
    # memory for sentences with large scores; the others fill half of theirs, with float32
    pre = p.duration.new_empty((*shape, types), dtype=torch.float64)
    alpha = torch.empty_like(pre)
    offset = p.duration.new_empty(shape, dtype=torch.float64)
    log_z = p.duration.new_empty(batch, dtype=torch.float64)
    total = p.duration.new_empty((batch, 2), dtype=torch.float64)
    scan_kernel[(batch, directions)](
        # potentials
        *contiguous(p),
        # results and scratch
        log_z, pre, alpha, offset, total, *plan.tables(directions * batch, p.duration),
        magnitudes(p),
        # sizes
        batch, positions, longest, types,
        KEEP=keep, **plan.options(),
    )  # fmt: skip
    return log_z, State(pre, alpha, offset, total)
