"""The best segmentation, against enumeration."""

from __future__ import annotations

import torch
from cases import CASES, OPTIONAL, as_tensors, given, leaves, random_potentials, to_device
from tolerances import FLOAT64
from torch.testing import assert_close

from hf_semicrf import ops


def test_viterbi_finds_the_best_segmentation(case, potentials):
    score, labels, starts = ops.viterbi(potentials)
    best = [sentence.best() for sentence in case.sentences]
    expected = as_tensors([y for _, y in best], potentials.sizes[1])
    assert torch.equal(labels.cpu(), expected[0])
    assert torch.equal(starts.cpu(), expected[1])
    assert_close(score.cpu(), torch.tensor([s for s, _ in best], dtype=torch.float64), **FLOAT64)


def test_viterbi_gives_tensors_on_the_same_device(device):
    p = to_device(CASES["padded"].potentials, device)
    score, labels, starts = ops.viterbi(p)
    assert {x.device for x in (score, labels, starts)} == {p.lengths.device}
    assert (score.dtype, labels.dtype, starts.dtype) == (torch.float64, torch.long, torch.bool)
    assert labels.shape == starts.shape == p.sizes[:2]
    padding = torch.arange(p.sizes[1], device=device) >= p.lengths[:, None]
    assert (labels[padding] == -1).all() and not starts[padding].any()


def test_the_best_score_is_the_score_of_the_best_segmentation_and_below_log_z():
    for types, longest in ((1, 1), (2, 30), (7, 5)):
        p = random_potentials([50, 1, 33], longest, types, seed=20)
        score, labels, starts = ops.viterbi(p)
        assert_close(score, ops.segmentation_score(p, labels, starts), **FLOAT64)
        assert (ops.log_partition(p) >= score).all()


def test_where_one_segmentation_has_all_the_mass_log_z_is_its_score():
    p = random_potentials([30, 21], 4, 3, seed=21, scale=3000.0)
    assert_close(ops.viterbi(p)[0], ops.log_partition(p), **FLOAT64)


def test_the_best_score_of_long_sentences_is_not_beaten():
    p = random_potentials([200], 6, 4, seed=22, scale=0.5)
    rows = {k: getattr(p, k).expand(50, *getattr(p, k).shape[1:]) for k in (*OPTIONAL, "lengths")}
    p = p._replace(**rows)
    noise = torch.randn(p.emission.shape, generator=torch.Generator().manual_seed(25))
    _, labels, starts = ops.viterbi(p._replace(emission=p.emission + noise))
    assert (ops.segmentation_score(p, labels, starts) < ops.viterbi(p)[0]).all()


def test_ties_are_broken_into_a_legal_segmentation():
    p = random_potentials([6, 4], 3, 3, seed=23).map(torch.zeros_like)
    score, labels, starts = ops.viterbi(p)
    assert torch.equal(score, torch.zeros_like(score))
    assert torch.equal(ops.segmentation_score(p, labels, starts), score)


def test_float32_finds_the_same_segmentation_as_float64():
    p = random_potentials([2000], 5, 4, given=["emission", "end"], seed=24).map(torch.Tensor.float)
    exact = ops.viterbi(p.map(torch.Tensor.double))
    found = ops.viterbi(p)
    assert torch.equal(found[1], exact[1]) and torch.equal(found[2], exact[2])


def test_the_gradient_of_the_best_score_is_an_indicator(case):
    p = leaves(case.potentials)
    ops.viterbi(p)[0].sum().backward()
    best = [sentence.best()[1] for sentence in case.sentences]
    labels, starts = as_tensors(best, p.sizes[1])
    kinds = torch.arange(p.sizes[3])
    expected = {"emission": labels[..., None] == kinds}
    expected["start"] = expected["emission"] & starts[..., None]
    for name in ("emission", "start"):
        if name in given(p):
            assert torch.equal(getattr(p, name).grad, expected[name].double())
    assert float(p.duration.grad.sum()) == sum(len(y) for y in best)
