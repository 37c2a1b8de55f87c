"""The tables and the picture of promised recalls, from what `recall.py` measured; see tables.py."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from hf_semicrf.reporting.tables import BLUE, GREY, ORANGE, markdown_table

RESULTS = Path(__file__).parent / "results" / "recall_h100.jsonl"
LINES = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
CORPORA = {
    "ncbi_disease": "NCBI-disease",
    "bc5cdr": "BC5CDR",
    "wnut17": "WNUT17",
    "pii": "the demo's PII",
}
HEADS = {"semicrf": "semi-CRF", "softmax": "softmax"}
RECALLS = (0.9, 0.95, 0.98, 0.99)


def cell(**wanted: Any) -> dict[str, Any]:
    """The line of a cell."""
    return next(
        line
        for line in LINES
        if line["kind"] == "cell" and all(line[name] == value for name, value in wanted.items())
    )


def kept(covering: str) -> str:
    """What was missed, how often promises were kept, and how many were refused."""
    rows = []
    for corpus, name in CORPORA.items():
        for recall in RECALLS:
            what = {"head": "semicrf", "corpus": corpus, "covering": covering, "recall": recall}
            mean, sure = cell(**what, confidence=None), cell(**what, confidence=0.95)
            rows.append(
                (
                    name,
                    f"{100 * (1 - recall):.0f} %",
                    _percent(mean, "miss", 2) + _error(mean),
                    mean["refused"],
                    _percent(sure, "kept", 0),
                    _percent(sure, "kept_within_error", 0),
                    _percent(sure, "miss", 2),
                    sure["refused"],
                )
            )
    header = ("corpus", "missed at most", "on average: missed", "refused", "with 95 %: kept")
    return markdown_table((*header, "kept within error", "missed", "refused"), rows)


def prices(covering: str, name: str, digits: int) -> str:
    """What the two heads cost at the same promise; nothing where half of the splits are refused.

    Args:
        covering: "words" or "exact".
        name: What is paid: "extra_words" or "candidates".
        digits: Behind the point; two more of what is below a hundredth.
    """
    rows = []
    for corpus, title in CORPORA.items():
        for recall in RECALLS:
            what = {"corpus": corpus, "covering": covering, "recall": recall}
            cells = [
                cell(head=head, **what, confidence=confidence)
                for confidence in (None, 0.95)
                for head in HEADS
            ]
            done = [line if 2 * line["refused"] < line["splits"] else {} for line in cells]
            more = [digits + 2 * (line.get(name, 1) < 0.01) for line in done]
            paid = [_number(line, name, n) for line, n in zip(done, more, strict=True)]
            rows.append((title, f"{100 * (1 - recall):.0f} %", *paid))
    header = [f"{way}, {head}" for way in ("on average", "with 95 %") for head in HEADS.values()]
    return markdown_table(["corpus", "missed at most", *header], rows)


def shifts() -> str:
    """What a threshold of one kind of documents does on another."""
    rows = [
        (
            _named(line["calibrated"]),
            _named(line["used"]) + (f" ({', '.join(line['types'])})" if line["types"] else ""),
            f"{100 * (1 - line['recall']):.0f} %",
            _percent(line, "miss", 1) if "miss" in line else f"refused: {line['best']}",
            _number(line, "extra_words", 2),
        )
        for line in LINES
        if line["kind"] == "shift" and line["head"] == "semicrf" and line["recall"] < 0.99
    ]
    return markdown_table(("threshold from", "used on", "promised", "missed", "extra words"), rows)


def draw(path: Path) -> None:
    """What was missed beside what was promised, and the price of either head."""
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    axes = figure.subplots(1, 1 + len(CORPORA), width_ratios=[1.3] + [1] * len(CORPORA))
    kept_axis, *price_axes = axes
    kept_axis.plot([0, 10], [0, 10], color=GREY, linewidth=1)
    for marker, (corpus, name) in zip("osD^", CORPORA.items(), strict=True):
        done = _words("semicrf", corpus)
        kept_axis.plot(
            [100 * (1 - line["recall"]) for line in done],
            [100 * line["miss"] for line in done],
            marker,
            color=BLUE,
            markersize=5,
            label=name,
        )
    kept_axis.set(xlabel="promised: missed at most (%)", ylabel="missed (%)", title="kept")
    kept_axis.legend(fontsize=7, frameon=False)
    for axis, (corpus, name) in zip(price_axes, CORPORA.items(), strict=True):
        for head, colour in zip(HEADS, (BLUE, ORANGE), strict=True):
            done = _words(head, corpus)
            places = [RECALLS.index(line["recall"]) for line in done]
            values = [line["extra_words"] for line in done]
            axis.plot(places, values, "o-", color=colour, markersize=4, label=HEADS[head])
        axis.set(title=name, xlabel="missed at most (%)", ylim=(0, None))
        axis.set_xticks(range(len(RECALLS)), [f"{100 * (1 - r):.0f}" for r in RECALLS])
    price_axes[0].set_ylabel("words beside the entities' own")
    price_axes[0].legend(fontsize=7, frameon=False, loc="upper left")
    figure.savefig(path, dpi=120)


def _words(head: str, corpus: str) -> list[dict[str, Any]]:
    """The cells of promises on average that less than half of the splits refuse."""
    lines = [
        cell(head=head, corpus=corpus, covering="words", recall=recall, confidence=None)
        for recall in RECALLS
    ]
    return [line for line in lines if 2 * line["refused"] < line["splits"]]


def _named(documents: str) -> str:
    """A corpus and its split by the corpus's name."""
    corpus, split = documents.split(", ")
    return f"{CORPORA[corpus]}, {split}"


def _number(line: dict[str, Any], name: str, digits: int, factor: float = 1) -> str:
    return f"{factor * line[name]:.{digits}f}" if name in line else ""


def _percent(line: dict[str, Any], name: str, digits: int) -> str:
    return _number(line, name, digits, 100)


def _error(line: dict[str, Any]) -> str:
    """Two standard errors of a miss."""
    return f" ± {200 * line['miss_error']:.2f}" if "miss" in line else ""


TABLES: dict[str, Callable[[], str]] = {
    "recall_words": lambda: kept("words"),
    "recall_exact": lambda: kept("exact"),
    "recall_prices": lambda: prices("words", "extra_words", 2),
    "recall_candidates": lambda: prices("exact", "candidates", 1),
    "recall_shifts": shifts,
}
