"""Custom ops over factored potentials: scans, their gradient, the loss, and decoding.

As custom ops with fake implementations they are opaque to ``torch.compile``: no graph break, and
nothing that depends on the number of positions at compile time. The arguments start with the nine
fields of :class:`Potentials`, and end with the back end's name. Where nothing is compiled, the
functions behind the ops are called as they are: what the dispatcher adds to a custom op takes
longer than the kernels of a short batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from hf_semicrf.ops.forward_backward import Expectations, State
from hf_semicrf.ops.host import score
from hf_semicrf.ops.host.magnitude import LARGEST, centred, narrowed
from hf_semicrf.ops.potentials import Potentials
from hf_semicrf.ops.registry import implementation, kernels, operation, split_potentials


def log_partition(p: Potentials, backend: str) -> Tensor:
    """Compute log Z in nats, float64 [B]; differentiable once in every potential."""
    if wants_gradient(p):
        return _differentiable(_scan, *p, backend)[0]
    return _call(_log_partition, *p, backend)


def negative_log_likelihood(p: Potentials, labels: Tensor, starts: Tensor, backend: str) -> Tensor:
    """Subtract a segmentation's score from log Z, in nats [B]; differentiable once.

    The difference is taken in float64.
    """
    if wants_gradient(p):
        return _differentiable(_loss, *p, labels, starts, backend)[0]
    p = _loss_potentials(p, backend)
    if backend == "triton" and not torch.compiler.is_compiling():
        log_z = log_partition(p, backend)
        return kernels("score").segmentation_loss(p, labels, starts, log_z)[0]
    return loss_of(log_partition(p, backend), segmentation_score(p, labels, starts, backend))


def log_partition_difference(p: Potentials, q: Potentials, backend: str) -> Tensor:
    """Subtract log Z of q from that of p, in nats, float64 [B]; differentiable once."""
    if backend != "torch":
        return loss_of(log_partition(p, backend), log_partition(q, backend))
    (p, more), (q, less) = centred(p), centred(q)
    difference = loss_of(log_partition(p, backend), log_partition(q, backend))
    most = LARGEST * max(p.sizes[1], q.sizes[1])
    told = (more.abs() <= most) & (less.abs() <= most)
    return difference + torch.where(told, more - less, torch.nan)


def _loss_potentials(p: Potentials, backend: str) -> Potentials:
    """Potentials with the same loss; PyTorch's take off what every segmentation has."""
    return centred(p)[0] if backend == "torch" else p


def loss_of(log_z: Tensor, score: Tensor) -> Tensor:
    """Subtract the log-sum of some segmentations from that of all [B]; inf where it is -inf."""
    impossible = (score == -torch.inf) & ~log_z.isnan()
    return torch.where(impossible, torch.inf, log_z - score)


def segmentation_score(p: Potentials, labels: Tensor, starts: Tensor, backend: str) -> Tensor:
    """Score a segmentation in nats, float64 [B]; differentiable."""
    if wants_gradient(p):
        return score.told(p, labels, starts, score.segmentation_score(p, labels, starts)[0])
    return _call(_segmentation_score, *p, labels, starts, backend)


def best_score(p: Potentials, labels: Tensor, starts: Tensor, backend: str) -> Tensor:
    """Score what :func:`best` found, in nats and the potentials' dtype [B]; differentiable.

    NaN where nothing was found, or where it leaves the range of that dtype.
    """
    if backend == "triton" and not wants_gradient(p) and not torch.compiler.is_compiling():
        return kernels("score").best_score(p, labels, starts)
    value = segmentation_score(p, labels.clamp(min=0), starts, backend)
    return narrowed(torch.where(labels[:, 0] < 0, torch.nan, value), p.duration.dtype)


def expectations(
    p: Potentials, with_segment: bool, backend: str, with_shared: bool = True
) -> tuple[Tensor, Expectations]:
    """Compute log Z, float64 [B], and the expected counts of each sentence; no gradient.

    Without ``with_shared`` nothing is said of what the sentences share.
    """
    p = p.map(Tensor.contiguous)  # once for both
    log_z, *state = _call(_scan, *p, backend)
    options = (None, None, None, with_segment, False if with_shared else None, backend)
    counts = _call(_expectations, *p, log_z, *state, *options)
    return log_z, Expectations(*counts)


