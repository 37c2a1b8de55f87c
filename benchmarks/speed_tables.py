"""The tables and pictures of speed, from what the benchmarks measured; see tables.py."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from hf_semicrf.reporting.tables import markdown_table

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"
# back ends as the benchmarks call them, and our name for them in tables and pictures
GRAPH, PYTHON, PEER = "triton, CUDA graph", "triton", "flash-semicrf"
NAMES = {
    GRAPH: "hf_semicrf, CUDA graph",
    PYTHON: "hf_semicrf",
    "triton, segment scores": "hf_semicrf, segment scores",
}
PLOTTED = (GRAPH, PYTHON, PEER, "torch-struct", "pytorch-crf")


def read(name: str) -> list[dict]:
    """The measurements of a file."""
    with (RESULTS / name).open() as stream:
        return [json.loads(line) for line in stream]


def of_section(*sections: str) -> list[dict]:
    """What was measured of factored potentials on the GPU."""
    return [r for r in read("factored_h100.jsonl") if r["section"] in sections]


def shown(backend: str) -> str:
    """The name that readers see."""
    return NAMES.get(backend, backend)


def sizes(shape: Iterable[int]) -> str:
    """A shape as a table shows it."""
    return ", ".join(map(str, shape))


def pivot(rows: list[dict], row: str, time: str) -> str:
    """Times in ms, a line for each value of ``row`` and a column for each shape."""
    shapes = list(dict.fromkeys(tuple(r["shape"]) for r in rows))
    names = list(dict.fromkeys(r[row] for r in rows))
    times = {(r[row], tuple(r["shape"])): r[time] for r in rows}
    return markdown_table(
        ["ms", *map(sizes, shapes)],
        [
            [name, *(f"{times[name, s]:.3g}" if (name, s) in times else "" for s in shapes)]
            for name in names
        ],
    )


def by_mode_and_backend(rows: list[dict], name: Callable[[str], str]) -> str:
    """Median times, a line for each mode and back end, in the order of their names."""
    rows = [r | {"name": f"{r['mode']}, {name(r['backend'])}"} for r in rows]
    return pivot(sorted(rows, key=lambda r: r["name"]), "name", "median_ms")


def dense() -> str:
    """The dense contract on the GPU."""
    rows = [r for r in read("dense_h100.jsonl") if "ms" in r and "shape" in r]
    rows = [r | {"name": f"{r['name']} {r.get('semiring', '')}".strip()} for r in rows]
    floors = {tuple(r["shape"]): r["floor_ms"] for r in rows if "floor_ms" in r}
    rows += [{"name": "reading it once", "shape": s, "ms": ms} for s, ms in floors.items()]
    return pivot(rows, "name", "ms")


def factored() -> str:
    """The loss with its gradient and decoding on the GPU, beside flash-semicrf."""
    rows = of_section("shapes", "peers")
    times = {(tuple(r["shape"]), r["mode"], r["backend"]): r["median_ms"] for r in rows}
    shapes = dict.fromkeys(tuple(r["shape"]) for r in rows if r["backend"] == GRAPH)
    columns = [(mode, b) for mode in ("loss + gradient", "decode") for b in (GRAPH, PYTHON, PEER)]
    return markdown_table(
        ["B, N, L, C", *map(shown, (GRAPH, PYTHON, PEER) * 2)],
        [
            [sizes(s), *(f"{times[(s, *c)]:.3g}" if (s, *c) in times else "" for c in columns)]
            for s in shapes
        ],
    )


def every_mode() -> str:
    """Everything that was timed of the factored operations."""
    return by_mode_and_backend(of_section("shapes", "peers"), shown)


def errors() -> str:
    """How far the kernels are from float64."""

    def error(r: dict, name: str) -> str:
        return f"{r[name]:.1e}" if name in r else "not measured"

    return markdown_table(
        ["B, N, L, C", "log Z, relative", "gradient, of its largest entry", "same bits twice"],
        [
            [
                sizes(r["shape"]),
                error(r, "log_z_error"),
                error(r, "gradient_error"),
                {True: "yes", False: "no", None: "not measured"}[r.get("same_bits_twice")],
            ]
            for r in of_section("check")
        ],
    )


def memory() -> str:
    """Memory of the loss with its gradient, above inputs and outputs."""
    lines = []
    for r in of_section("shapes"):
        if r["mode"] == "loss + gradient" and {"memory_mb", "state_mb"} <= r.keys():
            batch, positions, longest, types = r["shape"]
            gradients = (3 * batch * positions + longest + types + 2) * types * 4 / 1e6
            used, state = r["memory_mb"] - gradients, r["state_mb"]
            lines.append([sizes(r["shape"]), f"{used:.3g}", f"{state:.3g}", f"{used / state:.2f}"])
    return markdown_table(["B, N, L, C", "MB", "alpha and beta, MB", "ratio"], lines)


def compiled() -> str:
    """The first compiled training step, and those that follow, beside a softmax head."""
    rows = of_section("compile")
    lines = []
    for shape in dict.fromkeys(tuple(r["shape"]) for r in rows):
        softmax, ours = (
            next(r for r in rows if tuple(r["shape"]) == shape and r["backend"].startswith(name))
            for name in ("softmax", "semi-CRF")
        )
        seconds = [f"{r['first_call_s']:.1f}" for r in (softmax, ours)]
        steps = [f"{r['median_ms']:.3g}" for r in (softmax, ours)]
        lines.append([shape[1], *seconds, *steps])
    kinds = ("first step, softmax, s", "semi-CRF, s", "next ones, softmax, ms", "semi-CRF, ms")
    return markdown_table(["words", *kinds], lines)


def distribution() -> str:
    """What the distribution can tell, on the GPU."""
    return by_mode_and_backend(read("distribution_h100.jsonl"), str)


def cpu() -> str:
    """The head and the dense contract on the CPU."""
    return markdown_table(
        ["library", "what", "ms", "p20 to p80"],
        [
            [r["library"], r["mode"], f"{r['ms']:.3g}", f"{r['p20']:.3g} to {r['p80']:.3g}"]
            for r in read("cpu.jsonl")
        ],
    )


TABLES: dict[str, Callable[[], str]] = {
    "dense": dense,
    "factored": factored,
    "every_mode": every_mode,
    "errors": errors,
    "memory": memory,
    "compiled": compiled,
    "distribution": distribution,
    "cpu": cpu,
}


def figures(folder: Path) -> None:
    """How time and memory grow, and the shapes beside other libraries, as PNG files."""
    _growth().savefig(folder / "speed_growth.png", dpi=90)
    _peers().savefig(folder / "speed_peers.png", dpi=90)


def _growth() -> Figure:
    growing = of_section("growth")
    names = {"positions": (1, "positions N"), "longest": (2, "longest segment L"),
             "types": (3, "types C")}  # fmt: skip
    names = {axis: name for axis, name in names.items() if axis in {r["axis"] for r in growing}}
    figure = Figure(figsize=(3 * len(names), 5), layout="constrained")
    axes = figure.subplots(2, len(names), sharey="row")
    for column, (axis, (index, name)) in enumerate(names.items()):
        for mode in ("loss + gradient", "decode"):
            line = [r for r in growing if r["axis"] == axis and r["mode"] == mode]
            x = [r["shape"][index] for r in line]
            axes[0, column].loglog(x, [r["median_ms"] for r in line], "o-", label=mode)
            axes[1, column].loglog(x, [r["memory_mb"] for r in line], "o-", label=mode)
        axes[1, column].set_xlabel(name)
        for part in axes[:, column]:  # labels at the powers of ten alone
            part.xaxis.set_minor_formatter(NullFormatter())
            part.yaxis.set_minor_formatter(NullFormatter())
    axes[0, 0].set_ylabel("ms, CUDA graph")
    axes[1, 0].set_ylabel("MB above the inputs")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return figure


def _peers() -> Figure:
    rows = of_section("shapes", "peers")
    shapes = list(dict.fromkeys(tuple(r["shape"]) for r in rows if r["backend"] == GRAPH))
    figure = Figure(figsize=(9, 6), layout="constrained")
    for axis, mode in zip(figure.subplots(2, 1, sharex=True), ("loss + gradient", "decode"),
                          strict=True):  # fmt: skip
        for i, backend in enumerate(PLOTTED):
            times = {tuple(r["shape"]): r["median_ms"] for r in rows
                     if (r["mode"], r["backend"]) == (mode, backend)}  # fmt: skip
            x = [j + i / (len(PLOTTED) + 1) for j, shape in enumerate(shapes) if shape in times]
            y = [times[shape] for shape in shapes if shape in times]
            axis.bar(x, y, 1 / (len(PLOTTED) + 1), align="edge", label=shown(backend))
        axis.set_yscale("log")
        axis.set_ylabel(f"{mode}, ms")
    labels = ["\n".join((sizes(s[:2]), sizes(s[2:]))) for s in shapes]
    axis.set_xticks([j + 0.4 for j in range(len(shapes))], labels)
    axis.set_xlabel("B, N\nL, C")
    handles = figure.axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=len(PLOTTED))
    return figure
