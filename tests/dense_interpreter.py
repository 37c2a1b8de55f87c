"""The dense kernels on the CPU, through Triton's interpreter: run by test_dense_kernels.

Triton reads TRITON_INTERPRET when it is imported, so this runs as a program of its own. It prints
one JSON line a case: the largest errors of the score, the gradient, the path's score and the
gradient where no tiling goes.
"""

from __future__ import annotations

import json

import dense_oracle as oracle
import torch

from hf_semicrf.ops.dense import launches
from hf_semicrf.ops.kernels.dense_states import Plan, durations

# Boundaries, K, C; forced blocks (steps of a block, pieces, output types at a time) or None; dtype;
# whether some edges are forbidden.
CASES = [
    (1, 3, 2, None, "float64", False),
    (4, 1, 2, None, "float64", False),
    (6, 4, 3, None, "float64", True),
    (6, 5, 2, (2, 2, 1), "float64", False),
    (5, 3, 3, (1, 1, 2), "float64", True),
    (5, 1, 2, (2, 1, 2), "float64", False),
    (5, 3, 2, None, "float32", True),
    (5, 3, 2, None, "float16", False),
]


def plan(edge, forced):
    usual = launches.plan(edge)
    if forced is None:
        return usual
    steps, split, outs = forced
    return Plan(steps, True, split, outs, usual.wide)


def path_score(edge, path):
    """The sum of the edges on the path, and the steps that they cover."""
    chosen = path >= 0
    size, types = edge.shape[2:4]
    on = edge.flatten(2).double().gather(2, path.clamp(min=0)[..., None])[..., 0]
    length = path // types**2 + (durations(size)[1] == 0)
    return torch.where(chosen, on, 0.0).sum(1), torch.where(chosen, length, 0).sum(1)


def run(boundaries, size, types, forced, dtype, forbid):
    generator = torch.Generator().manual_seed(boundaries * size)
    dtype = getattr(torch, dtype)
    lengths = torch.tensor([boundaries, 1 + boundaries // 2])
    shape = (2, boundaries - 1, size, types, types)
    edge = torch.randn(shape, generator=generator, dtype=torch.float64).mul(2)
    if forbid:
        edge[torch.rand(shape, generator=generator) < 0.4] = -torch.inf
    edge = edge.to(dtype)
    used = oracle.used(edge, lengths)
    edge = edge.masked_fill(~used, torch.nan)
    cut = plan(edge, forced)
    scale = torch.tensor([1.0, 2.0], dtype=dtype)

    score, states = launches.forward(edge, lengths, "log", cut)
    slope = launches.gradient(edge, lengths, states, scale, cut)
    leaf = edge.double().requires_grad_()
    expected = oracle.total(leaf, lengths, "log")
    exact = torch.zeros_like(leaf)
    possible = expected.isfinite()
    if boundaries > 1 and possible.any():
        (exact,) = torch.autograd.grad((expected * scale)[possible].sum(), leaf)
        exact = exact.nan_to_num()

    best, states = launches.forward(edge, lengths, "max", cut)
    again, path = launches.path(edge, lengths, states, cut)
    expected_best = oracle.total(edge, lengths, "max")
    on_path, covered = path_score(edge, path)
    return {
        "score": difference(score, expected.detach()),
        "gradient": difference(slope[used], exact[used]),
        "outside": float(slope[~used].abs().sum()),
        "best": max(difference(best, expected_best), difference(again, expected_best)),
        "path": difference(on_path, expected_best),
        "covered": difference(covered, lengths - 1),
    }


def difference(a, b):
    """The largest absolute difference; equal infinities differ by 0."""
    gap = torch.where(a == b, 0.0, (a.double() - b.double()).abs())
    return float(gap.max()) if gap.numel() else 0.0


if __name__ == "__main__":
    for case in CASES:
        print(json.dumps({"case": case, **run(*case)}))
