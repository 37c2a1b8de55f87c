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

LARGEST = tl.constexpr(2e9)  # of a score that float64 tells apart, in nats: host/magnitude.py
CERTAIN = tl.constexpr(1e3)  # nats between what is forbidden and what is left
SMALL = tl.constexpr(512.0)  # of a score that float32 tells apart, in nats
INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)
LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def load_scaled(pointer, offset, mask, other):
    """The potentials at an offset, in base 2."""
    return tl.load(pointer + offset, mask=mask, other=other) * LOG2E


@triton.jit
def usable(x):
    """Scores in nats as float64 can add them up; float32 takes what is `SMALL`.

    Those far below `LARGEST` are forbidden, NaN stands for those above.
    """
    if x.dtype == tl.float64:
        x = tl.where(x < -LARGEST, -float("inf"), x)
        x = tl.where(x > LARGEST, float("nan"), x)
    return x


@triton.jit
def centred(x, real):
    """Emissions [..., TYPES] less the best of their position, in float64."""
    if x.dtype == tl.float64:
        top = tl.max(tl.where(real, x, -float("inf")), len(x.shape) - 1, keep_dims=True)
        x -= tl.where(tl.abs(top) < float("inf"), top, 0.0)
    return x


@triton.jit
def in_float64(pointer, index, mask):
    """Scores in float64, or nothing where the tensor is absent; 0 where the mask is unset."""
    if pointer is None:
        return tl.zeros(index.shape, tl.float64)
    else:
        return tl.load(pointer + index, mask=mask, other=0.0).to(tl.float64)


@triton.jit
def state_in(pointer, dtype: tl.constexpr):
    """The state of a sentence, whose memory is float64, as the scan of a dtype fills it."""
    return pointer.to(tl.pointer_type(dtype))


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


def index_dtype(count: int) -> torch.dtype:
    """The smallest integer type that holds 0..count - 1."""
    return torch.uint8 if count <= 1 << 8 else torch.int16 if count <= 1 << 15 else torch.int32


def contiguous(tensors: Iterable[Tensor | None]) -> list[Any]:
    """The tensors with the last dimension fastest and no gaps, as the kernels address them."""
    return [x if x is None else x.contiguous() for x in tensors]


def power_of_two(x: int) -> int:
    """The smallest power of two that is at least ``x``."""
    return triton.next_power_of_2(x)
