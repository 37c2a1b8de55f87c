"""The score, from the states that met in the middle.

With M = ceil(N / 2), one segment of every tiling starts before M and ends at M or behind it:

    score = ⊕_{s < M <= s+d} ⊕_{c, c'} beta[s, c'] + edge[s, d, c, c'] + gamma[s+d, c]

One program of `_cut` takes one start s = M-1-k, one of `_total` adds up a sequence.

The score has to exceed whatever a tiling could have that uses an edge that was forbidden for being
far below: that edge and all that positive scores can add, by CERTAIN nats. float32 takes bounds for
both, and a sequence whose score does not say enough is taken again in float64, for which `_survey`
looks at each score. What is in doubt then is NaN, as in ops/dense/scan.py.

Memory traffic: each edge that crosses the middle is read once, here and nowhere else in phase 0;
`_survey` reads what float64 takes once more.
Source: Sarawagi and Cohen (2004), section 3, from both ends.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from hf_semicrf.ops.kernels.common import CERTAIN, SMALL
from hf_semicrf.ops.kernels.dense_states import (
    FORBIDDEN,
    LARGEST,
    Plan,
    add,
    broken,
    close,
    durations,
    far_tile,
    is_here,
    pull,
)

PARTS = tl.constexpr(16)  # programs of _survey a sequence


@triton.jit(do_not_specialize=["rows", "size", "count"])
def _cut(
    # potentials and states
    edge, lengths, beta, gamma, anchors, precise,
    # results
    cuts,
    # sizes
    rows, size, count,
    C: tl.constexpr, FIRST: tl.constexpr, MAX: tl.constexpr, ACC: tl.constexpr,
    TILES: tl.constexpr, OUT: tl.constexpr, Q: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(1).to(tl.int64)
    if not is_here(precise, b, ACC):
        return
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


@triton.jit(do_not_specialize=["rows", "size", "count"])
def _survey(
    # potentials
    edge, lengths, precise,
    # results
    surveys,
    # sizes
    rows, size, count,
    C: tl.constexpr, FIRST: tl.constexpr, Q: tl.constexpr,
):  # fmt: skip
    """The highest score that float64 forbids, and what positive scores can add at most."""
    b = tl.program_id(1).to(tl.int64)
    part = tl.program_id(0)
    if not is_here(precise, b, tl.float64):
        return
    steps = tl.load(lengths + b).to(tl.int32) - 1
    far = tl.full((), float("-inf"), tl.float64)
    gain = tl.full((), 0.0, tl.float64)
    for s in range(part, steps, PARTS):
        row = edge + ((b * rows + s) * size + FIRST) * (C * C)
        used = tl.minimum(count, steps - s) * (C * C)
        best = tl.full((), 0.0, tl.float64)
        for base in range(0, used, Q):
            q = base + tl.arange(0, Q)
            x = tl.load(row + q, mask=q < used, other=0.0).to(tl.float64)
            lost = (x < -LARGEST) & (x > float("-inf"))
            far = tl.maximum(far, tl.max(tl.where(lost, x, float("-inf")), 0))
            best = tl.maximum(best, tl.max(tl.where(x <= LARGEST, x, 0.0), 0))
        gain += best
    place = surveys + (b * PARTS + part) * 2
    tl.store(place, far)
    tl.store(place + 1, gain)


@triton.jit(do_not_specialize=["count"])
def _total(
    cuts, lengths, surveys,
    # results
    score, precise, nearest,
    # sizes
    count, C: tl.constexpr, MAX: tl.constexpr, ACC: tl.constexpr, TILES: tl.constexpr,
    Q: tl.constexpr,
):  # fmt: skip
    """The score of a sequence, and whether it says enough."""
    b = tl.program_id(0).to(tl.int64)
    if not is_here(precise, b, ACC):
        return
    steps = tl.load(lengths + b).to(tl.int32) - 1
    lane = tl.arange(0, Q)
    types = tl.full((1,), C, tl.float64)
    top = tl.full((1,), float("-inf"), tl.float64)
    mass = tl.zeros((1,), tl.float64)
    place = tl.full((1,), 0, tl.int32)
    if steps > 0:
        for base in range(0, count * TILES, Q):
            q = base + lane
            value = tl.load(
                cuts + b * count * TILES + q, mask=q < count * TILES, other=float("-inf")
            )
            peak, at = tl.max(value[None, :], 1, return_indices=True)
            place = tl.where(peak > top, base + at, place)
            top, mass = add(top, mass, value[None, :], tl.zeros((Q,), tl.float64), MAX)
        total = close(top, mass, MAX)
    elif MAX:  # ⊕ of a zero for each type
        total = mass
    else:
        total = tl.log(types)
    if ACC == tl.float64:
        survey = surveys + (b * PARTS + tl.arange(0, PARTS)[None, :]) * 2
        far = tl.max(tl.load(survey), 1)
        gain = tl.sum(tl.load(survey + 1), 1)
    else:
        far = types * 0.0 - FORBIDDEN
        gain = types * 0.0 + SMALL * steps
    least = far + gain + CERTAIN + tl.log(2 * types) * steps
    told = total > least
    if ACC == tl.float64:
        told = told | ((far == float("-inf")) & (total < float("inf")))
        total = tl.where(told, total, float("nan"))
    else:
        tl.store(precise + b + tl.arange(0, 1), ~told)
    tl.store(score + b + tl.arange(0, 1), total)
    if MAX:
        tl.store(nearest + b + tl.arange(0, 1), place // TILES)


def score(
    edge: Tensor, lengths: Tensor, beta: Tensor, gamma: Tensor, anchors: Tensor, precise: Tensor,
    semiring: str, layout: Plan, acc: tl.dtype, score: Tensor, nearest: Tensor,
) -> None:  # fmt: skip
    """Fill the scores, in place, of the sequences that are taken in acc.

    Args:
        edge: Potentials [B, T-1, K, C, C], contiguous, nats.
        lengths: Boundaries of each sequence [B], in 1..T.
        beta: States of phase 0 [B, T, C].
        gamma: States of phase 0 [B, T, C].
        anchors: Of phase 0 [B, 2].
        precise: Whether a sequence is taken in float64 [B] bool; float32 writes which are left.
        semiring: `"log"` or `"max"`.
        layout: From `plan`.
        acc: The dtype of a tile's sums.
        score: The scores [B], float64.
        nearest: With `"max"` [B], int64: the best path crosses the middle from start M-1-nearest.
    """
    batch, rows, size, types, _ = edge.shape
    count, first = durations(size)
    tiles = triton.cdiv(types, layout.outs)
    constants = {"C": types, "MAX": semiring == "max", "ACC": acc, "TILES": tiles}
    cuts = beta.new_empty((batch, count, tiles))
    surveys = beta.new_empty((batch, PARTS.value, 2))
    _cut[(count * tiles, batch)](
        # potentials and states
        edge, lengths, beta, gamma, anchors, precise,
        # results
        cuts,
        # sizes
        rows, size, count,
        FIRST=first, **constants, **far_tile(layout.outs, types * count, acc),
    )  # fmt: skip
    if acc == tl.float64:
        _survey[(PARTS.value, batch)](
            # potentials
            edge, lengths, precise,
            # results
            surveys,
            # sizes
            rows, size, count,
            C=types, FIRST=first, Q=1024, num_warps=4,
        )  # fmt: skip
    _total[(batch,)](
        cuts, lengths, surveys,
        # results
        score, precise, nearest,
        # sizes
        count, Q=256, num_warps=1, **constants,
    )  # fmt: skip
