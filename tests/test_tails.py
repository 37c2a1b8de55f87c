"""Potentials whose lengths follow a tail, against an enumeration of the law written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from cases import random_potentials
from enumeration import Enumerated
from tolerances import FLOAT64, GRADCHECK
from torch import Tensor
from torch.library import opcheck
from torch.testing import assert_close

from hf_semicrf import ops
from hf_semicrf.export import numpy_decoder
from hf_semicrf.ops import Potentials, TailedPotentials
from hf_semicrf.ops.host import tail_scan, tailed
from hf_semicrf.ops.tails import expanded

# order of the tail, where it begins, and which scores of positions there are
CASES = {
    "geometric": (1, 2, ("emission", "start", "end")),
    "second order": (2, 2, ("emission", "start", "end")),
    "third order, from one": (3, 1, ("emission", "end")),
    "only emissions": (1, 1, ("emission",)),
    "only starts": (2, 3, ("start",)),
    "longer than the sentence": (1, 9, ("emission", "start")),
    "forbidden lengths": (1, 2, ("emission", "start", "end")),
    "forbidden steps": (2, 2, ("emission", "start", "end")),
}


def written(p: TailedPotentials) -> Potentials:
    """The law by its formula, length by length, in Python's own numbers."""
    longest, types = p.duration.shape
    rows = p.duration.tolist()
    for k in range(1, p.sizes[1] - longest + 1):
        ways = math.log(math.comb(k + p.order - 2, p.order - 1))
        enter, stay = p.enter.tolist(), p.stay.tolist()
        rows.append([
            enter[c] + ways + (sum([stay[c]] * (k - 1)) if k > 1 else 0.0) for c in range(types)
        ])  # fmt: skip
    return p.body._replace(duration=torch.tensor(rows, dtype=torch.float64))


def tailed_potentials(name: str, lengths=(6, 4), types: int = 2, scale: float = 1.0):
    order, longest, given = CASES[name]
    p = random_potentials(list(lengths), longest, types, given=given, seed=len(name), scale=scale)
    generator = torch.Generator().manual_seed(order)
    enter, stay = torch.randn(2, types, generator=generator, dtype=torch.float64)
    if name == "forbidden lengths":  # a shortest length, and a type without a tail
        p.duration[0, 1] = -torch.inf
        p.duration[1:, 0] = enter[0] = -torch.inf
    if name == "forbidden steps":
        p.transition[1, 1] = p.emission[0, 2, 0] = p.start[1, 2, 1] = stay[0] = -torch.inf
    return TailedPotentials(p, enter, stay, order)


def counts(p: TailedPotentials, sentences: list[Enumerated]) -> dict[str, Tensor]:
    """The expected counts by enumeration: the gradient of the sum of log Z."""
    batch, positions, longest, types = p.sizes
    total = {name: torch.zeros(x.shape, dtype=torch.float64) for name, x in p.scores().items()}
    for b, sentence in enumerate(sentences):
        found = {k: torch.from_numpy(v) for k, v in sentence.counts().items()}
        n = sentence.positions
        for name in ("emission", "start", "end"):
            if name in total:
                total[name][b, :n] = found[name]
        for name in ("transition", "initial", "final"):
            total[name] += found[name]
        total["duration"] += found["duration"][:longest]
        total["enter"] += found["duration"][longest:].sum(0)
        more = torch.arange(len(found["duration"][longest:]), dtype=torch.float64)[:, None]
        total["stay"] += (found["duration"][longest:] * more).sum(0)
    return total


@pytest.fixture(params=CASES)
def case(request):
    p = tailed_potentials(request.param)
    plain = written(p)
    return p, plain, [Enumerated(plain, b) for b in range(len(p.lengths))]


def test_the_law_written_out(case):
    p, plain, _ = case
    assert_close(ops.written_out(p).duration, plain.duration, **FLOAT64)


def test_log_partition_and_its_gradient(case):
    p, _, sentences = case
    leaf = p.map(lambda x: x.clone().requires_grad_())
    log_z = ops.log_partition(leaf)
    assert_close(log_z, torch.tensor([s.log_z for s in sentences], dtype=torch.float64), **FLOAT64)
    names, scores = zip(*leaf.scores().items(), strict=True)
    expected = counts(p, sentences)
    for name, x in zip(names, torch.autograd.grad(log_z.sum(), scores), strict=True):
        assert_close(x, expected[name], **FLOAT64, msg=lambda m, name=name: f"{name}: {m}")


def test_both_ways_to_step_and_the_expanded_scan_agree(case, monkeypatch):
    p = case[0]
    log_z, state = tail_scan.scan(p)
    monkeypatch.setattr(tail_scan, "LIMIT", 0.0)
    others = [tail_scan.scan(p), tail_scan._expanded_scan(p)]
    for other_log_z, other in others:
        assert_close(other_log_z, log_z, **FLOAT64)
        for name, x in state._asdict().items():
            y = getattr(other, name)
            assert_close(y, x, **FLOAT64, msg=lambda m, name=name: f"{name}: {m}")


