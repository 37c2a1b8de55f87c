"""Rows of files with one word a line: CoNLL columns, CoNLL-U, GermEval and their like."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from hf_semicrf.data.column_layout import Layout, cell_of, choose_layout, looks_like_tag
from hf_semicrf.data.files import read_lines, undecoded
from hf_semicrf.data.records import Damage, Options, Row, Rows

_ID = re.compile(r"#\s*(?:sent_id|id)\b\s*[=:]?\s*(\S+)")
_NO_WORD = re.compile(r"\d+[-.]\d+")  # a range of words or an empty node of CoNLL-U

Line = tuple[int, str]


def column_rows(path: Path, options: Options) -> Rows:
    """Read sentences of one word a line, with an empty line after each.

    Lines that begin with # before a sentence are comments, unless they have the columns of a word
    and a tag of the file. Lines that begin with -DOCSTART- are left out.
    """
    lines = list(read_lines(path, options.encoding))
    rows = [
        cells_of(line, options.separator)
        for _, line in lines
        if line.strip() and not line.startswith(("#", "-DOCSTART-")) and not undecoded(line)
    ]
    if not rows:
        rows = [cells_of(line, options.separator) for _, line in lines if line.startswith("#")]
    if not rows:
        broken = ((number, undecoded(line)) for number, line in lines)
        yield from (Damage(f"{path}, line {n}", reason) for n, reason in broken if reason)
        return
    tabs = any("\t" in line for _, line in lines if not line.startswith("#"))
    width = len(rows[0])
    if width < 2 and options.tagged:
        layout = Layout(2, 0, 1)  # the first row will say what it lacks
    else:
        sentences = (_cells_of_block(block, options, width) for block in _blocks(lines))
        layout = choose_layout(path, list(filter(None, sentences)), width, options)
    tags = {cell_of(row, layout.tag) for row in rows if len(row) == layout.width} - {None}
    for block in _blocks(lines):
        yield from _sentence(path, block, options, layout, tags, tabs)


def cells_of(line: str, separator: str | None) -> list[str]:
    """The cells of a line: between separators; else between tabs if it has one, or spaces."""
    line = line.strip(" \t") if separator is None else line.strip()
    if separator is not None:
        return [cell.strip() for cell in line.split(separator)]
    cells = re.split("\t" if "\t" in line else " +", line)
    return [*cells[:-1], cells[-1].strip()]


def _blocks(lines: Iterable[Line]) -> Iterator[list[Line]]:
    """The lines between empty lines and those of -DOCSTART-."""
    block: list[Line] = []
    for number, line in lines:
        if line.strip(" \t") and not line.startswith("-DOCSTART-"):
            block.append((number, line))
        elif block:
            yield block
            block = []
    if block:
        yield block


def _cells_of_block(block: list[Line], options: Options, width: int) -> list[list[str]]:
    """The cells of the lines of a block that are words for sure."""
    rows = [cells_of(line, options.separator) for _, line in block if not line.startswith("#")]
    return [row for row in rows if len(row) == width]


def _sentence(
    path: Path,
    block: list[Line],
    options: Options,
    layout: Layout,
    tags: set[str | None],
    tabs: bool,
) -> Rows:
    """The row of a block of lines; none where it has comments only."""
    words: list[str] = []
    found: list[str | None] = []
    places: list[str] = []
    fields: dict = {}
    for number, line in block:
        place = f"{path}, line {number}"
        reason = undecoded(line)
        cells = cells_of(line, options.separator)
        if line.startswith("#") and not reason:
            is_row = len(cells) == layout.width and (not tabs or "\t" in line)
            tag = cell_of(cells, layout.tag) if is_row else None
            if not words and not (is_row and (tag in tags or looks_like_tag(tag))):
                named = _ID.match(line)
                fields |= {"id": named[1]} if named else {}
                continue
        if not reason and len(cells) != layout.width:
            reason = (
                f"expected {layout.width} columns (as in the lines before it, or a word and its "
                f"tag), got {len(cells)} in {line[:80]!r}"
            )
        if reason:
            yield Damage(place, reason)
            return
        if layout.numbered and _NO_WORD.fullmatch(cells[0]):
            continue
        words.append(cells[layout.word])
        found.append(cell_of(cells, layout.tag))
        places.append(place)
        if options.tagged and found[-1] is None:
            if layout.complete:
                yield Damage(place, f"expected a tag such as {min(filter(None, tags))!r}, got none")
                return
            found[-1] = "O"
    if words:
        fields |= {options.tokens_column: words}
        if options.tagged:
            fields |= {options.tags_column: found}
        yield Row(places[0], fields, places)


def header_cells(path: Path, options: Options) -> Sequence[str]:
    """The cells of the first line that is not empty, between tabs or separators."""
    for _, line in read_lines(path, options.encoding):
        if line.strip():
            return [cell.strip() for cell in line.split(options.separator or "\t")]
    return []
