"""Time the operations, the head and the dense contract on the CPU, beside flash-semicrf's head.

python benchmarks/cpu.py --out benchmarks/results/cpu.jsonl

All heads are given the same hidden states and labels; the runs alternate, so that a machine whose
speed drifts slows both. flash-semicrf is left out where it is not installed.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from hf_semicrf import HeadSettings, SemiCRF, ops
from hf_semicrf.ops import semi_crf_triton_forward

BATCH, POSITIONS, LONGEST, TYPES, HIDDEN = 8, 128, 8, 9, 64


def our_calls(hidden, lengths, labels, starts) -> dict[str, Callable[[], None]]:
    """The operations on factored potentials, and a training step and decoding with two heads."""
    calls: dict[str, Callable[[], None]] = {}
    for scorer in ("boundary", "span"):
        head = SemiCRF(HIDDEN, TYPES, HeadSettings(LONGEST, scorer), backend="torch")

        def step(head=head):
            head.zero_grad()
            head.train()(hidden, lengths, labels, starts).nll.sum().backward()

        def decode(head=head):
            with torch.no_grad():
                head.eval()(hidden, lengths)

        calls |= {f"{scorer} head: step": step, f"{scorer} head: decode and marginals": decode}
        if scorer == "boundary":
            p = head.eval().potentials(hidden, lengths).map(Tensor.detach)
    leaves = p.map(lambda x: x.clone().requires_grad_())
    scores = [x for x in leaves[:-1] if x is not None]

    def loss():
        nll = ops.negative_log_likelihood(leaves, labels, starts, backend="torch").sum()
        torch.autograd.grad(nll, scores)

    return {"loss + gradient": loss, "decode": lambda: ops.viterbi(p, backend="torch")} | calls


def peer_calls(hidden, lengths, labels) -> dict[str, Callable[[], None]]:
    """The same with flash-semicrf's head; decoding gives its Viterbi path, without marginals."""
    from flash_semicrf import SemiMarkovCRFHead

    head = SemiMarkovCRFHead(num_classes=TYPES, max_duration=LONGEST, hidden_dim=HIDDEN)

    def step():
        head.zero_grad()
        head.compute_loss(hidden, lengths, labels).backward()

    def decode():
        with torch.no_grad():
            head.decode_with_traceback(hidden, lengths)

    return {"head: step": step, "head: decode": decode}


def dense_calls(lengths) -> dict[str, Callable[[], None]]:
    """Each route of the dense contract that a CPU has, at K = L + 1."""
    edge = torch.randn(BATCH, POSITIONS, LONGEST + 1, TYPES, TYPES)
    trained = edge.clone().requires_grad_()

    def infer(**arguments):
        return lambda: semi_crf_triton_forward(edge, lengths + 1, **arguments)

    def train(**arguments):
        return lambda: semi_crf_triton_forward(trained, lengths + 1, **arguments).sum().backward()

    return {
        "dense: scan": infer(),
        "dense: scan, max": infer(semiring="max"),
        "dense: float64": infer(validate=True),
        "dense: compiled, step": train(),
        "dense: checkpoint, step": train(use_compile=False),
    }


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--commit", default="", help="the code's commit, for the results")
    parser.add_argument("--out", help="JSON lines file to append to")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    hidden = torch.randn(BATCH, POSITIONS, HIDDEN)
    lengths = torch.full((BATCH,), POSITIONS)
    labels = torch.randint(0, TYPES, (BATCH, POSITIONS // 2)).repeat_interleave(2, 1)
    starts = torch.ones_like(labels, dtype=torch.bool)
    starts[:, 1:] = (labels[:, 1:] != labels[:, :-1]) | (labels[:, 1:] == 0)
    calls = {("hf_semicrf", k): f for k, f in our_calls(hidden, lengths, labels, starts).items()}
    calls |= {("hf_semicrf", k): f for k, f in dense_calls(lengths).items()}
    versions = {"torch": torch.__version__}
    try:
        versions["flash-semicrf"] = importlib.metadata.version("flash-semicrf")
        peers = peer_calls(hidden, lengths, labels)
        calls |= {("flash-semicrf", k): f for k, f in peers.items()}
    except (ImportError, importlib.metadata.PackageNotFoundError):
        print("flash-semicrf is not installed: ours alone")
    times: dict[tuple[str, str], list[float]] = {key: [] for key in calls}
    for repeat in range(args.repeats + 2):
        for key, call in calls.items():
            began = time.perf_counter()
            call()
            if repeat >= 2:
                times[key].append(1000 * (time.perf_counter() - began))
    for (library, mode), values in times.items():
        p20, _, _, p80 = statistics.quantiles(values, n=5)
        row = {
            "library": library,
            "mode": mode,
            "shape": [BATCH, POSITIONS, LONGEST, TYPES],
            "ms": statistics.median(values),
            "p20": p20,
            "p80": p80,
            "repeats": len(values),
            "threads": args.threads,
            "device": f"{platform.machine()} CPU, {os.cpu_count()} cores",
            "commit": args.commit,
            **versions,
        }
        print(f"{library:15} {mode:36} {row['ms']:9.2f} ms  (p20 {p20:.2f}, p80 {p80:.2f})")
        if args.out:
            with open(args.out, "a") as stream:
                stream.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
