"""Scores of segments from the states at their ends, their mean state and their width.

    x[n, l]     = first[n] + last[n + l] + (inside[n] + ... + inside[n + l]) / (l + 1) + width[l]
    score[n, l] = (keep_mask[n] * gelu(x[n, l])) @ weight.T + bias

A program takes a tile of positions and goes through the lengths with the sum of the states inside
in registers, so that x, as wide as a state for each of the N L segments, is never in memory. The
gradient forms x again, twice: summed over the segments that start in a tile, and over those that
end in one. A state inside counts in every segment that covers it: a running sum of what starts less
what has ended. No two programs add to one number, so a result does not depend on their order.

Memory traffic: 3 N W reads, N L C writes; the gradient reads twice as much and writes 4 N W. N L
GELUs and dot products of W units for the scores, twice as many for the gradient.
Source: Lee et al. (2017), "End-to-end Neural Coreference Resolution", for the parts of a span's
features; a mean here where attention is there.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from hf_semicrf.ops.kernels.common import LOG2E, power_of_two

ROWS, UNITS, MAX_TYPES = 16, 64, 64
SUM_ROWS, SUM_UNITS = 128, 16


@triton.jit
def _normal(x):
    """The standard normal distribution function and density, the first within 1e-7 in float32.

    Source: Abramowitz and Stegun (1964), formula 26.2.17.
    """
    density = tl.exp2(x * x * (-0.5 * LOG2E)) * 0.3989422804014327
    if x.dtype == tl.float64:
        return 0.5 + 0.5 * tl.erf(x * 0.7071067811865476), density
    else:
        t = 1.0 / (1.0 + 0.2316419 * tl.abs(x))
        tail = t * (-1.821255978 + t * 1.330274429)
        tail = t * (0.319381530 + t * (-0.356563782 + t * (1.781477937 + tail)))
        tail *= density
        return tl.where(x < 0.0, tail, 1.0 - tail), density


@triton.jit
def _rows(rows, first, r, stride, positions, u, units, dtype: tl.constexpr):
    """Rows ``first + r`` of a matrix that has so many units a row; 0 outside the text."""
    inside = ((first + r >= 0) & (first + r < positions))[:, None] & (u < units)[None, :]
    rows += first.to(tl.int64) * stride
    return tl.load(rows + r[:, None] * stride + u[None, :], mask=inside, other=0).to(dtype)


@triton.jit
def _with_one_more(
    total, fixed, states, part, width, first, d, r, positions, u, units, dtype: tl.constexpr
):
    """The sum of the states inside with rows ``first + r`` too, and x of the longer segments.

    ``fixed`` are the states at the end that stays; ``part`` tells which those at the other are.
    """
    stride = 3 * units
    total += _rows(states + 2 * units, first, r, stride, positions, u, units, dtype)
    x = fixed + _rows(states + part * units, first, r, stride, positions, u, units, dtype)
    x += tl.load(width + d * units + u, mask=u < units, other=0.0).to(dtype)[None, :]
    return total, x + total * (1.0 / tl.cast(d + 1, dtype))


@triton.jit(do_not_specialize=["positions"])
def scores_kernel(
    states, width, weight, bias, keep_mask,
    # results
    out,
    # the scale of dropout, and sizes
    scale, positions, longest, units, types,
    ROWS: tl.constexpr, UNITS: tl.constexpr, TYPES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The segments of all lengths that start in a tile; the units' parts are added one by one."""
    b = tl.program_id(0).to(tl.int64)
    n0 = tl.program_id(1) * ROWS
    r = tl.arange(0, ROWS)
    c = tl.program_id(2) * TYPES + tl.arange(0, TYPES)
    dtype: tl.constexpr = out.dtype.element_ty
    type_mask = (n0 + r < positions)[:, None] & (c < types)[None, :]
    offset = tl.load(bias + c, mask=c < types, other=0.0).to(dtype)[None, :]
    states += b * positions * 3 * units
    if keep_mask is not None:
        keep_mask += b * positions * units
    out += (b * positions + n0) * longest * types
    at = r[:, None] * longest * types + c[None, :]
    for u0 in range(0, units, UNITS):
        u = u0 + tl.arange(0, UNITS)
        unit_mask = (u < units)[:, None] & (c < types)[None, :]
        columns = tl.load(weight + c[None, :] * units + u[:, None], mask=unit_mask, other=0.0)
        first = _rows(states, n0, r, 3 * units, positions, u, units, dtype)
        if keep_mask is not None:
            factor = _rows(keep_mask, n0, r, units, positions, u, units, dtype) * scale
        total = tl.zeros([ROWS, UNITS], dtype)
        for d in range(longest):
            total, x = _with_one_more(
                total, first, states, 1, width, n0 + d, d, r, positions, u, units, dtype
            )
            features = x * _normal(x)[0]
            if keep_mask is not None:
                features *= factor
            cell = out + d * types + at
            earlier_units = tl.load(cell, mask=type_mask & (u0 > 0), other=0.0)
            earlier_units = tl.where(u0 > 0, earlier_units, offset)
            score = tl.dot(features, columns.to(dtype), input_precision=PRECISION, out_dtype=dtype)
            tl.store(cell, earlier_units + score, mask=type_mask)
        tl.debug_barrier()


