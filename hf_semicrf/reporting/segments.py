"""A sequence with its segments, and how sure they are, as a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_semicrf.reporting.colours import Colour, colours
from hf_semicrf.reporting.fonts import drawing
from hf_semicrf.saving import replacing
from hf_semicrf.text import one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, GREY, ORANGE = "#1d1d1f", "#8a8a8e", "#d9822b"


def plot_segments(
    rows: Mapping[str, Sequence[Mapping[str, Any]]],
    path: str | Path,
    curves: Mapping[str, Sequence[float]] | None = None,
    seconds: float = 1.0,
) -> None:
    """Draw rows of segments over time, and curves of probabilities below.

    A segment is a box that is filled, from below, as far as its score says: to the top where it has
    none.

    Args:
        rows: Segments by the name of their row, such as "true" and "found": mappings with "label",
            "start", "end" and perhaps "score", as ``predict`` returns them.
        path: The picture; its name tells the format (.png, .svg, .pdf).
        curves: Probabilities at each position [N] by their name, such as the posterior that a
            segment starts there. One with the name of a label is an area of its colour.
        seconds: From one position of the curves to the next. Where positions are not of time, 1.

    Raises:
        ValueError: There is no row, or seconds are not above 0.
        RuntimeError: matplotlib is not installed.
    """
    if not rows:
        raise ValueError("expected at least one row of segments, got none")
    if not 0 < seconds < math.inf:
        raise ValueError(f"expected seconds above 0, got {seconds}")
    curves = curves or {}
    ends = [x["end"] for segments in rows.values() for x in segments]
    last = max([*ends, *(len(curve) * seconds for curve in curves.values())], default=1)
    styles = colours(x["label"] for segments in rows.values() for x in segments)
    with drawing():
        from matplotlib.figure import Figure

        heights = [0.5 * len(rows)] + [1.1] * bool(curves)
        figure = Figure((9, 1 + sum(heights)), layout="constrained")
        grid = figure.subplots(
            len(heights), sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights}
        )[:, 0]
        _draw_rows(grid[0], rows, styles)
        inks = cycle((INK, ORANGE, GREY))
        for name, curve in curves.items():
            edges = [n * seconds for n in range(len(curve) + 1)]
            if name in styles:
                grid[1].stairs(curve, edges, fill=True, color=styles[name].rgb, alpha=0.4,
                               hatch=styles[name].hatch, linewidth=0)  # fmt: skip
            else:
                grid[1].stairs(curve, edges, baseline=None, color=next(inks), label=one_line(name))
        if curves:
            grid[1].set(ylim=(-0.03, 1.03), yticks=(0, 0.5, 1))
            grid[1].legend(fontsize=7, frameon=False, ncols=len(curves), loc="lower right",
                           bbox_to_anchor=(1, 0.98), borderpad=0)  # fmt: skip
        grid[-1].set(xlim=(0, last))
        grid[-1].set_xlabel("seconds", fontsize=8)
        for axes in grid:
            axes.tick_params(labelsize=8, length=0)
            axes.spines[["top", "right", "left"]].set_visible(False)
        with replacing(path) as unfinished:
            figure.savefig(unfinished, dpi=110)


def _draw_rows(
    axes: Axes, rows: Mapping[str, Sequence[Mapping[str, Any]]], styles: Mapping[str, Colour]
) -> None:
    """A row of boxes for each name, the first on top, and a legend of the labels."""
    from matplotlib.patches import Patch

    shades = {label: style.rgb for label, style in styles.items()}
    for row, segments in enumerate(rows.values()):
        floor = len(rows) - 1 - row
        for x in segments:
            place = (x["end"] - x["start"], x["start"])
            shade, hatch = shades[x["label"]], styles[x["label"]].hatch
            axes.bar(place[1], 0.8, place[0], floor, align="edge", color=shade, alpha=0.2)
            axes.bar(place[1], 0.8 * x.get("score", 1), place[0], floor, align="edge", color=shade,
                     hatch=hatch, edgecolor="white", linewidth=0.5)  # fmt: skip
    axes.set(ylim=(-0.1, len(rows)))
    names = [one_line(name) for name in rows]
    axes.set_yticks([len(rows) - 0.6 - n for n in range(len(rows))], names)
    boxes = [
        Patch(facecolor=shades[label], hatch=styles[label].hatch, edgecolor="white",
              label=one_line(label))
        for label in styles
    ]  # fmt: skip
    axes.legend(handles=boxes, fontsize=8, frameon=False, ncols=8, loc="lower right",
                bbox_to_anchor=(1, 1), borderpad=0)  # fmt: skip
