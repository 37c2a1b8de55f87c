"""Rows of tables with a header: one row a sentence or text, or one word a row."""

from __future__ import annotations

import ast
import csv
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hf_semicrf.data.files import read_lines, undecoded
from hf_semicrf.data.neighbours import DOCUMENT, DOCUMENT_NAMES
from hf_semicrf.data.records import Damage, Options, Row, Rows, short

WORDS = {"word", "token", "form"}
TAGS = {"tag", "ner", "ner_tag", "label", "bio", "iob", "ne"}
SENTENCES = {"sentence_id", "sent_id", "sentence_#", "sentence", "sent", "sentence_number"}
SPANS = ("entities", "spans", "label", "labels")
DELIMITERS = (",", ";", "\t", "|")

_NO_COMMA = re.compile(r"""['"]\s+['"]""")


class Record(NamedTuple):
    """A record of a table: its cells, or why they cannot be read."""

    place: str
    cells: list[str]
    reason: str | None = None


class Long(NamedTuple):
    """The columns of a table of one word a row.

    Attributes:
        word: That of the words.
        tag: That of their tags.
        sentence: What tells sentences apart.
        document: What tells documents apart.
    """

    word: int
    tag: int | None
    sentence: tuple[int, ...]
    document: int | None = None


def has_header(cells: Sequence[str], options: Options) -> bool:
    """Whether the cells are names of columns that this reader knows."""
    names = {_plain(cell) for cell in cells}
    long = bool(names & WORDS) and (bool(names & TAGS) or not options.tagged)
    wide = {options.tokens_column, options.tags_column} <= set(cells)
    return long or wide or (options.text_column in cells and not options.tagged)


def table_rows(path: Path, options: Options) -> Rows:
    """Read a table; its header tells what a row is.

    Raises:
        ValueError: The header does not tell; the message names what to pass.
    """
    first = next((line for _, line in read_lines(path, options.encoding) if line.strip()), None)
    if first is None:
        return
    delimiter = options.separator or _delimiter(first, options)
    records = _records(path, options, delimiter)
    numbers = options.columns is not None and all(isinstance(c, int) for c in options.columns)
    header = next(iter(_split(first, delimiter)), [])
    if numbers:
        long = _by_number(path, header, options)
        if {_plain(header[long.word])} & WORDS and _plain(header[long.tag or 0]) in TAGS | WORDS:
            _skip_header(records)
    else:
        _skip_header(records)
        found = _long(path, header, options)
        if found is None:
            if len(set(header)) < len(header):
                raise ValueError(f"{path}, line 1: expected names that differ, got {short(header)}")
            yield from _wide_rows(header, records, options)
            return
        long = found
    yield from _long_rows(path, long, len(header), list(records), options)


def _plain(name: str) -> str:
    return name.strip().lower().replace(" ", "_")


def _delimiter(line: str, options: Options) -> str:
    """What stands between the cells: the one that makes known names of the header."""
    wanted = [name for name in options.columns or () if isinstance(name, str)]
    for delimiter in DELIMITERS:
        cells = next(iter(_split(line, delimiter)), [])
        known = has_header(cells, options) or options.text_column in cells
        if set(wanted) <= set(cells) if wanted else known:
            return delimiter
    return next((delimiter for delimiter in DELIMITERS if delimiter in line), ",")


def _split(line: str, delimiter: str) -> Iterator[list[str]]:
    try:
        yield from csv.reader([line], delimiter=delimiter)
    except csv.Error:
        return


def _records(path: Path, options: Options, delimiter: str) -> Iterator[Record]:
    """The records of a table; an empty line is a record without cells."""
    lines = (line + "\n" for _, line in read_lines(path, options.encoding))
    if delimiter == "\t":  # a word may be a quote
        reader = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE, strict=True)
    else:
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        place = f"{path}, line {reader.line_num + 1}"
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Record(place, [""], f"expected cells between {delimiter!r} ({error})")
            continue
        if delimiter == "\t":
            cells = [_unquoted(cell) for cell in cells]
        reason = next(filter(None, map(undecoded, cells)), None)
        yield Record(place, [] if not any(map(str.strip, cells)) else cells, reason)


def _unquoted(cell: str) -> str:
    """A cell of a table with tabs without the quotes that stand around all of it."""
    inner = cell[1:-1]
    quoted = len(cell) > 2 and cell[0] == cell[-1] == '"' and '"' not in inner.replace('""', "")
    return inner.replace('""', '"') if quoted else cell


def _skip_header(records: Iterator[Record]) -> None:
    for record in records:
        if record.cells:
            return


def _by_number(path: Path, header: Sequence[str], options: Options) -> Long:
    """The columns that were named by number, of a table without a header."""
    width = len(header)
    places = []
    for number in options.columns or ():
        if not isinstance(number, int) or not -width <= number <= width:
            raise ValueError(
                f"{path}: expected columns among the {width} of the file, got {options.columns}"
            )
        places.append(number - 1 if number > 0 else width + number)
    return Long(places[0], places[1] if len(places) > 1 else None, tuple(places[2:]))


