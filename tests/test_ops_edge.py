"""The dense form holds the same distribution."""

from __future__ import annotations

import pytest
import torch
from cases import CASES, given, leaves, random_potentials, to_device
from oracle import dense_log_partition
from tolerances import FLOAT64
from torch.testing import assert_close

from hf_semicrf import ops
from hf_semicrf.ops import semi_crf_triton_forward


def test_the_dense_recurrence_gives_log_z(case):
    p = case.potentials
    edge = ops.to_edge(p)
    batch, positions, longest, types = p.sizes
    assert edge.shape == (batch, positions, longest + 1, types, types)
    values = [
        dense_log_partition(row.tolist(), int(length) + 1)
        for row, length in zip(edge, p.lengths, strict=True)
    ]
    assert_close(torch.tensor(values, dtype=torch.float64), case.log_z, **FLOAT64)


@pytest.mark.parametrize("triton", [False, True])
def test_the_public_dense_function_agrees(case, potentials, triton):
    edge, boundaries = ops.to_edge(potentials), potentials.lengths + 1
    log_z = semi_crf_triton_forward(edge, boundaries, use_triton=triton)
    assert_close(log_z.cpu(), case.log_z, **FLOAT64)
    best = semi_crf_triton_forward(edge, boundaries, use_triton=triton, semiring="max")
    assert_close(best.cpu(), ops.viterbi(potentials)[0].cpu(), **FLOAT64)


def test_the_gradient_through_the_dense_form_is_the_same(case, device):
    p = leaves(to_device(case.potentials, device))
    semi_crf_triton_forward(ops.to_edge(p), p.lengths + 1).sum().backward()
    for name, x in given(p).items():
        assert_close(x.grad.cpu(), case.gradients[name], **FLOAT64)


def test_entries_that_no_segmentation_uses_are_impossible():
    p = CASES["padded"].potentials
    edge = ops.to_edge(p)
    assert (edge[:, :, 0] == -torch.inf).all()  # the unused duration
    assert (edge[:, 0, :, :, 1:] == -torch.inf).all()  # sources of the first segment
    begin, length = torch.arange(p.sizes[1])[:, None], torch.arange(p.sizes[2] + 1)
    beyond = (begin + length) > p.lengths[:, None, None]
    assert (edge[beyond] == -torch.inf).all()
    used = edge[:, 1:][~beyond[:, 1:] & (length > 0)]
    assert used.isfinite().all()


def test_the_dense_form_is_differentiable():
    """Through a sum of used entries that are linear in each score."""
    p = leaves(CASES["usual"].potentials)
    edge = ops.to_edge(p)
    torch.where(edge > -torch.inf, edge, 0).sum().backward()
    assert all(x.grad.isfinite().all() and x.grad.any() for x in given(p).values())
    # each final score stands once an end, a length that fits, a source and the first segment
    batch, _, longest, types = p.sizes
    entries = [
        types * sum(1 if n == d else types for d in range(1, min(longest, n) + 1))
        for n in p.lengths.tolist()
    ]
    assert float(p.final.grad.sum()) == sum(entries)


def test_scores_that_cancel_in_an_edge_are_refused():
    p = random_potentials([3], 2, 2, seed=98)
    p.segment[0, 1, 0, 0], p.start[0, 1, 0] = 3.4e38, -3.4e38
    with pytest.raises(ops.ScoreError, match=r"in (segment|start), of sentences \[0\]"):
        ops.to_edge(p)
    p.segment[0, 1, 0, 0] = 0  # one that only forbids is no trouble
    assert ops.semi_crf_triton_forward(ops.to_edge(p), p.lengths + 1).isfinite().all()
