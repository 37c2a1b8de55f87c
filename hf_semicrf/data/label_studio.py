"""Tasks of Label Studio: the text under "data", the spans under "annotations"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hf_semicrf.data.records import Damage, Options, Row, short

TASK_SPANS = "annotated spans"  # the key of a task's spans, which no task has itself


def is_task(fields: Mapping[str, Any]) -> bool:
    """Whether a row has the keys of a task."""
    return isinstance(fields.get("data"), Mapping) and "text" not in fields


def read_task(row: Row, options: Options) -> Row | Damage:
    """The fields of a task in one mapping, its spans under `TASK_SPANS`.

    Its annotation counts; a task of a model's predictions alone has these, and says so under
    "predicted". A task that nobody annotated, or that an annotator left out, is rejected.
    """
    if not isinstance(row.fields.get("data"), Mapping):
        return Damage(row.place, f'expected a task with "data", got {short(row.fields)}')
    fields = {"id": row.fields.get("id"), **row.fields["data"]}
    if fields["id"] is None:
        del fields["id"]
    if not options.tagged:
        return Row(row.place, fields)
    if not isinstance(fields.get(options.text_column), str):
        named = [name for name, value in fields.items() if isinstance(value, str)]
        return Damage(
            row.place,
            f'expected a text under {options.text_column!r} in "data", got texts under '
            f"{named!s:.200}; pass text_column=...",
        )
    try:
        annotations = _results(row.fields.get("annotations", row.fields.get("completions")))
        listed = row.fields.get("predictions")
        if isinstance(listed, list):  # an export has their ids alone
            listed = [prediction for prediction in listed if not isinstance(prediction, int)]
        predictions = _results(listed)
        counted = [spans for spans, cancelled, _ in annotations if not cancelled]
        truth = [spans for spans, cancelled, true in annotations if true and not cancelled]
        chosen = (truth or counted) or ([] if annotations else [p for p, _, _ in predictions])
        if not chosen:
            return Row(row.place, fields | {"answer": "reject", TASK_SPANS: []})
        if any(spans != chosen[0] for spans in chosen):
            raise ValueError(
                f"expected one annotation, or several that agree, got {len(chosen)} that differ; "
                "keep one, or mark one as ground truth"
            )
    except ValueError as error:
        return Damage(row.place, str(error))
    return Row(
        row.place, fields | {"answer": None, TASK_SPANS: chosen[0], "predicted": not counted}
    )


def _results(value: Any) -> list[tuple[list[dict[str, Any]], bool, bool]]:
    """The spans of each annotation, whether it was cancelled, and whether it is ground truth."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise ValueError(f"expected a list of annotations, got {short(value)}")
    found = []
    for annotation in value:
        results = annotation.get("result") if isinstance(annotation, Mapping) else None
        if not isinstance(results, list):
            raise ValueError(
                f'expected an annotation with a list "result", got {short(annotation)}'
            )
        spans = []
        for result in results:
            if not isinstance(result, Mapping):
                raise ValueError(f"expected a result with a type, got {short(result)}")
            if result.get("type") in ("labels", "hypertextlabels"):
                value = result.get("value")
                if not isinstance(value, Mapping):
                    raise ValueError(f"expected a result with a value, got {short(result)}")
                labels = value.get("labels", value.get("hypertextlabels"))
                spans.append(
                    {key: value.get(key) for key in ("start", "end")}
                    | {"label": labels}
                    | ({"text": value["text"]} if "text" in value else {})
                )
        spans.sort(key=lambda span: str(sorted(span.items(), key=str)))
        found.append(
            (spans, bool(annotation.get("was_cancelled")), bool(annotation.get("ground_truth")))
        )
    return found
