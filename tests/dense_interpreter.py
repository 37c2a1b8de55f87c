"""The dense kernels on the CPU, through Triton's interpreter: run by test_dense_kernels.

Triton reads TRITON_INTERPRET when it is imported, so this runs as a program of its own. It prints
one JSON line a case: the largest errors of the score, the gradient, the path's score and the
gradient where no tiling goes; then one a batch with large scores.
"""

from __future__ import annotations

import json
from unittest import mock

import dense_oracle as oracle
import torch

from hf_semicrf.ops.dense import launches, operators
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
# Batches with large scores: their dtype, forced blocks or None, and which of the sequences.
LARGE = [
    ("float32", None, slice(None)),
    ("float32", (1, 2, 1), slice(0, 9, 3)),
    ("float64", None, slice(0, None, 3)),
    ("bfloat16", None, slice(0, 8, 3)),
    ("float16", None, slice(0, 8, 2)),
]


usual_plan = launches.plan


def plan(edge, forced):
    usual = usual_plan(edge)
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
    slope = launches.gradient(edge, lengths, score, states, scale, cut)
    leaf = edge.double().requires_grad_()
    expected = oracle.total(leaf, lengths, "log")
    exact = torch.zeros_like(leaf)
    possible = expected.isfinite()
    if boundaries > 1 and possible.any():
        (exact,) = torch.autograd.grad((expected * scale)[possible].sum(), leaf)
        exact = exact.nan_to_num()

    best, states = launches.forward(edge, lengths, "max", cut)
    path = launches.path(edge, lengths, best, states)
    expected_best = oracle.total(edge, lengths, "max")
    on_path, covered = path_score(edge, path)
    return {
        "score": difference(score, expected.detach()),
        "gradient": difference(slope[used], exact[used]),
        "outside": float(slope[~used].abs().sum()),
        "best": difference(best, expected_best),
        "path": difference(on_path, expected_best),
        "covered": difference(covered, lengths - 1),
    }


def large_batch(dtype, chosen):
    """Edges with large scores and lengths; the first sequence is an ordinary one."""
    generator = torch.Generator().manual_seed(0)
    shape = (4, 3, 2, 2)
    plain = torch.randn(shape, generator=generator, dtype=torch.float64)
    some = torch.rand(shape, generator=generator) < 0.3
    one, first = torch.zeros(2, *shape, dtype=torch.bool)
    one[1, 2, 1, 0] = first[0] = True
    sequences = [
        plain,
        plain.masked_fill(some, -1e9),
        plain * 1e4,
        plain.masked_fill(some, -1e4),
        plain.masked_fill(first, -1e9),
        plain.masked_fill(one, 1e4),
        plain.masked_fill(some, -3e38),
        plain.masked_fill(one, 3e38),
        plain * 150,
        plain.masked_fill(one, 1e9),
        plain.masked_fill(some, -1e30),
        plain - 1e9,
        plain.masked_fill(first, -3e38),
        plain * 1e9,
        plain.masked_fill(one, torch.nan),
        plain.masked_fill(one, torch.inf),
    ]
    limit = torch.finfo(dtype).max
    edge = torch.stack(sequences[chosen])
    edge = torch.where(edge.isinf(), edge, edge.clamp(-limit, limit)).to(dtype)
    lengths = torch.full((len(edge),), 5)
    lengths[3::4] = 4
    return edge.masked_fill(~oracle.used(edge, lengths), torch.nan), lengths


def score_and_gradient(edge, lengths, semiring):
    """What the operators return."""
    leaf = edge.clone().requires_grad_()
    score, *_, precise, _ = operators.dense_kernel(leaf, lengths, semiring)
    return score.detach(), torch.autograd.grad(score.sum(), leaf)[0], precise


def run_large(dtype, forced, chosen):
    """Kernels beside the enumeration; PyTorch, in float64, says which sequences are told apart."""
    edge, lengths = large_batch(getattr(torch, dtype), chosen)
    out = {"case": (dtype, forced, str(chosen))}
    with mock.patch.object(launches, "plan", lambda edge: plan(edge, forced)):
        for semiring in ("log", "max"):
            told = operators.dense_scan(edge, lengths, semiring, False, False)[0].isfinite()
            leaf = edge.double().requires_grad_()
            expected = oracle.total(leaf, lengths, semiring)
            score, slope, precise = score_and_gradient(edge, lengths, semiring)
            alone = score_and_gradient(edge[:1], lengths[:1], semiring)
            found = {
                "told": int(told.sum()),
                "told otherwise": int((told != score.isfinite()).sum()),
                "precise": int(precise.sum()),
                "score": relative(score[told], expected.detach()[told]),
                "not NaN": int((~slope[~told].isnan()).sum()),
                "alone": all(
                    torch.equal(x[:1], y) for x, y in zip((score, slope), alone, strict=False)
                ),
            }
            if semiring == "log":
                (exact,) = torch.autograd.grad(expected[told].sum(), leaf)
                found["gradient"] = difference(slope[told], exact[told].nan_to_num())
            out[semiring] = found
        path = operators.dense_path(edge, lengths, True)[1]
    on_path, covered = path_score(edge, path)
    out["path"] = relative(on_path[told], expected.detach()[told])
    out["covered"] = difference(covered, (lengths - 1) * told)
    # one of a path, 0 elsewhere
    out["gradient"] = difference(slope.sum((1, 2, 3, 4))[told], (path >= 0).sum(1)[told])
    on_slope = torch.where(slope == 1, edge, 0).double().sum((1, 2, 3, 4))
    out["best"] = relative(on_slope[told], expected.detach()[told])
    return out


def run_apart():
    """Two types that never meet: one gains first, the other later, and both the same in the end."""
    generator = torch.Generator().manual_seed(0)
    edge = torch.randn((1, 16, 1, 2, 2), generator=generator)
    edge[0, :, 0, 0, 1] = edge[0, :, 0, 1, 0] = -torch.inf
    edge[0, :8, 0, 0, 0] += 500
    edge[0, 8:, 0, 1, 1] += 500
    lengths = torch.tensor([17])
    _, slope, precise = score_and_gradient(edge, lengths, "log")
    leaf = edge.double().requires_grad_()
    score = operators.dense_scan(leaf, lengths, "log", False, True)[0]
    (exact,) = torch.autograd.grad(score.sum(), leaf)
    return {"gradient": difference(slope, exact), "precise": int(precise.sum())}


def relative(a, b):
    """The largest difference, of numbers over 1 relative to them."""
    return difference(a / b.abs().clamp(1), b / b.abs().clamp(1))


def difference(a, b):
    """The largest absolute difference; equal infinities differ by 0."""
    gap = torch.where(a == b, 0.0, (a.double() - b.double()).abs())
    return float(gap.max()) if gap.numel() else 0.0


if __name__ == "__main__":
    for case in CASES:
        print(json.dumps({"case": case, **run(*case)}))
    for case in LARGE:
        print(json.dumps(run_large(*case)))
    print(json.dumps(run_apart()))
