"""From factored potentials to the dense tensor of the same distribution."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_semicrf.ops.checks import check_memory, checked
from hf_semicrf.ops.potentials import Potentials, segment_scores


def to_edge(p: Potentials) -> Tensor:
    """The dense tensor of the same distribution: ``edge[b, start, duration, c_dst, c_src]``, nats.

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
        MemoryError: The tensor is larger than the memory that is free.
    """
    p = checked(p)
    batch, positions, longest, types = p.sizes
    device = p.lengths.device
    check_memory((batch, positions, longest + 1, types, types), p.duration)
    first = torch.full_like(p.transition, -torch.inf)
    first[:, 0] = p.initial
    source = p.transition.T.expand(positions - 1, types, types)
    source = torch.cat([first[None], source])  # [N, C_dst, C_src]
    n = torch.arange(positions, device=device)
    slices = [p.duration.new_full((batch, positions, types, types), -torch.inf)]
    for extra, (lo, score) in enumerate(segment_scores(p, 0, positions)):
        stops = n[: positions - lo] + extra + 1
        score = torch.where((stops == p.lengths[:, None])[..., None], score + p.final, score)
        score = torch.where((stops <= p.lengths[:, None])[..., None], score, -torch.inf)
        dense = score[..., None] + source[: positions - lo]
        slices.append(torch.nn.functional.pad(dense, (0, 0, 0, 0, 0, lo), value=-torch.inf))
    slices += slices[:1] * (longest + 1 - len(slices))
    return torch.stack(slices, 2)
