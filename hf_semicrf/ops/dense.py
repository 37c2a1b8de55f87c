"""The dense contract: scores, gradients, best paths and marginals of edge potentials.

`edge[b, s, d, c, c']` [B, T-1, K, C, C] scores, in nats, the segment of type c that starts at
boundary s, lasts d steps and follows type c'. T counts boundaries; index 0 of the axis K is unused,
save that K = 1 means that index 0 is duration 1. Each operator is opaque to torch.compile, so that
a graph holds one node whatever T is.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from . import dense_scan as scans
from .routing import dense_route

_SEMIRINGS = ("log", "max")


def _check(edge: Tensor, lengths: Tensor, semiring: str = "log") -> None:
    """Raise ValueError for what shapes and dtypes tell."""
    if semiring not in _SEMIRINGS:
        raise ValueError(f"expected semiring 'log' or 'max', got {semiring!r}")
    if edge.dim() != 5 or edge.shape[3] != edge.shape[4] or 0 in edge.shape[2:]:
        raise ValueError(
            f"expected edge of shape [B, T-1, K, C, C], K and C >= 1, got {list(edge.shape)}"
        )
    if not edge.is_floating_point():
        raise ValueError(f"expected floating point potentials, got {edge.dtype}")
    if lengths.shape != edge.shape[:1]:
        raise ValueError(f"expected lengths of shape [{edge.shape[0]}], got {list(lengths.shape)}")
    if lengths.is_floating_point() or lengths.is_complex() or lengths.dtype == torch.bool:
        raise ValueError(f"expected lengths of an integer dtype, got {lengths.dtype}")


def _boundaries(edge: Tensor, lengths: Tensor, refuse: bool = False) -> tuple[Tensor, Tensor]:
    """Lengths on edge's device within 1..T, and [B] whether each one was.

    Lengths that live on the CPU are checked there; on the GPU a check would synchronise, so it is
    made only if `refuse`, and the score of a sequence of an impossible length is NaN otherwise.

    Raises:
        ValueError: If a length is seen to lie outside 1..T.
    """
    most = edge.shape[1] + 1
    legal = (lengths >= 1) & (lengths <= most)
    if (refuse or lengths.device.type == "cpu") and not bool(legal.all()):
        wrong = lengths[~legal].tolist()
        raise ValueError(f"expected lengths in 1..{most} (boundaries), got {wrong[:8]}")
    clamped = lengths.to(torch.int64).clamp(1, most)
    return clamped.to(edge.device), legal.to(edge.device)


# --- PyTorch -------------------------------------------------------------------------------------


@torch.library.custom_op("hf_semicrf::dense_scan", mutates_args=())
def _scan(
    edge: Tensor, lengths: Tensor, semiring: str, validate: bool, keep: bool
) -> tuple[Tensor, Tensor]:
    bounds, legal = _boundaries(edge, lengths, refuse=validate)
    dtype = scans.tile_dtype(edge.dtype, validate)
    score, beta = scans.scan(edge, bounds, semiring, dtype, keep)
    return torch.where(legal, score, torch.nan).to(edge.dtype), beta


@_scan.register_fake
def _(edge, lengths, semiring, validate, keep):
    batch, rows, _, types, _ = edge.shape
    beta = edge.new_empty((batch, rows + 1 if keep else 0, types), dtype=torch.float64)
    return edge.new_empty((batch,)), beta


@torch.library.custom_op("hf_semicrf::dense_scan_gradient", mutates_args=())
def _scan_gradient(
    edge: Tensor, lengths: Tensor, beta: Tensor, scale: Tensor, semiring: str, validate: bool
) -> Tensor:
    bounds, _ = _boundaries(edge, lengths)
    dtype = scans.tile_dtype(edge.dtype, validate)
    if beta.shape[1] == 0:
        beta = scans.scan(edge, bounds, semiring, dtype, keep=True)[1]
    if semiring == "log":
        return scans.scan_gradient(edge, bounds, beta, dtype, scale)
    score = beta[torch.arange(len(beta), device=edge.device), bounds - 1].amax(-1)
    return _on_path(edge, scans.trace(edge, bounds, beta), scale * score.isfinite())


@_scan_gradient.register_fake
def _(edge, lengths, beta, scale, semiring, validate):
    return torch.empty_like(edge, memory_format=torch.contiguous_format)


def _save_scan(ctx, inputs, output):
    edge, lengths, ctx.semiring, ctx.validate, _ = inputs
    ctx.save_for_backward(edge, lengths, output[1])
    ctx.set_materialize_grads(False)


def _backward_scan(ctx, scale, _):
    if scale is None:
        return None, None, None, None, None
    edge, lengths, beta = ctx.saved_tensors
    gradient = _scan_gradient(edge, lengths, beta, scale, ctx.semiring, ctx.validate)
    return gradient, None, None, None, None


_scan.register_autograd(_backward_scan, setup_context=_save_scan)


def _on_path(edge: Tensor, path: Tensor, scale: Tensor) -> Tensor:
    """A tensor like edge with scale [B] on the edges of path [B, T-1] and zero elsewhere."""
    gradient = torch.zeros(edge.shape, dtype=edge.dtype, device=edge.device)
    value = (scale[:, None] * (path >= 0)).to(edge.dtype)
    gradient.flatten(2).scatter_(2, path.clamp(min=0)[..., None], value[..., None])
    return gradient


# --- Triton --------------------------------------------------------------------------------------


@torch.library.custom_op("hf_semicrf::dense_kernel", mutates_args=())
def _kernel(edge: Tensor, lengths: Tensor, semiring: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from . import dense_triton

    edge = edge.contiguous()
    bounds, legal = _boundaries(edge, lengths)
    score, states = dense_triton.forward(edge, bounds, semiring, dense_triton.plan(edge))
    return torch.where(legal, score, torch.nan).to(edge.dtype), *states


@_kernel.register_fake
def _(edge, lengths, semiring):
    batch, rows, _, types, _ = edge.shape
    beta = edge.new_empty((batch, rows + 1, types), dtype=torch.float64)
    return edge.new_empty((batch,)), beta, torch.empty_like(beta), beta.new_empty((batch, 2))


@torch.library.custom_op("hf_semicrf::dense_kernel_gradient", mutates_args=())
def _kernel_gradient(
    edge: Tensor, lengths: Tensor, beta: Tensor, gamma: Tensor, anchors: Tensor, scale: Tensor,
    semiring: str,
) -> Tensor:  # fmt: skip
    from . import dense_triton

    edge = edge.contiguous()
    bounds, _ = _boundaries(edge, lengths)
    states = dense_triton.States(beta, gamma, anchors)
    cut = dense_triton.plan(edge)
    if semiring == "log":
        return dense_triton.gradient(edge, bounds, states, scale.contiguous(), cut)
    score, path = dense_triton.path(edge, bounds, states, cut)
    return _on_path(edge, path, scale * score.isfinite())


@_kernel_gradient.register_fake
def _(edge, lengths, beta, gamma, anchors, scale, semiring):
    return torch.empty_like(edge, memory_format=torch.contiguous_format)


def _save_kernel(ctx, inputs, output):
    edge, lengths, ctx.semiring = inputs
    ctx.save_for_backward(edge, lengths, *output[1:])
    ctx.set_materialize_grads(False)


def _backward_kernel(ctx, scale, *_):
    if scale is None:
        return None, None, None
    gradient = _kernel_gradient(*ctx.saved_tensors, scale, ctx.semiring)
    return gradient, None, None


_kernel.register_autograd(_backward_kernel, setup_context=_save_kernel)


# --- best path -----------------------------------------------------------------------------------


@torch.library.custom_op("hf_semicrf::dense_path", mutates_args=())
def _path(edge: Tensor, lengths: Tensor, use_triton: bool) -> tuple[Tensor, Tensor]:
    bounds, legal = _boundaries(edge, lengths)
    if use_triton:
        from . import dense_triton

        edge = edge.contiguous()
        cut = dense_triton.plan(edge)
        _, states = dense_triton.forward(edge, bounds, "max", cut)
        score, path = dense_triton.path(edge, bounds, states, cut)
    else:
        score, beta = scans.scan(edge, bounds, "max", scans.tile_dtype(edge.dtype), keep=True)
        path = scans.trace(edge, bounds, beta)
    return torch.where(legal, score, torch.nan).to(edge.dtype), path


@_path.register_fake
def _(edge, lengths, use_triton):
    batch, rows = edge.shape[:2]
    return edge.new_empty((batch,)), edge.new_empty((batch, rows), dtype=torch.int64)


# --- double backward -----------------------------------------------------------------------------


def _refuse(ctx, *_):
    raise RuntimeError(
        "the gradient of a dense semi-CRF score cannot be differentiated again: double backward is "
        "not supported; detach the gradient, or use create_graph=False"
    )


for _operator in (_scan_gradient, _kernel_gradient):
    _operator.register_autograd(_refuse)


# --- public --------------------------------------------------------------------------------------


def linear_scan_streaming(edge: Tensor, lengths: Tensor, semiring: Literal["log", "max"] = "log"):
    """Sum or maximise over all tilings, in PyTorch, on any device.

    The recurrence keeps a window of O(B·K·C) and no autograd graph of T steps: the gradient is
    computed on request from two more passes. The time is O(T·K·C²) in T sequential steps.

    Args:
        edge: Potentials [B, T-1, K, C, C], nats; any strides.
        lengths: Boundaries of each sequence [B], integers in 1..T.
        semiring: `"log"` for the log partition function, `"max"` for the best score.

    Returns:
        Score [B] in nats, of edge's dtype.

    Raises:
        ValueError: If shapes, dtypes, the semiring or lengths on the CPU are not as stated.
    """
    _check(edge, lengths, semiring)
    return _scan(edge, lengths, semiring, False, False)[0]


def semi_crf_triton_forward(
    edge: Tensor,
    lengths: Tensor,
    use_triton: bool = True,
    validate: bool = False,
    semiring: Literal["log", "max"] = "log",
    use_compile: bool = True,
) -> Tensor:
    """Sum or maximise over all tilings of `lengths - 1` steps.

        beta[0] = 0,   beta[n, c] = ⊕_{d, c'} beta[n-d, c'] + edge[n-d, d, c, c'],   ⊕_c beta[N, c]

    The source type of the first segment is free, with weight 0. `-inf` is a legal potential.
    Entries that no tiling uses have no influence, be they NaN, and get a gradient of exactly zero.
    The gradient is the edge marginals (log) or one best path (max), deterministic; it cannot be
    differentiated again.

    Args:
        edge: Potentials [B, T-1, K, C, C] as (start, duration, c_dst, c_src), nats. Index 0 of the
            axis K is unused, save that K = 1 means that index 0 is duration 1.
        lengths: Boundaries of each sequence [B], integers in 1..T.
        use_triton: Use Triton on CUDA tensors; other devices are served by PyTorch.
        validate: Compute in float64, in PyTorch, and check lengths on the GPU too (synchronises).
        semiring: `"log"` for the log partition function, `"max"` for the best score.
        use_compile: Train through the operators made for torch.compile; False keeps nothing that
            grows with T for the backward pass, which computes it again, in PyTorch.

    Returns:
        Score [B] in nats, of edge's dtype. A sequence whose length lies on the GPU and is
        impossible scores NaN.

    Raises:
        ValueError: If shapes, dtypes, the semiring or lengths on the CPU are not as stated.
        RuntimeError: If Triton is asked for on CUDA and not installed.

    Cost: O(T·K·C²), each used edge read once; with the gradient, read three times and written once.
    """
    _check(edge, lengths, semiring)
    route = dense_route(
        edge.device.type,
        torch.is_grad_enabled() and edge.requires_grad,
        use_triton=use_triton,
        validate=validate,
        use_compile=use_compile,
    )
    if use_triton and edge.is_cuda and route in ("kernel", "compiled"):
        return _kernel(edge, lengths, semiring)[0]
    return _scan(edge, lengths, semiring, validate, route == "compiled")[0]


def edge_viterbi(
    edge: Tensor, lengths: Tensor, use_triton: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """The best tiling.

    Args:
        edge: Potentials [B, T-1, K, C, C], nats.
        lengths: Boundaries of each sequence [B], integers in 1..T.
        use_triton: Use Triton on CUDA tensors.

    Returns:
        score [B] (nats), labels [B, T-1] (type of each step, -1 past the last one) and starts
        [B, T-1] (whether a segment starts there). No gradient: differentiate the score of
        `semi_crf_triton_forward(..., semiring="max")` instead.

    Raises:
        ValueError: If shapes, dtypes or lengths on the CPU are not as stated.
        RuntimeError: If Triton is asked for on CUDA and not installed.
    """
    _check(edge, lengths)
    edge = edge.detach()
    route = dense_route(edge.device.type, False, use_triton=use_triton)
    score, path = _path(edge, lengths, route == "kernel")
    types = edge.shape[-1]
    starts = path >= 0
    step = torch.arange(path.shape[1], device=edge.device)
    origin = torch.where(starts, step, 0).cummax(1).values
    labels = path.gather(1, origin) // types % types
    inside = step < lengths.to(edge.device)[:, None] - 1
    return score, torch.where(inside, labels, -1), starts


def edge_marginals(edge: Tensor, lengths: Tensor, use_triton: bool = True) -> Tensor:
    """The posterior probability of every edge: exp(beta + edge + gamma - logZ).

    Args:
        edge: Potentials [B, T-1, K, C, C], nats.
        lengths: Boundaries of each sequence [B], integers in 1..T.
        use_triton: Use Triton on CUDA tensors.

    Returns:
        Probabilities [B, T-1, K, C, C] of edge's dtype, without a gradient; they cost as much
        memory as edge. The sum of duration times probability is `lengths - 1`.

    Raises:
        ValueError: If shapes, dtypes or lengths on the CPU are not as stated.
        RuntimeError: If Triton is asked for on CUDA and not installed.
    """
    _check(edge, lengths)
    edge = edge.detach()
    route = dense_route(edge.device.type, False, use_triton=use_triton)
    ones = edge.new_ones((edge.shape[0],))
    if route == "kernel":
        _, *states = _kernel(edge, lengths, "log")
        return _kernel_gradient(edge, lengths, *states, ones, "log")
    beta = edge.new_empty((edge.shape[0], 0, edge.shape[-1]), dtype=torch.float64)
    return _scan_gradient(edge, lengths, beta, ones, "log", False)
