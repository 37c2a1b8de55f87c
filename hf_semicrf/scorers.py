"""From hidden states to the scores of a semi-Markov CRF."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, pad
from torch.utils.checkpoint import checkpoint

CHUNK_ELEMENTS = 1 << 26  # span features held at once, before they are recomputed


class Scores(NamedTuple):
    """What a scorer reads from the hidden states, in nats; the head adds what they don't decide.

    Args:
        emission: Score of each position [B, N, C], or None.
        segment: Score of each segment by start and length less one [B, N, L, C], or None.
        start: Score of starting a segment [B, N, C], or None.
        end: Score of ending a segment [B, N, C], or None.
    """

    emission: Tensor | None = None
    segment: Tensor | None = None
    start: Tensor | None = None
    end: Tensor | None = None


class SumScorer(nn.Module):
    """A segment scores the sum of its positions' emissions."""

    def __init__(self, hidden_size: int, num_types: int, max_segment_length: int, dropout: float):
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.emission = nn.Linear(hidden_size, num_types)

    def forward(self, hidden: Tensor) -> Scores:
        """Hidden states [B, N, H] to scores."""
        return Scores(emission=self.emission(self.dropout(hidden)))


class BoundaryScorer(nn.Module):
    """Emissions, and scores for the first and the last position of a segment."""

    def __init__(self, hidden_size: int, num_types: int, max_segment_length: int, dropout: float):
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.projection = nn.Linear(hidden_size, 3 * num_types)

    def forward(self, hidden: Tensor) -> Scores:
        """Hidden states [B, N, H] to scores."""
        emission, start, end = self.projection(self.dropout(hidden)).chunk(3, dim=-1)
        return Scores(emission=emission, start=start, end=end)


class SpanScorer(nn.Module):
    """Boundary scores, and a score of each segment as a whole.

    The segment's first and last states, the mean of its states and its width are projected and
    added, then a GELU and a linear layer give one score a type. The projections come before the
    mean, so that nothing as wide as the hidden states is ever held for every segment.
    """

    def __init__(
        self,
        hidden_size: int,
        num_types: int,
        max_segment_length: int,
        dropout: float,
        width: int = 192,
    ):
        super().__init__()
        self.boundary = BoundaryScorer(hidden_size, num_types, max_segment_length, dropout)
        self.projection = nn.Linear(hidden_size, 3 * width)
        self.width = nn.Embedding(max_segment_length, width)
        self.inner_dropout = nn.Dropout(dropout)
        self.output = nn.Linear(width, num_types)

    def forward(self, hidden: Tensor) -> Scores:
        """Hidden states [B, N, H] to scores."""
        scores = self.boundary(hidden)
        first, last, content = self.projection(self.boundary.dropout(hidden)).chunk(3, dim=-1)
        # the sums of the first n states; float32, as a mean is a difference of two of them
        sums = pad(content.float().cumsum(1), (0, 0, 1, 0))
        positions, longest = hidden.shape[1], len(self.width.weight)
        size = max(1, CHUNK_ELEMENTS // (first[:, :1].numel() * longest))
        chunks = []
        for begin in range(0, positions, size):
            n = torch.arange(begin, min(begin + size, positions), device=hidden.device)
            if size < positions and torch.is_grad_enabled():
                chunk = checkpoint(self._segments, first, last, sums, n, use_reentrant=False)
            else:
                chunk = self._segments(first, last, sums, n)
            chunks.append(chunk)
        return scores._replace(segment=torch.cat(chunks, 1))

    def _segments(self, first: Tensor, last: Tensor, sums: Tensor, begins: Tensor) -> Tensor:
        """Scores [B, n, L, C] of the segments of all lengths that begin at ``begins`` [n]."""
        lengths = torch.arange(1, len(self.width.weight) + 1, device=begins.device)
        ends = (begins[:, None] + lengths).clamp(max=first.shape[1])  # [n, L], half-open
        mean = (sums[:, ends] - sums[:, begins, None]) / lengths[:, None]
        features = first[:, begins, None] + last[:, ends - 1] + mean.to(last.dtype)
        return self.output(self.inner_dropout(gelu(features + self.width.weight)))


SCORERS: dict[str, type[nn.Module]] = {
    "sum": SumScorer,
    "boundary": BoundaryScorer,
    "span": SpanScorer,
}
