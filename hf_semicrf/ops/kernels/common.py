"""What the factored kernels share: loads of rows, logarithms without NaN, shapes of tiles.

The kernels work in base 2, because the hardware's exponential and logarithm do: potentials are
multiplied by log2(e) when they are read.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra import libdevice

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)
LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def load_scaled(pointer, offset, mask, other):
    """The potentials at an offset, in base 2."""
    return tl.load(pointer + offset, mask=mask, other=other) * LOG2E


@triton.jit
def in_float64(pointer, index, mask):
    """Scores in float64, or nothing where the tensor is absent; 0 where the mask is unset."""
    if pointer is None:
        return tl.zeros(index.shape, tl.float64)
    else:
        return tl.load(pointer + index, mask=mask, other=0.0).to(tl.float64)


@triton.jit
def finite(x):
    """A maximum as a shift: 0 where nothing but -inf was compared."""
    return tl.where(x == -float("inf"), 0.0, x)


@triton.jit
def log2(x):
    """The hardware's logarithm where it has one: 2^-22 off at most, in a tenth of the time."""
    if INTERPRETED or x.dtype != tl.float32:
        return tl.log2(x)
    else:
        return libdevice.fast_log2f(x)


@triton.jit
def log_sum_exp2(x):
    """Base-2 log-sum-exp over the first axis of a tile."""
    top = finite(tl.max(x, 0))
    return top + log2(tl.sum(tl.exp2(x - top[None, :]), 0))


@triton.jit
def window_table(
    table, duration, longest, types, scale,
    WINDOW: tl.constexpr, TYPES: tl.constexpr, LONG: tl.constexpr,
):  # fmt: skip
    """Write the durations as a window reads them: at row j - r + WINDOW for position j and row r.

    So its rows lie at fixed distances from the place where a step reads. -inf where the segment of
    a row cannot end; with time in blocks, 0 for the row of what began before the block.
    """
    r = tl.arange(0, 2 * WINDOW)[:, None]
    c = tl.arange(0, TYPES)[None, :]
    age = r - WINDOW  # the length less one
    if not LONG:
        age = age & (WINDOW - 1)
    legal = (age > 0) & (age < longest) & (c < types)
    score = tl.load(duration + age * types + c, mask=legal, other=-float("inf")) * scale
    if LONG:
        score = tl.where((age == 0) & (c < types), 0.0, score)
    tl.store(table + r * TYPES + c, score)


@triton.jit
def window_segments(
    segment, first, t, length, reverse, longest, types,
    WINDOW: tl.constexpr, TYPES: tl.constexpr, LONG: tl.constexpr,
    SHORTEST: tl.constexpr = 1, other=0.0,
):  # fmt: skip
    """Segment scores of the window's rows that may end at position t, in nats; else ``other``.

    The length less one is at least SHORTEST. The scores are as they were read: what is computed
    with them waits for memory, so it should come a step later.
    """
    c = tl.arange(0, TYPES)[None, :]
    age = t % WINDOW - tl.arange(0, WINDOW)[:, None]  # the length less one
    if not LONG:
        age = age & (WINDOW - 1)
    # the segment [t - age, t + 1); its mirror image begins at position length - 1 - t
    begin = tl.where(reverse == 1, length - 1 - t, t)
    stride = tl.where(reverse == 1, types, types - longest * types)
    oldest = tl.minimum(longest - 1, tl.where(t < length, t, -1))
    inside = (age >= SHORTEST) & (age <= oldest) & (c < types)
    segment += (first + begin) * longest * types
    return tl.load(segment + (age * stride + c), mask=inside, other=other)


def index_dtype(count: int) -> torch.dtype:
    """The smallest integer type that holds 0..count - 1."""
    return torch.uint8 if count <= 1 << 8 else torch.int16 if count <= 1 << 15 else torch.int32


def contiguous(tensors: Iterable[Tensor | None]) -> list[Any]:
    """The tensors with the last dimension fastest and no gaps, as the kernels address them."""
    return [x if x is None else x.contiguous() for x in tensors]


def power_of_two(x: int) -> int:
    """The smallest power of two that is at least ``x``."""
    return triton.next_power_of_2(x)
