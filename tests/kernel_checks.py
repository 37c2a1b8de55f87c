"""What the factored kernels must do, on any device: run by test_kernels.

Triton reads TRITON_INTERPRET when it is imported, so that on the CPU this runs as a program of its
own, `python kernel_checks.py`, which prints one JSON line a check: its name, and what was wrong.
"""

from __future__ import annotations

import json
import math
import sys
import traceback
from contextlib import ExitStack, contextmanager
from unittest import mock

import torch
from cases import given, leaves, random_potentials, to_device
from families import LOWEST, Checked, compiled
from kernel_crowd import IN_THE_INTERPRETER, ON_A_GPU
from tail_kernel_checks import CHECKS as OF_TAILS
from tolerances import CAST, FLOAT64, LOG_Z_FLOAT32
from torch import Tensor
from torch.library import opcheck
from torch.testing import assert_close
from word_kernel_checks import CHECKS as OF_WORDS

from hf_semicrf import ops
from hf_semicrf.head import HeadSettings, SemiCRF
from hf_semicrf.ops import Potentials
from hf_semicrf.ops.host import span_scores
from hf_semicrf.ops.kernels import entropy, means, ranking, sampling, window

# Lengths, longest segment, types, given scores, and sizes of the layout that are forced small
SHAPES = {
    "usual": ([5, 3], 3, 3, ("emission", "start", "end"), {}),
    "segment": ([4, 6], 3, 2, ("emission", "segment", "start", "end"), {}),
    "only segment": ([4], 4, 3, ("segment",), {}),
    "linear chain": ([5, 1], 1, 3, ("emission",), {}),
    "longer than the text": ([3], 9, 2, ("emission", "end"), {}),
    "blocks of time": ([9, 4], 7, 2, ("emission", "start", "end"), {"MAX_WINDOW_ELEMENTS": 4}),
    "blocks, segment": ([8, 3], 5, 2, ("emission", "segment"), {"MAX_WINDOW_ELEMENTS": 4}),
    "many types": ([3, 2], 2, 5, ("emission", "start"), {"MAX_RESIDENT_TYPES": 2}),
    "many types, blocks": (
        [6],
        5,
        3,
        ("emission", "start"),
        {"MAX_RESIDENT_TYPES": 2, "MAX_WINDOW_ELEMENTS": 8},
    ),
}


@contextmanager
def forced(limits: dict[str, int]):
    """Smaller limits of the kernels' layout, so that small inputs meet every branch."""
    with ExitStack() as stack:
        for limit, value in limits.items():
            stack.enter_context(mock.patch.object(window, limit, value))
        yield


def potentials(name: str, seed: int = 0) -> Potentials:
    lengths, longest, types, tensors, _ = SHAPES[name]
    return random_potentials(lengths, longest, types, max(lengths) + 1, tensors, seed=seed)


def results(p: Potentials, labels: Tensor, starts: Tensor, backend: str) -> dict[str, Tensor]:
    """Everything that a back end computes, by name."""
    p = leaves(p)
    nll = ops.negative_log_likelihood(p, labels, starts, backend=backend)
    # sentences of different weight, one of them 0, the others negative
    weight = -torch.arange(len(nll), device=nll.device, dtype=nll.dtype).flip(0)
    scores = given(p)
    gradient = torch.autograd.grad(nll @ weight, list(scores.values()))
    out = {"negative_log_likelihood": nll.detach()}
    out |= {f"gradient of {k}": g for k, g in zip(scores, gradient, strict=True)}
    with torch.no_grad():
        out["log_partition"] = ops.log_partition(p, backend=backend)
        out["best score"] = ops.viterbi(p, backend=backend)[0]
        out |= ops.marginals(p, segment=True, backend=backend)._asdict()
    return out


