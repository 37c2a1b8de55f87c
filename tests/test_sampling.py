"""Samples, against the exact probabilities of all segmentations."""

from __future__ import annotations

import pytest
import torch
from cases import Case, as_tensors, leaves, random_potentials, to_device
from torch.library import opcheck

from hf_semicrf import ops

SAMPLES = 10_000


def draw(p, n=SAMPLES, seed=0):
    return ops.sample(p, n, torch.Generator().manual_seed(seed))


def chi_square_p_value(counts, probabilities):
    """That counts as far from the expected ones occur; cells that expect less than 5 are one."""
    expected = probabilities * counts.sum()
    rare = expected < 5

    def cells(x):
        return torch.cat([x[~rare], x[rare].sum()[None]]) if rare.any() else x

    observed, expected = cells(counts.double()), cells(expected)
    observed, expected = observed[expected > 0], expected[expected > 0]
    statistic = ((observed - expected) ** 2 / expected).sum()
    freedom = torch.tensor((len(expected) - 1) / 2, dtype=torch.float64)
    return float(torch.special.gammaincc(freedom, statistic / 2)) if freedom else 1.0


def counts_of(sentence, labels, starts):
    """How often each segmentation of the enumeration was drawn."""

    def codes(labels, starts):
        digits = 2 * (labels + 1) + starts
        return (digits * (2 * sentence.types + 2) ** torch.arange(labels.shape[1])).sum(1)

    known, order = codes(*as_tensors(sentence.all, labels.shape[1])).sort()
    found = codes(labels.cpu(), starts.cpu())
    place = torch.searchsorted(known, found)
    assert torch.equal(known[place], found)  # nothing but segmentations
    counts = torch.zeros(len(known), dtype=torch.long)
    return counts.scatter_(0, order, place.bincount(minlength=len(known)))


def forbidden():
    """Forbidden transitions, lengths, positions and first types."""
    p = random_potentials([5, 4], 3, 3, seed=12, scale=1.0)
    p.transition[0, 1] = p.transition[2, 2] = p.duration[1:, 0] = -torch.inf
    p.emission[0, 3, 0] = p.initial[2] = -torch.inf
    return Case(p)


DRAWN = {
    "usual": Case(random_potentials([4, 3, 4], 3, 3, seed=0, scale=0.7)),
    "padded": Case(random_potentials([2, 4], 2, 3, positions=7, seed=1, scale=1.0)),
    "one position": Case(random_potentials([1], 3, 4, seed=2)),
    "linear chain": Case(random_potentials([5], 1, 3, given=["emission"], seed=3, scale=1.0)),
    "peaked": Case(random_potentials([5], 3, 3, seed=4, scale=6.0)),
    "forbidden": forbidden(),
}


@pytest.mark.parametrize("blocks", [False, True])
@pytest.mark.parametrize("name", DRAWN)
def test_frequencies_are_probabilities(name, blocks, device, monkeypatch):
    if blocks:  # of one position each
        monkeypatch.setattr("hf_semicrf.ops.host.sampling.BLOCK_ELEMENTS", 1)
    case = DRAWN[name]
    labels, starts = draw(to_device(case.potentials, device))
    for b, sentence in enumerate(case.sentences):
        counts = counts_of(sentence, labels[:, b], starts[:, b])
        exact = torch.tensor(sentence.probabilities, dtype=torch.float64)
        assert not counts[exact == 0].any()
        assert chi_square_p_value(counts, exact) > 1e-3
        if len(exact) > 100:  # the test would see another distribution
            flatter = exact.sqrt() / exact.sqrt().sum()
            assert chi_square_p_value(counts, flatter) < 1e-6


def test_samples_of_one_call_are_independent():
    """Of neighbouring samples, pairs are as frequent as products say."""
    p = random_potentials([2], 2, 2, seed=5, scale=0.3)
    sentence = Case(p).sentences[0]
    labels, starts = draw(p)
    exact = torch.tensor(sentence.probabilities, dtype=torch.float64)
    known = torch.cat([*as_tensors(sentence.all, 2)], 1)
    index = (torch.cat([labels, starts], 2) == known).all(-1).int().argmax(-1)
    pairs = index[::2] * len(exact) + index[1::2]
    counts = pairs.bincount(minlength=len(exact) ** 2)
    assert chi_square_p_value(counts, torch.outer(exact, exact).flatten()) > 1e-3


