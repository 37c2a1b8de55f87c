"""Read tags that are known in part, and mask the potentials of what they rule out.

The loss of a sentence is then the negative log-probability of all segmentations that agree, log Z
less the log Z of those (``ops.log_partition_difference``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from hf_semicrf.labels.schemes import OUTSIDE, LabelScheme, split_long_segments
from hf_semicrf.ops import Potentials, TailedPotentials

MOST_TYPES = 63  # a set of types is the bits of one int64


class Known(NamedTuple):
    """What is known of the segmentation of each sentence, position by position.

    Args:
        types: Whether a position may lie in a segment of a type [B, N, C] bool.
        may_start: Whether a segment may start at a position [B, N] bool.
        must_start: Whether one has to [B, N] bool.
    """

    types: Tensor
    may_start: Tensor
    must_start: Tensor

    @classmethod
    def of_tags(cls, scheme: LabelScheme, tags: Tensor, longest: int) -> Known:
        """All segmentations that agree with the tags that are known.

        Between two known tags the scheme's reading decides, as in `LabelScheme.encode`. Next to an
        unknown word a tag says what it is written for: ``B-X`` that a segment starts there, ``I-X``
        that one goes on (so the unknown word before is an X too), ``O`` both ends of its word,
        ``E-X`` the end of a segment, and ``B-X`` in a scheme that marks ends that it goes on. Where
        a tag is written for both, as in the plain scheme and IOB1's ``I-X``, it is open. Stretches
        known to be longer than a segment may be are split as `split_long_segments` does.

        Args:
            scheme: The tags' scheme.
            tags: Tag ids [B, N], negative where unknown.
            longest: Longest segment L, in words.
        """
        labels, starts = scheme.encode(tags)
        known = labels >= 0
        uses = torch.tensor(_uses(scheme)).to(tags.device, non_blocking=True)
        uses = uses[tags.clamp(min=0)] & known[..., None]
        opens, continues, closes, stays_open = uses.unbind(-1)
        known_before = pad(known, (1, 0), value=True)[..., :-1]
        may_start = torch.where(known & known_before, starts, ~(continues & ~known_before))
        may_start &= ~(~known & pad(stays_open, (1, 0))[..., :-1])
        must_start = torch.where(
            known & known_before, starts, opens | pad(closes, (1, 0))[..., :-1]
        )
        # an unknown word inside a segment is an entity's: only a stand-in type, for the split
        inner = labels.masked_fill(~may_start & ~known, 1)
        split = split_long_segments(inner, may_start, longest)
        types = torch.arange(len(scheme.types), device=tags.device) == labels[..., None]
        types |= ~known[..., None]
        return cls(types, split, must_start | (split & ~may_start))

    def within(self, allowed_types: Tensor) -> Known:
        """The same, with the types of each position among a set.

        Args:
            allowed_types: Type ids as the bits of an integer [B, N]; -1 allows all.
        """
        bits = torch.arange(self.types.shape[-1], device=allowed_types.device)
        return self._replace(types=self.types & ((allowed_types[..., None] >> bits) & 1).bool())

    def apply(self, p: Potentials) -> Potentials:
        """Potentials whose log Z is that of the segmentations that agree; they have 2 C types.

        Each type stands twice. From one position that must start a segment to the next only one of
        its copies is allowed, in turns, so that no segment crosses such a position: all by masks
        [B, N, 2 C], where a mask of segments would be [B, N, L, C].
        """

        def twice(x: Tensor) -> Tensor:
            return torch.cat([x, x], -1)

        odd = self.must_start.cumsum(1) % 2 == 1
        copies = torch.cat([self.types & ~odd[..., None], self.types & odd[..., None]], -1)
        zeros = p.duration.new_zeros(self.types.shape)
        emission, start = (twice(zeros if x is None else x) for x in (p.emission, p.start))
        return Potentials(
            emission=emission.masked_fill(~copies, -torch.inf),
            segment=None if p.segment is None else twice(p.segment),
            start=start.masked_fill(~self.may_start[..., None], -torch.inf),
            end=None if p.end is None else twice(p.end),
            duration=twice(p.duration),
            transition=p.transition.repeat(2, 2),
            initial=twice(p.initial),
            final=twice(p.final),
            lengths=p.lengths,
        )

    def apply_with_tail(self, p: TailedPotentials) -> TailedPotentials:
        """The same of potentials with a tail."""
        enter, stay = (torch.cat([x, x]) for x in (p.enter, p.stay))
        return TailedPotentials(self.apply(p.body), enter, stay, p.order)


def types_as_bits(names: Iterable[str], types: Sequence[str]) -> int:
    """A set of types as the bits of an integer, as `Known.within` takes it.

    Raises:
        ValueError: A name is no type, or the types are more than an int64 has bits for.
    """
    if len(types) > MOST_TYPES:
        raise ValueError(f"expected at most {MOST_TYPES} types for sets of types, got {len(types)}")
    flags = type_flags(names, types, "allowed types")
    return sum(1 << index for index, flag in enumerate(flags) if flag)


def type_names(names: Iterable[str], types: Sequence[str], rule: str) -> list[str]:
    """The names, known to be types."""
    if not isinstance(names, Iterable):
        raise ValueError(f"expected {rule} among {list(types)}, got {names!r}")
    names = [names] if isinstance(names, str) else list(names)
    unknown = [name for name in names if name not in types]
    if unknown:
        raise ValueError(f"expected {rule} among {list(types)}, got {unknown}")
    return names


def type_flags(names: Iterable[str], types: Sequence[str], rule: str) -> tuple[bool, ...]:
    """Which of the types are named."""
    chosen = type_names(names, types, rule)
    return tuple(name in chosen for name in types)


def _uses(scheme: LabelScheme) -> list[tuple[bool, bool, bool, bool]]:
    """Whether each tag is only written for a word that starts, continues, ends, does not end one.

    As `LabelScheme.decode` writes it, beside a neighbour whose tag is unknown.
    """
    written: list[set[int]] = [set() for _ in scheme.labels]
    for index, tag in enumerate(scheme.written_tags()):
        written[tag].add(index % 4)  # twice whether it starts, and once whether it ends a segment
    uses = [(w <= {2, 3}, w <= {0, 1}, w <= {1, 3}, w <= {0, 2}) for w in written]
    uses[scheme.label2id[OUTSIDE]] = (True, False, True, False)
    return uses