def segmentation(p: Potentials) -> tuple[Tensor, Tensor]:
    """A segmentation of few long segments: the best one of other scores."""
    other = random_potentials(p.lengths.tolist(), *p.duration.shape, p.sizes[1], seed=9)
    other = other._replace(transition=other.transition - 4)
    _, labels, starts = ops.viterbi(to_device(other, p.lengths.device), backend="torch")
    return labels, starts


def agrees(name: str, device: str) -> None:
    """Values and gradients in float64 are PyTorch's."""
    p = to_device(potentials(name), device)
    labels, starts = segmentation(p)
    expected = results(p, labels, starts, "torch")
    with forced(SHAPES[name][-1]):
        found = results(p, labels, starts, "triton")
        path = ops.viterbi(p, backend="triton")[1:]
    for key, x in expected.items():
        assert_close(found[key], x, **FLOAT64, msg=lambda m, key=key: f"{key}: {m}")
    for x, y in zip(path, ops.viterbi(p, backend="torch")[1:], strict=True):
        assert torch.equal(x, y)


def agrees_in_float32(name: str, device: str) -> None:
    """No error is more than twice that of PyTorch in float32, and 2e-6 of the largest entry."""
    p = to_device(potentials(name, seed=1), device)
    labels, starts = segmentation(p)
    narrow = p.map(Tensor.float)
    exact = results(narrow.map(Tensor.double), labels, starts, "torch")
    same_dtype = results(narrow, labels, starts, "torch")
    with forced(SHAPES[name][-1]):
        found = results(narrow, labels, starts, "triton")
    for key, x in exact.items():
        floor = 2e-6 * max(1.0, x.abs().max().item())
        limit = 2 * (same_dtype[key] - x).abs().max().item() + floor
        assert (found[key] - x).abs().max().item() <= limit, key


def stays_exact_with_infinities(device: str) -> None:
    """Forbidden transitions, lengths, types and positions; scores too far apart for a product."""
    p = random_potentials([6, 4], 3, 3, 6, ("emission", "start"), seed=2)
    p.transition[0, 1] = p.transition[2, 2] = p.duration[0, 1] = p.emission[0, 3, 0] = -torch.inf
    p.initial[2] = -torch.inf
    p.transition[1, 0] = -300.0
    p.emission[1, 2] += torch.tensor([500.0, -500.0, 0.0])
    p = to_device(p, device)
    _, labels, starts = ops.viterbi(p, backend="torch")
    for dtype, tolerance in (
        (torch.float64, FLOAT64),
        (torch.float32, {"rtol": 1e-5, "atol": 5e-5}),
    ):
        q = p.map(lambda x, dtype=dtype: x.to(dtype))
        found = results(q, labels, starts, "triton")
        for key, x in results(q.map(Tensor.double), labels, starts, "torch").items():
            assert_close(found[key].double(), x, **tolerance, msg=lambda m, k=key: f"{k}: {m}")


def loses_no_digit_to_steep_transitions(device: str) -> None:
    """Transitions just within what products of weights take, under scores that pull elsewhere."""
    p = random_potentials([7, 5], 3, 3, 7, ("emission", "start", "end"), seed=5, scale=12.0)
    low, high = p.transition.aminmax(dim=0)
    for factor in (0.99, 1.01):  # of 48 bits
        spread = factor * 48 * math.log(2)
        steep = p._replace(transition=(p.transition - high) / (high - low) * spread)
        narrow = to_device(steep, device).map(Tensor.float)
        _, labels, starts = ops.viterbi(narrow, backend="torch")
        found = results(narrow, labels, starts, "triton")
        for key, x in results(narrow.map(Tensor.double), labels, starts, "torch").items():
            tolerance = {"rtol": 1e-5, "atol": 5e-5}
            assert_close(found[key].double(), x, **tolerance, msg=lambda m, k=key: f"{k}: {m}")