def _long(path: Path, header: Sequence[str], options: Options) -> Long | None:
    """The columns of a table of one word a row; None if a row is a sentence or a text."""
    if options.columns is not None:
        missing = [name for name in options.columns if name not in header]
        if missing:
            raise ValueError(f"{path}, line 1: no column {missing}, got {short(list(header))}")
        places = [header.index(str(name)) for name in options.columns]
        return Long(places[0], places[1] if len(places) > 1 else None, tuple(places[2:]))
    if {options.tokens_column, options.tags_column} <= set(header):
        return None
    if options.text_column in header and (
        not options.tagged or (options.spans_column or SPANS[0]) in header
    ):
        return None
    if not options.tagged and options.tokens_column in header:
        return None
    names = [_plain(name) for name in header]
    words, tags = ([n for n, name in enumerate(names) if name in known] for known in (WORDS, TAGS))
    if len(words) == 1 and (len(tags) == 1 or not options.tagged):
        order = [n for n, name in enumerate(names) if name in (*SENTENCES, *DOCUMENT_NAMES)]
        alone = all(names[n] in DOCUMENT_NAMES for n in order)  # documents have several sentences
        document = next((n for n in order if names[n] in DOCUMENT_NAMES), None)
        return Long(words[0], tags[0] if tags else None, () if alone else tuple(order), document)
    if options.text_column in header:
        return None
    wanted = "columns=('word', 'tag', 'sentence_id') with the names of your columns"
    if not options.tagged:
        wanted = "text_column=... with its name"
    raise ValueError(
        f"{path}, line 1: expected a header that names the column of "
        f"{'words and that of tags' if options.tagged else 'texts'}, got {short(list(header))}; "
        f"pass {wanted}"
    )


def _wide_rows(header: list[str], records: Iterator[Record], options: Options) -> Rows:
    """The rows of a table of one sentence or text a row."""
    lists = [options.tokens_column, options.tags_column]
    if options.tagged:
        lists += [options.spans_column] if options.spans_column else SPANS
    for place, cells, reason in records:
        if reason is None and cells and len(cells) != len(header):
            reason = f"expected {len(header)} cells, got {len(cells)} in {short(cells)}"
        if reason is not None:
            yield Damage(place, reason)
        elif cells:
            fields: dict[str, Any] = dict(zip(header, cells, strict=True))
            try:
                fields |= {name: _list(fields[name]) for name in lists if name in fields}
            except ValueError as error:
                yield Damage(place, str(error))
                continue
            yield Row(place, fields)


def _list(cell: str) -> Any:
    """The list that a cell holds, as JSON or as Python writes it; else the cell itself."""
    if not cell.lstrip().startswith("["):
        return cell
    try:
        return json.loads(cell)
    except RecursionError:
        raise ValueError("expected a list in a cell, got too many brackets") from None
    except ValueError:
        pass
    try:
        if not _NO_COMMA.search(cell):  # Python would join two words without a comma to one
            return ast.literal_eval(cell.strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        pass
    raise ValueError(f"expected a list with commas in a cell, got {short(cell)}")


def _long_rows(
    path: Path, columns: Long, width: int, records: Sequence[Record], options: Options
) -> Rows:
    """The sentences of a table of one word a row."""
    if not columns.sentence and all(record.cells for record in records):
        raise ValueError(
            f"{path}: cannot tell where a sentence ends; pass columns=(word, tag, sentence) with "
            "the column that numbers the sentences, or write an empty line after each"
        )
    if columns.tag is None and options.tagged:
        raise ValueError(f"{path}: expected columns=(word, tag, sentence), got {options.columns}")
    sentence: list[Record] = []
    key: list[str] = []
    for record in records:
        given = [record.cells[n] for n in columns.sentence if n < len(record.cells)]
        changed = record.cells and columns.sentence and any(given) and given != key
        if sentence and (changed or not record.cells):
            yield _sentence(sentence, columns, width, options)
            sentence = []
        if any(given):
            key = given
        if record.cells:
            sentence.append(record)
    if sentence:
        yield _sentence(sentence, columns, width, options)


def _sentence(records: Sequence[Record], columns: Long, width: int, options: Options) -> Any:
    """The row of the records of a sentence, or its first damage."""
    for place, cells, reason in records:
        if reason is None and len(cells) != width:
            reason = f"expected {width} cells, got {len(cells)} in {short(cells)}"
        if reason is None and not cells[columns.word]:
            reason = f"expected a word, got none in {short(cells)}"
        if reason is not None:
            return Damage(place, reason)
    fields: dict[str, Any] = {options.tokens_column: [r.cells[columns.word] for r in records]}
    if options.tagged and columns.tag is not None:
        fields[options.tags_column] = [r.cells[columns.tag].strip() for r in records]
        if columns.document is not None and records[0].cells[columns.document]:
            fields[DOCUMENT] = records[0].cells[columns.document]
    if columns.sentence and not options.tagged:
        fields["id"] = " ".join(records[0].cells[n] for n in columns.sentence)
    return Row(records[0].place, fields, [record.place for record in records])
