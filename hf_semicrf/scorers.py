"""From hidden states to the position scores of a semi-Markov CRF."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

INIT_STD = 0.02


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

    def __init__(self, hidden_size: int, num_types: int, max_segment_length: int):
        super().__init__()
        self.emission = nn.Linear(hidden_size, num_types)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        nn.init.normal_(self.emission.weight, std=INIT_STD)
        nn.init.zeros_(self.emission.bias)

    def forward(self, hidden: Tensor) -> Scores:
        """Hidden states [B, N, H] to scores."""
        return Scores(emission=self.emission(hidden))


class BoundaryScorer(nn.Module):
    """Emissions, and scores for the first and the last position of a segment."""

    def __init__(self, hidden_size: int, num_types: int, max_segment_length: int):
        super().__init__()
        self.projection = nn.Linear(hidden_size, 3 * num_types)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        nn.init.normal_(self.projection.weight, std=INIT_STD)
        nn.init.zeros_(self.projection.bias)

    def forward(self, hidden: Tensor) -> Scores:
        """Hidden states [B, N, H] to scores."""
        emission, start, end = self.projection(hidden).chunk(3, dim=-1)
        return Scores(emission=emission, start=start, end=end)


SCORERS: dict[str, type[nn.Module]] = {"sum": SumScorer, "boundary": BoundaryScorer}