def bears_a_sentence_without_segmentation(device: str) -> None:
    """Log Z is -inf, its gradient 0, its path a tiling; the other sentence does not notice."""
    p = random_potentials([4, 3], 2, 2, given=("emission",), seed=3)
    p.emission[0, 2] = -torch.inf
    p = leaves(to_device(p, device))
    log_z = ops.log_partition(p, backend="triton")
    assert log_z[0] == -torch.inf and log_z[1].isfinite()
    gradient = torch.autograd.grad(log_z, list(given(p).values()), torch.ones_like(log_z))
    assert all(g.isfinite().all() for g in gradient)
    assert not gradient[0][0].any() and gradient[0][1].any()
    _, labels, starts = ops.viterbi(p, backend="triton")
    assert starts[:, 0].all() and labels.tolist()[1][3] == -1
    assert set(labels[0].tolist()) <= {0, 1}


def reads_no_padding(device: str) -> None:
    """NaN past a length, and in memory that nobody wrote, changes no bit."""
    p = to_device(potentials("segment"), device)
    positions, longest = p.sizes[1:3]
    n = torch.arange(positions, device=device)
    padding = (n >= p.lengths[:, None])[..., None]
    stops = n[:, None] + torch.arange(longest, device=device) + 1
    crossing = (stops > p.lengths[:, None, None])[..., None]
    poisoned = p._replace(
        **{k: getattr(p, k).masked_fill(padding, torch.nan) for k in ("emission", "start", "end")},
        segment=p.segment.masked_fill(crossing, torch.nan),
    )
    labels, starts = segmentation(p)
    clean = results(p, labels, starts, "triton")
    labels = torch.where(padding[..., 0], 77, labels)
    torch.use_deterministic_algorithms(True)  # which fills what torch.empty returns with NaN
    try:
        dirty = results(poisoned, labels, starts | padding[..., 0], "triton")
    finally:
        torch.use_deterministic_algorithms(False)
    for key, x in clean.items():
        assert torch.equal(dirty[key], x), key


def repeats_itself(device: str) -> None:
    """Two runs give the same bits, and so does another order of the batch."""
    p = to_device(potentials("usual").map(Tensor.float), device)
    labels, starts = segmentation(p)
    once, again = (results(p, labels, starts, "triton") for _ in range(2))
    for key, x in once.items():
        assert torch.equal(again[key], x), key
    order = torch.tensor([1, 0], device=device)
    shuffled = Potentials(
        **{k: x[order] if k in ("emission", "start", "end") else x for k, x in given(p).items()},
        lengths=p.lengths[order],
    )
    assert torch.equal(
        ops.log_partition(shuffled, backend="triton"),
        ops.log_partition(p, backend="triton")[order],
    )


def takes_any_dtype_and_layout(device: str) -> None:
    """Half precision and strided views give what their contiguous float32 copies give."""
    p = to_device(potentials("usual"), device)
    for dtype in (torch.float16, torch.bfloat16):
        q = p.map(lambda x, dtype=dtype: x.to(dtype))
        expected = ops.log_partition(q.map(Tensor.float), backend="torch")
        assert_close(ops.log_partition(q, backend="triton"), expected, rtol=1e-5, atol=1e-5)
    strided = p.map(lambda x: x.mT.contiguous().mT if x.ndim > 1 else x)
    assert not strided.emission.is_contiguous()
    labels, starts = segmentation(p)
    found = results(strided, labels.T.contiguous().T, starts.T.contiguous().T, "triton")
    for key, x in results(p, labels, starts, "triton").items():
        assert torch.equal(found[key], x), key


def refuses_no_gold_in_silence(device: str) -> None:
    """A segment longer than L scores -inf, and so does a label that is no type on a GPU."""
    p = to_device(random_potentials([4], 2, 2, given=("emission",), seed=4), device)
    labels = torch.zeros(1, 4, dtype=torch.long, device=device)
    starts = torch.tensor([[True, False, False, True]], device=device)
    assert ops.negative_log_likelihood(p, labels, starts, backend="triton").tolist() == [torch.inf]


