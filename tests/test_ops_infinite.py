"""-inf as a potential, sentences with no legal segmentation, and NaN where nothing is read."""

from __future__ import annotations

import math

import pytest
import torch
from cases import (
    OPTIONAL,
    REQUIRED,
    Case,
    as_tensors,
    given,
    leaves,
    random_potentials,
    to_device,
)
from oracle import dense_log_partition
from tolerances import FLOAT64
from torch.testing import assert_close

from hf_semicrf import ops

NAMES = (*OPTIONAL, *REQUIRED)


def with_holes(name):
    """A third of one potential's entries is -inf, and every sentence stays possible."""
    for seed in range(40, 60):
        p = random_potentials([5, 4, 2], 3, 3, positions=6, seed=seed)
        generator = torch.Generator().manual_seed(seed)
        x = getattr(p, name)
        hole = torch.rand(x.shape, generator=generator) < 1 / 3
        case = Case(p._replace(**{name: x.masked_fill(hole, -torch.inf)}))
        if hole.any() and case.log_z.isfinite().all():
            return case
    pytest.fail(f"no possible case with holes in {name}")


@pytest.fixture(scope="module", params=NAMES)
def holes(request):
    return with_holes(request.param)


def test_values_are_exact(holes, device):
    p = to_device(holes.potentials, device)
    assert_close(ops.log_partition(p).cpu(), holes.log_z, **FLOAT64)
    entropy = torch.tensor([s.entropy() for s in holes.sentences], dtype=torch.float64)
    assert_close(ops.entropy(p).cpu(), entropy, **FLOAT64)
    score, labels, starts = ops.viterbi(p)
    best = [s.best() for s in holes.sentences]
    assert_close(score.cpu(), torch.tensor([s for s, _ in best], dtype=torch.float64), **FLOAT64)
    expected = as_tensors([y for _, y in best], p.sizes[1])
    assert torch.equal(labels.cpu(), expected[0]) and torch.equal(starts.cpu(), expected[1])
    marginals = ops.marginals(p, segment=True)
    for x, name in zip(marginals, ("emission", "start", "end", "segment"), strict=True):
        assert_close(x.cpu(), holes.gradients[name], **FLOAT64)


def test_gradients_are_exact_and_zero_at_the_holes(holes, device):
    p = leaves(to_device(holes.potentials, device))
    ops.log_partition(p).sum().backward()
    for name, x in given(p).items():
        assert_close(x.grad.cpu(), holes.gradients[name], **FLOAT64)
        assert not x.grad[x == -torch.inf].any()


def test_scores_and_the_dense_form_are_exact(holes):
    p = holes.potentials
    for b, sentence in enumerate(holes.sentences):
        labels, starts = as_tensors(sentence.all, p.sizes[1])
        rows = {k: getattr(p, k)[b].expand(len(labels), *getattr(p, k)[b].shape)
                for k in (*OPTIONAL, "lengths")}  # fmt: skip
        scores = ops.segmentation_score(p._replace(**rows), labels, starts)
        assert_close(scores, torch.tensor(sentence.scores, dtype=torch.float64), **FLOAT64)
    edge = ops.to_edge(p)
    values = [
        dense_log_partition(e.tolist(), int(n) + 1) for e, n in zip(edge, p.lengths, strict=True)
    ]
    assert_close(torch.tensor(values, dtype=torch.float64), holes.log_z, **FLOAT64)


def impossible(name):
    """One sentence of three positions without a legal segmentation, between two that have some."""
    p = random_potentials([1, 3, 2], 2, 3, positions=4, seed=61)
    x = getattr(p, name).clone()
    if name in OPTIONAL:
        x[1, {"end": 2, "start": 0}.get(name, slice(None))] = -torch.inf
        return p._replace(**{name: x}), torch.tensor([True, False, True])
    x[:] = -torch.inf
    # a sentence of up to L positions needs no transition
    possible = torch.tensor([True, False, True]) if name == "transition" else torch.zeros(3) > 0
    return p._replace(**{name: x}), possible


