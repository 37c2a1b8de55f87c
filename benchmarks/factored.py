"""Time the operations on a GPU, beside other libraries where they are installed.

    python benchmarks/factored.py --out factored.jsonl --commit "$(git rev-parse HEAD)"

Every run first checks the kernels against float64 PyTorch and stops where they are wrong. A line of
the output is one measurement: the median of device-event times in ms, their 20th and 80th
percentiles, the peak memory above the inputs, and where, on what and of which commit it was taken.
benchmarks/tables.py makes the README's tables and figures from the file.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import triton
import triton.language as tl
from peers import PEERS, flash_semicrf, installed, pytorch_crf, torch_struct
from torch import Tensor
from transformers import BertConfig, BertForTokenClassification

from hf_semicrf import SemiCRFConfig, SemiCRFForTokenClassification, ops
from hf_semicrf.ops import Potentials

# batch, positions, longest segment, types
SHAPES = [
    (32, 128, 8, 5),
    (32, 512, 16, 9),
    (32, 512, 16, 19),
    (16, 512, 32, 67),
    (64, 1000, 100, 24),
    (4, 20000, 100, 24),
]
LINEAR_CHAIN = (32, 512, 1, 9)
OUR_CHAIN = "hf_semicrf.torchcrf"
MODES = ("loss", "loss + gradient", "decode", "marginals")
SECTIONS = ("latency", "shapes", "peers", "growth", "compile")
GRAPH = "triton, CUDA graph"
SLOW = 5e8  # segments times types above which a peer is timed by a single call


def potentials(shape, seed=0, segment=False, dtype=torch.float32, device="cuda") -> Potentials:
    """Standard normal scores and full lengths."""
    batch, positions, longest, types = shape
    generator = torch.Generator(device).manual_seed(seed)

    def normal(*size):
        return torch.randn(size, generator=generator, device=device, dtype=torch.float32).to(dtype)

    per_position = (batch, positions, types)
    return Potentials(
        emission=normal(*per_position),
        segment=normal(batch, positions, longest, types) if segment else None,
        start=normal(*per_position),
        end=normal(*per_position),
        duration=normal(longest, types),
        transition=normal(types, types),
        initial=normal(types),
        final=normal(types),
        lengths=torch.full((batch,), positions, device=device),
    )


def with_gradient(p: Potentials) -> Potentials:
    """The same scores as leaves."""
    return p.map(lambda x: x.detach().clone().requires_grad_())


def gradient(p: Potentials, loss: Tensor) -> dict[str, Tensor]:
    """The gradient in every potential that is given."""
    given = {k: x for k, x in p._asdict().items() if x is not None and k != "lengths"}
    return dict(zip(given, torch.autograd.grad(loss, list(given.values())), strict=True))


def ours(p: Potentials, backend: str) -> dict[str, Callable[[], object]]:
    """What is timed of this library, by mode."""
    _, labels, starts = ops.viterbi(p, backend="auto")
    leaves = with_gradient(p)

    def loss() -> Tensor:
        return ops.negative_log_likelihood(p, labels, starts, backend=backend)

    def loss_and_gradient() -> object:
        nll = ops.negative_log_likelihood(leaves, labels, starts, backend=backend)
        return gradient(leaves, nll.sum())

    return {
        "loss": loss,
        "loss + gradient": loss_and_gradient,
        "decode": lambda: ops.viterbi(p, backend=backend),
        "marginals": lambda: ops.marginals(p, backend=backend),
    }


def time_ms(function: Callable[[], object], once: bool = False) -> dict[str, float]:
    """Median, 20th and 80th percentile in ms by device events, and peak memory in MB."""
    function()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    function()
    end.record()
    torch.cuda.synchronize()
    memory = (torch.cuda.max_memory_allocated() - before) / 1e6
    median = low = high = begin.elapsed_time(end)
    if not once:
        median, low, high = triton.testing.do_bench(
            function, warmup=20, rep=150, quantiles=[0.5, 0.2, 0.8]
        )
    return {"median_ms": median, "p20_ms": low, "p80_ms": high, "memory_mb": memory}


def graph_ms(function: Callable[[], object]) -> dict[str, float]:
    """The same with the launches replayed from a CUDA graph."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        median, low, high = triton.testing.do_bench_cudagraph(
            function, rep=100, quantiles=[0.5, 0.2, 0.8]
        )
    return {"median_ms": median, "p20_ms": low, "p80_ms": high}


