"""Read the tags of a data set as segmentations, and write segmentations as tags.

A segmentation is a pair of tensors, ``labels`` (type ids, -1 where nothing is known) and ``starts``
(True on the first word of each segment). Type 0 is the outside type ``O``, whose segments are one
word long. One reading serves every scheme. A segment starts at a word whose

- tag always opens one (``B-``, ``S-``, ``U-``, ``W-``, ``O``), or
- type differs from the word before (so an orphan ``I-X`` opens a segment, as in conlleval; so does
  ``I-X`` after ``B-Y`` or after an unknown word, and each new class of the plain scheme), or
- predecessor has a tag that always closes one (``E-``, ``L-``, ``S-``, ``U-``, ``W-``).

A tag of -100 is an unknown word, in the middle of a sentence as at its end: label -1, start False,
and tag -100 again on the way back.

What a label list cannot express: two neighbouring entities of one type merge in the plain scheme,
and in IOB1 for a type without ``B-X``. A type that lacks tags (``B-PER`` without ``I-PER``, say) is
legal, as in corpora where every such entity is one word long; `LabelScheme.decode` then writes the
nearest tag that the type has, so that the type of every word survives and only the boundary
between two words of one type can differ.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from hf_semicrf.labels.spelling import (
    OUTSIDE,
    PREFIXES,
    STANDARD,
    Reading,
    Spelling,
    choose,
    listed,
    recognise,
)
from hf_semicrf.options import check, own

UNKNOWN_TAG = -100
UNKNOWN = "?"  # its name in a data set; None means the same

OPENING, CLOSING = "BSUW", "ELSUW"

# For a word at (the start, the end) of its segment: the prefixes to write, best first.
_WRITTEN = {
    (True, True): "SUWBELIM",
    (True, False): "BIMELSUW",
    (False, True): "ELIMBSUW",
    (False, False): "IMBELSUW",
}

# a tag's reading as a number: its type times 4, and these; the type of an unknown tag is -1
_OPENS, _CLOSES = 2, 1
_UNKNOWN_CODE = -4

TagReading = tuple[int, int, int]  # type id, whether the tag always opens, always closes a segment


@dataclass(frozen=True)
class LabelScheme:
    """The tags of a task, the scheme that they follow and the segment types behind them.

    Attributes:
        labels: Tag names; a tag's id is its index. Any order.
        name: A name of `PREFIXES`: "IOB2", "IOB1", "IOBES", "BILOU", "BMES", "BMEWO", "BIEWO" or
            "plain" (no prefixes: a maximal run of one class is one segment).
        types: Segment types; ``types[0]`` is "O", the others stand in the order of their first tag.
        spelling: How the tags put prefix and type together.
    """

    labels: tuple[str, ...]
    name: str
    types: tuple[str, ...]
    spelling: Spelling = STANDARD

    @classmethod
    def from_labels(
        cls, labels: Sequence[str] | Mapping[int, str], name: str | None = None
    ) -> LabelScheme:
        """Recognise the scheme of a label list.

        ``B-`` and ``I-`` alone mean IOB2, unless some type has ``I-X`` and no ``B-X``, which only
        IOB1 can have; pass ``name="IOB1"`` where the list does not show it (both are read alike,
        they differ in what is written). Prefixes may stand behind the types, be in lower case and
        have another separator: see ``hf_semicrf.labels.spelling``. ``B``, ``I`` and ``O`` alone
        are the tags of one type, "ENTITY".

        Args:
            labels: Tag names in the order of their ids, or an ``id2label`` mapping.
            name: The scheme, where it should not be recognised, as a configuration's
                ``label_scheme`` has it. With "-suffix" behind it the prefixes stand behind the
                types, in labels that can be read both ways.

        Raises:
            ValueError: The list is empty, holds duplicates or placeholders, no "O", no type, or
                tags of no or of several schemes, or it can be read in several ways.
        """
        tags = _ordered(labels)
        entity_tags = [tag for tag in tags if tag != OUTSIDE]
        reading = recognise(entity_tags) if name is None else choose(entity_tags, name)
        if reading.name == "plain":
            types = entity_tags
        else:
            types = list(dict.fromkeys(reading.spelling.split(tag)[1] for tag in entity_tags))
        if OUTSIDE in types:
            raise ValueError(
                f"expected entity types not named 'O' (the outside), got {listed(tags)}"
            )
        return cls(tags, reading.name, (OUTSIDE, *types), reading.spelling)

    @property
    def setting(self) -> str:
        """The ``label_scheme`` under which the labels are read so."""
        return Reading(self.name, self.spelling).setting

    def tags_of(self, type_name: str) -> list[str]:
        """All tags that the scheme has for an entity type, whether in the label list or not."""
        if self.name == "plain":
            return [type_name]
        return [self.spelling.join(prefix, type_name) for prefix in PREFIXES[self.name]]

    def knows(self, tag: str) -> bool:
        """Whether a tag is in the label list, or another one of a type that is."""
        return self._reading(tag, _lookup(self).type_ids) is not None

    @property
    def label2id(self) -> dict[str, int]:
        """Tag name to tag id."""
        return _index(self.labels)

    def encode(self, tags: Tensor) -> tuple[Tensor, Tensor]:
        """Read tags as a segmentation.

        Args:
            tags: Tag ids [..., N]; negative values such as -100 are unknown.

        Returns:
            labels [..., N] (type ids, -1 where unknown) and starts [..., N] (bool).
        """
        code = _table(self, "read", tags.device)[tags.long().clamp(min=-1) + 1]
        before = pad(code, (1, 0), value=_UNKNOWN_CODE)[..., :-1]
        labels = code >> 2
        starts = (labels != before >> 2) | (code & _OPENS | before & _CLOSES).bool()
        return labels, starts & (labels >= 0)

    def reading(self, device: torch.device) -> tuple[Tensor, int, int]:
        """How tags are read, as a table whose first row is an unknown tag.

        Returns:
            The type of each tag times 4 [K + 1], with what is added where it opens a segment, and
            where it closes one.
        """
        return _table(self, "read", device), _OPENS, _CLOSES

    def writing(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """How segmentations are written, as tables.

        Returns:
            The tags as `written_tags` orders them [8 C], and of each tag the events that it is
            written for [K, M]: with ends 4 for each type, by event and type, else 2; their number
            where there are no more.
        """
        name = "four events" if self.marks_ends else "two events"
        return _table(self, "write", device), _table(self, name, device)

    def decode(self, labels: Tensor, starts: Tensor) -> Tensor:
        """Write a segmentation as tags: the inverse of `encode` where the labels can express it.

        Args:
            labels: Type ids [..., N], -1 where unknown.
            starts: True on the first word of each segment [..., N].

        Returns:
            Tag ids [..., N], -100 where the label is -1.
        """
        table = _table(self, "write", labels.device)
        same_as_before = labels == pad(labels, (1, 0), value=-1)[..., :-1]
        same_as_next = labels == pad(labels, (0, 1), value=-1)[..., 1:]
        ends = ~same_as_next | pad(starts, (0, 1), value=True)[..., 1:]
        key = (starts & same_as_before) * 4 + starts * 2 + ends * 1  # as in written_tags
        tags = table[labels.long().clamp(min=0) * 8 + key]
        return tags.masked_fill(labels < 0, UNKNOWN_TAG)

    @property
    def marks_ends(self) -> bool:
        """Whether a tag tells that its word is the last of its segment."""
        return self.name not in ("IOB2", "IOB1", "plain")

    def tag_posteriors(
        self, token: Tensor, start: Tensor, end: Tensor, single: Tensor | None = None
    ) -> Tensor:
        """Posterior probability of each tag, from posteriors of segments.

        Exact, but for IOB1: there ``I-X`` takes all of a type, since whether ``B-X`` is written
        depends on the segment before.

        Args:
            token: That a word lies in a segment of each type [..., N, C].
            start: That one starts at the word [..., N, C].
            end: That one ends with the word [..., N, C].
            single: That the word alone is one [..., N, C]; for schemes that mark ends.

        Returns:
            Probabilities [..., N, number of tags].
        """
        if self.marks_ends and single is not None:
            name, events = "four events", [single, start - single, end - single,
                                           token - start - end + single]  # fmt: skip
        else:
            name, events = "two events", [start, token - start]
        probabilities = pad(torch.cat(events, -1), (0, 1))  # and a column of zeros
        return probabilities[..., _table(self, name, token.device)].sum(-1)

    def tags_to_spans(self, tags: Sequence[int | str | None]) -> list[tuple[int, int, str]]:
        """The entities of one sentence.

        Args:
            tags: Tag ids or names, one a word; -100, None and "?" are unknown.

        Returns:
            (first word, word after the last, type) of each entity in order, half-open; never "O".

        Raises:
            ValueError: A tag is not in the scheme.
        """
        spans: list[tuple[int, int, str]] = []
        before, closed = -1, 1
        for position, (label, opens, closes) in enumerate(self._read(tags)):
            if label > 0:  # the rule of encode, word by word: no tensors for short sentences
                goes_on = label == before and not opens and not closed
                first = spans.pop()[0] if goes_on else position
                spans.append((first, position + 1, self.types[label]))
            before, closed = label, closes
        return spans

    def spans_to_tags(self, spans: Iterable[tuple[int, int, str]], length: int) -> list[int]:
        """The tag ids of a sentence with the given entities.

        Args:
            spans: (first word, word after the last, type) of each entity, half-open, in any order.
            length: Words in the sentence.

        Raises:
            ValueError: A span is empty, leaves the sentence, overlaps one or has no known type.
        """
        length = check(length=length)["length"]
        type_ids = _lookup(self).type_ids
        labels = torch.zeros(length, dtype=torch.long)
        starts = torch.ones(length, dtype=torch.bool)
        for first, end, type_name in spans:
            span = f"[{first}, {end}) {type_name}"
            if not 0 <= first < end <= length:
                raise ValueError(f"expected non-empty spans in [0, {length}), got {span}")
            label = type_ids.get(type_name, 0)
            if not label:
                raise ValueError(f"expected an entity type among {self.types[1:]}, got {span}")
            if labels[first:end].any():
                raise ValueError(f"expected spans that do not overlap, got {span} on another one")
            labels[first:end] = label
            starts[first + 1 : end] = False
        return self.decode(labels, starts).tolist()

    def tag_ids(self, tags: Sequence[int | str | None]) -> list[int]:
        """The ids of tags given by name or by id; -100 stays, and stands for None and "?" too.

        A tag that the label list lacks, of a type that it has, becomes the nearest one of its type
        where the sentence then reads the same: ``S-X`` becomes ``B-X`` in a list without it.

        Raises:
            ValueError: A tag is not in the scheme, or the label list cannot express it.
        """
        readings = self._read(tags)
        label2id = _lookup(self).label2id
        ids, missing = [], None
        for tag, (label, opens, closes) in zip(tags, readings, strict=True):
            if label < 0:
                ids.append(UNKNOWN_TAG)
            elif not isinstance(tag, str):
                ids.append(int(tag))  # type: ignore[arg-type]  # None has no label
            elif tag in label2id:
                ids.append(label2id[tag])
            else:
                missing = tag
                prefixes = _WRITTEN[bool(opens), bool(closes)]
                ids.append(self._nearest(self.types[label], prefixes, label2id))
        if missing is not None and self.tags_to_spans(ids) != self.tags_to_spans(tags):
            raise ValueError(
                f"tag {missing!r:.80} is not in the label list {listed(self.labels)}, whose tags "
                "cannot express it"
            )
        return ids

    def written_tags(self) -> list[int]:
        """Tag ids by type, then by (follows a segment of its type, starts one, ends one)."""
        label2id = _index(self.labels)
        table = []
        flags = list(product((False, True), repeat=3))
        for type_name, (follows, start, end) in product(self.types, flags):
            if type_name == OUTSIDE or self.name == "plain":
                table.append(label2id[type_name])
                continue
            prefixes = _WRITTEN[start, end]
            if self.name == "IOB1":
                prefixes = "BI" if follows and start else "IB"
            table.append(self._nearest(type_name, prefixes, label2id))
        return table

    def _nearest(self, type_name: str, prefixes: str, label2id: Mapping[str, int]) -> int:
        """The id of the first tag of a type that the label list has."""
        candidates = [self.spelling.join(prefix, type_name) for prefix in prefixes]
        return [label2id[tag] for tag in candidates if tag in label2id][0]

    def _reading(self, tag: str, type_ids: Mapping[str, int]) -> TagReading | None:
        """How a tag is read; None where its type is not known."""
        if tag == OUTSIDE:
            return 0, 1, 1
        if self.name == "plain":
            label = type_ids.get(tag)
            return None if label is None else (label, 0, 0)
        prefix, type_name = self.spelling.split(tag, PREFIXES[self.name])
        label = type_ids.get(type_name) if prefix else None
        return None if label is None else (label, int(prefix in OPENING), int(prefix in CLOSING))

    def _read(self, tags: Sequence[int | str | None]) -> list[TagReading]:
        """How each tag is read, given by name or by id; the label is -1 where it is unknown.

        Raises:
            ValueError: A tag is not in the scheme.
        """
        if isinstance(tags, str) or not isinstance(tags, Iterable):
            raise ValueError(f"expected a list of tags, got {tags!r:.80}")
        by_id, label2id, type_ids = _lookup(self)
        readings = []
        for tag in tags:
            reading = None
            if tag is None or tag == UNKNOWN and tag not in label2id:
                reading = (-1, 0, 0)
            elif isinstance(tag, str):
                index = label2id.get(tag)
                reading = self._reading(tag, type_ids) if index is None else by_id[index]
            elif (index := _tag_id(tag)) == UNKNOWN_TAG:
                reading = (-1, 0, 0)
            elif index is not None and 0 <= index < len(by_id):
                reading = by_id[index]
            if reading is None:
                raise ValueError(f"tag {tag!r:.80} is not in the label list {listed(self.labels)}")
            readings.append(reading)
        return readings


def split_long_segments(
    labels: Tensor, starts: Tensor, max_length: int, outside: int = 0
) -> Tensor:
    """Cut segments into pieces of at most `max_length` words: 10 words at 4 become 4, 4 and 2.

    Args:
        labels: Type ids [..., N], -1 where unknown.
        starts: True on the first word of each segment [..., N].
        max_length: The longest segment allowed, in words.
        outside: The type whose segments are always one word long.

    Returns:
        The new starts [..., N]; the labels stay as they are.
    """
    check(optional=False, max_length=max_length)
    position = torch.arange(labels.shape[-1], device=labels.device)
    first = (position * starts).cummax(-1).values
    cut = (position - first) % max_length == 0
    return starts | ((labels >= 0) & cut) | (labels == outside)


class _Lookup(NamedTuple):
    """How a scheme's tags are read, by id, and the ids of its tags and of its types."""

    readings: list[TagReading]
    label2id: dict[str, int]
    type_ids: dict[str, int]