def draws_the_same(name: str, rows: int, device: str) -> None:
    """From the same random numbers, the samples of PyTorch."""
    p = to_device(potentials(name, seed=2).map(lambda x: x / 4), device)
    if name == "segment":  # nothing legal in the first sentence, infinities in the second
        p.emission[0, 1] = p.emission[1, 2, 0] = p.transition[1, 0] = -torch.inf
    # in float32 rounding could move a draw; that it moves none of these is luck that stays
    for q in (p, p.map(Tensor.float)):
        with mock.patch.object(sampling, "MAX_ROWS", rows):
            expected, found = (
                ops.sample(q, 3, torch.Generator().manual_seed(3), backend=backend)
                for backend in ("torch", "triton")
            )
        assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))
        assert len(expected[0].unique(dim=0)) > 1


def with_dirty_padding(p: Potentials) -> Potentials:
    """NaN past the lengths, but for segment scores."""
    padding = torch.arange(p.sizes[1], device=p.lengths.device) >= p.lengths[:, None]
    scores = {name: x for name, x in given(p).items() if name in ("emission", "start", "end")}
    dirty = {name: x.masked_fill(padding[..., None], torch.nan) for name, x in scores.items()}
    return p._replace(**dirty)


@contextmanager
def dirty_memory():
    """Fill what torch.empty returns with NaN, as deterministic algorithms do."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def ranks_as_the_host(name: str, limit: int, device: str) -> None:
    """The k best with their ties, and the best through each place; NaN in padding moves no bit."""
    p = potentials(name, seed=5)
    tied = p.map(lambda x: x.round().clamp(-1, 1))
    tied.transition[0, 1] = tied.duration[-1, 0] = -torch.inf
    for q, k in ((p.map(Tensor.float), 2), (tied, 5)):
        q = to_device(q, device)
        expected = (*ops.k_best(q, k, "torch"), *ops.max_marginals(q, True, "torch"))
        dirty = with_dirty_padding(q)
        with mock.patch.object(ranking, "MAX_ELEMENTS", limit), dirty_memory():
            found = (*ops.k_best(dirty, k, "triton"), *ops.max_marginals(dirty, True, "triton"))
        tolerance = FLOAT64 if q.duration.dtype == torch.float64 else LOG_Z_FLOAT32
        for x, y in zip(found, expected, strict=True):
            assert_close(x, y, **tolerance)
        assert torch.equal(found[1], expected[1]) and torch.equal(found[2], expected[2])
        if q is tied:
            assert torch.equal(found[0], expected[0])


def knows_its_entropy(device: str) -> None:
    """Entropy, divergence, their gradients and marginals of spans, where scores are forbidden."""
    p = to_device(potentials("usual", seed=4), device)
    p.transition[0, 1] = p.emission[0, 3, 0] = -torch.inf
    q = p.map(lambda x: torch.where(x.isfinite(), x / 2, x))
    spans = torch.tensor([[[0, 2], [3, 5], [4, 5]], [[0, 1], [0, 3], [1, 4]]], device=device)
    found, expected = [], []
    for backend, values in (("triton", found), ("torch", expected)):
        leaf, other = leaves(p), leaves(q)
        for value, limit in (  # of a tile of the recurrence of the gradient
            (ops.entropy(leaf, backend=backend), 2048),
            (ops.kl_divergence(leaf, other, backend=backend), 8),
        ):
            inputs = [*given(leaf).values(), *given(other).values()]
            with mock.patch.object(means, "MAX_ELEMENTS", limit):
                gradient = torch.autograd.grad(value.sum(), inputs, allow_unused=True)
            values += [value.detach(), *(x for x in gradient if x is not None)]
        values.append(ops.segment_marginals(p, spans, backend=backend))
    for x, y in zip(found, expected, strict=True):
        assert_close(x, y, **FLOAT64)


def knows_how_entropy_changes(name: str, limit: int, device: str) -> None:
    """Entropy and gradient are those of log Z less the expected score, with float32 scores too."""
    p = to_device(potentials(name, seed=6), device)
    p.transition[0, 1] = p.duration[-1, 0] = -torch.inf

    def value_and_gradient(p: Potentials, backend: str) -> list[Tensor]:
        leaf = leaves(p)
        value = ops.entropy(leaf, backend=backend)
        weight = torch.arange(1, len(value) + 1, device=device, dtype=value.dtype)
        return [value.detach(), *torch.autograd.grad(value @ weight, list(given(leaf).values()))]

    for q, tolerance in ((p, FLOAT64), (p.map(Tensor.float), CAST["float32"])):
        expected = value_and_gradient(q.map(Tensor.double), "torch")
        with mock.patch.object(entropy, "MAX_ELEMENTS", limit), dirty_memory():
            found = value_and_gradient(with_dirty_padding(q), "triton")
            again = ops.entropy(q, backend="triton")  # without what the gradient needs
        for x, y in zip(found, expected, strict=True):
            assert_close(x, y.to(x.dtype), **tolerance)
        assert torch.equal(again, found[0])


def traces_as_operations(device: str) -> None:
    """The forward and the backward pass are traced with tensors that hold no data."""
    # without padding, where the state that the op returns is not written
    p = to_device(random_potentials([4, 4], 3, 3, 4, ("emission", "segment")), device)
    labels, starts = segmentation(p)
    opcheck(torch.ops.hf_semicrf.loss.default, (*leaves(p), labels, starts, "triton"))
    fakes = ("test_schema", "test_faketensor")
    opcheck(torch.ops.hf_semicrf.k_best.default, (*p, 2, "triton"), test_utils=fakes)
    opcheck(torch.ops.hf_semicrf.max_marginals.default, (*p, True, "triton"), test_utils=fakes)
    opcheck(torch.ops.hf_semicrf.entropy_scan.default, (*leaves(p), 2))


def scores_whole_segments(
    positions: int, longest: int, units: int, types: int, kept: bool, device: str
) -> None:
    """Values and gradients of scores from states are PyTorch's, in every precision."""
    generator = torch.Generator().manual_seed(positions)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64).to(device)

    inputs = (
        normal(2, positions, 3 * units),
        normal(longest, units),
        normal(types, units),
        normal(types),
    )
    n = torch.arange(positions, device=device)
    past_the_end = (n[:, None] + torch.arange(longest, device=device) >= positions)[..., None]
    of_scores = normal(2, positions, longest, types).masked_fill(past_the_end, 0)
    stays = (normal(2, positions, units) < 1) if kept else None

    def values_and_gradients(function, dtype: torch.dtype) -> list[Tensor]:
        given = [x.to(dtype).requires_grad_() for x in inputs]
        scores = function(*given, stays, 1.25).masked_fill(past_the_end, 0)
        used = scores * of_scores.to(scores.dtype)
        return [scores, *torch.autograd.grad(used.sum(), given)]

    exact = values_and_gradients(span_scores.span_scores, torch.float64)
    if device == "cpu":  # Triton has no products in float64 for a GPU
        found = values_and_gradients(span_scores.span_scores_by_kernel, torch.float64)
        for x, y in zip(found, exact, strict=True):
            assert_close(x, y, **FLOAT64)
    for dtype in (torch.float32, torch.bfloat16):
        # the gradients of bfloat16 states are themselves in bfloat16
        near = values_and_gradients(span_scores.span_scores, dtype)
        found = values_and_gradients(span_scores.span_scores_by_kernel, dtype)
        for x, y, z in zip(found, near, exact, strict=True):
            assert x.dtype == y.dtype
            largest = z.abs().max().item()
            limit = 2 * (y - z).abs().max().item() + 2e-6 * largest
            if dtype == torch.bfloat16:  # products in TF32, and the interpreter cuts digits off
                limit += 2**-9 * largest
            assert (x - z).abs().max().item() <= limit
    again = values_and_gradients(span_scores.span_scores_by_kernel, torch.bfloat16)
    assert all(torch.equal(x, y) for x, y in zip(found, again, strict=True))
    if kept:
        narrow = [x.float().requires_grad_() for x in inputs]
        opcheck(torch.ops.hf_semicrf.span_scores.default, (*narrow, stays, 1.25))


