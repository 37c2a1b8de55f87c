"""Measure the dense contract on a GPU: correctness first, then medians by device events.

Prints a table and writes one JSON line a measurement. A section that fails is recorded and makes
the exit status 1; nothing is timed unless the correctness section passed.

    python benchmarks/dense.py --out benchmarks/results/dense.jsonl
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from hf_semicrf import ops as dense  # noqa: E402

# Sequences, T-1, K, C: the first has the bars, the next three compare with the PyTorch path.
SHAPES = [
    (64, 1000, 101, 24),
    (32, 512, 17, 9),
    (32, 512, 17, 19),
    (16, 512, 33, 67),
    (4, 20000, 101, 24),
]
FIRST_CALL = (32, 17, 9)


def potentials(shape, dtype=torch.float32, seed=0):
    """Random edges in place, and full lengths."""
    batch, rows, size, types = shape
    generator = torch.Generator("cuda").manual_seed(seed)
    edge = torch.empty((batch, rows, size, types, types), dtype=dtype, device="cuda")
    for row in edge:
        row.normal_(generator=generator)
    return edge, torch.full((batch,), rows + 1, device="cuda")


def timed(function, repeat, warmup=2):
    """Median, p20 and p80 of the milliseconds that one call takes on the device."""
    for _ in range(warmup):
        function()
    events = []
    for _ in range(repeat):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        function()
        end.record()
        events.append((start, end))
    torch.cuda.synchronize()
    times = torch.tensor([a.elapsed_time(b) for a, b in events], dtype=torch.float64)
    low, middle, high = times.quantile(torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)).tolist()
    return {"ms": middle, "p20": low, "p80": high, "repeat": repeat}


class Report:
    """Collects measurements, prints each and writes it as a JSON line."""

    def __init__(self, out):
        self.out = out
        self.failed = False
        self.ceiling = None  # bytes a second of a plain copy
        self.shared = {
            "commit": git_commit(),
            "device": torch.cuda.get_device_name(),
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "triton": __import__("triton").__version__,
            "python": platform.python_version(),
        }
        print(json.dumps(self.shared), flush=True)

    def add(self, name, **values):
        line = {"name": name, **values}
        if self.out:
            with self.out.open("a") as file:
                file.write(json.dumps({**line, **self.shared}) + "\n")
        text = " ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}"
                        for k, v in values.items())  # fmt: skip
        print(f"{name:28s} {text}", flush=True)

    def section(self, function, *arguments):
        begin = time.perf_counter()
        try:
            function(self, *arguments)
        except Exception as error:
            self.failed = True
            traceback.print_exc()
            self.add("failure", section=function.__name__, error=repr(error)[:500])
        torch.cuda.empty_cache()
        print(
            f"-- {function.__name__} {arguments}: {time.perf_counter() - begin:.1f} s", flush=True
        )


def git_commit():
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or None


# --- correctness ---------------------------------------------------------------------------------


def both(edge, lengths, semiring, **arguments):
    """Score and gradient, in float64."""
    leaf = edge.detach().clone().requires_grad_()
    score = dense.semi_crf_triton_forward(leaf, lengths, semiring=semiring, **arguments)
    (slope,) = torch.autograd.grad(score.sum(), leaf)
    return score.detach(), slope


def unused(edge, lengths):
    """Mask of the entries that no tiling uses."""
    batch, rows, size = edge.shape[:3]
    start = torch.arange(rows, device="cuda")[:, None]
    index = torch.arange(size, device="cuda")
    duration = index if size > 1 else index + 1
    outside = start + duration > lengths[:, None, None] - 1
    return (outside | (duration == 0)).expand(batch, rows, size)[..., None, None].expand_as(edge)


def check(condition, message):
    if not bool(condition):
        raise AssertionError(message)


def correctness(report):
    """Kernels against PyTorch in float64; float32 must err at most twice as much as PyTorch."""
    shapes = [(5, 90, 50, 24), (5, 130, 17, 9), (5, 60, 33, 67), (5, 40, 1, 5), (5, 9, 4, 1)]
    for shape in shapes:
        for semiring in ("log", "max"):
            edge, _ = potentials(shape)
            rows = shape[1]
            lengths = torch.tensor([rows + 1, rows // 2, 3, 2, 1], device="cuda")
            where = unused(edge, lengths)
            edge.masked_fill_(where, torch.nan)
            exact = both(edge.double(), lengths, semiring, validate=True)
            kernel = both(edge, lengths, semiring)
            plain = both(edge, lengths, semiring, use_triton=False)
            errors = {}
            for i, part in enumerate(("score", "gradient")):
                truth = exact[i]
                errors[part] = float((kernel[i].double() - truth).abs().max())
                errors[part + "_torch"] = float((plain[i].double() - truth).abs().max())
                floor = 1e-6 * max(1.0, float(truth.abs().max()))
                bound = 2 * errors[part + "_torch"] + floor
                check(errors[part] <= bound, f"{shape} {semiring} {part}: {errors}")
            check((kernel[1][where] == 0).all(), f"{shape} {semiring}: gradient outside")
            again = both(edge, lengths, semiring)
            check(all(map(torch.equal, kernel, again)), f"{shape} {semiring}: not deterministic")
            report.add("correct", shape=shape, semiring=semiring, **errors)
    dtypes(report)
    special(report)


def dtypes(report):
    shape, rows = (4, 70, 50, 24), 70
    tolerance = {torch.float64: 1e-11, torch.float16: 0.3, torch.bfloat16: 2.0}
    for dtype, bound in tolerance.items():
        for semiring in ("log", "max"):
            edge, _ = potentials(shape, dtype)
            lengths = torch.tensor([rows + 1, rows // 2, 3, 1], device="cuda")
            score, slope = both(edge, lengths, semiring)
            truth = dense.semi_crf_triton_forward(
                edge.double(), lengths, semiring=semiring, validate=True
            )
            check(score.dtype == slope.dtype == dtype, f"{dtype}: output dtype")
            error = float((score.double() - truth).abs().max())
            check(error <= bound, f"{dtype} {semiring}: {error}")
            duration = torch.arange(50, device="cuda")
            covered = (slope.double().sum((1, 3, 4)) * duration).sum(1)
            gap = float((covered - (lengths - 1)).abs().max())
            check(gap <= (1e-9 if dtype == torch.float64 else 1.0), f"{dtype}: covers {covered}")
            report.add("correct", dtype=str(dtype), semiring=semiring, score=error, covered=gap)


def special(report):
    edge, lengths = potentials((4, 70, 50, 24))
    lengths[1:] = torch.tensor([71, 40, 2], device="cuda")
    bad = lengths.clone()
    bad[0], bad[1] = 0, 72
    score = dense.semi_crf_triton_forward(edge, bad)
    check(score[:2].isnan().all() and score[2:].isfinite().all(), "impossible lengths on the GPU")
    strided = edge.permute(4, 2, 0, 3, 1).contiguous().permute(2, 4, 1, 3, 0)
    check(torch.equal(*(both(e, lengths, "log")[1] for e in (edge, strided))), "strides")
    forbidden = edge.masked_fill(torch.rand_like(edge) < 0.5, -torch.inf)
    forbidden[3] = -torch.inf
    for semiring in ("log", "max"):
        score, slope = both(forbidden, lengths, semiring)
        check(score[3] == -torch.inf and slope[3].eq(0).all(), "no tiling is possible")
        check(slope.isfinite().all() and score[:3].isfinite().all(), "-inf")
        exact = both(forbidden, lengths, semiring, validate=True)[0]
        check((score - exact)[:3].abs().max() < 1e-3, "-inf: score")
    best, labels, starts = dense.edge_viterbi(edge, lengths)
    reference = dense.edge_viterbi(edge, lengths, use_triton=False)
    check(torch.equal(labels, reference[1]) and torch.equal(starts, reference[2]), "viterbi")
    check((best - reference[0]).abs().max() < 1e-3, "viterbi score")
    marginals = dense.edge_marginals(edge, lengths)
    gap = (marginals - dense.edge_marginals(edge, lengths, use_triton=False)).abs().max()
    check(gap < 1e-4, f"marginals {gap}")
    report.add("correct", cases="impossible lengths, strides, -inf, viterbi, marginals")
    del edge, strided, forbidden, marginals
    edge, lengths = potentials((1, 1100, 90, 150), torch.bfloat16)
    check(edge.numel() > 2**31, "the large case is large")
    kernel = dense.semi_crf_triton_forward(edge, lengths).double()
    plain = dense.linear_scan_streaming(edge, lengths).double()
    check(abs(kernel - plain) <= 2**-7 * plain.abs(), f"over 2^31 elements: {kernel} {plain}")
    slope = dense.edge_marginals(edge, lengths)
    covered = sum(
        float((part.double().sum((1, 2)) * d).sum()) for d, part in enumerate(slope[0].unbind(1))
    )
    check(abs(covered - 1100) < 11, f"over 2^31 elements: the gradient covers {covered}")
    report.add("correct", elements=edge.numel(), score=float(kernel), torch=float(plain))


# --- speed ---------------------------------------------------------------------------------------


def ceiling(report):
    """What a plain copy moves: the floor of reading a tensor once."""
    source = torch.empty(1 << 30, device="cuda")
    target = torch.empty_like(source)
    time_ = timed(lambda: target.copy_(source), 20)
    report.ceiling = 2 * source.nbytes / time_["ms"] * 1e3
    report.add("copy", **time_, tb_per_s=report.ceiling / 1e12)


def speed(report, shape):
    """Forward, gradient, path and marginals of the kernels at one shape."""
    edge, lengths = potentials(shape)
    floor = edge.nbytes / (report.ceiling or 3e12) * 1e3
    large = edge.nbytes > 1 << 30
    repeat = 10 if large else 30
    leaf = edge.requires_grad_()

    def forward(semiring):
        with torch.no_grad():
            return dense.semi_crf_triton_forward(edge, lengths, semiring=semiring)

    def gradient(semiring):
        score = dense.semi_crf_triton_forward(leaf, lengths, semiring=semiring)
        return torch.autograd.grad(score.sum(), leaf)

    cases = {
        "forward log": lambda: forward("log"),
        "forward max": lambda: forward("max"),
        "forward+gradient log": lambda: gradient("log"),
        "forward+gradient max": lambda: gradient("max"),
        "viterbi": lambda: dense.edge_viterbi(edge, lengths),
        "marginals": lambda: dense.edge_marginals(edge, lengths),
    }
    for name, function in cases.items():
        time_ = timed(function, repeat)
        report.add(name, shape=shape, **time_, floor_ms=floor, floors=time_["ms"] / floor)


def against_torch(report, shape):
    """Our own PyTorch path on the same GPU."""
    edge, lengths = potentials(shape)
    leaf = edge.requires_grad_()
    for semiring in ("log", "max"):
        run = functools.partial(dense.semi_crf_triton_forward, edge, lengths, semiring=semiring)
        with torch.no_grad():
            kernel = timed(run, 10)
            plain = timed(functools.partial(run, use_triton=False), 3, warmup=1)
        times = plain["ms"] / kernel["ms"]
        report.add(f"torch forward {semiring}", shape=shape, **plain, times=times)

    def gradient(**arguments):
        score = dense.semi_crf_triton_forward(leaf, lengths, **arguments)
        return torch.autograd.grad(score.sum(), leaf)

    kernel = timed(gradient, 5)
    plain = timed(lambda: gradient(use_triton=False), 2, warmup=1)
    report.add("torch gradient log", shape=shape, **plain, times=plain["ms"] / kernel["ms"])


# --- first compiled call -------------------------------------------------------------------------


def first_call(boundaries):
    """One process: the first compiled training call, then 20 steps of other shapes."""
    from torch._dynamo.utils import counters

    batch, size, types = FIRST_CALL

    def case(boundaries, batch):
        edge, lengths = potentials((batch, boundaries - 1, size, types))
        lengths -= torch.arange(batch, device="cuda") % (boundaries - 1)
        return edge.requires_grad_(), lengths

    def loss(edge, lengths):
        return dense.semi_crf_triton_forward(edge * 1.5, lengths).sum()

    def kernels():
        return sum(1 for _ in Path(os.environ["TRITON_CACHE_DIR"]).rglob("*.cubin"))

    step = torch.compile(loss, fullgraph=True, dynamic=True)
    edge, lengths = case(boundaries, batch)
    torch.cuda.synchronize()
    begin = time.perf_counter()
    step(edge, lengths).backward()
    torch.cuda.synchronize()
    seconds = time.perf_counter() - begin
    expected = torch.autograd.grad(loss(edge, lengths), edge)[0]
    same = torch.equal(edge.grad, expected)
    before = counters["stats"]["unique_graphs"], kernels()
    slowest = 0.0
    for i in range(20):
        edge, lengths = case(40 + 53 * i, 3 + i % 5)
        begin = time.perf_counter()
        step(edge, lengths).backward()
        torch.cuda.synchronize()
        slowest = max(slowest, time.perf_counter() - begin)
    after = counters["stats"]["unique_graphs"], kernels()
    line = {
        "T": boundaries,
        "seconds": seconds,
        "equal_to_eager": same,
        "graphs": before[0],
        "recompiled_graphs": after[0] - before[0],
        "kernels": before[1],
        "recompiled_kernels": after[1] - before[1],
        "slowest_further_step_s": slowest,
    }
    print("RESULT " + json.dumps(line))


def compiled(report, boundaries):
    """The first call in a fresh process with empty caches."""
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {
            "TRITON_CACHE_DIR": f"{cache}/triton",
            "TORCHINDUCTOR_CACHE_DIR": f"{cache}/inductor",
        }
        done = subprocess.run(
            [sys.executable, __file__, "--first-call", str(boundaries)],
            env=environment, capture_output=True, text=True, check=False, timeout=280,
        )  # fmt: skip
    lines = [x for x in done.stdout.splitlines() if x.startswith("RESULT ")]
    check(done.returncode == 0 and lines, done.stderr[-1500:])
    result = json.loads(lines[0][len("RESULT ") :])
    report.add("first compiled call", **result)
    check(result["equal_to_eager"], "compiled and eager gradients differ")
    check(result["recompiled_graphs"] == 0, "a further step recompiled the graph")
    check(result["recompiled_kernels"] == 0, "a further step recompiled a kernel")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="file for the JSON lines, begun anew")
    parser.add_argument("--only", help="comma-separated sections, e.g. correctness,speed")
    parser.add_argument("--first-call", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.first_call:
        first_call(options.first_call)
        return
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.unlink(missing_ok=True)
    only = options.only.split(",") if options.only else None
    report = Report(options.out)
    sections = [
        (correctness,),
        (ceiling,),
        *((speed, shape) for shape in SHAPES),
        *((against_torch, shape) for shape in SHAPES[:4]),
        (compiled, 64),
        (compiled, 1000),
    ]
    for function, *arguments in sections:
        if only and function.__name__ not in only:
            continue
        report.section(function, *arguments)
        if function is correctness and report.failed:
            break
    sys.exit(report.failed)


if __name__ == "__main__":
    main()