@triton.jit(do_not_specialize=["positions"])
def gradient_kernel(
    states, width, weight, keep_mask, gradient,
    # results
    states_out, covering_out, shared_out,
    # the scale of dropout, and sizes
    scale, positions, longest, units, types,
    ROWS: tl.constexpr, UNITS: tl.constexpr, TYPES: tl.constexpr, PRECISION: tl.constexpr,
    END: tl.constexpr,
):  # fmt: skip
    """The gradient of the states at one end, and of inside by the segments with that end in a tile.

    END is 0 for the segments' starts, where the gradient of width and weight is made too, and 1 for
    their ends.
    """
    b = tl.program_id(0).to(tl.int64)
    n0 = tl.program_id(1) * ROWS
    r = tl.arange(0, ROWS)
    n = n0 + r
    u = tl.program_id(2) * UNITS + tl.arange(0, UNITS)
    c = tl.arange(0, TYPES)
    dtype: tl.constexpr = gradient.dtype.element_ty
    unit_mask = (c < types)[:, None] & (u < units)[None, :]
    rows = tl.load(weight + c[:, None] * units + u[None, :], mask=unit_mask, other=0.0).to(dtype)
    states += b * positions * 3 * units
    fixed = _rows(states + END * units, n0, r, 3 * units, positions, u, units, dtype)
    if keep_mask is not None:
        keep_mask += b * positions * units
        if END == 0:
            factor = _rows(keep_mask, n0, r, units, positions, u, units, dtype) * scale
    gradient += (b * positions + n0) * longest * types
    at = r[:, None] * longest * types + c[None, :]
    total = tl.zeros([ROWS, UNITS], dtype)
    at_end, covering = total, total
    if END == 0:
        shared_out += (b * tl.num_programs(1) + tl.program_id(1)) * (longest + types) * units
        grad_weight = tl.zeros([TYPES, UNITS], dtype)
    for d in range(longest):
        other = n0 + (1 - 2 * END) * d  # where the other ends lie
        total, x = _with_one_more(
            total, fixed, states, 1 - END, width, other, d, r, positions, u, units, dtype
        )
        begin = n - END * d
        type_mask = ((begin >= 0) & (n < positions))[:, None] & (c < types)[None, :]
        grad_score = tl.load(gradient + at, mask=type_mask, other=0.0)
        gradient += types - END * longest * types  # one longer, and begun one earlier or not
        below, density = _normal(x)
        slope = below + x * density
        if keep_mask is not None:
            if END == 1:
                factor = _rows(keep_mask, other, r, units, positions, u, units, dtype) * scale
            slope *= factor
        grad_x = tl.dot(grad_score, rows, input_precision=PRECISION, out_dtype=dtype) * slope
        at_end += grad_x
        covering += grad_x * (1.0 / tl.cast(d + 1, dtype))
        if END == 0:
            features = x * below
            if keep_mask is not None:
                features *= factor
            grad_weight += tl.dot(tl.trans(grad_score), features,
                                input_precision=PRECISION, out_dtype=dtype)  # fmt: skip
            tl.store(shared_out + d * units + u, tl.sum(grad_x, 0), mask=u < units)
    inside = (n < positions)[:, None] & (u < units)[None, :]
    at = b * positions + n.to(tl.int64)
    tl.store(states_out + (at[:, None] * 3 + END) * units + u[None, :], at_end, mask=inside)
    tl.store(covering_out + at[:, None] * units + u[None, :], covering, mask=inside)
    if END == 0:
        at = (longest + c)[:, None] * units + u[None, :]
        tl.store(shared_out + at, grad_weight, mask=unit_mask)


