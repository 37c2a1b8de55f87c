"""The segments that gain the most: one program a sentence, and a walk back over the segments.

With g[s, e] = max_c p[s, e, c] - threshold, over all types but the outside, which gains nothing
(the threshold is one number, or one for each length and type),

    best[e] = max(best[e-1], max_{s < e <= s+L} best[s] + g[s, e])

The window holds best[s] - best[t] of the starts s that can still reach: numbers that do not grow
with the text, so that float32 holds them. A step waits for one addition and one maximum over the
window; the maximum over types is taken one step ahead. Each boundary keeps the last one at or
before it where a segment ends, so that the walk back visits segments alone.

Memory traffic: N L C reads, 12 N bytes of pointers; L C thresholds a step, out of the cache.
Source: Kleinberg and Tardos (2005), "Algorithm Design", section 6.1, weighted interval scheduling.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from hf_semicrf.ops.kernels.common import power_of_two
from hf_semicrf.ops.kernels.window import read_segments


@triton.jit
def _ending(
    segment, first_row, t, length, longest, types, WINDOW: tl.constexpr, TYPES: tl.constexpr
):
    """Posteriors of the window's rows that may end at position t; -inf for the others."""
    return read_segments(
        segment, first_row, t, length, 0, longest, types, WINDOW, TYPES, False, 0, -float("inf")
    )


@triton.jit
def _costs(each, t, longest, types, WINDOW: tl.constexpr, TYPES: tl.constexpr):
    """Thresholds of the window's rows for segments that end at position t; 0 for what is none."""
    c = tl.arange(0, TYPES)[None, :]
    length_minus_one = (t - tl.arange(0, WINDOW)[:, None]) & (WINDOW - 1)
    inside = (length_minus_one < longest) & (c < types)
    return tl.load(each + length_minus_one * types + c, mask=inside, other=0.0)


# the pointers lie in one tensor: how they are aligned depends on its size
@triton.jit(do_not_specialize=["size_out", "type_out", "last_out", "positions", "longest", "types"])
def risk_kernel(
    segment, lengths,
    # pointers of the walk back, and results
    size_out, type_out, last_out, labels, starts,
    # the threshold, or one for each length less one and type, and sizes
    threshold, each, positions, longest, types,
    WINDOW: tl.constexpr, TYPES: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """One sentence; see the head of this file."""
    b = tl.program_id(0).to(tl.int64)
    length = tl.load(lengths + b).to(tl.int32)
    first_row = b * positions
    row = tl.arange(0, WINDOW)
    c = tl.arange(0, TYPES)[None, :]
    behind = tl.zeros([WINDOW], segment.dtype.element_ty)
    gain = tl.sum(behind, 0)
    last = 0  # the last boundary where a segment ends
    scores = _ending(segment, first_row, 0, length, longest, types, WINDOW, TYPES)
    scores1 = _ending(segment, first_row, 1, length, longest, types, WINDOW, TYPES)
    for t in range(length):
        scores2 = _ending(segment, first_row, t + 2, length, longest, types, WINDOW, TYPES)
        age = (t - row) & (WINDOW - 1)
        if each is not None:
            scores -= _costs(each, t, longest, types, WINDOW, TYPES)
        scores = tl.where(c > 0, scores, -float("inf"))  # the outside gains nothing
        surest = tl.max(scores, 1)
        kind = tl.min(tl.where(scores == surest[:, None], c, TYPES), 1)
        behind = tl.where(age == 0, 0.0, behind - gain)
        value = behind + (surest - threshold)
        top = tl.max(value, 0)
        gain = tl.maximum(top, 0.0)
        length_minus_one = tl.min(tl.where(value == top, age, WINDOW), 0)
        last = tl.where(top > 0.0, t + 1, last)
        tl.store(size_out + first_row + t, length_minus_one + 1)
        tl.store(type_out + first_row + t, tl.max(tl.where(age == length_minus_one, kind, 0), 0))
        tl.store(last_out + first_row + t, last)
        scores, scores1 = scores1, scores2

    n = tl.arange(0, STEP)
    for n0 in range(0, positions, STEP):
        inside = n0 + n < positions
        outside = tl.where(n0 + n < length, 0, -1).to(tl.int64)
        tl.store(labels + first_row + n0 + n, outside, mask=inside)
        tl.store(starts + first_row + n0 + n, n0 + n < length, mask=inside)
    tl.debug_barrier()  # what follows was written by other threads, or is to be written over
    while last > 0:
        size = tl.load(size_out + first_row + last - 1)
        label = tl.load(type_out + first_row + last - 1)
        begin = last - size
        for n0 in range(begin, last, STEP):
            inside = n0 + n < last
            tl.store(labels + first_row + n0 + n, (label + n * 0).to(tl.int64), mask=inside)
            tl.store(starts + first_row + n0 + n, n0 + n == begin, mask=inside)
        last = tl.load(last_out + first_row + begin - 1, mask=begin > 0, other=0)


def minimum_risk(
    segment: Tensor, lengths: Tensor, threshold: float, each: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Labels and starts [B, N] of the tiling with the most expected gain.

    Args:
        segment: Posterior of each segment, by start and length less one [B, N, L, C], contiguous.
        lengths: Positions of each sentence [B].
        threshold: What each segment costs.
        each: What one of each length less one and type costs beside that [L, C], contiguous.
    """
    batch, positions, longest, types = segment.shape
    window, tile = power_of_two(longest), power_of_two(max(types, 2))
    pointers = torch.empty(3, batch, positions, dtype=torch.int32, device=segment.device)
    labels = torch.empty(batch, positions, dtype=torch.long, device=segment.device)
    starts = torch.empty(batch, positions, dtype=torch.bool, device=segment.device)
    risk_kernel[(batch,)](
        segment, lengths,
        # pointers of the walk back, and results
        *pointers, labels, starts,
        # the threshold, or one for each length less one and type, and sizes
        threshold, each, positions, longest, types,
        WINDOW=window, TYPES=tile, STEP=32, num_warps=max(1, min(8, window * tile // 1024)),
    )  # fmt: skip
    return labels, starts
