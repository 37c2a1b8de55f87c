"""One test for each mistake that implementations of semi-Markov CRFs are known to make."""

from __future__ import annotations

import math

import pytest
import torch
from cases import CASES, Case, as_tensors, given, leaves, random_potentials
from oracle import Sentence
from tolerances import FLOAT64
from torch.profiler import ProfilerActivity, profile
from torch.testing import assert_close

from hf_semicrf import ops


def test_no_transition_into_the_first_segment():
    """Counted in Z and not in the gold score, it makes the loss no likelihood."""
    p = random_potentials([3], 3, 3, seed=90)
    p = leaves(p._replace(transition=p.transition + 7))
    labels, starts = torch.tensor([[1, 1, 1]]), torch.tensor([[True, False, False]])
    score = ops.segmentation_score(p, labels, starts)
    (gradient,) = torch.autograd.grad(score, p.transition)
    assert not gradient.any()
    (gradient,) = torch.autograd.grad(ops.log_partition(p), p.transition)
    expected = torch.tensor(Sentence(p, 0).transition_counts(), dtype=torch.float64)
    assert_close(gradient, expected, **FLOAT64)
    total = 0.0
    for y in Sentence(p, 0).all:
        total += math.exp(-ops.negative_log_likelihood(p, *as_tensors([y], 3)).item())
    assert math.isclose(total, 1.0, rel_tol=1e-10)


@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_one_index_for_a_duration_everywhere(length):
    """Off by one between Z and gold, the model learns lengths that are one too long."""
    p = random_potentials([12], 4, 2, seed=91, scale=0.1)
    p.duration[length - 1] += 50
    _, labels, starts = ops.viterbi(p)
    assert torch.equal(starts[0], torch.arange(12) % length == 0)
    leaf = leaves(p)
    for value in (ops.log_partition(leaf), ops.segmentation_score(leaf, labels, starts)):
        (gradient,) = torch.autograd.grad(value.sum(), leaf.duration)
        assert_close(
            gradient.sum(1),
            torch.zeros(4).double().index_fill(0, torch.tensor(length - 1), 12 / length),
            **FLOAT64,
        )
    edge = ops.to_edge(p)
    assert float(edge[0, 1, length].mean()) > 45  # index 0 of the dense durations is unused
    segment = ops.marginals(p, segment=True).segment
    assert_close(float(segment[:, :, length - 1].sum()), 12 / length, **FLOAT64)


def test_durations_are_learnt_as_they_are():
    """Fitted to segments of three words, a model without other scores expects three words."""
    zeros = random_potentials([12], 5, 1, given=["emission"], seed=92).map(torch.zeros_like)
    duration = torch.zeros(5, 1, dtype=torch.float64, requires_grad=True)
    labels, starts = torch.zeros(1, 12, dtype=torch.long), (torch.arange(12) % 3 == 0)[None]
    for _ in range(60):
        loss = ops.negative_log_likelihood(zeros._replace(duration=duration), labels, starts)
        (gradient,) = torch.autograd.grad(loss.sum(), duration)
        duration = (duration - 0.5 * gradient).detach().requires_grad_()
    assert loss.item() < 0.05
    assert torch.equal(ops.viterbi(zeros._replace(duration=duration.detach()))[2], starts)


def test_scores_are_not_centred():
    """A constant moves log Z by its size, and a bias gets its gradient."""
    p = random_potentials([6, 4], 3, 3, seed=93)
    shift = torch.tensor([3.0, -2.0], dtype=torch.float64)
    moved = p._replace(emission=p.emission + shift[:, None, None])
    assert_close(ops.log_partition(moved), ops.log_partition(p) + shift * p.lengths, **FLOAT64)
    _, labels, starts = ops.viterbi(p)
    assert_close(
        ops.segmentation_score(moved, labels, starts),
        ops.segmentation_score(p, labels, starts) + shift * p.lengths,
        **FLOAT64,
    )
    bias = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    biased = p._replace(emission=p.emission + bias)
    (gradient,) = torch.autograd.grad(ops.log_partition(biased).sum(), bias)
    assert_close(gradient, ops.marginals(p).token.sum((0, 1)), **FLOAT64)
    assert_close(float(gradient.sum()), float(p.lengths.sum()), **FLOAT64)
    # a constant start score counts segments, so it changes which segmentation is likely
    counted = p._replace(start=p.start + 5)
    assert int(ops.viterbi(counted)[2].sum()) > int(starts.sum())


