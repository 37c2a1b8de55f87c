"""Decoding by expected correct segments, against enumeration of all tilings."""

from __future__ import annotations

import pytest
import torch

from hf_semicrf import ops


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


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("types", [1, 2, 3])
def test_no_tiling_has_a_higher_gain(threshold, types, device):
    generator = torch.Generator().manual_seed(types)
    lengths, longest = torch.tensor([5, 3, 1]), 3
    segment = torch.rand(3, 5, longest, types, generator=generator, dtype=torch.float64)
    before = segment.clone()
    labels, starts = ops.minimum_risk(segment.to(device), lengths.to(device), threshold)
    assert torch.equal(segment, before)
    for row, length in enumerate(lengths.tolist()):

        def gain(tiling, row=row):
            scores = (segment[row, s, e - s - 1, c] - threshold for s, e, c in tiling if c > 0)
            return float(sum(scores))

        best = max(map(gain, tilings(length, longest, types)))
        begins = [*starts[row].nonzero()[:, 0].tolist(), length]
        found = [(s, e, int(labels[row, s])) for s, e in zip(begins[:-1], begins[1:], strict=True)]
        assert gain(found) == pytest.approx(best, abs=1e-12)
        assert all(e - s == 1 for s, e, c in found if c == 0)
        assert (labels[row, length:] == -1).all() and not starts[row, length:].any()


def test_a_lower_threshold_finds_no_fewer_segments(device):
    generator = torch.Generator().manual_seed(7)
    segment = torch.rand(4, 12, 4, 3, generator=generator).to(device) / 4
    lengths = torch.full((4,), 12).to(device)
    counts = []
    for threshold in (0.24, 0.2, 0.1, 0.0):
        labels, starts = ops.minimum_risk(segment, lengths, threshold)
        counts.append(int((starts & (labels > 0)).sum()))
    assert counts[0] < counts[-1] and counts == sorted(counts)


@pytest.mark.parametrize("threshold", [-0.1, 1.5])
def test_a_threshold_that_is_no_probability_is_refused(threshold):
    with pytest.raises(ValueError, match=f"expected a threshold in 0..1, got {threshold}"):
        ops.minimum_risk(torch.zeros(1, 2, 2, 2), torch.tensor([2]), threshold)
