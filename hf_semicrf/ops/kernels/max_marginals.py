"""The best segmentation through each place: both directions' scan for maxima, then all in parallel.

With `pre` and `post`, the scores of the best prefixes and suffixes, the best segmentation through a
segment has the score

    through(s, e, c) = pre[s, c] + seg(s, e, c) + post[e, c]

One program takes all lengths at one start. Of the segments from s those longer than n - s cover
position n: a running maximum over lengths, from the longest down. Programs meet at ends and
positions in atomic maxima, whose order changes no bit. All in float64.

Memory traffic: up to 5 L C reads and 2 L C maxima a start, in the cache; L C writes where the
segments are asked for.
Source: Wainwright and Jordan (2008), "Graphical Models, Exponential Families, and Variational
Inference", section 8, for max-marginals; the recurrence is that of ranking.py.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from hf_semicrf.ops.kernels.common import contiguous, in_float64, power_of_two
from hf_semicrf.ops.kernels.ranking import best_prefixes
from hf_semicrf.ops.potentials import Potentials

MAX_ELEMENTS = 1024  # of a tile, where it can be cut by types


@triton.jit
def _larger(x, y):
    return tl.maximum(x, y)


@triton.jit(do_not_specialize=["batch", "positions", "longest", "types"])
def through_kernel(
    # potentials
    emission, segment, start, end, duration, lengths,
    # the best prefixes and suffixes
    pre,
    # results
    token_out, start_out, end_out, segment_out,
    # sizes
    batch, positions, longest, types,
    ROWS: tl.constexpr, TYPES: tl.constexpr,
):  # fmt: skip
    """All segments from one start, of some types; see the head of this file."""
    b = (tl.program_id(0) // positions).to(tl.int64)
    s = tl.program_id(0) % positions
    length = tl.load(lengths + b).to(tl.int32)
    d = tl.arange(0, ROWS)
    c = tl.program_id(1) * TYPES + tl.arange(0, TYPES)
    real = c < types
    inside = ((d < longest) & (s + d < length))[:, None] & real[None, :]
    first = (b * positions + s) * types + c[None, :]
    covered = first + d[:, None] * types
    by_length = d[:, None] * types + c[None, :]
    score = tl.cumsum(in_float64(emission, covered, inside), 0)
    score += in_float64(duration, by_length, inside)
    score += in_float64(start, first + d[:, None] * 0, inside)
    score += in_float64(end, covered, inside)
    score += in_float64(segment, (b * positions + s) * longest * types + by_length, inside)
    before = (b * (positions + 1) + s) * types + c[None, :] + d[:, None] * 0
    after = (batch + b) * (positions + 1) + length - s - 1 - d
    score += in_float64(pre, before, inside)
    score += in_float64(pre, after[:, None] * types + c[None, :], inside)
    score = tl.where(inside, score, -float("inf"))
    score = tl.where(score == 0.0, 0.0, score)  # as bits, -0.0 is less than all negative numbers
    tl.store(start_out + first, tl.max(score, 0)[None, :], mask=real[None, :])
    if segment_out is not None:
        at = (b * positions + s) * longest * types + by_length
        tl.store(segment_out + at, score, mask=(d < longest)[:, None] & real[None, :])
    longer = tl.associative_scan(score, 0, _larger, reverse=True)
    tl.atomic_max(end_out + covered, score, mask=inside, sem="relaxed")
    tl.atomic_max(token_out + covered, longer, mask=inside, sem="relaxed")


def max_marginals(p: Potentials, with_segment: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Best scores through each token, start, end [B, N, C] and segment [B, N, L, C], in float64.

    The last is empty unless asked for.
    """
    batch, positions, longest, types = p.sizes
    pre, _, _ = best_prefixes(p, 1, directions=2)
    emission, segment, start, end, duration, _, _, _, lengths = contiguous(p)
    shape = (batch, positions, types)
    token_out, end_out = (pre.new_full(shape, -torch.inf) for _ in range(2))
    start_out = pre.new_empty(shape)
    through = pre.new_full((batch, positions, longest, types) if with_segment else (0,), -torch.inf)
    rows = power_of_two(min(longest, positions))
    tile = max(2, min(power_of_two(types), MAX_ELEMENTS // rows))
    through_kernel[(batch * positions, -(-types // tile))](
        # potentials
        emission, segment, start, end, duration, lengths,
        # the best prefixes and suffixes
        pre,
        # results
        token_out, start_out, end_out, through if with_segment else None,
        # sizes
        batch, positions, longest, types,
        ROWS=rows, TYPES=tile, num_warps=max(1, min(8, rows * tile // 256)),
    )  # fmt: skip
    return token_out, start_out, end_out, through
