"""Decoding by expected correct segments and tokens, against enumeration of all tilings."""

from __future__ import annotations

import pytest
import torch
from cases import Case, random_potentials, to_device
from transformers import BertConfig

from hf_semicrf import (
    HeadSettings,
    SemiCRF,
    SemiCRFConfig,
    SemiCRFForTokenClassification,
    ops,
)

TINY = BertConfig(
    vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
)


def tilings(length, longest, types):
    """All tilings of [0, length) as lists of (start, end, type); type 0 is one long."""
    if length == 0:
        yield []
        return
    for size in range(1, min(longest, length) + 1):
        for label in range(types):
            if label > 0 or size == 1:
                for rest in tilings(length - size, longest, types):
                    yield [*rest, (length - size, length, label)]


def segments_of(labels, starts, length):
    """The tiling that a row of labels and starts stands for."""
    assert (labels[length:] == -1).all() and not starts[length:].any()
    begins = [*starts.nonzero()[:, 0].tolist(), length]
    found = [(s, e, int(labels[s])) for s, e in zip(begins[:-1], begins[1:], strict=True)]
    assert all(e - s == 1 for s, e, c in found if c == 0)
    return found


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.5, 0.8, 1.0, "each"])
@pytest.mark.parametrize("types", [1, 2, 3])
@pytest.mark.parametrize("lawful", [False, True])
def test_no_tiling_has_a_higher_gain(threshold, types, lawful, device):
    generator = torch.Generator().manual_seed(types)
    lengths, longest = torch.tensor([5, 3, 1]), 3
    segment = torch.rand(3, 5, longest, types, generator=generator, dtype=torch.float64)
    before = segment.clone()
    if threshold == "each":  # one for each length and type
        threshold = torch.rand(longest, types, generator=generator, dtype=torch.float64)
    costs = torch.as_tensor(threshold, dtype=torch.float64).expand(longest, types)
    p = random_potentials(lengths.tolist(), longest, types, seed=types)
    p.duration[1:, 0] = p.duration[1, -1] = -torch.inf
    there = threshold.to(device) if isinstance(threshold, torch.Tensor) else threshold
    labels, starts = ops.minimum_risk(
        segment.to(device),
        lengths.to(device),
        there,
        legal=to_device(p, device) if lawful else None,
    )
    assert torch.equal(segment, before)
    for row, length in enumerate(lengths.tolist()):

        def gain(tiling, row=row):
            sizes = ((s, e - s - 1, c) for s, e, c in tiling if c > 0)
            if lawful and any((d, c) == (1, types - 1) for _, d, c in sizes):
                return -torch.inf
            sizes = ((s, e - s - 1, c) for s, e, c in tiling if c > 0)
            return float(sum(segment[row, s, d, c] - costs[d, c] for s, d, c in sizes))

        best = max(map(gain, tilings(length, longest, types)))
        found = segments_of(labels[row], starts[row], length)
        assert gain(found) == pytest.approx(best, abs=1e-12)


def test_a_lower_threshold_finds_no_fewer_segments(device):
    generator = torch.Generator().manual_seed(7)
    segment = torch.rand(4, 12, 4, 3, generator=generator).to(device) / 4
    lengths = torch.full((4,), 12).to(device)
    counts = []
    for threshold in (0.24, 0.2, 0.1, 0.0):
        labels, starts = ops.minimum_risk(segment, lengths, threshold)
        counts.append(int((starts & (labels > 0)).sum()))
    assert counts[0] < counts[-1] and counts == sorted(counts)


