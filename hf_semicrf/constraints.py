"""Which segmentations are allowed: the rules of a task, known spans, and tags known in part.

All end as ``-inf`` in the potentials: what they forbid has probability 0 exactly and trains
nothing. Three forms, by what they know:

- `Rules`: of every sentence alike, by types and lengths; they cost nothing.
- `allowed_segments`: of given spans, as a mask of all segments [N, L, C], the memory that decoding
  with a threshold takes anyway.
- `Known`: of each position, for the sum over all segmentations that agree with partly known tags;
  O(N C) memory, and a scan over twice the types.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot, pad
from torch.nn.utils.rnn import pad_sequence

from hf_semicrf.ops import Potentials, log_partition
from hf_semicrf.segments import OUTSIDE, LabelScheme, split_long_segments

RULES = ("types", "lengths", "transitions", "initial", "final")
MOST_TYPES = 63  # a set of types is the bits of one int64


class Rules(NamedTuple):
    """What is allowed in every sentence, as nested tuples of bool.

    Args:
        duration: A length for a type [L][C].
        transition: A type directly after another [C_src][C_dst].
        initial: A type first [C].
        final: A type last [C].
    """

    duration: tuple[tuple[bool, ...], ...]
    transition: tuple[tuple[bool, ...], ...]
    initial: tuple[bool, ...]
    final: tuple[bool, ...]

    @classmethod
    def read(cls, rules: Mapping[str, Any], types: Sequence[str], longest: int) -> Rules:
        """Read the rules of a configuration. Types are named, "O" among them.

        Args:
            rules: Any of ``types`` (entity types that may occur), ``lengths`` (type to its shortest
                and longest length in words), ``transitions`` (type to the types that may directly
                follow it), ``initial`` and ``final`` (types that a sentence may begin and end
                with). What is not named is free.
            types: The segment types; the first is the outside, one word long.
            longest: Longest segment L, in words.

        Raises:
            ValueError: A rule, type or length is unknown, or no sentence satisfies the rules.
        """
        unknown = sorted(set(rules) - set(RULES))
        if unknown:
            raise ValueError(f"expected constraints among {RULES}, got {unknown}")
        free = (True,) * len(types)
        lengths = {name: (1, longest if name != types[0] else 1) for name in types}
        if "types" in rules:
            kept = _names(rules["types"], types, "types")
            lengths |= {name: (1, 0) for name in types[1:] if name not in kept}
        for name, bounds in rules.get("lengths", {}).items():
            _names([name], types[1:], "lengths")
            if len(bounds) != 2 or not 1 <= bounds[0] <= min(bounds[1], longest):
                raise ValueError(
                    f"expected the shortest and the longest length of {name!r} in words, from 1 to "
                    f"{longest}, got {bounds!r}"
                )
            if lengths[name][1]:
                lengths[name] = (bounds[0], min(bounds[1], longest))
        follow = {name: free for name in types}
        for name, after in rules.get("transitions", {}).items():
            _names([name], types, "transitions")
            follow[name] = _flags(after, types, "transitions")
        read = cls(
            duration=tuple(
                tuple(lengths[name][0] <= length <= lengths[name][1] for name in types)
                for length in range(1, longest + 1)
            ),
            transition=tuple(follow[name] for name in types),
            initial=_flags(rules["initial"], types, "initial") if "initial" in rules else free,
            final=_flags(rules["final"], types, "final") if "final" in rules else free,
        )
        if not read._satisfiable():
            raise ValueError(f"expected constraints that some sentence satisfies, got {rules}")
        return read

    def apply(self, p: Potentials) -> Potentials:
        """The potentials with ``-inf`` for what the rules forbid."""
        masked = {
            name: getattr(p, name).masked_fill(
                ~torch.tensor(flags).to(p.lengths.device, non_blocking=True), -torch.inf
            )
            for name, flags in self._asdict().items()
        }
        return p._replace(**masked)

    def allow(self, scheme: LabelScheme, sentences: Sequence[Sequence[int]]) -> list[bool]:
        """Whether sentences' tags, known in part or whole, agree with some segmentation allowed.

        A scan over all sentences at once, on the CPU.

        Args:
            scheme: The tags' scheme.
            sentences: Tag ids of each sentence, negative where unknown.
        """
        longest, types = len(self.duration), len(self.initial)
        lengths = torch.tensor([len(tags) for tags in sentences])
        tags = pad_sequence(
            [torch.tensor(tags) for tags in sentences], batch_first=True, padding_value=-1
        )
        p = Potentials(
            emission=torch.zeros(*tags.shape, types),
            duration=torch.zeros(longest, types),
            transition=torch.zeros(types, types),
            initial=torch.zeros(types),
            final=torch.zeros(types),
            lengths=lengths,
        )
        known = Known.of_tags(scheme, tags, longest)
        return (log_partition(known.apply(self.apply(p))) > -torch.inf).tolist()

    def _satisfiable(self) -> bool:
        """Whether some sentence has a segmentation, of all up to a bound that reaches every type.

        A path of types visits each at most once before it can end, with segments of at most L.
        """
        # in NumPy: a model may be under construction without data
        duration, transition, initial, final = (np.array(flags) for flags in self)
        reached = [initial]  # types that may start at each boundary
        longest, types = duration.shape
        while len(reached) <= longest * types:
            before = np.stack(reached[-longest:][::-1])
            ended = (before & duration[: len(before)]).any(0)
            if (ended & final).any():
                return True
            reached.append((ended[:, None] & transition).any(0))
        return False


def allowed_segments(
    spans: Iterable[Mapping[str, Any]], positions: int, types: Sequence[str], longest: int
) -> Tensor:
    """Which segments of a sentence agree with what is known of spans.

    Args:
        spans: Mappings with "start" and "end" (words, half-open) and "label": the type of the
            entity that is exactly this span, a list of types that it may have, None for any type,
            or "O" where no word of the span lies in an entity. With "exclude" true, exactly this
            span is no entity of that type, or of those.
        positions: Words N of the sentence.
        types: The segment types; the first is the outside.
        longest: Longest segment L, in words.

    Returns:
        By start, length less one and type [N, L, C] bool.

    Raises:
        ValueError: A span is empty, too long for an entity or outside the sentence, a type is
            unknown, or the outside is excluded.
    """
    allowed = torch.ones(positions, longest, len(types), dtype=torch.bool)
    begins = torch.arange(positions)[:, None]
    ends = begins + torch.arange(1, longest + 1)
    for span in spans:
        first, end, label = span["start"], span["end"], span.get("label")
        if not 0 <= first < end <= positions:
            raise ValueError(f"expected non-empty spans in [0, {positions}), got {dict(span)}")
        names = types[1:] if label is None else [label] if isinstance(label, str) else label
        chosen = torch.tensor(_flags(names, types, "label"))
        if chosen[0] and (len(names) > 1 or span.get("exclude")):
            raise ValueError(f'expected "O" alone and not excluded, got {dict(span)}')
        touching = (begins < end) & (ends > first)
        if chosen[0]:
            allowed[..., 1:] &= ~touching[..., None]
        elif end - first > longest:
            raise ValueError(f"expected entities of at most {longest} words, got {dict(span)}")
        elif span.get("exclude"):
            allowed[first, end - first - 1] &= ~chosen
        else:
            exact = (begins == first) & (ends == end)
            allowed &= ~touching[..., None] | (exact[..., None] & chosen)
    return allowed


def spans_of_words(
    spans: Iterable[Mapping[str, Any]], words: Sequence[tuple[int, int]]
) -> list[dict[str, Any]]:
    """Spans of a text as spans of its words.

    Args:
        spans: Mappings with "start" and "end", in the units of the words' places.
        words: Where each word begins and ends, half-open.

    Raises:
        ValueError: A span does not begin and end where words do.
    """
    firsts = {start: n for n, (start, _) in enumerate(words)}
    ends = {end: n + 1 for n, (_, end) in enumerate(words)}
    found = []
    for span in spans:
        if span.get("start") not in firsts or span.get("end") not in ends:
            raise ValueError(
                f'expected "start" and "end" of whole words, which stand at {list(words)}, got '
                f"{dict(span)}"
            )
        found.append({**span, "start": firsts[span["start"]], "end": ends[span["end"]]})
    return found


def spans_in_window(
    spans: Iterable[Mapping[str, Any]],
    window: tuple[int, int],
    windows: Sequence[tuple[int, int]],
) -> list[dict[str, Any]]:
    """The spans that concern a window of a text's words, counted from its first word.

    Of a known entity that is not whole in it, the words inside count as outside: a window that has
    it whole answers for them.

    Args:
        spans: As `allowed_segments` takes them.
        window: The window's words, half-open.
        windows: Those of all windows.

    Raises:
        ValueError: A known entity is whole in no window.
    """
    found = []
    for span in spans:
        first, end = max(span["start"], window[0]), min(span["end"], window[1])
        whole = first == span["start"] and end == span["end"]
        if first >= end or (span.get("exclude") and not whole):
            continue
        if not whole and span.get("label") != OUTSIDE:
            if not any(a <= span["start"] and span["end"] <= b for a, b in windows):
                raise ValueError(
                    "expected windows that overlap enough for each span to be whole in one, got "
                    f"none for the words [{span['start']}, {span['end']})"
                )
            span = {"label": OUTSIDE}
        found.append({**span, "start": first - window[0], "end": end - window[0]})
    return found


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
        types = one_hot(labels.clamp(min=0), len(scheme.types)).bool() | ~known[..., None]
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


def types_as_bits(names: Iterable[str], types: Sequence[str]) -> int:
    """A set of types as the bits of an integer, as `Known.within` takes it.

    Raises:
        ValueError: A name is no type, or the types are more than an int64 has bits for.
    """
    if len(types) > MOST_TYPES:
        raise ValueError(f"expected at most {MOST_TYPES} types for sets of types, got {len(types)}")
    flags = _flags(names, types, "allowed types")
    return sum(1 << index for index, flag in enumerate(flags) if flag)


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


def _names(names: Iterable[str], types: Sequence[str], rule: str) -> list[str]:
    """The names, known to be types."""
    names = [names] if isinstance(names, str) else list(names)
    unknown = [name for name in names if name not in types]
    if unknown:
        raise ValueError(f"expected {rule} among {list(types)}, got {unknown}")
    return names


def _flags(names: Iterable[str], types: Sequence[str], rule: str) -> tuple[bool, ...]:
    """Which of the types are named."""
    chosen = _names(names, types, rule)
    return tuple(name in chosen for name in types)
