"""Decoding by expected correct segments on Triton, whose kernel needs no types in its recurrence.

As a custom op for torch.compile, and as it is where nothing is compiled. What it is compared with,
and what runs elsewhere, is the Viterbi recurrence on gains, `ops.decoding`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hf_semicrf.ops.registry import kernels

MAX_WINDOW_ELEMENTS = 8192


def fits(longest: int, types: int) -> bool:
    """Whether the kernel takes them: a window of all lengths must fit in registers."""
    return (longest << (types - 1).bit_length()) <= MAX_WINDOW_ELEMENTS


def minimum_risk(segment: Tensor, lengths: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Labels and starts [B, N] of :func:`hf_semicrf.ops.minimum_risk`.

    Args:
        segment: Posterior of each segment, by start and length less one [B, N, L, C].
        lengths: Positions of each sentence [B].
        threshold: What a segment's posterior has to exceed.
    """
    function = _operation if torch.compiler.is_compiling() else kernels("risk").minimum_risk
    return function(segment.contiguous(), lengths, threshold)


@torch.library.custom_op("hf_semicrf::minimum_risk", mutates_args=())
def _operation(segment: Tensor, lengths: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    return kernels("risk").minimum_risk(segment, lengths, threshold)


@_operation.register_fake
def _(segment, lengths, threshold):
    shape = segment.shape[:2]
    return segment.new_empty(shape, dtype=torch.long), segment.new_empty(shape, dtype=torch.bool)
