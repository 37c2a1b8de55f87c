"""Posteriors and entropy, against enumeration."""

from __future__ import annotations

import pytest
import torch
from cases import CASES, as_tensors, leaves, random_potentials, to_device
from tolerances import FLOAT64, LOG_Z_FLOAT32, PROBABILITY_FLOAT32
from torch.testing import assert_close

from hf_semicrf import ops


def test_marginals_are_sums_of_probabilities(case, potentials):
    found = ops.marginals(potentials, segment=True)
    for name in ("start", "end", "segment"):
        assert_close(getattr(found, name).cpu(), case.gradients[name], **FLOAT64)
    assert_close(found.token.cpu(), case.gradients["emission"], **FLOAT64)


def test_segment_marginals_only_on_request(case):
    without, full = ops.marginals(case.potentials), ops.marginals(case.potentials, segment=True)
    assert without.segment is None
    assert all(torch.equal(x, y) for x, y in zip(without[:3], full[:3], strict=True))


@pytest.mark.parametrize("name", ["usual", "padded", "outside of length one"])
def test_marginals_are_the_gradient_of_log_z(name):
    p = leaves(CASES[name].potentials)
    ops.log_partition(p).sum().backward()
    found = ops.marginals(CASES[name].potentials, segment=True)
    for x, y in zip((p.emission, p.start, p.end, p.segment), found, strict=True):
        assert_close(x.grad, y, **FLOAT64)


def test_marginals_of_long_sentences_are_probabilities(device):
    p = to_device(random_potentials([300, 17, 120], 12, 5, seed=30), device)
    token, start, end, segment = ops.marginals(p, segment=True)
    inside = torch.arange(p.sizes[1], device=device) < p.lengths[:, None]
    assert_close(token.sum(-1), inside.double(), **FLOAT64)
    for x in (token, start, end, segment):
        assert float(x.min()) > -1e-12 and float(x.max()) < 1 + 1e-12
        assert not x[~inside].any()
    assert_close(start.sum((1, 2)), end.sum((1, 2)), **FLOAT64)
    assert_close(start[:, 0].sum(-1), torch.ones_like(start[:, 0, 0]), **FLOAT64)
    assert_close(segment.sum(2), start, **FLOAT64)


def test_float32_marginals_at_twenty_thousand_positions():
    p = random_potentials([20000], 4, 3, given=["emission", "start"], seed=31)
    exact, found = ops.marginals(p), ops.marginals(p.map(torch.Tensor.float))
    for x, y in zip(found[:3], exact[:3], strict=True):
        assert x.dtype == torch.float32
        assert_close(x.double(), y, **PROBABILITY_FLOAT32)


def test_entropy_is_the_mean_surprise(case, potentials):
    expected = torch.tensor([s.entropy() for s in case.sentences], dtype=torch.float64)
    size = float(case.log_z.abs().max().clamp(min=1))  # of the two terms of the difference
    assert_close(ops.entropy(potentials).cpu(), expected, rtol=0, atol=FLOAT64["atol"] * size)


def test_entropy_of_the_uniform_distribution_is_the_log_count():
    p = random_potentials([6, 4], 2, 3, seed=32).map(torch.zeros_like)
    assert_close(ops.entropy(p), ops.log_partition(p), **FLOAT64)


def test_entropy_in_float32_keeps_its_digits():
    p = random_potentials([2000], 3, 3, given=["emission"], seed=33)
    p = p._replace(emission=p.emission + 100).map(torch.Tensor.float)
    found, exact = ops.entropy(p), ops.entropy(p.map(torch.Tensor.double))
    assert found.dtype == torch.float32
    assert_close(found.double(), exact, **LOG_Z_FLOAT32)


def test_at_segments_reads_the_value_of_the_covering_segment():
    p = CASES["padded"].potentials
    values = torch.arange(2 * 7 * 2 * 3).view(2, 7, 2, 3)
    segmentation = [((0, 2, 1),), ((0, 1, 2), (1, 3, 0), (3, 4, 1))]
    labels, starts = as_tensors(segmentation, 7)
    expected = torch.zeros(2, 7, dtype=torch.long)
    for b, segments in enumerate(segmentation):
        for begin, end, kind in segments:
            expected[b, begin:end] = values[b, begin, end - begin - 1, kind]
    assert torch.equal(ops.at_segments(values, labels, starts, p.lengths), expected)
