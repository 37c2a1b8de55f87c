"""The k best segmentations and the best through each place, against enumeration."""

from __future__ import annotations

import pytest
import torch
from cases import Case, as_tensors, given, leaves, random_potentials, to_device
from test_ops_infinite import with_holes
from tolerances import FLOAT64
from torch.library import opcheck
from torch.testing import assert_close

from hf_semicrf import ops

INFINITE = -torch.inf


def ranked(sentence, k):
    """Scores and segmentations of the enumeration, best first; only legal ones."""
    order = sorted(zip(sentence.scores, sentence.all, strict=True), reverse=True)
    return [(score, y) for score, y in order if score > INFINITE][:k]


def check(case, k, device="cpu"):
    p = to_device(case.potentials, device)
    score, labels, starts = (x.cpu() for x in ops.k_best(p, k))
    assert score.shape == (len(case.sentences), k)
    for b, sentence in enumerate(case.sentences):
        expected = ranked(sentence, k)
        wanted = torch.tensor([s for s, _ in expected], dtype=torch.float64)
        assert_close(score[b, : len(expected)], wanted, **FLOAT64)
        if expected:
            paths = as_tensors([y for _, y in expected], p.sizes[1])
            assert torch.equal(labels[b, : len(expected)], paths[0])
            assert torch.equal(starts[b, : len(expected)], paths[1])
        assert (score[b, len(expected) :] == INFINITE).all()
        assert (labels[b, len(expected) :] == -1).all() and not starts[b, len(expected) :].any()


@pytest.mark.parametrize("k", [1, 4])
def test_k_best_are_the_first_of_all(case, k, device):
    check(case, k, device)


def test_more_than_there_are(device):
    check(Case(random_potentials([3, 1], 2, 2, positions=4, seed=40)), 30, device)


@pytest.mark.parametrize("name", ["emission", "duration", "transition", "final"])
def test_k_best_with_forbidden_events(name, device):
    check(with_holes(name), 12, device)


def test_a_sentence_without_a_legal_segmentation(device):
    p = random_potentials([4, 3], 2, 2, given=("emission",), seed=41)
    p.emission[0, 2] = INFINITE
    check(Case(p), 3, device)
    found = ops.max_marginals(to_device(p, device), segment=True)
    assert all((x[0] == INFINITE).all() for x in found)
    best = ops.viterbi(to_device(p, device))[0][1]
    assert_close(found.token[1].max(), best, **FLOAT64)


def tie_key(y):
    """From the last segment leftwards: the lower type first, then the shorter segment."""
    return [(kind, end - begin) for begin, end, kind in reversed(y)]


def test_ties_are_broken_as_documented(device):
    p = random_potentials([5, 4], 3, 2, seed=42).map(lambda x: x.round().clamp(-1, 1))
    score, labels, starts = (x.cpu() for x in ops.k_best(to_device(p, device), 40))
    for b, sentence in enumerate(Case(p).sentences):
        ordered = sorted(
            zip(sentence.scores, sentence.all, strict=True), key=lambda x: tie_key(x[1])
        )
        ordered.sort(key=lambda x: -x[0])
        assert len({s for s, _ in ordered[:40]}) < 20  # most of them are ties
        assert score[b].tolist() == [s for s, _ in ordered[:40]]
        paths = as_tensors([y for _, y in ordered[:40]], 5)
        assert torch.equal(labels[b], paths[0]) and torch.equal(starts[b], paths[1])
    best = ops.viterbi(to_device(p, device))
    assert torch.equal(best[1].cpu(), labels[:, 0]) and torch.equal(best[2].cpu(), starts[:, 0])


