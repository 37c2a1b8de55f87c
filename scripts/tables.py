"""Write the measured tables of README.md and docs, and figures, from benchmarks/results.

python scripts/tables.py

A table stands between the lines ``<!-- table: NAME -->`` and ``<!-- end -->``; what was between
them is replaced.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import quality_tables

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PICTURES = ROOT / "docs" / "pictures"


def read(name: str) -> list[dict]:
    """The measurements of a file."""
    with (RESULTS / name).open() as stream:
        return [json.loads(line) for line in stream]


def markdown(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table in Markdown."""
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def pivot(rows: list[dict], row: str, time: str) -> str:
    """Times in ms, a line for each value of ``row`` and a column for each shape."""
    shapes = list(dict.fromkeys(tuple(r["shape"]) for r in rows))
    names = list(dict.fromkeys(r[row] for r in rows))
    times = {(r[row], tuple(r["shape"])): r[time] for r in rows}
    return markdown(
        ["ms", *(", ".join(map(str, shape)) for shape in shapes)],
        (
            [name, *(f"{times[name, s]:.3g}" if (name, s) in times else "" for s in shapes)]
            for name in names
        ),
    )


def dense() -> str:
    """The dense contract on the GPU."""
    rows = [r for r in read("dense_h100.jsonl") if "ms" in r and "shape" in r]
    rows = [r | {"name": f"{r['name']} {r.get('semiring', '')}".strip()} for r in rows]
    floors = {tuple(r["shape"]): r["floor_ms"] for r in rows if "floor_ms" in r}
    rows += [{"name": "reading it once", "shape": s, "ms": ms} for s, ms in floors.items()]
    return pivot(rows, "name", "ms")


def factored() -> str:
    """Factored potentials on the GPU."""
    rows = [r for r in read("factored_h100.jsonl") if r["section"] == "shapes"]
    rows = [r | {"name": f"{r['mode']}, {r['backend']}"} for r in rows]
    return pivot(sorted(rows, key=lambda r: r["name"]), "name", "median_ms")


def models() -> str:
    """A whole model beside a softmax head."""
    rows = [r for r in read("factored_h100.jsonl") if r["section"] == "model"]
    times = {(r["mode"], r["backend"]): r["median_ms"] for r in rows}
    modes = dict.fromkeys(r["mode"] for r in rows)
    return markdown(
        ["ms", "softmax head", "semi-CRF head", "ratio"],
        (
            [
                mode,
                f"{times[mode, 'softmax']:.3g}",
                f"{times[mode, 'semi-CRF']:.3g}",
                f"{times[mode, 'semi-CRF'] / times[mode, 'softmax']:.2f}",
            ]
            for mode in modes
        ),
    )


def cpu() -> str:
    """The head and the dense contract on the CPU."""
    return markdown(
        ["library", "what", "ms", "p20 to p80"],
        (
            [r["library"], r["mode"], f"{r['ms']:.3g}", f"{r['p20']:.3g} to {r['p80']:.3g}"]
            for r in read("cpu.jsonl")
        ),
    )


def windows() -> str:
    """Long documents in windows with and without an overlap."""
    return markdown(
        ["sub-words in a window", "overlap", "F1", "recall of the entities that a seam would cut"],
        (
            [
                str(r["max_length"]),
                r["overlap"],
                f"{100 * r['f1']:.1f}",
                f"{r['cut_found']} of {r['cut']}",
            ]
            for r in read("windows_cpu.jsonl")
        ),
    )


TABLES: dict[str, Callable[[], str]] = {
    "dense": dense,
    "factored": factored,
    "models": models,
    "cpu": cpu,
    "windows": windows,
    **quality_tables.TABLES,
}


def figures() -> None:
    """Draw how time and memory grow, and the shapes beside other libraries, as PNG files."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    records = read("factored_h100.jsonl")
    growing = [r for r in records if "axis" in r]
    names = {"positions": (1, "positions N"), "longest": (2, "longest segment L"),
             "types": (3, "types C")}  # fmt: skip
    figure, axes = plt.subplots(2, 3, figsize=(11, 6), sharey="row", layout="constrained")
    for column, (axis, (index, name)) in enumerate(names.items()):
        for mode in ("loss + gradient", "decode"):
            line = [r for r in growing if r["axis"] == axis and r["mode"] == mode]
            x = [r["shape"][index] for r in line]
            axes[0, column].loglog(x, [r["median_ms"] for r in line], "o-", label=mode)
            axes[1, column].loglog(x, [r["memory_mb"] for r in line], "o-", label=mode)
        axes[1, column].set_xlabel(name)
    axes[0, 0].set_ylabel("ms")
    axes[1, 0].set_ylabel("MB above the inputs")
    axes[0, 0].legend()
    figure.savefig(PICTURES / "growth.png", dpi=90)

    wanted = ["triton, CUDA graph", "triton", "flash-semicrf", "torch-struct", "pytorch-crf"]
    for mode in ("loss + gradient", "decode"):
        chosen = [r for r in records if r["mode"] == mode and "axis" not in r]
        labels = list(dict.fromkeys(tuple(r["shape"]) for r in chosen if r["backend"] == "triton"))
        figure, axis = plt.subplots(figsize=(9, 4), layout="constrained")
        for i, backend in enumerate(wanted):
            times = {tuple(r["shape"]): r["median_ms"] for r in chosen if r["backend"] == backend}
            x = [j + i / (len(wanted) + 1) for j, shape in enumerate(labels) if shape in times]
            y = [times[shape] for shape in labels if shape in times]
            axis.bar(x, y, 1 / (len(wanted) + 1), align="edge", label=backend)
        axis.set_yscale("log")
        axis.set_ylabel("ms")
        axis.set_xticks([j + 0.4 for j in range(len(labels))],
                        ["\n".join((", ".join(map(str, s[:2])), ", ".join(map(str, s[2:]))))
                         for s in labels])  # fmt: skip
        axis.set_xlabel("B, N\nL, C")
        axis.set_title(mode)
        axis.legend()
        figure.savefig(PICTURES / f"{mode.replace(' + ', '_and_')}.png", dpi=90)


def fill(text: str) -> str:
    """The text with its tables made anew."""
    return re.sub(
        r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)",
        lambda match: f"{match[1]}{TABLES[match[2]]().rstrip()}\n{match[3]}",
        text,
        flags=re.DOTALL,
    )


if __name__ == "__main__":
    figures()
    quality_tables.figures(PICTURES)
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        page.write_text(fill(page.read_text()))
