"""Say which segmentations are allowed: by the rules of a task, by known spans of a text.

Both end as ``-inf`` in the potentials: what they forbid has probability 0 exactly and trains
nothing. Rules speak of types and lengths and take no memory. Spans become a mask of all segments
[N, L, C], the memory that decoding with a threshold takes anyway.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from hf_semicrf.labels.partial import Known, type_flags, type_names
from hf_semicrf.labels.schemes import OUTSIDE, LabelScheme
from hf_semicrf.ops import Potentials, log_partition
from hf_semicrf.options import check, own

RULES = ("types", "lengths", "transitions", "initial", "final")


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
        check(longest=longest)
        if not isinstance(rules, Mapping):
            raise ValueError(f"expected constraints as a mapping, got {rules!r:.80}")
        unknown = sorted(set(rules) - set(RULES))
        if unknown:
            raise ValueError(f"expected constraints among {RULES}, got {unknown}")
        free = (True,) * len(types)
        lengths = {name: (1, longest if name != types[0] else 1) for name in types}
        if "types" in rules:
            allowed = type_names(rules["types"], types, "types")
            lengths |= {name: (1, 0) for name in types[1:] if name not in allowed}
        for name, bounds in _of_types(rules, "lengths"):
            type_names([name], types[1:], "lengths")
            try:
                least, most = (check(length=bound)["length"] for bound in bounds)
            except (TypeError, ValueError):
                least = most = 0
            if not 1 <= least <= min(most, longest):
                raise ValueError(
                    f"expected the shortest and the longest length of {name!r} in words, from 1 to "
                    f"{longest}, got {bounds!r}"
                )
            if lengths[name][1]:
                lengths[name] = (least, min(most, longest))
        follow = {name: free for name in types}
        for name, after in _of_types(rules, "transitions"):
            type_names([name], types, "transitions")
            follow[name] = type_flags(after, types, "transitions")
        read = cls(
            duration=tuple(
                tuple(lengths[name][0] <= length <= lengths[name][1] for name in types)
                for length in range(1, longest + 1)
            ),
            transition=tuple(follow[name] for name in types),
            initial=type_flags(rules["initial"], types, "initial") if "initial" in rules else free,
            final=type_flags(rules["final"], types, "final") if "final" in rules else free,
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


def _of_types(rules: Mapping[str, Any], name: str) -> Iterable[tuple[str, Any]]:
    """The types and values of a rule."""
    rule = rules.get(name, {})
    if not isinstance(rule, Mapping):
        raise ValueError(f"expected {name} as a mapping from types, got {rule!r:.80}")
    return rule.items()


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
    check(longest=longest)
    allowed = torch.ones(positions, longest, len(types), dtype=torch.bool)
    begins = torch.arange(positions)[:, None]
    ends = begins + torch.arange(1, longest + 1)
    for span in spans:
        first, end, label = span["start"], span["end"], span.get("label")
        if not 0 <= first < end <= positions:
            raise ValueError(f"expected non-empty spans in [0, {positions}), got {dict(span)}")
        names = types[1:] if label is None else [label] if isinstance(label, str) else label
        chosen = torch.tensor(type_flags(names, types, "label"))
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
        if not isinstance(span, Mapping):
            raise ValueError(f"expected a mapping with start, end and label, got {span!r:.80}")
        start, end = own(span.get("start")), own(span.get("end"))
        ints = type(start) is int and type(end) is int
        if not ints or start not in firsts or end not in ends:
            raise ValueError(
                f'expected "start" and "end" of whole words, which stand at {list(words)}, got '
                f"{dict(span)}"
            )
        found.append({**span, "start": firsts[start], "end": ends[end]})
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
