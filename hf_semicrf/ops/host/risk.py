"""Decoding by expected correct segments, on Triton alone: the custom op around the kernel.

Elsewhere the Viterbi recurrence on gains runs, as ``ops.decoding`` calls it; the kernel is compared
with it. The op is for torch.compile; the kernel is called as it is where nothing is compiled.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hf_semicrf.ops.registry import kernels

MAX_WINDOW_ELEMENTS = 8192


def fits(longest: int, types: int) -> bool:
    """Say whether the kernel takes such segments: a window of all lengths must fit in registers."""
    return (longest << (types - 1).bit_length()) <= MAX_WINDOW_ELEMENTS


def minimum_risk(
    segment: Tensor, lengths: Tensor, threshold: float, each: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Find the labels and starts [B, N] of :func:`hf_semicrf.ops.minimum_risk`.

    Args:
        segment: Posterior of each segment, by start and length less one [B, N, L, C].
        lengths: Positions of each sentence [B].
        threshold: What a segment's posterior has to exceed.
        each: That of each length less one and type [L, C], instead.
    """
    function = _operation if torch.compiler.is_compiling() else kernels("risk").minimum_risk
    return function(
        segment.contiguous(), lengths, threshold, None if each is None else each.contiguous()
    )


@torch.library.custom_op("hf_semicrf::minimum_risk", mutates_args=())
def _operation(
    segment: Tensor, lengths: Tensor, threshold: float, each: Tensor | None
) -> tuple[Tensor, Tensor]:
    return kernels("risk").minimum_risk(segment, lengths, threshold, each)


@_operation.register_fake
def _(segment, lengths, threshold, each):
    shape = segment.shape[:2]
    return segment.new_empty(shape, dtype=torch.long), segment.new_empty(shape, dtype=torch.bool)
