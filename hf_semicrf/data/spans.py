"""Spans of characters or words, as annotation tools write them, and the tags of words."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any, NamedTuple

from hf_semicrf.data.records import short

_START = ("start", "start_offset", "begin", "begin_offset")
_END = ("end", "end_offset")
_LABEL = ("label", "labels", "type", "entity_group", "entity", "tag")


class Span(NamedTuple):
    """A labelled span of a text.

    Attributes:
        start: Its first character, or word.
        end: The one after its last.
        label: Its type.
        place: Where it stands, if not where its row does.
        gaps: Whether it leaves out characters between its start and its end.
    """

    start: int
    end: int
    label: str
    place: str | None = None
    gaps: bool = False


def looks_like_spans(value: Any) -> bool:
    """Whether a value is a list of spans, maybe an empty one."""
    if isinstance(value, Mapping):
        return any(k in value for k in _START) and any(k in value for k in _END)
    if not isinstance(value, list):
        return False
    for item in value:
        if isinstance(item, Mapping):
            if not (any(k in item for k in _START) and any(k in item for k in _END)):
                return False
        elif not (isinstance(item, list) and len(item) == 3 and isinstance(item[0], int)):
            return False
    return True


def read_spans(
    value: Any,
    text: str | Sequence[str],
    counts_utf16: Callable[[Any], bool] = lambda item: False,
) -> list[Span]:
    """Read spans: [start, end, label], or mappings with these by any usual name.

    An item may also hold the "text" of its span. Then it is compared, and tells where a tool counts
    UTF-16 units instead of characters.

    Args:
        value: The list of spans, or a mapping of lists.
        text: What they are spans of: a text or words.
        counts_utf16: Whether an item without the text of its span counts UTF-16 units.

    Raises:
        ValueError: An item is no span, or lies outside the text.
    """
    if isinstance(value, Mapping):  # one list a key: how data sets store lists of mappings
        lengths = {len(v) if isinstance(v, list) else -1 for v in value.values()}
        if len(lengths) != 1 or -1 in lengths:
            raise ValueError(f"expected a list of spans, got {short(value)}")
        value = [
            dict(zip(value, items, strict=True)) for items in zip(*value.values(), strict=True)
        ]
    if not isinstance(value, list):
        raise ValueError(f"expected a list of spans, got {short(value)}")
    return [span for item in value for span in _read_item(item, text, counts_utf16)]


@lru_cache(maxsize=1)  # of a text with many spans
def utf16_units(text: str) -> list[int]:
    """How many UTF-16 units stand before each character of a text, and how many it has."""
    return [0, *accumulate(1 + (character > "\uffff") for character in text)]


def _read_item(
    item: Any, text: str | Sequence[str], counts_utf16: Callable[[Any], bool]
) -> list[Span]:
    """The spans of an item: one for each of its labels."""
    inner = place = None
    gaps = False
    if isinstance(item, Mapping):
        start, end, labels = (_first(item, names) for names in (_START, _END, _LABEL))
        inner, place, gaps = item.get("text"), item.get("place"), item.get("gaps") is True
    elif isinstance(item, list | tuple) and len(item) == 3:
        start, end, labels = item
    else:
        raise ValueError(f"expected a span with start, end and label, got {short(item)}")
    if not (_is_int(start) and _is_int(end)):
        raise ValueError(f"expected whole numbers for start and end, got {short(item)}")
    labels = labels if isinstance(labels, list) else [labels]
    if not labels or not all(isinstance(x, str) and x.strip() and x != "O" for x in labels):
        raise ValueError(f"expected a span with a label that is not 'O', got {short(item)}")
    if isinstance(text, str) and isinstance(inner, str):
        if not _same(text[start:end], inner):
            start, end = _by_its_text(text, start, end, inner, item)
    elif isinstance(text, str) and counts_utf16(item):
        start, end = _characters(text, start, end, item)
    if not 0 <= start <= end <= len(text):
        unit = "characters" if isinstance(text, str) else "words"
        raise ValueError(f"expected spans inside the {len(text)} {unit}, got {short(item)}")
    return [Span(start, end, label, place, gaps) for label in labels]


def _first(item: Mapping, names: Iterable[str]) -> Any:
    return next((item[name] for name in names if name in item), None)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _same(one: str, other: str) -> bool:
    return one == other or one.split() == other.split()


def _by_its_text(text: str, start: int, end: int, inner: str, item: Any) -> tuple[int, int]:
    """The characters of a span whose text is known: it counts UTF-16 units or is refused."""
    first, last = _character_at(text, start), _character_at(text, end)
    if first is not None and last is not None and _same(text[first:last], inner):
        return first, last
    raise ValueError(
        f"expected the text of a span to be {text[max(start, 0) : max(end, 0)][:40]!r}, as the row "
        f"has it from {short(start)} to {short(end)}, got {short(item)}"
    )


def _characters(text: str, start: int, end: int, item: Any) -> tuple[int, int]:
    """The characters of a span that counts UTF-16 units."""
    count = utf16_units(text)[-1]
    if count == len(text):
        return start, end
    first, last = _character_at(text, start), _character_at(text, end)
    if first is not None and last is not None:
        return first, last
    raise ValueError(
        f"expected spans inside the {count} UTF-16 units of the text, which do not "
        f"cut a character in two, as doccano counts, got {short(item)}; pass spans_column=... "
        "where they count characters"
    )


def _character_at(text: str, unit: int) -> int | None:
    """The character that begins at a UTF-16 unit, if one does."""
    units = utf16_units(text)
    found = bisect_left(units, unit)
    return found if found < len(units) and units[found] == unit else None


def spans_to_tags(
    spans: Sequence[Span],
    words: Sequence[tuple[int, int]],
    rule: str,
    misaligned: Callable[[Span, str], None],
    overlapping: Callable[[Span, str], None],
) -> list[str]:
    """The IOB2 tags of words, from spans in the same units.

    A span is misaligned where it begins or ends inside a word, holds none, or has gaps. The longest
    of spans that overlap stays.

    Args:
        spans: The spans, in any order.
        words: Where each word begins and ends.
        rule: "expand" takes the words that a misaligned span touches; else it is dropped.
        misaligned: Is told of each misaligned span, and what is wrong with it.
        overlapping: Is told of each span that a longer one displaces.
    """
    chosen: dict[tuple[int, int, str], Span] = {}
    first = 0
    for span in sorted(spans, key=lambda s: (s.start, s.end)):
        while first < len(words) and words[first][1] <= span.start:
            first += 1
        end = first
        while end < len(words) and words[end][0] < span.end and span.start < span.end:
            end += 1
        problem = _problem(span, words, first, end)
        if problem:
            others = (s for s in spans if s[:3] != span[:3])
            if any(s.start < span.end and span.start < s.end for s in others):
                problem += " and overlaps another span"
            misaligned(span, problem)
        if end > first and (rule == "expand" or not problem):
            chosen.setdefault((first, end, span.label), span)
    tags = ["O"] * len(words)
    for (begin, end, label), span in sorted(
        chosen.items(), key=lambda item: (item[0][0] - item[0][1], item[0])
    ):
        if any(tag != "O" for tag in tags[begin:end]):
            overlapping(span, "overlaps another span")
            continue
        tags[begin:end] = [f"B-{label}"] + [f"I-{label}"] * (end - begin - 1)
    return tags


def _problem(span: Span, words: Sequence[tuple[int, int]], first: int, end: int) -> str | None:
    """What is wrong with the ends of a span, given the words that it touches."""
    if end == first:
        return "holds no word"
    begins_inside, ends_inside = words[first][0] < span.start, words[end - 1][1] > span.end
    if begins_inside and ends_inside:
        return "begins and ends inside a word"
    if span.gaps:
        return "has gaps"
    if begins_inside:
        return "begins inside a word"
    return "ends inside a word" if ends_inside else None
