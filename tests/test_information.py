"""Entropy, divergence and marginals with their gradients, against enumeration and differences."""

from __future__ import annotations

import math

import pytest
import torch
from cases import CASES, Case, given, leaves, random_potentials, to_device
from test_ops_infinite import with_holes
from tolerances import FLOAT64, GRADCHECK
from torch.library import opcheck
from torch.testing import assert_close

from hf_semicrf import ops

SMALL = {
    "usual": random_potentials([3, 2], 3, 2, positions=4, seed=50, scale=1.0),
    "longer than the sentence": random_potentials([2, 1], 4, 2, seed=51, scale=1.0),
    "linear chain": random_potentials([4], 1, 3, given=["emission"], seed=52, scale=1.0),
    "only segment": random_potentials([3], 2, 2, given=["segment"], seed=53, scale=1.0),
    "no emission": random_potentials([3], 2, 2, given=["start", "end"], seed=54, scale=1.0),
}


def gradcheck(function, p, **options):
    """Of a function of the potentials that are given, by central differences."""
    names, lengths = list(given(p)), p.lengths

    def of_tensors(*tensors):
        named = dict(zip(names, tensors, strict=True))
        return function(ops.Potentials(**named, lengths=lengths))

    tensors = [x.detach().clone().requires_grad_() for x in given(p).values()]
    assert torch.autograd.gradcheck(of_tensors, tensors, **GRADCHECK, **options)


@pytest.mark.parametrize("name", SMALL)
def test_the_gradient_of_entropy(name):
    gradcheck(ops.entropy, SMALL[name])


@pytest.mark.parametrize("name", SMALL)
def test_the_gradient_of_marginals(name):
    p = SMALL[name]
    gradcheck(lambda p: ops.marginals(p)[:3], p, fast_mode=True)
    if p.segment is not None:
        gradcheck(lambda p: ops.marginals(p, segment=True).segment, p, fast_mode=True)


@pytest.mark.parametrize("name", ["usual", "only segment"])
def test_the_gradient_of_divergence(name):
    p = SMALL[name]
    q = p.map(torch.sin)
    gradcheck(lambda x: ops.kl_divergence(x, q), p, fast_mode=True)
    gradcheck(lambda x: ops.kl_divergence(p, x), q, fast_mode=True)


def covariances_with_the_score(case):
    """Minus the gradient of entropy in emission [B, N, C] and transition [C, C], by enumeration."""
    p = case.potentials
    emission, transition = torch.zeros_like(p.emission), torch.zeros_like(p.transition)
    for b, sentence in enumerate(case.sentences):
        terms = [x for x in zip(sentence.probabilities, sentence.scores, sentence.all, strict=True)]
        terms = [(w, score, y) for w, score, y in terms if w > 0]
        mean = math.fsum(w * score for w, score, _ in terms)
        for w, score, y in terms:
            for s, e, c in y:
                emission[b, s:e, c] += w * (score - mean)
            for (_, _, c), (_, _, d) in zip(y, y[1:], strict=False):
                transition[c, d] += w * (score - mean)
    return emission, transition


@pytest.mark.parametrize("name", ["emission", "segment", "transition", "duration", "initial"])
@pytest.mark.parametrize("blocks", [False, True])
def test_the_gradient_of_entropy_with_forbidden_events(name, blocks, device, monkeypatch):
    if blocks:  # of one position each
        monkeypatch.setattr("hf_semicrf.ops.host.covariance.BLOCK_ELEMENTS", 1)
    case = with_holes(name)
    p = leaves(to_device(case.potentials, device))
    ops.entropy(p).sum().backward()
    emission, transition = covariances_with_the_score(case)
    assert_close(p.emission.grad.cpu(), -emission, **FLOAT64)
    assert_close(p.transition.grad.cpu(), -transition, **FLOAT64)
    for x in given(p).values():
        assert x.grad.isfinite().all() and not x.grad[x == -torch.inf].any()


def test_nan_in_the_padding_and_a_sentence_without_segmentation(device):
    p = random_potentials([3, 5, 2], 3, 2, positions=6, given=["emission", "end"], seed=55)
    p.emission[2, 1] = -torch.inf
    padding = (torch.arange(6) >= p.lengths[:, None])[..., None]
    bad = p._replace(emission=p.emission.masked_fill(padding, torch.nan))
    gradients = []
    for q in (p, bad):
        q = leaves(to_device(q, device))
        entropy = ops.entropy(q)
        assert entropy.isnan().tolist() == [False, False, True]
        entropy[:2].sum().backward()
        gradients.append([x.grad for x in given(q).values()])
        assert all(x.isfinite().all() for x in gradients[-1])
        assert not q.emission.grad[padding[..., 0].to(device)].any() and not q.end.grad[2].any()
    for x, y in zip(*gradients, strict=True):
        assert_close(x, y, **FLOAT64)


def test_a_gradient_of_entropy_is_never_of_second_order():
    p = leaves(SMALL["usual"])
    gradient = torch.autograd.grad(ops.entropy(p).sum(), p.emission, create_graph=True)[0]
    with pytest.raises(RuntimeError, match="the second is not available"):
        torch.autograd.grad(gradient.sum(), p.emission)


