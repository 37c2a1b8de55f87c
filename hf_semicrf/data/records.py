"""What every reader gives: rows, damaged rows, and a report of what was left out."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from hf_semicrf.options import OPTIONS, check, own
from hf_semicrf.text import split_words

Splitter = Callable[[str], Iterable[Sequence]]

_SURROGATE = re.compile("[\ud800-\udfff]")


class Row(NamedTuple):
    """A row of a file.

    Attributes:
        place: The file and the line, or the data set and the row.
        fields: What the row holds, by name.
        words: Where each of its words stands, if each has a line of its own.
    """

    place: str
    fields: dict[str, Any]
    words: Sequence[str] | None = None


class Damage(NamedTuple):
    """A row that cannot be read.

    Attributes:
        place: As in `Row`.
        reason: What was expected and what came.
    """

    place: str
    reason: str


Rows = Iterator[Row | Damage]


@dataclass(frozen=True)
class Options:
    """How files are read; the arguments of `read_corpus` and `stream_rows`."""

    tokens_column: str = "tokens"
    tags_column: str = "ner_tags"
    text_column: str = "text"
    spans_column: str | None = None
    format: str | None = None
    columns: Sequence[int | str] | None = None
    separator: str | None = None
    encoding: str = "utf-8"
    misaligned: str = "error"
    splitter: Splitter = split_words
    tagged: bool = True

    def __post_init__(self) -> None:
        """Refuse what no reader understands."""
        check(**{name: value for name, value in vars(self).items() if name in OPTIONS})
        try:
            "a".encode(self.encoding)
        except (LookupError, ValueError):
            raise ValueError(
                f"expected encoding as the name of an encoding, got {self.encoding!r}"
            ) from None
        if not callable(self.splitter):
            raise ValueError(f"expected splitter as a function of a text, got {self.splitter!r}")
        if self.columns is not None:
            listed = isinstance(self.columns, list | tuple)
            columns = tuple(map(own, self.columns)) if listed else ()
            numbers = [c for c in columns if not isinstance(c, str)]
            good = all(isinstance(c, int) and not isinstance(c, bool) and c for c in numbers)
            if not good or not 1 <= len(columns) <= 3:
                raise ValueError(
                    "expected columns=(word, tag) or (word, tag, sentence), each a name or a "
                    f"number counted from 1, got {self.columns!r}"
                )
            object.__setattr__(self, "columns", columns)


@dataclass
class ReadReport:
    """What a reader met beside good rows. Every item of a list begins with its place.

    Attributes:
        source: The file or the data set.
        places: Where each row that was read stands.
        empty: Rows without words, which are left out.
        damaged: Rows that cannot be read; prediction leaves them out, training refuses them.
        rejected: Rows whose annotation says that they do not count, which are left out.
        misaligned: Spans that begin or end inside a word, and what became of them.
        overlapping: Spans that overlap a longer one and are left out.
        replaced: Rows with lone surrogates, which U+FFFD replaces.
        notes: Other things to know of the file.
        tags: Where each tag was met first.
    """

    source: str = ""
    places: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    rejected: list[str] = field(default_factory=list)
    misaligned: list[str] = field(default_factory=list)
    overlapping: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)

    def lines(self, most: int = 3) -> list[str]:
        """Say it: a line for each kind with its count and its first places.

        Args:
            most: How many places a line names.
        """
        kinds = {
            "rows without words, left out": self.empty,
            "damaged rows, left out": self.damaged,
            "rejected rows, left out": self.rejected,
            "spans that end inside a word": self.misaligned,
            "spans that overlap a longer one, left out": self.overlapping,
            "rows with lone surrogates, replaced by U+FFFD": self.replaced,
        }
        said = list(self.notes)
        for kind, items in kinds.items():
            if items:
                more = f"; and {len(items) - most:,} more" if len(items) > most else ""
                said.append(f"{len(items):,} {kind}: {'; '.join(items[:most])}{more}")
        return said

    def place_of(self, tag: str) -> str:
        """Where a tag was met first; the source if it was not."""
        return self.tags.get(tag, self.source)


def without_surrogates(value: Any) -> Any:
    """A value of JSON with U+FFFD for each lone surrogate; the same object if it has none.

    Raises:
        ValueError: It has too many brackets within each other.
    """
    try:
        return _without_surrogates(value)
    except RecursionError:
        raise ValueError(f"expected fewer brackets in brackets, got {short(value)}") from None


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value) if _SURROGATE.search(value) else value
    if isinstance(value, list) and all(type(item) is str for item in value):
        if not _SURROGATE.search("".join(value)):
            return value
    if isinstance(value, list | tuple):
        items = [_without_surrogates(item) for item in value]
        return value if all(a is b for a, b in zip(items, value, strict=True)) else items
    if isinstance(value, dict):
        pairs = [(_without_surrogates(k), _without_surrogates(v)) for k, v in value.items()]
        old = value.items()
        same = all(a is c and b is d for (a, b), (c, d) in zip(pairs, old, strict=True))
        return value if same else dict(pairs)
    return value


def short(value: Any) -> str:
    """The first characters of a value, to be shown in a message."""
    try:
        written = repr(value)
    except RecursionError:
        written = reprlib.repr(value)
    return written if len(written) <= 80 else written[:77] + "..."