def test_marginals_and_posteriors_of_segments(case):
    p, plain, sentences = case
    found = ops.marginals(p)
    spans = torch.tensor([[a, b] for a in range(6) for b in range(a, 7)]).expand(2, -1, 2)
    spans = torch.where((spans <= p.sizes[1]), spans, 0)
    of_spans = ops.segment_marginals(p, spans)
    for b, sentence in enumerate(sentences):
        expected, n = sentence.counts(), sentence.positions
        for name in ("emission", "start", "end"):
            x = getattr(found, {"emission": "token"}.get(name, name))[b]
            assert_close(x[:n], torch.from_numpy(expected[name]), **FLOAT64)
            assert not x[n:].any()
        segment = torch.from_numpy(expected["segment"])
        for (begin, stop), x in zip(spans[b].tolist(), of_spans[b], strict=True):
            y = segment[begin, stop - begin - 1] if begin < stop <= n else torch.zeros_like(x)
            assert_close(x, y, **FLOAT64)
    labels, starts = ops.best_segmentation(p)
    posteriors = ops.decoded_posteriors(p, labels, starts)
    assert_close(
        posteriors,
        ops.at_segments(ops.marginals(plain, segment=True).segment, labels, starts, p.lengths),
        **FLOAT64,
    )


def test_best_segmentations(case):
    p, _, sentences = case
    score, labels, starts = ops.viterbi(p)
    scores, many_labels, many_starts = ops.k_best(p, 3)
    for b, sentence in enumerate(sentences):
        assert_close(score[b].item(), sentence.best_score, rtol=1e-12, atol=1e-12)
        at = sentence.index_of(labels[b], starts[b])
        assert sentence.below[at] == pytest.approx(0, abs=1e-12)
        ranked = np.sort(sentence.below)[::-1][:3] + sentence.best_score
        assert_close(scores[b].numpy()[: len(ranked)], ranked, rtol=1e-10, atol=1e-10)
        for k in range(3):
            if scores[b, k] > -torch.inf:
                at = sentence.index_of(many_labels[b, k], many_starts[b, k])
                assert sentence.below[at] + sentence.best_score == pytest.approx(scores[b, k])
    assert_close(ops.segmentation_score(p, labels.clamp(min=0), starts), score, **FLOAT64)


def test_max_marginals_entropy_and_divergence(case):
    p, plain, sentences = case
    for x, y in zip(ops.max_marginals(p)[:3], ops.max_marginals(plain)[:3], strict=True):
        assert_close(x, y, **FLOAT64)
    assert_close(
        ops.entropy(p), torch.tensor([s.entropy for s in sentences], dtype=torch.float64), **FLOAT64
    )
    q = p.map(lambda x: x / 2)
    assert_close(ops.kl_divergence(p, q), ops.kl_divergence(plain, written(q)), **FLOAT64)
    assert_close(
        ops.log_partition_difference(p, q),
        ops.log_partition(plain) - ops.log_partition(written(q)),
        **FLOAT64,
    )


def test_the_numpy_decoder(case):
    p, _, sentences = case
    arrays = {name: x.numpy() for name, x in p.scores().items()} | {"order": p.order}
    found = numpy_decoder.decode(arrays, p.lengths.numpy(), None)
    labels, starts = ops.best_segmentation(p)
    assert_close(torch.from_numpy(found.labels), labels)
    assert_close(torch.from_numpy(found.starts), starts)
    posteriors = ops.decoded_posteriors(p, labels, starts)
    assert_close(torch.from_numpy(found.posteriors), posteriors, **FLOAT64)


def test_samples_have_the_marginals():
    p = tailed_potentials("second order", lengths=(6,))
    labels, starts = ops.sample(p, 4000, torch.Generator().manual_seed(0))
    found = ops.marginals(p)
    one_hot = torch.nn.functional.one_hot(labels[:, 0], 2).double()
    # five standard deviations of a mean of 4,000
    assert_close(one_hot.mean(0), found.token[0], rtol=0, atol=0.04)
    begun = (one_hot * starts[:, 0, :, None]).mean(0)
    assert_close(begun, found.start[0], rtol=0, atol=0.04)