def best(p: Potentials, backend: str) -> tuple[Tensor, Tensor]:
    """Find the labels [B, N] and starts [B, N] of the segmentation with the highest score."""
    return _call(_best, *p, backend)


def _call(function: Callable, *inputs: Any) -> Any:
    """Call a function as it is, or its custom op for torch.compile and to refuse a gradient."""
    if torch.compiler.is_compiling() or wants_gradient(inputs):
        return OPERATIONS[function.__name__](*inputs)
    return function(*inputs)


def _differentiable(function: Callable, *inputs: Any) -> Any:
    """Call a function or, for torch.compile, its custom op, with :func:`_backward`'s gradient."""
    if torch.compiler.is_compiling():
        return OPERATIONS[function.__name__](*inputs)
    return _WithGradient.apply(*inputs, function)


class _WithGradient(torch.autograd.Function):
    """A function with the gradient of :func:`_backward`, without the dispatcher."""

    @staticmethod
    def forward(ctx, *inputs):
        *inputs, function = inputs
        # once for all that reads them, the backward pass too
        inputs = [x.contiguous() if isinstance(x, Tensor) else x for x in inputs]
        output = function(*inputs)
        _save_for_backward(ctx, inputs, output)
        return output

    @staticmethod
    def backward(ctx, *gradients):
        return _backward(ctx, *gradients, function=partial(_call, _expectations))


def wants_gradient(inputs: Iterable[Any]) -> bool:
    """Say whether a derivative with respect to any of the inputs may be asked for."""
    return torch.is_grad_enabled() and any(
        isinstance(x, Tensor) and x.requires_grad for x in inputs
    )


OPERATIONS: dict[str, torch.library.CustomOpDef] = {}


def _operation(tensors: int, *arguments: str) -> Callable[[Callable], Callable]:
    """Register a function as a custom op, and leave it as it is to be called without one."""

    def register(function: Callable) -> Callable:
        OPERATIONS[function.__name__] = operation(tensors, *arguments)(function)
        return function

    return register


@_operation(1, "str backend")
def _log_partition(*inputs):
    p, (backend,) = split_potentials(inputs)
    return implementation(backend, "scan").log_partition(p)


@_operation(1, "Tensor labels", "Tensor starts", "str backend")
def _segmentation_score(*inputs):
    p, (labels, starts, backend) = split_potentials(inputs)
    value, _ = implementation(backend, "score").segmentation_score(p, labels, starts)
    return score.told(p, labels, starts, value) if backend == "torch" else value


@OPERATIONS["_log_partition"].register_fake
@OPERATIONS["_segmentation_score"].register_fake
def _per_sentence(*args) -> Tensor:
    lengths = args[8]
    return lengths.new_empty(lengths.shape, dtype=torch.float64)


@_operation(5, "str backend")
def _scan(*inputs):
    p, (backend,) = split_potentials(inputs)
    log_z, state = implementation(backend, "scan").scan(p)
    return log_z, *state


@OPERATIONS["_scan"].register_fake
def _fake_scan(*args):
    p, _ = split_potentials(args)
    batch, positions, _, types = p.sizes
    shapes = (
        (batch,),
        *[(2, batch, positions + 1, types)] * 2,
        (2, batch, positions + 1),
        (batch, 2),
    )
    return tuple(p.duration.new_empty(shape, dtype=torch.float64) for shape in shapes)


@_operation(7, "Tensor labels", "Tensor starts", "str backend")
def _loss(*inputs):
    p, (labels, starts, backend) = split_potentials(inputs)
    p = _loss_potentials(p, backend)
    log_z, state = implementation(backend, "scan").scan(p)
    if backend == "triton":
        nll, ends = kernels("score").segmentation_loss(p, labels, starts, log_z)
        return nll, log_z, *state, ends
    segmentation = labels.contiguous(), starts.contiguous()
    gold, ends = implementation(backend, "score").segmentation_score(p, *segmentation)
    return loss_of(log_z, gold), log_z, *state, ends


