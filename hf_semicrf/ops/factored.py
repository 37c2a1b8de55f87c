"""Custom ops over factored potentials: one for the scan, one for its gradient, one for decoding.

As custom ops with fake implementations they are opaque to ``torch.compile``: no graph break, and
nothing that depends on the number of positions at compile time.
"""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from hf_semicrf.ops import reference
from hf_semicrf.ops.potentials import Potentials
from hf_semicrf.ops.reference import Expectations, State


def implementation(backend: str) -> ModuleType:
    """The module that implements ``log_partition``, ``scan``, ``expectations`` and ``best``."""
    return {"torch": reference}[backend]


def log_partition(p: Potentials, backend: str) -> Tensor:
    """Log Z in nats, float64 [B]; differentiable once in every potential."""
    wants_gradient = any(x is not None and x.requires_grad for x in p)
    if torch.is_grad_enabled() and wants_gradient:
        return _scan(*p, backend)[0]
    return _log_partition(*p, backend)


def expectations(p: Potentials, with_segment: bool, backend: str) -> tuple[Tensor, Expectations]:
    """Log Z, float64 [B], and the expected counts of each sentence."""
    log_z, *state = _scan(*p, backend)
    weight = torch.ones_like(log_z)
    return log_z, Expectations(*_expectations(*p, log_z, *state, weight, with_segment, backend))


def best(p: Potentials, backend: str) -> tuple[Tensor, Tensor]:
    """The labels [B, N] and starts [B, N] of the segmentation with the highest score."""
    return _best(*p, backend)


@torch.library.custom_op("hf_semicrf::log_partition", mutates_args=())
def _log_partition(
    emission: Tensor | None,
    segment: Tensor | None,
    start: Tensor | None,
    end: Tensor | None,
    duration: Tensor,
    transition: Tensor,
    initial: Tensor,
    final: Tensor,
    lengths: Tensor,
    backend: str,
) -> Tensor:
    p = Potentials(emission, segment, start, end, duration, transition, initial, final, lengths)
    return implementation(backend).log_partition(p)


@_log_partition.register_fake
def _(*args) -> Tensor:
    return args[-2].new_empty(args[-2].shape, dtype=torch.float64)


@torch.library.custom_op("hf_semicrf::scan", mutates_args=())
def _scan(
    emission: Tensor | None,
    segment: Tensor | None,
    start: Tensor | None,
    end: Tensor | None,
    duration: Tensor,
    transition: Tensor,
    initial: Tensor,
    final: Tensor,
    lengths: Tensor,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    p = Potentials(emission, segment, start, end, duration, transition, initial, final, lengths)
    log_z, state = implementation(backend).scan(p)
    return log_z, *state


@_scan.register_fake
def _(*args):
    p = Potentials(*args[:-1])
    batch, positions, _, types = p.sizes
    state = [p.duration.new_empty(batch, positions + 1, types) for _ in range(4)]
    offsets = [p.duration.new_empty(batch, positions + 1, dtype=torch.float64) for _ in range(2)]
    return p.duration.new_empty(batch, dtype=torch.float64), *state, *offsets


@torch.library.custom_op("hf_semicrf::expectations", mutates_args=())
def _expectations(
    emission: Tensor | None,
    segment: Tensor | None,
    start: Tensor | None,
    end: Tensor | None,
    duration: Tensor,
    transition: Tensor,
    initial: Tensor,
    final: Tensor,
    lengths: Tensor,
    log_z: Tensor,
    pre: Tensor,
    alpha: Tensor,
    post: Tensor,
    beta: Tensor,
    prefix_offset: Tensor,
    suffix_offset: Tensor,
    weight: Tensor,
    with_segment: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    p = Potentials(emission, segment, start, end, duration, transition, initial, final, lengths)
    state = State(pre, alpha, post, beta, prefix_offset, suffix_offset)
    return tuple(implementation(backend).expectations(p, log_z, state, weight, with_segment))


@_expectations.register_fake
def _(*args):
    p = Potentials(*args[:9])
    batch, positions, longest, types = p.sizes
    per_position = [p.duration.new_empty(batch, positions, types) for _ in range(3)]
    segment = p.duration.new_empty((batch, positions, longest, types) if args[-2] else (0,))
    shared = [
        p.duration.new_empty(batch, *shape)
        for shape in ((longest, types), (types, types), (types,), (types,))
    ]
    return per_position[0], segment, *per_position[1:], *shared


@torch.library.custom_op("hf_semicrf::best", mutates_args=())
def _best(
    emission: Tensor | None,
    segment: Tensor | None,
    start: Tensor | None,
    end: Tensor | None,
    duration: Tensor,
    transition: Tensor,
    initial: Tensor,
    final: Tensor,
    lengths: Tensor,
    backend: str,
) -> tuple[Tensor, Tensor]:
    p = Potentials(emission, segment, start, end, duration, transition, initial, final, lengths)
    return implementation(backend).best(p)


@_best.register_fake
def _(*args):
    p = Potentials(*args[:-1])
    batch, positions, _, _ = p.sizes
    return (
        p.lengths.new_empty(batch, positions, dtype=torch.long),
        p.lengths.new_empty(batch, positions, dtype=torch.bool),
    )


def _save_for_backward(ctx, inputs, output) -> None:
    *potentials, backend = inputs
    ctx.backend = backend
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)
    ctx.given = [x is not None for x in potentials]
    ctx.save_for_backward(*(x for x in potentials if x is not None), *output)


def _scan_backward(ctx, weight: Tensor | None, *_):
    if weight is None:
        return (None,) * 10
    saved = list(ctx.saved_tensors)
    potentials = [saved.pop(0) if given else None for given in ctx.given]
    with_segment = ctx.given[1] and ctx.needs_input_grad[1]
    counts = Expectations(*_expectations(*potentials, *saved, weight, with_segment, ctx.backend))
    gradient = (*counts[:4], *(x.sum(0) for x in counts[4:]))
    wanted = (
        g if needed else None for g, needed in zip(gradient, ctx.needs_input_grad, strict=False)
    )
    return *wanted, None, None


_scan.register_autograd(_scan_backward, setup_context=_save_for_backward)


def _refuse_backward(ctx, *_):
    raise RuntimeError(
        "expected a first derivative of the log-partition function: marginals, and so the second "
        "derivative, are not differentiable"
    )


_expectations.register_autograd(_refuse_backward)
