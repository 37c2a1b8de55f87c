"""The best segmentation where lengths beyond L follow a tail, on the host.

For a geometric tail the state "open beyond L" keeps its best score and where that segment began.
For a tail of higher order r the score of k - 1 positions is concave in k, and the best start of an
open segment has to be chosen among several: of two, the later one gains on the earlier one with
every position, so that once it is ahead it stays ahead. A list holds the starts that will yet be
best, the present best first; a step moves its front or its back, O(log N) at most.

Source: Galil and Giancarlo (1989), "Speeding up Dynamic Programming with Applications to Molecular
Biology", section 3, for concave weights.
"""

from __future__ import annotations

import math
from collections import deque

import numpy as np
import torch
from torch import Tensor

from hf_semicrf.ops.host.magnitude import centred
from hf_semicrf.ops.host.tail_scan import (
    Steps,
    blocks,
    empty_rows,
    small,
    steps_of,
    take_steps,
)
from hf_semicrf.ops.host.viterbi import best as best_of_ordinary
from hf_semicrf.ops.segmentations import spread_labels
from hf_semicrf.ops.tails import TailedPotentials, collapsed, expanded, written_out


def best(p: TailedPotentials) -> tuple[Tensor, Tensor]:
    """Find the highest-scoring segmentation: labels [B, N] and starts [B, N].

    Ties go to the shorter segment and the lower type. -1 and no start throughout a sentence whose
    scores cannot be told apart.
    """
    body, _ = centred(p.body)
    q = TailedPotentials(body, p.enter.double(), p.stay.double(), p.order)
    if not small(q):
        if p.order > 1:
            return best_of_ordinary(written_out(p))
        return collapsed(*best_of_ordinary(expanded(p)), p.sizes[3])
    previous, last = _pointers(q.map(Tensor.detach))
    labels, starts = follow(previous, last, p.sizes[3])
    return labels.to(p.lengths.device), starts.to(p.lengths.device)


