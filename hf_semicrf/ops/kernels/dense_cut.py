"""The score, from the states that met in the middle.

With M = ceil(N / 2), one segment of every tiling starts before M and ends at M or behind it:

    score = ⊕_{s < M <= s+d} ⊕_{c, c'} beta[s, c'] + edge[s, d, c, c'] + gamma[s+d, c]

One program takes one start s = M-1-k.

Memory traffic: each edge that crosses the middle is read once, here and nowhere else in phase 0.
Source: Sarawagi and Cohen (2004), section 3, from both ends.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from hf_semicrf.ops.kernels.dense_states import (
    Plan,
    accumulator,
    broken,
    durations,
    far_tile,
    pull,
)


@triton.jit(do_not_specialize=["rows", "size", "count"])
def _cut(
    # potentials and states
    edge, lengths, beta, gamma, anchors,
    # results
    cuts,
    # sizes
    rows, size, count,
    C: tl.constexpr, FIRST: tl.constexpr, MAX: tl.constexpr, ACC: tl.constexpr,
    TILES: tl.constexpr, OUT: tl.constexpr, Q: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(1).to(tl.int64)
    k = tl.program_id(0) // TILES
    out = tl.program_id(0) % TILES * OUT + tl.arange(0, OUT)
    steps = tl.load(lengths + b).to(tl.int32) - 1
    s = (steps + 1) // 2 - 1 - k
    total = tl.full((), float("-inf"), tl.float64)
    if s >= 0:
        boundary = b * (rows + 1) + s
        anchor = tl.load(anchors + 2 * b + 1)
        right = pull(
            edge + (b * rows + s) * size * (C * C), gamma + boundary * C,
            k + 1, tl.minimum(count, steps - s), anchor, out, size,
            C, FIRST, True, MAX, ACC, OUT, Q,
        )  # fmt: skip
        left = tl.load(beta + boundary * C + out, mask=out < C, other=float("-inf"))
        value = left + (anchor + right.to(tl.float64))
        total = tl.max(value, 0)
        if MAX:
            total = tl.where(broken(value, 0) > 0.0, float("nan"), total)
        else:
            safe = tl.where(total == float("-inf"), 0.0, total)
            mass = tl.sum(tl.exp((value - safe).to(ACC)), 0)
            total = safe + tl.log(mass).to(tl.float64)
    tl.store(cuts + b * count * TILES + tl.program_id(0), total)


def cut(
    edge: Tensor, lengths: Tensor, beta: Tensor, gamma: Tensor, anchors: Tensor,
    semiring: str, layout: Plan,
) -> Tensor:  # fmt: skip
    """Sum over the edges that cross the middle, by start.

    Args:
        edge: Potentials [B, T-1, K, C, C], contiguous, nats.
        lengths: Boundaries of each sequence [B], in 1..T.
        beta: States of phase 0 [B, T, C].
        gamma: States of phase 0 [B, T, C].
        anchors: Of phase 0 [B, 2].
        semiring: `"log"` or `"max"`.
        layout: From `plan`.

    Returns:
        [B, D, tiles], float64, D = max(K - 1, 1): the k-th is that of the start M-1-k; -inf where
        there is none.
    """
    batch, rows, size, types, _ = edge.shape
    count, first = durations(size)
    tiles = triton.cdiv(types, layout.outs)
    cuts = beta.new_empty((batch, count, tiles))
    _cut[(count * tiles, batch)](
        # potentials and states
        edge, lengths, beta, gamma, anchors,
        # results
        cuts,
        # sizes
        rows, size, count,
        C=types, FIRST=first, MAX=semiring == "max", ACC=accumulator(edge.dtype), TILES=tiles,
        **far_tile(layout.outs, types * count),
    )  # fmt: skip
    return cuts


def score(cuts: Tensor, lengths: Tensor, types: int, semiring: str) -> Tensor:
    """The score [B], float64, from `cut`; a sequence of no step scores ⊕_c 0."""
    cuts = cuts.flatten(1)
    empty = cuts.new_zeros(types)
    if semiring == "max":
        return torch.where(lengths > 1, cuts.amax(1), empty.amax(0))
    return torch.where(lengths > 1, cuts.logsumexp(1), empty.logsumexp(0))
