"""torch.compile over the operations: one graph for all sizes, and the real compilers on a GPU."""

from __future__ import annotations

import pytest
import torch
from cases import given, leaves, random_potentials, to_device
from tolerances import FLOAT64
from torch.testing import assert_close

from hf_semicrf import ops

# Positions, lengths and their number all change; the segments' and types' numbers are the model's
BATCHES = [[7, 5], [12, 3], [9, 9, 1], [20, 4, 6]]


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def batch(lengths, device="cpu"):
    p = to_device(random_potentials(lengths, 4, 3, seed=len(lengths)), device)
    _, labels, starts = ops.viterbi(p)
    return leaves(p), labels, starts


def loss(p, labels, starts):
    return ops.negative_log_likelihood(p, labels, starts).sum()


def gradients(function, p, *rest):
    return torch.autograd.grad(function(p, *rest), list(given(p).values()))


@pytest.mark.parametrize("dynamic, graphs", [(True, 1), (None, 3)])
def test_new_sizes_do_not_recompile(dynamic, graphs):
    """At most one graph; by default one more each for the first new N and the first new B."""
    compiled_graphs = []

    def backend(graph, _):
        compiled_graphs.append(graph)
        return graph.forward

    compiled = torch.compile(loss, backend=backend, fullgraph=True, dynamic=dynamic)
    for lengths in BATCHES:
        inputs = batch(lengths)
        for x, y in zip(gradients(compiled, *inputs), gradients(loss, *inputs), strict=True):
            assert_close(x, y, **FLOAT64)
    assert len(compiled_graphs) <= graphs


def test_the_traced_backward_takes_new_sizes_too():
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True, dynamic=True)
    for lengths in BATCHES[:3]:
        inputs = batch(lengths)
        for x, y in zip(gradients(compiled, *inputs), gradients(loss, *inputs), strict=True):
            assert_close(x, y, **FLOAT64)


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_inductor_and_cuda_graphs(mode):
    """No recompilation that Dynamo would report, and the eager result."""
    compiled = torch.compile(loss, fullgraph=True, mode=mode)
    for lengths in BATCHES[:2]:
        inputs = batch(lengths, "cuda")
        expected = gradients(loss, *inputs)
        for _ in range(3):  # CUDA graphs warm up, record and replay
            for x, y in zip(gradients(compiled, *inputs), expected, strict=True):
                assert_close(x, y, **FLOAT64)


@pytest.mark.gpu
@pytest.mark.parametrize("function", [ops.viterbi, ops.marginals])
def test_decoding_in_cuda_graphs(function):
    p = to_device(random_potentials([9, 4], 3, 3, seed=80).map(torch.Tensor.float), "cuda")
    compiled = torch.compile(function, fullgraph=True, mode="reduce-overhead")
    for _ in range(3):
        for x, y in zip(compiled(p), function(p), strict=True):
            assert (x is None and y is None) or torch.equal(x, y)


@pytest.mark.gpu
def test_new_sizes_build_no_new_kernel():
    """Sizes are arguments of the kernels: lengths of 1, odd ones and multiples of 16 share one."""
    from hf_semicrf.ops.kernels import expectations, scan, score, viterbi

    kernels = (
        scan.scan_kernel,
        expectations.counts_kernel,
        expectations.transitions_kernel,
        score.score_kernel,
        viterbi.viterbi_kernel,
    )

    def built():
        return [sum(len(cache[0]) for cache in k.device_caches.values()) for k in kernels]

    def run(lengths):
        p, labels, starts = batch(lengths, "cuda")
        gradients(loss, p, labels, starts)
        ops.viterbi(p)

    run([7, 5])
    before = built()
    for lengths in ([1], [16, 16], [64] * 16, [33, 2, 1], [600, 7]):
        run(lengths)
    assert built() == before


@pytest.mark.gpu
def test_the_loss_never_waits_for_the_gpu():
    p, labels, starts = batch([9, 4], "cuda")
    gradients(loss, p, labels, starts)
    torch.cuda.set_sync_debug_mode("error")
    try:
        gradients(loss, p, labels, starts)
        ops.viterbi(p)
        ops.marginals(p, segment=True)
    finally:
        torch.cuda.set_sync_debug_mode("default")
