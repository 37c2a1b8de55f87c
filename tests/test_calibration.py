"""Temperature and threshold: on potentials whose right values are known."""

from __future__ import annotations

import math

import pytest
import torch
from oracle import Sentence
from tolerances import FLOAT64

from hf_semicrf import HeadSettings, SemiCRF, ops
from hf_semicrf.head.calibration import (
    THRESHOLDS,
    Scored,
    fit_temperature,
    fit_threshold,
    segment_loss,
    segment_mask,
    sentence_loss,
    threshold_doubt,
)

SENTENCES, POSITIONS, LONGEST, TYPES = 1500, 4, 2, 2


def drawn(sharpness: float) -> Scored:
    """Sentences whose true segmentations are drawn from the model, made `sharpness` times surer."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    duration = normal(LONGEST, TYPES)
    duration[1:, 0] = -torch.inf
    p = ops.Potentials(
        emission=2 * normal(SENTENCES, POSITIONS, TYPES),
        start=normal(SENTENCES, POSITIONS, TYPES),
        duration=duration,
        transition=normal(TYPES, TYPES),
        initial=normal(TYPES),
        final=normal(TYPES),
        lengths=torch.randint(1, POSITIONS + 1, (SENTENCES,), generator=generator),
    )
    labels = torch.full((SENTENCES, POSITIONS), -1)
    starts = torch.zeros(SENTENCES, POSITIONS, dtype=torch.bool)
    for row in range(SENTENCES):
        sentence = Sentence(p, row)
        weights = torch.tensor([score - sentence.log_z for score in sentence.scores]).exp()
        for s, e, c in sentence.all[int(torch.multinomial(weights, 1, generator=generator))]:
            labels[row, s:e], starts[row, s] = c, True
    return Scored(p.map(lambda x: sharpness * x), labels, starts)


def first(batch: Scored, n: int) -> Scored:
    p = batch.potentials
    cut = p.map(lambda x: x[:n] if len(x) == SENTENCES else x)._replace(lengths=p.lengths[:n])
    return Scored(cut, batch.labels[:n], batch.starts[:n])


@pytest.fixture(scope="module")
def batch():
    return drawn(1.0)


@pytest.mark.parametrize("loss", ["sentence", "segment"])
@pytest.mark.parametrize("sharpness", [0.5, 3.0])
def test_the_temperature_undoes_what_made_the_model_too_sure(batch, loss, sharpness):
    sharp = batch._replace(potentials=batch.potentials.map(lambda x: sharpness * x))
    found = fit_temperature([sharp], loss)
    assert found == pytest.approx(sharpness, rel=0.06)  # what these sentences can tell
    of = {"sentence": sentence_loss, "segment": segment_loss}[loss]
    assert of(sharp, found) < min(of(sharp, found * 1.05), of(sharp, found / 1.05))
    assert fit_temperature([sharp, sharp], loss) == found


def test_losses_are_those_of_the_enumerated_distribution(batch):
    few = first(batch, 3)
    nll = of_segments = 0.0
    for row in range(3):
        sentence = Sentence(few.tempered(2.0), row)
        true = tuple(
            (s, e, int(few.labels[row, s])) for s, e in segment_bounds(few.starts[row], sentence)
        )
        probabilities = [math.exp(s - sentence.log_z) for s in sentence.scores]
        nll += sentence.log_z - sentence.score(true)
        for s in range(sentence.positions):
            for e in range(s + 1, min(s + LONGEST, sentence.positions) + 1):
                here = zip(sentence.all, probabilities, strict=True)
                p = sum(q for tiling, q in here if (s, e, 1) in tiling)
                of_segments -= torch.tensor(p if (s, e, 1) in true else 1 - p).double().log()
    torch.testing.assert_close(float(sentence_loss(few, 2.0)), nll, **FLOAT64)
    torch.testing.assert_close(float(segment_loss(few, 2.0)), float(of_segments), rtol=1e-6, atol=0)


def segment_bounds(starts, sentence):
    begins = starts.nonzero()[:, 0].tolist()
    return zip(begins, [*begins[1:], sentence.positions], strict=True)


def test_the_threshold_is_the_best_of_all_or_half_of_the_best_f1(batch):
    batch = first(batch, 500)
    p, gold = batch.potentials, segment_mask(batch.labels, batch.starts, batch.potentials)[..., 1]
    posterior = ops.marginals(p, segment=True).segment
    f1 = []
    for threshold in THRESHOLDS:
        labels, starts = ops.minimum_risk(posterior, p.lengths, threshold)
        right = predicted = 0
        for row in range(500):
            length = int(p.lengths[row])
            begins = [n for n in range(length) if starts[row, n]]
            for s, e in zip(begins, [*begins[1:], length], strict=True):
                if labels[row, s] == 1:
                    predicted += 1
                    right += bool(gold[row, s, e - s - 1])
        f1.append(2 * right / (predicted + int(gold.sum())))
    best = max(range(len(f1)), key=f1.__getitem__)
    assert fit_threshold([batch], rule="best_f1") == THRESHOLDS[best]
    assert fit_threshold([batch]) == pytest.approx(f1[best] / 2, abs=1e-4)
    # the posteriors are right here, so the half is as good up to what 500 sentences can tell
    nearest = min(range(len(f1)), key=lambda n: abs(THRESHOLDS[n] - f1[best] / 2))
    assert f1[nearest] > f1[best] - 0.02


def test_the_head_divides_all_scores_in_decoding_and_none_in_the_loss():
    torch.manual_seed(0)
    for potentials in ("factored", "edge"):
        settings = HeadSettings(4, scorer="boundary", head_temperature=2.5, potentials=potentials)
        head = SemiCRF(6, 3, settings).double().eval()
        for parameter in head.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
        hidden, lengths = torch.randn(2, 5, 6, dtype=torch.float64), torch.tensor([5, 3])
        output = head(hidden, lengths, segment_marginals=True)
        divided = output.potentials.map(lambda x: x / 2.5)
        expected = ops.marginals(divided, segment=True)
        torch.testing.assert_close(output.marginals.segment, expected.segment, **FLOAT64)
        labels, starts = torch.zeros(2, 5, dtype=torch.long), torch.ones(2, 5, dtype=torch.bool)
        nll = ops.negative_log_likelihood(output.potentials, labels, starts)
        torch.testing.assert_close(head(hidden, lengths, labels, starts).nll, nll, **FLOAT64)


def test_errors_say_what_is_wrong(batch):
    with pytest.raises(ValueError, match="at least one batch to fit a temperature"):
        fit_temperature([])
    with pytest.raises(ValueError, match="at least one batch to fit a threshold"):
        fit_threshold([])
    with pytest.raises(ValueError, match="expected loss as one of .* got 'f1'"):
        fit_temperature([batch], "f1")
    with pytest.raises(ValueError, match="expected rule as one of .* got 'f2'"):
        fit_threshold([batch], rule="f2")


def test_few_entities_carry_a_threshold_where_they_refute_the_present_one(batch):
    few = [first(batch, 40)]
    assert "expected a range of at most 0.2" in threshold_doubt(few)
    right, fitted = fit_threshold(few), 0.69
    assert threshold_doubt(few, threshold=fitted) is None
    assert threshold_doubt(few, threshold=right) == threshold_doubt(few)
