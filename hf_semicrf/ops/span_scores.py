"""Scores of segments as wholes: a small network on their ends, their content and their width.

A custom op for torch.compile, and called as it is where nothing is compiled. On a GPU it runs as
one kernel that forms no features in memory; PyTorch holds those of a part of the text at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import gelu, linear, pad
from torch.utils.checkpoint import checkpoint

from hf_semicrf.ops.registry import kernels

CHUNK_ELEMENTS = 1 << 26  # features held at once, before they are recomputed

Content = Literal["mean", "max"]


def span_scores(
    states: Tensor,
    width: Tensor,
    weight: Tensor,
    bias: Tensor,
    dropout: float,
    content: Content,
    backend: str,
) -> Tensor:
    """Score every segment of a text.

    The features of a segment are the sum of its first and last states, its content and its width,
    through a GELU. O(N L W C) time; O(N W + N L C) memory on Triton, which runs the mean of states
    in half precision and float32; else ``CHUNK_ELEMENTS`` more.

    Args:
        states: Of each position, W units where it is the first of a segment, W where it is the last
            and W where it lies inside [B, N, 3 W].
        width: Added for each length, less one [L, W].
        weight: What the features score in each type [C, W].
        bias: Of each type [C].
        dropout: Probability of dropping a unit of all segments that start at a position.
        content: Whether a segment's content is the mean or the maximum of its inside states.
        backend: "torch" or "triton".

    Returns:
        Scores by start and length less one [B, N, L, C], float32 at least; those of segments that
        reach past the last position are of no use.
    """
    kept = None
    if dropout:
        shape = (*states.shape[:2], weight.shape[1])
        kept = torch.empty(shape, dtype=torch.bool, device=states.device).bernoulli_(1 - dropout)
    scale = 1 / (1 - dropout) if dropout < 1 else 0.0
    inputs = (states.contiguous(), width, weight, bias, kept, scale)
    if backend == "torch" or content == "max" or states.dtype == torch.float64:
        return reference(*inputs, content)
    return _operation(*inputs) if torch.compiler.is_compiling() else direct(*inputs)


def reference(
    states: Tensor,
    width: Tensor,
    weight: Tensor,
    bias: Tensor,
    kept: Tensor | None,
    scale: float,
    content: Content = "mean",
) -> Tensor:
    """The PyTorch implementation.

    Args:
        states: As those of :func:`span_scores`, like the next three.
        width: Likewise.
        weight: Likewise.
        bias: Likewise.
        kept: Units that dropout leaves of the segments from each start [B, N, W] bool, or None.
        scale: What those are multiplied by.
        content: As that of :func:`span_scores`.
    """
    dtype = torch.promote_types(states.dtype, torch.float32)
    first, last, inside = states.to(dtype).chunk(3, dim=-1)
    positions, longest = states.shape[1], len(width)
    before = None
    if content == "mean":  # the difference of two sums up to a boundary
        sums = pad(inside.cumsum(1), (0, 0, 1, 0))
        before, inside = sums[:, :-1], sums[:, 1:]
    parts = (first, windows(last, longest), windows(inside, longest), before, kept)
    shared = (width.to(dtype), weight.to(dtype), bias.to(dtype), scale)
    if torch.compiler.is_exporting():  # the number of pieces may not depend on the size
        return _scores(*parts, *shared)
    size = max(1, CHUNK_ELEMENTS // (first[:, :1].numel() * longest))
    chunks = []
    for begin in range(0, positions, size):
        rows = (None if x is None else x[:, begin : begin + size] for x in parts)
        of_chunk: list[Any] = [*rows, *shared]
        if size < positions and torch.is_grad_enabled():
            chunks.append(checkpoint(_scores, *of_chunk, use_reentrant=False))
        else:
            chunks.append(_scores(*of_chunk))
    return torch.cat(chunks, 1)


def _scores(
    first: Tensor,
    last: Tensor,
    inside: Tensor,
    before: Tensor | None,
    kept: Tensor | None,
    width: Tensor,
    weight: Tensor,
    bias: Tensor,
    scale: float,
) -> Tensor:
    """Scores [B, n, L, C] of the segments of all lengths that begin at n positions.

    Args:
        first: States where they begin [B, n, W].
        last: States where they end [B, n, L, W].
        inside: States from their begin on, or for a mean the sums of the states up to each of them
            [B, n, L, W].
        before: For a mean the sum of the states before they begin [B, n, W].
        kept: Units that dropout leaves [B, n, W], or None.
        width: Of each length [L, W].
        weight: Of the features in each type [C, W].
        bias: Of each type [C].
        scale: What dropout multiplies with.
    """
    # in place from the first sum on: these are the largest tensors there are
    if before is None:
        x = inside.cummax(2).values + first[:, :, None]
    else:
        lengths = torch.arange(1, inside.shape[2] + 1, device=inside.device)
        x = (inside - before[:, :, None]).div_(lengths[:, None]).add_(first[:, :, None])
    features = gelu(x.add_(last).add_(width))
    if kept is not None:
        features = features * (kept.to(features.dtype) * scale)[:, :, None]
    return linear(features, weight, bias)


def windows(states: Tensor, longest: int) -> Tensor:
    """From states [B, N, ...] those of the positions from each on [B, N, L, ...], as a view."""
    padded = pad(states, (0, 0) * (states.ndim - 2) + (0, longest - 1))
    if torch.compiler.is_exporting():  # a view would tie the graph to more than a few positions
        n = torch.arange(states.shape[1], device=states.device)[:, None]
        return padded[:, n + torch.arange(longest, device=states.device)]
    return padded.unfold(1, longest, 1).movedim(-1, 2)


def _save_for_backward(ctx, inputs, output) -> None:
    states, width, weight, bias, kept, ctx.scale = inputs
    ctx.save_for_backward(states, width, weight, *([] if kept is None else [kept]))
    ctx.bias_dtype = bias.dtype


def _backward(ctx, gradient: Tensor, *, function: Callable[..., Any]):
    states, width, weight, *kept = ctx.saved_tensors
    inputs = (gradient.contiguous(), states, width, weight, kept[0] if kept else None, ctx.scale)
    *of_inputs, of_bias = function(*inputs)
    return *of_inputs, of_bias.to(ctx.bias_dtype), None, None


class _Direct(torch.autograd.Function):
    """The kernels with their gradient, without the dispatcher."""

    @staticmethod
    def forward(ctx, *inputs):
        output = kernels("span_scores").span_scores(*inputs)
        _save_for_backward(ctx, inputs, output)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        return _backward(ctx, gradient, function=kernels("span_scores").span_scores_gradient)


direct = _Direct.apply


@torch.library.custom_op("hf_semicrf::span_scores", mutates_args=())
def _operation(
    states: Tensor, width: Tensor, weight: Tensor, bias: Tensor, kept: Tensor | None, scale: float
) -> Tensor:
    return kernels("span_scores").span_scores(states, width, weight, bias, kept, scale)


@_operation.register_fake
def _(states, width, weight, bias, kept, scale):
    dtype = torch.promote_types(states.dtype, torch.float32)
    return states.new_empty(*states.shape[:2], len(width), len(bias), dtype=dtype)


@torch.library.custom_op("hf_semicrf::span_scores_gradient", mutates_args=())
def _gradient_operation(
    gradient: Tensor,
    states: Tensor,
    width: Tensor,
    weight: Tensor,
    kept: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return kernels("span_scores").span_scores_gradient(gradient, states, width, weight, kept, scale)


@_gradient_operation.register_fake
def _(gradient, states, width, weight, kept, scale):
    bias = gradient.new_empty(len(weight))
    return torch.empty_like(states), torch.empty_like(width), torch.empty_like(weight), bias


_operation.register_autograd(
    partial(_backward, function=_gradient_operation), setup_context=_save_for_backward
)