@pytest.mark.parametrize("name", NAMES)
def test_a_sentence_without_a_legal_segmentation(name, device):
    p, possible = impossible(name)
    p, possible = to_device(p, device), possible.to(device)
    leaf = leaves(p)
    log_z = ops.log_partition(leaf)
    assert torch.equal(log_z > -torch.inf, possible) and not log_z.isnan().any()
    log_z[possible].sum().backward(retain_graph=True)
    alone = {k: x.grad.clone() for k, x in given(leaf).items()}
    leaf = leaves(p)
    ops.log_partition(leaf).sum().backward()
    for k, x in given(leaf).items():
        assert x.grad.isfinite().all()
        assert torch.equal(x.grad, alone[k])  # the impossible sentence counts nothing
    marginals = ops.marginals(p, segment=True)
    for x in marginals:
        assert x.isfinite().all() and not x[~possible].any()
    score, labels, starts = ops.viterbi(p)
    assert torch.equal(score > -torch.inf, possible) and not score.isnan().any()
    inside = torch.arange(p.sizes[1], device=device) < p.lengths[:, None]
    assert torch.equal(labels >= 0, inside) and (labels < 3).all()
    assert starts[:, 0].all() and not starts[~inside].any()
    assert torch.equal(ops.entropy(p).isnan(), ~possible)


def test_a_long_sentence_that_ends_in_the_middle():
    """Nothing legal remains for many steps on either side of the forbidden position."""
    p = random_potentials([60, 60], 3, 2, seed=67)
    p.emission[0, 30] = -torch.inf
    p, other = (
        leaves(p),
        leaves(p._replace(**{k: getattr(p, k)[1:] for k in (*OPTIONAL, "lengths")})),
    )
    log_z = ops.log_partition(p)
    assert log_z[0] == -torch.inf
    assert_close(log_z[1:], ops.log_partition(other), **FLOAT64)
    log_z.sum().backward()
    ops.log_partition(other).sum().backward()
    for name, x in given(p).items():
        assert_close(
            x.grad[1:] if name in OPTIONAL else x.grad, getattr(other, name).grad, **FLOAT64
        )
        assert name not in OPTIONAL or not x.grad[0].any()


FORBIDDEN = {
    "a transition": lambda p: p.transition[1, 2],
    "a type at a position": lambda p: p.emission[0, 2, 2],
    "a segment": lambda p: p.segment[0, 0, 1, 1],
    "the last type": lambda p: p.final[0],
}


@pytest.mark.parametrize("name", FORBIDDEN)
def test_a_gold_segmentation_that_is_forbidden(name, device):
    """An infinite loss, and the gradients that make it legal: expected less observed counts."""
    p = random_potentials([4, 4], 2, 3, seed=62)
    FORBIDDEN[name](p).fill_(-torch.inf)
    labels = torch.tensor([[1, 1, 2, 0], [0, 1, 1, 1]]).to(device)
    starts = torch.tensor([[True, False, True, True], [True, True, False, True]]).to(device)
    p = to_device(p, device)
    x, y = leaves(p), leaves(p)
    loss = ops.negative_log_likelihood(x, labels, starts)
    assert torch.equal(loss.isinf(), torch.tensor([True, False]).to(device))
    loss.sum().backward()
    (ops.log_partition(y) - ops.segmentation_score(y, labels, starts)).sum().backward()
    for a, b in zip(given(x).values(), given(y).values(), strict=True):
        assert a.grad.isfinite().all()
        assert_close(a.grad, b.grad, **FLOAT64)


def test_the_loss_of_an_impossible_sentence_leaves_the_gradients_finite(device):
    p, possible = impossible("emission")
    p, possible = leaves(to_device(p, device)), possible.to(device)
    labels = torch.tensor([[0, -1, -1, -1], [1, 1, 2, -1], [2, 1, -1, -1]]).to(device)
    starts = torch.tensor([[1, 0, 0, 0], [1, 0, 1, 0], [1, 1, 0, 0]]).bool().to(device)
    loss = ops.negative_log_likelihood(p, labels, starts)
    assert torch.equal(loss.isfinite(), possible)
    loss.sum().backward()
    assert all(x.grad.isfinite().all() for x in given(p).values())


