"""Small random batches of potentials, and how to write segmentations as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from oracle import Segment, Sentence
from torch import Tensor

from hf_semicrf.ops import Potentials

OPTIONAL = ("emission", "segment", "start", "end")
REQUIRED = ("duration", "transition", "initial", "final")


def random_potentials(
    lengths: Sequence[int],
    longest: int,
    types: int,
    positions: int | None = None,
    given: Sequence[str] = OPTIONAL,
    seed: int = 0,
    scale: float = 2.0,
) -> Potentials:
    """Normal scores in float64, with `positions` at least the longest of `lengths`."""
    batch, n = len(lengths), positions or max(lengths)
    shapes = {
        "emission": (batch, n, types),
        "segment": (batch, n, longest, types),
        "start": (batch, n, types),
        "end": (batch, n, types),
        "duration": (longest, types),
        "transition": (types, types),
        "initial": (types,),
        "final": (types,),
    }
    generator = torch.Generator().manual_seed(seed)
    scores = {
        name: scale * torch.randn(shape, generator=generator, dtype=torch.float64)
        for name, shape in shapes.items()
    }
    wanted = {name: x for name, x in scores.items() if name in (*given, *REQUIRED)}
    return Potentials(**wanted, lengths=torch.tensor(lengths))


def given(p: Potentials) -> dict[str, Tensor]:
    """The scores that are not None, by name."""
    return {name: x for name, x in p._asdict().items() if x is not None and name != "lengths"}


def leaves(p: Potentials) -> Potentials:
    """A copy whose scores ask for gradients."""
    return p.map(lambda x: x.detach().clone().requires_grad_())


def to_device(p: Potentials, device: str) -> Potentials:
    return Potentials(*(None if x is None else x.to(device) for x in p))


def as_tensors(segmentations: Sequence[Sequence[Segment]], positions: int) -> tuple[Tensor, Tensor]:
    """Segmentations, one a sentence, as labels and starts [B, N]."""
    labels, starts = [], []
    for segmentation in segmentations:
        padding = positions - segmentation[-1][1]
        kinds = [kind for begin, end, kind in segmentation for _ in range(begin, end)]
        begins = {begin for begin, _, _ in segmentation}
        labels.append(kinds + [-1] * padding)
        starts.append([position in begins for position in range(positions)])
    return torch.tensor(labels), torch.tensor(starts)


@dataclass(frozen=True)
class Case:
    """A batch and, by enumeration, what is true of each of its sentences."""

    potentials: Potentials

    @cached_property
    def sentences(self) -> list[Sentence]:
        return [Sentence(self.potentials, b) for b in range(len(self.potentials.lengths))]

    @cached_property
    def log_z(self) -> Tensor:
        return torch.tensor([s.log_z for s in self.sentences], dtype=torch.float64)

    @cached_property
    def segment_marginals(self) -> Tensor:
        """[B, N, L, C], by start and length less one."""
        batch, positions, longest, types = self.potentials.sizes
        out = torch.zeros(batch, positions, longest, types, dtype=torch.float64)
        for b, sentence in enumerate(self.sentences):
            for (begin, end, kind), probability in sentence.segment_marginals().items():
                out[b, begin, end - begin - 1, kind] = probability
        return out

    @cached_property
    def gradients(self) -> dict[str, Tensor]:
        """The expected counts of everything that is scored, summed over the batch where shared."""
        batch, positions, longest, types = self.potentials.sizes
        segment = self.segment_marginals
        token = torch.zeros(batch, positions, types, dtype=torch.float64)
        end = torch.zeros_like(token)
        final = torch.zeros(batch, types, dtype=torch.float64)
        for begin in range(positions):
            for stop in range(begin + 1, min(begin + longest, positions) + 1):
                mass = segment[:, begin, stop - begin - 1]
                token[:, begin:stop] += mass[:, None]
                end[:, stop - 1] += mass
                final += torch.where((self.potentials.lengths == stop)[:, None], mass, 0)
        counts = torch.tensor([s.transition_counts() for s in self.sentences], dtype=torch.float64)
        start = segment.sum(2)
        return {
            "emission": token,
            "segment": segment,
            "start": start,
            "end": end,
            "duration": segment.sum((0, 1)),
            "transition": counts.sum(0),
            "initial": start[:, 0].sum(0),
            "final": final.sum(0),
        }


CASES = {
    "usual": Case(random_potentials([5, 3, 4], longest=3, types=3)),
    "padded": Case(random_potentials([2, 4], longest=2, types=3, positions=7, seed=1)),
    "one position": Case(random_potentials([1, 1], longest=3, types=4, seed=2)),
    "length one": Case(random_potentials([6, 4], longest=1, types=3, seed=3)),
    "one type": Case(random_potentials([7, 8], longest=3, types=1, seed=4)),
    "longer than the sentence": Case(random_potentials([2, 4, 3], longest=9, types=2, seed=5)),
    "all one": Case(random_potentials([1], longest=1, types=1, seed=6)),
    "many positions": Case(random_potentials([17, 18], longest=2, types=1, seed=7)),
    "large scores": Case(random_potentials([5, 4], longest=3, types=3, seed=8, scale=300.0)),
    "outside of length one": Case(
        random_potentials([5, 5], longest=3, types=3, seed=9)._replace(
            duration=torch.tensor(
                [[0.3, -0.2, 1.0], [-torch.inf, 0.5, 0.1], [-torch.inf, 0.2, -1.5]],
                dtype=torch.float64,
            )
        )
    ),
    **{
        f"no {name}": Case(
            random_potentials([4, 3], 3, 3, given=[x for x in OPTIONAL if x != name], seed=10)
        )
        for name in OPTIONAL
    },
    **{
        f"only {name}": Case(random_potentials([4, 3], 3, 3, given=[name], seed=11))
        for name in OPTIONAL
    },
}
