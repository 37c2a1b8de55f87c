"""The custom ops keep PyTorch's contract, and torch.compile keeps them whole."""

from __future__ import annotations

import pytest
import torch
from cases import CASES, given, leaves, random_potentials
from tolerances import FLOAT64
from torch.library import opcheck
from torch.testing import assert_close

from hf_semicrf import ops

LIBRARY = torch.ops.hf_semicrf


@pytest.mark.parametrize("name", ["padded", "only emission"])
def test_opcheck(name):
    p = CASES[name].potentials
    opcheck(LIBRARY.log_partition.default, (*p, "torch"))
    opcheck(LIBRARY.best.default, (*p, "torch"))
    opcheck(LIBRARY.scan.default, (*p, "torch"))
    opcheck(LIBRARY.scan.default, (*leaves(p), "torch"))
    state = LIBRARY.scan(*p, "torch")
    weight = torch.ones_like(state[0])
    _, labels, starts = ops.viterbi(p)
    opcheck(LIBRARY.segmentation_score.default, (*p, labels, starts, "torch"))
    opcheck(LIBRARY.loss.default, (*p, labels, starts, "torch"))
    opcheck(LIBRARY.loss.default, (*leaves(p), labels, starts, "torch"))
    columns = (x.mT.contiguous().mT for x in (labels, starts))
    opcheck(LIBRARY.loss.default, (*p, *columns, "torch"))
    ends = LIBRARY.loss(*p, labels, starts, "torch")[-1]
    for options in ((None, None, False, False), (labels, ends, True, True)):
        opcheck(LIBRARY.expectations.default, (*p, *state, weight, *options, "torch"))


def counting_backend():
    """A back end of torch.compile that runs the graphs as they are and keeps them."""
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    return backend, graphs


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def loss(p, labels, starts):
    return ops.negative_log_likelihood(p, labels, starts).mean()


def test_the_loss_compiles_without_a_graph_break():
    backend, graphs = counting_backend()
    p = leaves(CASES["usual"].potentials)
    _, labels, starts = ops.viterbi(CASES["usual"].potentials)
    compiled = torch.compile(loss, backend=backend, fullgraph=True)(p, labels, starts)
    assert_close(compiled, loss(p, labels, starts), **FLOAT64)
    gradient = torch.autograd.grad(compiled, given(p).values())
    expected = torch.autograd.grad(loss(p, labels, starts), given(p).values())
    for x, y in zip(gradient, expected, strict=True):
        assert_close(x, y, **FLOAT64)
    assert len(graphs) == 1


def test_the_compiled_gradient_is_traced_too():
    p = leaves(CASES["usual"].potentials)
    _, labels, starts = ops.viterbi(CASES["usual"].potentials)
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)(p, labels, starts)
    gradient = torch.autograd.grad(compiled, given(p).values())
    expected = torch.autograd.grad(loss(p, labels, starts), given(p).values())
    for x, y in zip(gradient, expected, strict=True):
        assert_close(x, y, **FLOAT64)


def decode_by_tokens(p):
    return ops.minimum_token_risk(ops.marginals(p), p.lengths, 3)


def divergence(p):
    return ops.kl_divergence(p, p.map(torch.sin))


@pytest.mark.parametrize(
    "function", [ops.viterbi, ops.marginals, ops.entropy, decode_by_tokens, divergence]
)
def test_decoding_compiles_without_a_graph_break(function):
    p = random_potentials([9, 4], 3, 3, seed=80)
    backend, graphs = counting_backend()
    compiled = torch.compile(function, backend=backend, fullgraph=True)(p)
    expected = function(p)
    compiled, expected = (x if isinstance(x, tuple) else (x,) for x in (compiled, expected))
    for x, y in zip(compiled, expected, strict=True):
        assert (x is None and y is None) or torch.equal(x, y)
    assert len(graphs) == 1
