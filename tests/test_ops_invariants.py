"""What must change nothing: padding, the order of the batch, running again, symmetries."""

from __future__ import annotations

import torch
from cases import given, leaves, random_potentials, to_device
from tolerances import FLOAT64
from torch.nn.functional import pad
from torch.testing import assert_close

from hf_semicrf import ops

LENGTHS = [30, 1, 17, 8]


def everything(p):
    """Every value and gradient of a batch, one tensor a name; sums over sentences last."""
    p = leaves(p)
    log_z = ops.log_partition(p)
    log_z.sum().backward()
    score, labels, starts = ops.viterbi(p.map(torch.Tensor.detach))
    constants = p.map(torch.Tensor.detach)
    token, start, end, _ = ops.marginals(constants)
    values = {"log_z": log_z.detach(), "score": score, "labels": labels, "starts": starts}
    values |= {"token": token, "from": start, "to": end, "entropy": ops.entropy(constants)}
    return values, {name: x.grad for name, x in given(p).items()}


PER_SENTENCE = ("emission", "segment", "start", "end")


def batch(device, dtype=torch.float64):
    p = random_potentials(LENGTHS, 5, 3, seed=70)
    return to_device(p.map(lambda x: x.to(dtype)), device)


def test_the_same_bits_twice(device):
    p = batch(device, torch.float32)
    first, second = everything(p), everything(p)
    for x, y in zip(first, second, strict=True):
        assert all(torch.equal(x[name], y[name]) for name in x)


def test_more_padding_changes_nothing(device):
    p = batch(device)
    more = p._replace(
        **{k: pad(getattr(p, k), (0, 0, 0, 13)) for k in ("emission", "start", "end")},
        segment=pad(p.segment, (0, 0, 0, 0, 0, 13)),
    )
    (values, grads), (padded, padded_grads) = everything(p), everything(more)
    for name, x in values.items():
        y = padded[name] if x.ndim == 1 else padded[name][:, : x.shape[1]]
        assert_close(y, x, **FLOAT64)
    for name, x in grads.items():
        y = padded_grads[name]
        assert_close(y[:, : x.shape[1]] if name in PER_SENTENCE else y, x, **FLOAT64)
        assert name not in PER_SENTENCE or not y[:, x.shape[1] :].any()


def test_the_order_of_the_batch_changes_nothing(device):
    p, order = batch(device), torch.tensor([2, 0, 3, 1], device=device)
    shuffled = p._replace(
        **{k: getattr(p, k)[order] for k in PER_SENTENCE}, lengths=p.lengths[order]
    )
    (values, grads), (moved, moved_grads) = everything(p), everything(shuffled)
    for name, x in values.items():
        assert_close(moved[name], x[order], **FLOAT64)
    for name, x in grads.items():
        assert_close(moved_grads[name], x[order] if name in PER_SENTENCE else x, **FLOAT64)


def test_a_sentence_alone_is_the_sentence_in_a_batch(device):
    p = batch(device)
    values, grads = everything(p)
    shared = {name: torch.zeros_like(x) for name, x in grads.items() if name not in PER_SENTENCE}
    for b, n in enumerate(LENGTHS):
        alone = p._replace(
            **{k: getattr(p, k)[b : b + 1, :n] for k in PER_SENTENCE}, lengths=p.lengths[b : b + 1]
        )
        own, own_grads = everything(alone)
        for name, x in own.items():
            y = values[name][b : b + 1]
            assert_close(y if x.ndim == 1 else y[:, :n], x, **FLOAT64)
        for name in PER_SENTENCE:
            assert_close(grads[name][b : b + 1, :n], own_grads[name], **FLOAT64)
        for name in shared:
            shared[name] += own_grads[name]
    for name, x in shared.items():
        assert_close(grads[name], x, **FLOAT64)


def test_read_from_right_to_left_it_is_the_same_distribution():
    p = random_potentials([23], 4, 3, given=["emission", "start", "end"], seed=71)
    mirrored = p._replace(
        emission=p.emission.flip(1),
        start=p.end.flip(1),
        end=p.start.flip(1),
        transition=p.transition.T,
        initial=p.final,
        final=p.initial,
    )
    assert_close(ops.log_partition(mirrored), ops.log_partition(p), **FLOAT64)
    assert_close(ops.marginals(mirrored).token.flip(1), ops.marginals(p).token, **FLOAT64)
    assert torch.equal(ops.viterbi(mirrored)[1].flip(1), ops.viterbi(p)[1])


def test_the_names_of_the_types_do_not_matter():
    p, order = random_potentials([23, 9], 4, 3, seed=72), torch.tensor([2, 0, 1])
    renamed = p.map(lambda x: x[..., order])
    renamed = renamed._replace(transition=p.transition[order][:, order])
    assert_close(ops.log_partition(renamed), ops.log_partition(p), **FLOAT64)
    assert_close(ops.marginals(renamed).token, ops.marginals(p).token[..., order], **FLOAT64)


def test_the_same_score_in_another_potential_is_the_same_model():
    """Emission, start and end scores written into the segment scores, and None for zeros."""
    p = random_potentials([9, 4], 3, 2, seed=73)
    batch, positions, longest, types = p.sizes
    segment = p.segment + p.start[:, :, None] + p.duration
    n = torch.arange(positions)
    for less_one in range(longest):
        ahead = [(n + k).clamp(max=positions - 1) for k in range(less_one + 1)]
        segment[:, :, less_one] += p.end[:, ahead[-1]]
        segment[:, :, less_one] += sum(p.emission[:, index] for index in ahead)
    dense = ops.Potentials(
        segment=segment,
        duration=torch.zeros_like(p.duration),
        **{k: getattr(p, k) for k in ("transition", "initial", "final", "lengths")},
    )
    assert_close(ops.log_partition(dense), ops.log_partition(p), **FLOAT64)
    for x, y in zip(ops.marginals(dense, True), ops.marginals(p, True), strict=True):
        assert_close(x, y, **FLOAT64)


def test_nothing_given_is_written_to(device):
    p = batch(device)
    before = p.map(torch.clone)
    lengths = p.lengths.clone()
    _, labels, starts = ops.viterbi(p)
    gold = labels.clone(), starts.clone()
    everything(p)
    ops.negative_log_likelihood(leaves(p), labels, starts).sum().backward()
    ops.to_edge(p)
    assert all(
        torch.equal(x, y) for x, y in zip(given(p).values(), given(before).values(), strict=True)
    )
    assert torch.equal(p.lengths, lengths)
    assert torch.equal(labels, gold[0]) and torch.equal(starts, gold[1])