def test_long_sentences_in_blocks(monkeypatch):
    p = random_potentials([60, 41], 5, 3, seed=43)
    score, labels, starts = ops.k_best(p, 10)
    monkeypatch.setattr("hf_semicrf.ops.host.ranking.BLOCK_ELEMENTS", 200)
    assert all(
        torch.equal(x, y) for x, y in zip(ops.k_best(p, 10), (score, labels, starts), strict=True)
    )
    assert (score.diff(dim=1) <= 0).all()
    for i in range(10):
        own = ops.segmentation_score(p, labels[:, i], starts[:, i])
        assert_close(own, score[:, i], **FLOAT64)
    for b in range(2):
        assert len(torch.cat([labels[b], starts[b]], 1).unique(dim=0)) == 10
    # every sample but those among the ten scores less than the tenth
    drawn = ops.sample(p, 200, torch.Generator().manual_seed(1))
    for y, s in zip(*drawn, strict=True):
        value = ops.segmentation_score(p, y, s)
        among = ((labels == y[:, None]) & (starts == s[:, None])).all(-1).any(-1)
        assert (among | (value < score[:, -1])).all()


def test_max_marginals_are_the_best_scores_through_each_place(case, device):
    p = to_device(case.potentials, device)
    batch, positions, longest, types = p.sizes
    shape = (batch, positions, types)
    token, start, end = (torch.full(shape, INFINITE, dtype=torch.float64) for _ in range(3))
    segment = torch.full((batch, positions, longest, types), INFINITE, dtype=torch.float64)
    for b, sentence in enumerate(case.sentences):
        best = {}
        for score, y in zip(sentence.scores, sentence.all, strict=True):
            for x in y:
                best[x] = max(score, best.get(x, INFINITE))
        for (s, e, c), score in best.items():
            segment[b, s, e - s - 1, c] = score
            for x, at in ((start, s), (end, e - 1), (token, slice(s, e))):
                x[b, at, c] = x[b, at, c].clamp(min=score)
    found = ops.max_marginals(p, segment=True)
    for x, expected in zip(found, (token, start, end, segment), strict=True):
        assert_close(x.cpu(), expected, **FLOAT64)
    assert ops.max_marginals(p).segment is None


def test_max_marginals_with_forbidden_events_and_nan_in_the_padding(device):
    p = random_potentials([5, 3], 3, 3, positions=6, seed=44)
    p.transition[0, 1] = p.duration[1, 2] = p.emission[0, 2, 0] = INFINITE
    padding = torch.arange(6) >= p.lengths[:, None]
    bad = p._replace(emission=p.emission.masked_fill(padding[..., None], torch.nan))
    for q in (p, bad):
        found = ops.max_marginals(to_device(q, device))
        best = ops.viterbi(to_device(q, device))[0]
        inside = ~padding.to(device)
        assert_close(found.token.amax(-1)[inside], best[:, None].expand(2, 6)[inside], **FLOAT64)
        assert found.token[0, 2, 0] == INFINITE
        assert (found.token[~inside] == INFINITE).all()
    for k, x in enumerate(ops.k_best(bad, 5)):
        assert torch.equal(x, ops.k_best(p, 5)[k])


@pytest.mark.parametrize("k", [0, -3, 2.0])
def test_a_count_that_is_none_is_refused(k):
    with pytest.raises(ValueError, match=f"expected k as an int of at least 1, got {k}"):
        ops.k_best(random_potentials([2], 1, 2), k)


@pytest.mark.parametrize(
    "function", [lambda p: ops.k_best(p, 2)[0], lambda p: ops.max_marginals(p)[0]]
)
def test_a_derivative_is_refused(function):
    p = leaves(random_potentials([3], 2, 2, seed=45))
    with pytest.raises(RuntimeError, match="segmentation_score of what k_best"):
        torch.autograd.grad(function(p)[function(p).isfinite()].sum(), list(given(p).values()))


def test_the_ops_keep_their_contract_and_compile_whole():
    p = random_potentials([5, 2], 3, 3, seed=46)
    opcheck(torch.ops.hf_semicrf.k_best.default, (*p, 3, "torch"))
    for with_segment in (False, True):
        opcheck(torch.ops.hf_semicrf.max_marginals.default, (*p, with_segment, "torch"))
    torch.compiler.reset()
    for function in (lambda p: ops.k_best(p, 3), ops.max_marginals):
        found = torch.compile(function, backend="eager", fullgraph=True)(p)
        for x, y in zip(found, function(p), strict=True):
            assert (x is None and y is None) or torch.equal(x, y)
    torch.compiler.reset()
