r"""Fit thresholds by length and type to what `quality.py --candidates` has written, and score them.

python benchmarks/quality_thresholds.py out/*-test.npz --out thresholds.jsonl

Beside each file lies that of the validation data, on which everything is chosen. A segment is
decoded as `ops.minimum_risk` does; those with a posterior below 0.02 are not in the files, so that
lower thresholds count as 0.02.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from quality_tables import CORPORA, chosen, difference

from hf_semicrf.reporting.tables import markdown_table

FACTORS = (1.0, 0.98, 0.95, 0.92, 0.9, 0.85, 0.8)
GRID = np.arange(0.05, 0.65, 0.025)
LONG = 5  # words
WAYS = ("one", "factor", "most long", "types")


class Segments(NamedTuple):
    """Entity segments of a split, as columns, in the order of their sentences."""

    sentence: np.ndarray
    start: np.ndarray
    size: np.ndarray
    type: np.ndarray
    posterior: np.ndarray
    gold: np.ndarray


def read(path: Path) -> Segments:
    """The segments of a file."""
    columns = np.load(path)
    order = np.lexsort((columns["start"] + columns["size"], columns["sentence"]))
    return Segments(*(columns[name][order] for name in Segments._fields))


def decode(segments: Segments, limit: np.ndarray) -> np.ndarray:
    """Which segments are decoded: those of a sentence that gain most and do not overlap.

    Args:
        segments: The segments.
        limit: The threshold of each.
    """
    gain = segments.posterior - limit
    kept = np.zeros(len(gain), dtype=bool)
    able = (gain > 0).nonzero()[0]
    for own in np.split(able, np.diff(segments.sentence[able]).nonzero()[0] + 1):
        kept[_best(own, segments.start[own], (segments.start + segments.size)[own], gain[own])] = (
            True
        )
    return kept


def _best(own: np.ndarray, starts: np.ndarray, ends: np.ndarray, gain: np.ndarray) -> list[int]:
    """The best set of segments of one sentence, which are sorted by their ends."""
    if len(own) == 1:
        return [int(own[0])]
    best: list[tuple[float, list[int]]] = [(0.0, [])]
    for n, (start, value) in enumerate(zip(starts, gain, strict=True)):
        before, taken = best[int(np.searchsorted(ends[:n], start, side="right"))]
        best.append(max(best[-1], (before + float(value), [*taken, int(own[n])])))
    return best[-1][1]


def f1_of(segments: Segments, kept: np.ndarray, of: np.ndarray | None = None) -> float:
    """The F1 of decoded segments, or of some."""
    of = np.ones_like(kept) if of is None else of
    right = (kept & segments.gold & of).sum()
    return float(2 * right / max(1, (kept & of).sum() + (segments.gold & of).sum()))


def limits(segments: Segments, number: float | np.ndarray, factor: float = 1.0) -> np.ndarray:
    """The threshold of each segment."""
    each = number[segments.type] if isinstance(number, np.ndarray) else number
    return each * factor ** (segments.size - 1)


def half_f1(segments: Segments, factor: float = 1.0, kind: int | None = None) -> float:
    """Half of the best F1 that any number reaches, of all segments or of a type."""
    of = None if kind is None else segments.type == kind
    f1 = (f1_of(segments, decode(segments, limits(segments, x, factor)), of) for x in GRID)
    return max(f1) / 2


def fitted(validation: Segments) -> dict[str, tuple[Any, float]]:
    """The number and the factor of each of `WAYS`."""
    tried = {factor: half_f1(validation, factor) for factor in FACTORS}
    f1 = {
        factor: f1_of(validation, decode(validation, limits(validation, number, factor)))
        for factor, number in tried.items()
    }
    best = max(f1, key=lambda factor: f1[factor])
    lowest = min(factor for factor in FACTORS if f1[factor] >= f1[1.0])
    kinds = range(1 + int(validation.type.max()))
    each = np.array([half_f1(validation, kind=kind) or tried[1.0] for kind in kinds])
    return {
        "one": (tried[1.0], 1.0),
        "factor": (tried[best], best),
        "most long": (tried[lowest], lowest),
        "types": (each, 1.0),
    }


def rows_of(path: Path) -> list[dict[str, Any]]:
    """A row a way to choose thresholds, of one run."""
    corpus, head, seed, _ = path.stem.split("-")
    test, validation = read(path), read(path.with_name(f"{corpus}-{head}-{seed}-validation.npz"))
    rows = []
    for way, (number, factor) in fitted(validation).items():
        row = {"corpus": corpus, "head": head, "seed": int(seed), "way": way}
        row |= {"threshold": np.round(number, 4).tolist(), "factor": factor}
        for name, split in (("validation", validation), ("test", test)):
            kept = decode(split, limits(split, number, factor))
            long = split.gold & (split.size >= LONG)
            row[f"{name}_f1"] = f1_of(split, kept)
            row[f"{name}_recall_5+"] = float((kept & long).sum() / max(1, long.sum()))
            row[f"{name}_types"] = [
                f1_of(split, kept, split.type == kind) for kind in range(1, 1 + split.type.max())
            ]
        rows.append(row)
    return rows


def table(rows: Sequence[dict]) -> str:
    """Each way beside one threshold: test F1, and the recall of long entities."""
    scores = ("validation_f1", "test_f1", "test_recall_5+")
    lines = []
    for way in WAYS:
        cells = [
            difference(*(chosen(rows, corpus=c, way=w) for w in (way, "one")), score)
            for c in CORPORA
            for score in scores
        ]
        lines.append([way, *cells])
    names = ("validation", "test", f"test, recall {LONG}+")
    return markdown_table(
        ["threshold", *(f"{c}, {n}" for c in CORPORA.values() for n in names)], lines
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the rows, and print their table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("found", nargs="+", type=Path, help="files of the test split")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines file to write")
    args = parser.parse_args(arguments)
    rows = [row for path in args.found for row in rows_of(path)]
    args.out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    print(table(rows))


if __name__ == "__main__":
    main()
