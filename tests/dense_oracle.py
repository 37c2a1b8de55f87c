"""An independent oracle of the dense contract: every tiling of every sequence, one by one."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator

import torch
from torch import Tensor


def compositions(total: int, longest: int) -> Iterator[tuple[int, ...]]:
    """Every way to write total as an ordered sum of 1..longest."""
    if total == 0:
        yield ()
    for part in range(1, min(longest, total) + 1):
        for rest in compositions(total - part, longest):
            yield (part, *rest)


def tilings(steps: int, size: int, types: int) -> Iterator[list[tuple[int, int, int, int]]]:
    """Every tiling as its edges (start, index on the axis K, c_dst, c_src)."""
    longest, shift = (1, -1) if size == 1 else (size - 1, 0)
    for parts in compositions(steps, longest):
        starts = [sum(parts[:i]) for i in range(len(parts))]
        for kinds in itertools.product(range(types), repeat=len(parts) + 1):
            yield [
                (s, d + shift, kinds[i + 1], kinds[i])
                for i, (s, d) in enumerate(zip(starts, parts, strict=True))
            ]


@functools.cache
def places(steps: int, size: int, types: int) -> Tensor:
    """The tilings [Y, steps] as places in the flattened edge, padded with -1."""
    rows = [
        [((s * size + k) * types + i) * types + j for s, k, i, j in y] + [-1] * (steps - len(y))
        for y in tilings(steps, size, types)
    ]
    return torch.tensor(rows, dtype=torch.int64).reshape(len(rows), steps)


def scores(edge: Tensor, length: int) -> Tensor:
    """The score of every tiling of one sequence; edge [T-1, K, C, C]."""
    place = places(length - 1, *edge.shape[1:3])
    return torch.where(place >= 0, edge.flatten()[place.clamp(min=0)], 0.0).sum(1)


def total(edge: Tensor, lengths: Tensor, semiring: str) -> Tensor:
    """The contract's result [B] by enumeration, in float64, differentiable by autograd."""
    results = []
    for e, n in zip(edge.double(), lengths.tolist(), strict=True):
        y = e.new_zeros(e.shape[-1]) if n == 1 else scores(e, n)
        results.append(y.max() if semiring == "max" else torch.logsumexp(y, 0))
    return torch.stack(results)


def used(edge: Tensor, lengths: Tensor) -> Tensor:
    """Which entries of edge some tiling uses."""
    mask = torch.zeros(edge.shape, dtype=torch.bool)
    for m, n in zip(mask, lengths.tolist(), strict=True):
        place = places(n - 1, *edge.shape[2:4])
        m.view(-1)[place[place >= 0]] = True
    return mask
