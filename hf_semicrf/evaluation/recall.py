"""Calibrate a recall on tagged documents, and make it a promise of the model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hf_semicrf.data import entity_spans, named_tags
from hf_semicrf.evaluation.breakdowns import scheme_of_data
from hf_semicrf.evaluation.coverage import found_at
from hf_semicrf.evaluation.risk import LOWEST, NotCarriedError, control_recall
from hf_semicrf.inference import Candidates, conditions, kind_of, read_candidates, sealed
from hf_semicrf.labels import UNKNOWN, UNKNOWN_TAG
from hf_semicrf.options import check
from hf_semicrf.results import Promise, PromisedPart

if TYPE_CHECKING:
    from datasets import Dataset

    from hf_semicrf.data import ReadReport

Span = tuple[int, int, str]


class Row(NamedTuple):
    """A row that the model has read.

    Args:
        unit: Number of its document.
        words: Its words, as the model has them.
        gold: Its entities in these words, each with whether it begins and ends where words do.
        inside: Whether each word lies in an entity, wholly or in part.
        candidates: Of `LOWEST` posterior and more.
    """

    unit: int
    words: int
    gold: list[tuple[int, int, str, bool]]
    inside: np.ndarray
    candidates: Candidates


def calibrate_recall(
    model: Any,
    tokenizer: Any,
    data: Dataset,
    recall: float = 0.98,
    confidence: float | None = None,
    covering: str = "words",
    types: Sequence[str] | None = None,
    *,
    name: str | None = None,
    document_column: str | None = None,
    tokens_column: str = "tokens",
    tags_column: str = "ner_tags",
    batch_size: int = 32,
    max_length: int | None = None,
    overlap: int | None = None,
    report: ReadReport | None = None,
) -> Promise:
    """What ``SemiCRFTrainer.calibrate_recall`` promises, for any model and its tokenizer.

    Args:
        model: A `SemiCRFForTokenClassification`, whose configuration gets the promise.
        tokenizer: The encoder's.
        data: Documents and their tags, as ``SemiCRFTrainer.calibrate_recall`` takes them.
        recall: The share of entities that is to be found.
        confidence: As there, like all that follow.
        covering: "words" or "exact".
        types: Types that each have a promise of their own.
        name: What the data are called.
        document_column: Column that tells documents apart.
        tokens_column: Column of the words.
        tags_column: Column of the tags.
        batch_size: Windows that are encoded together.
        max_length: Sub-words in a window.
        overlap: Words that neighbouring windows share.
        report: What `read_corpus` filled when it read the data; names the line in errors.
    """
    own = check(optional=False, recall=recall, covering=covering, batch_size=batch_size)
    own |= check(confidence=confidence, document_column=document_column)
    check(tokens_column=tokens_column, tags_column=tags_column)
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    known = base.config.scheme.types[1:]
    unknown = [kind for kind in types or () if kind not in known]
    if isinstance(types, str) or unknown or types == []:
        raise ValueError(f"expected types of the model, {', '.join(known)}, got {types!r}")
    wanted = {tokens_column, tags_column, own["document_column"]} - {None, *data.column_names}
    if wanted:
        raise ValueError(f"expected columns {sorted(wanted)}, got {data.column_names}")
    for number, tags in enumerate(named_tags(data, tags_column)):
        if any(tag in (None, UNKNOWN, UNKNOWN_TAG) for tag in tags):
            places = report.places if report is not None else ()
            place = places[number] if number < len(places) else f"row {number}"
            raise ValueError(f"{place}: expected a tag for each word, got an unknown one in {tags}")
    windows: dict[str, Any] = {"max_length": max_length, "overlap": overlap}
    columns = tokens_column, tags_column, own["document_column"]
    rows = list(_rows(base, tokenizer, data, columns, own["batch_size"], windows, report))
    parts, refused = [], []
    kinds: Sequence[str | None] = types or [None]
    for kind in kinds:
        try:
            parts.append(_part(rows, base.config.scheme.types, kind, own))
        except NotCarriedError as error:
            refused.append((kind, error))
    if refused:
        said = [f"{kind}: {error}" if kind else str(error) for kind, error in refused]
        raise NotCarriedError("; ".join(said), min(error.best for _, error in refused))
    texts = kind_of(_text_of(data, tokens_column, 0))
    promise = sealed(
        {
            "recall": own["recall"],
            "confidence": own["confidence"],
            "covering": own["covering"],
            "parts": parts,
            "unit": own["document_column"] or "row",
            "rows": len(data),
            "data": name,
            "depends_on": conditions(base, tokenizer, texts, **windows),
        }
    )
    others = [other for other in base.config.promises if other["recall"] != own["recall"]]
    base.config.promises = sorted([*others, promise], key=lambda other: other["recall"])
    return promise


def _text_of(data: Dataset, tokens_column: str, row: int) -> Any:
    """What the model is given of a row: the text where the data have it, else the words."""
    if {"text", "offsets"} <= set(data.column_names):
        return data[row]["text"]
    return list(data[row][tokens_column])


def _rows(
    model: Any,
    tokenizer: Any,
    data: Dataset,
    columns: tuple[str, str, str | None],
    batch_size: int,
    windows: dict[str, Any],
    report: ReadReport | None,
) -> Iterator[Row]:
    """The rows as the model reads them, with their candidates."""
    tokens_column, tags_column, document_column = columns
    scheme = scheme_of_data(model.config.scheme, data, tags_column, report)
    gold = entity_spans(data, scheme, tags_column, report)
    keys = list(data[document_column]) if document_column else list(range(len(data)))
    units = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    texts = [_text_of(data, tokens_column, row) for row in range(len(data))]
    documents = read_candidates(model, texts, tokenizer, LOWEST, batch_size, **windows)
    is_text = bool(texts) and isinstance(texts[0], str)
    for row, (document, entities) in enumerate(zip(documents, gold, strict=True)):
        offsets = data[row]["offsets"] if is_text else document.spans
        placed = [_placed(entity, offsets, document.spans) for entity in entities]
        inside = np.zeros(len(document.words), bool)
        for first, end, _, _ in placed:
            inside[first:end] = True
        words = len(document.words)
        yield Row(units[keys[row]], words, placed, inside, document.candidates())


def _placed(
    entity: Span, offsets: Sequence[Sequence[int]], spans: Sequence[tuple[int, int]]
) -> tuple[int, int, str, bool]:
    """An entity in the words of the model, and whether it begins and ends where words do.

    Args:
        entity: In words of the data.
        offsets: Where these stand.
        spans: Where the words of the model stand.
    """
    first, end, kind = entity
    start, stop = offsets[first][0], offsets[end - 1][1]
    over = [n for n, (a, b) in enumerate(spans) if a < stop and start < b]
    if not over:
        return 0, 0, kind, False
    whole = spans[over[0]][0] == start and spans[over[-1]][1] == stop
    return over[0], over[-1] + 1, kind, whole


def _part(
    rows: Sequence[Row], types: Sequence[str], kind: str | None, own: dict[str, Any]
) -> PromisedPart:
    """The threshold for entities of a type, or of all, and what it costs."""
    scores, units, covers = [], [], []
    for row in rows:
        candidates = row.candidates
        if kind is not None:
            candidates = candidates.where(candidates.type == types.index(kind))
        gold = [entity for entity in row.gold if kind in (None, entity[2])]
        spans = [(a, b, types.index(t) if t in types else -1) for a, b, t, _ in gold]
        found = found_at(spans, candidates, row.words, own["covering"])
        whole = np.array([whole or own["covering"] == "words" for *_, whole in gold], bool)
        scores.append(np.where(whole, found, 0.0))
        units += [row.unit] * len(gold)
        covers.append(candidates.coverage(row.words))
    control = control_recall(np.concatenate([*scores, []]), units, own["recall"], own["confidence"])
    threshold = _rounded_down(control.threshold)
    extra = sum(
        int(((cover >= threshold) & ~row.inside).sum())
        for row, cover in zip(rows, covers, strict=True)
    )
    inside = sum(b - a for row in rows for a, b, t, _ in row.gold if kind in (None, t))
    return PromisedPart(
        type=kind,
        threshold=threshold,
        documents=control.documents,
        entities=control.entities,
        missed=control.missed,
        largest=control.largest,
        extra_words=round(extra / inside, 4),
        method=control.method,
    )


def _rounded_down(value: float) -> float:
    """Three digits of a threshold: it may be lower, and rounding errors stay above it."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 2)
    return float(f"{math.floor(value / unit * (1 - 1e-12)) * unit:.3g}")