def _pointers(p: TailedPotentials) -> tuple[Tensor, Tensor]:
    """The state (boundary times C and type) before each one [B, (N + 1) C], and the last [B]."""
    batch, positions, longest, types = p.sizes
    directions = [p]
    transition = p.body.transition.cpu()[None]
    pre, alpha, beyond = empty_rows(directions)
    opened = np.full((1, *pre.shape[1:]), -np.inf)
    begin = np.zeros((positions + 1, batch, types), dtype=np.int64)  # of the best segment
    starts = _Starts(p) if p.order > 1 else None
    origin = np.zeros((batch, types), dtype=np.int64)  # where the open segments began
    for first, last in blocks(directions):
        steps = steps_of(directions, first, last)
        here = slice(first, last + 1)
        rows = (pre[steps.place], alpha[here], beyond[here])
        if starts is None:
            before = opened[0].copy()
            take_steps(np.maximum.reduce, np.maximum, *rows, opened, steps, transition)
            origins = _origins(before, origin, rows[0], steps, first, longest)
            origin = origins[-1]
        else:
            origins = starts.take_steps(*rows, steps, transition, first)
        # [T, B, C, L + 1] to [T, L + 1, B, C]; the tail's row holds what ends
        windows = rows[0][:-1].unfold(0, longest + 1, 1).permute(0, 3, 1, 2) + steps.scores
        windows[:, 0] = rows[2][1:]
        chosen = windows.numpy()[:, ::-1].argmax(1)  # length less one; L for what is longer
        ends = np.arange(first, last)[:, None, None]
        begin[first + 1 : last + 1] = np.where(chosen < longest, ends - chosen, origins)
    begin = begin.clip(min=0)
    # the best type before each boundary and type [N + 1, B, C_dst]
    size = max(1, (1 << 23) // (batch * types * types))
    scored = (x[..., None] + transition for x in alpha.split(size))
    source = np.concatenate([x.numpy().argmax(-2) for x in scored])
    previous = begin * types + np.take_along_axis(source, begin, 0)
    final = alpha[p.lengths.cpu(), torch.arange(batch)] + p.body.final.cpu()
    state = p.lengths.cpu() * types + final.argmax(-1)
    return torch.from_numpy(previous.transpose(1, 0, 2).reshape(batch, -1)), state


def _origins(
    opened: np.ndarray, origin: np.ndarray, pre: Tensor, steps: Steps, first: int, longest: int
) -> np.ndarray:
    """Where the best open segment of each step began [T, B, C], of a geometric tail."""
    count = len(steps.stay)
    entering = (pre[:count] + steps.scores[:, 0]).numpy()
    stay = steps.stay.numpy()
    found = np.empty(entering.shape, dtype=np.int64)
    for i in range(count):
        stayed = opened + stay[i]
        origin = np.where(entering[i] >= stayed, first + i - longest, origin)
        opened = np.maximum(entering[i], stayed)
        found[i] = origin
    return found


class _Starts:
    """The starts of open segments that are or will be best, for a tail of higher order.

    A candidate is (start, score): its segment's score at a position t, less what all of a type get
    on the way there, is ``score + ways(t - start - L - 1)``.

    Args:
        p: Potentials.
    """

    def __init__(self, p: TailedPotentials):
        batch, positions, self.longest, _ = p.sizes
        n = np.arange(positions + 1)
        self.ways = np.sum([np.log1p(n / i) for i in range(1, p.order)], 0).tolist()
        # of each sentence and type with a tail: its candidates, and what all of them have got
        self.places: dict[tuple[int, int], tuple[deque[tuple[int, float]], float]] = {
            (row, kind): (deque(), 0.0)
            for row in range(batch)
            for kind in (p.enter > -torch.inf).nonzero().flatten().tolist()
        }

    def take_steps(
        self,
        pre: Tensor,
        alpha: Tensor,
        beyond: Tensor,
        steps: Steps,
        transition: Tensor,
        first: int,
    ) -> np.ndarray:
        """The steps of a block with maxima; where each step's best open segment began [T, B, C]."""
        count, size, rows, types = steps.scores.shape
        window, ended, longer = (x.numpy() for x in (pre, alpha, beyond))
        scores, stay, end = (x.numpy() for x in (steps.scores, steps.stay, steps.end))
        found = np.zeros((count, rows, types), dtype=np.int64)
        step = transition.numpy()
        for i in range(count):
            segments = window[i : i + size] + scores[i]
            best = np.full((rows, types), -np.inf)
            for place in self.places:
                scored = float(segments[0][place]), float(stay[i][place])
                best[place], found[i][place] = self._step(place, first + i, *scored)
            segments[0] = longer[i + 1] = best + end[i]
            np.maximum.reduce(segments, axis=0, out=ended[i + 1])
            np.maximum.reduce(ended[i + 1][..., None] + step, axis=-2, out=window[i + size])
        return found

    def _step(
        self, place: tuple[int, int], t: int, entering: float, stay: float
    ) -> tuple[float, int]:
        """Score of the best open segment after position t, and where it began."""
        live, passed = self.places[place]
        passed += stay
        if stay == -math.inf:  # nothing goes on over this position
            live.clear()
            passed = 0.0
        self.places[place] = (live, passed)
        if entering > -math.inf:
            new = (t - self.longest, entering - passed)
            while live and self._value(live[-1], t) <= self._value(new, t):
                live.pop()
            while len(live) > 1 and self._ahead(live[-2], live[-1]) >= self._ahead(live[-1], new):
                live.pop()
            live.append(new)
        while len(live) > 1 and self._value(live[0], t) <= self._value(live[1], t):
            live.popleft()
        if not live:
            return -math.inf, 0
        return self._value(live[0], t) + passed, live[0][0]

    def _value(self, candidate: tuple[int, float], t: int) -> float:
        return candidate[1] + self.ways[t - candidate[0] - self.longest]

    def _ahead(self, older: tuple[int, float], newer: tuple[int, float]) -> int:
        """The first position at which the newer one is better; N where it is never."""
        low, high = newer[0] + self.longest, len(self.ways) - 1
        while low < high:
            t = (low + high) // 2
            if self._value(older, t) <= self._value(newer, t):
                high = t
            else:
                low = t + 1
        return low


def follow(previous: Tensor, last: Tensor, types: int) -> tuple[Tensor, Tensor]:
    """Labels and starts [B, N] of the paths back from states, on any device.

    Pointers are followed twice as far every time, so that no step waits for N others.

    Args:
        previous: The state before each one, boundary times C and type [B, (N + 1) C]; those of
            boundary 0 lead to themselves or anywhere.
        last: The states to begin with [B].
        types: C.
    """
    batch, size = previous.shape
    n = torch.arange(size, device=previous.device)
    jump = torch.where(n < types, n, previous)  # boundary 0 is the end
    on_path = torch.zeros(batch, size, dtype=torch.bool, device=previous.device)
    on_path.scatter_(1, last[:, None], True)
    for _ in range(max(1, (size // types - 1).bit_length())):
        reached = torch.zeros(batch, size, dtype=torch.int32, device=previous.device)
        reached.scatter_add_(1, jump, on_path.int())
        on_path |= reached > 0
        jump = jump.gather(1, jump)
    # a segment's state is where it ends: its begin is the boundary before, its label the type
    ends = on_path.clone()
    ends[:, :types] = False
    boundary = size // types
    starts = torch.zeros(batch, boundary, dtype=torch.int64, device=previous.device)
    labels = torch.zeros_like(starts)
    begin = torch.where(ends, previous // types, boundary - 1)
    starts.scatter_add_(1, begin, ends.long())
    labels.scatter_add_(1, begin, torch.where(ends, n % types, 0))
    starts = starts[:, :-1] > 0
    return spread_labels(labels[:, :-1], starts, last // types), starts
