"""Scores of segments from the hidden states that they cover."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_semicrf.ops.host import span_scores as implementations


def span_scores(
    states: Tensor,
    width: Tensor,
    weight: Tensor,
    bias: Tensor,
    dropout: float,
    backend: str,
) -> Tensor:
    """Score every segment of a text with a small network.

    The features of a segment are the sum of its first state, its last state, the mean of its inside
    states and the embedding of its width, through a GELU. O(N L W C) time. Triton takes O(N W + N L
    C) memory and states in half precision or float32; PyTorch, which also serves float64, holds the
    features of a part of the text besides.

    Args:
        states: Of each position, W units where it is the first of a segment, W where it is the last
            and W where it lies inside [B, N, 3 W].
        width: Embedding of each length, by length less one [L, W].
        weight: Weights of the features in the score of each type [C, W].
        bias: Of each type [C].
        dropout: Probability of dropping a unit of all segments that start at a position.
        backend: "torch" or "triton", as :func:`resolve_backend` returns it.

    Returns:
        Scores in nats by start and length less one [B, N, L, C], float32 at least; those of
        segments that reach past the last position are of no use.
    """
    keep_mask = None
    if dropout:
        shape = (*states.shape[:2], weight.shape[1])  # [B, N, W]
        keep_mask = torch.empty(shape, dtype=torch.bool, device=states.device).bernoulli_(
            1 - dropout
        )
    scale = 1 / (1 - dropout) if dropout < 1 else 0.0
    inputs = (states.contiguous(), width, weight, bias, keep_mask, scale)
    if backend == "torch" or states.dtype == torch.float64:
        return implementations.span_scores(*inputs)
    if torch.compiler.is_compiling():
        return implementations.span_scores_operation(*inputs)
    return implementations.span_scores_by_kernel(*inputs)
