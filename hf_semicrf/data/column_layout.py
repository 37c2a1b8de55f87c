"""Which column of a file has the words, and which the tags."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from hf_semicrf.data.records import Options, short

Tag = int | tuple[int, str] | None
Sentence = Sequence[Sequence[str]]

_TAG = re.compile(r"[OBIESLUMW?]|[BIESLUMWbieslumw][-_:].+|.+[-_:][BIESLUMW]")
_CHUNK = re.compile(
    "O|[BIESLU]-(?:ADJP|ADVP|CONJP|INTJ|LST|NAC|NP|NX|PP|PRN|PRT|QP|SBAR|UCP|VP|WHNP)"
)


class Layout(NamedTuple):
    """The columns of a file.

    Attributes:
        width: How many there are.
        word: The one of the words, counted from 0.
        tag: The one of the tags, maybe with the key that stands before "="; None if not known.
        numbered: Whether the first column numbers the words.
        complete: Whether each word has a tag; else a word without one is outside.
    """

    width: int
    word: int
    tag: Tag
    numbered: bool = False
    complete: bool = True


def looks_like_tag(value: str | None) -> bool:
    """Whether a cell is O or has a prefix such as B-."""
    return value is not None and _TAG.fullmatch(value) is not None


def cell_of(cells: Sequence[str], tag: Tag) -> str | None:
    """The tag of a line; None where it has none."""
    if tag is None:
        return cells[-1]
    if isinstance(tag, int):
        return cells[tag]
    return _pairs(cells[tag[0]]).get(tag[1])


def choose_layout(
    path: Path, sentences: Sequence[Sentence], width: int, options: Options
) -> Layout:
    """Find the columns, by the ones that were named or by what the cells look like.

    Raises:
        ValueError: They cannot be told; the message names what to pass.
    """
    rows = [row for sentence in sentences for row in sentence]
    columns = [[row[c] for row in rows] for c in range(width)]
    numbered = width > 2 and _counts(sentences)
    if options.columns is not None:
        return _named(path, columns, width, numbered, options)
    tagged = [c for c in range(width) if _is_tags(columns[c])]
    word = 1 if numbered else 0
    if word in tagged:
        if width != 2 or tagged != [0]:
            raise _ask(path, rows, width, tagged)
        word = 1
    tag = _tag_column(columns, word, [c for c in tagged if c != word], numbered)
    if tag is not None:
        complete = isinstance(tag, int) or "O" in _values_of_keys(columns[tag[0]])[tag[1]]
        return Layout(width, word, tag, numbered, complete)
    if options.tagged:
        raise _ask(path, rows, width, tagged)
    return Layout(width, word, None, numbered)


def _tag_column(
    columns: Sequence[Sequence[str]], word: int, tagged: Sequence[int], numbered: bool
) -> Tag:
    """The only column that can have the tags; None if there is none or several."""
    others = [c for c in range(numbered, len(columns)) if c != word]
    entities = [c for c in tagged if not _is_chunks(columns[c])]
    if entities or tagged:
        candidates = entities or tagged
        return candidates[0] if len(candidates) == 1 else None
    keyed = [
        (c, key)
        for c in others
        for key, values in _values_of_keys(columns[c]).items()
        if _is_tags(values)
    ]
    if keyed:
        return keyed[0] if len(keyed) == 1 else None
    with_outside = [c for c in others if "O" in columns[c]]
    candidates = with_outside or (others if len(others) == 1 else [])
    return candidates[0] if len(candidates) == 1 else None


def _named(
    path: Path, columns: Sequence[Sequence[str]], width: int, numbered: bool, options: Options
) -> Layout:
    """The columns that were named."""
    names = options.columns or ()
    places: list[int] = []
    for name in names:
        if isinstance(name, str):
            continue
        if not -width <= name <= width:
            raise ValueError(f"{path}: expected columns among the {width} of the file, got {names}")
        places.append(name - 1 if name > 0 else width + name)
    if isinstance(names[0], str) or (options.tagged and len(names) < 2):
        raise ValueError(
            f"{path}: expected columns=(word, tag), numbers counted from 1, got {names}"
        )
    key = names[1] if len(names) > 1 else None
    if not isinstance(key, str):
        return Layout(width, places[0], places[1] if len(names) > 1 else None, numbered)
    having = {c: v[key] for c in range(width) if key in (v := _values_of_keys(columns[c]))}
    if len(having) != 1:
        raise ValueError(
            f"{path}: expected one column with {key}=..., got {[c + 1 for c in having] or 'none'}"
        )
    column, values = next(iter(having.items()))
    return Layout(width, places[0], (column, key), numbered, "O" in values)


def _ask(path: Path, rows: Sequence[Sequence[str]], width: int, tagged: Sequence[int]) -> Exception:
    """The error that asks for the columns."""
    which = ", ".join(str(c + 1) for c in tagged) or "none"
    first = rows[0] if rows else [""] * width
    word = next((c for c in range(width) if c not in tagged and not first[c].isdecimal()), 0)
    example = (word + 1, next(iter(tagged), width - 1) + 1)
    return ValueError(
        f"{path}: cannot tell which of the {width} columns are words and tags (columns that look "
        f"like tags: {which}) in {short(' '.join(first))}; pass columns=(word, tag), counted "
        f"from 1, such as columns={example}"
    )


def _is_tags(values: Sequence[str]) -> bool:
    distinct = set(values)
    good = all(looks_like_tag(value) for value in distinct)
    return good and any(value == "O" or len(value) > 1 for value in distinct)


def _is_chunks(values: Sequence[str]) -> bool:
    distinct = set(values)
    return distinct != {"O"} and all(_CHUNK.fullmatch(value) for value in distinct)


def _counts(sentences: Sequence[Sentence]) -> bool:
    """Whether the first column numbers the words of each sentence."""
    longest = 0
    for sentence in sentences:
        numbers = [row[0] for row in sentence if row[0].isdecimal()]
        if sum(row[0].isdecimal() or row[0][:1].isdecimal() for row in sentence) < len(sentence):
            return False
        first = int(numbers[0]) if numbers and len(numbers[0]) < 9 else -1
        if first not in (0, 1) or numbers != [str(first + n) for n in range(len(numbers))]:
            return False
        longest = max(longest, len(numbers))
    return longest > 1


def _pairs(cell: str) -> dict[str, str]:
    """The values of "key=value|key=value"."""
    parts = (part.partition("=") for part in cell.split("|"))
    return {key: value for key, equals, value in parts if equals}


def _values_of_keys(cells: Sequence[str]) -> dict[str, list[str]]:
    """All values of each key of a column."""
    found: dict[str, list[str]] = {}
    for cell in cells:
        for key, value in _pairs(cell).items():
            found.setdefault(key, []).append(value)
    return found
