"""From hidden states to the scores of a semi-Markov CRF.

A scorer is one name or several joined by "+", whose scores add up: "boundary+biaffine". All read
the hidden states of single positions; none holds anything as wide as them for every segment.
Scores are computed without autocast.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import wraps
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, pad

from hf_semicrf.ops import Backend, resolve_backend, span_scores
from hf_semicrf.ops.host.span_scores import windows

BLOCK = 64  # positions whose segments one product of start and end states scores


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


class ScorerSettings(NamedTuple):
    """What every scorer is built from.

    Args:
        hidden_size: Width H of the hidden states.
        num_types: Segment types C, the outside type included.
        max_segment_length: Longest segment L, in positions.
        dropout: Probability of dropping a hidden unit before scoring.
        width: Units of a scorer's own hidden layer.
        backend: Implementation of scores of whole segments.
    """

    hidden_size: int
    num_types: int
    max_segment_length: int
    dropout: float = 0.1
    width: int = 192
    backend: Backend = "auto"


def _without_autocast(forward: Callable) -> Callable:
    """A method of hidden states that runs in their own precision."""

    @wraps(forward)
    def run(self: nn.Module, hidden: Tensor) -> Scores:
        with torch.autocast(hidden.device.type, enabled=False):
            return forward(self, hidden)

    return run


class SumScorer(nn.Module):
    """A segment scores the sum of its positions' emissions."""

    def __init__(self, s: ScorerSettings):
        super().__init__()
        self.dropout = nn.Dropout(s.dropout)
        self.emission = nn.Linear(s.hidden_size, s.num_types)

    @_without_autocast
    def forward(self, hidden: Tensor) -> Scores:
        """Hidden states [B, N, H] to scores."""
        return Scores(emission=self.emission(self.dropout(hidden)))


class BoundaryScorer(nn.Module):
    """Emissions, and scores for the first and the last position of a segment."""

    def __init__(self, s: ScorerSettings):
        super().__init__()
        self.dropout = nn.Dropout(s.dropout)
        self.projection = nn.Linear(s.hidden_size, 3 * s.num_types)

    def forward(self, hidden: Tensor) -> Scores:
        """Hidden states [B, N, H] to scores."""
        return self.score(self.dropout(hidden))

    @_without_autocast
    def score(self, hidden: Tensor) -> Scores:
        """The same from hidden states after dropout."""
        emission, start, end = self.projection(hidden).chunk(3, dim=-1)
        return Scores(emission=emission, start=start, end=end)


class MLPScorer(nn.Module):
    """Boundary scores through a hidden layer on each state."""

    def __init__(self, s: ScorerSettings):
        super().__init__()
        self.dropout = nn.Dropout(s.dropout)
        self.inner = nn.Linear(s.hidden_size, s.width)
        self.boundary = BoundaryScorer(s._replace(hidden_size=s.width))

    @_without_autocast
    def forward(self, hidden: Tensor) -> Scores:
        """Hidden states [B, N, H] to scores."""
        return self.boundary(gelu(self.inner(self.dropout(hidden))))


class EntityScorer(nn.Module):
    """Boundary scores that all types but the outside share: a rare type learns from the others."""

    def __init__(self, s: ScorerSettings):
        super().__init__()
        self.num_types = s.num_types
        self.boundary = BoundaryScorer(s._replace(num_types=1))

    def forward(self, hidden: Tensor) -> Scores:
        """Hidden states [B, N, H] to scores."""
        scores = self.boundary(hidden)
        emission, start, end = (
            _for_entities(score, self.num_types)
            for score in (scores.emission, scores.start, scores.end)
        )
        return Scores(emission=emission, start=start, end=end)


class LengthScorer(nn.Module):
    """A score of each length and type, read off the state where the segment starts."""

    def __init__(self, s: ScorerSettings):
        super().__init__()
        self.dropout = nn.Dropout(s.dropout)
        self.projection = nn.Linear(s.hidden_size, s.max_segment_length * s.num_types)
        self.shape = (s.max_segment_length, s.num_types)

    @_without_autocast
    def forward(self, hidden: Tensor) -> Scores:
        """Hidden states [B, N, H] to scores."""
        return Scores(segment=self.projection(self.dropout(hidden)).unflatten(-1, self.shape))


