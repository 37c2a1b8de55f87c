"""The potentials of a semi-Markov CRF, and the one definition of a segment's score.

A segmentation tiles the ``N`` positions of a sentence with segments ``(s, e, c)``: half-open, of
length ``1..L`` and of type ``c``. Its score, in nats, is

    score(y) = initial[c_1] + sum_j seg(s_j, e_j, c_j) + sum_{j>1} transition[c_{j-1}, c_j]
               + final[c_J]
    seg(s, e, c) = segment[s, e-s-1, c] + sum_{s<=t<e} emission[t, c] + start[s, c] + end[e-1, c]
                   + duration[e-s-1, c]

Source: Sarawagi and Cohen (2004), "Semi-Markov Conditional Random Fields for Information
Extraction", equations 1 to 3; the transition here does not depend on the duration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor


class Potentials(NamedTuple):
    """Scores of a batch of sentences, in nats; ``-inf`` forbids what it scores.

    At least one of ``emission``, ``segment``, ``start`` and ``end`` is not None. All share one
    floating dtype and one device. What lies past a sentence's length is not read.

    Finite scores may be large: where float64 cannot tell segmentations apart any more (never below
    2e9) operations raise a `ScoreError`, as they do for NaN and ``+inf``. On a GPU and in compiled
    code, where a check would wait, such a sentence has NaN for every number, and labels -1.

    Args:
        emission: Score of each position [B, N, C], or None for zeros.
        segment: Score [B, N, L, C] of the segment that starts at n with length l + 1, or None.
        start: Score of starting a segment at n [B, N, C], or None.
        end: Score of a segment whose last position is n [B, N, C], or None.
        duration: Score of each length [L, C]; its first dimension is the longest segment, L.
        transition: Score of type ``dst`` directly after type ``src`` [C_src, C_dst].
        initial: Score of the first segment's type [C].
        final: Score of the last segment's type [C].
        lengths: Positions of each sentence [B], 1..N.
    """

    emission: Tensor | None = None
    segment: Tensor | None = None
    start: Tensor | None = None
    end: Tensor | None = None
    duration: Tensor = None  # type: ignore[assignment]  # required; keyword order is the contract
    transition: Tensor = None  # type: ignore[assignment]
    initial: Tensor = None  # type: ignore[assignment]
    final: Tensor = None  # type: ignore[assignment]
    lengths: Tensor = None  # type: ignore[assignment]

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """Batch size B, positions N, longest segment L and number of types C."""
        for tensor in (self.emission, self.segment, self.start, self.end):
            if tensor is not None:
                batch, positions = tensor.shape[:2]
                longest, types = self.duration.shape[0], self.duration.shape[-1]
                return batch, positions, longest, types
        raise ValueError("expected at least one of emission, segment, start and end; all are None")

    def map(self, function: Callable[[Tensor], Tensor]) -> Potentials:
        """Apply ``function`` to every floating-point tensor that is not None."""
        *scores, lengths = self
        return Potentials._make([*(None if x is None else function(x) for x in scores), lengths])


def segment_scores(p: Potentials, first: int, last: int) -> Iterator[tuple[int, Tensor]]:
    """Score every segment whose last position lies in [first, last), length by length.

    Emissions are added one position at a time, so no difference of prefix sums loses digits and
    ``-inf`` stays exact. Durations may differ between sentences [L, B, 1, C].

    Yields:
        For each index ``d`` of the axis of lengths, 0 to L - 1: the first last-position
        ``lo = max(first, d)`` at which a segment of length d + 1 fits, and the scores
        [B, last - lo, C] of the segments ``[t - d, t + 1)`` for ``t`` in [lo, last).
    """
    batch, _, longest, types = p.sizes
    content = p.duration.new_zeros(batch, last - first, types)
    for d in range(min(longest, last)):
        lo = max(first, d)
        content = content[:, lo - last :]
        begins, ends = slice(lo - d, last - d), slice(lo, last)
        if p.emission is not None:
            content = content + p.emission[:, begins]
        score = content + p.duration[d]
        if p.start is not None:
            score = score + p.start[:, begins]
        if p.end is not None:
            score = score + p.end[:, ends]
        if p.segment is not None:
            score = score + p.segment[:, begins, d]
        yield lo, score


def scores_by_end(p: Potentials, first: int, last: int) -> Tensor:
    """Score every segment whose last position lies in [first, last), in one tensor.

    Returns:
        Scores [B, last - first, L, C] by last position and length less one; -inf where the segment
        would begin before the sentence. Past a sentence's length anything.
    """
    batch, _, longest, types = p.sizes
    scores = p.duration.new_full((batch, last - first, longest, types), -torch.inf)
    for d, (lo, score) in enumerate(segment_scores(p, first, last)):
        scores[:, lo - first :, d] = score
    return scores


def only_read(p: Potentials) -> Potentials:
    """Put 0 for the scores that no segmentation reads: past a sentence's length, or too long."""
    _, positions, longest, _ = p.sizes
    lengths, device = p.lengths, p.lengths.device
    n = torch.arange(positions, device=device)
    # [B, N, 1] and [B, N, L, 1]
    inside = (n < lengths[:, None])[..., None]
    stops = n[:, None] + torch.arange(1, longest + 1, device=device)
    ends = (stops <= lengths[:, None, None])[..., None]
    most = lengths.max()
    masks = {
        **dict.fromkeys(("emission", "start", "end"), inside),
        "segment": ends,
        "duration": (torch.arange(longest, device=device) < most)[:, None],
        "transition": most > 1,
    }
    read = {
        name: torch.where(mask, x, 0)
        for name, mask in masks.items()
        if (x := getattr(p, name)) is not None
    }
    return p._replace(**read)


def reverse(p: Potentials) -> Potentials:
    """Read the same distribution from right to left: suffixes become prefixes.

    Position n of a sentence of length m becomes position ``m - 1 - n``; padding stays behind it.
    """
    _, positions, longest, _ = p.sizes
    index = (p.lengths[:, None] - 1 - torch.arange(positions, device=p.lengths.device)).clamp(min=0)

    def flip(x: Tensor | None) -> Tensor | None:
        return None if x is None else x.gather(1, index[..., None].expand_as(x))

    segment = p.segment
    if segment is not None:
        # the reversed segment that starts at n' is the one that ended there: it began l earlier
        begins = (index[..., None] - torch.arange(longest, device=index.device)).clamp(min=0)
        segment = segment.gather(1, begins[..., None].expand_as(segment))
    return Potentials(
        emission=flip(p.emission),
        segment=segment,
        start=flip(p.end),
        end=flip(p.start),
        duration=p.duration,
        transition=p.transition.mT,
        initial=p.final,
        final=p.initial,
        lengths=p.lengths,
    )
