"""Which sentences have scores that float32 does not tell apart, in a launch before their own.

To look while the scan steps would cost it more than half of its time: a row that one step reads is
held many times over. Memory traffic: every score that a sentence has is read once.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from hf_semicrf.ops.kernels.common import SMALL, contiguous, power_of_two
from hf_semicrf.ops.potentials import Potentials

PARTS = tl.constexpr(16)  # programs a sentence


@triton.jit
def _grown(sizes, pointer, at, inside):
    """The largest magnitudes so far, with those at a place; -inf counts nothing, NaN stays."""
    if pointer is not None:
        x = tl.load(pointer + at, mask=inside, other=0.0)
        x = tl.where(x == -float("inf"), 0.0, tl.abs(x))
        sizes = tl.maximum(sizes, x, propagate_nan=tl.PropagateNan.ALL)
    return sizes


@triton.jit(do_not_specialize=["positions", "longest", "types"])
def magnitude_kernel(
    # potentials
    emission, segment, start, end, duration, transition, initial, final, lengths,
    # result
    large,
    # sizes
    positions, longest, types, ROWS: tl.constexpr, TYPES: tl.constexpr,
):  # fmt: skip
    """One part of a sentence; see the head of this file."""
    b, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    length = tl.load(lengths + b).to(tl.int32)
    first_row = b * positions
    r, c = tl.arange(0, ROWS)[:, None], tl.arange(0, TYPES)[None, :]
    real = c < types
    sizes = tl.zeros([ROWS, TYPES], duration.dtype.element_ty)
    for n0 in range(part * ROWS, length, PARTS * ROWS):
        inside = (n0 + r < length) & real
        at = (first_row + n0 + r) * types + c
        sizes = _grown(sizes, emission, at, inside)
        sizes = _grown(sizes, start, at, inside)
        sizes = _grown(sizes, end, at, inside)
    if segment is not None:
        segment += first_row * longest * types
        for i0 in range(part * ROWS, length * longest, PARTS * ROWS):
            i = i0 + r
            ends = i // longest + i % longest  # the last position
            inside = (i < length * longest) & (ends < length) & real
            sizes = _grown(sizes, segment, i.to(tl.int64) * types + c, inside)
    lengths_in_use = tl.minimum(longest, length)
    for d0 in range(part * ROWS, lengths_in_use, PARTS * ROWS):
        inside = (d0 + r < lengths_in_use) & real
        sizes = _grown(sizes, duration, (d0 + r) * types + c, inside)
    for s0 in range(part * ROWS, tl.where(length > 1, types, 0), PARTS * ROWS):
        inside = (s0 + r < types) & real
        sizes = _grown(sizes, transition, (s0 + r) * types + c, inside)
    inside = (r < tl.where(part == 0, 1, 0)) & real
    sizes = _grown(sizes, initial, c + r * 0, inside)
    sizes = _grown(sizes, final, c + r * 0, inside)
    count = tl.sum(tl.sum(tl.where(sizes <= SMALL, 0, 1), 1), 0)
    tl.store(large + b * PARTS + part, count > 0)


@triton.jit
def is_large(large, b):
    """Whether a part of a sentence has a score above `SMALL` in magnitude, NaN or +inf."""
    return tl.sum(tl.load(large + b * PARTS + tl.arange(0, PARTS)).to(tl.int32), 0) > 0


def magnitudes(p: Potentials) -> Tensor | None:
    """Which parts of each sentence float32 does not tell apart [B, PARTS] bool; None in float64."""
    if p.duration.dtype == torch.float64:
        return None
    batch, positions, longest, types = p.sizes
    large = p.lengths.new_empty((batch, PARTS.value), dtype=torch.bool)
    tile = power_of_two(max(2, types))
    magnitude_kernel[(batch, PARTS.value)](
        *contiguous(p), large, positions, longest, types,
        ROWS=max(1, 2048 // tile), TYPES=tile, num_warps=4,
    )  # fmt: skip
    return large