def test_the_number_of_positions_is_a_run_time_value():
    """As a compile-time constant, each padded length would compile anew."""
    torch.compiler.reset()
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    @torch.compile(backend=backend, fullgraph=True, dynamic=True)
    def loss(p, labels, starts):
        return ops.negative_log_likelihood(p, labels, starts).sum()

    for batch, positions in ((2, 5), (3, 7), (4, 11), (2, 33), (5, 64)):
        p = leaves(random_potentials([positions] * batch, 3, 3, seed=94))
        _, labels, starts = ops.viterbi(p.map(torch.Tensor.detach))
        value = loss(p, labels, starts)
        value.backward()
        expected = ops.negative_log_likelihood(p, labels, starts).sum()
        assert_close(value, expected, **FLOAT64)
    torch.compiler.reset()
    assert len(graphs) == 1


def test_gradients_have_the_same_bits_in_every_run():
    """Atomics and missing barriers make them vary."""
    p = random_potentials([64] * 8, 6, 5, seed=95).map(torch.Tensor.float)

    def gradients():
        leaf = leaves(p)
        ops.log_partition(leaf).sum().backward()
        return [x.grad for x in given(leaf).values()]

    first = gradients()
    for _ in range(5):
        assert all(torch.equal(x, y) for x, y in zip(first, gradients(), strict=True))


def test_marginals_are_probabilities_not_a_softmax_of_gradients():
    """A certain type has probability 1; softmax of a gradient would give it e / (e + C - 1)."""
    p = random_potentials([6], 3, 3, seed=96, scale=1.0)
    p.emission[0, 2, 1] += 60
    token = ops.marginals(p).token
    assert_close(float(token[0, 2, 1]), 1.0, **FLOAT64)
    assert_close(token, Case(p).gradients["emission"], **FLOAT64)


def transfers(p):
    """How often decoding waits for a value on the host."""
    with profile(activities=[ProfilerActivity.CPU]) as trace:
        ops.viterbi(p)
    return sum(e.count for e in trace.key_averages() if e.key == "aten::_local_scalar_dense")


def test_decoding_does_not_read_values_one_by_one():
    small, large = (random_potentials([n] * n, 4, 3, seed=97) for n in (4, 40))
    assert transfers(large) == transfers(small) < 10


def test_predictions_are_tensors_of_a_fixed_shape():
    p = CASES["padded"].potentials
    for x in ops.viterbi(p)[1:]:
        assert isinstance(x, torch.Tensor) and x.shape == p.sizes[:2]


@pytest.mark.parametrize(
    ("labels", "starts", "message"),
    [
        ([1, -100, 1], [True, False, False], "labels in 0..2, got -100"),  # inside a sentence
        ([-1, 1, 1], [False, True, False], "labels in 0..2, got -1"),  # padding on the left
        ([1, 3, 1], [True, True, True], "labels in 0..2, got 3"),  # out of range
        ([1, 1, 1], [False, True, False], "start at position 0"),
    ],
)
def test_what_is_no_segmentation_is_refused(labels, starts, message):
    p = random_potentials([3], 3, 3, seed=98)
    with pytest.raises(ValueError, match=message):
        ops.negative_log_likelihood(p, torch.tensor([labels]), torch.tensor([starts]))


def test_a_sentence_of_no_words_is_refused():
    p = random_potentials([3, 2], 3, 3, seed=99)
    with pytest.raises(ValueError, match=r"lengths in 1\.\.3, got 0\.\.3"):
        ops.log_partition(p._replace(lengths=torch.tensor([3, 0])))


def test_a_gold_segment_longer_than_allowed_never_looks_likely():
    """Scored outside the support of Z, its loss would fall without bound."""
    p = leaves(random_potentials([4], 2, 2, seed=100))
    labels, starts = torch.ones(1, 4, dtype=torch.long), torch.tensor([[True, False, False, False]])
    assert ops.negative_log_likelihood(p, labels, starts).item() == torch.inf


def test_neighbouring_segments_of_one_type_stay_two():
    p = random_potentials([4], 4, 2, seed=101).map(torch.zeros_like)
    p.start[0, [0, 2], 1] = 9.0
    p.emission[..., 1] = 1.0
    p.duration[0] = -9.0
    _, labels, starts = ops.viterbi(p)
    assert labels.tolist() == [[1, 1, 1, 1]]
    assert starts.tolist() == [[True, False, True, False]]