@pytest.mark.parametrize("lengths", [[5, 5], [5, 3]])
def test_a_segment_longer_than_allowed(lengths, device):
    p = random_potentials(lengths, 2, 3, positions=6, seed=63)
    first, last = ((0, 3, 1), (3, 4, 0), (4, 5, 2)), [(0, 2, 1), (2, 3, 0), (3, 4, 0), (4, 5, 2)]
    last = [segment for segment in last if segment[1] <= lengths[1]]
    expected = Case(p).sentences[1].score(last)
    labels, starts = (x.to(device) for x in as_tensors([first, last], 6))
    p = leaves(to_device(p, device))
    score = ops.segmentation_score(p, labels, starts)
    assert score[0] == -torch.inf
    assert score[1].item() == pytest.approx(expected, abs=1e-10)
    loss = ops.negative_log_likelihood(p, labels, starts)
    assert loss[0] == torch.inf and loss[1].isfinite()
    for value in (score, loss):
        gradients = torch.autograd.grad(value.sum(), given(p).values(), retain_graph=True)
        assert all(x.isfinite().all() for x in gradients)


def poisoned(p):
    """NaN and infinities wherever no segmentation reads."""
    _, positions, longest, _ = p.sizes
    n = torch.arange(positions, device=p.lengths.device)
    padding = n >= p.lengths[:, None]
    stop = n[:, None] + torch.arange(1, longest + 1, device=n.device)
    poison = {"emission": torch.nan, "start": torch.nan, "end": torch.inf}
    fresh = {
        k: getattr(p, k).detach().masked_fill(padding[..., None], v) for k, v in poison.items()
    }
    beyond = (stop > p.lengths[:, None, None])[..., None]
    return p._replace(**fresh, segment=p.segment.detach().masked_fill(beyond, torch.nan))


@pytest.mark.parametrize("shape", [([5, 1, 3], 3, 7), ([40, 31, 14], 4, 50), ([2, 1], 6, 3)])
def test_nan_in_the_padding_changes_nothing(shape, device):
    lengths, longest, positions = shape
    p = to_device(random_potentials(lengths, longest, 3, positions=positions, seed=64), device)
    bad = poisoned(p)
    assert any(x.isnan().any() for x in given(bad).values())
    p, bad = leaves(p), leaves(bad)
    _, labels, starts = ops.viterbi(p)
    for x, y in zip(ops.viterbi(bad)[1:], (labels, starts), strict=True):
        assert torch.equal(x, y)
    # a shift of the window that the padding takes part in may round the last bit otherwise
    for function in (
        lambda p: (ops.log_partition(p),),
        lambda p: (ops.negative_log_likelihood(p, labels, starts),),
        lambda p: (ops.viterbi(p)[0],),
        lambda p: (ops.entropy(p).detach(),),
        lambda p: [x.detach() for x in ops.marginals(p, segment=True)],
        lambda p: (torch.where((edge := ops.to_edge(p)) > -torch.inf, edge, 0),),
    ):
        clean, dirty = function(p), function(bad)
        for x, y in zip(clean, dirty, strict=True):
            assert_close(y, x, **FLOAT64)
        if clean[0].requires_grad:
            clean = torch.autograd.grad(clean[0].sum(), given(p).values())
            dirty = torch.autograd.grad(dirty[0].sum(), given(bad).values())
            for x, y in zip(clean, dirty, strict=True):
                assert_close(y, x, **FLOAT64)


def test_log_z_without_gradients_ignores_the_padding_too():
    p = random_potentials([5, 1, 3], 3, 3, positions=7, seed=65)
    assert torch.equal(ops.log_partition(poisoned(p)), ops.log_partition(p))


def test_a_potential_that_decides_everything():
    """-inf nearly everywhere leaves one segmentation: probability 1, entropy 0."""
    p = random_potentials([5], 3, 2, seed=66)
    keep = torch.zeros_like(p.segment, dtype=torch.bool)
    keep[0, 0, 2, 1] = keep[0, 3, 1, 0] = True
    p = leaves(p._replace(segment=p.segment.masked_fill(~keep, -torch.inf)))
    log_z = ops.log_partition(p)
    log_z.backward()
    assert_close(p.segment.grad, keep.double(), **FLOAT64)
    assert math.isclose(log_z.item(), Case(p).sentences[0].score([(0, 3, 1), (3, 5, 0)]))
    assert abs(ops.entropy(p.map(torch.Tensor.detach)).item()) < 1e-12