def runs_what_threads_compile(device: str):
    """The calls in which the kernels of decoding are compiled run, each by itself."""
    for scorer in ("boundary", "span"):
        head = SemiCRF(16, 3, HeadSettings(scorer=scorer), backend="triton").to(device)
        for threshold, constrained in ((None, False), (0.3, False), (0.3, True)):
            calls = head.decoding_calls(threshold, constrained)
            assert len(calls) == 5
            for call in calls:
                call()


def finds_the_least_risk(device: str) -> None:
    """The segmentation of the recurrence on gains, whatever is past a length, and of few types."""
    generator = torch.Generator().manual_seed(1)
    for positions, longest, types in ((12, 4, 3), (5, 7, 2), (6, 1, 4), (4, 3, 1)):
        shape = (2, positions, longest, types)
        segment = torch.rand(shape, generator=generator, dtype=torch.float64).to(device) ** 3
        lengths = torch.tensor([positions, positions - 2], device=device)
        stops = torch.arange(positions, device=device)[:, None] + torch.arange(longest).to(device)
        past = (stops >= lengths[:, None, None])[..., None]
        each = torch.rand(longest, types, generator=generator, dtype=torch.float64).to(device)
        for threshold in (0.0, 0.2, 0.6, each):
            expected = ops.minimum_risk(segment.masked_fill(past, 0), lengths, threshold, "torch")
            for scores in (segment, segment.float()):
                poisoned = scores.masked_fill(past, torch.nan)
                found = ops.minimum_risk(poisoned, lengths, threshold, "triton")
                assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))
    opcheck(torch.ops.hf_semicrf.minimum_risk.default, (segment, lengths, 0.5, None))
    opcheck(torch.ops.hf_semicrf.minimum_risk.default, (segment, lengths, 0.0, each))


