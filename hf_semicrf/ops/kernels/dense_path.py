"""One best path, from the max semiring's states of phase 0, traced from the middle to both ends.

    left of the middle:  beta[n, c]   = max_{d, c'} beta[n-d, c'] + edge[n-d, d, c, c']
    right of the middle: gamma[s, c'] = max_{d, c}  edge[s, d, c, c'] + gamma[s+d, c]

The arg-max is taken again along the path, in float64, so that no back-pointers are stored.

Memory traffic: K·C reads a segment, K·C² for the one that crosses the middle.
Source: Sarawagi and Cohen (2004), equation 2.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from hf_semicrf.ops.kernels.dense_states import durations


@triton.jit
def _crossing(
    edge, beta, gamma, low, high, C: tl.constexpr, Q: tl.constexpr,
):  # fmt: skip
    """The best of the durations low..high: its place from duration low on, flat over (d, c, c')."""
    best = tl.full((), float("-inf"), tl.float64)
    place = tl.full((), 0, tl.int32)
    count = (high - low + 1) * C * C
    for base in range(0, count, Q):
        q = base + tl.arange(0, Q)
        value = tl.load(edge + q, mask=q < count, other=float("-inf")).to(tl.float64)
        value += tl.load(beta + q % C) + tl.load(
            gamma + low * C + q // C, mask=q < count, other=0.0
        )
        peak, at = tl.max(value, 0, return_indices=True)
        place = tl.where(peak > best, base + at, place)
        best = tl.maximum(peak, best)
    return place


@triton.jit
def _best(
    edge, state, stride, count, sign, pitch, C: tl.constexpr, Q: tl.constexpr,
):  # fmt: skip
    """The best pair of a duration and a type, flat."""
    best = tl.full((), float("-inf"), tl.float64)
    place = tl.full((), 0, tl.int32)
    for base in range(0, count * C, Q):
        q = base + tl.arange(0, Q)
        d = q // C + 1
        inside = q < count * C
        value = tl.load(
            edge + d.to(tl.int64) * stride + q % C * pitch, mask=inside, other=float("-inf")
        ).to(tl.float64)
        value += tl.load(state + sign * d * C + q % C, mask=inside, other=0.0)
        peak, at = tl.max(value, 0, return_indices=True)
        place = tl.where(peak > best, base + at, place)
        best = tl.maximum(peak, best)
    return place


@triton.jit(do_not_specialize=["rows", "size", "count"])
def _trace(
    # potentials and states
    edge, lengths, score, beta, gamma, nearest,
    # results
    path,
    # sizes
    rows, size, count,
    C: tl.constexpr, FIRST: tl.constexpr, Q: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(0).to(tl.int64) // 2
    steps = tl.load(lengths + b).to(tl.int32) - 1
    total = tl.load(score + b).to(tl.float64)
    if (steps > 0) & (total == total):
        k = tl.load(nearest + b).to(tl.int32)
        s = (steps + 1) // 2 - 1 - k
        pitch = size.to(tl.int64) * (C * C)
        edge += b * rows * pitch
        beta += b * (rows + 1) * C
        gamma += b * (rows + 1) * C
        path += b * rows
        skip = (k + 1) * FIRST  # the index of duration k + 1
        place = _crossing(
            edge + s * pitch + skip * (C * C), beta + s * C, gamma + s * C,
            k + 1, tl.minimum(count, steps - s), C, Q,
        )  # fmt: skip
        if tl.program_id(0) % 2 == 0:
            tl.store(path + s, skip * (C * C) + place)
            n = s
            kind = place % C
            while n > 0:
                choice = _best(
                    edge + n * pitch + kind * C, beta + n * C, FIRST * (C * C) - pitch,
                    tl.minimum(count, n), -1, 1, C, Q,
                )  # fmt: skip
                d = choice // C + 1
                n -= d
                tl.store(path + n, ((d * FIRST).to(tl.int64) * C + kind) * C + choice % C)
                kind = choice % C
        else:
            n = s + k + 1 + place // (C * C)
            kind = place // C % C
            while n < steps:
                choice = _best(
                    edge + n * pitch + kind, gamma + n * C, tl.full((), FIRST * C * C, tl.int64),
                    tl.minimum(count, steps - n), 1, C, C, Q,
                )  # fmt: skip
                d = choice // C + 1
                tl.store(path + n, ((d * FIRST).to(tl.int64) * C + choice % C) * C + kind)
                n += d
                kind = choice % C


def trace(
    edge: Tensor, lengths: Tensor, score: Tensor, beta: Tensor, gamma: Tensor, nearest: Tensor
) -> Tensor:
    """One best path; none where the score is NaN.

    Args:
        edge: Potentials [B, T-1, K, C, C], contiguous, nats.
        lengths: Boundaries of each sequence [B], in 1..T.
        score: Of each sequence [B].
        beta: States of phase 0 in the max semiring [B, T, C].
        gamma: States of phase 0 in the max semiring [B, T, C].
        nearest: Where the path crosses the middle [B]: the start M-1-nearest.

    Returns:
        Path [B, T-1], int64: where a segment starts its place in `edge[b, s].flatten()`, else -1.
    """
    batch, rows, size, types, _ = edge.shape
    count, first = durations(size)
    path = torch.full((batch, rows), -1, dtype=torch.int64, device=edge.device)
    _trace[(2 * batch,)](
        # potentials and states
        edge, lengths, score, beta, gamma, nearest,
        # results
        path,
        # sizes
        rows, size, count,
        C=types, FIRST=first,
        Q=min(2048, triton.next_power_of_2(count * types)), num_warps=8,
    )  # fmt: skip
    return path
