"""log Z, the gold score and their gradients, against enumeration."""

from __future__ import annotations

import pytest
import torch
from cases import CASES, OPTIONAL, as_tensors, given, leaves, random_potentials, to_device
from oracle import Sentence
from tolerances import CAST, FLOAT64, GRADCHECK, LOG_Z_FLOAT32
from torch.autograd import gradcheck
from torch.testing import assert_close

from hf_semicrf import ops
from hf_semicrf.ops.potentials import Potentials, segment_scores

TINY = {
    "all": random_potentials([3, 2], longest=2, types=2, seed=15),
    "only start": random_potentials([4, 2], longest=3, types=2, given=["start"], seed=16),
    "no segment": random_potentials([3], 2, 2, given=["emission", "start", "end"], seed=17),
    "one position": random_potentials([1], longest=2, types=3, seed=18),
    "one type": random_potentials([4], longest=2, types=1, seed=19),
}


def repeated(p, index, times):
    """One sentence of a batch, `times` times; an expanded view."""
    names = [name for name in (*OPTIONAL, "lengths") if getattr(p, name) is not None]
    rows = {name: getattr(p, name)[index].expand(times, *getattr(p, name)[index].shape)
            for name in names}  # fmt: skip
    return p._replace(**rows)


def some_segmentation(p, pick=5):
    """One segmentation of each sentence of a small batch."""
    choices = [Sentence(p, b).all for b in range(len(p.lengths))]
    return as_tensors([c[pick % len(c)] for c in choices], p.sizes[1])


def check_gold(p, gold, other_p, other_gold):
    """Gold scores, losses and the gradients of both are the same to the bit."""
    for function in (ops.segmentation_score, ops.negative_log_likelihood):
        x, y = leaves(p), leaves(other_p)
        value, expected = function(x, *gold), function(y, *other_gold)
        assert torch.equal(value, expected)
        gradients = torch.autograd.grad(value.sum(), given(x).values())
        others = torch.autograd.grad(expected.sum(), given(y).values())
        assert all(torch.equal(a, b) for a, b in zip(gradients, others, strict=True))


def test_log_partition_is_the_log_sum_over_all_segmentations(case, potentials):
    assert_close(ops.log_partition(potentials).cpu(), case.log_z, **FLOAT64)


def test_the_recording_pass_gives_the_same_log_partition(case, potentials):
    assert_close(ops.log_partition(leaves(potentials)).detach().cpu(), case.log_z, **FLOAT64)


def test_every_score_is_right_and_the_probabilities_sum_to_one(case, potentials):
    log_z = ops.log_partition(potentials)
    for b, sentence in enumerate(case.sentences):
        labels, starts = as_tensors(sentence.all, potentials.sizes[1])
        labels, starts = labels.to(log_z.device), starts.to(log_z.device)
        scores = ops.segmentation_score(repeated(potentials, b, len(labels)), labels, starts)
        expected = torch.tensor(sentence.scores, dtype=torch.float64)
        assert_close(scores.cpu(), expected, **FLOAT64)
        assert_close(float((scores - log_z[b]).exp().sum()), 1.0, **FLOAT64)