LARGE = {  # what is done to a field's scores
    "mask": ("emission", lambda x: x[:, 1].fill_(-1e9)),
    "lowest": ("emission", lambda x: x[:, 1].fill_(LOWEST)),
    "constant": ("emission", lambda x: x.add_(1e6)),
    "durations": ("duration", lambda x: x.mul_(1e6)),
    "end": ("end", lambda x: x[:, 1].fill_(-1e9)),
    "segment": ("segment", lambda x: x[0, 0, 1].fill_(LOWEST)),
    "transition": ("transition", lambda x: x[0, 1].fill_(1e8)),
}


def tells_large_scores_apart(name: str, device: str) -> None:
    """The enumeration's numbers from float32 scores, where float32 would lose all digits."""
    field, change = LARGE[name]
    tensors = ("emission", "start", "end", *(["segment"] if field == "segment" else []))
    p = random_potentials([4, 3], 2, 2, 4, tensors, seed=6, scale=1.0).map(Tensor.float)
    change(getattr(p, field))
    checked = Checked(to_device(p, device), "triton")
    with compiled(), forced({"MAX_WINDOW_ELEMENTS": 2} if name == "durations" else {}):
        checked.partition(checked.p)
        checked.decoding(checked.p)


def knows_no_number_of_a_sentence(device: str) -> None:
    """NaN, +inf and what float64 cannot tell apart: NaN, and the other sentence does not notice."""
    clean = random_potentials([4, 3], 2, 2, 4, ("emission", "start", "segment"), seed=7)
    for dtype, field, at, value in (
        (torch.float32, "emission", (0, 2, 1), torch.nan),
        (torch.float32, "segment", (0, 1, 1, 0), torch.inf),
        (torch.float64, "start", (0, 3, 0), torch.nan),
        (torch.float32, "start", (0, 0), 1e30),
    ):
        p = clean.map(lambda x, dtype=dtype: x.to(dtype, copy=True))
        expected = results(p, *segmentation(p), "torch")
        getattr(p, field)[at] = value
        p = to_device(p, device)
        with compiled():
            labels, starts = ops.viterbi(p, backend="triton")[1:]
            assert (labels[0] == -1).all() and (labels[1, :3] >= 0).all()
            assert not starts[0].any()
            for key in ("log_partition", "token"):
                if key == "token":
                    found = ops.marginals(p, backend="triton").token
                else:
                    found = ops.log_partition(p, backend="triton")
                assert found[0].isnan().all(), f"{key} of {value} in {field}: {found[0]}"
                assert_close(found[1].cpu(), expected[key][1].to(dtype), rtol=1e-5, atol=1e-5)
        leaf = leaves(p)
        with compiled():
            ops.log_partition(leaf, backend="triton")[1].backward()
        assert all(x.grad.isfinite().all() for x in given(leaf).values())


