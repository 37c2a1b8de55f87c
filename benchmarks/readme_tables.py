"""The README's table of quality beside other heads, and its picture of speed; see tables.py."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from pathlib import Path

from matplotlib.figure import Figure
from speed_tables import GRAPH, PEER, PYTHON, of_section, read, shown, sizes

from hf_semicrf.reporting.tables import BLUE, GREY, LIGHT, ORANGE, markdown_table

CORPORA = {"ncbi_disease": "NCBI-disease", "bc5cdr": "BC5CDR", "wnut17": "WNUT17"}
HEADS = {
    "softmax": "softmax",
    "crf": "linear-chain CRF",
    "span_marker": "SpanMarker 1.8.1",
    "span": "hf_semicrf, by default",
}


def percent(values: Iterable[float]) -> str:
    """The mean of shares, in percent."""
    return f"{100 * statistics.mean(values):.1f}"


def quality() -> str:
    """Test F1 on each corpus, its mean, and the mean calibration error; averages over seeds."""
    rows = read("quality_test_h100.jsonl")
    later = read("recipes_h100.jsonl")
    rows += [r for r in later if (r["head"], r["sentences"]) == ("span_marker", 0)]
    lines = []
    for head, name in HEADS.items():
        f1, errors = (
            [
                statistics.mean(
                    r[score] for r in rows if (r["head"], r["corpus"]) == (head, corpus)
                )
                for corpus in CORPORA
            ]
            for score in ("test_f1", "calibration_error")
        )
        lines.append([name, *(percent([value]) for value in f1), percent(f1), percent(errors)])
    table = markdown_table(["head", *CORPORA.values(), "mean F1", "calibration error"], lines)
    return table.replace("hf_semicrf", "**hf_semicrf**")


def draw_speed(path: Path) -> None:
    """A whole model's time under our head over that under softmax; the loss beside a peer's."""
    figure = Figure((9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.5))
    heads = [r for r in read("launches_h100.jsonl") if r["backend"] == "semi-CRF"]
    models = {(r["model"], r["mode"]): r for r in heads if "logits" not in r["mode"]}
    names = sorted(models, key=lambda name: (name[0] == "BERT-base", name[1] != "inference"))
    for offset, kind, label, colour in (
        (0.2, "kernel_ratio", "kernels alone", BLUE),
        (-0.2, "ratio", "with launches from Python", LIGHT),
    ):
        ratios = [models[name][kind] for name in names]
        places = [place + offset for place in range(len(names))]
        bars = left.barh(places, ratios, 0.38, color=colour, label=label)
        left.bar_label(bars, [f"{ratio:.2f}" for ratio in ratios], padding=3, fontsize=8)
    left.plot([1, 1], [-0.6, 3.5], "--", color=GREY, linewidth=1)
    left.set_yticks(range(len(names)), [", ".join(name) for name in names], fontsize=8)
    left.set(title="A whole model: time over softmax's", xlim=(0, 2.4), ylim=(-0.6, 4.6))
    left.legend(fontsize=8, frameon=False, loc="upper right", bbox_to_anchor=(1.0, 1.02))
    losses = [r for r in of_section("shapes", "peers") if r["mode"] == "loss + gradient"]
    times = {(tuple(r["shape"]), r["backend"]): r["median_ms"] for r in losses}
    shapes = list(dict.fromkeys(shape for shape, backend in times if backend == PEER))
    for offset, backend, colour in ((-0.27, GRAPH, BLUE), (0, PYTHON, LIGHT), (0.27, PEER, ORANGE)):
        places = [place + offset for place in range(len(shapes))]
        height = [times[shape, backend] for shape in shapes]
        right.bar(places, height, 0.27, color=colour, label=shown(backend))
    right.set_yscale("log")
    right.set_xticks(range(len(shapes)), [f"{sizes(s[:2])}\n{sizes(s[2:])}" for s in shapes])
    right.set_xlabel("sentences, words\nlongest segment, types", fontsize=8)
    right.set(title="The loss with its gradient, ms")
    right.legend(fontsize=8, frameon=False, loc="upper left")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.title.set_fontsize(10)
        axes.tick_params(labelsize=8)
    figure.savefig(path, dpi=100)


TABLES: dict[str, Callable[[], str]] = {"readme_quality": quality}
