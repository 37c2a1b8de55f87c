"""Write scores as Markdown tables and draw them, for model cards and evaluations."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_semicrf.reporting.fonts import drawing
from hf_semicrf.results import Promise
from hf_semicrf.saving import replacing
from hf_semicrf.text import one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.typing import HashableList

RATIOS = ("precision", "recall", "f1")
MISSING = "not recorded"
BLUE, LIGHT, GREY, ORANGE = "#2b6cb0", "#bcd4ec", "#6b7280", "#dd6b20"


def markdown_text(text: object) -> str:
    """Text as Markdown that shows it as it is, on one line: no markup, nothing unseen.

    Args:
        text: Any text, or what has one.
    """
    escaped = re.sub(r"([\\`*\[\]|#~$])", r"\\\1", one_line(str(text)))
    for sign, name in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        escaped = escaped.replace(sign, name)
    escaped = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", escaped)  # emphasis
    return re.sub(r"^(\d+(?=[.)])|)(?=([-+=]+|[.)])( |$))", r"\1\\", escaped)  # lists, underlines


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table, a line a row; what the cells hold is shown as it is."""

    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cells) + " |\n"

    lines = [line(map(markdown_text, row)) for row in (header, *rows)]
    return lines[0] + line(["---"] * len(header)) + "".join(lines[1:])


def promise_table(promises: Iterable[Promise]) -> str:
    """What was promised on which data, a row for each threshold, as Markdown.

    Args:
        promises: As a configuration holds them.
    """
    header = ("recall", "confidence", "entities", "found by", "threshold", "read off", "missed")
    rows = [
        (
            promise["recall"],
            promise["confidence"] or "on average",
            part["type"] or "all types",
            "all words" if promise["covering"] == "words" else "exact segments",
            part["threshold"],
            f"{part['entities']:,} entities, {part['documents']:,} documents with up to "
            f"{part['largest']}, {promise['data'] or 'data without a name'}",
            f"{part['missed']:,}",
            f"{part['extra_words']:.2f}",
            f"{part['method']}, by {promise['unit']}",
        )
        for promise in promises
        for part in promise["parts"]
    ]
    return markdown_table((*header, "extra words", "method"), rows)


