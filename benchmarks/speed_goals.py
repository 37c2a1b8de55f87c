"""The tables of docs/speed.md that say where users' calls stand, and how far from their goals.

Each number is the last of its kind in a file of results; a cell stays blank where nothing was
measured.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from speed_tables import GRAPH, PYTHON, read

from hf_semicrf.reporting.tables import markdown_table

Row = dict[str, Any]
SIZES = {"BERT-base": "BERT-base, 512 words", "MiniLM-L6": "MiniLM-L6, 64 words"}
MODES = ("inference", "inference with logits", "training step")


def last(file: str, **fields: Any) -> Row:
    """The last measurement with these fields; an empty one where there is none."""
    found = [row for row in read(file) if all(row.get(k) == v for k, v in fields.items())]
    return found[-1] if found else {}


def number(row: Row, name: str, digits: str = ".2f") -> str:
    """A number of a measurement; nothing where it has none."""
    return format(row[name], digits) if name in row else ""


def together(*numbers: str) -> str:
    """Numbers side by side; nothing where one of them was not measured."""
    return ", ".join(numbers) if all(numbers) else ""


def _model(model: str, mode: str, backend: str = "semi-CRF") -> Row:
    return last("launches_h100.jsonl", model=model, mode=mode, backend=backend)


def _factored(mode: str, *shape: int) -> Row:
    return last("factored_h100.jsonl", backend=GRAPH, mode=mode, shape=list(shape))


def _distribution(mode: str, *shape: int) -> Row:
    return last("distribution_h100.jsonl", backend=PYTHON, mode=mode, shape=list(shape))


def _dense(name: str) -> Row:
    return last("dense_h100.jsonl", name=name, shape=[64, 1000, 101, 24])


def _predict(backend: str) -> Row:
    return last("predict_h100.jsonl", what="throughput", backend=backend, batch_size=64)


def _fresh(cache: str) -> Row:
    return last("predict_h100.jsonl", what="fresh process", cache=cache)


def _bare_scan(positions: int, types: int) -> str:
    row = last("factored_h100.jsonl", backend="bare scan", shape=[1, positions, 1, types])
    return number(row, "median_ms", ".3g")


def _ratios(what: str, model: str, mode: str, goal: str) -> list[str]:
    """Time over softmax's, from Python and of the kernels alone."""
    row = _model(model, mode)
    return [what, together(*(number(row, n) for n in ("ratio", "kernel_ratio"))), goal, _least(row)]


def _least(ours: Row) -> str:
    """Launches over softmax's, and kernels over softmax's if the head took bare scans alone.

    One of the loss and its gradient; one of the posteriors and one of decoding.
    """
    scan = last("factored_h100.jsonl", backend="bare scan", shape=[1, 512, 1, 16])
    if not (ours and scan):
        return ""
    softmax = _model(ours["model"], ours["mode"], "softmax")
    scans = 1 if ours["mode"] == "training step" else 2
    ms = scans * scan["median_ms"] * ours["shape"][1] / 512
    counts = ours["launches"] / softmax["launches"]
    return f"{counts:.2f} (launches), {1 + ms / softmax['kernel_ms']:.3f} (bare scans)"


def _first_calls() -> str:
    """What the encoder's own first call takes, and the one kernel that compiles longest."""
    lengths = last("predict_h100.jsonl", what="lengths").get("lengths", [{}])
    encoder = number(lengths[0], "encoder_first_ms", ".0f")
    kernels = [kernel["s"] for kernel in _fresh("cold").get("kernels", ())]
    if not (encoder and kernels):
        return ""
    return f"{int(encoder) / 1e3:.2f} (the encoder's own), {max(kernels):.1f} (one kernel compiled)"


