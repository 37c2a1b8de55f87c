"""From hidden states to the scores of a semi-Markov CRF.

All scorers read the hidden states of single positions. None holds anything as wide as these for
every segment. Scores are computed without autocast.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from hf_semicrf.head.settings import HeadSettings
from hf_semicrf.ops import Backend, resolve_backend, span_scores


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


def _without_autocast(forward: Callable) -> Callable:
    """A method of hidden states that runs in their own precision."""

    @wraps(forward)
    def run(self: nn.Module, hidden: Tensor) -> Scores:
        with torch.autocast(hidden.device.type, enabled=False):
            return forward(self, hidden)

    return run


class SumScorer(nn.Module):
    """A segment scores the sum of its positions' emissions."""

    gives: ClassVar = ("emission",)  # of `Scores`

    def __init__(
        self, hidden_size: int, num_types: int, settings: HeadSettings, backend: Backend = "auto"
    ):
        super().__init__()
        self.dropout = nn.Dropout(settings.head_dropout)
        self.emission = nn.Linear(hidden_size, num_types)

    @_without_autocast
    def forward(self, hidden: Tensor) -> Scores:
        """Hidden states [B, N, H] to scores."""
        return Scores(emission=self.emission(self.dropout(hidden)))


class BoundaryScorer(nn.Module):
    """Emissions, and scores for the first and the last position of a segment."""

    gives: ClassVar = ("emission", "start", "end")

    def __init__(
        self, hidden_size: int, num_types: int, settings: HeadSettings, backend: Backend = "auto"
    ):
        super().__init__()
        self.dropout = nn.Dropout(settings.head_dropout)
        self.projection = nn.Linear(hidden_size, 3 * num_types)

    def forward(self, hidden: Tensor) -> Scores:
        """Hidden states [B, N, H] to scores."""
        return self.score(self.dropout(hidden))

    @_without_autocast
    def score(self, hidden: Tensor) -> Scores:
        """The same from hidden states after dropout."""
        emission, start, end = self.projection(hidden).chunk(3, dim=-1)
        return Scores(emission=emission, start=start, end=end)


class SpanScorer(nn.Module):
    """Boundary scores, and a score of each segment as a whole.

    The segment's first state, its last state, the mean of its states and its width are projected
    and added. Then a GELU and a linear layer give one score a type. Dropout leaves out the same
    hidden units in all segments that start at a position. Autocast reaches the projection alone.
    """

    gives: ClassVar = Scores._fields

    def __init__(
        self, hidden_size: int, num_types: int, settings: HeadSettings, backend: Backend = "auto"
    ):
        super().__init__()
        units = settings.head_width
        self.backend = backend
        self.boundary = BoundaryScorer(hidden_size, num_types, settings)
        self.projection = nn.Linear(hidden_size, 3 * units, bias=False)  # widths are biases
        self.width = nn.Embedding(settings.max_segment_length, units)
        self.output = nn.Linear(units, num_types)

    def forward(self, hidden: Tensor) -> Scores:
        """Hidden states [B, N, H] to scores."""
        dropout = self.boundary.dropout
        hidden = dropout(hidden)
        states = self.projection(hidden)
        exporting = torch.compiler.is_exporting()
        backend = "torch" if exporting else resolve_backend(self.backend, hidden.device)
        segment = span_scores(
            states,
            self.width.weight,
            self.output.weight,
            self.output.bias,
            dropout.p if self.training else 0.0,
            backend,
        )
        return self.boundary.score(hidden)._replace(segment=segment)


SCORERS: dict[str, type[nn.Module]] = {
    "sum": SumScorer,
    "boundary": BoundaryScorer,
    "span": SpanScorer,
}
