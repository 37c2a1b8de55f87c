"""Small steps around the recurrences, with their gradients: one launch each on Triton."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hf_semicrf.ops.checks import Backend
from hf_semicrf.ops.potentials import Potentials
from hf_semicrf.ops.registry import kernels_for
from hf_semicrf.options import check


def packed(
    p: Potentials,
    temperature: float = 1.0,
    forbidden: Tensor | None = None,
    backend: Backend = "auto",
) -> Potentials:
    """Write potentials as the scans read them: float32 at least and, on Triton, contiguous.

    Args:
        p: Potentials of any floating dtype, as they come from a scorer.
        temperature: What all scores are divided by.
        forbidden: What becomes -inf of duration, transition, initial and final, one after the other
            [(L + C + 2) C] bool; nothing where None.
        backend: Which implementation runs.

    Raises:
        ValueError: The temperature is no number above 0.
    """
    check(optional=False, temperature=temperature)
    kernels = kernels_for("pack", p.lengths.device, backend)
    if kernels is None:
        if forbidden is not None:
            p = _masked(p, forbidden)
        p = p.map(lambda x: x.to(torch.promote_types(x.dtype, torch.float32)))
        return p if temperature == 1 else p.map(lambda x: x / temperature)
    *scores, lengths = p
    given: list[Tensor | None] = [
        None if x is None or _is_packed(x, temperature, n > 3 and forbidden is not None) else x
        for n, x in enumerate(scores)
    ]
    if any(x is not None for x in given):
        if torch.is_grad_enabled():
            written = _Pack.apply(kernels.pack, temperature, forbidden, *given)
        else:
            written = kernels.pack(given, _wide(given), temperature, forbidden)
        scores = [x if y is None else y for x, y in zip(scores, written, strict=True)]
    return Potentials._make([*scores, lengths])


def _is_packed(x: Tensor, temperature: float, masked: bool) -> bool:
    wide = x.dtype in (torch.float32, torch.float64)
    return wide and x.is_contiguous() and temperature == 1 and not masked


def _masked(p: Potentials, forbidden: Tensor) -> Potentials:
    """Forbid what all sentences share."""
    shared = (p.duration, p.transition, p.initial, p.final)
    flags = forbidden.split([x.numel() for x in shared])
    duration, transition, initial, final = (
        x.masked_fill(never.view(x.shape), -torch.inf)
        for x, never in zip(shared, flags, strict=True)
    )
    return p._replace(duration=duration, transition=transition, initial=initial, final=final)


def _wide(scores: Sequence[Tensor | None]) -> list[torch.dtype | None]:
    """The dtype of each tensor, or float32 if that holds more."""
    return [None if x is None else torch.promote_types(x.dtype, torch.float32) for x in scores]


class _Pack(torch.autograd.Function):
    """All scores in one launch; their gradients in another one, or none where nothing changes."""

    @staticmethod
    def forward(ctx, pack, temperature, forbidden, *scores):
        ctx.set_materialize_grads(False)
        ctx.pack, ctx.temperature = pack, temperature
        ctx.dtypes = [None if x is None else x.dtype for x in scores]
        return tuple(pack(scores, _wide(scores), temperature, forbidden))

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients):
        changed = [
            g is not None and (g.dtype != dtype or ctx.temperature != 1)
            for g, dtype in zip(gradients, ctx.dtypes, strict=True)
        ]
        if any(changed):
            narrow = [g if change else None for g, change in zip(gradients, changed, strict=True)]
            written = ctx.pack(narrow, ctx.dtypes, ctx.temperature, None)
            gradients = [g if x is None else x for g, x in zip(gradients, written, strict=True)]
        return None, None, None, *gradients


def mean_loss(
    nll: Tensor, words: Tensor, count: Tensor | float | None = None, backend: Backend = "auto"
) -> Tensor:
    """Sum the losses of sentences with words, and divide by a count.

    Args:
        nll: Loss of each sentence [B].
        words: Words of each sentence [B]; one without any counts nothing.
        count: What the sum is divided by, at least 1; the number of words where None.
        backend: Which implementation runs.
    """
    kernels = kernels_for("pack", nll.device, backend)
    if kernels is None:
        count = words.sum() if count is None else count
        # with no words, or nothing known, there is nothing to count, and no loss
        return torch.where(words > 0, nll, 0).sum() / torch.as_tensor(count).clamp(min=1)
    if isinstance(count, Tensor) and count.device != nll.device:
        count = count.item() if count.device.type == "cpu" else count.to(nll.device)
    return _MeanLoss.apply(nll, words, count, kernels)


class _MeanLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, nll: Tensor, words: Tensor, count: Any, kernels: Any) -> Tensor:
        loss, divisor = kernels.mean_loss(nll, words, count)
        ctx.save_for_backward(words, divisor)
        ctx.function = kernels.mean_loss_gradient
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        return ctx.function(gradient, *ctx.saved_tensors), None, None, None