def check(shapes) -> Iterator[dict]:
    """Errors of the kernels against float64 PyTorch, and whether two runs give the same bits.

    Raises:
        RuntimeError: They are wrong.
    """
    for shape in shapes:
        batch, positions, longest, types = shape
        # float64 PyTorch takes a Python step a boundary: a few sentences are enough
        p = potentials((min(batch, 4), min(positions, 2000), longest, types), seed=1)
        p.lengths[-1] = p.emission.shape[1] // 2 + 1
        exact = with_gradient(p.map(Tensor.double))
        wide, narrow = with_gradient(p), with_gradient(p)
        _, labels, starts = ops.viterbi(p.map(Tensor.double), backend="torch")
        loss = ops.negative_log_likelihood(exact, labels, starts, backend="torch")
        expected = gradient(exact, loss.sum())
        log_z = ops.log_partition(exact, backend="torch")
        found = [
            gradient(x, ops.negative_log_likelihood(x, labels, starts, backend="triton").sum())
            for x in (wide, narrow)
        ]
        worst = {
            k: ((found[0][k] - expected[k]).abs().max() / expected[k].abs().max()).item()
            for k in expected
        }
        best = ops.segmentation_score(exact, *ops.viterbi(p, backend="triton")[1:])
        errors = {
            "log_z_error": relative_error(ops.log_partition(p, backend="triton"), log_z),
            "gradient_error": max(worst.values()),
            "path_gap_nats": (ops.segmentation_score(exact, labels, starts) - best).max().item(),
            "same_bits_twice": all(torch.equal(found[0][k], found[1][k]) for k in expected),
        }
        yield {"backend": "triton", "mode": "check", "shape": tuple(p.sizes)} | errors
        if not (
            errors["log_z_error"] < 1e-6
            and errors["gradient_error"] < 1e-5
            and errors["path_gap_nats"] < 1e-2
            and errors["same_bits_twice"]
        ):
            raise RuntimeError(f"the kernels are wrong at {shape}: nothing was timed: {errors}")
    p = potentials((2, 100_000, 16, 9), seed=2)
    found, exact = (
        ops.log_partition(p.map(convert), backend=backend)
        for convert, backend in ((Tensor.float, "triton"), (Tensor.double, "torch"))
    )
    error = {"log_z_error": relative_error(found, exact)}
    yield {"backend": "triton", "mode": "check", "shape": tuple(p.sizes)} | error


def relative_error(found: Tensor, exact: Tensor) -> float:
    """The largest relative difference."""
    return ((found - exact) / exact).abs().max().item()


@triton.jit
def bare_scan_kernel(rows, out, positions, TYPES: tl.constexpr):
    """One add and one reduction a step: what a step of any scan must wait for."""
    c = tl.arange(0, TYPES)
    state = tl.load(rows + c)
    following = tl.load(rows + TYPES + c)
    for n in range(2, positions):
        ahead = tl.load(rows + n * TYPES + c)
        state = following + tl.max(state, 0)
        following = ahead
    tl.store(out + c, state)


def latency(quick: bool) -> Iterator[dict]:
    """The bare scan, in one warp."""
    for types in (16, 32, 128):
        for positions in (512, 20000):
            rows = torch.randn(positions, types, device="cuda")
            out = torch.empty(types, device="cuda")
            run = lambda: bare_scan_kernel[(1,)](rows, out, positions, TYPES=types, num_warps=1)  # noqa: E731, B023
            yield {"backend": "bare scan", "mode": "step", "shape": (1, positions, 1, types)} | (
                time_ms(run)
            )


def shapes(quick: bool) -> Iterator[dict]:
    """Every shape, back end and mode of this library."""
    for shape in [*SHAPES, LINEAR_CHAIN]:
        batch, positions, longest, types = shape
        p = potentials(shape)
        # alpha and beta in float32, both directions
        state = {"state_mb": 2 * 2 * batch * (positions + 1) * types * 4 / 1e6}
        for mode, function in ours(p, "triton").items():
            entry = {"backend": "triton", "mode": mode, "shape": shape} | state
            yield entry | time_ms(function)
            yield entry | {"backend": GRAPH} | graph_ms(function)
        if not quick and positions <= 512:
            for mode, function in ours(p, "torch").items():
                yield {"backend": "torch", "mode": mode, "shape": shape} | time_ms(function, True)
    for shape in SHAPES[:3]:
        for mode, function in ours(potentials(shape, segment=True), "triton").items():
            entry = {"backend": "triton, segment scores", "mode": mode, "shape": shape}
            yield entry | time_ms(function)


def peers(quick: bool) -> Iterator[dict]:
    """The other libraries, where they are installed."""
    builders = {"flash-semicrf": flash_semicrf, "torch-struct": torch_struct}
    for shape in SHAPES:
        batch, positions, longest, types = shape
        work = batch * positions * longest * types**2
        for name, build in builders.items():
            if not installed(name) or (name == "torch-struct" and work > 1e6):  # its memory
                continue
            if quick and work > 4e9:
                continue
            for mode, function in build(potentials(shape)).items():
                entry = {"backend": name, "mode": mode, "shape": shape}
                yield entry | time_ms(function, once=work > SLOW)
    for name, module in {"pytorch-crf": "torchcrf", OUR_CHAIN: OUR_CHAIN}.items():
        if name == OUR_CHAIN or installed(name):
            crf_class = importlib.import_module(module).CRF
            for mode, function in pytorch_crf(potentials(LINEAR_CHAIN), crf_class).items():
                entry = {"backend": name, "mode": mode, "shape": LINEAR_CHAIN}
                yield entry | time_ms(function, once=name != OUR_CHAIN)


