"""Compare two checkouts of hf_semicrf on one GPU: correctness first, then paired times.

python benchmarks/compare.py --before DIR --after DIR --out compare.json
python benchmarks/compare.py --before DIR --after DIR --tiny   # on the CPU, in the interpreter

Each checkout runs in a process of its own, since their custom ops share names. The processes
compile side by side and are timed in turns, never at once: before, after, after, before, ... The
table gives the median of the rounds' medians in ms, and the median of the paired ratios. Needs
torch and triton alone. Exit status 1 where a result is wrong or a decoded path differs; other bits
than before are listed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
import types
from pathlib import Path

# batch, positions, longest segment, types
SHAPES = [
    (32, 128, 8, 5),
    (32, 512, 16, 9),
    (32, 512, 16, 19),
    (16, 512, 32, 67),
    (64, 1000, 100, 24),
    (4, 20000, 100, 24),
]
CHECKED = [
    (4, 128, 8, 5),
    (4, 200, 16, 9),
    (4, 200, 16, 19),
    (4, 120, 32, 67),
    (4, 200, 100, 24),
    (2, 150, 1, 9),
    (2, 100, 64, 130),
    (2, 500, 400, 24),
]  # the last two in blocks of time
# sequences, T-1, K, C
DENSE = [(32, 512, 17, 9), (8, 1000, 101, 24)]
DENSE_CHECKED = [(3, 60, 17, 9), (3, 70, 50, 24), (3, 40, 33, 67)]
SPANS = [(32, 128, 10, 192, 9), (8, 512, 16, 192, 19)]  # batch, positions, longest, width, types
SPANS_CHECKED = [(3, 60, 10, 192, 9), (2, 70, 16, 96, 19)]
TINY = dict(
    SHAPES=[(2, 6, 3, 3)],
    CHECKED=[(2, 6, 3, 3), (2, 5, 1, 2)],
    DENSE=[(2, 6, 4, 3)],
    DENSE_CHECKED=[(3, 8, 4, 3)],
    SPANS=[(2, 6, 3, 16, 3)],
    SPANS_CHECKED=[(2, 6, 3, 16, 3)],
)
ROUNDS = 9
TARGET_MS = 40.0  # of one timed round of one operation
GRAPH_CALLS = 10


# the process of one checkout


def load(root: Path):
    """hf_semicrf.ops without the package's __init__, which imports transformers."""
    for name in ("psutil", "numpy"):  # of which nothing that runs here makes use
        try:
            __import__(name)
        except ImportError:
            sys.modules[name] = types.ModuleType(name)
    package = types.ModuleType("hf_semicrf")
    package.__path__ = [str(root / "hf_semicrf")]
    sys.modules["hf_semicrf"] = package
    import hf_semicrf.ops as ops

    assert Path(ops.__file__).resolve().is_relative_to(root.resolve()), ops.__file__
    return ops


