"""Write the measured tables of README.md from the files of benchmarks/results.

python scripts/tables.py

A table stands between the lines ``<!-- table: NAME -->`` and ``<!-- end -->``; what was between
them is replaced.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"


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


def quality() -> str:
    """Test F1 of trained taggers."""
    rows = read("train_h100.jsonl")
    corpora = dict.fromkeys(r["corpus"] for r in rows)
    lines = []
    for corpus in corpora:
        f1 = [100 * r["test_overall_f1"] for r in rows if r["corpus"] == corpus]
        spread = f"{statistics.mean(f1):.2f} ± {statistics.stdev(f1):.2f}"
        lines.append([corpus, spread, ", ".join(f"{x:.2f}" for x in f1)])
    return markdown(["corpus", "test F1, mean ± deviation", "seeds"], lines)


TABLES: dict[str, Callable[[], str]] = {
    "dense": dense,
    "factored": factored,
    "models": models,
    "cpu": cpu,
    "quality": quality,
}


def fill(text: str) -> str:
    """The text with its tables made anew."""
    return re.sub(
        r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)",
        lambda match: f"{match[1]}{TABLES[match[2]]()}\n{match[3]}",
        text,
        flags=re.DOTALL,
    )


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(fill(readme.read_text()))
