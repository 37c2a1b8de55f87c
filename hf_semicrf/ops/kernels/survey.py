"""What float64 makes of a sentence's scores, some of which may be too large for it.

As `ops.host.magnitude` has it: what every segmentation loses by its emissions, the highest of the
scores that are forbidden because they lie below `-LARGEST`, what positive scores can gain, and
whether one is NaN or above `LARGEST`. Log Z has to exceed the highest and the gain by far.

Memory traffic: every score of the sentence is read once, in tiles.
"""

from __future__ import annotations

import triton
import triton.language as tl

from hf_semicrf.ops.kernels.common import CERTAIN, LARGEST, centred


@triton.jit
def _look(pointer, at, inside, center: tl.constexpr, far, gain, wrong):
    """Rows of a tensor [ROWS, TYPES], or nothing where it is absent."""
    if pointer is not None:
        x = tl.load(pointer + at, mask=inside, other=0.0).to(tl.float64)
        if center:
            x = centred(x, inside)
        x = tl.where(inside, x, 0.0)
        removed = (x < -LARGEST) & (x > -float("inf"))
        far = tl.maximum(far, tl.max(tl.max(tl.where(removed, x, -float("inf")), 1), 0))
        gain += tl.sum(tl.max(tl.maximum(x, 0.0), 1), 0)
        wrong += tl.sum(tl.sum(tl.where(x <= LARGEST, 0, 1), 1), 0)
    return far, gain, wrong


@triton.jit
def survey(
    emission, segment, start, end, duration, transition, initial, final,
    first_row, length, longest, types, TYPES: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """The level, and what log Z without it has to exceed: +inf where a score cannot be used."""
    c = tl.arange(0, TYPES)[None, :]
    r = tl.arange(0, ROWS)[:, None]
    level = tl.zeros([], tl.float64)
    gain = tl.zeros([], tl.float64)
    shared = tl.zeros([], tl.float64)
    far = tl.zeros([], tl.float64) - float("inf")
    wrong = length * 0
    for n0 in range(0, length, ROWS):
        n = n0 + r
        inside = (n < length) & (c < types)
        at = (first_row + n) * types + c
        if emission is not None:
            x = tl.load(emission + at, mask=inside, other=-float("inf")).to(tl.float64)
            top = tl.max(x, 1)
            level += tl.sum(tl.where(tl.abs(top) < float("inf"), top, 0.0), 0)
        far, gain, wrong = _look(emission, at, inside, True, far, gain, wrong)
        far, gain, wrong = _look(start, at, inside, False, far, gain, wrong)
        far, gain, wrong = _look(end, at, inside, False, far, gain, wrong)
        if segment is not None:
            most = tl.zeros([], tl.float64)
            for d in range(tl.minimum(longest, length - n0)):
                at = ((first_row + n) * longest + d) * types + c
                ends = inside & (n + d < length)
                far, most, wrong = _look(segment, at, ends, False, far, most, wrong)
            gain += most
    for d0 in range(0, tl.minimum(longest, length), ROWS):
        inside = (d0 + r < tl.minimum(longest, length)) & (c < types)
        at = (d0 + r) * types + c
        far, shared, wrong = _look(duration, at, inside, False, far, shared, wrong)
    for s0 in range(0, tl.where(length > 1, types, 0), ROWS):
        inside = (s0 + r < types) & (c < types)
        at = (s0 + r) * types + c
        far, shared, wrong = _look(transition, at, inside, False, far, shared, wrong)
    inside = (r < 1) & (c < types)
    at = r * 0 + c
    far, gain, wrong = _look(initial, at, inside, False, far, gain, wrong)
    far, gain, wrong = _look(final, at, inside, False, far, gain, wrong)
    logarithm = tl.log((2 * types).to(tl.float64))
    least = far + gain + shared * length + CERTAIN + length * logarithm
    return level, tl.where(wrong > 0, float("inf"), least)


@triton.jit
def is_told(score, least):
    """Whether log Z, or the best score, of what is left says enough; not where it is NaN."""
    return (score > least) | ((least == -float("inf")) & (score == -float("inf")))
