"""Score whole entities by the seqeval library, for a Trainer and for anybody."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from seqeval.metrics import accuracy_score, classification_report
from seqeval.scheme import IOB2

from hf_semicrf.labels import OUTSIDE, UNKNOWN_TAG, LabelScheme

if TYPE_CHECKING:
    from transformers import EvalPrediction


def seqeval_metrics(config: Any) -> Callable[[EvalPrediction], dict[str, float]]:
    """Make the ``compute_metrics`` of a Trainer.

    Its argument holds ``predictions``, which are log probabilities [B, T, K] or tag ids [B, T] or a
    tuple that begins with one of them, and ``label_ids`` [B, T], whose -100 do not count.

    Args:
        config: A model's configuration; only its ``id2label`` is read.

    Returns:
        A function from an EvalPrediction to the scores of `entity_scores`.
    """
    scheme = LabelScheme.from_labels(config.id2label)

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        predictions = prediction.predictions
        if isinstance(predictions, tuple | list):
            predictions = predictions[0]
        predicted, labels = np.asarray(predictions), np.asarray(prediction.label_ids)
        if predicted.ndim == 3:
            predicted = predicted.argmax(-1)
        if predicted.ndim != 2 or predicted.shape != labels.shape:
            raise ValueError(
                f"expected predictions [B, T] or [B, T, K] for labels {list(labels.shape)}, got "
                f"{list(np.shape(predictions))}"
            )
        words = labels != UNKNOWN_TAG
        rows = list(zip(predicted, labels, words, strict=True))
        return entity_scores(
            [row[mask].tolist() for row, _, mask in rows],
            [row[mask].tolist() for _, row, mask in rows],
            scheme,
        )

    return compute_metrics


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
        references).

    Raises:
        ValueError: The two differ in length, or a tag is not in the scheme.

    Source: seqeval, Nakayama 2018, https://github.com/chakki-works/seqeval.
    """
    if [len(row) for row in predictions] != [len(row) for row in references]:
        raise ValueError("expected as many predicted tags as reference tags in every sentence")
    ids = [[scheme.tag_ids(row) for row in rows] for rows in (references, predictions)]
    gold, predicted = ([_iob2(row, scheme) for row in rows] for rows in ids)
    scores = {"overall_precision": 0.0, "overall_recall": 0.0, "overall_f1": 0.0}
    scores["overall_accuracy"] = float(accuracy_score(*ids)) if any(ids[0]) else 0.0
    if all(tag == OUTSIDE for rows in (gold, predicted) for row in rows for tag in row):
        return scores
    report = classification_report(
        gold, predicted, mode="strict", scheme=IOB2, output_dict=True, zero_division=0
    )
    report = {name: report[name] for name in ("micro avg", *scheme.types[1:]) if name in report}
    for name, row in report.items():
        prefix = "overall" if name == "micro avg" else name
        scores[f"{prefix}_precision"] = float(row["precision"])
        scores[f"{prefix}_recall"] = float(row["recall"])
        scores[f"{prefix}_f1"] = float(row["f1-score"])
        if prefix != "overall":
            scores[f"{prefix}_number"] = int(row["support"])
    return scores


def _iob2(tags: Sequence[int], scheme: LabelScheme) -> list[str]:
    """The tags of a sentence in IOB2."""
    written = [OUTSIDE] * len(tags)
    for start, end, type_name in scheme.tags_to_spans(tags):
        written[start:end] = [f"B-{type_name}"] + [f"I-{type_name}"] * (end - start - 1)
    return written
