"""The entropy as a sum over choices, and its derivative.

Read from right to left, a segmentation is drawn choice by choice: the last type, the length of each
segment given its end and type, and the type before it given its start and type. Its entropy is that
of each choice, times the probability that the choice comes up:

    H = H(c_J) + sum_{e, c} p(e, c) H(d | e, c) + sum_{s > 0, c} p(s, c) H(c' | s, c)

No term is larger than the logarithm of the number of choices, so that no digits are lost where
scores are large, as they are in log Z less the expected score. The gradient is minus the covariance
of the score and the counts.

Source: Hernando, Crespi and Cybenko (2005), "Efficient Computation of the Hidden Markov Model
Entropy for a Given Observation Sequence", for segments.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hf_semicrf.ops.host import covariance
from hf_semicrf.ops.host.boundaries import log_sums
from hf_semicrf.ops.host.magnitude import centred, prepare_for
from hf_semicrf.ops.host.scan import BLOCK_ELEMENTS
from hf_semicrf.ops.potentials import Potentials, segment_scores
from hf_semicrf.ops.registry import operation, split_potentials


def entropy(p: Potentials, backend: str) -> Tensor:
    """Compute the entropy in nats, float64 [B]; -inf where no segmentation is legal."""
    return _entropy(*p, backend)


@operation(1, "str backend")
def _entropy(*inputs):
    p, (backend,) = split_potentials(inputs)
    prepared = prepare_for(backend, p)
    p = prepared.potentials
    sums = log_sums(p, backend)
    batch, positions, _, types = p.sizes
    log_z = prepared.told(sums.log_z)
    shift = torch.where(log_z == -torch.inf, 0, log_z)[:, None, None]
    n = torch.arange(positions + 1, device=log_z.device)
    # log-probabilities that a segment starts or ends at a boundary [B, N + 1, C]
    starting = sums.pre + sums.beta - shift
    ending = sums.alpha + sums.post - shift
    inner = ((n > 0) & (n < p.lengths[:, None]))[..., None]
    starting = starting.masked_fill(~inner, -torch.inf)
    ending = ending.masked_fill((n > p.lengths[:, None])[..., None], -torch.inf)

    last = sums.alpha[torch.arange(batch, device=n.device), p.lengths] + p.final
    total = _surprise(last - shift[:, 0]).sum(-1)
    for lo, score in segment_scores(p, 0, positions):
        # [B, N - lo, C]
        choice = sums.pre[:, : positions - lo] + score - _finite(sums.alpha[:, lo + 1 :])
        total = total + _weighted(ending[:, lo + 1 :], choice).sum((1, 2))
    size = max(1, BLOCK_ELEMENTS // (batch * types * types))
    for first in range(1, positions, size):
        block = slice(first, min(first + size, positions))
        # [B, n, C_src, C_dst] for n boundaries
        step = (
            sums.alpha[:, block, :, None] + p.transition - _finite(sums.pre[:, block])[:, :, None]
        )
        total = total + _weighted(starting[:, block, None], step).sum((1, 2, 3))
    return torch.where(log_z == -torch.inf, log_z, total)


@_entropy.register_fake
def _(*args):
    lengths = args[8]
    return lengths.new_empty(lengths.shape, dtype=torch.float64)


def _finite(x: Tensor) -> Tensor:
    """Read log-sums as shifts: 0 where nothing but -inf was summed up."""
    return torch.where(x == -torch.inf, 0, x)


def _surprise(log_p: Tensor) -> Tensor:
    """Weigh the surprise of an outcome by its probability: -p log p."""
    log_p = log_p.clamp(max=0)
    return torch.where(log_p == -torch.inf, 0, -log_p.exp() * log_p)


def _weighted(log_weight: Tensor, log_p: Tensor) -> Tensor:
    """Weigh -p log p by the probability that the choice comes up."""
    return torch.where(
        log_weight == -torch.inf, 0, log_weight.clamp(max=0).exp() * _surprise(log_p)
    )


def _save_for_backward(ctx, inputs, output) -> None:
    *tensors, ctx.backend = inputs
    ctx.is_present = [x is not None for x in tensors]
    ctx.save_for_backward(*(x for x in tensors if x is not None))


def _backward(ctx, grad: Tensor):
    saved = iter(ctx.saved_tensors)
    tensors = [next(saved) if present else None for present in ctx.is_present]
    p, _ = centred(Potentials(*tensors))  # type: ignore[arg-type]
    batch, positions, _, types = p.sizes
    zeros = p.duration.new_zeros(batch, positions, types)
    shared = torch.cat([x.flatten() for x in (p.duration, p.transition, p.initial, p.final)])
    values = (
        p.emission,
        p.duration.new_zeros(0) if p.segment is None else p.segment,
        p.start,
        p.end,
        shared.expand(batch, -1),
    )
    weighted = []
    for x in values:
        x = zeros if x is None else x
        x = torch.where(x.isinf(), 0, x)
        weight = grad.reshape(-1, *[1] * (x.ndim - 1))
        weighted.append(-weight * x if x.numel() else x)
    gradient = covariance.covariances(*tensors, torch.zeros_like(grad), *weighted, ctx.backend)
    wanted = (
        x if needed else None
        for x, needed in zip(gradient, ctx.needs_input_grad, strict=False)
    )  # fmt: skip
    return *wanted, None, None


_entropy.register_autograd(_backward, setup_context=_save_for_backward)
