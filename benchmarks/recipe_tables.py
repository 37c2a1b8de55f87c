"""Learning curves, recipes and what each part of the default brings; see tables.py.

All take rows of `quality.py` and of `quality_span_marker.py`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from quality import f1_cells
from quality_tables import CORPORA, chosen, difference, mean, save

from hf_semicrf.reporting.tables import BLUE, GREY, LIGHT, ORANGE, markdown_table

CURVES = {"softmax": ORANGE, "crf": GREY, "span_marker": LIGHT, "default": BLUE}
NAMES = {"span_marker": "SpanMarker"}
SIZE = 250  # of the question how many sentences softmax needs for as much
# ways to decode the default's models without a part of it
WITHOUT = {
    "sentence/viterbi": "no threshold (Viterbi)",
    "none/half_f1": "no temperature",
    "none/viterbi": "neither",
}
Rows = Sequence[dict]


def curve(rows: Iterable[dict], **wanted: Any) -> dict[int, list[float]]:
    """The test F1, in percent, of each seed by the number of training sentences."""
    own = chosen(rows, **wanted)
    return {
        n: [100 * row["test_f1"] for row in own if row["sentences"] == n]
        for n in sorted({row["sentences"] for row in own} - {0})
    }


def needed(points: dict[int, list[float]], f1: float) -> float:
    """The number of sentences at which a curve first reaches an F1; infinite where it does not.

    Between two points it is read off the straight line over the logarithm of the number.
    """
    at = [(math.log(n), statistics.mean(values)) for n, values in points.items()]
    if at and at[0][1] >= f1:
        return math.exp(at[0][0])
    for (x, low), (y, high) in zip(at, at[1:], strict=False):
        if high >= f1:
            return math.exp(x + (y - x) * (f1 - low) / (high - low))
    return math.inf


def in_sentences(rows: Rows, corpus: str) -> str:
    """How many sentences softmax needs for the default's F1 at `SIZE`."""
    own, softmax = (curve(rows, corpus=corpus, head=head) for head in ("default", "softmax"))
    if SIZE not in own or not softmax:
        return ""
    number = needed(softmax, statistics.mean(own[SIZE]))
    return f"more than {max(softmax):,}" if number == math.inf else f"{number:,.0f}"


def curves(rows: Rows) -> str:
    """Test F1 by the number of training sentences."""
    sizes = sorted({row["sentences"] for row in rows} - {0})
    lines = []
    for corpus, name in CORPORA.items():
        for head in CURVES:
            found = curve(rows, corpus=corpus, head=head)
            cells = [spread(found.get(n, [])) for n in sizes]
            last = in_sentences(rows, corpus) if head == "softmax" else ""
            lines.append([name, NAMES.get(head, head), *cells, last])
    columns = [f"{n:,}" for n in sizes]
    return markdown_table(["corpus", "head", *columns, f"for our F1 at {SIZE}"], lines)


def spread(values: Sequence[float]) -> str:
    """Mean, deviation and number; nothing of none."""
    if not values:
        return ""
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{deviation} ({len(values)})"


def draw_curves(path: Path, rows: Rows) -> None:
    """Draw test F1 over the number of training sentences, a panel a corpus.

    Bars are deviations over seeds; an arrow leads from the default's F1 at `SIZE` to the number of
    sentences at which softmax has it.

    Args:
        path: The picture.
        rows: Runs of ``quality.py --sentences``; those of all sentences are left out.
    """
    figure = Figure((9, 3.4), layout="constrained")
    panels = figure.subplots(1, 3)
    for axes, (corpus, name) in zip(panels, CORPORA.items(), strict=True):
        for head, colour in CURVES.items():
            found = curve(rows, corpus=corpus, head=head)
            if found:
                axes.errorbar(
                    list(found),
                    [statistics.mean(v) for v in found.values()],
                    [statistics.stdev(v) if len(v) > 1 else 0 for v in found.values()],
                    color=colour,
                    label=NAMES.get(head, head),
                    linewidth=1.4,
                    elinewidth=0.8,
                    capsize=2,
                )
        draw_arrow(axes, rows, corpus)
        sizes = sorted({row["sentences"] for row in chosen(rows, corpus=corpus)} - {0})
        axes.set(title=name, xscale="log")
        axes.set_xticks(sizes, [f"{n:,}" for n in sizes])
        axes.minorticks_off()
        axes.set_xlabel("training sentences")
    panels[0].set_ylabel("test F1, %")
    panels[0].legend(frameon=False, fontsize=8, loc="lower right")
    save(figure, path)


