"""Write entities so that people and their tools can correct them and train on the result."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from hf_semicrf.data.records import Splitter, short
from hf_semicrf.data.spans import Span, spans_to_tags, utf16_units
from hf_semicrf.results import Entity
from hf_semicrf.text import split_words

_OLD_SPANS = ("entities", "spans", "label", "labels")
_PRODIGYS = ("answer", "_input_hash", "_task_hash", "_view_id", "_timestamp", "_annotator_id")


class Placed(NamedTuple):
    """A row with its entities placed in a text.

    Attributes:
        text: The text; the words joined by spaces where the row has words.
        words: Where each word begins and ends in it.
        entities: With start and end in characters of it.
        others: The other fields of the row, without annotations.
    """

    text: str
    words: list[tuple[int, int]]
    entities: list[Entity]
    others: dict[str, Any]


def write_rows(
    rows: Iterable[Mapping[str, Any] | str | Sequence[str]],
    entities: Iterable[Sequence[Entity]],
    format: str = "jsonl",
    splitter: Splitter = split_words,
    model: str | None = None,
) -> Iterator[str]:
    r"""Write rows and their entities, line by line as they come.

    Args:
        rows: Rows as `stream_rows` gives them, or texts alone.
        entities: The entities of each row as ``model.predict`` gives them.
        format: One of `WRITERS`: "jsonl" keeps the rows as they are and adds "entities"; "conll"
            has a word and its tag a line; "label_studio", "prodigy" and "doccano" are what these
            tools import. Where a tool needs a text, words are joined by spaces.
        splitter: Cuts texts into words, for "conll" and "prodigy"; the model's.
        model: Name of the model, for Label Studio.

    Yields:
        The lines, without their ends; write them in UTF-8 with ``"\n"``.

    Raises:
        ValueError: There is no such format, or a row cannot be written in it.
    """
    if format not in WRITERS:
        raise ValueError(f"expected a format among {', '.join(WRITERS)}, got {format!r}")
    pairs = ((_as_row(row), found) for row, found in zip(rows, entities, strict=True))
    if format == "label_studio":
        yield from _label_studio(pairs, splitter, model)
        return
    for row, found in pairs:
        yield from WRITERS[format](row, found, splitter)


def place(row: Mapping[str, Any], entities: Sequence[Entity], splitter: Splitter) -> Placed:
    """Place the entities of a row in its text, or in its words joined by spaces."""
    others = {k: v for k, v in row.items() if k not in ("text", "tokens", *_OLD_SPANS)}
    others |= {k: row[k] for k in _OLD_SPANS if k in row and not isinstance(row[k], list)}
    if isinstance(row.get("text"), str):
        words = [(int(item[-2]), int(item[-1])) for item in map(tuple, splitter(row["text"]))]
        return Placed(row["text"], words, list(entities), others)
    words, position = [], 0
    for word in row["tokens"]:
        words.append((position, position + len(word)))
        position += len(word) + 1
    moved: list[Entity] = [
        {**entity, "start": words[entity["start"]][0], "end": words[entity["end"] - 1][1]}
        for entity in entities
    ]
    return Placed(" ".join(row["tokens"]), words, moved, others)


def _as_row(row: Mapping[str, Any] | str | Sequence[str]) -> Mapping[str, Any]:
    if isinstance(row, Mapping):
        return row
    return {"text": row} if isinstance(row, str) else {"tokens": list(row)}


def _dumped(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _jsonl(row: Mapping[str, Any], entities: Sequence[Entity], splitter: Splitter) -> list[str]:
    """The row as it is, with its entities."""
    return [_dumped({**row, "entities": list(entities)})]


def _conll(row: Mapping[str, Any], entities: Sequence[Entity], splitter: Splitter) -> list[str]:
    """A word, a tab and an IOB2 tag a line; before it the id, after it an empty line."""
    placed = place(row, entities, splitter)
    words = [placed.text[start:end] for start, end in placed.words]
    bad = next((word for word in words if not _fits_a_cell(word)), None)
    if bad is not None:
        raise ValueError(f"expected words that fit in a column, got {short(bad)}")
    spans = [Span(e["start"], e["end"], e["label"]) for e in entities]
    if isinstance(row.get("text"), str):
        borders = placed.words
    else:
        borders = [(n, n + 1) for n in range(len(words))]
    problems: list[str] = []

    def tell(span: Span, problem: str) -> None:
        problems.append(f"{tuple(span[:3])} {problem}")

    tags = spans_to_tags(spans, borders, "error", tell, tell)
    if problems:
        raise ValueError(f"expected entities of whole words of the splitter, got {problems[0]}")
    named = [f"# id = {_one_word(row['id'])}"] if row.get("id") is not None and words else []
    lines = [f"{word}\t{tag}" for word, tag in zip(words, tags, strict=True)]
    return [*named, *lines, ""] if lines else []


def _fits_a_cell(word: str) -> bool:
    broken = any(mark in word for mark in "\t\n\r") or word.startswith("-DOCSTART-")
    return bool(word.strip(" ")) and word == word.strip(" ") and not broken


def _one_word(value: Any) -> str:
    return "_".join(str(value).split()) or "_"


def _doccano(row: Mapping[str, Any], entities: Sequence[Entity], splitter: Splitter) -> list[str]:
    """A text and its spans as [start, end, label] in UTF-16 units; doccano has no scores."""
    placed = place(row, entities, splitter)
    units = utf16_units(placed.text)
    label = [[units[e["start"]], units[e["end"]], e["label"]] for e in placed.entities]
    others = {k: v for k, v in placed.others.items() if k not in _OLD_SPANS}
    return [_dumped({"text": placed.text, **others, "label": label})]


def _prodigy(row: Mapping[str, Any], entities: Sequence[Entity], splitter: Splitter) -> list[str]:
    """A task: the text, its tokens, and its spans with the scores."""
    placed = place(row, entities, splitter)
    tokens = [
        {"text": placed.text[start:end], "start": start, "end": end, "id": n}
        for n, (start, end) in enumerate(placed.words)
    ]
    spans: list[dict[str, Any]] = []
    for e in placed.entities:
        inside = [
            n
            for n, (start, end) in enumerate(placed.words)
            if start < e["end"] and end > e["start"]
        ]
        span: dict[str, Any] = {"start": e["start"], "end": e["end"], "label": e["label"]}
        if inside:
            span |= {"token_start": inside[0], "token_end": inside[-1]}  # both inclusive
        spans.append(span | ({"score": e["score"]} if "score" in e else {}))
    others = {k: v for k, v in placed.others.items() if k not in (*_PRODIGYS, *_OLD_SPANS)}
    return [_dumped({"text": placed.text, **others, "tokens": tokens, "spans": spans})]


def _label_studio(
    pairs: Iterable[tuple[Mapping[str, Any], Sequence[Entity]]],
    splitter: Splitter,
    model: str | None,
) -> Iterator[str]:
    """An array of tasks; the entities are predictions, which an annotator corrects."""
    before = "["
    for row, entities in pairs:
        yield before + _dumped(_task(place(row, entities, splitter), model))
        before = ","
    yield "]" if before == "," else "[]"


def _task(placed: Placed, model: str | None) -> dict[str, Any]:
    prediction = label_studio_prediction(placed.text, placed.entities, model)
    return {"data": {**placed.others, "text": placed.text}, "predictions": [prediction]}


def label_studio_prediction(
    text: str,
    entities: Sequence[Entity],
    model: str | None = None,
    from_name: str = "label",
    to_name: str = "text",
) -> dict[str, Any]:
    """A prediction of Label Studio's, whose score is that of the least sure entity.

    Args:
        text: The text.
        entities: Its entities, with start and end in characters.
        model: Name of the model.
        from_name: Name of the tag Labels in the labelling interface.
        to_name: Name of the tag Text.
    """
    results = [
        {
            "id": f"e{n}",
            "type": "labels",
            "from_name": from_name,
            "to_name": to_name,
            "value": {
                "start": e["start"],
                "end": e["end"],
                "text": text[e["start"] : e["end"]],
                "labels": [e["label"]],
            },
        }
        | ({"score": e["score"]} if "score" in e else {})
        for n, e in enumerate(entities)
    ]
    prediction: dict[str, Any] = {"result": results}
    scores = [e["score"] for e in entities if "score" in e]
    prediction |= {"score": min(scores)} if scores else {}
    return prediction | ({"model_version": model} if model else {})


WRITERS: dict[str, Callable[[Mapping[str, Any], Sequence[Entity], Splitter], list[str]]] = {
    "jsonl": _jsonl,
    "conll": _conll,
    "prodigy": _prodigy,
    "doccano": _doccano,
    "label_studio": lambda row, found, splitter: list(
        _label_studio([(row, found)], splitter, None)
    ),
}
