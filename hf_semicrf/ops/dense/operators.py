"""Custom ops of the dense contract: scores, their gradients and best paths of edge potentials.

Each op is opaque to torch.compile, so that a graph holds one node whatever T is. ``dense_scan`` and
``dense_scan_gradient`` run in PyTorch, ``dense_kernel`` and ``dense_kernel_gradient`` on Triton,
``dense_path`` on either.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hf_semicrf.ops.dense import scan
from hf_semicrf.ops.host.magnitude import narrowed


def _lengths_on_device(
    edge: Tensor, lengths: Tensor, synchronise: bool = False
) -> tuple[Tensor, Tensor]:
    """Move lengths to edge's device, within 1..T, and say whether each was [B] bool.

    Lengths that live on the CPU are checked there. On the GPU a check would synchronise, so it is
    made only if asked for; the score of a sequence of an impossible length is NaN otherwise.

    Raises:
        ValueError: If a length is seen to lie outside 1..T.
    """
    most = edge.shape[1] + 1
    legal = (lengths >= 1) & (lengths <= most)
    if (synchronise or lengths.device.type == "cpu") and not bool(legal.all()):
        wrong = lengths[~legal].tolist()
        raise ValueError(f"expected lengths in 1..{most} (boundaries), got {wrong[:8]}")
    clamped = lengths.to(torch.int64).clamp(1, most)
    return clamped.to(edge.device), legal.to(edge.device)


def _gradient_on_path(edge: Tensor, path: Tensor, score: Tensor, grad_score: Tensor) -> Tensor:
    """Spread grad_score [B] over the edges of path [B, T-1]: a tensor like edge, zero elsewhere.

    NaN where the score is, 0 throughout where no tiling is legal.
    """
    elsewhere = torch.where(score.isnan(), torch.nan, 0.0).to(edge.dtype)
    gradient = elsewhere[:, None, None, None, None].expand(edge.shape).contiguous()
    counted = (path >= 0) & score.isfinite()[:, None]
    value = torch.where(counted, grad_score.to(edge.dtype)[:, None], elsewhere[:, None])
    gradient.flatten(2).scatter_(2, path.clamp(min=0)[..., None], value[..., None])
    return gradient


@torch.library.custom_op("hf_semicrf::dense_scan", mutates_args=())
def dense_scan(
    edge: Tensor, lengths: Tensor, semiring: str, validate: bool, keep_states: bool
) -> tuple[Tensor, Tensor]:
    """Score [B] in edge's dtype and states beta [B, T, C], or [B, 0, C] where they are not kept."""
    lengths, legal = _lengths_on_device(edge, lengths, synchronise=validate)
    score, beta = scan.scan(edge, lengths, semiring, keep_states)
    return narrowed(torch.where(legal, score, torch.nan), edge.dtype), beta


@dense_scan.register_fake
def _(edge, lengths, semiring, validate, keep_states):
    batch, rows, _, types, _ = edge.shape
    beta = edge.new_empty((batch, rows + 1 if keep_states else 0, types), dtype=torch.float64)
    return edge.new_empty((batch,)), beta


@torch.library.custom_op("hf_semicrf::dense_scan_gradient", mutates_args=())
def dense_scan_gradient(
    edge: Tensor, lengths: Tensor, beta: Tensor, grad_score: Tensor, semiring: str, validate: bool
) -> Tensor:
    """Gradient of edge; the states are computed again where none were kept."""
    lengths, _ = _lengths_on_device(edge, lengths)
    if beta.shape[1] == 0:
        beta = scan.scan(edge, lengths, semiring, keep_states=True)[1]
    if semiring == "log":
        return scan.scan_gradient(edge, lengths, beta, grad_score)
    score = beta[torch.arange(len(beta), device=edge.device), lengths - 1].amax(-1)
    path = scan.trace(edge, lengths, beta)
    return _gradient_on_path(edge, path, score, grad_score)


@dense_scan_gradient.register_fake
def _(edge, lengths, beta, grad_score, semiring, validate):
    return torch.empty_like(edge, memory_format=torch.contiguous_format)


def _save_scan(ctx, inputs, output):
    edge, lengths, ctx.semiring, ctx.validate, _ = inputs
    ctx.save_for_backward(edge, lengths, output[1])
    ctx.set_materialize_grads(False)