class BiaffineScorer(nn.Module):
    """A product of the states where a segment starts and ends, of low rank: ``U h_s . V h_e``.

    Args:
        s: The settings.
        per_type: Whether each type has its own product, of ``width / 8`` dimensions. Else one of
            ``width / 2`` serves all types but the outside, and knows the segment's length: both
            states are rotated by their position.

    Source: Dozat and Manning (2017), Yu et al. (2020) for entities; the shared one is Su et al.
    (2022), "Global Pointer", equation 4.
    """

    def __init__(self, s: ScorerSettings, per_type: bool = True):
        super().__init__()
        self.per_type = per_type
        self.num_types, self.longest = s.num_types, s.max_segment_length
        self.products = s.num_types if per_type else 1
        self.rank = 2 * max(1, s.width // (16 if per_type else 4))  # rotations turn pairs
        self.dropout = nn.Dropout(s.dropout)
        self.projection = nn.Linear(s.hidden_size, 2 * self.products * self.rank)

    @_without_autocast
    def forward(self, hidden: Tensor) -> Scores:
        """Hidden states [B, N, H] to scores."""
        both = self.projection(self.dropout(hidden)).chunk(2, dim=-1)
        first, last = (x.unflatten(-1, (self.products, self.rank)) for x in both)
        if not self.per_type:
            first, last = _rotate(first), _rotate(last)
        segment = banded_products(first, last, self.longest) / math.sqrt(self.rank)
        return Scores(segment=segment if self.per_type else _for_entities(segment, self.num_types))


class SpanScorer(nn.Module):
    """Boundary scores, and a score of each segment as a whole.

    The segment's first and last states, its mean state and its
    width are projected and added, then a GELU and a linear layer give one score a type. Dropout
    leaves out the same hidden units in all segments that start at a position. Autocast reaches the
    projection alone.
    """

    def __init__(self, s: ScorerSettings):
        super().__init__()
        self.backend = s.backend
        self.boundary = BoundaryScorer(s)
        self.projection = nn.Linear(s.hidden_size, 3 * s.width, bias=False)  # widths are biases
        self.width = nn.Embedding(s.max_segment_length, s.width)
        self.output = nn.Linear(s.width, s.num_types)

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


class PointerScorer(BiaffineScorer):
    """A `BiaffineScorer` with one product that all entity types share."""

    def __init__(self, s: ScorerSettings):
        super().__init__(s, per_type=False)


class AddedScorers(nn.Module):
    """The sum of several scorers."""

    def __init__(self, terms: list[nn.Module]):
        super().__init__()
        self.terms = nn.ModuleList(terms)

    def forward(self, hidden: Tensor) -> Scores:
        """Hidden states [B, N, H] to scores."""
        total = Scores()
        for term in self.terms:
            total = Scores(*(_plus(a, b) for a, b in zip(total, term(hidden), strict=True)))
        return total


SCORERS: dict[str, type[nn.Module]] = {
    "sum": SumScorer,
    "boundary": BoundaryScorer,
    "mlp": MLPScorer,
    "entity": EntityScorer,
    "length": LengthScorer,
    "biaffine": BiaffineScorer,
    "pointer": PointerScorer,
    "span": SpanScorer,
}


def check_scorer(name: str) -> None:
    """Refuse a name that is not one scorer, or several different ones joined by "+".

    Raises:
        ValueError: A scorer is unknown, or named twice.
    """
    parts = name.split("+")
    for part in parts:
        if part not in SCORERS:
            raise ValueError(
                f'expected a scorer among {sorted(SCORERS)}, or several joined by "+", got {name!r}'
            )
    if len(set(parts)) < len(parts):
        raise ValueError(f"expected every scorer once, got {name!r}")


def build_scorer(name: str, settings: ScorerSettings) -> nn.Module:
    """The scorer of a name that `check_scorer` accepts."""
    terms = [SCORERS[part](settings) for part in name.split("+")]
    return terms[0] if len(terms) == 1 else AddedScorers(terms)


def banded_products(first: Tensor, last: Tensor, longest: int) -> Tensor:
    """Products of the states where each segment starts and ends.

    Blocks of starts meet the ends that they reach in one matrix product each, so that neither all
    pairs [N, N] nor the states of all segments are held.

    Args:
        first: States of starts [B, N, P, R].
        last: States of ends [B, N, P, R].
        longest: Longest segment L.

    Returns:
        ``sum_r first[b, n, p, r] * last[b, n + l, p, r]`` [B, N, L, P]; 0 past the last position.
    """
    positions = first.shape[1]
    if torch.compiler.is_exporting():  # blocks would tie the graph to the size that it was made at
        return torch.einsum("bnpr,bnlpr->bnlp", first, windows(last, longest))
    size = min(BLOCK, positions)
    extra = -positions % size
    first = pad(first, (0, 0, 0, 0, 0, extra)).unflatten(1, (-1, size))
    ends = pad(last, (0, 0, 0, 0, 0, extra + longest - 1)).unfold(1, size + longest - 1, size)
    scores = torch.einsum("bknpr,bkprm->bkpnm", first, ends).flatten(-2)
    # in rows longer by one, what start n and end n + l had in column n + l stands in column l
    band = pad(scores, (0, size)).unflatten(-1, (size, -1))[..., :longest]
    return band.permute(0, 1, 3, 4, 2).flatten(1, 2)[:, :positions]


def _rotate(states: Tensor) -> Tensor:
    """Turn pairs of dimensions of states [B, N, P, R] by angles that grow with the position."""
    half = states.shape[-1] // 2
    n = torch.arange(states.shape[1], device=states.device, dtype=states.dtype)
    speed = 10000 ** (-torch.arange(half, device=states.device, dtype=states.dtype) / half)
    angle = (n[:, None] * speed)[:, None]
    one, two = states.chunk(2, dim=-1)
    cos, sin = angle.cos(), angle.sin()
    return torch.cat([one * cos - two * sin, one * sin + two * cos], -1)


def _for_entities(score: Tensor, num_types: int) -> Tensor:
    """A score [..., 1] for each type but the outside [..., C], which gets 0."""
    return pad(score.expand(*score.shape[:-1], num_types - 1), (1, 0))


def _plus(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b
