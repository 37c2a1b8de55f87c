"""The dense contract: scores, best tilings and marginals of edge potentials.

`edge[b, s, d, c, c']` [B, T-1, K, C, C] scores, in nats, the segment of type c that starts at
boundary s, lasts d steps and follows type c'. T counts boundaries; index 0 of the axis K is unused,
save that K = 1 means that index 0 is duration 1.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from hf_semicrf.ops.checks import (
    check_memory,
    check_scores,
    check_tensors,
    checked,
    refuse_untold,
    told,
    values_are_checked,
)
from hf_semicrf.ops.dense.operators import (
    dense_kernel,
    dense_kernel_gradient,
    dense_path,
    dense_scan,
    dense_scan_gradient,
)
from hf_semicrf.ops.host.magnitude import unusable
from hf_semicrf.ops.potentials import Potentials, only_read, segment_scores
from hf_semicrf.ops.routing import dense_route

_SEMIRINGS = ("log", "max")


def _check(edge: Tensor, lengths: Tensor, semiring: str = "log") -> None:
    """Raise ValueError for what shapes and dtypes tell, and on the CPU for NaN and +inf."""
    check_tensors(edge=edge, lengths=lengths)
    if semiring not in _SEMIRINGS:
        raise ValueError(f"semiring must be 'log' or 'max', got {semiring!r}")
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
    if values_are_checked(edge.device) and lengths.device.type == "cpu" and edge.numel():
        legal = 1 <= lengths.min() and lengths.max() <= edge.shape[1] + 1
        if legal and not float(edge.detach().amax()) < torch.inf:
            check_scores({"edge": torch.where(_used(edge, lengths), edge, 0)}, {"edge"})


def _used(edge: Tensor, lengths: Tensor) -> Tensor:
    """Which entries of edge some tiling uses [B, T-1, K, 1, 1] bool."""
    rows, size = edge.shape[1:3]
    duration = torch.arange(size) if size > 1 else torch.ones(1, dtype=torch.long)
    stops = torch.arange(rows)[:, None] + duration
    used = (duration >= 1) & (stops < lengths[:, None, None])
    return used[..., None, None]


def _told(edge: Tensor, lengths: Tensor, score: Tensor) -> Tensor:
    """The score [B]; on the CPU an error where one is NaN."""
    if lengths.device.type == "cpu":
        refuse_untold(score, {"edge": torch.where(_used(edge, lengths), edge, 0)}, {"edge"})
    return score


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
    return _told(edge, lengths, dense_scan(edge, lengths, semiring, False, False)[0])


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
        impossible scores NaN. On the GPU and in compiled code so does one with NaN, ``+inf`` or
        scores too large for float64 to tell tilings apart; its whole gradient is NaN too.

    Raises:
        ValueError: If shapes, dtypes, the semiring or lengths on the CPU are not as stated, or
            scores on the CPU are NaN, ``+inf`` or too large for float64 to tell tilings apart.
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
        return dense_kernel(edge, lengths, semiring)[0]
    score = dense_scan(edge, lengths, semiring, validate, route == "compiled")[0]
    return _told(edge, lengths, score)


def edge_viterbi(
    edge: Tensor, lengths: Tensor, use_triton: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Find the best tiling.

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
    score, path = dense_path(edge, lengths, route == "kernel")
    score = _told(edge, lengths, score)
    types = edge.shape[-1]
    starts = path >= 0
    step = torch.arange(path.shape[1], device=edge.device)
    origin = torch.where(starts, step, 0).cummax(1).values
    labels = path.gather(1, origin) // types % types
    inside = step < lengths.to(edge.device)[:, None] - 1
    inside &= ~score.isnan()[:, None]
    return score, torch.where(inside, labels, -1), starts


def edge_marginals(edge: Tensor, lengths: Tensor, use_triton: bool = True) -> Tensor:
    """Compute the posterior probability of every edge: exp(beta + edge + gamma - logZ).

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
        found = dense_kernel(edge, lengths, "log")
        return dense_kernel_gradient(edge, lengths, *found, ones, "log")
    score, beta = dense_scan(edge, lengths, "log", False, True)
    _told(edge, lengths, score)
    return dense_scan_gradient(edge, lengths, beta, ones, "log", False)


def to_edge(p: Potentials) -> Tensor:
    """Expand potentials to the dense tensor ``edge[b, start, duration, c_dst, c_src]``, nats.

    ``initial`` stands in the first segment's entries with source type 0 (``-inf`` for the other
    sources, so that the free source adds nothing), ``final`` in the entries that end a sentence.
    Then ``semi_crf_triton_forward(to_edge(p), p.lengths + 1)`` equals ``log_partition(p)``.
    Differentiable. B N (L+1) C^2 numbers: for tests and small inputs.

    Args:
        p: Potentials.

    Returns:
        Edge potentials [B, N, L + 1, C, C]; index 0 of the durations is unused and ``-inf``, as is
        what no segmentation uses.

    Raises:
        ValueError: Shapes, dtypes, devices or lengths do not fit.
        ScoreError: A score is too large to be added to others; looked at on the CPU only.
        MemoryError: The tensor is larger than the memory that is free.
    """
    p = checked(p, scores_too=False)
    batch, positions, longest, types = p.sizes
    device = p.lengths.device
    check_memory((batch, positions, longest + 1, types, types), p.duration)
    p = checked(p)
    if values_are_checked(device):  # an edge is a sum: what cancels in it takes the rest along
        told(p, torch.where(unusable(only_read(p)), torch.nan, 0.0))
    first = torch.full_like(p.transition, -torch.inf)
    first[:, 0] = p.initial
    source = p.transition.T.expand(positions - 1, types, types)
    source = torch.cat([first[None], source])  # [N, C_dst, C_src]
    n = torch.arange(positions, device=device)
    slices = [p.duration.new_full((batch, positions, types, types), -torch.inf)]
    for d, (lo, score) in enumerate(segment_scores(p, 0, positions)):
        stops = n[: positions - lo] + d + 1
        score = torch.where((stops == p.lengths[:, None])[..., None], score + p.final, score)
        score = torch.where((stops <= p.lengths[:, None])[..., None], score, -torch.inf)
        dense = score[..., None] + source[: positions - lo]
        slices.append(torch.nn.functional.pad(dense, (0, 0, 0, 0, 0, lo), value=-torch.inf))
    slices += slices[:1] * (longest + 1 - len(slices))
    return torch.stack(slices, 2)
