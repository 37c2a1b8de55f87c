"""Scorers and the mix of layers, against plain formulas."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tolerances import FLOAT64
from torch.nn.functional import gelu

from hf_semicrf import HeadSettings, SemiCRF
from hf_semicrf.head.scorers import SCORERS, SpanScorer
from hf_semicrf.ops.host import span_scores as implementations
from hf_semicrf.options import OPTIONS

SETTINGS = HeadSettings(max_segment_length=4, head_dropout=0.0, head_width=16)
LENGTHS = torch.tensor([5, 2])


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def hidden_states(positions=5):
    return torch.randn(2, positions, 6, dtype=torch.float64)


def segments(positions, longest=4):
    """The segments inside a sentence, (start, end) half-open."""
    for s in range(positions):
        for e in range(s + 1, min(positions, s + longest) + 1):
            yield s, e


def test_span_scores_are_those_of_each_segment_by_itself(monkeypatch):
    scorer, hidden = SpanScorer(6, 3, SETTINGS).double(), hidden_states()
    whole = scorer(hidden).segment
    for s, e in segments(5):
        first, last, inside = (x @ hidden[0].T for x in scorer.projection.weight.chunk(3))
        features = first[:, s] + last[:, e - 1] + inside[:, s:e].mean(1)
        expected = scorer.output(gelu(features + scorer.width.weight[e - s - 1]))
        torch.testing.assert_close(whole[0, s, e - s - 1], expected, rtol=1e-6, atol=1e-6)
    # in chunks, recomputed: the same values and gradients
    gradients = []
    for size in (implementations.CHUNK_ELEMENTS, 1):
        monkeypatch.setattr(implementations, "CHUNK_ELEMENTS", size)
        scorer.zero_grad()
        chunked = scorer(hidden).segment
        torch.testing.assert_close(chunked, whole, **FLOAT64)
        chunked.square().sum().backward()
        gradients.append([p.grad.clone() for p in scorer.parameters() if p.grad is not None])
    torch.testing.assert_close(gradients[1], gradients[0], **FLOAT64)


def test_dropout_takes_the_same_units_from_all_segments_of_a_start():
    scorer = SpanScorer(6, 8, replace(SETTINGS, head_dropout=0.25, head_width=8)).double()
    with torch.no_grad():  # a type's score is one unit
        scorer.output.weight.copy_(torch.eye(8))
        scorer.output.bias.zero_()
    scorer.boundary.dropout.forward = lambda hidden: hidden  # that of the states themselves
    hidden = torch.randn(2, 50, 6, dtype=torch.float64)
    whole, dropped = scorer.eval()(hidden).segment, scorer.train()(hidden).segment
    kept = (dropped != 0).all(2)
    expected = torch.where(kept[:, :, None], whole / 0.75, 0)
    torch.testing.assert_close(dropped, expected, **FLOAT64)
    assert 0.65 < kept.double().mean() < 0.85


def test_every_scorer_of_the_settings_can_be_built():
    assert tuple(SCORERS) == OPTIONS["scorer"].choices


@pytest.mark.parametrize("scorer", SCORERS)
def test_gradients_reach_all_parameters_and_padding_changes_nothing(scorer):
    head = SemiCRF(6, 3, replace(SETTINGS, scorer=scorer, mix_layers=2)).double()
    hidden = torch.randn(2, 5, 12, dtype=torch.float64)
    labels = torch.tensor([[0, 1, 1, 0, 2], [1, 2, -1, -1, -1]])
    starts = torch.tensor([[1, 1, 0, 1, 1], [1, 1, 0, 0, 0]]).bool()
    nll = head(hidden, LENGTHS, labels, starts).nll
    nll.sum().backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name
    padding = torch.full((2, 3, 12), 7.0, dtype=torch.float64)
    longer = torch.cat([hidden, padding], 1)
    longer[1, 2:] = -3.0
    more = torch.full((2, 3), -1)
    again = head(longer, LENGTHS, torch.cat([labels, more], 1), torch.cat([starts, more > 0], 1))
    torch.testing.assert_close(again.nll, nll, **FLOAT64)


def test_the_mix_is_a_weighted_mean_of_the_layers():
    mixed, plain = (SemiCRF(6, 3, replace(SETTINGS, mix_layers=count)).double() for count in (3, 0))
    plain.load_state_dict({k: v for k, v in mixed.state_dict().items() if k != "mix_bias"})
    weights = torch.tensor([0.5, 2.0, 1.5], dtype=torch.float64)
    mixed.mix_bias.data = weights.log()
    layers = [hidden_states() for _ in weights]
    average = sum(w * layer for w, layer in zip(weights, layers, strict=True)) / 3
    one = mixed.eval().potentials(torch.cat(layers, -1), LENGTHS)
    other = plain.eval().potentials(average, LENGTHS)
    torch.testing.assert_close(one, other, **FLOAT64)
