"""All segmentations of a few words at once, with sums that are exact whatever the scores.

The oracle of `oracle.py` in tensors: fast enough for thousands of sentences, and right where
float64 is not, since every score is summed in four times its precision and then compared with the
best one. It shares no code with the library.
"""

from __future__ import annotations

import itertools
from functools import cache, cached_property

import numpy as np

FIELDS = ("emission", "segment", "start", "end", "duration", "transition", "initial", "final")


def compositions(total: int, longest: int):
    """Every way to write total as an ordered sum of 1..longest."""
    if total == 0:
        yield ()
    for part in range(1, min(longest, total) + 1):
        for rest in compositions(total - part, longest):
            yield (part, *rest)


class Tilings:
    """All segmentations of `positions` words, as places in their scores laid side by side.

    `places` [Y, M] leads to the scores that a segmentation adds up; the last place of all is a 0.
    """

    def __init__(self, positions: int, longest: int, types: int):
        self.shapes = {
            "emission": (positions, types),
            "segment": (positions, longest, types),
            "start": (positions, types),
            "end": (positions, types),
            "duration": (longest, types),
            "transition": (types, types),
            "initial": (types,),
            "final": (types,),
        }
        sizes = [int(np.prod(shape)) for shape in self.shapes.values()]
        begins = np.cumsum([0, *sizes])
        self.slices = {
            name: slice(a, a + n) for name, a, n in zip(FIELDS, begins, sizes, strict=False)
        }
        self.zero = int(begins[-1])
        self.segmentations = [
            tuple(zip(np.cumsum((0, *parts))[:-1].tolist(), parts, kinds, strict=True))
            for parts in compositions(positions, longest)
            for kinds in itertools.product(range(types), repeat=len(parts))
        ]  # of (first position, length, type)
        rows = [self._places(y, longest, types) for y in self.segmentations]
        width = max(map(len, rows))
        self.places = np.array([row + [self.zero] * (width - len(row)) for row in rows])

    def _places(self, segmentation, longest: int, types: int) -> list[int]:
        at = {name: x.start for name, x in self.slices.items()}
        kinds = [kind for _, _, kind in segmentation]
        places = [at["initial"] + kinds[0], at["final"] + kinds[-1]]
        places += [at["transition"] + a * types + b for a, b in zip(kinds, kinds[1:], strict=False)]
        for begin, length, kind in segmentation:
            places += [at["emission"] + n * types + kind for n in range(begin, begin + length)]
            places.append(at["segment"] + (begin * longest + length - 1) * types + kind)
            places.append(at["start"] + begin * types + kind)
            places.append(at["end"] + (begin + length - 1) * types + kind)
            places.append(at["duration"] + (length - 1) * types + kind)
        return places


tilings = cache(Tilings)


def exact_sums(terms: np.ndarray) -> np.ndarray:
    """Sum along the last axis as if in four times float64's precision.

    Source: Ogita, Rump and Oishi (2005), "Accurate Sum and Dot Product", algorithm 4.8.
    """
    terms = terms.copy()
    for _ in range(3):
        for n in range(1, terms.shape[-1]):
            a, b = terms[..., n - 1], terms[..., n]
            total = a + b
            part = total - a
            terms[..., n - 1] = (a - (total - part)) + (b - part)
            terms[..., n] = total
    return terms.sum(-1)


class Enumerated:
    """One sentence of a batch of potentials, and what follows from all its segmentations."""

    def __init__(self, potentials, index: int):
        self.positions = int(potentials.lengths[index])
        longest, types = potentials.duration.shape
        self.tilings = tilings(self.positions, longest, types)
        self.scores = np.zeros(self.tilings.zero + 1)
        for name, place in self.tilings.slices.items():
            x = getattr(potentials, name)
            if x is not None:
                own = x[index][: self.positions] if name in FIELDS[:4] else x
                self.scores[place] = own.detach().double().cpu().numpy().ravel()
        terms = self.scores[self.tilings.places]
        self.legal = (terms > -np.inf).all(1)
        terms = np.where(self.legal[:, None], terms, 0.0)
        best = int(np.where(self.legal, terms.sum(1), -np.inf).argmax())
        while True:
            # less the score of the best [Y]
            self.below = exact_sums(
                np.concatenate([terms, -terms[[best]].repeat(len(terms), 0)], 1)
            )
            self.below[~self.legal] = -np.inf
            higher = int(self.below.argmax())
            if not self.below[higher] > 0:
                break
            best = higher
        self.possible = bool(self.legal.any())
        self.best_score = float(exact_sums(terms[best])) if self.possible else -np.inf

    @cached_property
    def log_total(self) -> float:
        """Log Z less the best score."""
        return float(np.log(np.exp(self.below).sum())) if self.possible else -np.inf

    @property
    def log_z(self) -> float:
        return self.best_score + self.log_total

    @cached_property
    def probabilities(self) -> np.ndarray:
        """Of each segmentation [Y]; zeros where none is legal."""
        weights = np.exp(self.below)
        return weights / weights.sum() if self.possible else np.zeros(len(weights))

    @property
    def entropy(self) -> float:
        p = self.probabilities
        log_p = self.below - self.log_total
        return float(-(p[p > 0] * log_p[p > 0]).sum())

    def entropy_slopes(self) -> dict[str, np.ndarray]:
        """The derivative of the entropy with respect to each score, by name."""
        p = self.probabilities
        below = np.where(p > 0, self.below, 0.0)
        return self.counts(-p * (below - (p * below).sum()))

    def counts(self, weights: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """How often each score is added, by name: expected, or by weights [Y]."""
        places = self.tilings.places
        weights = np.repeat(self.probabilities if weights is None else weights, places.shape[1])
        flat = np.bincount(places.ravel(), weights, self.tilings.zero + 1)
        return {
            name: flat[place].reshape(self.tilings.shapes[name])
            for name, place in self.tilings.slices.items()
        }

    def best_through(self, name: str) -> np.ndarray:
        """The best of `below` among the segmentations that add a score, by place."""
        best = np.full(self.tilings.zero + 1, -np.inf)
        for column in self.tilings.places.T:
            np.maximum.at(best, column, self.below)
        return best[self.tilings.slices[name]].reshape(self.tilings.shapes[name])

    def index_of(self, labels, starts) -> int:
        """The number of a segmentation that is written as labels and starts [N]."""
        begins = [n for n in range(self.positions) if starts[n]]
        stops = [*begins[1:], self.positions]
        y = tuple((a, b - a, int(labels[a])) for a, b in zip(begins, stops, strict=True))
        return self.tilings.segmentations.index(y)
