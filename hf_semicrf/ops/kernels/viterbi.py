"""The best segmentation: the scan's recurrence with maxima, then the walk back, in one launch.

With U[s, c], the scores of the open segments (window.py), a step is

    alpha[t+1, c] = end[t, c] + max_{t-L < s <= t} U[s, c] + duration[t-s, c]
    pre[t+1, c]   = max_{c'} alpha[t+1, c'] + transition[c', c]

Each boundary and type keeps the length of its best segment and the best type before it, in the
smallest integers that hold them; ties go to the shorter segment and to the lower type. The walk
back then reads two small numbers a segment and writes the segment's labels and starts; the type
before a segment of length 1 is read along with its length, so that no position costs more than one
wait for memory.

As in the scan, a sentence with a score above `SMALL` in magnitude runs again in float64. Where that
tells nothing, labels are -1 and nothing starts.

Memory traffic: 3 N C reads (and N L C with segment scores), 2 N C small writes a sentence.
Source: Sarawagi and Cohen (2004), equation 2; Rabiner (1989), section III.B, for the walk back.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from hf_semicrf.ops.kernels.common import (
    contiguous,
    finite,
    index_dtype,
    state_in,
    usable,
)
from hf_semicrf.ops.kernels.magnitude import is_large, magnitudes
from hf_semicrf.ops.kernels.survey import is_told, survey
from hf_semicrf.ops.kernels.window import (
    Plan,
    read_earlier_segments,
    read_emission,
    read_segments,
    write_durations,
)
from hf_semicrf.ops.potentials import Potentials


@triton.jit
def _read_row(pointer, offset, c, count, zeros):
    """The first ``count`` entries of a row, 0 where the tensor is absent."""
    if pointer is None:
        return zeros
    else:
        x = tl.load(pointer + offset + c, mask=c < count, other=0.0)
        return usable(x.to(zeros.dtype))


@triton.jit
def _best_source(score, top, source):
    """The lowest source that reaches the maximum."""
    return tl.min(tl.where(score == top[None, :], source[:, None], 1 << 30), 0)


@triton.jit(do_not_specialize=["table", "wide", "positions", "longest", "types"])
def viterbi_kernel(
    # potentials
    emission, segment, start, end, duration, transition, initial, final, lengths,
    # scratch
    pre_out, alpha_out, offset_out, table, wide, large,
    # results, after the pointers of the walk back
    length_out, source_out, labels, starts,
    # sizes
    positions, longest, types,
    WINDOW: tl.constexpr, TYPES: tl.constexpr, SOURCES: tl.constexpr, LONG: tl.constexpr,
    PRECISE_WINDOW: tl.constexpr, PRECISE_SOURCES: tl.constexpr, PRECISE_LONG: tl.constexpr,
    ROWS: tl.constexpr,
):  # fmt: skip
    """One sentence; see the head of this file."""
    b = tl.program_id(0).to(tl.int64)
    length = tl.load(lengths + b).to(tl.int32)
    first_row = b * positions  # of this sentence in an input and in a pointer
    table += b * (2 * WINDOW * TYPES)
    wide += b * (2 * PRECISE_WINDOW * TYPES)
    label = length * 0
    told = length > 0
    precise = duration.dtype.element_ty == tl.float64
    if duration.dtype.element_ty != tl.float64:
        precise = is_large(large, b)
        if not precise:
            _, label = _best_as(
                # potentials
                emission, segment, start, end, duration, transition, initial, final,
                # scratch and pointers
                pre_out, alpha_out, offset_out, table, length_out, source_out,
                # sizes
                b, length, positions, longest, types,
                WINDOW, TYPES, SOURCES, LONG, duration.dtype.element_ty,
            )  # fmt: skip
    if precise:
        score, label = _best_as(
            # potentials
            emission, segment, start, end, duration, transition, initial, final,
            # scratch and pointers
            pre_out, alpha_out, offset_out, wide, length_out, source_out,
            # sizes
            b, length, positions, longest, types,
            PRECISE_WINDOW, TYPES, PRECISE_SOURCES, PRECISE_LONG, tl.float64,
        )  # fmt: skip
        _, least = survey(
            emission, segment, start, end, duration, transition, initial, final,
            first_row, length, longest, types, TYPES, ROWS,
        )  # fmt: skip
        told = is_told(score, least)
    tl.debug_barrier()  # the pointers were written by other threads
    length = tl.where(told, length, 0)  # -1 and no start throughout, where nothing is known
    _walk_back(length_out, source_out, labels, starts, first_row, label, length, positions, types)


@triton.jit
def _best_as(
    # potentials
    emission, segment, start, end, duration, transition, initial, final,
    # scratch and pointers
    pre_out, alpha_out, offset_out, table, length_out, source_out,
    # sizes
    b, length, positions, longest, types,
    WINDOW: tl.constexpr, TYPES: tl.constexpr, SOURCES: tl.constexpr, LONG: tl.constexpr,
    dtype: tl.constexpr,
):  # fmt: skip
    """The recurrence in a dtype: the best score without the level, and its last type."""
    minus_inf = -float("inf")
    c = tl.arange(0, TYPES)
    source = tl.arange(0, SOURCES)
    row = tl.arange(0, WINDOW)[:, None]
    real = c < types
    zeros = tl.zeros([TYPES], dtype)
    first_row = b * positions  # of this sentence in an input and in a pointer
    pre_out = state_in(pre_out + b * (positions + 1) * types, dtype)
    alpha_out = state_in(alpha_out + b * types, dtype)
    offset_out += b * (positions + 1)

    if SOURCES == TYPES:
        steps = tl.load(
            transition + source[:, None] * types + c[None, :],
            mask=(source[:, None] < types) & real[None, :], other=minus_inf,
        )  # fmt: skip
        steps = usable(steps.to(dtype))
    pre = usable(tl.load(initial + c, mask=real, other=minus_inf).to(dtype))
    final_row = usable(tl.load(final + c, mask=real, other=minus_inf).to(dtype))
    shortest = usable(tl.load(duration + c, mask=real, other=minus_inf).to(dtype))
    write_durations(table, duration, longest, types, WINDOW, TYPES, LONG, 1.0, dtype)
    tl.debug_barrier()
    open_segments = tl.full([WINDOW, TYPES], minus_inf, dtype)
    earlier_length = tl.full([WINDOW, TYPES], 0, tl.int32)  # less one, like the next
    rest = zeros + minus_inf
    rest_length = tl.zeros([TYPES], tl.int32)
    alpha = zeros + minus_inf
    shift = tl.sum(zeros)
    offset = tl.zeros([], tl.float64)
    if LONG:
        tl.store(pre_out + c, pre, mask=real)
        tl.store(offset_out, offset)

    # what step t reads is loaded in step t - 2; written out, since the functions that scan has for
    # both directions made decoding up to 13 % slower on an H100
    em = read_emission(emission, first_row * types, c, types, zeros)
    enter = _read_row(start, first_row * types, c, types, zeros)
    leave = _read_row(end, first_row * types, c, types, zeros)
    unit = shortest + _read_row(segment, first_row * longest * types, c, types, zeros)
    count = tl.where(length > 1, types, 0)
    em2 = read_emission(emission, (first_row + 1) * types, c, count, zeros)
    enter2 = _read_row(start, (first_row + 1) * types, c, count, zeros)
    leave2 = _read_row(end, (first_row + 1) * types, c, count, zeros)
    unit2 = _read_row(segment, (first_row + 1) * longest * types, c, count, zeros)

    if segment is not None:
        scores = read_segments(
            segment, first_row, 1, length, 0, longest, types, WINDOW, TYPES, LONG
        )

    block = length
    if LONG:
        block = WINDOW
    for t0 in range(0, length, block):
        if LONG:
            tl.debug_barrier()  # pre of earlier blocks was written by other threads
            open_segments, earlier_length = _best_earlier(
                emission, segment, start, end, duration, pre_out, offset_out,
                # where
                first_row, t0, length, longest, types,
                # what is in registers
                offset, zeros, WINDOW, TYPES,
            )  # fmt: skip
            rest = tl.max(tl.where(row == 0, open_segments, minus_inf), 0) + em + leave
            rest_length = tl.max(tl.where(row == 0, earlier_length, 0), 0)
            shift = tl.sum(zeros)
        for t in range(t0, tl.minimum(t0 + block, length)):
            em1, enter1, leave1, unit1 = em2, enter2, leave2, shortest + unit2
            count = tl.where(t + 2 < length, types, 0)
            ahead = (first_row + t + 2) * types
            em2 = read_emission(emission, ahead, c, count, zeros)
            enter2 = _read_row(start, ahead, c, count, zeros)
            leave2 = _read_row(end, ahead, c, count, zeros)
            unit2 = _read_row(segment, ahead * longest, c, count, zeros)
            if WINDOW > 1 and segment is not None:
                scores2 = read_segments(
                    segment, first_row, t + 2, length, 0, longest, types, WINDOW, TYPES, LONG
                )

            newest = pre + enter + em
            single = newest + (unit + leave)
            alpha = tl.maximum(single, rest)
            pointers = tl.where(single >= rest, 0, rest_length)
            tl.store(length_out + (first_row + t) * types + c, pointers, mask=real)
            new_shift = finite(tl.max(alpha, 0))
            alpha -= new_shift
            offset += new_shift.to(tl.float64)
            if SOURCES == TYPES:
                score = alpha[:, None] + steps
                pre = tl.max(score, 0)
                best = _best_source(score, pre, source)
            else:
                tl.debug_barrier()  # until every thread has read the last boundary's alpha
                tl.store(alpha_out + c, alpha, mask=real)
                tl.debug_barrier()
                pre = zeros + minus_inf
                best = tl.zeros([TYPES], tl.int32)
                for s0 in range(0, types, SOURCES):
                    s = s0 + source
                    before = tl.load(alpha_out + s, mask=s < types, other=minus_inf)
                    step = tl.load(
                        transition + s[:, None] * types + c[None, :],
                        mask=(s[:, None] < types) & real[None, :], other=minus_inf,
                    )  # fmt: skip
                    score = before[:, None] + usable(step.to(dtype))
                    top = tl.max(score, 0)
                    best = tl.where(top > pre, _best_source(score, top, s), best)
                    pre = tl.maximum(pre, top)
            tl.store(source_out + (first_row + t) * types + c, best, mask=real)
            if LONG:
                tl.store(pre_out + (t + 1) * types + c, pre, mask=real)
                tl.store(offset_out + t + 1, offset)

            # the best of the next step's segments but the newest
            if WINDOW > 1:
                open_segments = tl.where(
                    row == t % WINDOW, newest[None, :], open_segments + (em - shift)[None, :]
                )
                following = (t + 1) % WINDOW
                value = tl.load(table + (following + WINDOW) * TYPES + (c[None, :] - row * TYPES))
                length_minus_one = following - row
                if not LONG:
                    length_minus_one = length_minus_one & (WINDOW - 1)
                if segment is not None:
                    value += usable(scores.to(dtype))
                    scores = scores2
                value += open_segments
                top = tl.max(value, 0)
                candidate = length_minus_one + tl.zeros([1, TYPES], tl.int32)
                if LONG:
                    candidate = tl.where(length_minus_one == 0, earlier_length, length_minus_one)
                rest_length = tl.min(tl.where(value == top[None, :], candidate, 1 << 30), 0)
                # where nothing is legal any pointer must still lead to the text's beginning
                rest_length = tl.where(top == minus_inf, 0, rest_length)
                rest = top + (em1 + leave1 - new_shift)
            shift = new_shift
            em, enter, leave, unit = em1, enter1, leave1, unit1

    last = tl.where(real, alpha + final_row, minus_inf)
    top = tl.max(last, 0)
    label = tl.min(tl.where((last == top) & real, c, TYPES), 0)
    return top.to(tl.float64) + offset, tl.minimum(label, types - 1)


@triton.jit
def _walk_back(
    length_out, source_out, labels, starts, first_row, label, length, positions, types,
    STEP: tl.constexpr = 32,
):  # fmt: skip
    """Follow the pointers from the last type, ``label``; -1 and no start past the length."""
    stop = length
    n = tl.arange(0, STEP)
    while stop > 0:
        # the pointers of position t are those of boundary t + 1; both loads leave together
        at = (first_row + stop - 1) * types + label
        length_minus_one = tl.load(length_out + at).to(tl.int32)
        near = tl.load(source_out + (first_row + tl.maximum(stop - 2, 0)) * types + label)
        previous = near.to(tl.int32)
        begin = stop - 1 - length_minus_one
        if (length_minus_one > 0) & (begin > 0):
            previous = tl.load(source_out + (first_row + begin - 1) * types + label).to(tl.int32)
        for n0 in range(begin, stop, STEP):
            inside = n0 + n < stop
            tl.store(labels + first_row + n0 + n, (label + n * 0).to(tl.int64), mask=inside)
            tl.store(starts + first_row + n0 + n, n0 + n == begin, mask=inside)
        label = previous
        stop = begin
    for n0 in range(length, positions, STEP):
        inside = n0 + n < positions
        tl.store(labels + first_row + n0 + n, (n * 0 - 1).to(tl.int64), mask=inside)
        tl.store(starts + first_row + n0 + n, n < 0, mask=inside)


@triton.jit
def _best_earlier(
    emission, segment, start, end, duration, pre_out, offset_out,
    first_row, t0, length, longest, types,
    offset, zeros, WINDOW: tl.constexpr, TYPES: tl.constexpr,
):  # fmt: skip
    """For each position t0 + j: the best segment that starts before t0 and ends there.

    Its score without the emissions from t0 on, which the steps add, and the end score; and its
    length less one.
    """
    content = zeros
    top = tl.full([WINDOW, TYPES], 0.0, zeros.dtype) - float("inf")
    best = tl.full([WINDOW, TYPES], 0, tl.int32)
    for back in range(1, tl.minimum(t0, longest - 1) + 1):
        content, scores, length_minus_one = read_earlier_segments(
            emission, segment, start, end, duration, pre_out, offset_out,
            # where, from left to right
            first_row, t0, back, length, 0, longest, types,
            # sums so far
            content, offset, zeros,
            WINDOW, TYPES, 1.0,
        )  # fmt: skip
        best = tl.where(scores > top, length_minus_one[:, None], best)
        top = tl.maximum(top, scores)
    return top, best


def best(p: Potentials) -> tuple[Tensor, Tensor]:
    """The highest-scoring segmentation: labels [B, N] and starts [B, N]."""
    batch, positions, longest, types = p.sizes
    plan = Plan.of(longest, types)
    new = p.duration.new_empty
    pre = new((batch, positions + 1, types), dtype=torch.float64)
    offset = new((batch, positions + 1), dtype=torch.float64)
    alpha = new((batch, types), dtype=torch.float64)
    length_out = new((batch, positions, types), dtype=index_dtype(longest))
    source_out = new((batch, positions, types), dtype=index_dtype(types))
    labels = new((batch, positions), dtype=torch.long)
    starts = new((batch, positions), dtype=torch.bool)
    viterbi_kernel[(batch,)](
        # potentials
        *contiguous(p),
        # scratch
        pre, alpha, offset, *plan.tables(batch, p.duration), magnitudes(p),
        # results
        length_out, source_out, labels, starts,
        # sizes
        positions, longest, types,
        **plan.options(),
    )  # fmt: skip
    return labels, starts