def test_a_generator_decides_what_is_drawn():
    p = random_potentials([9, 4], 3, 3, seed=6)
    once, again, other = draw(p, 5, seed=1), draw(p, 5, seed=1), draw(p, 5, seed=2)
    assert all(torch.equal(x, y) for x, y in zip(once, again, strict=True))
    assert not torch.equal(once[0], other[0])
    torch.manual_seed(3)
    default = ops.sample(p, 5)
    torch.manual_seed(3)
    assert all(torch.equal(x, y) for x, y in zip(default, ops.sample(p, 5), strict=True))


def test_padding_and_shapes(device):
    p = to_device(random_potentials([3, 6, 1], 2, 3, positions=8, seed=7), device)
    labels, starts = draw(p, 4)
    assert labels.shape == starts.shape == (4, 3, 8)
    assert (labels.dtype, starts.dtype, labels.device) == (torch.long, torch.bool, p.lengths.device)
    padding = (torch.arange(8, device=device) >= p.lengths[:, None]).expand(4, 3, 8)
    assert (labels[padding] == -1).all() and not starts[padding].any()
    assert (labels[~padding] >= 0).all() and starts[..., 0].all()


def test_a_sentence_without_a_legal_segmentation_has_no_sample(device):
    p = random_potentials([4, 3], 2, 2, given=("emission",), seed=8)
    p.emission[0, 2] = -torch.inf
    labels, starts = draw(to_device(p, device), 6)
    assert (labels[:, 0] == -1).all() and not starts[:, 0].any()
    assert (labels[:, 1, :3] >= 0).all() and starts[:, 1, 0].all()


def test_nan_in_the_padding_changes_nothing(device):
    p = random_potentials([3, 5], 3, 2, positions=7, given=["emission", "end"], seed=9)
    padding = torch.arange(7) >= p.lengths[:, None]
    bad = p._replace(emission=p.emission.masked_fill(padding[..., None], torch.nan))
    for x, y in zip(draw(to_device(p, device), 9), draw(to_device(bad, device), 9), strict=True):
        assert torch.equal(x, y)


def test_long_sentences_in_float32_agree_with_their_marginals(device):
    p = random_potentials([150, 40], 12, 5, given=["emission", "start", "segment"], seed=10)
    p = to_device(p.map(torch.Tensor.float), device)
    labels, starts = draw(p, 300)
    exact = ops.marginals(p.map(torch.Tensor.double))
    kinds = torch.arange(5, device=device)
    found = (labels[..., None] == kinds).double()
    for frequency, probability in (
        (found.mean(0), exact.token),
        ((found * starts[..., None]).mean(0), exact.start),
    ):
        deviation = (probability * (1 - probability) / 300).sqrt()
        assert (frequency - probability).abs().max() < 6 * deviation.max()
        assert not frequency[probability == 0].any()
        # in units of its standard deviation, the mean of the squared error is 1
        usual = deviation > 0.01
        z = (frequency - probability)[usual] / deviation[usual]
        assert 0.8 < float(z.square().mean()) < 1.2


@pytest.mark.parametrize("n", [0, -1, 1.5, True])
def test_a_count_that_is_none_is_refused(n):
    with pytest.raises(ValueError, match=f"expected n as an int of at least 1, got {n}"):
        ops.sample(random_potentials([2], 1, 2), n)


def test_the_op_keeps_its_contract_and_compiles_whole():
    p = leaves(random_potentials([5, 2], 3, 3, seed=11))
    uniform = torch.rand(2, 4, 2, 5, dtype=torch.float64)
    opcheck(torch.ops.hf_semicrf.sample.default, (*p, uniform, "torch"))

    def count(p):
        labels, starts = ops.sample(p, 3)
        return ((labels > 0) & starts).sum(-1)

    torch.compiler.reset()
    found = torch.compile(count, backend="aot_eager", fullgraph=True)(p)
    assert found.shape == (3, 2) and (found >= 0).all() and (found <= p.lengths).all()
    torch.compiler.reset()