def _tag_id(tag: Any) -> int | None:
    """The id that a whole number says; None where it is none."""
    number = own(tag)
    if isinstance(number, bool) or not isinstance(number, int | float) or number % 1 != 0:
        return None
    return int(number)


def _index(names: Sequence[str]) -> dict[str, int]:
    return {name: index for index, name in enumerate(names)}


def _tag_readings(scheme: LabelScheme) -> list[TagReading]:
    """The reading of every tag of a scheme."""
    type_ids = _index(scheme.types)
    readings = [scheme._reading(tag, type_ids) for tag in scheme.labels]
    return [reading for reading in readings if reading is not None]


@lru_cache(maxsize=64)
def _lookup(scheme: LabelScheme) -> _Lookup:
    """What every sentence asks of a scheme, kept for the next."""
    return _Lookup(_tag_readings(scheme), _index(scheme.labels), _index(scheme.types))


def _table(scheme: LabelScheme, name: str, device: torch.device) -> Tensor:
    """A table of a scheme on a device, kept for the next call but where it is being traced."""
    make = _make_table.__wrapped__ if torch.compiler.is_compiling() else _make_table
    return make(scheme, name, device)


@lru_cache(maxsize=256)
def _make_table(scheme: LabelScheme, name: str, device: torch.device) -> Tensor:
    """What tags are read as, written for, or made up of (events, whose last column is empty)."""
    values: list
    if name == "read":
        readings = _tag_readings(scheme)
        values = [t * 4 + opens * _OPENS + closes * _CLOSES for t, opens, closes in readings]
        values = [_UNKNOWN_CODE, *values]
    elif name == "write":
        values = scheme.written_tags()
    else:
        keys = (3, 2, 1, 0) if name == "four events" else (3, 1)  # as in written_tags
        tags = [tag for key in keys for tag in scheme.written_tags()[key::8]]
        values = [[] for _ in scheme.labels]
        for n, tag in enumerate(tags):
            values[tag].append(n)
        most = max(map(len, values))
        for column in values:
            column += [len(tags)] * (most - len(column))
    with torch.inference_mode(False):
        # non-blocking, so that a GPU is not waited for
        return torch.tensor(values).to(device, non_blocking=True)


