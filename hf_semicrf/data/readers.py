"""Read local files into data sets.

A data set here has one row a sentence, with a column of words and a column of as many tags (names,
or class ids whose names stand in the data set's features).
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow.parquet
from datasets import Dataset

JSON_SUFFIXES = (".jsonl", ".json", ".ndjson")
CONLL_SUFFIXES = (".conll", ".txt", ".tsv", ".iob", ".iob2", ".bio")
PARQUET_SUFFIXES = (".parquet",)

Row = dict[str, list]
Text = str | list[str]


def read_corpus(
    path: str | Path, tokens_column: str = "tokens", tags_column: str = "ner_tags"
) -> Dataset:
    """Read a local corpus; the format follows the file's name, with or without a last ".gz".

    - JSON lines (.jsonl, .json, .ndjson): one object a line, with both columns.
    - CoNLL columns (.conll, .txt, .tsv, .iob, .iob2, .bio): one word a line, its tag in the last
      column, an empty line after each sentence; separated by tabs where the line has one, else by
      spaces. Lines that start with -DOCSTART- are left out.
    - Parquet (.parquet): both columns; class names are kept where the file states them.

    Args:
        path: The file.
        tokens_column: Name of the column of words.
        tags_column: Name of the column of tags.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The format is unknown, the file has no sentence, or a row is malformed (the
            message names the line).
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"expected a corpus file, found none at {str(path)!r}")
    suffix = _suffix(path)
    if suffix in PARQUET_SUFFIXES:
        dataset = Dataset(pyarrow.parquet.read_table(BytesIO(_read_bytes(path))))
        missing = {tokens_column, tags_column} - set(dataset.column_names)
        if missing:
            raise ValueError(f"{path}: no column {sorted(missing)}, got {dataset.column_names}")
        dataset = dataset.select_columns([tokens_column, tags_column])
    elif suffix in JSON_SUFFIXES + CONLL_SUFFIXES:
        lines = enumerate(_read_text(path).split("\n"), start=1)
        columns = (tokens_column, tags_column)
        reader = _json_rows if suffix in JSON_SUFFIXES else _conll_rows
        rows = list(reader(path, lines, columns))
        dataset = Dataset.from_dict({name: [row[name] for row in rows] for name in columns})
    else:
        known = ", ".join(JSON_SUFFIXES + CONLL_SUFFIXES + PARQUET_SUFFIXES)
        raise ValueError(f"{path}: expected a name that ends in {known} (or .gz after it)")
    if not len(dataset):
        raise ValueError(f"{path}: expected at least one sentence, the file has none")
    return dataset


def read_texts(path: str | Path) -> list[Text]:
    """All that `stream_texts` gives."""
    return list(stream_texts(path))


def stream_texts(path: str | Path) -> Iterator[Text]:
    """Read untagged text: one text a line, or JSON lines with "text" or a list of words "tokens".

    Args:
        path: The file; JSON lines where its name says so, with or without a last ".gz".

    Yields:
        The texts, one by one as the file is read.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A JSON line has neither.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"expected a text file, found none at {str(path)!r}")
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8-sig", newline="\n") as file:
        if _suffix(path) not in JSON_SUFFIXES:
            for line in file:
                yield line.removesuffix("\n")
            return
        for number, row in _json_objects(path, enumerate(file, start=1)):
            text = row.get("text", row.get("tokens"))
            if not isinstance(text, str | list):
                raise ValueError(f'{path}, line {number}: expected "text" or "tokens", got {row}')
            yield text


def _read_bytes(path: Path) -> bytes:
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        return file.read()


def _read_text(path: Path) -> str:
    return _read_bytes(path).decode("utf-8-sig")


def _suffix(path: Path) -> str:
    """The part of a name that tells the format: ".jsonl" of "train.jsonl.gz"."""
    return Path(path.name.removesuffix(".gz")).suffix


def _json_objects(
    path: Path, lines: Iterable[tuple[int, str]]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The object of each line that is not empty, with the line's number."""
    for number, line in lines:
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number}: expected a JSON object ({error})") from None
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {number}: expected a JSON object, got {line[:80]!r}")
        yield number, row


def _json_rows(
    path: Path, lines: Iterable[tuple[int, str]], columns: tuple[str, str]
) -> Iterator[Row]:
    tokens_column, tags_column = columns
    for number, row in _json_objects(path, lines):
        if not all(isinstance(row.get(key), list) for key in columns):
            raise ValueError(
                f"{path}, line {number}: expected lists {tokens_column!r} and {tags_column!r}, "
                f"got {str(row)[:80]}"
            )
        if len(row[tokens_column]) != len(row[tags_column]):
            raise ValueError(
                f"{path}, line {number}: expected a tag for each of the "
                f"{len(row[tokens_column])} words, got {len(row[tags_column])}"
            )
        yield {key: row[key] for key in columns}


def _conll_rows(
    path: Path, lines: Iterable[tuple[int, str]], columns: tuple[str, str]
) -> Iterator[Row]:
    tokens: list[str] = []
    tags: list[str] = []
    width = None
    for number, line in lines:
        line = line.strip(" \t\r")
        if line and not line.startswith("-DOCSTART-"):
            cells = re.split("\t" if "\t" in line else " +", line)
            width = width or len(cells)
            if len(cells) < 2 or len(cells) != width:
                raise ValueError(
                    f"{path}, line {number}: expected {max(width, 2)} columns (a word first, its "
                    f"tag last), got {len(cells)} in {line[:80]!r}"
                )
            tokens.append(cells[0])
            tags.append(cells[-1].strip())
        elif tokens:
            yield dict(zip(columns, (tokens, tags), strict=True))
            tokens, tags = [], []
    if tokens:
        yield dict(zip(columns, (tokens, tags), strict=True))
