"""The best segmentation: the scan's recurrence with maxima, then the walk back, in one launch.

The window is that of scan.py. Each boundary and type keeps the length of its best segment and the
best type before it, in the smallest integers that hold them; ties go to the shorter segment and
to the lower type. The walk back then reads two small numbers a segment and writes the segment's
labels and starts; the type before a segment of length 1 is read along with its length, so that
no position costs more than one wait for memory.

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
    window_segments,
    window_table,
)
from hf_semicrf.ops.kernels.scan import Plan
from hf_semicrf.ops.potentials import Potentials


@triton.jit
def _row(pointer, offset, c, count, none):
    """The first ``count`` entries of a row, 0 where the tensor is absent."""
    if pointer is None:
        return none
    else:
        return tl.load(pointer + offset + c, mask=c < count, other=0.0)


@triton.jit
def _best_source(score, top, source):
    """The lowest source that reaches the maximum."""
    return tl.min(tl.where(score == top[None, :], source[:, None], 1 << 30), 0)


@triton.jit(do_not_specialize=["table", "positions", "longest", "types"])
def viterbi_kernel(
    emission, segment, start, end, duration, transition, initial, final, lengths,
    pre_out, alpha_out, offset_out, table, length_out, source_out, labels, starts,
    positions, longest, types,
    WINDOW: tl.constexpr, TYPES: tl.constexpr, SOURCES: tl.constexpr, LONG: tl.constexpr,
):  # fmt: skip
    """One sentence; see the head of this file."""
    b = tl.program_id(0).to(tl.int64)
    length = tl.load(lengths + b).to(tl.int32)
    dtype: tl.constexpr = duration.dtype.element_ty
    minus_inf = -float("inf")
    c = tl.arange(0, TYPES)
    source = tl.arange(0, SOURCES)
    row = tl.arange(0, WINDOW)[:, None]
    real = c < types
    none = tl.zeros([TYPES], dtype)
    first = b * positions  # this sentence's first row in an input and in a pointer
    kept = b * (positions + 1)  # and its boundary 0 in the state

    if SOURCES == TYPES:
        steps = tl.load(
            transition + source[:, None] * types + c[None, :],
            mask=(source[:, None] < types) & real[None, :], other=minus_inf,
        )  # fmt: skip
    pre = tl.load(initial + c, mask=real, other=minus_inf)
    shortest = tl.load(duration + c, mask=real, other=minus_inf)
    table += tl.program_id(0) * (2 * WINDOW * TYPES)
    window_table(table, duration, longest, types, 1.0, WINDOW, TYPES, LONG)
    tl.debug_barrier()
    open_segments = tl.full([WINDOW, TYPES], minus_inf, dtype)
    older_index = tl.full([WINDOW, TYPES], 0, tl.int32)
    rest = none + minus_inf
    rest_index = tl.zeros([TYPES], tl.int32)
    alpha = none + minus_inf
    shift = tl.sum(none)
    offset = tl.zeros([], tl.float64)
    if LONG:
        tl.store(pre_out + kept * types + c, pre, mask=real)
        tl.store(offset_out + kept, offset)

    # what step t reads is loaded in step t - 2
    em = _row(emission, first * types, c, types, none)
    enter = _row(start, first * types, c, types, none)
    leave = _row(end, first * types, c, types, none)
    unit = shortest + _row(segment, first * longest * types, c, types, none)
    count = tl.where(length > 1, types, 0)
    em2 = _row(emission, (first + 1) * types, c, count, none)
    enter2 = _row(start, (first + 1) * types, c, count, none)
    leave2 = _row(end, (first + 1) * types, c, count, none)
    unit2 = _row(segment, (first + 1) * longest * types, c, count, none)

    if segment is not None:
        scores = window_segments(segment, first, 1, length, 0, longest, types, WINDOW, TYPES, LONG)

    block = length
    if LONG:
        block = WINDOW
    for t0 in range(0, length, block):
        if LONG:
            tl.debug_barrier()  # pre of earlier blocks was written by other threads
            open_segments, older_index = _older(
                emission, segment, start, duration, pre_out, offset_out, first, kept, offset,
                t0, length, longest, types, real, none, WINDOW, TYPES,
            )  # fmt: skip
            rest = tl.max(tl.where(row == 0, open_segments, minus_inf), 0) + em + leave
            rest_index = tl.max(tl.where(row == 0, older_index, 0), 0)
            shift = tl.sum(none)
        for t in range(t0, tl.minimum(t0 + block, length)):
            em1, enter1, leave1, unit1 = em2, enter2, leave2, shortest + unit2
            count = tl.where(t + 2 < length, types, 0)
            ahead = (first + t + 2) * types
            em2 = _row(emission, ahead, c, count, none)
            enter2 = _row(start, ahead, c, count, none)
            leave2 = _row(end, ahead, c, count, none)
            unit2 = _row(segment, ahead * longest, c, count, none)
            if WINDOW > 1 and segment is not None:
                scores2 = window_segments(
                    segment, first, t + 2, length, 0, longest, types, WINDOW, TYPES, LONG
                )

            newest = pre + enter + em
            single = newest + (unit + leave)
            alpha = tl.maximum(single, rest)
            tl.store(length_out + (first + t) * types + c, tl.where(single >= rest, 0, rest_index),
                     mask=real)  # fmt: skip
            new_shift = finite(tl.max(alpha, 0))
            alpha -= new_shift
            offset += new_shift.to(tl.float64)
            if SOURCES == TYPES:
                score = alpha[:, None] + steps
                pre = tl.max(score, 0)
                best = _best_source(score, pre, source)
            else:
                tl.debug_barrier()  # until every thread has read the last boundary's alpha
                tl.store(alpha_out + b * types + c, alpha, mask=real)
                tl.debug_barrier()
                pre = none + minus_inf
                best = tl.zeros([TYPES], tl.int32)
                for s0 in range(0, types, SOURCES):
                    s = s0 + source
                    before = tl.load(alpha_out + b * types + s, mask=s < types, other=minus_inf)
                    score = before[:, None] + tl.load(
                        transition + s[:, None] * types + c[None, :],
                        mask=(s[:, None] < types) & real[None, :], other=minus_inf,
                    )  # fmt: skip
                    top = tl.max(score, 0)
                    best = tl.where(top > pre, _best_source(score, top, s), best)
                    pre = tl.maximum(pre, top)
            tl.store(source_out + (first + t) * types + c, best, mask=real)
            if LONG:
                tl.store(pre_out + (kept + t + 1) * types + c, pre, mask=real)
                tl.store(offset_out + kept + t + 1, offset)

            # the best of the next step's segments but the newest
            if WINDOW > 1:
                open_segments = tl.where(
                    row == t % WINDOW, newest[None, :], open_segments + (em - shift)[None, :]
                )
                following = (t + 1) % WINDOW
                value = tl.load(table + (following + WINDOW) * TYPES + (c[None, :] - row * TYPES))
                age = following - row
                if not LONG:
                    age = age & (WINDOW - 1)
                if segment is not None:
                    value += scores
                    scores = scores2
                value += open_segments
                top = tl.max(value, 0)
                index = age + tl.zeros([1, TYPES], tl.int32)
                if LONG:
                    index = tl.where(age == 0, older_index, age)
                rest_index = tl.min(tl.where(value == top[None, :], index, 1 << 30), 0)
                # where nothing is legal any pointer must still lead to the text's beginning
                rest_index = tl.where(top == minus_inf, 0, rest_index)
                rest = top + (em1 + leave1 - new_shift)
            shift = new_shift
            em, enter, leave, unit = em1, enter1, leave1, unit1

    # the walk back
    last = tl.where(real, alpha + tl.load(final + c, mask=real, other=minus_inf), minus_inf)
    tl.debug_barrier()  # the pointers were written by other threads
    label = tl.min(tl.where((last == tl.max(last, 0)) & real, c, TYPES), 0)
    label = tl.minimum(label, types - 1)
    stop = length
    step: tl.constexpr = 32
    n = tl.arange(0, step)
    while stop > 0:
        # the pointers of position t are those of boundary t + 1; both loads leave together
        extra = tl.load(length_out + (first + stop - 1) * types + label).to(tl.int32)
        near = tl.load(source_out + (first + tl.maximum(stop - 2, 0)) * types + label)
        previous = near.to(tl.int32)
        begin = stop - 1 - extra
        if (extra > 0) & (begin > 0):
            previous = tl.load(source_out + (first + begin - 1) * types + label).to(tl.int32)
        for n0 in range(begin, stop, step):
            inside = n0 + n < stop
            tl.store(labels + first + n0 + n, (label + n * 0).to(tl.int64), mask=inside)
            tl.store(starts + first + n0 + n, n0 + n == begin, mask=inside)
        label = previous
        stop = begin
    for n0 in range(length, positions, step):
        inside = n0 + n < positions
        tl.store(labels + first + n0 + n, (n * 0 - 1).to(tl.int64), mask=inside)
        tl.store(starts + first + n0 + n, n < 0, mask=inside)


@triton.jit
def _older(
    emission, segment, start, duration, pre_out, offset_out, first, kept, offset,
    t0, length, longest, types, real, none, WINDOW: tl.constexpr, TYPES: tl.constexpr,
):  # fmt: skip
    """For each position t0 + j: the best segment that starts before t0 and ends there.

    Its score without the emissions from t0 on, which the steps add, and the end score; and its
    length less one.
    """
    c = tl.arange(0, TYPES)
    j = tl.arange(0, WINDOW)
    content = none
    top = tl.full([WINDOW, TYPES], 0.0, none.dtype) - float("inf")
    best = tl.full([WINDOW, TYPES], 0, tl.int32)
    for back in range(1, tl.minimum(t0, longest - 1) + 1):
        s = t0 - back
        row = (first + s) * types
        content += _row(emission, row, c, types, none)
        moved = (tl.load(offset_out + kept + s) - offset).to(none.dtype)
        value = tl.load(pre_out + (kept + s) * types + c, mask=real, other=-float("inf"))
        value += content + _row(start, row, c, types, none) + moved
        index = back + j
        inside = (index < longest)[:, None] & real[None, :]
        score = tl.load(duration + index[:, None] * types + c[None, :], mask=inside,
                        other=-float("inf"))  # fmt: skip
        if segment is not None:
            offsets = ((first + s) * longest + index)[:, None] * types + c[None, :]
            inside = inside & (t0 + j < length)[:, None]
            score += tl.load(segment + offsets, mask=inside, other=0.0)
        score += value[None, :]
        best = tl.where(score > top, index[:, None], best)
        top = tl.maximum(top, score)
    return top, best


def best(p: Potentials) -> tuple[Tensor, Tensor]:
    """The highest-scoring segmentation: labels [B, N] and starts [B, N]."""
    batch, positions, longest, types = p.sizes
    plan = Plan.of(longest, types)
    new = p.duration.new_empty
    pre = new((batch, positions + 1, types) if plan.long else (0,))
    offset = new((batch, positions + 1) if plan.long else (0,), dtype=torch.float64)
    alpha = new((batch, types) if plan.sources < plan.types else (0,))
    length_out = new((batch, positions, types), dtype=index_dtype(longest))
    source_out = new((batch, positions, types), dtype=index_dtype(types))
    labels = new((batch, positions), dtype=torch.long)
    starts = new((batch, positions), dtype=torch.bool)
    viterbi_kernel[(batch,)](
        *contiguous(p), pre, alpha, offset, plan.table(batch, p.duration), length_out, source_out,
        labels, starts, positions, longest, types, **plan.options(),
    )  # fmt: skip
    return labels, starts