@triton.jit(do_not_specialize=["positions"])
def inside_kernel(
    starting, ending, states_out, positions, units, ROWS: tl.constexpr, UNITS: tl.constexpr
):
    """The gradient of inside: the running sum of what starts less what ended one position before.

    Each partial sum is itself a gradient, so that nothing large cancels.
    """
    b = tl.program_id(0).to(tl.int64)
    u = tl.program_id(1) * UNITS + tl.arange(0, UNITS)
    r = tl.arange(0, ROWS)
    running = tl.zeros([UNITS], starting.dtype.element_ty)
    for n0 in range(0, positions, ROWS):
        n = n0 + r
        inside = (n < positions)[:, None] & (u < units)[None, :]
        at = (b * positions + n)[:, None] * units + u[None, :]
        step = tl.load(starting + at, mask=inside, other=0.0)
        step -= tl.load(ending + at - units, mask=inside & (n > 0)[:, None], other=0.0)
        at = ((b * positions + n)[:, None] * 3 + 2) * units + u[None, :]
        tl.store(states_out + at, running[None, :] + tl.cumsum(step, 0), mask=inside)
        running += tl.sum(step, 0)


def _precision(states: Tensor) -> str:
    """Of the products: half precision has no more digits than TF32, float32 as three of it have."""
    return "tf32" if states.dtype.itemsize == 2 else "tf32x3"


def span_scores(
    states: Tensor,
    width: Tensor,
    weight: Tensor,
    bias: Tensor,
    keep_mask: Tensor | None,
    scale: float,
) -> Tensor:
    """Scores [B, N, L, C], float32 or float64.

    Args:
        states: First, last and inside states side by side [B, N, 3 W], contiguous.
        width: Of each length less one [L, W].
        weight: Of the units in each type's score [C, W].
        bias: Of each type [C].
        keep_mask: Units that dropout leaves, by a segment's start [B, N, W] bool, or None.
        scale: What those are multiplied by.
    """
    batch, positions, _ = states.shape
    longest, units = width.shape
    types = len(bias)
    dtype = torch.promote_types(states.dtype, torch.float32)
    out = torch.empty(batch, positions, longest, types, dtype=dtype, device=states.device)
    tile = min(MAX_TYPES, max(16, power_of_two(types)))
    scores_kernel[(batch, triton.cdiv(positions, ROWS), triton.cdiv(types, tile))](
        states, width, weight, bias, keep_mask,
        # results
        out,
        # the scale of dropout, and sizes
        scale, positions, longest, units, types,
        ROWS=ROWS, UNITS=UNITS, TYPES=tile,
        PRECISION=_precision(states), num_warps=4 if states.dtype.itemsize == 2 else 2,
    )  # fmt: skip
    return out


def span_scores_gradient(
    gradient: Tensor,
    states: Tensor,
    width: Tensor,
    weight: Tensor,
    keep_mask: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradient of states, width, weight and bias, from that of the scores [B, N, L, C]."""
    batch, positions, _ = states.shape
    longest, units = width.shape
    types = len(weight)
    tile = max(16, power_of_two(types))
    block = UNITS if tile <= MAX_TYPES else 16
    blocks = triton.cdiv(positions, ROWS)
    layout = {
        "ROWS": ROWS, "UNITS": block, "TYPES": tile, "PRECISION": _precision(states),
        "num_warps": 4,
    }  # fmt: skip
    grid = (batch, blocks, triton.cdiv(units, block))
    sizes = (scale, positions, longest, units, types)
    grad_states = torch.empty_like(states)
    starting, ending = (gradient.new_empty(batch, positions, units) for _ in range(2))
    shared = gradient.new_empty(batch * blocks, longest + types, units)
    inputs = (states, width, weight, keep_mask, gradient, grad_states)
    gradient_kernel[grid](*inputs, starting, shared, *sizes, **layout, END=0)
    gradient_kernel[grid](*inputs, ending, None, *sizes, **layout, END=1)
    inside_kernel[(batch, triton.cdiv(units, SUM_UNITS))](
        starting, ending, grad_states, positions, units, ROWS=SUM_ROWS, UNITS=SUM_UNITS, num_warps=4
    )
    grad_width, grad_weight = shared.sum(0).split([longest, types])
    grad_bias = gradient.sum((0, 1, 2))
    # a copy, as a custom op's results may not share memory
    return (
        grad_states,
        grad_width.to(width.dtype, copy=True),
        grad_weight.to(weight.dtype),
        grad_bias,
    )
