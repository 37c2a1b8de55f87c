"""Rows of files with one word a line: CoNLL columns, CoNLL-U, GermEval and their like."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from hf_semicrf.data.column_layout import Layout, cell_of, choose_layout, looks_like_tag
from hf_semicrf.data.files import read_lines, undecoded
from hf_semicrf.data.neighbours import DOCUMENT
from hf_semicrf.data.records import Damage, Options, Row, Rows

_ID = re.compile(r"#\s*(?:sent_id|id)\b\s*[=:]?\s*(\S+)")
_NO_WORD = re.compile(r"\d+[-.]\d+")  # a range of words or an empty node of CoNLL-U

_SPACES = re.compile(" +")


class Line(NamedTuple):
    """A line of a file: its text, its cells, and why it cannot be read, if it cannot."""

    number: int
    text: str
    cells: list[str]
    reason: str | None


def column_rows(path: Path, options: Options) -> Rows:
    """Read sentences of one word a line, with an empty line after each.

    Lines that begin with # before a sentence are comments, unless they have the columns of a word
    and a tag of the file. Lines that begin with -DOCSTART- part documents.
    """
    numbers, blocks = [], []  # of each block its document, and its lines
    for number, block in _blocks(path, options):
        numbers.append(number)
        blocks.append(block)
    lines = [line for block in blocks for line in block]
    good = [line for line in lines if not line.reason]
    words = [line for line in good if not line.text.startswith("#")] or good
    if not words:
        yield from (Damage(f"{path}, line {line.number}", line.reason or "") for line in lines)
        return
    tabs = any("\t" in line.text for line in words)
    width = len(words[0].cells)
    if width < 2 and options.tagged:
        layout = Layout(2, 0, 1)  # the first row will say what it lacks
    else:
        sentences = ([line.cells for line in block if _is_word(line, width)] for block in blocks)
        layout = choose_layout(path, list(filter(None, sentences)), width, options)
    rows = [line.cells for line in words if len(line.cells) == layout.width]
    tags = {cell_of(cells, layout.tag) for cells in rows} - {None}
    documents = numbers if options.tagged and len({*numbers}) > 1 else [None] * len(blocks)
    for document, block in zip(documents, blocks, strict=True):
        for row in _sentence(path, block, options, layout, tags, tabs):
            if isinstance(row, Row) and document is not None:
                row.fields.setdefault(DOCUMENT, document)
            yield row


def cells_of(line: str, separator: str | None) -> list[str]:
    """The cells of a line: between separators; else between tabs if it has one, or spaces."""
    if separator is not None:
        return [cell.strip() for cell in line.strip().split(separator)]
    line = line.strip(" \t")
    cells = line.split("\t") if "\t" in line else _SPACES.split(line)
    cells[-1] = cells[-1].strip()
    return cells


def _blocks(path: Path, options: Options) -> Iterator[tuple[int, list[Line]]]:
    """The lines between empty lines and those of -DOCSTART-, with the number of these so far."""
    block: list[Line] = []
    document = 0
    for number, text in read_lines(path, options.encoding):
        starts = text.startswith("-DOCSTART-")
        if text.strip(" \t") and not starts:
            block.append(Line(number, text, cells_of(text, options.separator), undecoded(text)))
        elif block:
            yield document, block
            block = []
        document += starts
    if block:
        yield document, block


def _is_word(line: Line, width: int) -> bool:
    """Whether a line is a word for sure."""
    return len(line.cells) == width and not line.reason and not line.text.startswith("#")


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
    for number, line, cells, reason in block:
        place = f"{path}, line {number}"
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
