"""Scores of segments from their first and last states, their mean state and their width.

    x[n, l]     = first[n] + last[n + l] + (inside[n] + ... + inside[n + l]) / (l + 1) + width[l]
    score[n, l] = (keep_mask[n] * gelu(x[n, l])) @ weight.T + bias

PyTorch holds the features of a part of the text at a time. The custom op calls a kernel that forms
no features in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import gelu, linear, pad
from torch.utils.checkpoint import checkpoint

from hf_semicrf.ops.registry import kernels

CHUNK_ELEMENTS = 1 << 26  # features held at once, before they are recomputed


def span_scores(
    states: Tensor,
    width: Tensor,
    weight: Tensor,
    bias: Tensor,
    keep_mask: Tensor | None,
    scale: float,
) -> Tensor:
    """Score the segments of all lengths that start at each position [B, N, L, C].

    Args:
        states: First, last and inside states side by side [B, N, 3 W].
        width: Embedding of each length, by length less one [L, W].
        weight: Weights of the features in the score of each type [C, W].
        bias: Of each type [C].
        keep_mask: Units that dropout leaves, by a segment's start [B, N, W] bool, or None.
        scale: Factor of those units.
    """
    dtype = torch.promote_types(states.dtype, torch.float32)
    # [B, N, W] each
    first, last, inside = states.to(dtype).chunk(3, dim=-1)
    positions, longest = states.shape[1], len(width)
    # a mean is the difference of two sums up to a boundary [B, N + 1, W]
    sums = pad(inside.cumsum(1), (0, 0, 1, 0))
    # [B, N, L, W] for what varies with the length, as views, and [B, N, W] for what does not
    parts = (first, windows(last, longest), windows(sums[:, 1:], longest), sums[:, :-1], keep_mask)
    shared = (width.to(dtype), weight.to(dtype), bias.to(dtype), scale)
    if torch.compiler.is_exporting():  # the number of chunks may not depend on the size
        return _scores(*parts, *shared)
    size = max(1, CHUNK_ELEMENTS // (first[:, :1].numel() * longest))
    scores = []
    for begin in range(0, positions, size):
        rows = (None if x is None else x[:, begin : begin + size] for x in parts)
        inputs: list[Any] = [*rows, *shared]
        if size < positions and torch.is_grad_enabled():
            scores.append(checkpoint(_scores, *inputs, use_reentrant=False))
        else:
            scores.append(_scores(*inputs))
    return torch.cat(scores, 1)


def _scores(
    first: Tensor,
    last: Tensor,
    sums: Tensor,
    sums_before: Tensor,
    keep_mask: Tensor | None,
    width: Tensor,
    weight: Tensor,
    bias: Tensor,
    scale: float,
) -> Tensor:
    """Score the segments of all lengths that start at n positions [B, n, L, C].

    Args:
        first: States where they start [B, n, W].
        last: States where they end [B, n, L, W].
        sums: Sums of the inside states up to their end [B, n, L, W].
        sums_before: Sums of the inside states before their start [B, n, W].
        keep_mask: Units that dropout leaves [B, n, W] bool, or None.
        width: Embedding of each length [L, W].
        weight: Weights of the features in each type's score [C, W].
        bias: Of each type [C].
        scale: Factor of the units that dropout leaves.
    """
    lengths = torch.arange(1, sums.shape[2] + 1, device=sums.device)
    # in place from the first difference on: these are the largest tensors there are [B, n, L, W]
    x = (sums - sums_before[:, :, None]).div_(lengths[:, None]).add_(first[:, :, None])
    features = gelu(x.add_(last).add_(width))
    if keep_mask is not None:
        features = features * (keep_mask.to(features.dtype) * scale)[:, :, None]
    return linear(features, weight, bias)


def windows(states: Tensor, longest: int) -> Tensor:
    """View states [B, N, ...] as those of the positions from each on [B, N, L, ...]."""
    padded = pad(states, (0, 0) * (states.ndim - 2) + (0, longest - 1))
    if torch.compiler.is_exporting():  # a view would tie the graph to more than a few positions
        n = torch.arange(states.shape[1], device=states.device)[:, None]
        return padded[:, n + torch.arange(longest, device=states.device)]
    return padded.unfold(1, longest, 1).movedim(-1, 2)


def _save_for_backward(ctx, inputs, output) -> None:
    states, width, weight, bias, keep_mask, ctx.scale = inputs
    ctx.save_for_backward(states, width, weight, *([] if keep_mask is None else [keep_mask]))
    ctx.bias_dtype = bias.dtype


def _backward(ctx, grad_scores: Tensor, *, function: Callable[..., Any]):
    states, width, weight, *keep_mask = ctx.saved_tensors
    inputs = (states, width, weight, keep_mask[0] if keep_mask else None, ctx.scale)
    *gradients, grad_bias = function(grad_scores.contiguous(), *inputs)
    return *gradients, grad_bias.to(ctx.bias_dtype), None, None


class _ByKernel(torch.autograd.Function):
    """The kernels with their gradient, without the dispatcher."""

    @staticmethod
    def forward(ctx, *inputs):
        output = kernels("span_scores").span_scores(*inputs)
        _save_for_backward(ctx, inputs, output)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_scores):
        return _backward(ctx, grad_scores, function=kernels("span_scores").span_scores_gradient)


span_scores_by_kernel = _ByKernel.apply


@torch.library.custom_op("hf_semicrf::span_scores", mutates_args=())
def span_scores_operation(
    states: Tensor,
    width: Tensor,
    weight: Tensor,
    bias: Tensor,
    keep_mask: Tensor | None,
    scale: float,
) -> Tensor:
    """The kernels as a custom op, for torch.compile."""
    return kernels("span_scores").span_scores(states, width, weight, bias, keep_mask, scale)


@span_scores_operation.register_fake
def _(states, width, weight, bias, keep_mask, scale):
    dtype = torch.promote_types(states.dtype, torch.float32)
    return states.new_empty(*states.shape[:2], len(width), len(bias), dtype=dtype)


@torch.library.custom_op("hf_semicrf::span_scores_gradient", mutates_args=())
def _gradient_operation(
    grad_scores: Tensor,
    states: Tensor,
    width: Tensor,
    weight: Tensor,
    keep_mask: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    gradient = kernels("span_scores").span_scores_gradient
    return gradient(grad_scores, states, width, weight, keep_mask, scale)


@_gradient_operation.register_fake
def _(grad_scores, states, width, weight, keep_mask, scale):
    bias = grad_scores.new_empty(len(weight))
    return torch.empty_like(states), torch.empty_like(width), torch.empty_like(weight), bias


span_scores_operation.register_autograd(
    partial(_backward, function=_gradient_operation), setup_context=_save_for_backward
)
