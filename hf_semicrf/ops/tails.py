"""Potentials without a longest segment: lengths beyond L follow a tail.

Lengths 1..L score what `Potentials.duration` says. A segment of type c and length L + k, k >= 1,
scores in its place

    enter[c] + (k - 1) stay[c] + log binomial(k + r - 2, r - 1)

the weight of a negative binomial of order r; r = 1 is the geometric one. Emissions, start and end
count as ever. A tail of order r is r states a type, "open beyond L", since the binomial counts the
ways to part k - 1 positions into r stages: O(N (L C + r C + C^2)).

Two ways to write such potentials as ordinary ones are exact, whatever is asked of them:

- `expanded`: a segment beyond L is a head of L positions, k - 1 positions that each stand in a
  stage, and a last one: 3 + r types a type. For r > 1 a segmentation is several there: sums are
  right, best ones and entropies are not.
- `written_out`: L is the number of positions. O(N^2 C).

Source: Guedon (2003), "Estimating Hidden Semi-Markov Chains from Discrete Sequences", for lengths
whose tail is geometric; Russell and Moore (1985), "Explicit Modelling of State Occupancy in Hidden
Markov Models", for a negative binomial of whole order as a chain of states.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from hf_semicrf.ops.potentials import Potentials


class TailedPotentials(NamedTuple):
    """Potentials, and what segments beyond their longest length score, in nats.

    Args:
        body: Scores of positions and of lengths 1..L; ``segment`` is None.
        enter: Score of length L + 1 [C]; ``-inf`` where nothing is longer than L.
        stay: What each further position adds [C].
        order: Order r of the negative binomial; 1 for a geometric tail.
    """

    body: Potentials
    enter: Tensor
    stay: Tensor
    order: int = 1

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """Batch size B, positions N, the length L where the tail begins, and types C."""
        return self.body.sizes

    @property
    def lengths(self) -> Tensor:
        """Positions of each sentence [B]."""
        return self.body.lengths

    @property
    def duration(self) -> Tensor:
        """Score of each length up to L [L, C]."""
        return self.body.duration

    def map(self, function: Callable[[Tensor], Tensor]) -> TailedPotentials:
        """Apply ``function`` to every floating-point tensor that is not None."""
        return TailedPotentials(
            self.body.map(function), function(self.enter), function(self.stay), self.order
        )

    def scores(self) -> dict[str, Tensor]:
        """All scores that are not None, by name."""
        own = {name: x for name, x in self.body._asdict().items() if x is not None}
        del own["lengths"]
        return own | {"enter": self.enter, "stay": self.stay}


def beyond(p: TailedPotentials, excess: Tensor) -> Tensor:
    """Score lengths L + excess, in nats [..., C].

    Args:
        p: Potentials.
        excess: Positions beyond L [...], 1 at least.
    """
    more = excess.to(p.stay.dtype)[..., None] - 1
    # no position at -inf is none
    stayed = torch.where(more > 0, more * torch.where(more > 0, p.stay, 0), 0)
    ways = sum(torch.log1p(more / n) for n in range(1, p.order))
    return p.enter + stayed + ways


def written_out(p: TailedPotentials) -> Potentials:
    """The same distribution with a score of every length: L is the number of positions."""
    _, positions, longest, _ = p.sizes
    excess = torch.arange(1, max(1, positions - longest + 1), device=p.lengths.device)
    return p.body._replace(duration=torch.cat([p.duration, beyond(p, excess)]))


def expanded(p: TailedPotentials) -> Potentials:
    """The same distribution with 3 + r types a type: whole, head, r stages and last.

    Type c of the n-th of them is type n C + c.
    """
    longest, types, order = *p.duration.shape, p.order
    kinds = 3 + order
    free = p.enter.new_zeros(types)
    never = torch.full_like(free, -torch.inf)

    def spread(x: Tensor | None, whole: bool, head: bool, last: bool) -> Tensor | None:
        """Scores [..., C] for some of the kinds, zeros for the others."""
        if x is None:
            return None
        zero = torch.zeros_like(x)
        used = [whole, head, *[False] * order, last]
        return torch.cat([x if flag else zero for flag in used], -1)

    # [K - 1, L, C]: a head has length L, all others length 1
    others = never.repeat(kinds - 1, longest, 1)
    others = torch.cat([torch.stack([never, *[p.stay] * order, free])[:, None], others[:, 1:]], 1)
    head = torch.cat([never.repeat(longest - 1, 1), p.enter[None]])
    # [L, K, C]
    duration = torch.cat([p.duration[None], head[None], others[1:]]).transpose(0, 1)
    # [K_src, K_dst] blocks of [C, C]: 1 as the types do, 2 within a type, 0 never
    block = torch.zeros(kinds, kinds, dtype=torch.long)
    block[0, :2] = block[-1, :2] = 1
    block[1, 2:] = 2
    for stage in range(order):
        block[2 + stage, 2 + stage :] = 2
    block = block.to(p.lengths.device)[:, None, :, None]
    same = torch.where(torch.eye(types, device=free.device, dtype=torch.bool), 0.0, -torch.inf)
    step = p.body.transition[None, :, None, :]
    transition = torch.where(
        block == 1, step, torch.where(block == 2, same.to(free)[None, :, None], -torch.inf)
    )
    size = kinds * types
    body = p.body
    emission = body.emission
    return Potentials(
        emission=None if emission is None else emission.repeat(1, 1, kinds),
        start=spread(body.start, True, True, False),
        end=spread(body.end, True, False, True),
        duration=duration.reshape(longest, size),
        transition=transition.reshape(size, size),
        initial=torch.cat([body.initial] * 2 + [never] * (kinds - 2)),
        final=torch.cat([body.final, *[never] * (kinds - 2), body.final]),
        lengths=body.lengths,
    )


def collapsed(labels: Tensor, starts: Tensor, types: int) -> tuple[Tensor, Tensor]:
    """Labels and starts [..., N] of types, from those of `expanded` potentials."""
    opens = starts & (labels < 2 * types)
    return torch.where(labels < 0, labels, labels % types), opens