CHECKS = {f"agrees: {name}": (agrees, name) for name in SHAPES}
CHECKS |= {
    f"agrees_in_float32: {name}": (agrees_in_float32, name)
    for name in ("segment", "blocks of time", "many types")
}
# by the lengths that are weighed at a time
CHECKS |= {
    f"draws_the_same: {name}": (draws_the_same, name, rows)
    for name, rows in (("segment", 256), ("blocks of time", 2))
}
# by the elements of a tile of heads
CHECKS |= {
    f"ranks_as_the_host: {name}, {limit}": (ranks_as_the_host, name, limit)
    for name, limit in (
        ("segment", 4096),
        ("linear chain", 4096),
        ("longer than the text", 4096),
        ("blocks of time", 4),
        ("many types", 16),
    )
}
CHECKS |= {
    f"knows_how_entropy_changes: {name}, {limit}": (knows_how_entropy_changes, name, limit)
    for name, limit in (("segment", 4096), ("blocks of time", 4), ("linear chain", 4))
}
CHECKS |= {
    f"scores_whole_segments: {name}": (scores_whole_segments, *sizes)
    for name, sizes in {
        "usual": (35, 3, 20, 3, False),
        "dropout": (8, 3, 16, 3, True),
        "longer than the text": (3, 5, 20, 2, False),
        "many types": (3, 2, 72, 70, True),
    }.items()
}
CHECKS |= {f"tells_large_scores_apart: {name}": (tells_large_scores_apart, name) for name in LARGE}
CHECKS |= {
    f.__name__: (f,)
    for f in (
        stays_exact_with_infinities,
        loses_no_digit_to_steep_transitions,
        bears_a_sentence_without_segmentation,
        reads_no_padding,
        repeats_itself,
        takes_any_dtype_and_layout,
        refuses_no_gold_in_silence,
        knows_its_entropy,
        finds_the_least_risk,
        runs_what_threads_compile,
        knows_no_number_of_a_sentence,
        traces_as_operations,
    )
} | {name: (check,) for name, check in OF_WORDS.items()}
CHECKS |= IN_THE_INTERPRETER | OF_TAILS


def run(name: str, device: str) -> None:
    """Raise unless the check holds."""
    check, *arguments = (ON_A_GPU if device == "cuda" else {}).get(name) or CHECKS[name]
    check(*arguments, device)


if __name__ == "__main__":
    for wanted in sys.argv[1:] or CHECKS:
        try:
            run(wanted, "cpu")
            wrong = None
        except Exception:
            wrong = traceback.format_exc()
        print(json.dumps({"check": wanted, "wrong": wrong}), flush=True)
