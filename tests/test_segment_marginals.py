"""Marginals of given spans, against enumeration."""

from __future__ import annotations

import pytest
import torch
from cases import CASES, given, leaves, random_potentials, to_device
from test_ops_infinite import with_holes
from tolerances import FLOAT64, PROBABILITY_FLOAT32
from torch.library import opcheck
from torch.testing import assert_close

from hf_semicrf import ops


def every_span(p):
    """All [s, e) with 0 <= s <= e <= N, empty and too long ones included, for each sentence."""
    batch, positions = p.sizes[:2]
    spans = [(s, e) for s in range(positions + 1) for e in range(s, positions + 1)]
    return torch.tensor(spans).expand(batch, -1, 2)


def expected(case):
    """[B, S, C] for every span."""
    p, spans = case.potentials, every_span(case.potentials)
    out = torch.zeros(*spans.shape[:2], p.sizes[3], dtype=torch.float64)
    for b, sentence in enumerate(case.sentences):
        for (s, e, c), probability in sentence.segment_marginals().items():
            out[b, (spans[b] == torch.tensor([s, e])).all(-1), c] = probability
    return out


def check(case, device):
    p, spans = to_device(case.potentials, device), every_span(case.potentials).to(device)
    assert_close(ops.segment_marginals(p, spans).cpu(), expected(case), **FLOAT64)


def test_every_span(case, device):
    check(case, device)


@pytest.mark.parametrize("name", ["emission", "segment", "transition"])
def test_with_forbidden_events(name, device):
    check(with_holes(name), device)


def test_nan_in_the_padding_and_a_sentence_without_segmentation(device):
    p = random_potentials([4, 3], 2, 2, positions=5, given=("emission", "end"), seed=70)
    p.emission[0, 2] = -torch.inf
    padding = (torch.arange(5) >= p.lengths[:, None])[..., None]
    bad = p._replace(emission=p.emission.masked_fill(padding, torch.nan))
    found = ops.segment_marginals(to_device(bad, device), every_span(p).to(device)).cpu()
    assert not found[0].any()
    assert_close(found, ops.segment_marginals(p, every_span(p)), **FLOAT64)


def test_scores_that_grow_with_the_text_lose_no_digits(device):
    """In float32, at position 3,000, where emissions have added up to 300,000 nats."""
    p = random_potentials([3000], 6, 3, given=["emission", "start"], seed=71)
    p = to_device(p._replace(emission=p.emission + 100), device).map(torch.Tensor.float)
    begin = torch.arange(2900, 2990, device=device).repeat_interleave(6)
    stop = begin + 1 + torch.arange(6, device=device).repeat(90)
    found = ops.segment_marginals(p, torch.stack([begin, stop], -1)[None])
    exact = ops.marginals(p.map(torch.Tensor.double), segment=True).segment[0, 2900:2990]
    assert found.dtype == torch.float32
    assert_close(found[0].double(), exact.reshape(-1, 3), **PROBABILITY_FLOAT32)
    assert exact.max() > 0.5


WRONG = {
    "shape": (torch.zeros(2, 3, dtype=torch.long), r"spans of shape \[2, S, 2\], got \[2, 3\]"),
    "batch": (torch.zeros(1, 3, 2, dtype=torch.long), r"got \[1, 3, 2\]"),
    "dtype": (torch.zeros(2, 1, 2), "integer spans, got torch.float32"),
    "device": (torch.zeros(2, 1, 2, dtype=torch.long, device="meta"), "spans on cpu, got meta"),
    "order": (torch.tensor([[[0, 1]], [[2, 1]]]), r"begin <= stop <= 4, got \[2, 1\]"),
    "range": (torch.tensor([[[0, 5]], [[0, 1]]]), r"begin <= stop <= 4, got \[0, 5\]"),
    "sign": (torch.tensor([[[-1, 1]], [[0, 1]]]), r"0 <= begin .*, got \[-1, 1\]"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_spans_are_refused(name):
    spans, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        ops.segment_marginals(random_potentials([4, 3], 2, 2), spans)


def test_the_op_keeps_its_contract_and_compiles_whole():
    p, spans = CASES["padded"].potentials, every_span(CASES["padded"].potentials)
    opcheck(torch.ops.hf_semicrf.segment_marginals.default, (*p, spans, "torch"))
    torch.compiler.reset()
    found = torch.compile(ops.segment_marginals, backend="eager", fullgraph=True)(p, spans)
    assert torch.equal(found, ops.segment_marginals(p, spans))
    torch.compiler.reset()
    p = leaves(p)
    with pytest.raises(RuntimeError, match="those of ops.marginals have one"):
        torch.autograd.grad(ops.segment_marginals(p, spans).sum(), list(given(p).values()))