def draw_arrow(axes: Any, rows: Rows, corpus: str) -> None:
    """The way from the default's F1 at `SIZE` sentences to where softmax has as much."""
    own, softmax = (curve(rows, corpus=corpus, head=head) for head in ("default", "softmax"))
    if SIZE not in own or not softmax:
        return
    f1 = statistics.mean(own[SIZE])
    end = min(needed(softmax, f1), max(softmax))
    style = {"arrowstyle": "->", "color": "black", "linewidth": 0.9, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", (end, f1), (SIZE, f1), arrowprops=style)
    place = {"textcoords": "offset points", "fontsize": 8, "ha": "center", "va": "top"}
    axes.annotate(in_sentences(rows, corpus), (math.sqrt(SIZE * end), f1), (0, -3), **place)


def recipes(rows: Rows, heads: Sequence[str]) -> str:
    """Test F1 of heads on all sentences, the differences to softmax and CRF, and what else counts.

    Args:
        rows: The runs.
        heads: Which heads, in order.
    """
    rows = chosen(rows, sentences=0)
    lines = []
    for head in heads:
        own = chosen(rows, head=head)
        over = [over_of(own, chosen(rows, head=base)) for base in ("softmax", "crf")]
        parts = [chosen(own, corpus=corpus) for corpus in CORPORA]
        cells = [*f1_cells(own, CORPORA, "test_f1"), *over]
        cells += [of_corpora(parts, by_mean(value)) for value in MORE]
        lines.append([NAMES.get(head, head), *cells])
    columns = ["mean", "over softmax", "over crf", "recall 5+", "calibration error"]
    return markdown_table(["head", *CORPORA.values(), *columns], lines)


MORE: tuple[Callable[[dict], float], ...] = (
    lambda row: row["lengths"].get("5+", {}).get("recall", 0.0),
    lambda row: row["calibration_error"],
)


def by_mean(value: Callable[[dict], float]) -> Callable[[Rows], str]:
    """The mean of a value over runs, in percent."""
    return lambda rows: mean(rows, value)


def of_corpora(parts: Iterable[Rows], cell: Callable[[Rows], str]) -> str:
    """A cell that lists a number of each corpus's runs."""
    return " / ".join(cell(rows) for rows in parts if rows)


def over_of(own: Rows, base: Rows, score: str = "test_f1") -> str:
    """By how much the mean of the corpora is above that of other runs; nothing where one lacks."""
    means = []
    for rows in (own, base):
        each = [[100 * r[score] for r in chosen(rows, corpus=c)] for c in CORPORA]
        if not all(each):
            return ""
        means.append(statistics.mean(map(statistics.mean, each)))
    return f"{means[0] - means[1]:+.2f}"


def without(rows: Rows) -> str:
    """The default's models decoded without a part of what is fitted: test F1 and its difference."""
    runs = [row for row in chosen(rows, head="default", sentences=0) if row["decodings"]]
    lines = [without_line("default", runs, runs)]
    for way, name in WITHOUT.items():
        lines.append(without_line(name, [decoded(row, way) for row in runs], runs))
    columns = ["recall 5+", "calibration error"]
    return markdown_table(["decoded with", *CORPORA.values(), *columns], lines)


def decoded(row: dict, way: str) -> dict:
    """A run with the scores that it has by another way to decode."""
    other = row["decodings"][way]
    return {
        "corpus": row["corpus"],
        "test_f1": other["f1"],
        "calibration_error": other["calibration_error"],
        "lengths": {"5+": {"recall": other["recalls"].get("5+", 0.0)}},
    }


def without_line(name: str, own: Rows, whole: Rows) -> list[str]:
    """A line of `without`."""
    parts = [chosen(own, corpus=c) for c in CORPORA]
    cells = [
        difference(mine, chosen(whole, corpus=c), "test_f1")
        for c, mine in zip(CORPORA, parts, strict=True)
    ]
    return [name, *cells, *(of_corpora(parts, by_mean(v)) for v in MORE)]


def few(rows: Rows) -> str:
    """Recipes for few sentences: validation F1, and the difference to the default of those seeds.

    Only the validation data choose; the mean of the corpora's test F1 stands beside.
    """
    rows = [row for row in rows if row["sentences"]]
    heads = [h for h in dict.fromkeys(r["head"] for r in rows) if h.startswith("default+")]
    lines: list[list[Any]] = []
    for size in sorted({row["sentences"] for row in rows if row["head"] in heads}):
        for head in ("default", *heads):
            own = chosen(rows, head=head, sentences=size)
            if not own:
                continue
            base = chosen(rows, head="default", sentences=size)
            if head != "default":
                seeds = {(row["corpus"], row["seed"]) for row in own}
                base = [row for row in base if (row["corpus"], row["seed"]) in seeds]
            cells = [
                difference(chosen(own, corpus=c), chosen(base, corpus=c), "validation_f1")
                for c in CORPORA
            ]
            lines.append([f"{size:,}", head, *cells, over_of(own, base)])
    columns = [*CORPORA.values(), "mean, test"]
    return markdown_table(["sentences", "head", *columns], lines)
