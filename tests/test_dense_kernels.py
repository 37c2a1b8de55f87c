"""The dense kernels against the enumeration of every tiling."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hf_semicrf.ops.routing import HAS_TRITON

HERE = Path(__file__).parent
# Sums in the tile's dtype: float32 below float64; a gradient is rounded to its own dtype, once.
SCORE = {"float64": 1e-12, "float32": 1e-5, "float16": 1e-5}
GRADIENT = {"float64": 1e-12, "float32": 1e-5, "float16": 3e-3}
# With large scores: of the score, relative to it, and of the gradient. A float32 of 512 has the
# unit 6e-5, a float64 of 1e9 has 1e-7.
LARGE_SCORE = {"float64": 1e-12, "float32": 1e-6, "float16": 1e-3, "bfloat16": 8e-3}
LARGE_GRADIENT = {"float64": 1e-6, "float32": 1e-4, "float16": 3e-3, "bfloat16": 1e-2}

needs_triton = pytest.mark.skipif(not HAS_TRITON, reason="the package triton is not installed")


@needs_triton
def test_kernels_equal_the_enumeration():
    """Scores, gradients and best paths, through Triton's interpreter, with and without blocks.

    Sequences with large scores have the same numbers, or NaN throughout where PyTorch has.
    """
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": f"{HERE.parent}:{HERE}"}
    command = [sys.executable, "-W", "ignore", str(HERE / "dense_interpreter.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    cases = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(cases) == 14
    for case in cases[:8]:
        dtype = case["case"][4]
        assert case["score"] <= SCORE[dtype], case
        assert case["gradient"] <= GRADIENT[dtype], case
        assert case["outside"] == 0, case
        assert case["best"] <= SCORE[dtype], case
        assert case["path"] <= SCORE[dtype], case
        assert case["covered"] == 0, case
    for case in cases[8:13]:
        dtype = case["case"][0]
        for found in (case["log"], case["max"]):
            assert found["told"] > 1, case
            assert found["precise"] > 0, case
            assert found["told otherwise"] == 0, case
            assert found["not NaN"] == 0, case
            assert found["alone"], case
            assert found["score"] <= LARGE_SCORE[dtype], case
        assert case["log"]["gradient"] <= LARGE_GRADIENT[dtype], case
        assert case["path"] <= 1e-6, case
        assert case["best"] <= 1e-6, case
        assert case["gradient"] == 0, case
        assert case["covered"] == 0, case
    assert cases[13]["precise"] == 1
    assert cases[13]["gradient"] <= 1e-6, cases[13]


@needs_triton
def test_plans_cover_every_step_and_fit_the_grid():
    from hf_semicrf.ops.kernels.dense_states import plan

    for batch, rows, size, types in (
        (64, 1000, 101, 24),
        (4, 20000, 101, 24),
        (16, 511, 33, 67),
        (32, 511, 17, 9),
        (1, 1, 1, 1),
        (1, 10**6, 3, 300),
    ):
        cut = plan(batch, rows, size, types, 132)
        assert cut.wide >= types
        assert cut.outs <= cut.wide
        assert cut.far or cut.steps >= (rows + 1) // 2
        assert cut.steps * cut.split * -(-types // cut.outs) < 2**16


@pytest.mark.gpu
@pytest.mark.parametrize("semiring", ["log", "max"])
@pytest.mark.parametrize(
    "shape", [(3, 70, 101, 24), (4, 130, 17, 9), (2, 60, 33, 67), (3, 40, 1, 5)]
)
def test_float32_on_the_gpu_errs_at_most_twice_as_much_as_pytorch(shape, semiring):
    from hf_semicrf.ops import semi_crf_triton_forward

    batch, rows, size, types = shape
    generator = torch.Generator("cuda").manual_seed(0)
    edge = torch.randn((batch, rows, size, types, types), generator=generator, device="cuda")
    lengths = torch.tensor([rows + 1, rows // 2 + 1, rows // 3 + 1, 2][:batch], device="cuda")

    def run(**arguments):
        leaf = edge.clone().requires_grad_()
        score = semi_crf_triton_forward(leaf, lengths, semiring=semiring, **arguments)
        return score.detach().double(), torch.autograd.grad(score.sum(), leaf)[0].double()

    exact = run(validate=True)
    for kernel, torch_, truth, floor in zip(
        run(), run(use_triton=False), exact, (2e-6 * exact[0].abs().max(), 1e-6), strict=True
    ):
        assert (kernel - truth).abs().max() <= 2 * (torch_ - truth).abs().max() + floor
    again = run()
    assert all(torch.equal(a, b) for a, b in zip(run(), again, strict=True))  # deterministic


@pytest.mark.gpu
@pytest.mark.parametrize("semiring", ["log", "max"])
@pytest.mark.parametrize("shape", [(70, 33, 24), (60, 17, 9), (30, 33, 67), (40, 1, 5)])
def test_large_scores_on_the_gpu_are_right_or_nan_and_change_no_other_sequence(shape, semiring):
    from hf_semicrf.ops import edge_viterbi, semi_crf_triton_forward

    rows, size, types = shape
    generator = torch.Generator("cuda").manual_seed(0)
    first = int(size > 1)  # index of duration 1
    plain = torch.randn((rows, size, types, types), generator=generator, device="cuda")
    some = torch.rand(plain.shape, generator=generator, device="cuda") < 0.3
    one = torch.zeros_like(some)
    one[rows // 2, first, 0, 0] = True
    row = torch.zeros_like(some)
    row[0] = True
    every = [
        plain,
        plain.masked_fill(some, -1e9),
        plain * 1e3,
        plain.masked_fill(some, -1e4),
        plain.masked_fill(row, -1e9),
        plain.masked_fill(one, 1e9),
        plain.masked_fill(one, 3e38),
        plain.masked_fill(row, -1e30),
        plain.masked_fill(one, torch.nan),
    ]
    edge = torch.stack(every)
    lengths = torch.full((len(edge),), rows + 1, device="cuda")
    lengths[3] -= 2

    def run(edge, lengths, **arguments):
        leaf = edge.clone().requires_grad_()
        score = semi_crf_triton_forward(leaf, lengths, semiring=semiring, **arguments)
        return score.detach(), torch.autograd.grad(score.sum(), leaf)[0]

    score, slope = run(edge, lengths)
    expected, exact = run(edge, lengths, validate=True)
    assert score.isnan().tolist() == [False] * 6 + [True] * 3
    assert expected.isnan().tolist() == score.isnan().tolist()
    torch.testing.assert_close(score[:6], expected[:6], rtol=2e-6, atol=1e-4)
    if semiring == "log":
        torch.testing.assert_close(slope[:6], exact[:6], rtol=0, atol=1e-4)
    assert slope[6:].isnan().all()
    alone = run(edge[:1].expand_as(edge), lengths)  # among as many: that decides how it is cut up
    for a, b in zip((score, slope), alone, strict=True):
        assert torch.equal(a[0], b[0])
    best, labels, starts = edge_viterbi(edge, lengths)
    assert best.isnan().tolist() == score.isnan().tolist()
    assert (labels[6:] == -1).all()
    assert not starts[6:].any()
    for found, truth in zip(
        (labels, starts), edge_viterbi(edge, lengths, use_triton=False)[1:], strict=True
    ):
        assert torch.equal(found[1:6], truth[1:6])


@pytest.mark.gpu
def test_large_scores_on_the_gpu_make_nobody_wait():
    from hf_semicrf.ops import semi_crf_triton_forward

    edge = torch.zeros((2, 5, 3, 2, 2), device="cuda")
    edge[0, 1] = -1e4
    lengths = torch.full((2,), 6, device="cuda")
    for _ in range(2):  # the first one compiles
        leaf = edge.clone().requires_grad_()
        torch.cuda.set_sync_debug_mode("error")
        try:
            for semiring in ("log", "max"):
                semi_crf_triton_forward(leaf, lengths, semiring=semiring).sum().backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")
