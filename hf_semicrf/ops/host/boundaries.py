"""Log-sums at every boundary, in nats, from the state that either back end's scan leaves."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from hf_semicrf.ops.potentials import Potentials
from hf_semicrf.ops.registry import implementation, kernels

UNITS = {"torch": 1.0, "triton": math.log(2)}  # nats


class LogSums(NamedTuple):
    """Log-sums over the parts of segmentations, in nats and float64; -inf past a length.

    Args:
        log_z: Over all segmentations [B].
        pre: Over the prefixes that tile [0, n), entering a type there [B, N+1, C].
        alpha: Over the prefixes that tile [0, n) and end in a type [B, N+1, C].
        post: Over the suffixes that tile [n, length), leaving a type there [B, N+1, C].
        beta: Over the suffixes that tile [n, length) and begin in a type [B, N+1, C].
    """

    log_z: Tensor
    pre: Tensor
    alpha: Tensor
    post: Tensor
    beta: Tensor


def log_sums(p: Potentials, backend: str) -> LogSums:
    """Scan in both directions and put the state in nats; log Z is the state's."""
    _, state = implementation(backend, "scan").scan(p)
    if backend == "triton":
        state = kernels("scan").in_float64(state)
    log_z = state.total[:, 0] * UNITS[backend]
    beyond = torch.arange(p.sizes[1] + 1, device=log_z.device) > p.lengths[:, None]

    def in_nats(x: Tensor) -> Tensor:
        x = (x + state.offset[..., None]) * UNITS[backend]
        return x.masked_fill_(beyond[..., None], -torch.inf)

    (pre, post), (alpha, beta) = in_nats(state.pre), in_nats(state.alpha)
    return LogSums(log_z, pre, alpha, post, beta)
