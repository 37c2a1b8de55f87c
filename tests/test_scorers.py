"""Scorers, contexts and what training adds, against plain formulas."""

from __future__ import annotations

import pytest
import torch
from oracle import Sentence
from tolerances import FLOAT64
from torch.nn.functional import gelu

from hf_semicrf import SemiCRF, scorers
from hf_semicrf.context import CONTEXTS
from hf_semicrf.head import expected_word_score
from hf_semicrf.ops import span_scores
from hf_semicrf.ops.host import span_scores as implementations
from hf_semicrf.scorers import SCORERS, ScorerSettings, build_scorer

SETTINGS = ScorerSettings(hidden_size=6, num_types=3, max_segment_length=4, dropout=0.0, width=16)
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


@pytest.mark.parametrize("block", [1, 3, 64])
@pytest.mark.parametrize("positions", [1, 3, 7])
@pytest.mark.parametrize("longest", [1, 4, 9])
def test_products_in_blocks_are_the_products_of_all_pairs(monkeypatch, block, positions, longest):
    monkeypatch.setattr(scorers, "BLOCK", block)
    first, last = torch.randn(2, 2, positions, 3, 5, dtype=torch.float64, requires_grad=True)
    banded = scorers.banded_products(first, last, longest)
    assert banded.shape == (2, positions, longest, 3)
    pairs = torch.einsum("bnpr,bmpr->bnmp", first, last)
    for s in range(positions):
        for extra in range(longest):
            expected = pairs[:, s, s + extra] if s + extra < positions else torch.zeros(2, 3)
            torch.testing.assert_close(banded[:, s, extra], expected.to(banded), **FLOAT64)


def test_span_scores_are_those_of_each_segment_by_itself(monkeypatch):
    scorer, hidden = SCORERS["span"](SETTINGS).double(), hidden_states()
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
    states = torch.randn(2, 50, 3 * 8, dtype=torch.float64)
    width, units, bias = torch.randn(3, 8).double(), torch.eye(8).double(), torch.zeros(8).double()
    whole, dropped = (
        span_scores(states, width, units, bias, dropout, "torch") for dropout in (0.0, 0.25)
    )
    kept = (dropped != 0).all(2)
    expected = torch.where(kept[:, :, None], whole / 0.75, 0)
    torch.testing.assert_close(dropped, expected, **FLOAT64)
    assert 0.65 < kept.double().mean() < 0.85


def test_the_pointer_knows_the_distance_and_not_the_place():
    scorer = SCORERS["pointer"](SETTINGS).double()
    hidden = torch.randn(1, 1, 6, dtype=torch.float64).expand(2, 9, 6)
    segment = scorer(hidden).segment
    assert not segment[..., 0].any() and torch.equal(segment[..., 1], segment[..., 2])
    torch.testing.assert_close(segment[:, 1:5], segment[:, :4], **FLOAT64)
    assert segment[0, 0, :, 1].unique().numel() == 4


def test_entity_scores_are_shared_by_all_types_but_the_outside():
    scores = SCORERS["entity"](SETTINGS).double()(hidden_states())
    for score in (scores.emission, scores.start, scores.end):
        assert not score[..., 0].any() and score[..., 1].any()
        assert torch.equal(score[..., 1], score[..., 2])


def test_joined_scorers_add_up():
    joined, hidden = (
        build_scorer("boundary+biaffine+entity+length", SETTINGS).double(),
        hidden_states(),
    )
    parts = [term(hidden) for term in joined.terms]
    scores = joined(hidden)
    torch.testing.assert_close(scores.emission, parts[0].emission + parts[2].emission)
    torch.testing.assert_close(scores.segment, parts[1].segment + parts[3].segment)


