"""Segmentations as pairs of tensors: labels [B, N] and starts [B, N]."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_semicrf.ops.checks import Backend
from hf_semicrf.ops.registry import kernels_for


def spread_labels(labels: Tensor, starts: Tensor, lengths: Tensor) -> Tensor:
    """Copy the labels at the segments' starts to all their positions [..., N]; -1 past a length."""
    n = torch.arange(labels.shape[-1], device=labels.device)
    labels = labels.gather(-1, torch.where(starts, n, 0).cummax(-1).values)
    return labels.masked_fill(n >= lengths[..., None], -1)


def segment_bounds(starts: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Find where the segment of each position begins, and where segments end.

    Args:
        starts: Whether a segment starts at the position [B, N] bool.
        lengths: Positions of each sentence [B].

    Returns:
        Whether a position lies inside its sentence [B, N] bool, the first position of its segment
        [B, N], and whether a segment ends there [B, N] bool.
    """
    n = torch.arange(starts.shape[1], device=starts.device)
    inside = n < lengths[:, None]
    following = torch.nn.functional.pad(starts, (0, 1))[:, 1:]
    ends = inside & (following | (n + 1 == lengths[:, None]))
    return inside, torch.where(starts & inside, n, 0).cummax(1).values, ends


def at_segments(
    values: Tensor, labels: Tensor, starts: Tensor, lengths: Tensor, backend: Backend = "auto"
) -> Tensor:
    """Read a tensor over all segments at the segments of one segmentation.

    Args:
        values: Any value of each segment, by start and length less one [B, N, L, C].
        labels: Type of each position [B, N], -1 past the length.
        starts: Whether a segment starts at the position [B, N] bool.
        lengths: Positions of each sentence [B].
        backend: Which implementation runs.

    Returns:
        For each position the value of the segment that covers it [B, N]; 0 past the length.
    """
    kernels = kernels_for("pack", values.device, backend)
    if kernels is not None:
        return kernels.at_segments(values, labels, starts, lengths)
    _, positions, longest, types = values.shape
    inside, begin, ends = segment_bounds(starts, lengths)
    n = torch.arange(positions, device=values.device)
    last = torch.where(ends, n, positions - 1).flip(1).cummin(1).values.flip(1)
    index = (begin * longest + last - begin) * types + labels
    read = values.flatten(1).gather(1, torch.where(inside, index, 0))
    return torch.where(inside, read, 0)