def _backward_scan(ctx, grad_score, _):
    if grad_score is None:
        return None, None, None, None, None
    edge, lengths, beta = ctx.saved_tensors
    gradient = dense_scan_gradient(edge, lengths, beta, grad_score, ctx.semiring, ctx.validate)
    return gradient, None, None, None, None


dense_scan.register_autograd(_backward_scan, setup_context=_save_scan)


@torch.library.custom_op("hf_semicrf::dense_kernel", mutates_args=())
def dense_kernel(
    edge: Tensor, lengths: Tensor, semiring: str
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Score [B] in edge's dtype, and `launches.States`."""
    from hf_semicrf.ops.dense import launches

    edge = edge.contiguous()
    lengths, legal = _lengths_on_device(edge, lengths)
    score, states = launches.forward(edge, lengths, semiring, launches.plan(edge))
    return narrowed(torch.where(legal, score, torch.nan), edge.dtype), *states


@dense_kernel.register_fake
def _(edge, lengths, semiring):
    from hf_semicrf.ops.dense import launches

    return edge.new_empty((edge.shape[0],)), *launches.States.empty(edge, semiring)


@torch.library.custom_op("hf_semicrf::dense_kernel_gradient", mutates_args=())
def dense_kernel_gradient(
    edge: Tensor,
    lengths: Tensor,
    score: Tensor,
    beta: Tensor,
    gamma: Tensor,
    anchors: Tensor,
    precise: Tensor,
    nearest: Tensor,
    grad_score: Tensor,
    semiring: str,
) -> Tensor:
    """Gradient of edge, from what the forward pass returned."""
    from hf_semicrf.ops.dense import launches

    edge = edge.contiguous()
    lengths, _ = _lengths_on_device(edge, lengths)
    states = launches.States(beta, gamma, anchors, precise, nearest)
    if semiring == "log":
        layout = launches.plan(edge)
        return launches.gradient(edge, lengths, score, states, grad_score.contiguous(), layout)
    path = launches.path(edge, lengths, score, states)
    return _gradient_on_path(edge, path, score, grad_score)


@dense_kernel_gradient.register_fake
def _(edge, lengths, score, beta, gamma, anchors, precise, nearest, grad_score, semiring):
    return torch.empty_like(edge, memory_format=torch.contiguous_format)


def _save_kernel(ctx, inputs, output):
    edge, lengths, ctx.semiring = inputs
    ctx.save_for_backward(edge, lengths, *output)
    ctx.set_materialize_grads(False)


def _backward_kernel(ctx, grad_score, *_):
    if grad_score is None:
        return None, None, None
    gradient = dense_kernel_gradient(*ctx.saved_tensors, grad_score, ctx.semiring)
    return gradient, None, None


dense_kernel.register_autograd(_backward_kernel, setup_context=_save_kernel)


@torch.library.custom_op("hf_semicrf::dense_path", mutates_args=())
def dense_path(edge: Tensor, lengths: Tensor, use_triton: bool) -> tuple[Tensor, Tensor]:
    """Best score [B] in edge's dtype and its path [B, T-1], as :func:`scan.trace` returns it."""
    lengths, legal = _lengths_on_device(edge, lengths)
    if use_triton:
        from hf_semicrf.ops.dense import launches

        edge = edge.contiguous()
        score, states = launches.forward(edge, lengths, "max", launches.plan(edge))
        path = launches.path(edge, lengths, score, states)
    else:
        score, beta = scan.scan(edge, lengths, "max", keep_states=True)
        path = scan.trace(edge, lengths, beta)
    score = narrowed(torch.where(legal, score, torch.nan), edge.dtype)
    return score, torch.where(score.isnan()[:, None], -1, path)


@dense_path.register_fake
def _(edge, lengths, use_triton):
    batch, rows = edge.shape[:2]
    return edge.new_empty((batch,)), edge.new_empty((batch, rows), dtype=torch.int64)


def _refuse_double_backward(ctx, *_):
    raise RuntimeError(
        "the gradient of a dense semi-CRF score cannot be differentiated again: double backward is "
        "not supported; detach the gradient, or use create_graph=False"
    )


for _operator in (dense_scan_gradient, dense_kernel_gradient):
    _operator.register_autograd(_refuse_double_backward)
