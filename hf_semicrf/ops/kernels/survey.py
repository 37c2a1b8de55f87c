"""What float64 makes of a sentence's scores, some of which may be too large for it.

As `ops.host.magnitude` has it: what every segmentation loses by its emissions, the highest of the
scores that are forbidden because they lie below `-LARGEST`, what positive scores can gain, and
whether one is NaN or above `LARGEST`. Log Z has to exceed the highest and the gain by far.

Memory traffic: every score of the sentence is read once, in tiles.
"""

from __future__ import annotations

import triton
import triton.language as tl

from hf_semicrf.ops.kernels.common import CERTAIN, LARGEST


@triton.jit
def _field(field, number: tl.constexpr, pointer, rows, one, row_of_one, count):
    """The place and number of rows of a field, where its number is the one; else what was given."""
    if one is not None:
        pointer = tl.where(field == number, one + row_of_one, pointer)
        rows = tl.where(field == number, count, rows)
    return pointer, rows


@triton.jit(noinline=True)
def survey(
    emission, segment, start, end, duration, transition, initial, final,
    first_row, length, longest, types, TYPES: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """The level, and what log Z without it has to exceed: +inf where a score cannot be used.

    One loop for all fields, since code that is compiled once a field takes the compiler long.
    """
    c = tl.arange(0, TYPES)[None, :]
    r = tl.arange(0, ROWS)[:, None]
    level = tl.zeros([], tl.float64)
    gain = tl.zeros([], tl.float64)
    far = tl.zeros([], tl.float64) - float("inf")
    wrong = length * 0
    own = first_row * types
    for field in range(8):
        pointer, rows = _field(field, 4, duration, length * 0, duration, 0, longest)
        pointer, rows = _field(field, 0, pointer, rows, emission, own, length)
        pointer, rows = _field(field, 1, pointer, rows, start, own, length)
        pointer, rows = _field(field, 2, pointer, rows, end, own, length)
        pointer, rows = _field(field, 3, pointer, rows, segment, own * longest, length * longest)
        steps = tl.where(length > 1, types, 0)
        pointer, rows = _field(field, 5, pointer, rows, transition, 0, steps)
        pointer, rows = _field(field, 6, pointer, rows, initial, 0, 1)
        pointer, rows = _field(field, 7, pointer, rows, final, 0, 1)
        best = tl.zeros([], tl.float64)
        for i0 in range(0, rows, ROWS):
            i = i0 + r
            # of a segment, the first position and the length less one; of a duration, the latter
            begin = tl.where(field == 3, i // longest, 0)
            length_minus_one = tl.where(field == 4, i, tl.where(field == 3, i % longest, 0))
            inside = (i < rows) & (begin + length_minus_one < length) & (c < types)
            x = tl.load(pointer + (i.to(tl.int64) * types + c), mask=inside, other=0.0)
            x = x.to(tl.float64)
            top = tl.max(tl.where(inside, x, -float("inf")), 1)
            top = tl.where((field == 0) & (tl.abs(top) < float("inf")), top, 0.0)
            level += tl.sum(top, 0)
            x = tl.where(inside, x - top[:, None], 0.0)
            removed = (x < -LARGEST) & (x > -float("inf"))
            far = tl.maximum(far, tl.max(tl.max(tl.where(removed, x, -float("inf")), 1), 0))
            best += tl.sum(tl.max(tl.maximum(x, 0.0), 1), 0)
            wrong += tl.sum(tl.sum(tl.where(x <= LARGEST, 0, 1), 1), 0)
        gain += tl.where((field == 4) | (field == 5), best * length, best)  # once a position
    logarithm = tl.log((2 * types).to(tl.float64))
    least = far + gain + CERTAIN + length * logarithm
    return level, tl.where(wrong > 0, float("inf"), least)


@triton.jit
def is_told(score, least):
    """Whether log Z, or the best score, of what is left says enough; not where it is NaN."""
    return (score > least) | ((least == -float("inf")) & (score == -float("inf")))
