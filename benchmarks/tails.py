"""Time potentials with a tail beside those with a longest segment, and measure their memory.

python benchmarks/tails.py --device cpu --out benchmarks/results/tails.jsonl
python benchmarks/tails.py --device cuda --out benchmarks/results/tails.jsonl

A gold segmentation of segments up to `longest` is scored by both. With a tail that begins at 16 no
length is cut; without one every length up to the longest is a row. Rows that would take minutes are
left out: those without a tail on a GPU end at 100 positions a segment.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hf_semicrf import ops

BEGINS = 16
# sentences, positions, types, longest gold segment, lengths without a tail, by device
SHAPES = {
    "cpu": [(1, 10_000, 11, 500, (16, 500))],
    "cuda": [(4, 100_000, 8, 5_000, (16, 100)), (1, 1_000_000, 8, 5_000, ())],
}


def potentials(batch: int, positions: int, types: int, longest: int, device: str) -> Any:
    """Random potentials of the boundary scorer's kind; type 0 has length 1."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device)

    duration = draw(longest, types) / 10
    duration[1:, 0] = -torch.inf
    return ops.Potentials(
        emission=draw(batch, positions, types),
        start=draw(batch, positions, types),
        end=draw(batch, positions, types),
        duration=duration,
        transition=draw(types, types) / 10,
        initial=draw(types),
        final=draw(types),
        lengths=torch.full((batch,), positions, device=device),
    )


def with_tail(p: Any, order: int) -> Any:
    """The same with a tail, which type 0 has not."""
    types = p.sizes[3]
    enter = torch.full((types,), -3.0, device=p.lengths.device)
    enter[0] = -torch.inf
    return ops.TailedPotentials(p, enter, torch.full_like(enter, -0.01), order)


def gold(p: Any, longest: int) -> tuple[Tensor, Tensor]:
    """Labels and starts [B, N] of random segments."""
    batch, positions, _, types = p.sizes
    generator = torch.Generator().manual_seed(1)
    labels = torch.zeros(batch, positions, dtype=torch.long)
    starts = torch.zeros(batch, positions, dtype=torch.bool)
    for row in range(batch):
        begin = 0
        while begin < positions:
            length = int(torch.randint(1, longest + 1, (), generator=generator))
            labels[row, begin : begin + length] = torch.randint(1, types, (), generator=generator)
            starts[row, begin] = True
            begin += length
    return labels.to(p.lengths.device), starts.to(p.lengths.device)


def calls_of(p: Any, labels: Tensor, starts: Tensor, decode: bool) -> dict[str, Callable]:
    """What is timed, by name."""
    leaf = p.map(lambda x: x.clone().requires_grad_())
    flat: list[Tensor] = []
    leaf.map(flat.append)

    def loss() -> None:
        nll = ops.negative_log_likelihood(leaf, labels, starts).sum()
        torch.autograd.grad(nll, flat)

    calls: dict[str, Callable] = {"loss + gradient": loss}
    if decode:
        calls["log Z"] = lambda: ops.log_partition(p)
        calls["decode"] = lambda: ops.best_segmentation(p)
        calls["marginals"] = lambda: ops.marginals(p)
    return calls


def measured(call: Callable, device: str, repeats: int) -> tuple[list[float], float]:
    """Milliseconds of each run, and the peak of the device's memory in bytes (NaN on a CPU)."""
    call()
    times, peak = [], float("nan")
    for _ in range(repeats):
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            call()
            end.record()
            torch.cuda.synchronize()
            times.append(begin.elapsed_time(end))
            peak = torch.cuda.max_memory_allocated()
        else:
            began = time.perf_counter()
            call()
            times.append(1000 * (time.perf_counter() - began))
    return times, peak


def main() -> None:
    """Check that both agree, measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", choices=tuple(SHAPES), default="cpu")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--commit", default="", help="the code's commit, for the results")
    parser.add_argument("--out", help="JSON lines file to append to")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    small = with_tail(potentials(2, 60, 5, 4, args.device), 2)
    written = ops.log_partition(ops.written_out(small.map(Tensor.double)))
    torch.testing.assert_close(ops.log_partition(small).double(), written, rtol=1e-5, atol=1e-3)
    if args.device == "cuda":
        device = torch.cuda.get_device_name()
    else:
        device = f"{platform.machine()} CPU, {os.cpu_count()} cores, {args.threads} threads"
    for batch, positions, types, longest, without in SHAPES[args.device]:
        body = potentials(batch, positions, types, BEGINS, args.device)
        labels, starts = gold(body, longest)
        rows = {f"tail of order {n} from {BEGINS}": with_tail(body, n) for n in (1, 2)}
        for length in without:
            rows[f"lengths up to {length}"] = potentials(
                batch, positions, types, length, args.device
            )
        for name, p in rows.items():
            for mode, call in calls_of(p, labels, starts, "order 2" not in name).items():
                times, peak = measured(call, args.device, args.repeats)
                p20, _, _, p80 = statistics.quantiles(times, n=5)
                row = {
                    "lengths": name,
                    "mode": mode,
                    "shape": [batch, positions, types],
                    "longest": longest,
                    "ms": statistics.median(times),
                    "p20": p20,
                    "p80": p80,
                    "peak_bytes": None if peak != peak else peak,
                    "repeats": len(times),
                    "device": device,
                    "torch": torch.__version__,
                    "commit": args.commit,
                }
                print(
                    f"{batch} x {positions:>9,}, C {types:2}  {name:22} {mode:16} "
                    f"{row['ms']:10.1f} ms  (p20 {p20:.1f}, p80 {p80:.1f})"
                    + (f"  {peak / 2**30:.2f} GiB" if peak == peak else "")
                )
                if args.out:
                    with open(args.out, "a") as stream:
                        stream.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
