"""Time the operations on a GPU, beside other libraries where they are installed.

    python scripts/bench.py --out benchmarks/results/h100.jsonl --commit "$(git describe --always)"
    python scripts/bench.py --plot benchmarks/results/h100.jsonl --figures benchmarks/results

Every run first checks the kernels against float64 PyTorch and stops where they are wrong. A line of
the output is one measurement: the median of device-event times in ms, their 20th and 80th
percentiles, the peak memory above the inputs, and where, on what and of which commit it was taken.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import triton
import triton.language as tl
from torch import Tensor

from hf_semicrf import ops
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
MODES = ("loss", "loss + gradient", "decode", "marginals")
PEERS = ("flash-semicrf", "pytorch-crf", "torch-struct")
SECTIONS = ("latency", "shapes", "peers", "growth", "compile", "model")
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


def flash_semicrf(p: Potentials) -> dict[str, Callable[[], object]]:
    """Its log-partition, that with its gradient, and its Viterbi score (no walk back)."""
    from flash_semicrf import semi_crf_streaming_forward

    longest = p.duration.shape[0]
    sums = torch.nn.functional.pad(p.emission.double().cumsum(1), (0, 0, 1, 0))
    inputs = [sums, p.transition, p.duration, p.start, p.end]
    leaves = [x.detach().clone().requires_grad_() for x in inputs]

    def forward(tensors, semiring) -> Tensor:
        sums, transition, duration, start, end = tensors
        return semi_crf_streaming_forward(
            sums, transition, duration, p.lengths, longest, semiring=semiring,
            proj_start=start, proj_end=end,
        )  # fmt: skip

    return {
        "loss": lambda: forward(inputs, "log"),
        "loss + gradient": lambda: torch.autograd.grad(forward(leaves, "log").sum(), leaves),
        "decode": lambda: forward(inputs, "max"),
    }


def pytorch_crf(p: Potentials) -> dict[str, Callable[[], object]]:
    """The linear chain; its decoding returns lists."""
    from torchcrf import CRF

    crf = CRF(p.transition.shape[0], batch_first=True).to(p.emission.device)
    tags = torch.zeros(p.emission.shape[:2], dtype=torch.long, device=p.emission.device)
    leaf = p.emission.detach().clone().requires_grad_()
    wanted = [leaf, *crf.parameters()]
    return {
        "loss": lambda: crf(p.emission, tags),
        "loss + gradient": lambda: torch.autograd.grad(crf(leaf, tags), wanted),
        "decode": lambda: crf.decode(p.emission),
    }


def torch_struct(p: Potentials) -> dict[str, Callable[[], object]]:
    """The dense semi-Markov model; memory keeps it to the small shapes."""
    from torch_struct import SemiMarkovCRF

    edge = torch.nn.functional.pad(ops.to_edge(p), (0, 0, 0, 0, 0, 0)).clamp(min=-1e9)
    leaf = edge.detach().clone().requires_grad_()

    def loss(x: Tensor) -> Tensor:
        return SemiMarkovCRF(x, lengths=p.lengths + 1).partition

    return {
        "loss": lambda: loss(edge),
        "loss + gradient": lambda: torch.autograd.grad(loss(leaf).sum(), leaf),
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


def check(shapes) -> None:
    """Stop unless the kernels agree with float64 PyTorch and with themselves, bit by bit.

    Raises:
        RuntimeError: They do not.
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
        error = ((ops.log_partition(p, backend="triton") - log_z) / log_z).abs().max().item()
        found = [
            gradient(x, ops.negative_log_likelihood(x, labels, starts, backend="triton").sum())
            for x in (wide, narrow)
        ]
        worst = {
            k: ((found[0][k] - expected[k]).abs().max() / expected[k].abs().max()).item()
            for k in expected
        }
        same = all(torch.equal(found[0][k], found[1][k]) for k in expected)
        best = ops.segmentation_score(exact, *ops.viterbi(p, backend="triton")[1:])
        gap = (ops.segmentation_score(exact, labels, starts) - best).abs().max().item()
        print(f"check {shape}: log Z {error:.1e}, gradient {max(worst.values()):.1e} "
              f"({max(worst, key=worst.get)}), path {gap:.1e} nats, repeatable {same}",
              flush=True)  # fmt: skip
        if not (error < 1e-6 and max(worst.values()) < 1e-4 and gap < 1e-2 and same):
            raise RuntimeError(f"the kernels are wrong at {shape}: nothing was timed")


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
    for types in (16, 32):
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
        for mode, function in ours(p, "triton").items():
            entry = {"backend": "triton", "mode": mode, "shape": shape}
            yield entry | time_ms(function)
            yield entry | {"backend": "triton, CUDA graph"} | graph_ms(function)
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
            if not installed(name) or (name == "torch-struct" and work > 3e8):
                continue
            if quick and work > 2e9:
                continue
            for mode, function in build(potentials(shape)).items():
                entry = {"backend": name, "mode": mode, "shape": shape}
                yield entry | time_ms(function, once=work > SLOW)
    if installed("pytorch-crf"):
        for mode, function in pytorch_crf(potentials(LINEAR_CHAIN)).items():
            entry = {"backend": "pytorch-crf", "mode": mode, "shape": LINEAR_CHAIN}
            yield entry | time_ms(function, once=True)


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
                entry = {"backend": "triton", "mode": mode, "shape": shape, "axis": axis}
                yield entry | time_ms(modes[mode])


