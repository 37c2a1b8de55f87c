"""The sentences around a sentence: which of a data set's rows are of one document.

A row is read together with the rows before and after it, which `TokenizeAndAlign` finds in two
columns. What a data set says of documents is their `DOCUMENT` column.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby

from datasets import Dataset, Features, Value, concatenate_datasets
from datasets import Sequence as Items

from hf_semicrf.options import check

DOCUMENT = "doc_id"
DOCUMENT_NAMES = (DOCUMENT, "document_id")
BEFORE, AFTER = "sentences_before", "sentences_after"

RARE = 100  # a word is rare if it is in at most one of so many sentences
IN_ORDER = (0.1, 5.0)  # neighbours that share a rare word; times as many as strangers


def documents_of(dataset: Dataset, neighbours: str) -> list[tuple[int, int]]:
    """The rows [first, end) of each document.

    Args:
        dataset: One row a sentence.
        neighbours: "none" for documents of one row, "document" for runs of rows with the same
            ``doc_id`` (each row alone where the data have none), "file" for the same (all rows
            where they have none).
    """
    check(neighbours=neighbours)
    rows = len(dataset)
    name = next((n for n in DOCUMENT_NAMES if n in dataset.column_names), None)
    if neighbours == "none" or (neighbours == "document" and name is None):
        return [(row, row + 1) for row in range(rows)]
    if name is None:
        return [(0, rows)] if rows else []
    ends = [0]
    for _, run in groupby(dataset[name]):
        ends.append(ends[-1] + sum(1 for _ in run))
    return list(zip(ends, ends[1:], strict=False))


def choose_neighbours(dataset: Dataset, tokens_column: str = "tokens") -> str:
    """Which `neighbours` a data set has: "document", "file" or "none".

    "document" where its ``doc_id`` groups rows. "file" where its rows stand in the order of a text:
    where a tenth of neighbouring sentences share a rare word, and five times as many as of
    sentences far apart.

    Args:
        dataset: One row a sentence.
        tokens_column: Column of the words.
    """
    check(tokens_column=tokens_column)
    rows = len(dataset)
    if len(documents_of(dataset, "document")) < rows:
        return "document"
    if any(name in dataset.column_names for name in DOCUMENT_NAMES):
        return "none"
    near, far = (_sharing(dataset[tokens_column], apart) for apart in (1, rows // 2))
    share, times = IN_ORDER
    return "file" if rows > 2 and near >= max(share, times * far) else "none"


def with_neighbours(
    dataset: Dataset, neighbours: str, window_length: int, tokens_column: str = "tokens"
) -> Dataset:
    """A data set whose rows know the sentences before and after them.

    Args:
        dataset: One row a sentence.
        neighbours: As `documents_of` takes it.
        window_length: As many words as this are kept on each side, in whole sentences.
        tokens_column: Column of the words.

    Returns:
        The data set with the columns ``sentences_before`` and ``sentences_after``, which are lists
        of sentences; itself where no row has neighbours.
    """
    check(neighbours=neighbours, window_length=window_length, tokens_column=tokens_column)
    documents = documents_of(dataset, neighbours)
    if len(documents) == len(dataset):
        return dataset
    sentences = list(dataset[tokens_column])
    columns: dict[str, list[list[list[str]]]] = {BEFORE: [], AFTER: []}
    for first, end in documents:
        for row in range(first, end):
            before = (sentences[n] for n in range(row - 1, first - 1, -1))
            after = (sentences[n] for n in range(row + 1, end))
            columns[BEFORE].append(_first_words(before, window_length)[::-1])
            columns[AFTER].append(_first_words(after, window_length))
    words = Items(Items(Value("string")))
    around = Dataset.from_dict(columns, features=Features({BEFORE: words, AFTER: words}))
    return concatenate_datasets([dataset, around], axis=1)


def _first_words(sentences: Iterable[list[str]], count: int) -> list[list[str]]:
    """The first sentences that have at least so many words; all of them where they have fewer."""
    kept: list[list[str]] = []
    for words in sentences:
        if count <= 0:
            break
        kept.append(words)
        count -= len(words)
    return kept


def _sharing(sentences: Sequence[Sequence[str]], apart: int) -> float:
    """The share of sentences that have a rare word in common with the one so many rows later."""
    sets = [{w.lower() for w in words if any(map(str.isalpha, w))} for words in sentences]
    counts = Counter(word for words in sets for word in words)
    most = max(2, len(sets) // RARE)
    rare = [{word for word in words if counts[word] <= most} for words in sets]
    pairs = zip(rare, rare[apart:] + rare[:apart], strict=True)
    return sum(not a.isdisjoint(b) for a, b in pairs) / max(len(rare), 1)
