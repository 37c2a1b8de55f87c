"""The gradient in the log semiring: the marginal of every edge, in parallel, without atomics.

    p[s, d, c, c'] = exp(beta[s, c'] + edge[s, d, c, c'] + gamma[s+d, c] - logZ)

One program takes a row s. A sequence whose score is NaN has NaN for its whole gradient.

Memory traffic: a row's used edges are read once, and all of the row is written once.
Source: Sarawagi and Cohen (2004), equation 4.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from hf_semicrf.ops.kernels.dense_states import durations, is_here


@triton.jit(do_not_specialize=["rows", "size", "count"])
def _marginal(
    # potentials, states and the gradient of the scores
    edge, lengths, beta, gamma, precise, totals, scales,
    # results
    gradient,
    # sizes
    rows, size, count,
    C: tl.constexpr, FIRST: tl.constexpr, ACC: tl.constexpr, R: tl.constexpr, OUT: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    b = row // rows
    if not is_here(precise, b, ACC):
        return
    s = (row % rows).to(tl.int32)
    out = tl.program_id(1) * OUT + tl.arange(0, OUT)
    steps = tl.load(lengths + b).to(tl.int32) - 1
    total = tl.load(totals + b)
    scale = tl.load(scales + b).to(ACC)
    dtype: tl.constexpr = gradient.dtype.element_ty
    nothing = tl.where(total == total, 0.0, total).to(ACC)
    reach = tl.where(total != float("-inf"), tl.minimum(count, steps - s), 0)
    boundary = b * (rows + 1) + s
    reached = tl.where(s < steps, C, 0)
    behind = tl.load(beta + boundary * C + out, mask=out < reached, other=float("-inf"))
    anchor = tl.max(behind, 0)
    anchor = tl.where(anchor > float("-inf"), anchor, 0.0)
    left = (behind - anchor).to(ACC)
    edge += row * size * (C * C)
    gradient += row * size * (C * C)
    for base in range(0, size * C, R):
        q = base + tl.arange(0, R)
        d = q // C + (1 - FIRST)
        used = (d >= 1) & (d <= reach)
        ahead = tl.load(gamma + boundary * C + d * C + q % C, mask=used, other=float("-inf"))
        right = (ahead + (anchor - total)).to(ACC)
        place = q.to(tl.int64)[:, None] * C + out[None, :]
        both = used[:, None] & (out < C)[None, :]
        weight = tl.load(edge + place, mask=both, other=0.0).to(ACC)
        value = weight + right[:, None] + left[None, :]
        value = scale * tl.exp(tl.minimum(value, 0.0, propagate_nan=tl.PropagateNan.ALL))
        value = tl.where(both, value, nothing)
        if dtype != tl.float64:
            value = value.to(tl.float32)  # where Triton knows how to round to 16 bits
        value = value.to(dtype)
        tl.store(gradient + place, value, mask=(q < size * C)[:, None] & (out < C)[None, :])


def marginals(
    edge: Tensor, lengths: Tensor, beta: Tensor, gamma: Tensor, precise: Tensor, score: Tensor,
    grad_score: Tensor, accs: tuple[tl.dtype, ...],
) -> Tensor:  # fmt: skip
    """Multiply grad_score with the marginal of every edge; exact zeros where no tiling goes.

    Args:
        edge: Potentials [B, T-1, K, C, C], contiguous, nats.
        lengths: Boundaries of each sequence [B], in 1..T.
        beta: All states of the left side [B, T, C].
        gamma: All states of the right side [B, T, C].
        precise: Whether a sequence is taken in float64 [B] bool.
        score: Of each sequence [B]; where it is NaN, so is the gradient.
        grad_score: Gradient of each score [B].
        accs: The dtypes that sequences are taken in.

    Returns:
        Tensor [B, T-1, K, C, C] of edge's dtype.
    """
    batch, rows, size, types, _ = edge.shape
    count, first = durations(size)
    gradient = torch.empty_like(edge)
    outs = min(triton.next_power_of_2(types), 32)
    totals = torch.where(score.isnan(), torch.nan, gamma[:, 0].logsumexp(-1))
    for acc in accs:
        _marginal[(batch * rows, triton.cdiv(types, outs))](
            # potentials, states and the gradient of the scores
            edge, lengths, beta, gamma, precise, totals, grad_score,
            # results
            gradient,
            # sizes
            rows, size, count,
            C=types, FIRST=first, ACC=acc, R=(1024 if acc == tl.float64 else 4096) // outs,
            OUT=outs, num_warps=4,
        )  # fmt: skip
    return gradient
