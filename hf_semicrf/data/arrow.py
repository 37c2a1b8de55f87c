"""Data sets with Arrow columns: parquet files and what the Hub has."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow.parquet
from datasets import ClassLabel, Dataset, DatasetDict, load_dataset

from hf_semicrf.data.files import read_bytes
from hf_semicrf.data.records import Damage, Row, Rows

_AT_ONCE = 1000


def open_parquet(path: Path) -> Dataset:
    """Open a parquet file, with its class names.

    Raises:
        ValueError: It is no parquet file, or a broken one.
    """
    content = read_bytes(path)
    try:
        table = pyarrow.parquet.read_table(BytesIO(content))
        table.validate(full=True)
        return Dataset(table)
    except Exception as error:  # Arrow's errors, and those of damaged features
        line = str(error).strip().split("\n")[0]
        raise ValueError(f"{path}: expected a parquet file ({line})") from None


def open_hub(name: str, config: str | None, split: str | None) -> Dataset | DatasetDict:
    """Load a data set of the Hub, one split or all.

    Raises:
        ValueError: It cannot be loaded.
        OSError: It cannot be found.
    """
    try:
        return load_dataset(name, config, split=split)
    except OSError as error:
        raise OSError(f"{name}: {error}") from None
    except (ValueError, RuntimeError, TypeError, KeyError, ImportError) as error:
        raise ValueError(f"{name}: cannot be loaded ({error})") from None


def class_names(dataset: Dataset, column: str) -> list[str] | None:
    """The names behind the class ids of a column of lists; None where it has none."""
    feature = getattr(dataset.features.get(column), "feature", None)
    return list(feature.names) if isinstance(feature, ClassLabel) else None


def arrow_rows(dataset: Dataset, source: str) -> Rows:
    """The rows of a data set, counted from 1."""
    table = dataset.with_format("arrow")
    number = 0
    for first in range(0, len(dataset), _AT_ONCE):
        for values in _values(table[first : first + _AT_ONCE]):
            number += 1
            place = f"{source}, row {number}"
            if isinstance(values, str):
                yield Damage(place, values)
            else:
                yield Row(place, values)


def _values(table: Any) -> Iterator[dict[str, Any] | str]:
    """The fields of each row of a table, or why they cannot be read."""
    try:
        yield from table.to_pylist()
        return
    except (ValueError, OverflowError):
        pass
    for n in range(len(table)):
        try:
            yield table.slice(n, 1).to_pylist()[0]
        except (ValueError, OverflowError) as error:
            yield f"expected text in UTF-8 ({error})"
