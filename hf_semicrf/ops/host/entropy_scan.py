"""The entropy and its gradient, on Triton alone: the custom ops around the kernels.

Elsewhere it is log Z less the expected score, with the covariance of counts as its derivative.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hf_semicrf.ops.host.factored import wants_gradient
from hf_semicrf.ops.potentials import Potentials
from hf_semicrf.ops.registry import empty_gradient, kernels, operation, split_potentials


def entropy(p: Potentials) -> Tensor:
    """Compute the entropy in nats, float64 [B]; NaN where no segmentation is legal.

    Differentiable once in every potential.
    """
    return _entropy_scan(*p, 2 if wants_gradient(p) else 1)[0]


@operation(6, "int directions")
def _entropy_scan(*inputs):
    p, (directions,) = split_potentials(inputs)
    return kernels("entropy").entropy(p, directions)


@_entropy_scan.register_fake
def _(*args):
    p, (directions,) = split_potentials(args)
    batch, positions, _, types = p.sizes
    shapes = [(batch,)] * 2 + [(directions, batch, positions + 1, types)] * 4
    return tuple(p.duration.new_empty(shape, dtype=torch.float64) for shape in shapes)


@operation(8, *(f"Tensor state{i}" for i in range(6)), "Tensor weight")
def _entropy_gradient(*inputs):
    p, (*state, weight) = split_potentials(inputs)
    gradient = kernels("entropy").gradient(p, state, weight)
    return tuple(x.to(p.duration.dtype) for x in gradient)


@_entropy_gradient.register_fake
def _(*args):
    return empty_gradient(split_potentials(args)[0])


def _save_for_backward(ctx, inputs, output) -> None:
    *tensors, _ = inputs
    ctx.mark_non_differentiable(*output[1:])
    ctx.is_present = [x is not None for x in tensors]
    ctx.save_for_backward(*(x for x in tensors if x is not None), *output)


def _backward(ctx, weight: Tensor, *_):
    saved = iter(ctx.saved_tensors)
    tensors = [next(saved) if present else None for present in ctx.is_present]
    gradient = _entropy_gradient(*tensors, *saved, weight)
    wanted = (
        x if needed else None
        for x, needed in zip(gradient, ctx.needs_input_grad, strict=False)
    )  # fmt: skip
    return *wanted, None, None


def _refuse_backward(ctx, *_):
    raise RuntimeError("expected a first derivative of the entropy: the second is not available")


_entropy_scan.register_autograd(_backward, setup_context=_save_for_backward)
_entropy_gradient.register_autograd(_refuse_backward)
