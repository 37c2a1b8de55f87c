"""The best segmentation: the scan's recurrence with maxima, and the walk back on the host.

Source: Sarawagi and Cohen (2004), equation 2; Rabiner (1989), section III.B, for the walk back.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hf_semicrf.ops.host.magnitude import prepare
from hf_semicrf.ops.host.scan import BLOCK_ELEMENTS, empty_state, score_blocks, take_steps
from hf_semicrf.ops.potentials import Potentials
from hf_semicrf.ops.segmentations import spread_labels


def best(p: Potentials) -> tuple[Tensor, Tensor]:
    """Find the highest-scoring segmentation: labels [B, N] and starts [B, N].

    Ties go to the shorter segment and the lower type. -1 and no start throughout a sentence whose
    scores cannot be told apart.
    """
    prepared = prepare(p)
    p = prepared.potentials
    batch, positions, longest, types = p.sizes
    # [1, C, C] and [B]
    transition, lengths = p.transition.cpu()[None], p.lengths.cpu()
    alpha, buffer = empty_state([p])
    length_minus_one = np.zeros(alpha.shape, dtype=np.int64)  # [N + 1, B, C]
    for block, scores, _ in score_blocks([p]):
        take_steps(np.maximum.reduce, buffer[block], alpha[block], scores, transition)
        # windows of pre [T, B, C, L] are permuted to [T, L, B, C]
        windows = scores.add_(buffer[block][:-1].unfold(0, longest, 1).permute(0, 3, 1, 2))
        length_minus_one[block][1 : len(scores) + 1] = windows.numpy()[:, ::-1].argmax(1)
    # a state is (boundary, type of the segment that ends there); follow each to the state before
    begins = np.arange(positions + 1)[:, None, None] - length_minus_one - 1
    begins = begins.clip(min=0)  # [N + 1, B, C]
    size = max(1, BLOCK_ELEMENTS // (batch * types * types))
    # [n, B, C_src, C_dst] a block, whose best sources are [N + 1, B, C_dst]
    scored = (x[..., None] + transition for x in alpha.split(size))
    source = np.concatenate([x.numpy().argmax(-2) for x in scored])
    previous = begins * types + np.take_along_axis(source, begins, 0)
    # [B, C]
    final = alpha[lengths, torch.arange(batch)] + p.final.cpu()
    states = (lengths * types + final.argmax(-1)).tolist()
    paths = [_walk(previous[:, b].ravel().tolist(), state, types) for b, state in enumerate(states)]
    longest_path = max(map(len, paths))
    padded = [path + [0] * (longest_path - len(path)) for path in paths]
    path = torch.tensor(padded, device=p.lengths.device)
    labels, starts = _mark(path // types, path % types, positions, p.lengths)
    told = ~prepared.told(final.amax(-1).to(labels.device)).isnan()[:, None]
    return torch.where(told, labels, -1), starts & told


def _walk(previous: list[int], state: int, types: int) -> list[int]:
    """Follow states from the last one back to boundary 0, whose states are the first ``types``."""
    path = [state]
    while state >= types:
        state = previous[state]
        path.append(state)
    return path


def _mark(
    boundaries: Tensor, types: Tensor, positions: int, lengths: Tensor
) -> tuple[Tensor, Tensor]:
    """Write labels and starts [B, N].

    Args:
        boundaries: Of each sentence's segments, the last first, down to 0 and then zeros [B, J].
        types: Of the segment that ends at each boundary [B, J].
        positions: N.
        lengths: Positions of each sentence [B].
    """
    begins, ends = boundaries[:, 1:], boundaries[:, :-1]
    real = ends > 0
    target = torch.where(real, begins, positions)  # a column past the end takes what is unused
    starts = torch.zeros(len(lengths), positions + 1, dtype=torch.bool, device=lengths.device)
    starts.scatter_(1, target, True)
    labels = torch.zeros_like(starts, dtype=torch.long).scatter_(1, target, types[:, :-1])
    starts, labels = starts[:, :positions].contiguous(), labels[:, :positions]
    return spread_labels(labels, starts, lengths), starts