@OPERATIONS["_loss"].register_fake
def _(*args):
    log_z, *state = _fake_scan(*args)
    ends = args[9].new_empty(args[9].shape, dtype=torch.int32)
    dtype = torch.float64 if args[-1] == "torch" else args[4].dtype
    return torch.empty_like(log_z, dtype=dtype), log_z, *state, ends


@_operation(
    5, "Tensor log_z", "Tensor pre", "Tensor alpha", "Tensor offset", "Tensor total",
    "Tensor? weight", "Tensor? labels", "Tensor? ends", "bool with_segment", "bool? add_up",
    "str backend",
)  # fmt: skip
def _expectations(*inputs):
    p, (log_z, *state, weight, labels, ends, with_segment, add_up, backend) = split_potentials(
        inputs
    )
    gold = None if labels is None or ends is None else (labels, ends)
    if weight is None and backend == "torch":
        weight = torch.ones_like(log_z)
    expected = implementation(backend, "expectations").expectations
    counts = expected(p, log_z, State(*state), weight, gold, with_segment, add_up)
    return counts if add_up is not None else counts._replace(shared=counts.shared.new_empty(0))


@OPERATIONS["_expectations"].register_fake
def _(*args):
    p, _ = split_potentials(args)
    batch, positions, longest, types = p.sizes
    per_position = [p.duration.new_empty(batch, positions, types) for _ in range(3)]
    segment = p.duration.new_empty((batch, positions, longest, types) if args[-3] else (0,))
    shared = p.duration.new_empty(1 if args[-2] else batch, (longest + types + 2) * types)
    if args[-2] is None:
        shared = shared.new_empty(0)
    return per_position[0], segment, *per_position[1:], shared


@_operation(2, "str backend")
def _best(*inputs):
    p, (backend,) = split_potentials(inputs)
    return implementation(backend, "viterbi").best(p)


@OPERATIONS["_best"].register_fake
def _(*args):
    p, _ = split_potentials(args)
    batch, positions, _, _ = p.sizes
    return (
        p.lengths.new_empty(batch, positions, dtype=torch.long),
        p.lengths.new_empty(batch, positions, dtype=torch.bool),
    )


def _save_for_backward(ctx, inputs, output) -> None:
    *tensors, backend = inputs
    ctx.backend = backend
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)
    ctx.is_present = [x is not None for x in tensors[:9]]
    # the loss has labels and ends besides: inputs 9 and 10, and the last output
    gold = (tensors[9], output[-1]) if len(tensors) > 9 else ()
    state = output[:5] if not gold else output[1:6]
    ctx.save_for_backward(*(x for x in tensors[:9] if x is not None), *state, *gold)


def _backward(ctx, weight: Tensor | None, *_, function: Callable):
    inputs = len(ctx.needs_input_grad)
    if weight is None:
        return (None,) * inputs
    saved = list(ctx.saved_tensors)
    tensors: list[Any] = [saved.pop(0) if present else None for present in ctx.is_present]
    potentials = Potentials(*tensors)
    state, gold = saved[:5], saved[5:] or (None, None)
    with_segment = ctx.is_present[1] and ctx.needs_input_grad[1]
    options = (weight, *gold, with_segment, True, ctx.backend)
    counts = Expectations(*function(*potentials, *state, *options))
    longest = potentials.duration.shape[0]
    gradient = (*counts[:4], *(x[0] for x in counts.split(longest)))
    wanted = (
        g if needed else None for g, needed in zip(gradient, ctx.needs_input_grad, strict=False)
    )
    return *wanted, *(None,) * (inputs - 8)


# whoever traces the backward pass need not be torch.compile
_traced_backward = partial(_backward, function=OPERATIONS["_expectations"])
OPERATIONS["_scan"].register_autograd(_traced_backward, setup_context=_save_for_backward)
OPERATIONS["_loss"].register_autograd(_traced_backward, setup_context=_save_for_backward)


def _refuse_backward(ctx, *_):
    raise RuntimeError(
        "expected a first derivative of the log-partition function: marginals, and so the second "
        "derivative, are not differentiable"
    )


OPERATIONS["_expectations"].register_autograd(_refuse_backward)