def growth(quick: bool) -> Iterator[dict]:
    """Time and memory against positions, longest segment and types."""
    series = {
        "positions": [(4, n, 16, 9) for n in (128, 512, 2048, 8192, 32768, 131072)],
        "longest": [(16, 1024, n, 9) for n in (1, 4, 16, 64, 256, 1024)],
        "types": [(16, 512, 16, n) for n in (4, 8, 16, 32, 64, 128, 256)],
    }
    for axis, members in series.items():
        for shape in members[: 4 if quick else None]:
            modes = ours(potentials(shape), "triton")
            for mode in ("loss + gradient", "decode"):
                entry = {"backend": GRAPH, "mode": mode, "shape": shape, "axis": axis}
                memory = time_ms(modes[mode])["memory_mb"]
                yield entry | {"memory_mb": memory} | graph_ms(modes[mode])


def compile_(quick: bool) -> Iterator[dict]:
    """Seconds until a compiled training step has run once, of a small encoder with either head."""
    for positions in (64, 512):
        for name, net, batch in models(2, 768, positions):
            torch._dynamo.reset()
            compiled = torch.compile(net)

            def step(compiled=compiled, batch=batch):
                compiled(**batch).loss.backward()

            begin = time.perf_counter()
            step()
            torch.cuda.synchronize()
            seconds = {"first_call_s": time.perf_counter() - begin}
            entry = {"backend": f"{name}, torch.compile", "mode": "first step"}
            yield entry | {"shape": (32, positions, 16, 5)} | seconds | time_ms(step)


def models(
    layers: int, width: int, positions: int
) -> Iterator[tuple[str, torch.nn.Module, dict[str, Tensor]]]:
    """BERT with random weights under a softmax head and under ours, and a batch of 32."""
    labels = ["O", *(f"{tag}-{name}" for name in ("PER", "ORG", "LOC", "MISC") for tag in "BI")]
    encoder = BertConfig(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=12,
        intermediate_size=4 * width,
        num_labels=len(labels),
    )
    ids = torch.randint(1000, 20000, (32, positions), device="cuda")
    tags = torch.zeros_like(ids)
    tags[:, 7::10], tags[:, 8::10] = 1, 2
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": tags}
    yield "softmax", BertForTokenClassification(encoder).cuda(), batch
    config = SemiCRFConfig(encoder_config=encoder, labels=labels, max_segment_length=16)
    mask = torch.ones_like(ids)
    yield "semi-CRF", SemiCRFForTokenClassification(config).cuda(), batch | {"word_mask": mask}


def record(sections: dict[str, Iterator[dict]], commit: str, out: Path | None) -> list[dict]:
    """Take all measurements, say where they were taken, and append them to a file."""
    where = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "commit": commit,
    }
    where |= {name: importlib.metadata.version(name) for name in PEERS if installed(name)}
    records = []
    for name, section in sections.items():
        for measured in section:
            records.append({"section": name} | measured | where)
            print(name, measured, flush=True)
            if out:
                with out.open("a") as file:
                    file.write(json.dumps(records[-1]) + "\n")
    return records


def table(records: list[dict]) -> str:
    """One line a shape and mode, one column a back end."""
    records = [r for r in records if "median_ms" in r and "axis" not in r]
    backends = list(dict.fromkeys(r["backend"] for r in records))
    rows: dict[tuple, dict[str, float]] = {}
    for r in records:
        rows.setdefault((*r["shape"], r["mode"]), {})[r["backend"]] = r["median_ms"]
    lines = ["| B, N, L, C | mode | " + " | ".join(f"{b}, ms" for b in backends) + " |"]
    lines.append("| --- " * (len(backends) + 2) + "|")
    for (*shape, mode), times in rows.items():
        cells = [f"{times[b]:.3g}" if b in times else "" for b in backends]
        lines.append(f"| {', '.join(map(str, shape))} | {mode} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, help="file of JSON lines to append to")
    parser.add_argument("--commit", default="unknown", help="what was measured")
    parser.add_argument("--sections", nargs="*", default=SECTIONS, choices=SECTIONS)
    parser.add_argument("--quick", action="store_true", help="leave out what takes long")
    arguments = parser.parse_args()
    sections = {"check": lambda quick: check(SHAPES), "latency": latency, "shapes": shapes,
                "peers": peers, "growth": growth, "compile": compile_}  # fmt: skip
    chosen = {name: sections[name](arguments.quick) for name in ("check", *arguments.sections)}
    print(table(record(chosen, arguments.commit, arguments.out)))


if __name__ == "__main__":
    main()
