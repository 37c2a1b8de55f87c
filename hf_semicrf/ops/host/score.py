"""The score of one segmentation a sentence, gathered from its potentials.

Source: Sarawagi and Cohen (2004), equations 1 to 3.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hf_semicrf.ops.host.magnitude import LARGEST, is_small
from hf_semicrf.ops.potentials import Potentials
from hf_semicrf.ops.segmentations import segment_bounds


def segmentation_score(p: Potentials, labels: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
    """Score a checked segmentation: float64 [B], in nats, and the ends [B, N].

    An end is the length of the segment whose last position this is; 0 where none ends.
    """
    p = p.map(Tensor.double)
    _, positions, longest, types = p.sizes
    inside, begin, ends = segment_bounds(starts, p.lengths)
    labels, starts = torch.where(inside, labels, 0).long(), starts & inside
    n = torch.arange(positions, device=labels.device)
    length_minus_one = n - begin

    def at(scores: Tensor) -> Tensor:
        # [B, N, C] to [B, N]
        return scores.gather(2, labels[..., None])[..., 0]

    short = length_minus_one < longest
    clipped = length_minus_one.clamp(max=longest - 1)
    # [B, N]
    terms = torch.where(ends, torch.where(short, p.duration[clipped, labels], -torch.inf), 0)
    if p.emission is not None:
        terms = terms + torch.where(inside, at(p.emission), 0)
    if p.start is not None:
        terms = terms + torch.where(starts, at(p.start), 0)
    if p.end is not None:
        terms = terms + torch.where(ends, at(p.end), 0)
    if p.segment is not None:
        # [B, N] in a flat [N, L, C]
        index = (begin * longest + clipped) * types + labels
        terms = terms + torch.where(ends, p.segment.flatten(1).gather(1, index), 0)
    # [B, N - 1], then [B]
    step = p.transition[labels[:, :-1], labels[:, 1:]]
    edges = torch.where(starts[:, 1:], step, 0).sum(1)
    # [B]
    last = labels.gather(1, p.lengths[:, None] - 1)[:, 0]
    boundary = p.initial[labels[:, 0]] + p.final[last]
    score = terms.sum(1) + edges + boundary
    return score, torch.where(ends, length_minus_one + 1, 0).int()


def told(p: Potentials, labels: Tensor, starts: Tensor, score: Tensor) -> Tensor:
    """A segmentation's score [B]; NaN where large terms cancel, so that float64 cannot hold it."""
    p = p.map(Tensor.double)
    # on a GPU looking would wait
    if torch.compiler.is_compiling() or score.device.type == "cpu" and is_small(p):
        return score
    sizes = p.map(lambda x: torch.where(x.isfinite(), x.detach().abs(), 0))
    size, _ = segmentation_score(sizes, labels, starts)
    most = (score.detach().abs() * 1e6).clamp(min=7 * LARGEST * p.sizes[1])
    return torch.where(size <= most, score, torch.nan)