@pytest.mark.parametrize("types", [1, 2, 3])
@pytest.mark.parametrize("lawful", [False, True])
def test_no_tiling_has_more_expected_correct_tokens(types, lawful, device):
    """Of the tags B, I and O under the distribution itself, by enumeration of both."""
    p = random_potentials([5, 3, 1], 3, types, seed=types, scale=1.0)
    p.duration[1:, 0] = -torch.inf
    if types > 1:
        p.transition[-1, -1] = p.emission[0, 1, 0] = -torch.inf
    there = to_device(p, device)
    labels, starts = ops.minimum_token_risk(
        ops.marginals(there), there.lengths, 3, legal=there if lawful else None
    )
    for row, sentence in enumerate(Case(p).sentences):
        length = sentence.positions
        probability = {}
        for weight, y in zip(sentence.probabilities, sentence.all, strict=True):
            for s, e, c in y:
                for n in range(s, e):
                    probability[n, c, n == s] = probability.get((n, c, n == s), 0) + weight

        def correct(tiling, probability=probability):
            tags = ((n, c, n == s) for s, e, c in tiling for n in range(s, e))
            return sum(probability.get(tag, 0) for tag in tags)

        choice = tilings(length, 3, types)
        if lawful:
            choice = [y for y in sentence.all if sentence.score(y) > -torch.inf]
        best = max(map(correct, choice))
        found = segments_of(labels[row], starts[row], length)
        assert not lawful or sentence.score(found) > -torch.inf
        assert correct(found) == pytest.approx(best, abs=1e-12)


def test_a_longest_segment_that_is_none_is_refused():
    p = random_potentials([2], 2, 2)
    with pytest.raises(ValueError, match="expected longest as an int of at least 1, got 0"):
        ops.minimum_token_risk(ops.marginals(p), p.lengths, 0)


@pytest.mark.parametrize("threshold", [-0.1, 1.5])
def test_a_threshold_that_is_no_probability_is_refused(threshold):
    with pytest.raises(
        ValueError, match=f"expected threshold as a number in 0..1, got {threshold}"
    ):
        ops.minimum_risk(torch.zeros(1, 2, 2, 2), torch.tensor([2]), threshold)


@pytest.mark.parametrize(
    ("each", "message"),
    [
        (torch.zeros(2, 3), r"of shape \[L, C\] = \[2, 2\], got torch.float32 \[2, 3\]"),
        (torch.zeros(2, 2).long(), r"of shape \[L, C\] = \[2, 2\], got torch.int64 \[2, 2\]"),
        (torch.tensor([[0.5, 0.5], [0.5, 1.5]]), "thresholds in 0..1, got 0.5 to 1.5"),
        (torch.tensor([[0.5, 0.5], [0.5, torch.nan]]), "thresholds in 0..1, got nan to nan"),
    ],
)
def test_thresholds_that_fit_no_length_and_type_are_refused(each, message):
    with pytest.raises(ValueError, match=message):
        ops.minimum_risk(torch.zeros(1, 2, 2, 2), torch.tensor([2]), each)


def test_a_head_lowers_its_threshold_for_each_position_and_keeps_the_factor():
    torch.manual_seed(0)
    head = SemiCRF(6, 3, HeadSettings(3, threshold=0.3, threshold_factor=0.5)).eval()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    hidden, lengths = torch.randn(40, 7, 6), torch.full((40,), 7)
    for given, first in ((None, 0.3), (0.2, 0.2)):
        found = head(hidden, lengths, segment_marginals=True, threshold=given)
        each = torch.tensor([first, first / 2, first / 4])[:, None].expand(3, 3)
        segment = found.marginals.segment
        labels, starts = ops.minimum_risk(segment, lengths, each)
        assert torch.equal(found.labels, labels) and torch.equal(found.starts, starts)
        _, others = ops.minimum_risk(segment, lengths, first)
        assert not torch.equal(starts, others)


def test_the_factor_is_set_and_saved_with_the_model(tmp_path):
    config = SemiCRFConfig(TINY, labels=["O", "B-A", "I-A"], threshold_factor=0.9)
    model = SemiCRFForTokenClassification(config)
    model.set_threshold(0.2)
    assert (model.config.threshold, model.config.threshold_factor) == (0.2, 0.9)
    assert model.classifier.threshold_factor == 0.9
    model.set_threshold(0.3, 0.5)
    assert model.classifier.threshold_factor == 0.5
    model.config.save_pretrained(tmp_path)
    assert SemiCRFConfig.from_pretrained(tmp_path).threshold_factor == 0.5
