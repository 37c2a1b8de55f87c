"""What lengths score in the head: the laws by their formulas, and training with a tail."""

from __future__ import annotations

import math

import pytest
import torch
from enumeration import Enumerated

from hf_semicrf import HeadSettings, SemiCRF
from hf_semicrf.labels import Known, LabelScheme, Rules

LAWS = ("geometric", "negative_binomial", "poisson", "gamma")


def head(law: str, longest: int = 3, rules: Rules | None = None, **settings) -> SemiCRF:
    torch.manual_seed(0)
    settings = HeadSettings(longest, "boundary", 0.0, threshold=None, length_prior=law, **settings)
    return SemiCRF(4, 2, settings, rules=rules).double()


def expected_score(model: SemiCRF, law: str, d: int) -> float:
    """Of length d of type 1, as the module's head says it."""
    longest, body = model.longest, model.duration_bias[:, 1].detach()
    tail = model.tail_bias[:, 1].detach().tolist()
    if law in ("geometric", "negative_binomial"):
        if d <= longest:
            return float(body[d - 1])
        k, r = d - longest, model.tail_order
        return tail[0] + (k - 1) * tail[1] + math.log(math.comb(k + r - 2, r - 1))
    if d > longest:
        return expected_score(model, law, longest) + (d - longest) * tail[0]
    if law == "poisson":
        level, log_mean = body.tolist()
        return level + (d - 1) * log_mean - math.log(math.factorial(d - 1))
    level, shape, rate = body.tolist()
    return level + shape * math.log(d / longest) - rate * d / longest


@pytest.mark.parametrize("law", LAWS)
def test_the_distribution_is_that_of_the_law(law):
    model = head(law, min_segment_length=2)
    for parameter in model.parameters(recurse=False):
        torch.nn.init.normal_(parameter)
    p = model.potentials(torch.randn(2, 6, 4).double(), torch.tensor([6, 4]))
    rows = [[0.0, -math.inf]] + [[-math.inf, expected_score(model, law, d)] for d in range(2, 7)]
    rows[0][0] = float(p.duration[0, 0].detach())
    written = p.body._replace(duration=torch.tensor(rows, dtype=torch.float64))
    labels, starts = torch.tensor([[0, 1, 1, 1, 1, 0], [1, 1, 0, 0, 9, 9]]), torch.zeros(2, 6)
    starts[0, [0, 1, 5]] = starts[1, [0, 2, 3]] = 1
    hidden = torch.randn(2, 6, 4).double()
    p = model.potentials(hidden, torch.tensor([6, 4]))
    written = p.body._replace(duration=torch.tensor(rows, dtype=torch.float64))
    nll = model(hidden, p.lengths, labels, starts.bool()).nll
    for b in range(2):
        sentence = Enumerated(written, b)
        probability = sentence.probabilities[sentence.index_of(labels[b], starts[b].bool())]
        assert float(nll[b]) == pytest.approx(-math.log(probability), abs=1e-10)
    nll.sum().backward()
    assert all(x.grad is not None and x.grad.isfinite().all() for x in model.parameters())


@pytest.mark.parametrize("law", ("free", *LAWS))
def test_lengths_are_fitted_as_probabilities(law):
    settings = {} if law == "free" else {"threshold": None}
    model = SemiCRF(4, 2, HeadSettings(20, "boundary", length_prior=law, **settings)).double()
    generator = torch.Generator().manual_seed(0)
    lengths = (torch.poisson(torch.full((500,), 12.0), generator).int() + 1).tolist()
    model.fit_lengths([[], lengths])
    p = model.potentials(torch.zeros(1, 500, 4).double(), torch.tensor([500]))
    written = p if law == "free" else p.body._replace(duration=beyond(p, 500))
    share = written.duration[:, 1].exp()
    assert float(share.sum()) == pytest.approx(1, abs=2e-3)  # a tail goes on beyond 500
    mean = float((share * torch.arange(1, len(share) + 1)).sum())
    assert mean == pytest.approx(sum(lengths) / 500, rel=0.05)


def beyond(p, positions):
    from hf_semicrf import ops

    assert p.sizes[1] == positions
    return ops.written_out(p).duration


def test_decoding_known_labels_and_rules_with_a_tail():
    model = head("geometric", 2).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.tail_bias[1] = -0.01
        model.scorer.projection.weight[1, 0] = 8.0  # of the emissions of type 1
        model.transition_bias[1, 1] = -9.0
    hidden = torch.full((1, 12, 4), -1.0).double()
    hidden[0, 2:10] = 1.0
    lengths = torch.tensor([12])
    found = model(hidden, lengths, decode=True, segment_marginals=True)
    assert found.labels[0].tolist() == [0, 0] + [1] * 8 + [0, 0]
    assert found.starts[0].tolist() == [1, 1, 1] + [0] * 7 + [1, 1]
    assert (found.segment_posteriors[0, 2:10] > 0.9).all()
    scheme = LabelScheme.from_labels(["O", "B-X", "I-X"])
    tags = torch.tensor([[0, -100, 1] + [2] * 6 + [-100, 0, 0]])
    known = Known.of_tags(scheme, tags, 12)
    nll = model(hidden, lengths, known=known).nll
    assert 0 < float(nll) < 0.2  # most segmentations agree
    short = Rules.read({"lengths": {"X": [1, 1]}}, scheme.types, 2)
    model.rules = short
    assert model(hidden, lengths, decode=True).starts.all()


def test_what_a_tail_goes_with():
    for name, value in (("scorer", "span"), ("threshold", 0.4), ("potentials", "edge")):
        settings = {"scorer": "sum", "threshold": None, "potentials": "factored", name: value}
        with pytest.raises(ValueError, match=f"expected {name} among"):
            HeadSettings(8, length_prior="geometric", **settings)
    with pytest.raises(ValueError, match="expected min_segment_length of at most"):
        HeadSettings(8, min_segment_length=9)
    model = head("geometric")
    with pytest.raises(ValueError, match="neither allowed segments nor a threshold"):
        model(torch.zeros(1, 2, 4).double(), torch.tensor([2]), threshold=0.5)
    with pytest.raises(ValueError, match="for each of 2 types"):
        model.fit_lengths([[1]])
