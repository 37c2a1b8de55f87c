"""The segments that end in a step, by length: a window that is kept in memory, in float64.

For recurrences that keep more than one number a type, and so have no room for window.py's tile.
What a segment has gathered so far, its start score and emissions, stands in a ring of min(L, N)
places; the start s has place s % L. A step adds its emission to all of them, so any L and C run.

Memory traffic: 2 L C reads and L C writes a step, which stay in the cache, and 3 C reads; L C more
with segment scores.
Source: Sarawagi and Cohen (2004), section 3.
"""

from __future__ import annotations

import triton
import triton.language as tl

from hf_semicrf.ops.kernels.window import read_row


@triton.jit
def read_position(emission, start, end, reverse, first_row, t, length, types, c, zeros):
    """Emissions, start and end scores of step t as they were read; 0 past the length."""
    n = tl.where(reverse == 1, length - 1 - t, t)
    at = (first_row + n) * types
    count = tl.where(t < length, types, 0)
    return (
        read_row(emission, emission, reverse, at, c, count, zeros),
        read_row(start, end, reverse, at, c, count, zeros),
        read_row(end, start, reverse, at, c, count, zeros),
    )


@triton.jit
def score_ending(
    segment, duration, gathered,
    # what position t adds: emissions, scores of starting and of ending there [TYPES]
    em, enter, leave,
    # where
    d, t, first_row, length, reverse, longest, types, c,
):  # fmt: skip
    """Score the segments of lengths d + 1 that end in step t; called once a step and length.

    Returns the scores [rows of d, TYPES] and which of them are segments.
    """
    inside = ((d < longest) & (d <= t))[:, None] & (c < types)[None, :]
    at = ((t - d) % longest)[:, None] * types + c[None, :]
    before = tl.load(gathered + at, mask=inside & (d > 0)[:, None], other=0.0)
    score = tl.where((d == 0)[:, None], enter.to(tl.float64)[None, :], before)
    score += em.to(tl.float64)[None, :]
    tl.store(gathered + at, score, mask=inside)
    score += leave.to(tl.float64)[None, :]
    score += tl.load(duration + d[:, None] * types + c[None, :], mask=inside, other=0.0)
    if segment is not None:
        # the segment [t - d, t + 1); its mirror image begins at length - 1 - t
        begin = tl.where(reverse == 1, length - 1 - t + d * 0, t - d)
        at = ((first_row + begin) * longest + d)[:, None] * types + c[None, :]
        score += tl.load(segment + at, mask=inside, other=0.0)
    return score, inside
