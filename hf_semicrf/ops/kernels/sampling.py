"""Samples: one program a sentence and sample walks back from the end of the text.

At each boundary the program weighs every start that the segment ending there may have, walks along
the running sum of the weights until it passes a uniform number, writes the segment, and draws the
type before it in the same way. What it reads of the scan is in nats and float64, as is all its
arithmetic, so that it draws what the PyTorch back end draws from the same numbers.

    p(s | e, c)  = exp(pre[s, c] + seg(s, e, c) - alpha[e, c])
    p(c' | s, c) = exp(alpha[s, c'] + transition[c', c] - pre[s, c])

Memory traffic: up to 5 L + 2 C reads and two waits for memory a segment; N labels and starts
written. L + C exponentials a segment.
Source: Scott (2002), "Bayesian Methods for Hidden Markov Models", section 2.1, for segments.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from hf_semicrf.ops.kernels.common import contiguous, finite, in_float64, power_of_two
from hf_semicrf.ops.potentials import Potentials

MAX_ROWS = 256  # lengths that are weighed at a time


@triton.jit
def _draw_type(score, c, u):
    """The first type whose running sum of exp(score) exceeds the share u of the total."""
    weight = tl.exp(score - finite(tl.max(score, 0)))
    share = u * tl.sum(weight, 0)
    hit = (weight > 0.0) & (tl.cumsum(weight, 0) > share)
    # where rounding leaves no hit, the last type that is possible
    chosen = tl.min(tl.where(hit, c, 1 << 30), 0)
    return tl.minimum(chosen, tl.max(tl.where(weight > 0.0, c, 0), 0))


@triton.jit(do_not_specialize=["batch", "positions", "longest", "types"])
def sample_kernel(
    # potentials
    emission, segment, start, end, duration, transition, final, lengths,
    # the scan's state and the random numbers
    pre, alpha, uniform,
    # results
    labels, starts,
    # sizes
    batch, positions, longest, types,
    ROWS: tl.constexpr, TYPES: tl.constexpr,
):  # fmt: skip
    """One sample of one sentence; see the head of this file."""
    b, i = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    length = tl.load(lengths + b).to(tl.int32)
    c, r = tl.arange(0, TYPES), tl.arange(0, ROWS)
    n = tl.arange(0, 32)
    real = c < types
    minus_inf = -float("inf")
    first_row = b * positions  # this sentence's first first_row in an input
    first_boundary = b * (positions + 1)  # and its boundary 0
    out = (i * batch + b) * positions  # and its first position in this sample
    uniform_length = uniform + out
    uniform_type = uniform_length + tl.num_programs(1).to(tl.int64) * batch * positions

    last = tl.load(alpha + (first_boundary + length) * types + c, mask=real, other=minus_inf)
    last += in_float64(final, c, real)
    length = tl.where(tl.max(last, 0) > minus_inf, length, 0)
    stop = length
    label = _draw_type(last, c, tl.load(uniform_type + tl.maximum(stop - 1, 0)))
    while stop > 0:
        log_total = tl.load(alpha + (first_boundary + stop) * types + label)
        u = tl.load(uniform_length + stop - 1)
        closing = (first_row + stop - 1) * types + label + r * 0
        content = tl.zeros([], tl.float64)
        passed = tl.zeros([], tl.float64)
        chosen = stop * 0 + (1 << 30)
        longest_possible = stop * 0
        for d0 in range(0, tl.minimum(longest, stop), ROWS):
            length_minus_one = d0 + r
            inside = (length_minus_one < longest) & (length_minus_one < stop)
            s = stop - 1 - length_minus_one
            at = (first_row + s) * types + label
            inner = in_float64(emission, at, inside)
            score = tl.load(
                pre + (first_boundary + s) * types + label, mask=inside, other=minus_inf
            )
            score += content + tl.cumsum(inner, 0)
            score += in_float64(start, at, inside) + in_float64(end, closing, inside)
            score += in_float64(duration, length_minus_one * types + label, inside)
            score += in_float64(
                segment, ((first_row + s) * longest + length_minus_one) * types + label, inside
            )
            weight = tl.exp(score - log_total)
            hit = (weight > 0.0) & (passed + tl.cumsum(weight, 0) > u)
            chosen = tl.minimum(chosen, tl.min(tl.where(hit, length_minus_one, 1 << 30), 0))
            possible = tl.max(tl.where(weight > 0.0, length_minus_one, 0), 0)
            longest_possible = tl.maximum(longest_possible, possible)
            passed += tl.sum(weight, 0)
            content += tl.sum(inner, 0)
        begin = stop - 1 - tl.minimum(chosen, longest_possible)
        for n0 in range(begin, stop, ROWS):
            inside = n0 + r < stop
            tl.store(labels + out + n0 + r, (label + r * 0).to(tl.int64), mask=inside)
            tl.store(starts + out + n0 + r, n0 + r == begin, mask=inside)
        if begin > 0:
            before = tl.load(
                alpha + (first_boundary + begin) * types + c, mask=real, other=minus_inf
            )
            before += in_float64(transition, c * types + label, real)
            label = _draw_type(before, c, tl.load(uniform_type + begin - 1))
        stop = begin
    for n0 in range(length, positions, 32):
        inside = n0 + n < positions
        tl.store(labels + out + n0 + n, (n * 0 - 1).to(tl.int64), mask=inside)
        tl.store(starts + out + n0 + n, n < 0, mask=inside)


def walk(p: Potentials, pre: Tensor, alpha: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """As :func:`hf_semicrf.ops.host.sampling.walk`."""
    batch, positions, longest, types = p.sizes
    emission, segment, start, end, duration, transition, _, final, lengths = contiguous(p)
    shape = uniform.shape[1:]
    labels = torch.empty(shape, dtype=torch.long, device=uniform.device)
    starts = torch.empty(shape, dtype=torch.bool, device=uniform.device)
    rows = min(MAX_ROWS, max(2, power_of_two(longest)))
    sample_kernel[(batch, shape[0])](
        # potentials
        emission, segment, start, end, duration, transition, final, lengths,
        # the scan's state and the random numbers
        *contiguous((pre, alpha, uniform)),
        # results
        labels, starts,
        # sizes
        batch, positions, longest, types,
        ROWS=rows, TYPES=max(2, power_of_two(types)), num_warps=1,
    )  # fmt: skip
    return labels, starts