def compile_(quick: bool) -> Iterator[dict]:
    """Seconds of the first call under torch.compile, and time of later ones."""
    import time

    for shape in [(32, 64, 16, 9), (32, 512, 16, 9)]:
        torch._dynamo.reset()
        p = potentials(shape)
        compiled = torch.compile(ours(p, "triton")["loss + gradient"])
        begin = time.perf_counter()
        compiled()
        torch.cuda.synchronize()
        entry = {"backend": "triton, torch.compile", "mode": "loss + gradient", "shape": shape}
        yield entry | {"first_call_s": time.perf_counter() - begin} | time_ms(compiled)


def model(quick: bool) -> Iterator[dict]:
    """A bert-base training step and inference beside the softmax head; random weights."""
    from transformers import BertConfig, BertForTokenClassification

    from hf_semicrf import SemiCRFConfig, SemiCRFForTokenClassification

    labels = ["O", *(f"{tag}-{name}" for name in ("PER", "ORG", "LOC", "MISC") for tag in "BI")]
    config = SemiCRFConfig(encoder_config=BertConfig(), labels=labels, max_segment_length=16)
    softmax = BertForTokenClassification(BertConfig(num_labels=len(labels)))
    ours = SemiCRFForTokenClassification(config)
    batch, positions = 32, 512
    ids = torch.randint(1000, 20000, (batch, positions), device="cuda")
    mask = torch.ones_like(ids)
    tags = torch.zeros_like(ids)
    tags[:, 7::10], tags[:, 8::10] = 1, 2
    for name, net in (("softmax", softmax), ("semi-CRF", ours)):
        net = net.to("cuda")
        optimizer = torch.optim.AdamW(net.parameters(), lr=1e-5, fused=True)

        def step(net=net, optimizer=optimizer):
            with torch.autocast("cuda", dtype=torch.bfloat16):
                loss = net(input_ids=ids, attention_mask=mask, labels=tags).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        words = {} if name == "softmax" else {"word_mask": mask}

        def infer(net=net, words=words):
            with torch.no_grad():
                return net(input_ids=ids, attention_mask=mask, **words)

        entry = {"backend": name, "shape": (batch, positions, 16, 5)}
        yield entry | {"mode": "training step"} | time_ms(step)
        net.eval().to(torch.bfloat16)
        yield entry | {"mode": "inference"} | time_ms(infer)
        del net, optimizer


def installed(package: str) -> bool:
    """Whether a distribution is there."""
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


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
    backends = list(dict.fromkeys(r["backend"] for r in records if "axis" not in r))
    rows: dict[tuple, dict[str, float]] = {}
    for r in records:
        if "axis" not in r:
            rows.setdefault((*r["shape"], r["mode"]), {})[r["backend"]] = r["median_ms"]
    lines = ["| B, N, L, C | mode | " + " | ".join(f"{b}, ms" for b in backends) + " |"]
    lines.append("| --- " * (len(backends) + 2) + "|")
    for (*shape, mode), times in rows.items():
        cells = [f"{times[b]:.3g}" if b in times else "" for b in backends]
        lines.append(f"| {', '.join(map(str, shape))} | {mode} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot(records: list[dict], folder: Path) -> None:
    """Growth of time and memory, and the shapes beside the peers, as PNG files."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

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
    figure.savefig(folder / "growth.png", dpi=150)

    wanted = ["triton", *PEERS]
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
        figure.savefig(folder / f"{mode.replace(' + ', '_and_')}.png", dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, help="file of JSON lines to append to")
    parser.add_argument("--commit", default="unknown", help="what was measured")
    parser.add_argument("--sections", nargs="*", default=SECTIONS, choices=SECTIONS)
    parser.add_argument("--quick", action="store_true", help="leave out what takes long")
    parser.add_argument("--plot", type=Path, help="only draw the figures of a file of JSON lines")
    parser.add_argument("--figures", type=Path, default=Path(), help="folder for the figures")
    arguments = parser.parse_args()
    if arguments.plot:
        records = [json.loads(line) for line in arguments.plot.read_text().splitlines()]
        plot(records, arguments.figures)
        print(table(records))
        return

    check(SHAPES[: 3 if arguments.quick else None])
    sections = {"latency": latency, "shapes": shapes, "peers": peers, "growth": growth,
                "compile": compile_, "model": model}  # fmt: skip
    chosen = {name: sections[name](arguments.quick) for name in arguments.sections}
    print(table(record(chosen, arguments.commit, arguments.out)))


if __name__ == "__main__":
    main()