def test_gradients_of_the_loss_of_marginals_and_of_the_entropy():
    p = tailed_potentials("second order", lengths=(3, 2))
    names = list(p.scores())
    labels, starts = ops.viterbi(p)[1:]
    labels = labels.clamp(min=0)

    def of(function):
        def call(*scores):
            return function(rebuilt(p, dict(zip(names, scores, strict=True))))

        return call

    scores = [x.clone().requires_grad_() for x in p.scores().values()]
    functions = [
        lambda q: ops.negative_log_likelihood(q, labels, starts),
        lambda q: torch.cat([x[0, :2, 0] for x in ops.marginals(q)[:3]]),
        ops.entropy,
    ]
    for function in functions:
        assert torch.autograd.gradcheck(of(function), scores, **GRADCHECK)


def rebuilt(p: TailedPotentials, scores: dict[str, Tensor]) -> TailedPotentials:
    body = p.body._replace(**{k: x for k, x in scores.items() if k not in ("enter", "stay")})
    return TailedPotentials(body, scores["enter"], scores["stay"], p.order)


def test_the_operations_trace():
    p = tailed_potentials("geometric").map(lambda x: x.requires_grad_())
    inputs = (*p.body, p.enter, p.stay, p.order)
    opcheck(tailed.tail_scanned, (*inputs, "torch"))
    q = p.map(Tensor.detach)
    opcheck(tailed.tail_best, (*q.body, q.enter, q.stay, q.order, "torch"))
    labels, starts = ops.viterbi(p)[1:]

    @torch.compile(fullgraph=True, backend="aot_eager")
    def loss(p):
        return ops.negative_log_likelihood(p, labels.clamp(min=0), starts).sum()

    names = list(p.scores().values())
    found = torch.autograd.grad(loss(p), names)
    expected = torch.autograd.grad(
        ops.negative_log_likelihood(p, labels.clamp(min=0), starts).sum(), names
    )
    for x, y in zip(found, expected, strict=True):
        assert_close(x, y, **FLOAT64)


@pytest.mark.parametrize("size", [1e4, 1e7, -1e15])
def test_scores_of_any_size(size):
    p = tailed_potentials("geometric")
    p.body.emission[0, 1, 0] = size
    p.body.end[1, 2, 1] = -abs(size)
    plain = written(p)
    sentences = [Enumerated(plain, b) for b in range(2)]
    expected = torch.tensor([s.log_z for s in sentences], dtype=torch.float64)
    assert_close(ops.log_partition(p), expected, rtol=1e-12, atol=1e-8)
    assert_close(ops.viterbi(p)[0], ops.viterbi(plain)[0], rtol=1e-12, atol=1e-8)
    with pytest.raises(ops.ScoreError, match="enter"):
        ops.log_partition(p._replace(enter=p.enter * torch.nan))


def test_a_long_segment_is_found_and_scored():
    """One segment of 3,000 positions, whose tail began at 4: more than any window holds."""
    positions, types = 3100, 2
    p = random_potentials([positions], 4, types, given=("emission",), scale=0.1)
    for x in (p.duration, p.transition, p.initial, p.final):
        x.zero_()
    p.duration[1:, 0] = -torch.inf
    p.transition[1, 1] = -20.0
    p.emission[:, :50, 0] += 20.0
    p.emission[:, 50:3050, 1] += 20.0
    p.emission[:, 3050:, 0] += 20.0
    for order in (1, 2):
        tail = TailedPotentials(
            p, torch.tensor([-torch.inf, -1.0]).double(), torch.full((2,), -0.01).double(), order
        )
        score, labels, starts = ops.viterbi(tail)
        begins = starts[0].nonzero().flatten().tolist()
        assert begins == [*range(51), *range(3050, positions)] and labels[0, 60] == 1
        assert score > -torch.inf and score <= ops.log_partition(tail)
        assert ops.decoded_posteriors(tail, labels, starts)[0, 60] > 0.5
        assert_close(ops.log_partition(expanded(tail)), ops.log_partition(tail), rtol=1e-12, atol=0)


def test_what_has_no_tail_refuses_one():
    p = tailed_potentials("geometric")
    with pytest.raises(TypeError, match="this operation has no tail"):
        ops.to_edge(p)
    with pytest.raises(ValueError, match="expected segment=False with a tail"):
        ops.marginals(p, segment=True)
    with pytest.raises(ValueError, match="expected segment=False with a tail"):
        ops.max_marginals(p, segment=True)
    with pytest.raises(TypeError, match="this operation has no tail"):
        ops.kl_divergence(p, p.body)
    with pytest.raises(ValueError, match="expected no segment scores with a tail"):
        segment = torch.zeros(*p.sizes[:2], *p.duration.shape, dtype=torch.float64)
        ops.log_partition(p._replace(body=p.body._replace(segment=segment)))
    with pytest.raises(ValueError, match=r"expected stay of shape \[2\]"):
        ops.log_partition(p._replace(stay=p.stay[:1]))
    with pytest.raises(ValueError, match="expected tail_order as an int"):
        ops.log_partition(p._replace(order=0))
