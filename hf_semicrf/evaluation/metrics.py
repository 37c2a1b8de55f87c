"""Score whole entities by the seqeval library, for a Trainer and for anybody."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from seqeval.metrics import accuracy_score, classification_report
from seqeval.scheme import IOB2

from hf_semicrf.labels import OUTSIDE, UNKNOWN, UNKNOWN_TAG, LabelScheme

if TYPE_CHECKING:
    from transformers import EvalPrediction


def seqeval_metrics(config: Any) -> Callable[[EvalPrediction], dict[str, float]]:
    """Make the ``compute_metrics`` of a Trainer.

    Its argument holds ``predictions``, which are log probabilities [B, T, K] or tag ids [B, T] or a
    tuple that begins with one of them, and ``label_ids`` [B, T], whose -100 do not count.

    Args:
        config: A model's configuration; its ``scheme`` is read, or ``id2label`` where it has none.

    Returns:
        A function from an EvalPrediction to the scores of `entity_scores`.
    """
    scheme = getattr(config, "scheme", None) or LabelScheme.from_labels(config.id2label)

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        predictions = prediction.predictions
        truth: Any = prediction.label_ids
        if isinstance(truth, list):  # a batch each: eval_do_concat_batches=False
            batches = list(zip(predictions, truth, strict=True))
        else:
            batches = [(predictions, truth)]
        rows = [row for batch in batches for row in _rows(*batch)]
        return entity_scores(
            [row[mask].tolist() for row, _, mask in rows],
            [row[mask].tolist() for _, row, mask in rows],
            scheme,
        )

    return compute_metrics


def _rows(predictions: Any, truth: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The predicted tags, the true ones and where words stand, of each sentence of a batch."""
    if isinstance(predictions, tuple | list):
        predictions = predictions[0]
    predicted, labels = np.asarray(predictions), np.asarray(truth)
    if predicted.ndim == 3:
        if np.isnan(predicted).any():
            rows = np.unique(np.isnan(predicted).nonzero()[0]).tolist()
            raise ValueError(f"expected log probabilities, got NaN in the sentences {rows[:8]}")
        predicted = predicted.argmax(-1)
    if predicted.ndim != 2 or predicted.shape != labels.shape:
        raise ValueError(
            f"expected predictions [B, T] or [B, T, K] for labels {list(labels.shape)}, got "
            f"{list(np.shape(predictions))}"
        )
    return list(zip(predicted, labels, labels != UNKNOWN_TAG, strict=True))


def entity_scores(
    predictions: Sequence[Sequence[int | str]],
    references: Sequence[Sequence[int | str]],
    scheme: LabelScheme,
) -> dict[str, float]:
    """Precision, recall and F1 of entities that match in type and in both boundaries.

    Tags of every scheme are read as `LabelScheme.tags_to_spans` does: an orphan ``I-`` begins an
    entity, and without prefixes neighbours of one type are one entity. They are written as IOB2 and
    compared in seqeval's strict mode. A score with nothing to divide by is 0.

    Args:
        predictions: Tag names or ids of each sentence.
        references: The same, the truth.
        scheme: The scheme of both.

    Returns:
        ``overall_precision``, ``overall_recall``, ``overall_f1`` over all entities (micro average),
        ``overall_accuracy`` of the tags as given, and of each type that occurs
        ``<TYPE>_precision``, ``<TYPE>_recall``, ``<TYPE>_f1`` and ``<TYPE>_number`` (in the
        references). The scores of a type named "overall" stand under ``type_overall_...``.

    Raises:
        ValueError: The two differ in length, or a tag is not in the scheme.

    Source: seqeval, Nakayama 2018, https://github.com/chakki-works/seqeval.
    """
    if [len(row) for row in predictions] != [len(row) for row in references]:
        raise ValueError("expected as many predicted tags as reference tags in every sentence")
    spans = [[scheme.tags_to_spans(row) for row in rows] for rows in (references, predictions)]
    scores = {"overall_precision": 0.0, "overall_recall": 0.0, "overall_f1": 0.0}
    scores["overall_accuracy"] = _accuracy(references, predictions, scheme)
    if not any(span for rows in spans for span in rows):
        return scores
    # the library sees numbers for types: it has names of its own, and strips some from types
    numbers = {name: str(number) for number, name in enumerate(scheme.types)}
    gold, predicted = (
        [_iob2(row, len(tags), numbers) for row, tags in zip(rows, references, strict=True)]
        for rows in spans
    )
    report = classification_report(
        gold, predicted, mode="strict", scheme=IOB2, output_dict=True, zero_division=0
    )
    keys = _type_keys(scheme.types[1:])
    rows = [("overall", report["micro avg"])]
    rows += [(keys[name], report[numbers[name]]) for name in keys if numbers[name] in report]
    for key, row in rows:
        scores[f"{key}_precision"] = float(row["precision"])
        scores[f"{key}_recall"] = float(row["recall"])
        scores[f"{key}_f1"] = float(row["f1-score"])
        if key != "overall":
            scores[f"{key}_number"] = int(row["support"])
    return scores


def _type_keys(types: Sequence[str]) -> dict[str, str]:
    """What the names of each type's scores begin with; never "overall"."""
    keys = {name: name for name in types}
    if "overall" in keys:
        key = "type_overall"
        while key in keys:
            key = f"type_{key}"
        keys["overall"] = key
    return keys


def _accuracy(
    references: Sequence[Sequence[int | str]],
    predictions: Sequence[Sequence[int | str]],
    scheme: LabelScheme,
) -> float:
    """The share of words whose tags are the same, given by name or by id; 0 without words."""
    gold, predicted = (
        [_name(tag, scheme) for row in rows for tag in row] for rows in (references, predictions)
    )
    return float(accuracy_score(gold, predicted)) if gold else 0.0


def _name(tag: int | str | None, scheme: LabelScheme) -> str:
    """The name of a tag that is given by name or by id."""
    if isinstance(tag, str):
        return tag
    return UNKNOWN if tag is None or tag < 0 else scheme.labels[int(tag)]


def _iob2(
    spans: Sequence[tuple[int, int, str]], length: int, names: Mapping[str, str]
) -> list[str]:
    """The tags of a sentence in IOB2, with other names for the types."""
    written = [OUTSIDE] * length
    for start, end, type_name in spans:
        name = names[type_name]
        written[start:end] = [f"B-{name}"] + [f"I-{name}"] * (end - start - 1)
    return written
