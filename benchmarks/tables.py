"""Write the measured tables of README.md and docs, and figures, from benchmarks/results.

python benchmarks/tables.py

A table stands between the lines ``<!-- table: NAME -->`` and ``<!-- end -->``; what was between
them is replaced.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import partial_labels
import quality_tables
import quality_thresholds
import quality_types
import readme_tables
import recall_tables
import recipe_tables
import speed_goals
import speed_tables
from speed_tables import read

from hf_semicrf.reporting.tables import markdown_table

ROOT = Path(__file__).parent.parent
PICTURES = ROOT / "docs" / "pictures"


def windows() -> str:
    """Long documents in windows with and without an overlap."""
    return markdown_table(
        ["sub-words in a window", "overlap", "F1", "recall of the entities that a seam would cut"],
        [
            [
                str(r["max_length"]),
                r["overlap"],
                f"{100 * r['f1']:.1f}",
                f"{r['cut_found']} of {r['cut']}",
            ]
            for r in read("windows_cpu.jsonl")
        ],
    )


def batches() -> str:
    """Sentences a second by way and workers."""
    return markdown_table(
        ["way", "workers", "sentences a second", "load of the machine"],
        [
            [
                r["way"],
                r["workers"],
                f"{r['sentences'] / r['seconds']:,.0f}",
                f"{r['load_average']:.1f}",
            ]
            for r in read("batches_cpu.jsonl")
        ],
    )


def export() -> str:
    """What an exported model scores and weighs, by its weights."""
    return markdown_table(
        ["weights", "precision", "recall", "F1", "MB"],
        [
            [
                r["weights"],
                *(f"{100 * r[name]:.2f}" for name in ("precision", "recall", "f1")),
                f"{r['bytes'] / 1e6:.0f}",
            ]
            for r in read("export_cpu.jsonl")
        ],
    )


RECIPES = read("recipes_h100.jsonl")
# five seeds of each; the default is `span` there
PLAIN = [
    row | {"sentences": 0, "head": row["head"].replace("span", "default")}
    for row in quality_tables.TEST
    if row["head"] in ("softmax", "crf", "span")
]
TAUGHT = ["span_marker", "default+teachers=4"]


def recipes() -> str:
    """SpanMarker and the default with teachers, beside the heads without."""
    rows = PLAIN + [row for row in RECIPES if row["head"] in TAUGHT]
    return recipe_tables.recipes(rows, ["softmax", "crf", "default", *TAUGHT])


TABLES: dict[str, Callable[[], str]] = {
    "curves": lambda: recipe_tables.curves(RECIPES),
    "recipes": recipes,
    "few_sentences": lambda: recipe_tables.few(RECIPES),
    "without": lambda: recipe_tables.without(RECIPES),
    "thresholds": lambda: quality_thresholds.table(read("length_thresholds_h100.jsonl")),
    "batches": batches,
    "export": export,
    "windows": windows,
    "partial": lambda: partial_labels.table(read("partial_wnut17_cpu.jsonl")),
    "wnut17_types": lambda: quality_types.facts_table(read("wnut17_types.jsonl")),
    "wnut17_failures": lambda: quality_types.failures_table(read("wnut17_failures.jsonl")),
    **speed_tables.TABLES,
    **speed_goals.TABLES,
    **quality_tables.TABLES,
    **readme_tables.TABLES,
    **recall_tables.TABLES,
}


def fill(text: str) -> str:
    """The text with its tables made anew."""
    return re.sub(
        r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)",
        lambda match: f"{match[1]}{TABLES[match[2]]().rstrip()}\n{match[3]}",
        text,
        flags=re.DOTALL,
    )


if __name__ == "__main__":
    speed_tables.figures(PICTURES)
    quality_tables.figures(PICTURES)
    recipe_tables.draw_curves(PICTURES / "curves.png", RECIPES)
    readme_tables.draw_speed(PICTURES / "speed.png")
    recall_tables.draw(PICTURES / "recall.png")
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        page.write_text(fill(page.read_text()))
