"""Read the files that people have: data sets of words and tags, and texts to predict.

A data set here has one row a sentence, with a column of words and a column of as many tags (names,
or class ids whose names stand in the data set's features). docs/data.md shows every format.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset

from hf_semicrf.data.arrow import arrow_rows, class_names, open_hub, open_parquet
from hf_semicrf.data.brat import brat_rows, is_brat
from hf_semicrf.data.columns import column_rows, header_cells
from hf_semicrf.data.corpus_builder import CorpusBuilder
from hf_semicrf.data.docbin import docbin_rows
from hf_semicrf.data.files import read_lines, suffix_of, undecoded
from hf_semicrf.data.json_rows import json_rows
from hf_semicrf.data.labels import (
    count_entities,
    entity_spans,
    label_names,
    named_tags,
    scheme_of,
)
from hf_semicrf.data.neighbours import DOCUMENT_NAMES
from hf_semicrf.data.records import (
    Damage,
    Options,
    ReadReport,
    Row,
    Rows,
    Splitter,
    without_surrogates,
)
from hf_semicrf.data.shapes import KINDS, SPAN_KEYS, flattened, text_fields
from hf_semicrf.data.tables import has_header, table_rows
from hf_semicrf.options import check
from hf_semicrf.text import split_words

__all__ = [
    "FORMATS",
    "ReadReport",
    "Text",
    "count_entities",
    "entity_spans",
    "label_names",
    "named_tags",
    "read_corpus",
    "read_dataset",
    "read_hub",
    "read_texts",
    "scheme_of",
    "stream_rows",
    "stream_texts",
    "text_of",
]

JSON_SUFFIXES = (".jsonl", ".json", ".ndjson")
CONLL_SUFFIXES = (".conll", ".conllu", ".txt", ".tsv", ".iob", ".iob2", ".bio")
SUFFIXES = {
    **dict.fromkeys(JSON_SUFFIXES, "json"),
    **dict.fromkeys(CONLL_SUFFIXES, "columns"),
    ".csv": "csv",
    ".parquet": "parquet",
    ".spacy": "docbin",
}

Text = str | list[str]


def read_corpus(
    path: str | Path,
    tokens_column: str = "tokens",
    tags_column: str = "ner_tags",
    *,
    text_column: str = "text",
    spans_column: str | None = None,
    format: str | None = None,
    columns: Sequence[int | str] | None = None,
    separator: str | None = None,
    encoding: str = "utf-8",
    misaligned: str = "error",
    splitter: Splitter = split_words,
    report: ReadReport | None = None,
) -> Dataset:
    """Read a local corpus; its name and its first row tell the format.

    docs/data.md shows each format. Where a format cannot be told, the error names what to pass.
    Rows without words are left out. Damaged rows are refused.

    Args:
        path: The file, with or without a last ".gz"; a folder for BRAT.
        tokens_column: Name of the column of words, here and in the result.
        tags_column: Name of the column of tags, here and in the result.
        text_column: Name of the texts that spans are of.
        spans_column: Name of the spans; by default "entities", "spans", "label" or "labels".
        format: One of `FORMATS`, where the name does not tell it.
        columns: (word, tag) or (word, tag, sentence) of files with one word a line: numbers
            counted from 1 or from the end (-1), names of a table's header, or the key of a tag
            that is written as key=tag.
        separator: What stands between the cells of a table or of columns.
        encoding: Of text files.
        misaligned: What becomes of spans that begin or end inside a word, or overlap: "error"
            refuses them, "drop" leaves them out, "expand" takes the whole words. With both, the
            longest of spans that overlap stays. The report lists them all.
        splitter: Cuts a text into words: from a text to items that end in (start, end).
        report: Is filled with what was left out and where rows stand; without it, what was left
            out is a warning.

    Returns:
        The words and the tags. Where the words are of a text, also "text" and "offsets": where each
        word begins and ends in it. Where the file says of which document a sentence is, "doc_id".

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The format is unknown, the file has no sentence, or a row is damaged; the
            message names the file and the line, or the row.
    """
    options = Options(
        tokens_column, tags_column, text_column, spans_column, format, columns, separator,
        encoding, misaligned, splitter,
    )  # fmt: skip
    path = Path(path)
    found = _format_of(path, options)
    if found == "parquet":
        read = _read_dataset(open_parquet(path), str(path), options, report)
        wanted = [tokens_column, tags_column, "text", "offsets", *DOCUMENT_NAMES]
        return read.select_columns([name for name in wanted if name in read.column_names])
    return _filled(report, str(path), lambda r: _build(_rows(path, found, options), options, r))


def read_dataset(
    dataset: Dataset,
    name: str,
    tokens_column: str = "tokens",
    tags_column: str = "ner_tags",
    *,
    text_column: str = "text",
    spans_column: str | None = None,
    misaligned: str = "error",
    splitter: Splitter = split_words,
    report: ReadReport | None = None,
) -> Dataset:
    """Check a data set as `read_corpus` checks a file; rows are counted from 1.

    Args:
        dataset: The data set, with words and tags, or texts and spans.
        name: What messages call it, such as "wnut_17, split 'train'".
        tokens_column: As in `read_corpus`.
        tags_column: As in `read_corpus`.
        text_column: As in `read_corpus`.
        spans_column: As in `read_corpus`.
        misaligned: As in `read_corpus`.
        splitter: As in `read_corpus`.
        report: As in `read_corpus`.

    Returns:
        The same data set without the rows that have no words; of texts and spans, a new one.

    Raises:
        ValueError: A row is damaged; the message names the data set and the row.
    """
    options = Options(
        tokens_column, tags_column, text_column, spans_column,
        misaligned=misaligned, splitter=splitter,
    )  # fmt: skip
    return _read_dataset(dataset, name, options, report)


def read_hub(
    name: str,
    config: str | None = None,
    *,
    split: str,
    report: ReadReport | None = None,
    **how: Any,
) -> Dataset:
    """Read one split of a data set of the Hub, with the arguments of `read_dataset`.

    Raises:
        OSError: It is not found.
        ValueError: It cannot be loaded, or a row is damaged.
    """
    Options(**how)  # refuse what no reader understands before anything is loaded
    dataset = open_hub(name, config, split)
    return read_dataset(dataset, f"{name}, split {split!r}", report=report, **how)


def stream_rows(
    path: str | Path,
    *,
    text_column: str = "text",
    tokens_column: str = "tokens",
    format: str | None = None,
    columns: Sequence[int | str] | None = None,
    separator: str | None = None,
    encoding: str = "utf-8",
    damaged: str = "skip",
    empty: str = "skip",
    report: ReadReport | None = None,
) -> Iterator[dict[str, Any]]:
    """Read rows to predict, from every format that `read_corpus` reads, and plain text.

    Args:
        path: The file; .txt has one text a line.
        text_column: Name of the texts.
        tokens_column: Name of the words, where there is no text.
        format: As in `read_corpus`.
        columns: As in `read_corpus`; the word alone is enough.
        separator: As in `read_corpus`.
        encoding: As in `read_corpus`.
        damaged: "skip" leaves damaged rows out and reports them, "error" raises.
        empty: "skip" leaves rows without words out and reports them, "keep" gives them.
        report: As in `read_corpus`; complete when the last row has been read.

    Yields:
        Each row with "text" (a string) or "tokens" (a list of words), and the row's other fields.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The format is unknown, or no row can be read.
    """
    check(damaged=damaged, empty=empty)
    options = Options(
        tokens_column, text_column=text_column, format=format, columns=columns,
        separator=separator, encoding=encoding, tagged=False,
    )  # fmt: skip
    path = Path(path)
    found = _format_of(path, options)
    own = ReadReport() if report is None else report
    own.source = str(path)
    for row in flattened(_rows(path, found, options), options):
        fields: dict[str, Any] = {}
        reason = row.reason if isinstance(row, Damage) else None
        if isinstance(row, Row):
            try:
                clean = without_surrogates(row.fields)
                if clean is not row.fields:
                    own.replaced.append(row.place)
                fields = text_fields(clean, options)
            except ValueError as error:
                reason = str(error)
        if reason is not None:
            if damaged == "error":
                raise ValueError(f"{row.place}: {reason}")
            own.damaged.append(f"{row.place}: {reason}")
        elif empty == "skip" and not "".join(text_of(fields)).strip():
            own.empty.append(row.place)
        else:
            own.places.append(row.place)
            yield fields
    if own.damaged and not own.places:
        raise ValueError(f"expected rows with texts, got none: {own.damaged[0]}")
    if report is None:
        _warn(own)


def stream_texts(path: str | Path, **how: Any) -> Iterator[Text]:
    """The texts of `stream_rows`; a damaged row raises, and a text without words is kept."""
    for row in stream_rows(path, **{"damaged": "error", "empty": "keep", **how}):
        yield text_of(row)


def read_texts(path: str | Path, **how: Any) -> list[Text]:
    """All that `stream_texts` gives."""
    return list(stream_texts(path, **how))


def text_of(row: dict[str, Any]) -> Text:
    """The text of a row, or its words."""
    return row["text"] if "text" in row else row["tokens"]


def _text_rows(path: Path, options: Options) -> Rows:
    """One text a line."""
    for number, line in read_lines(path, options.encoding):
        place, reason = f"{path}, line {number}", undecoded(line)
        yield Damage(place, reason) if reason else Row(place, {options.text_column: line})


_READERS: dict[str, Callable[[Path, Options], Rows]] = {
    "json": json_rows,
    "csv": table_rows,
    "columns": column_rows,
    "parquet": lambda path, options: arrow_rows(open_parquet(path), str(path)),
    "brat": brat_rows,
    "docbin": docbin_rows,
    "text": _text_rows,
}
FORMATS = (*_READERS, *KINDS)


def _format_of(path: Path, options: Options) -> str:
    """Which reader reads a file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The format is not known, or its name does not tell it.
    """
    if not path.exists():
        kind = "corpus" if options.tagged else "text"
        raise FileNotFoundError(f"expected a {kind} file, found none at {str(path)!r}")
    if options.format is not None and options.format not in FORMATS:
        raise ValueError(
            f"{path}: expected a format among {', '.join(FORMATS)}, got {options.format!r}"
        )
    if options.format == "text" and options.tagged:
        raise ValueError(f"{path}: expected a format with tags, got 'text'")
    found = options.format or _format_of_name(path, options)
    if path.is_dir() and found != "brat":
        raise ValueError(f"{path}: expected a file, got a folder")
    return "json" if found in KINDS else found


def _format_of_name(path: Path, options: Options) -> str:
    """The format that the name of a file tells."""
    suffix = suffix_of(path)
    if suffix == ".txt" and not options.tagged and options.columns is None:
        return "text"
    if is_brat(path):
        return "brat"
    if path.is_dir():
        raise ValueError(f"{path}: expected a file, or a folder with .ann and .txt files (BRAT)")
    if suffix not in SUFFIXES:
        known = ", ".join(SUFFIXES)
        raise ValueError(
            f"{path}: expected a name that ends in {known} (or .gz after it), or format= with one "
            f"of {', '.join(FORMATS)}"
        )
    found = SUFFIXES[suffix]
    named = options.columns is not None and any(isinstance(c, str) for c in options.columns[::2])
    if found == "columns" and suffix != ".conllu":
        sentence = len(options.columns or ()) == 3
        if sentence or named or has_header(header_cells(path, options), options):
            return "csv"
    return found


def _rows(path: Path, found: str, options: Options) -> Rows:
    """The rows of a file."""
    return _READERS[found](path, options)


def _build(rows: Rows, options: Options, report: ReadReport) -> Dataset:
    return CorpusBuilder(options, report).read(rows).dataset()


def _read_dataset(
    dataset: Dataset, name: str, options: Options, report: ReadReport | None
) -> Dataset:
    """A data set without the rows that have no words, checked."""
    columns = {options.tokens_column, options.tags_column}
    present = set(dataset.column_names)
    spans = {options.spans_column} if options.spans_column else {*SPAN_KEYS}
    tagged = columns <= present and options.spans_column is None
    if not tagged and not (spans & present and {options.text_column, "tokens"} & present):
        raise ValueError(
            f"{name}: no column {sorted(columns - present)}, got {dataset.column_names}"
        )

    def build(own: ReadReport) -> Dataset:
        names = class_names(dataset, options.tags_column) if tagged else None
        checked = dataset.select_columns(sorted(columns)) if tagged else dataset
        builder = CorpusBuilder(options, own, names).read(arrow_rows(checked, name))
        if not tagged:
            return builder.dataset()
        return dataset if len(builder.kept) == len(dataset) else dataset.select(builder.kept)

    return _filled(report, name, build)


def _filled(
    report: ReadReport | None, source: str, build: Callable[[ReadReport], Dataset]
) -> Dataset:
    """Build a data set with a report; one that nobody asked for becomes a warning."""
    own = ReadReport() if report is None else report
    own.source = source
    dataset = build(own)
    if report is None:
        _warn(own)
    return dataset


def _warn(report: ReadReport) -> None:
    for line in report.lines():
        warnings.warn(line, stacklevel=4)
