"""The distribution by its definition: every segmentation in turn, in plain Python floats.

It shares no code with the library: nested lists in, nested lists out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cached_property

Segment = tuple[int, int, int]  # first position, position after the last, type


def segmentations(positions: int, longest: int, types: int) -> Iterator[tuple[Segment, ...]]:
    """Every way to tile [0, positions) with typed segments of at most `longest` positions."""

    def tilings(begin: int) -> Iterator[tuple[Segment, ...]]:
        if begin == positions:
            yield ()
        for end in range(begin + 1, min(begin + longest, positions) + 1):
            for rest in tilings(end):
                for kind in range(types):
                    yield ((begin, end, kind), *rest)

    return tilings(0)


def log_sum_exp(values: Sequence[float]) -> float:
    top = max(values, default=-math.inf)
    if top == -math.inf:
        return -math.inf
    return top + math.log(math.fsum(math.exp(value - top) for value in values))


class Sentence:
    """The potentials of one sentence of a batch, and everything that follows from them."""

    def __init__(self, potentials, index: int):
        def own(x):
            return None if x is None else x[index].tolist()

        self.emission, self.segment = own(potentials.emission), own(potentials.segment)
        self.start, self.end = own(potentials.start), own(potentials.end)
        self.duration = potentials.duration.tolist()
        self.transition = potentials.transition.tolist()
        self.initial, self.final = potentials.initial.tolist(), potentials.final.tolist()
        self.positions = int(potentials.lengths[index])
        self.longest, self.types = len(self.duration), len(self.initial)

    def segment_score(self, begin: int, end: int, kind: int) -> float:
        length = end - begin
        terms = [self.duration[length - 1][kind]]
        if self.segment is not None:
            terms.append(self.segment[begin][length - 1][kind])
        if self.emission is not None:
            terms += [self.emission[position][kind] for position in range(begin, end)]
        if self.start is not None:
            terms.append(self.start[begin][kind])
        if self.end is not None:
            terms.append(self.end[end - 1][kind])
        return math.fsum(terms)

    def score(self, segmentation: Sequence[Segment]) -> float:
        kinds = [kind for _, _, kind in segmentation]
        terms = [self.initial[kinds[0]], self.final[kinds[-1]]]
        terms += [self.segment_score(*segment) for segment in segmentation]
        terms += [self.transition[a][b] for a, b in zip(kinds, kinds[1:], strict=False)]
        return math.fsum(terms)

    @cached_property
    def all(self) -> list[tuple[Segment, ...]]:
        return list(segmentations(self.positions, self.longest, self.types))

    @cached_property
    def scores(self) -> list[float]:
        return [self.score(segmentation) for segmentation in self.all]

    @cached_property
    def log_z(self) -> float:
        return log_sum_exp(self.scores)

    @cached_property
    def probabilities(self) -> list[float]:
        return [math.exp(score - self.log_z) for score in self.scores]

    def best(self) -> tuple[float, tuple[Segment, ...]]:
        return max(zip(self.scores, self.all, strict=True))

    def entropy(self) -> float:
        return -math.fsum(p * math.log(p) for p in self.probabilities if p > 0)

    def segment_marginals(self) -> dict[Segment, float]:
        """The probability that a segmentation holds a segment, for each segment."""
        terms: dict[Segment, list[float]] = {}
        for probability, segmentation in zip(self.probabilities, self.all, strict=True):
            for segment in segmentation:
                terms.setdefault(segment, []).append(probability)
        return {segment: math.fsum(values) for segment, values in terms.items()}

    def transition_counts(self) -> list[list[float]]:
        """The expected number of times that each type directly follows each type."""
        counts = [[0.0] * self.types for _ in range(self.types)]
        for probability, segmentation in zip(self.probabilities, self.all, strict=True):
            for (_, _, a), (_, _, b) in zip(segmentation, segmentation[1:], strict=False):
                counts[a][b] += probability
        return counts


def dense_log_partition(edge: Sequence, boundaries: int) -> float:
    """The contract of the dense form, as a recurrence over `edge[start][duration][dst][src]`.

    The first segment's source type is free, with weight 0.
    """
    longest, types = len(edge[0]) - 1, len(edge[0][0])
    beta = [[0.0] * types]
    for n in range(1, boundaries):
        beta.append([
            log_sum_exp([
                beta[n - d][src] + edge[n - d][d][dst][src]
                for d in range(1, min(longest, n) + 1)
                for src in range(types)
            ])
            for dst in range(types)
        ])  # fmt: skip
    return log_sum_exp(beta[-1])