def _ordered(labels: Sequence[str] | Mapping[int, str]) -> tuple[str, ...]:
    """The label list as a tuple in the order of the ids, checked for what no scheme allows."""
    if isinstance(labels, str) or not isinstance(labels, Iterable):
        raise ValueError(f"expected a list of labels, got {labels!r}")
    if isinstance(labels, Mapping):
        by_id = {int(index): tag for index, tag in labels.items()}
        if sorted(by_id) != list(range(len(by_id))):
            raise ValueError(
                f"expected ids from 0 without gaps in id2label, got {listed(sorted(by_id))}"
            )
        labels = [by_id[index] for index in range(len(by_id))]
    tags = tuple(labels)
    if not tags:
        raise ValueError("expected labels such as ['O', 'B-PER', 'I-PER'], got an empty list")
    for tag in tags:
        if not isinstance(tag, str) or not tag:
            raise ValueError(f"expected labels that are non-empty strings, got {tag!r}")
    if all(re.fullmatch(r"LABEL_\d+", tag) for tag in tags):
        raise ValueError(
            f"{tags[0]!r} and the like are placeholders, not the labels of a task: "
            "pass labels=['O', 'B-PER', 'I-PER', ...]"
        )
    duplicates = sorted(tag for tag, count in Counter(tags).items() if count > 1)
    if duplicates:
        raise ValueError(
            f"expected each label once, got {listed(duplicates)} repeated in {listed(tags)}"
        )
    if OUTSIDE not in tags:
        raise ValueError(f"expected a label 'O' for words outside entities, got {listed(tags)}")
    if len(tags) == 1:
        raise ValueError("expected labels of at least one entity type beside 'O'")
    return tags