class Worker:
    def __init__(self, root: Path, device: str):
        import torch

        self.torch, self.device, self.ops = torch, device, load(root)
        self.function = self.replay = None
        try:
            from hf_semicrf.ops.span_scores import span_scores  # the layout before

            self.span_scores = lambda *inputs: span_scores(*inputs, 0.0, "mean", "triton")
        except ImportError:
            self.span_scores = lambda *inputs: self.ops.span_scores(*inputs, 0.0, "triton")

    # inputs: of the CPU's generator, so that both processes see the same bits

    def normal(self, generator, *size, dtype=None):
        x = self.torch.randn(size, generator=generator)
        return x.to(self.device, dtype or self.torch.float32)

    def potentials(self, shape, segment=False, ragged=False):
        batch, positions, longest, types = shape
        g = self.torch.Generator().manual_seed(sum(shape))
        lengths = self.torch.full((batch,), positions)
        if ragged:
            lengths[-1] = positions // 2 + 1
        return self.ops.Potentials(
            emission=self.normal(g, batch, positions, types),
            segment=self.normal(g, batch, positions, longest, types) if segment else None,
            start=self.normal(g, batch, positions, types),
            end=self.normal(g, batch, positions, types),
            duration=self.normal(g, longest, types),
            transition=self.normal(g, types, types),
            initial=self.normal(g, types),
            final=self.normal(g, types),
            lengths=lengths.to(self.device),
        )

    def edge(self, shape, ragged=False):
        batch, rows, size, types = shape
        g = self.torch.Generator().manual_seed(sum(shape))
        edge = self.torch.empty(batch, rows, size, types, types, device=self.device)
        for row in edge:
            row.copy_(self.torch.randn(row.shape, generator=g))
        lengths = self.torch.full((batch,), rows + 1)
        if ragged:
            lengths[1:] = self.torch.tensor([rows // 2, 2] * batch)[: batch - 1]
        return edge, lengths.to(self.device)

    def spans(self, shape, dtype):
        batch, positions, longest, width, types = shape
        g = self.torch.Generator().manual_seed(sum(shape))
        sizes = ((batch, positions, 3 * width), (longest, width), (types, width), (types,))
        return [(self.normal(g, *size) / 4).to(dtype).requires_grad_() for size in sizes]

    def leaves(self, p):
        return p.map(lambda x: x.detach().clone().requires_grad_())

    def gradients(self, p, value):
        given = {k: x for k, x in p._asdict().items() if x is not None and k != "lengths"}
        return dict(zip(given, self.torch.autograd.grad(value, list(given.values())), strict=True))

    # correctness: tensors to a file, that the parent compares

    def check_factored(self, shape, segment, path):
        torch, ops = self.torch, self.ops
        p = self.potentials(shape, segment, ragged=True)
        leaf = self.leaves(p)
        log_z = ops.log_partition(leaf, backend="triton")
        out = {f"gradient of {k}": x for k, x in self.gradients(leaf, log_z.sum()).items()}
        out["log Z"] = log_z.detach()
        out["log Z, no gradient"] = ops.log_partition(p, backend="triton")
        score, labels, starts = ops.viterbi(p, backend="triton")
        out |= {"best score": score, "labels": labels, "starts": starts}
        leaf = self.leaves(p)
        nll = ops.negative_log_likelihood(leaf, labels, starts, backend="triton")
        out["loss"] = nll.detach()
        out |= {f"loss gradient of {k}": x for k, x in self.gradients(leaf, nll.sum()).items()}
        torch.save({"potentials": {k: x for k, x in p._asdict().items()}, **out}, path)

    def check_dense(self, shape, path):
        edge, lengths = self.edge(shape, ragged=True)
        out = {}
        for semiring in ("log", "max"):
            leaf = edge.clone().requires_grad_()
            score = self.ops.semi_crf_triton_forward(leaf, lengths, semiring=semiring)
            (gradient,) = self.torch.autograd.grad(score.sum(), leaf)
            out |= {f"{semiring} score": score.detach(), f"{semiring} gradient": gradient}
        _, out["labels"], out["starts"] = self.ops.edge_viterbi(edge, lengths)
        self.torch.save({"edge": edge, "lengths": lengths, **out}, path)

    def check_spans(self, shape, dtype, path):
        inputs = self.spans(shape, getattr(self.torch, dtype))
        scores = self.span_scores(*inputs)
        n = self.torch.arange(shape[1], device=self.device)
        inside = n[:, None] + self.torch.arange(shape[2], device=self.device) < shape[1]
        scores = self.torch.where(inside[..., None], scores, 0)
        gradients = self.torch.autograd.grad(scores.square().sum(), inputs)
        out = {f"gradient {i}": x for i, x in enumerate(gradients)} | {"scores": scores.detach()}
        self.torch.save({"inputs": [x.detach() for x in inputs], **out}, path)

    # times

    def prepare(self, operation, shape):
        torch, ops = self.torch, self.ops
        self.function = self.replay = self.graph = None
        if self.device == "cuda":
            torch.cuda.empty_cache()
        shape = tuple(shape)
        graph = True
        if operation in (
            "loss + gradient",
            "decode",
            "loss + gradient, segment scores",
            "decode, segment scores",
        ):
            p = self.potentials(shape, segment="segment" in operation)
            _, labels, starts = ops.viterbi(p, backend="triton")
            leaf = self.leaves(p)
            if operation.startswith("decode"):

                def function():
                    return ops.viterbi(p, backend="triton")
            else:

                def function():
                    nll = ops.negative_log_likelihood(leaf, labels, starts, backend="triton")
                    return self.gradients(leaf, nll.sum())
        elif operation.startswith("dense"):
            edge, lengths = self.edge(shape)
            graph = False  # as the bench of the dense contract times it
            if operation == "dense forward":

                def function():
                    return ops.semi_crf_triton_forward(edge, lengths)
            else:
                leaf = edge.requires_grad_()

                def function():
                    score = ops.semi_crf_triton_forward(leaf, lengths)
                    return torch.autograd.grad(score.sum(), leaf)
        else:
            inputs = self.spans(shape, torch.bfloat16 if self.device == "cuda" else torch.float32)
            grad = torch.ones((*shape[:3], shape[4]), device=self.device)
            if operation == "span scores":
                fixed = [x.detach() for x in inputs]

                def function():
                    return self.span_scores(*fixed)
            else:

                def function():
                    return torch.autograd.grad(self.span_scores(*inputs), inputs, grad)

        self.function = function
        if self.device != "cuda":
            self.calls, self.repeat = 1, 2
            self.replay = function
            return {"graph": False}
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for _ in range(3):
                function()
        torch.cuda.synchronize()
        self.replay, self.calls = function, 1
        once = self.time(repeat=3)["ms"]
        if graph:
            self.calls = max(1, min(GRAPH_CALLS, int(TARGET_MS / 4 / once)))
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph, stream=stream):
                for _ in range(self.calls):
                    function()
            self.replay = self.graph.replay
        once = self.time(repeat=3)["ms"]
        self.repeat = max(5, min(100, int(TARGET_MS / (once * self.calls))))
        return {"graph": graph}

    def time(self, repeat=None):
        """Median ms of one call, over some replays; all are issued before the first is awaited."""
        torch, repeat = self.torch, repeat or self.repeat
        if self.device != "cuda":
            times = []
            for _ in range(repeat):
                begin = time.perf_counter()
                self.replay()
                times.append((time.perf_counter() - begin) * 1e3)
            return {"ms": statistics.median(times)}
        self.replay()
        events = []
        for _ in range(repeat):
            a, b = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            a.record()
            self.replay()
            b.record()
            events.append((a, b))
        torch.cuda.synchronize()
        return {"ms": statistics.median(a.elapsed_time(b) for a, b in events) / self.calls}

    def where(self):
        import triton

        name = self.torch.cuda.get_device_name() if self.device == "cuda" else "cpu"
        return {"device": name, "torch": self.torch.__version__, "triton": triton.__version__}


def serve(root: Path, device: str) -> None:
    """Answer one JSON line with another; what the library prints goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    worker = Worker(root, device)
    for line in sys.stdin:
        name, arguments = json.loads(line)
        try:
            answer = {"ok": getattr(worker, name)(*arguments)}
        except Exception:
            answer = {"error": traceback.format_exc()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


class Checkout:
    """The process of one checkout, as its parent sees it."""

    def __init__(self, name: str, root: Path, device: str):
        environment = dict(os.environ)
        if device == "cpu":
            environment |= {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
        command = [
            sys.executable,
            "-W",
            "ignore",
            __file__,
            "--worker",
            str(root),
            "--device",
            device,
        ]
        self.name = name
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def ask(self, name, *arguments):
        self.process.stdin.write(json.dumps([name, arguments]) + "\n")
        self.process.stdin.flush()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process of {self.name} ended: {self.process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"{self.name}: {answer['error']}")
        return answer["ok"]


def both(checkouts, name, *arguments, paths=None):
    """Ask both processes, which work side by side."""
    for i, checkout in enumerate(checkouts):
        checkout.ask(name, *arguments, *([str(paths[i])] if paths else []))
    return [checkout.answer() for checkout in checkouts]


# float64 references in plain PyTorch


def reference(p, reduce):
    """Log Z or the best score [B] of factored potentials, a step a position."""
    import torch

    emission, batch = p["emission"], p["emission"].shape[0]
    longest = p["duration"].shape[0]
    pre, window, out = p["initial"].expand(batch, -1), None, []
    for n in range(emission.shape[1]):
        opened = (pre + p["start"][:, n])[:, None]
        window = opened if window is None else torch.cat([opened, window[:, : longest - 1]], 1)
        window = window + emission[:, n, None]  # [B, d, C], the newest first
        size = window.shape[1]
        scores = window + p["duration"][:size] + p["end"][:, n, None]
        if p["segment"] is not None:
            d = torch.arange(size, device=emission.device)
            scores = scores + p["segment"][:, n - d, d]
        ended = reduce(scores, 1)
        out.append(reduce(ended + p["final"], -1))
        pre = reduce(ended[..., None] + p["transition"], 1)
    return torch.stack(out, 1).gather(1, p["lengths"][:, None] - 1)[:, 0]


def dense_reference(edge, lengths, reduce):
    """The score [B] of edge potentials, a step a boundary."""
    import torch

    batch, rows, size, types, _ = edge.shape
    beta = [edge.new_zeros(batch, types)]
    for n in range(1, rows + 1):
        ways = [beta[n - d][:, None] + edge[:, n - d, d] for d in range(1, min(size - 1, n) + 1)]
        beta.append(reduce(torch.stack(ways, -1).flatten(2), -1))
    score = reduce(torch.stack(beta, 1), -1)
    return score.gather(1, lengths[:, None] - 1)[:, 0]


def span_reference(states, width, weight, bias):
    import torch

    first, last, inside = states.chunk(3, -1)
    positions, longest = states.shape[1], len(width)
    sums = torch.nn.functional.pad(inside.cumsum(1), (0, 0, 1, longest))
    last = torch.nn.functional.pad(last, (0, 0, 0, longest))
    out = []
    for d in range(longest):
        mean = (sums[:, d + 1 : d + 1 + positions] - sums[:, :positions]) / (d + 1)
        x = first + last[:, d : d + positions] + mean + width[d]
        out.append(torch.nn.functional.gelu(x) @ weight.T + bias)
    scores = torch.stack(out, 2)
    n = torch.arange(positions, device=scores.device)
    inside = n[:, None] + torch.arange(longest, device=scores.device) < positions
    return torch.where(inside[..., None], scores, 0)


def relative(x, exact):
    """The largest error, relative to the largest exact entry."""
    largest = exact.abs().max().clamp(min=1e-30)
    return ((x.double() - exact).abs().max() / largest).item()


def check(checkouts, sizes, device, folder):
    """Records of all comparisons, each with its verdict."""
    import torch

    paths = [Path(folder) / f"{c.name}.pt" for c in checkouts]
    records = []

    def compare(kind, shape, exact, limits):
        saved = [torch.load(path, map_location=device, weights_only=False) for path in paths]
        errors = {}
        for c, tensors in zip(checkouts, saved, strict=True):
            for key, value in exact.items():
                errors[f"{c.name} {key}"] = relative(tensors[key], value)
        skipped = ("potentials", "inputs", "edge", "lengths")
        changed = [
            k for k, x in saved[0].items() if k not in skipped and not torch.equal(x, saved[1][k])
        ]
        wrong = [k for k, e in errors.items() if not e <= limits(k)]
        record = {
            "section": "check",
            "kind": kind,
            "shape": shape,
            "worst": max(errors.values()),
            "wrong": wrong,
            "other bits": changed,
            "errors": errors,
        }
        records.append(record)
        print(
            f"{kind:26s} {str(tuple(shape)):24s} worst relative error {record['worst']:.1e}  "
            f"wrong: {wrong or 'none'}  other bits: {changed or 'none'}",
            flush=True,
        )

    def first():
        return torch.load(paths[0], map_location=device, weights_only=False)

    for shape in sizes["CHECKED"]:
        for segment in (False, True):
            both(checkouts, "check_factored", shape, segment, paths=paths)
            p = {
                k: x if x is None or k == "lengths" else x.double()
                for k, x in first()["potentials"].items()
            }
            leaf = {
                k: x if x is None or k == "lengths" else x.requires_grad_() for k, x in p.items()
            }
            log_z = reference(leaf, torch.logsumexp)
            names = [k for k, x in leaf.items() if x is not None and k != "lengths"]
            gradients = torch.autograd.grad(log_z.sum(), [leaf[k] for k in names])
            with torch.no_grad():
                best = reference(p, torch.amax)
            exact = {f"gradient of {k}": g for k, g in zip(names, gradients, strict=True)}
            exact |= {
                "log Z": log_z.detach(),
                "log Z, no gradient": log_z.detach(),
                "best score": best,
            }
            kind = "factored, segment scores" if segment else "factored"
            compare(
                kind,
                shape,
                exact,
                lambda k: 3e-5 if "gradient of" in k else 2e-5 if "best" in k else 1e-6,
            )
            del leaf, log_z, gradients
    for shape in sizes["DENSE_CHECKED"]:
        both(checkouts, "check_dense", shape, paths=paths)
        saved = first()
        exact = {}
        for semiring, reduce in (("log", torch.logsumexp), ("max", torch.amax)):
            leaf = saved["edge"].double().requires_grad_()
            score = dense_reference(leaf, saved["lengths"], reduce)
            exact[f"{semiring} score"] = score.detach()
            (exact[f"{semiring} gradient"],) = torch.autograd.grad(score.sum(), leaf)
        compare("dense", shape, exact, lambda k: 3e-5)
    for shape in sizes["SPANS_CHECKED"]:
        for dtype in ("float32", "bfloat16"):
            both(checkouts, "check_spans", shape, dtype, paths=paths)
            inputs = [x.double().requires_grad_() for x in first()["inputs"]]
            scores = span_reference(*inputs)
            gradients = torch.autograd.grad(scores.square().sum(), inputs)
            exact = {f"gradient {i}": x for i, x in enumerate(gradients)} | {
                "scores": scores.detach()
            }
            limit = 3e-5 if dtype == "float32" else 2e-2
            compare(f"span scores, {dtype}", shape, exact, lambda k, limit=limit: limit)
    return records


def operations(sizes):
    for shape in sizes["SHAPES"]:
        yield "loss + gradient", shape
        yield "decode", shape
    for shape in sizes["SHAPES"][:2]:
        yield "loss + gradient, segment scores", shape
        yield "decode, segment scores", shape
    for shape in sizes["DENSE"]:
        yield "dense forward", shape
        yield "dense forward + gradient", shape
    for shape in sizes["SPANS"]:
        yield "span scores", shape
        yield "span scores + gradient", shape


def measure(checkouts, sizes, rounds, deadline):
    """Paired medians of every operation; what does not fit in the time is left out and said so."""
    records = []
    for operation, shape in operations(sizes):
        if time.monotonic() > deadline:
            print(f"left out for want of time: {operation} {shape}", flush=True)
            records.append(
                {"section": "time", "operation": operation, "shape": shape, "left out": True}
            )
            continue
        graph = both(checkouts, "prepare", operation, shape)[0]["graph"]
        times = [[], []]
        for i in range(rounds + 1):
            for side in (0, 1) if i % 2 == 0 else (1, 0):
                checkouts[side].ask("time")
                milliseconds = checkouts[side].answer()["ms"]
                if i:  # the first round warms up
                    times[side].append(milliseconds)
        ratios = sorted(b / a for a, b in zip(*times, strict=True))
        record = {
            "section": "time",
            "operation": operation,
            "shape": shape,
            "graph": graph,
            "before_ms": statistics.median(times[0]),
            "after_ms": statistics.median(times[1]),
            "ratio": statistics.median(ratios),
            "ratio_low": ratios[len(ratios) // 5],
            "ratio_high": ratios[-1 - len(ratios) // 5],
            "times_ms": times,
        }
        records.append(record)
        print(
            f"timed {operation} {shape}: {record['before_ms']:.4g} -> {record['after_ms']:.4g} ms",
            flush=True,
        )
    return records


def table(records):
    lines = [
        "| operation | shape | before, ms | after, ms | after / before (p20-p80) |",
        "| --- | --- | --- | --- | --- |",
    ]
    for r in records:
        if r["section"] == "time" and "ratio" in r:
            name = r["operation"] + (", CUDA graph" if r["graph"] else "")
            lines.append(
                f"| {name} | {', '.join(map(str, r['shape']))} | {r['before_ms']:.4g} | "
                f"{r['after_ms']:.4g} | "
                f"{r['ratio']:.3f} ({r['ratio_low']:.3f}-{r['ratio_high']:.3f}) |"
            )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--before", type=Path)
    parser.add_argument("--after", type=Path)
    parser.add_argument("--out", type=Path, default=Path("compare.json"))
    parser.add_argument("--tiny", action="store_true", help="tiny shapes on the CPU, interpreted")
    parser.add_argument(
        "--seconds", type=float, default=270, help="after which nothing new is timed"
    )
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--device", default="cuda", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        serve(arguments.worker, arguments.device)
        return 0
    import torch

    begin = time.monotonic()
    device = "cpu" if arguments.tiny else "cuda"
    if device == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = False
    names = ("SHAPES", "CHECKED", "DENSE", "DENSE_CHECKED", "SPANS", "SPANS_CHECKED")
    sizes = TINY if arguments.tiny else {name: globals()[name] for name in names}
    checkouts = [
        Checkout("before", arguments.before, device),
        Checkout("after", arguments.after, device),
    ]
    records, failed = [], None
    try:
        where = both(checkouts, "where")[0]
        print(where, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            records += check(checkouts, sizes, device, folder)
        print(f"checks took {time.monotonic() - begin:.0f} s", flush=True)
        wrong = [r for r in records if r["wrong"]]
        changed = [r for r in records if r["other bits"]]
        failed = f"{len(wrong)} wrong results" if wrong else None
        if not wrong:
            records += measure(
                checkouts, sizes, 2 if arguments.tiny else ROUNDS, begin + arguments.seconds
            )
        print(
            f"\n{len(records)} records in {time.monotonic() - begin:.0f} s; wrong: {len(wrong)}; "
            f"checks with other bits before and after: {len(changed)}"
        )
        for r in changed:
            print(f"  {r['kind']} {r['shape']}: {r['other bits']}")
    except Exception:
        failed = traceback.format_exc()
    finally:
        for checkout in checkouts:
            checkout.process.stdin.close()
            try:
                checkout.process.wait(10)
            except subprocess.TimeoutExpired:
                checkout.process.kill()
        out = arguments.out
        out.write_text(
            json.dumps(
                {"where": locals().get("where"), "records": records, "failed": failed}, indent=1
            )
        )
    print(table(records))
    if failed:
        print(f"FAILED: {failed}")
    paths = {"labels", "starts"}
    return int(failed is not None or any(paths & set(r.get("other bits", ())) for r in records))


if __name__ == "__main__":
    sys.exit(main())
