"""What kind of rows a file has: words and tags, spans of a text, or tasks; and plain text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any, NamedTuple

from hf_semicrf.data.label_studio import TASK_SPANS, is_task, read_task
from hf_semicrf.data.records import Damage, Options, Row, Rows, short
from hf_semicrf.data.spans import looks_like_spans

SPAN_KEYS = ("entities", "spans", "label", "labels")
KINDS = {
    "tags": (),
    "entities": ("entities",),
    "doccano": ("label", "labels", "entities"),
    "prodigy": ("spans",),
    "label_studio": (TASK_SPANS,),
}


class Shape(NamedTuple):
    """How the rows of a file are read.

    Attributes:
        spans: The key of the spans; None for words and tags.
        answers: Whether a row can be rejected under "answer".
    """

    spans: str | None
    answers: bool = False


def flattened(rows: Iterable[Row | Damage], options: Options) -> Rows:
    """The same rows; tasks of Label Studio, which the first row tells, as plain rows."""
    rows = iter(rows)
    tasks = None
    for row in rows:
        if isinstance(row, Row) and tasks is None:
            tasks = options.format in (None, "json", "label_studio") and is_task(row.fields)
            tasks = tasks or options.format == "label_studio"
            if not tasks:
                yield from chain([row], rows)
                return
        yield read_task(row, options) if isinstance(row, Row) else row


def shape_of(fields: Mapping[str, Any], options: Options) -> Shape:
    """What the first row of a file tells of all.

    Raises:
        ValueError: It fits no kind of row, or several.
    """
    columns = (options.tokens_column, options.tags_column)
    if TASK_SPANS in fields:
        return Shape(TASK_SPANS, answers=True)
    if options.spans_column is not None:
        return Shape(options.spans_column, options.format == "prodigy")
    if options.format == "tags":
        return Shape(None)
    keys = KINDS.get(options.format or "", SPAN_KEYS)
    found = [key for key in keys if looks_like_spans(fields.get(key))]
    if all(isinstance(fields.get(column), list) for column in columns) and keys is SPAN_KEYS:
        both = [key for key in found if key in ("entities", "spans") and fields[key]]
        if both:
            raise ValueError(
                f"cannot tell whether {options.tags_column!r} or {both[0]!r} is meant; pass "
                f"format='tags' or spans_column={both[0]!r}"
            )
        return Shape(None)
    if len(found) > 1:
        raise ValueError(
            f"cannot tell which of {' and '.join(map(repr, found))} has the spans; pass "
            "spans_column=..."
        )
    if found:
        return Shape(found[0], answers=found == ["spans"])
    if keys is not SPAN_KEYS:
        raise ValueError(
            f"expected spans under {' or '.join(map(repr, keys))}, got {short(fields)}"
        )
    return Shape(None)


def counts_utf16(item: Any, key: str, options: Options) -> bool:
    """Whether a span is written as doccano writes it, whose pages count UTF-16 units.

    Args:
        item: The span.
        key: The key of the spans.
        options: How the file is read; a column or another format that is named wins.
    """
    if options.format == "doccano":
        return True
    if options.format not in (None, "json") or options.spans_column is not None:
        return False
    if isinstance(item, Mapping):
        return "start_offset" in item
    return key in ("label", "labels")


def text_fields(fields: Mapping[str, Any], options: Options) -> dict[str, Any]:
    """A row to predict: "text" or "tokens", and the other fields as they are.

    Raises:
        ValueError: It has neither.
    """
    text, tokens = fields.get(options.text_column), fields.get(options.tokens_column)
    others = {k: v for k, v in fields.items() if k != options.text_column}
    words = isinstance(tokens, list) and all(isinstance(word, str) for word in tokens)
    if isinstance(text, str):
        if not words:
            others.pop(options.tokens_column, None)  # a tool's own account of its tokens
        return {"text": text} | others
    if words and text is None:
        others.pop(options.tokens_column)
        return {"tokens": list(tokens or ())} | others
    wanted = f'"{options.text_column}" or "{options.tokens_column}"'
    raise ValueError(f"expected {wanted}, a text or a list of words, got {short(dict(fields))}")