@pytest.mark.parametrize("scorer", [*SCORERS, "mlp+biaffine+span"])
@pytest.mark.parametrize("context", [None, *CONTEXTS])
def test_gradients_reach_all_parameters_and_padding_changes_nothing(scorer, context):
    head = SemiCRF(
        6, 3, 4, scorer, dropout=0.0, context=context, width=16, label_smoothing=0.1, mix_layers=2
    ).double()
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
    mixed, plain = SemiCRF(6, 3, 4, mix_layers=3).double(), SemiCRF(6, 3, 4).double()
    plain.load_state_dict({k: v for k, v in mixed.state_dict().items() if k != "mix_bias"})
    weights = torch.tensor([0.5, 2.0, 1.5], dtype=torch.float64)
    mixed.mix_bias.data = weights.log()
    layers = [hidden_states() for _ in weights]
    average = sum(w * layer for w, layer in zip(weights, layers, strict=True)) / 3
    one = mixed.eval().potentials(torch.cat(layers, -1), LENGTHS)
    other = plain.eval().potentials(average, LENGTHS)
    torch.testing.assert_close(one, other, **FLOAT64)


def test_label_smoothing_is_the_cross_entropy_with_a_smoothed_target():
    head = SemiCRF(6, 3, 1, dropout=0.0, label_smoothing=0.3).double()
    hidden = torch.randn(1, 3, 6, dtype=torch.float64)
    starts = torch.ones(1, 3, dtype=torch.bool)
    every = torch.cartesian_prod(*[torch.arange(3)] * 3)  # L = 1: all segmentations
    with torch.no_grad():
        gold = torch.tensor([[0, 2, 1]])
        trained = head.train()(hidden, LENGTHS[:1] - 2, gold, starts).nll
        head.eval()
        nll = head(hidden, LENGTHS[:1] - 2, gold, starts).nll
        uniform = [head(hidden, LENGTHS[:1] - 2, row[None], starts).nll for row in every]
    expected = 0.7 * nll + 0.3 * torch.stack(uniform).mean(0)
    torch.testing.assert_close(trained, expected, **FLOAT64)


def test_the_mean_word_score_is_the_mean_over_enumerated_segmentations():
    head = SemiCRF(6, 3, 4, "boundary+biaffine").double().eval()
    p = head.potentials(torch.randn(1, 3, 6, dtype=torch.float64), torch.tensor([3]))
    sentence = Sentence(p.map(torch.detach), 0)
    scores = [sentence.score(tiling) for tiling in sentence.all if len(tiling) == 3]
    assert len(scores) == 27
    mean = torch.tensor(scores, dtype=torch.float64).mean()
    torch.testing.assert_close(expected_word_score(p)[0], mean, **FLOAT64)


def test_the_token_loss_is_a_cross_entropy_of_the_emissions():
    plain, added = (SemiCRF(6, 3, 4, dropout=0.0, token_loss=w).double() for w in (0.0, 0.5))
    added.load_state_dict(plain.state_dict())
    hidden = hidden_states()
    labels = torch.tensor([[0, 1, 1, 0, 2], [1, 2, -1, -1, -1]])
    starts = torch.tensor([[1, 1, 0, 1, 1], [1, 1, 0, 0, 0]]).bool()
    more = added(hidden, LENGTHS, labels, starts).nll - plain(hidden, LENGTHS, labels, starts).nll
    log_p = plain.potentials(hidden, LENGTHS).emission.log_softmax(-1)
    expected = [-sum(log_p[b, t, labels[b, t]] for t in range(n)) for b, n in enumerate(LENGTHS)]
    torch.testing.assert_close(more, 0.5 * torch.stack(expected), **FLOAT64)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scorer": "spam"}, "expected a scorer among .*'spam'"),
        ({"scorer": "span+span"}, "every scorer once, got 'span.span'"),
        ({"temperature": 0.0}, "temperature above 0, got 0.0"),
        ({"context": "gru"}, "context among .* got 'gru'"),
        ({"width": 1}, "width as an int of at least 2, got 1"),
        ({"mix_layers": True}, "mix_layers as an int of at least 0, got True"),
        ({"label_smoothing": 1.0}, "label_smoothing in 0..1, below 1, got 1.0"),
        ({"token_loss": -1.0}, "token_loss of at least 0, got -1.0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        SemiCRF(6, 3, 4, **settings)
