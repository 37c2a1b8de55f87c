"""The benchmark of the distribution: on the CPU its calls run, and its check can fail."""

from __future__ import annotations

import pytest
from tiny import BENCHMARKS, benchmark

from hf_semicrf import ops


@pytest.fixture
def bench(monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.syspath_prepend(BENCHMARKS)
    return benchmark("distribution")


@pytest.fixture
def p(bench):
    p = bench.potentials((3, 60, 5, 4), seed=1, device="cpu")
    p.lengths[-1] = 31
    return p


def test_every_call_runs_on_what_the_check_accepts(bench, p):
    bench.check(p, "torch")
    for function in bench.calls(p, "torch").values():
        function()


WRONG = {
    "sample": lambda right: lambda p, *a, **k: right(p.map(lambda x: x / 2), *a, **k),
    "k_best": lambda right: lambda *a, **k: (right(*a, **k)[0] + 1, *right(*a, **k)[1:]),
}


@pytest.mark.parametrize("name", WRONG)
def test_nothing_is_timed_where_a_function_is_wrong(name, bench, p, monkeypatch):
    monkeypatch.setattr(ops, name, WRONG[name](getattr(ops, name)))
    with pytest.raises(RuntimeError, match="nothing was timed"):
        bench.check(p, "torch")