def goals() -> str:
    """What was measured last, the goal, and the limit that is known."""
    python = "from Python, kernels alone"
    bert = [_model("BERT-base", mode) for mode in ("inference", "training step")]
    large = (64, 1000, 100, 24)
    long = (4, 20000, 100, 24)
    small = (32, 512, 16, 9)
    wide = (32, 512, 16, 19)

    def ms(rows: list[Row]) -> str:
        return together(*(number(row, "median_ms", ".3g") for row in rows))

    lines = [
        _ratios(f"BERT-base, inference: {python}", "BERT-base", "inference", "1.05, 1.04"),
        _ratios("the same with logits", "BERT-base", "inference with logits", ""),
        _ratios("BERT-base, training step", "BERT-base", "training step", "1.03, 1.02"),
        _ratios("MiniLM-L6, inference", "MiniLM-L6", "inference", "1.20, –"),
        _ratios("MiniLM-L6, training step", "MiniLM-L6", "training step", "1.05, –"),
        [
            "launches more than softmax: inference, training step",
            together(*(number(row, "more_launches", ".0f") for row in bert)),
            "12, 25",
            "",
        ],
        [
            "waits more: inference, training step",
            together(*(number(row, "more_waits", ".0f") for row in bert)),
            "0, 0",
            "",
        ],
        [
            "predict over its tokenizer alone; with cuda_graphs=True",
            together(
                number(_predict("predict"), "over_tokenizer"),
                number(_predict("predict, cuda_graphs"), "over_tokenizer"),
            ),
            "0.92",
            "",
        ],
        [
            "a process's first 64 texts, s: warm cache, cold",
            together(*(number(_fresh(cache), "first_64_s", ".3g") for cache in ("warm", "cold"))),
            "0.3, 3",
            _first_calls(),
        ],
        [
            "a process's first pass over its second, warm cache",
            number(_fresh("warm"), "first_over_second"),
            "1.2",
            "",
        ],
        [
            "loss + gradient, ms: 64, 1000, 100, 24; 4, 20000, 100, 24",
            ms([_factored("loss + gradient", *shape) for shape in (large, long)]),
            "2.0, 14",
            together("–", _bare_scan(20000, 32)),
        ],
        [
            "decode, ms: 32, 512, 16, 9; 32, 512, 16, 19; 4, 20000, 100, 24",
            ms([_factored("decode", *shape) for shape in (small, wide, long)]),
            "0.18, 0.25, 14",
            together(*(_bare_scan(*size) for size in ((512, 16), (512, 32), (20000, 32)))),
        ],
        [
            "dense forward, forward + gradient, 64, 1000, 101, 24: over reading it once",
            together(
                *(number(_dense(n), "floors") for n in ("forward log", "forward+gradient log"))
            ),
            "1.2, 3.0",
            "1, –",
        ],
        [
            "k best (k = 8), max-marginals, ms: 32, 512, 16, 9",
            ms([_distribution(mode, *small) for mode in ("k best, k=8", "max-marginals")]),
            "5, 1",
            "",
        ],
        [
            "entropy + gradient, ms: 32, 512, 16, 9; 64, 1000, 100, 24",
            ms([_distribution("entropy + gradient", *shape) for shape in (small, large)]),
            "2, 12",
            "",
        ],
    ]
    return markdown_table(["what", "measured", "goal", "limit"], lines)


def launches() -> str:
    """What a model launches beside softmax, and the times of both."""
    lines = []
    for model, size in SIZES.items():
        for mode in MODES:
            ours, softmax = (_model(model, mode, name) for name in ("semi-CRF", "softmax"))
            more = [number(ours, "more_launches", ".0f")]
            more += [f"{n} {kind}" for kind in ("copies", "fills", "waits")
                     if (n := number(ours, f"more_{kind}", ".0f")) not in ("", "0")]  # fmt: skip
            times = [number(row, "median_ms", ".3g") for row in (softmax, ours)]
            ratios = [number(ours, name) for name in ("ratio", "kernel_ratio")]
            lines.append([f"{size}, {mode}", " + ".join(more), *times, *ratios])
    names = ("launches more", "Python, softmax", "semi-CRF", "ratio", "kernels, ratio")
    return markdown_table(["what", *names], lines)


def strings() -> str:
    """Texts a second from strings to entities, and as a share of the tokenizer's own."""
    names = ("tokenizer alone", "predict", "predict, cuda_graphs", "stock pipeline")
    lines = []
    for size in (64, 32):
        line = [str(size)]
        for name in names:
            row = last("predict_h100.jsonl", what="throughput", backend=name, batch_size=size)
            share = number(row, "over_tokenizer") if name.startswith("predict") else ""
            speed = number(row, "texts_per_s", ",.0f")
            line.append(f"{speed} ({share})" if share else speed)
        lines.append(line)
    titles = ("tokenizer alone", "predict", "predict with cuda_graphs=True", "stock pipeline")
    return markdown_table(["batch", *titles], lines)


def two_gpus() -> str:
    """The commands on one GPU and on two, in seconds."""
    lines = []
    for row in read("two_gpus_h100.jsonl"):
        steps = number(row, "train_runtime", ".1f")
        lines.append(
            [row["what"].removeprefix("hf-semicrf "), row["gpus"], f"{row['s']:.1f}", steps]
        )
    return markdown_table(["command", "GPUs", "s, start-up included", "s of training steps"], lines)


def first_calls() -> str:
    """A process's first and second 64 texts, by commit and cache."""
    lines = []
    for row in read("first_call_h100.jsonl"):
        compiled = sum(not kernel["cached"] for kernel in row["kernels"])
        times = [f"{row[name]:.2f}" for name in ("first_64_s", "second_64_s")]
        lines.append([row["commit"], row["cache"], compiled, *times])
    titles = ("commit", "Triton cache", "kernels compiled", "first 64 texts, s", "next, s")
    return markdown_table(titles, lines)


TABLES: dict[str, Callable[[], str]] = {
    "goals": goals,
    "launches": launches,
    "strings": strings,
    "two_gpus": two_gpus,
    "first_calls": first_calls,
}
