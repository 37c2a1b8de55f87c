"""Count what a model launches beside softmax on a GPU, and time both: one JSON line a measurement.

python benchmarks/launches.py --commit $(git rev-parse --short HEAD) --out launches.jsonl

BERT with random weights, batch 32: of BERT-base's size with 512 words, of MiniLM-L6's with 64.
Times are of calls from Python, in turns, and of the kernels alone. Inference is in bf16, as
`predict` calls the model, and with log-posteriors of tags; a training step is in bf16 autocast, its
optimizer fused.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from transformers import BertConfig, BertForTokenClassification

from hf_semicrf import SemiCRFConfig, SemiCRFForTokenClassification

LABELS = ["O", *(f"{tag}-{name}" for name in ("PER", "ORG", "LOC", "MISC") for tag in "BI")]
MODELS = {"BERT-base": (12, 768, 512), "MiniLM-L6": (6, 384, 64)}  # layers, width, words
KINDS = {
    "launches": ("cudaLaunchKernel", "cuLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernelEx"),
    "copies": ("cudaMemcpyAsync", "cudaMemcpy"),
    "fills": ("cudaMemsetAsync", "cudaMemset"),
    "waits": ("cudaStreamSynchronize", "cudaEventSynchronize"),
}


def events(function: Callable[[], object], calls: int = 3) -> dict[str, float]:
    """What one call asks of the CUDA runtime, and the time of its kernels alone.

    Returns:
        Launches, copies, fills and waits; ``kernel_ms``.
    """
    function()
    torch.cuda.synchronize()
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        for _ in range(calls):
            function()
        torch.cuda.synchronize()
    names = Counter(event.name for event in profile.events())
    counts = {kind: sum(names[name] for name in known) / calls for kind, known in KINDS.items()}
    on_device = [e for e in profile.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    time_us = sum(e.self_device_time_total for e in on_device)
    return counts | {"kernel_ms": time_us / calls / 1e3}


def calls_of(
    net: torch.nn.Module, ids: torch.Tensor, mode: str, **arguments: object
) -> Callable[[], object]:
    """A call of a model: "inference", or a "training step"."""
    tags = torch.zeros_like(ids)
    tags[:, 7::10], tags[:, 8::10] = 1, 2
    if mode != "training step":
        net.eval().to(torch.bfloat16)

        def infer() -> object:
            with torch.no_grad():
                return net(input_ids=ids, **arguments)

        return infer
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-5, fused=True)

    def step() -> None:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = net(input_ids=ids, labels=tags).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def in_turns(functions: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Times of calls in ms, one of each function after the other, so that both see one machine."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for n in range(rounds + 3):
        for name, function in functions.items():
            torch.cuda.synchronize()
            begin = time.perf_counter()
            function()
            torch.cuda.synchronize()
            if n >= 3:
                times[name].append((time.perf_counter() - begin) * 1e3)
    return times


def measure(size: str, rounds: int) -> Iterator[dict]:
    """All modes of one encoder."""
    layers, width, positions = MODELS[size]
    encoder = BertConfig(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=12,
        intermediate_size=4 * width,
        num_labels=len(LABELS),
    )
    ids = torch.randint(1000, 20000, (32, positions), device="cuda")
    mask = torch.ones_like(ids, dtype=torch.bool)
    for mode in ("inference", "inference with logits", "training step"):
        softmax = BertForTokenClassification(encoder).cuda()
        config = SemiCRFConfig(encoder_config=encoder, labels=LABELS, max_segment_length=16)
        ours = SemiCRFForTokenClassification(config).cuda()
        own = {"word_mask": mask, "output_logits": mode != "inference"}
        if mode == "inference":
            own["output_head"] = True  # as predict does
        functions = {
            "softmax": calls_of(softmax, ids, mode),
            "semi-CRF": calls_of(ours, ids, mode, **own),
        }
        counts = {name: events(function) for name, function in functions.items()}
        times = in_turns(functions, rounds)
        pairs = zip(times["semi-CRF"], times["softmax"], strict=True)
        ratio = statistics.median(a / b for a, b in pairs)
        for name, count in counts.items():
            line = {"model": size, "mode": mode, "backend": name, "shape": (32, positions, 16, 5)}
            line |= count | {"median_ms": statistics.median(times[name])}
            if name != "softmax":
                before = counts["softmax"]
                line |= {f"more_{kind}": count[kind] - before[kind] for kind in KINDS}
                line |= {"ratio": ratio, "kernel_ratio": count["kernel_ms"] / before["kernel_ms"]}
            yield line
        del softmax, ours, functions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, help="file of JSON lines to append to")
    parser.add_argument("--commit", default="unknown", help="what was measured")
    parser.add_argument("--rounds", type=int, default=30, help="timed calls of each model")
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))
    arguments = parser.parse_args()
    about = {
        "commit": arguments.commit,
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
    }
    for size in arguments.models:
        for line in measure(size, arguments.rounds):
            text = json.dumps(line | about)
            print(text, flush=True)
            if arguments.out is not None:
                with arguments.out.open("a", encoding="utf-8") as file:
                    file.write(text + "\n")


if __name__ == "__main__":
    main()