def test_negative_log_likelihood_is_log_z_less_the_score(case, potentials):
    segmentation = [s.all[len(s.all) // 2] for s in case.sentences]
    labels, starts = as_tensors(segmentation, potentials.sizes[1])
    labels, starts = labels.to(potentials.lengths.device), starts.to(potentials.lengths.device)
    scores = [s.score(y) for s, y in zip(case.sentences, segmentation, strict=True)]
    expected = case.log_z - torch.tensor(scores, dtype=torch.float64)
    assert_close(ops.negative_log_likelihood(potentials, labels, starts).cpu(), expected, **FLOAT64)


def test_the_gradient_is_the_expected_counts(case, potentials):
    p = leaves(potentials)
    ops.log_partition(p).sum().backward()
    for name, x in given(p).items():
        assert_close(
            x.grad.cpu(), case.gradients[name], **FLOAT64, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_the_gradient_of_each_sentence_has_its_own_weight(case, potentials):
    p, weight = leaves(potentials), torch.arange(1.0, 1 + len(potentials.lengths)) ** 2 - 2
    weight = weight.to(potentials.emission if potentials.emission is not None else p.duration)
    ops.log_partition(p).backward(weight)
    for name in ("emission", "segment", "start", "end"):
        x = getattr(p, name)
        if x is not None:
            scale = weight.cpu().view(-1, *[1] * (x.ndim - 1))
            assert_close(x.grad.cpu(), scale * case.gradients[name], **FLOAT64)


def test_the_gradient_of_the_loss_is_expected_less_observed_counts(case, potentials):
    weight = torch.arange(1.0, 1 + len(potentials.lengths), dtype=torch.float64) ** 2
    weight = weight.to(potentials.lengths.device)
    segmentation = [s.all[len(s.all) // 3] for s in case.sentences]
    gold = [x.to(weight.device) for x in as_tensors(segmentation, potentials.sizes[1])]
    p = leaves(potentials)
    ops.negative_log_likelihood(p, *gold).backward(weight)
    apart = leaves(potentials)
    ops.log_partition(apart).backward(weight)
    ops.segmentation_score(apart, *gold).backward(-weight)
    for name, x in given(p).items():
        assert_close(x.grad, getattr(apart, name).grad, **FLOAT64)


@pytest.mark.parametrize("name", TINY)
def test_gradcheck_of_log_partition(name):
    p = leaves(TINY[name])
    names, tensors = zip(*given(p).items(), strict=True)

    def function(*scores):
        return ops.log_partition(p._replace(**dict(zip(names, scores, strict=True))))

    assert gradcheck(function, tensors, **GRADCHECK)


@pytest.mark.parametrize("name", TINY)
def test_gradcheck_of_the_gold_score_and_the_loss(name):
    p = leaves(TINY[name])
    labels, starts = some_segmentation(TINY[name])
    names, tensors = zip(*given(p).items(), strict=True)

    def function(*scores):
        given_p = p._replace(**dict(zip(names, scores, strict=True)))
        return (
            ops.segmentation_score(given_p, labels, starts),
            ops.negative_log_likelihood(given_p, labels, starts),
        )

    assert gradcheck(function, tensors, **GRADCHECK)


def test_gradcheck_past_the_first_shift_of_the_window():
    p = leaves(random_potentials([40], longest=3, types=2, given=["emission"], seed=12))
    names, tensors = zip(*given(p).items(), strict=True)

    def function(*scores):
        return ops.log_partition(p._replace(**dict(zip(names, scores, strict=True))))

    assert gradcheck(function, tensors, fast_mode=True, **GRADCHECK)


def test_only_what_asks_for_a_gradient_gets_one():
    p = CASES["usual"].potentials
    p = p.map(torch.clone)
    p.transition.requires_grad_()
    ops.log_partition(p).sum().backward()
    assert_close(p.transition.grad, CASES["usual"].gradients["transition"], **FLOAT64)
    assert all(x.grad is None for name, x in given(p).items() if name != "transition")


def test_log_partition_without_gradients_records_nothing():
    p = CASES["usual"].potentials
    assert not ops.log_partition(p).requires_grad
    with torch.no_grad():
        assert not ops.log_partition(leaves(p)).requires_grad


@pytest.mark.parametrize("function", ["log_partition", "negative_log_likelihood"])
def test_a_second_derivative_is_refused(function):
    p = leaves(CASES["usual"].potentials)
    gold = () if function == "log_partition" else some_segmentation(CASES["usual"].potentials)
    value = getattr(ops, function)(p, *gold).sum()
    (gradient,) = torch.autograd.grad(value, p.emission, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivative"):
        torch.autograd.grad((gradient**2).sum(), p.emission)


def test_float32_holds_at_twenty_thousand_positions():
    p = random_potentials([20000] * 3, 4, 3, given=["emission", "start"], seed=13)
    p = p._replace(emission=p.emission + torch.tensor([0.0, 50.0, -50.0]).view(3, 1, 1))
    exact = ops.log_partition(p)
    assert_close(ops.log_partition(p.map(torch.Tensor.float)).double(), exact, **LOG_Z_FLOAT32)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_low_precision_is_computed_in_float32(dtype, device):
    low = leaves(
        to_device(CASES["usual"].potentials, device).map(lambda x: x.to(getattr(torch, dtype)))
    )
    high = leaves(low.map(torch.Tensor.float))
    labels, starts = (x.to(device) for x in some_segmentation(CASES["usual"].potentials))
    for function, gold in (
        (ops.log_partition, ()),
        (ops.segmentation_score, (labels, starts)),
        (ops.negative_log_likelihood, (labels, starts)),
    ):
        value = function(low, *gold)
        assert value.dtype == torch.float32
        assert torch.equal(value, function(high, *gold))
    ops.log_partition(low).sum().backward()
    ops.log_partition(high).sum().backward()
    for x, y in zip(given(low).values(), given(high).values(), strict=True):
        assert x.grad.dtype == x.dtype
        assert_close(x.grad.float(), y.grad, **CAST[dtype])


def test_mixed_dtypes_take_the_widest():
    p = CASES["usual"].potentials
    mixed = p._replace(emission=p.emission.bfloat16(), start=p.start.float())
    assert ops.log_partition(mixed).dtype == torch.float64
    mixed = mixed.map(lambda x: x if x.dtype == torch.bfloat16 else x.float())
    assert ops.log_partition(mixed).dtype == torch.float32


def test_the_loss_keeps_its_digits_where_log_z_and_the_score_are_large():
    p = random_potentials([1000], 3, 2, given=["emission"], seed=14)
    p = p._replace(emission=p.emission + 1e3).map(torch.Tensor.float)
    _, labels, starts = ops.viterbi(p)
    exact = ops.negative_log_likelihood(p.map(torch.Tensor.double), labels, starts)
    log_z = ops.log_partition(p.map(torch.Tensor.double))
    loss = ops.negative_log_likelihood(p, labels, starts).double()
    assert abs(loss - exact) < LOG_Z_FLOAT32["rtol"] * log_z
    assert 0 < loss < 1e-3 * log_z


@pytest.mark.parametrize("form", ["transposed", "expanded", "sliced"])
def test_any_strides_give_the_same(form):
    p = CASES["usual"].potentials
    emission = p.emission[:1].expand_as(p.emission) if form == "expanded" else p.emission
    plain = p._replace(emission=emission.contiguous())
    if form == "transposed":
        odd = plain.map(lambda x: x.mT.contiguous().mT if x.ndim > 1 else x.clone())
    elif form == "sliced":
        odd = plain.map(lambda x: torch.stack([x, x.neg()], -1)[..., 0])
    else:
        odd = plain.map(torch.clone)._replace(emission=plain.emission[:1].expand_as(emission))
    odd, plain = odd.map(torch.Tensor.requires_grad_), leaves(plain)
    value, expected = ops.log_partition(odd), ops.log_partition(plain)
    assert_close(value, expected, **FLOAT64)
    grads = torch.autograd.grad(value.sum(), given(odd).values())
    for x, y in zip(grads, torch.autograd.grad(expected.sum(), given(plain).values()), strict=True):
        assert_close(x, y, **FLOAT64)


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.int16])
def test_lengths_and_labels_of_any_integer_dtype(dtype):
    p = CASES["usual"].potentials
    narrow = p._replace(lengths=p.lengths.to(dtype))
    labels, starts = some_segmentation(p)
    labels = labels.clamp(min=0)
    assert torch.equal(ops.log_partition(narrow), ops.log_partition(p))
    check_gold(narrow, (labels.to(dtype), starts), p, (labels, starts))


def test_what_stands_past_a_length_in_a_segmentation_changes_nothing():
    p = CASES["padded"].potentials
    labels, starts = some_segmentation(p)
    padding = torch.arange(p.sizes[1]) >= p.lengths[:, None]
    junk = labels.masked_fill(padding, 99), starts | padding
    check_gold(p, junk, p, (labels, starts))


@pytest.mark.parametrize("name", ["usual", "longer than the sentence", "only segment", "padded"])
@pytest.mark.parametrize("block", [1, 3, 20])
def test_segment_scores_block_by_block(name, block):
    """The one definition of a segment's score, at every start, length and type that fits."""
    p: Potentials = CASES[name].potentials._replace(
        lengths=torch.tensor([CASES[name].potentials.sizes[1]])
    )
    batch, positions, longest, types = p.sizes
    seen = set()
    for first in range(0, positions, block):
        last = min(first + block, positions)
        for less_one, (lo, scores) in enumerate(segment_scores(p, first, last)):
            assert lo == max(first, less_one) and scores.shape == (batch, last - lo, types)
            for t in range(lo, last):
                seen.add((t - less_one, t + 1))
                for b in range(batch):
                    sentence = Sentence(p._replace(lengths=p.lengths.expand(batch)), b)
                    for kind in range(types):
                        expected = sentence.segment_score(t - less_one, t + 1, kind)
                        assert float(scores[b, t - lo, kind]) == pytest.approx(expected, abs=1e-12)
    assert seen == {
        (s, e) for s in range(positions) for e in range(s + 1, positions + 1) if e - s <= longest
    }


@pytest.mark.parametrize("apart", [100.0, 1e3, 1e8])
def test_a_type_that_begins_far_below_may_be_the_one_that_ends(apart):
    p = ops.Potentials(
        start=torch.tensor([[[0.25, -0.5]]], dtype=torch.float64),
        duration=torch.zeros(3, 2, dtype=torch.float64),
        transition=torch.zeros(2, 2, dtype=torch.float64),
        initial=torch.tensor([apart, 0.0], dtype=torch.float64),
        final=torch.tensor([0.0, 3 * apart], dtype=torch.float64),
        lengths=torch.tensor([1]),
    )
    initial = p.initial.requires_grad_()
    log_z = ops.log_partition(p)
    assert float(log_z.detach()) == pytest.approx(3 * apart - 0.5, rel=1e-12)
    assert torch.autograd.grad(log_z.sum(), initial)[0].tolist() == [pytest.approx(0), 1]
    assert ops.marginals(p).token[0, 0].tolist() == [pytest.approx(0), 1]


def test_large_scores_that_cancel_leave_the_small_ones():
    huge = 3e38
    p = ops.Potentials(
        emission=torch.tensor([[[-huge, -huge], [0.5, 0.25]], [[-huge, -huge], [0.5, 0.25]]]),
        duration=torch.tensor([[0.0, 1.0]]),
        transition=torch.zeros(2, 2),
        initial=torch.tensor([huge, huge]),
        final=torch.tensor([2.0, 3.5]),
        lengths=torch.tensor([1, 2]),
    )
    small = p._replace(emission=p.emission.clamp(min=0), initial=torch.zeros(2))
    assert_close(ops.log_partition(p), ops.log_partition(small))


def test_scores_up_to_the_largest_are_told_apart_however_far_from_the_best():
    p = ops.Potentials(
        emission=torch.zeros(1, 1, 2, dtype=torch.float64),
        duration=torch.tensor([[-torch.inf, 0.5]], dtype=torch.float64),
        transition=torch.zeros(2, 2, dtype=torch.float64),
        initial=torch.tensor([1.9e9, -1.9e9], dtype=torch.float64),
        final=torch.zeros(2, dtype=torch.float64),
        lengths=torch.tensor([1]),
    )
    assert ops.log_partition(p).tolist() == [-1.9e9 + 0.5]