def test_long_sentences_gain_entropy_along_the_gradient():
    """In float32 too, a small step changes the entropy by step times squared gradient."""
    p = random_potentials([300, 120], 8, 4, given=["emission", "start", "segment"], seed=56)
    for dtype, tolerance in ((torch.float64, 1e-5), (torch.float32, 1e-2)):
        q = leaves(p.map(lambda x, dtype=dtype: (x / 2).to(dtype)))
        before = ops.entropy(q).sum()
        before.backward()
        assert all(x.grad.dtype == dtype for x in given(q).values())
        square = sum(x.grad.double().square().sum() for x in given(q).values())
        step = 1e-3 / square.sqrt()
        moved = q.map(lambda x, step=step: x.detach().double() + step * x.grad)
        back = q.map(lambda x, step=step: x.detach().double() - step * x.grad)
        gain = (ops.entropy(moved) - ops.entropy(back)).sum() / 2
        assert float(gain) == pytest.approx(float(step * square), rel=tolerance)


def divergence(p, q):
    """By enumeration of both [B]."""
    out = []
    for left, right in zip(Case(p).sentences, Case(q).sentences, strict=True):
        terms = zip(left.probabilities, left.scores, right.scores, strict=True)
        out.append(math.fsum(
            w * ((x - left.log_z) - (y - right.log_z)) for w, x, y in terms if w > 0
        ))  # fmt: skip
    return torch.tensor(out, dtype=torch.float64)


@pytest.mark.parametrize("name", CASES)
def test_divergence_is_the_mean_log_ratio(name, device):
    p = CASES[name].potentials
    q = p.map(lambda x: torch.where(x.isfinite(), x.sin(), x))
    size = float(CASES[name].log_z.abs().max().clamp(min=1))
    expected = divergence(p, q)
    found = ops.kl_divergence(to_device(p, device), to_device(q, device))
    assert_close(found.cpu(), expected, rtol=1e-10, atol=1e-10 * size)
    assert (found > -1e-12 * size).all()
    same = ops.kl_divergence(to_device(p, device), to_device(p, device))
    assert_close(same, torch.zeros_like(same), rtol=0, atol=1e-10 * size)


@pytest.mark.parametrize("name", ["emission", "segment", "duration", "transition", "final"])
def test_divergence_where_one_side_forbids(name, device):
    holes = with_holes(name).potentials
    full = holes.map(lambda x: torch.where(x == -torch.inf, 0.5, x))
    holes_there, full_there = to_device(holes, device), to_device(full, device)
    found = ops.kl_divergence(holes_there, full_there).cpu()
    assert_close(found, divergence(holes, full), **FLOAT64)
    # the other way round: infinite unless no segmentation meets a hole
    sentences = zip(Case(full).sentences, Case(holes).sentences, strict=True)
    meets = torch.tensor([-math.inf in hole.scores for _, hole in sentences])
    found = ops.kl_divergence(full_there, holes_there).cpu()
    assert meets.any() and torch.equal(found == torch.inf, meets)
    assert found[~meets].isfinite().all()


def test_divergence_of_what_one_side_leaves_out():
    p = random_potentials([3, 4], 2, 2, given=["emission", "segment"], seed=57)
    q = random_potentials([3, 4], 2, 2, given=["emission", "start"], seed=58)
    zero = torch.zeros_like
    found = ops.kl_divergence(p, q)
    filled = p._replace(start=zero(q.start)), q._replace(segment=zero(p.segment))
    assert_close(found, divergence(*filled), **FLOAT64)


def test_divergence_from_nothing_is_nan_and_to_nothing_infinite():
    p = random_potentials([3, 4], 2, 2, given=["emission"], seed=59)
    none = p._replace(emission=p.emission.clone())
    none.emission[0, 1] = -torch.inf
    found = ops.kl_divergence(none, p)
    assert found[0].isnan() and found[1].isfinite()
    found = ops.kl_divergence(p, none)
    assert found[0] == torch.inf and found[1].isfinite()


def test_divergence_of_unlike_potentials_is_refused():
    p = random_potentials([3, 4], 2, 2, seed=60)
    with pytest.raises(ValueError, match=r"same sizes, got .* = \[2, 4, 2, 2\] and \[2, 4, 2, 3\]"):
        ops.kl_divergence(p, random_potentials([3, 4], 2, 3))
    with pytest.raises(ValueError, match=r"same lengths, got \[3, 4\] and \[4, 4\]"):
        ops.kl_divergence(p, random_potentials([4, 4], 2, 2))


def test_the_ops_keep_their_contract_and_compile_whole():
    p = leaves(SMALL["usual"])
    opcheck(torch.ops.hf_semicrf.counts.default, (*p, True, "torch"))
    torch.compiler.reset()
    compiled = torch.compile(ops.entropy, backend="aot_eager", fullgraph=True)(p)
    assert_close(compiled, ops.entropy(p), **FLOAT64)
    found = torch.autograd.grad(compiled.sum(), given(p).values())
    expected = torch.autograd.grad(ops.entropy(p).sum(), given(p).values())
    for x, y in zip(found, expected, strict=True):
        assert_close(x, y, **FLOAT64)
    torch.compiler.reset()
