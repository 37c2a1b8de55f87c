"""Scores of segments with times: boundaries within a tolerance, segments that overlap, positions.

Pooled over recordings, so that long ones count for more. Sources: Rasanen, Laine and Altosaar
(2009), "An Improved Speech Segmentation Quality Measure: the R-value", equations 3 to 5; for
segments, the intersection over union of detection.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np

from hf_semicrf.labels import UNKNOWN_TAG
from hf_semicrf.options import check


def timed_scores(
    found: Sequence[Sequence[Mapping[str, Any]]],
    gold: Sequence[Sequence[Mapping[str, Any]]],
    tolerance: float = 0.02,
    iou: float = 0.5,
) -> dict[str, float]:
    """Score the segments of recordings against the true ones.

    Args:
        found: For each recording mappings with "label", "start" and "end", as
            `SemiCRFForFrameClassification.predict` returns them.
        gold: The true ones, in the same units.
        tolerance: How far a boundary may lie from a true one; each matches once.
        iou: Share of their union that a segment and a true one of its type have to have in common,
            at least half; each matches once.

    Returns:
        ``boundary_precision``, ``boundary_recall``, ``boundary_f1`` and ``boundary_r_value``;
        ``segment_precision``, ``segment_recall`` and ``segment_f1``, in 0..1.

    Raises:
        ValueError: An option is out of range, or the recordings are not as many.
    """
    check(optional=False, tolerance=tolerance, iou=iou)
    _as_many(found, gold)
    near = overlapping = 0
    counts = np.zeros((2, 2), dtype=np.int64)  # of boundaries and segments, found and true
    for ours, true in zip(found, gold, strict=True):
        boundaries = [_boundaries(rows) for rows in (ours, true)]
        near += _near(boundaries[0], boundaries[1], tolerance)
        pairs = [
            (i, j)
            for i, x in enumerate(ours)
            for j, y in enumerate(true)
            if x["label"] == y["label"] and _iou(x, y) >= iou
        ]
        overlapping += min(len({side[n] for side in pairs}) for n in range(2))
        counts += [[len(x) for x in boundaries], [len(ours), len(true)]]
    boundaries_found, boundaries_true = counts[0].tolist()
    precision, recall, f1 = _rates(near, boundaries_found, boundaries_true)
    over = boundaries_found / boundaries_true - 1 if boundaries_true else math.nan
    far = math.hypot(1 - recall, over)
    off = (recall - 1 - over) / math.sqrt(2)
    segments = _rates(overlapping, int(counts[1, 0]), int(counts[1, 1]))
    names = ("precision", "recall", "f1")
    return {
        **dict(zip((f"boundary_{name}" for name in names), (precision, recall, f1), strict=True)),
        "boundary_r_value": 1 - (far + abs(off)) / 2,
        **dict(zip((f"segment_{name}" for name in names), segments, strict=True)),
    }


def diarization_error_rate(
    found: Sequence[Sequence[Mapping[str, Any]]],
    gold: Sequence[Sequence[Mapping[str, Any]]],
    collar: float = 0.0,
) -> dict[str, float]:
    """Score who speaks when, by pyannote.metrics: labels of a recording need not be the true names.

    Args:
        found: For each recording mappings with "label", "start" and "end", in seconds.
        gold: The true ones.
        collar: Seconds around each true boundary that do not count, half of them on either side.

    Returns:
        ``diarization_error_rate``, the sum of ``missed_detection``, ``false_alarm`` and
        ``confusion``, each in seconds of error to a second of true segments, over all recordings.

    Raises:
        RuntimeError: pyannote.metrics is not installed.
        ValueError: The option is out of range, the recordings are not as many, or there is no true
            segment outside the collars.
    """
    check(collar=collar)
    _as_many(found, gold)
    try:
        core = import_module("pyannote.core")
        rate = import_module("pyannote.metrics.diarization").DiarizationErrorRate(collar=collar)
    except ImportError:
        raise RuntimeError(
            "expected the package pyannote.metrics, not installed: pip install 'hf_semicrf[audio]'"
        ) from None
    for pair in zip(gold, found, strict=True):
        notes = []
        for segments in pair:
            notes.append(core.Annotation())
            for track, x in enumerate(segments):
                notes[-1][core.Segment(x["start"], x["end"]), track] = x["label"]
        last = max((x["end"] for segments in pair for x in segments), default=0)
        rate(*notes, uem=core.Timeline([core.Segment(0, last)]))
    if not rate["total"]:
        raise ValueError("expected true segments outside the collars, got none")
    names = ("missed detection", "false alarm", "confusion")
    parts = {name.replace(" ", "_"): float(rate[name] / rate["total"]) for name in names}
    return {"diarization_error_rate": sum(parts.values()), **parts}


def frame_metrics(
    config: Any, tolerance: float = 0.02, iou: float = 0.5
) -> Callable[[Any], dict[str, float]]:
    """What the Trainer takes as ``compute_metrics`` for a model of frames.

    Args:
        config: The model's configuration, a `SemiCRFFrameConfig`.
        tolerance: As `timed_scores` takes it, in seconds.
        iou: As `timed_scores` takes it.

    Returns:
        A function from the predictions of an evaluation to `timed_scores` and ``accuracy``, the
        share of positions whose type is right.
    """
    check(optional=False, tolerance=tolerance, iou=iou)
    seconds, types = config.position_seconds, config.types

    def compute(evaluation: Any) -> dict[str, float]:
        _, decoded, *_ = evaluation.predictions
        labels = evaluation.label_ids[:, : decoded.shape[1]]
        inside = (labels != UNKNOWN_TAG) & (decoded != UNKNOWN_TAG)
        right = (decoded // 2 == labels // 2)[inside]
        found, gold = (
            [_segments(row[keep], types, seconds) for row, keep in zip(x, inside, strict=True)]
            for x in (decoded, labels)
        )
        return {"accuracy": float(right.mean()), **timed_scores(found, gold, tolerance, iou)}

    return compute


def _as_many(found: Sequence, gold: Sequence) -> None:
    if len(found) != len(gold):
        raise ValueError(f"expected segments of {len(gold)} recordings, got {len(found)}")


def _segments(labels: np.ndarray, types: Sequence[str], seconds: float) -> list[dict[str, Any]]:
    """The segments that labels of positions [N] say: twice the type, and 1 where one starts."""
    begins = np.flatnonzero(labels % 2)
    ends = [*begins[1:], len(labels)]
    return [
        {"label": types[labels[a] // 2], "start": a * seconds, "end": b * seconds}
        for a, b in zip(begins, ends, strict=True)
        if labels[a] > 1
    ]


def _boundaries(segments: Sequence[Mapping[str, Any]]) -> list[float]:
    """Where segments begin or end, each place once, in order."""
    return sorted({float(x[name]) for x in segments for name in ("start", "end")})


def _near(found: list[float], gold: list[float], tolerance: float) -> int:
    """How many of two ordered lists of times match one to one within a tolerance, at most."""
    matches = i = j = 0
    while i < len(found) and j < len(gold):
        if abs(found[i] - gold[j]) <= tolerance + 1e-9:
            matches, i, j = matches + 1, i + 1, j + 1
        elif found[i] < gold[j]:
            i += 1
        else:
            j += 1
    return matches


def _iou(x: Mapping[str, Any], y: Mapping[str, Any]) -> float:
    shared = min(x["end"], y["end"]) - max(x["start"], y["start"])
    return shared / (max(x["end"], y["end"]) - min(x["start"], y["start"]))


def _rates(right: int, found: int, gold: int) -> tuple[float, float, float]:
    """Precision, recall and F1; 0 where there is nothing to be right about."""
    return right / max(found, 1), right / max(gold, 1), 2 * right / max(found + gold, 1)
