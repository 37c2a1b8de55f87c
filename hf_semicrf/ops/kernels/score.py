"""The score of one segmentation a sentence, and its segments' lengths: one program a sentence.

    score(y) = initial[c_1] + sum_j seg(s_j, e_j, c_j) + sum_{j>1} transition[c_{j-1}, c_j]
               + final[c_J]

A position looks up where its segment began with a running maximum over starts; everything else is
a gather.

Memory traffic: two reads a position, and the scores that the segmentation uses; N writes.
Source: Sarawagi and Cohen (2004), equations 1 to 3.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from hf_semicrf.ops.kernels.common import contiguous, in_float64
from hf_semicrf.ops.potentials import Potentials


@triton.jit
def _maximum(a, b):
    return tl.maximum(a, b)


@triton.jit(do_not_specialize=["positions", "longest", "types"])
def score_kernel(
    # potentials and the segmentation
    emission, segment, start, end, duration, transition, initial, final, lengths, labels, starts,
    # log Z, if the loss is wanted
    log_z,
    # results
    score_out, lengths_out,
    # sizes
    positions, longest, types, ROWS: tl.constexpr, OF_BEST: tl.constexpr,
):  # fmt: skip
    """One sentence; see the head of this file."""
    b = tl.program_id(0).to(tl.int64)
    length = tl.load(lengths + b).to(tl.int32)
    r = tl.arange(0, ROWS)
    first_row = b * positions
    score = tl.zeros([ROWS], tl.float64)
    begun = -1  # where the segment that reaches into the block began
    for n0 in range(0, positions, ROWS):
        n = n0 + r
        inside = n < length
        label = tl.load(labels + first_row + n, mask=inside, other=0).to(tl.int64)
        before = tl.load(labels + first_row + n - 1, mask=inside & (n > 0), other=0).to(tl.int64)
        starting = (tl.load(starts + first_row + n, mask=inside, other=0) != 0) | (n == 0)
        follows = tl.load(starts + first_row + n + 1, mask=n + 1 < length, other=0) != 0
        ending = inside & (follows | (n + 1 == length))
        begin = tl.associative_scan(tl.where(starting & inside, n, -1), 0, _maximum)
        begin = tl.maximum(begin, begun)
        begun = tl.max(begin, 0)
        length_minus_one = n - begin
        tl.store(
            lengths_out + first_row + n,
            tl.where(ending, length_minus_one + 1, 0),
            mask=n < positions,
        )

        legal = (label >= 0) & (label < types) & (before >= 0) & (before < types)
        legal = legal & (~ending | (length_minus_one < longest))
        usable = inside & legal
        position = (first_row + n) * types + label
        opens = usable & starting
        closes = usable & ending
        score += in_float64(emission, position, usable)
        score += in_float64(start, position, opens)
        score += in_float64(end, position, closes)
        score += in_float64(duration, length_minus_one * types + label, closes)
        score += in_float64(
            segment, ((first_row + begin) * longest + length_minus_one) * types + label, closes
        )
        score += in_float64(transition, before * types + label, opens & (n > 0))
        score += in_float64(initial, label, opens & (n == 0))
        score += in_float64(final, label, usable & (n + 1 == length))
        score += tl.where(inside & ~legal, -float("inf"), 0.0)
    total = tl.sum(score, 0)
    if log_z is not None:
        z = tl.load(log_z + b)
        total = tl.where((total == -float("inf")) & (z == z), float("inf"), z - total)
    result = total.to(score_out.dtype.element_ty)
    # NaN where a number leaves the range of the dtype
    finite = tl.abs(total) < float("inf")
    result = tl.where(finite & (tl.abs(result) == float("inf")), float("nan"), result)
    if OF_BEST:
        told = tl.load(labels + first_row).to(tl.int32) >= 0
        result = tl.where(told, result, float("nan"))
    tl.store(score_out + b, result)


def segmentation_score(p: Potentials, labels: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
    """Score of a segmentation in nats, float64 [B], and its ends, int32 [B, N].

    As :func:`hf_semicrf.ops.host.score.segmentation_score`; -inf where a label is not a type.
    """
    return _launch(p, labels, starts, None, torch.float64)


def best_score(p: Potentials, labels: Tensor, starts: Tensor) -> Tensor:
    """Score of a best segmentation in nats and the potentials' dtype [B]; NaN where labels are -1.

    And NaN where it leaves the range of that dtype.
    """
    return _launch(p, labels, starts, None, p.duration.dtype, of_best=True)[0]


def segmentation_loss(
    p: Potentials, labels: Tensor, starts: Tensor, log_z: Tensor
) -> tuple[Tensor, Tensor]:
    """Log Z less the score of a segmentation in nats [B], and its ends, int32 [B, N].

    In the potentials' dtype; inf where the score is -inf.
    """
    return _launch(p, labels, starts, log_z, p.duration.dtype)


def _launch(
    p: Potentials,
    labels: Tensor,
    starts: Tensor,
    log_z: Tensor | None,
    dtype: torch.dtype,
    of_best: bool = False,
) -> tuple[Tensor, Tensor]:
    batch, positions, longest, types = p.sizes
    inputs = contiguous((*p, labels, starts))
    out = p.duration.new_empty(batch, dtype=dtype)
    ends = torch.empty(batch, positions, dtype=torch.int32, device=out.device)
    score_kernel[(batch,)](
        # potentials and the segmentation
        *inputs,
        # log Z
        log_z,
        # results
        out, ends,
        # sizes
        positions, longest, types,
        ROWS=512, OF_BEST=of_best, num_warps=4,
    )  # fmt: skip
    return out, ends