def type_rows(metrics: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """The scores of each entity type that occurs, by name.

    Args:
        metrics: Scores as `entity_scores` names them, without a prefix.

    Returns:
        For each type its ``f1``, and those of ``precision``, ``recall`` and ``number`` that are
        there.
    """
    names = sorted(key.removesuffix("_f1") for key in metrics if key.endswith("_f1"))
    return {
        name: {
            score: metrics[f"{name}_{score}"]
            for score in (*RATIOS, "number")
            if f"{name}_{score}" in metrics
        }
        for name in names
        if name != "overall"
    }


def type_table(metrics: Mapping[str, float]) -> str:
    """Precision, recall and F1 of each entity type and of all, in percent, as Markdown.

    Args:
        metrics: Scores as `entity_scores` names them, without a prefix.
    """
    types = type_rows(metrics)
    overall = {score: metrics[f"overall_{score}"] for score in RATIOS}
    if all("number" in row for row in types.values()):
        overall["number"] = sum(row["number"] for row in types.values())
    return _score_table("type", {**types, "all": overall})


def length_table(breakdown: Mapping[str, Any]) -> str:
    """Precision, recall and F1 by entity length and on neighbours, in percent, as Markdown.

    Args:
        breakdown: As `evaluation.breakdown` returns it.
    """
    rows = {f"{name} {'word' if name == '1' else 'words'}": row
            for name, row in breakdown["lengths"].items()}  # fmt: skip
    if breakdown["neighbours"]["number"] or breakdown["neighbours"]["predicted"]:
        rows["next to one of its type"] = breakdown["neighbours"]
    return _score_table("entities of", rows)


def reliability_table(breakdown: Mapping[str, Any]) -> str:
    """Mean score and precision of the entities in each bin of scores, in percent, as Markdown.

    Args:
        breakdown: As `evaluation.breakdown` returns it.
    """
    rows = [
        (
            f"{row['low']:.2f} to {row['high']:.2f}",
            _percent(row["score"]),
            _percent(row["precision"]),
            row["predicted"],
        )
        for row in breakdown["reliability"]
    ]
    return markdown_table(("score", "mean score", "precision", "entities"), rows)


def plot_scores(
    path: str | Path,
    breakdown: Mapping[str, Any],
    metrics: Mapping[str, float] | None = None,
) -> None:
    """Draw F1 by entity length, a reliability diagram and, given metrics, F1 by type.

    Args:
        path: The picture to write; its suffix tells the format (.png, .svg, .pdf).
        breakdown: As `evaluation.breakdown` returns it.
        metrics: Scores as `entity_scores` names them, without a prefix.

    Raises:
        RuntimeError: matplotlib is not installed.
    """
    types = type_rows(metrics or {})
    panels: list[HashableList[str]] = [["lengths", "reliability"]]
    size = (7.6, 3.6)
    if len(types) > 10:  # a long list stands beside the other two
        panels, size = [["types", "lengths"], ["types", "reliability"]], (8.6, 7.2)
    elif types:
        panels, size = [["types", "lengths", "reliability"]], (11.6, 3.6)
    with drawing():
        from matplotlib.figure import Figure

        figure = Figure((size[0], max(size[1], 0.9 + 0.22 * len(types))), layout="constrained")
        axes_of = figure.subplot_mosaic(panels)
        if types:
            _draw_types(axes_of["types"], types)
        _draw_lengths(axes_of["lengths"], breakdown)
        _draw_reliability(axes_of["reliability"], breakdown)
        for axes in figure.axes:
            axes.spines[["top", "right"]].set_visible(False)
            axes.tick_params(labelsize=8, length=0)
            axes.title.set_fontsize(10)
        with replacing(path) as unfinished:
            figure.savefig(unfinished, dpi=150)


def _draw_types(axes: Axes, types: Mapping[str, Mapping[str, float]]) -> None:
    """Bars of the F1 of each type, best on top."""
    ranked = sorted(types.items(), key=lambda item: item[1]["f1"])
    f1 = [100 * row["f1"] for _, row in ranked]
    bars = axes.barh(range(len(ranked)), f1, 0.7, color=LIGHT)
    axes.set_yticks(range(len(ranked)), [one_line(name) for name, _ in ranked])
    axes.bar_label(bars, [f"{value:.1f}" for value in f1], padding=3, fontsize=8)
    axes.set(title="F1 by entity type", xlim=(0, 112), xticks=range(0, 101, 25))
    axes.set_ylim(len(ranked) - max(len(ranked), 4) - 0.6, len(ranked) - 0.4)


def _draw_lengths(axes: Axes, breakdown: Mapping[str, Any]) -> None:
    """Bars of F1 with marks of precision and recall, and the number of entities below."""
    rows = dict(breakdown["lengths"])
    if breakdown["neighbours"]["number"]:
        rows["next to\nits type"] = breakdown["neighbours"]
    places = range(len(rows))
    axes.bar(places, [100 * row["f1"] for row in rows.values()], 0.62, color=LIGHT, label="F1")
    for score, mark, colour in (("precision", "^", ORANGE), ("recall", "o", BLUE)):
        values = [100 * row[score] for row in rows.values()]
        axes.plot(places, values, mark, color=colour, markersize=5, label=score)
    names = [f"{name}\nn={int(row['number']):,}" for name, row in rows.items()]
    axes.set_xticks(places, names)
    axes.set(title="Scores by entity length (words)", ylim=(0, 118), yticks=range(0, 101, 25))
    axes.legend(fontsize=8, frameon=False, ncols=3, loc="upper center")


def _draw_reliability(axes: Axes, breakdown: Mapping[str, Any]) -> None:
    """Precision over mean score, a point a bin, its area the share of entities in the bin."""
    rows = breakdown["reliability"]
    total = sum(row["predicted"] for row in rows)
    axes.plot([0, 1], [0, 1], "--", color=GREY, linewidth=1, zorder=1)
    scores, precisions = ([row[name] for row in rows] for name in ("score", "precision"))
    axes.plot(scores, precisions, color=BLUE, linewidth=1.2, zorder=2)
    sizes = [12 + 300 * row["predicted"] / total for row in rows]
    points = axes.scatter(scores, precisions, sizes, color=BLUE, alpha=0.8, linewidths=0)
    points.set(clip_on=False, zorder=3)
    axes.text(1.0, 0.02, "area: share of the entities", ha="right", fontsize=7, color=GREY)
    axes.set(
        title=f"Calibration: error {100 * breakdown['calibration_error']:.1f} %",
        xlabel="score (probability of the segment)",
        ylabel="share that is right",
        xlim=(0, 1.02),
        ylim=(0, 1.04),
    )
    axes.xaxis.label.set_fontsize(8)
    axes.yaxis.label.set_fontsize(8)
    axes.set_aspect("equal")


def _score_table(first: str, rows: Mapping[str, Mapping[str, float]]) -> str:
    return markdown_table(
        (first, "precision", "recall", "F1", "entities"),
        [
            (
                name,
                *(_percent(row[score]) if score in row else MISSING for score in RATIOS),
                int(row["number"]) if "number" in row else MISSING,
            )
            for name, row in rows.items()
        ],
    )


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"
