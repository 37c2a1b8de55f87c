r"""Time `predict` from strings to entities on a GPU: one JSON line a measurement.

python benchmarks/predict.py --encoder MiniLM-L6-v2 --data bc5cdr --out predict.jsonl

The folder of the encoder has its configuration and tokenizer; weights are random where it has none.
The folder of the data has test.jsonl, lines with "tokens", made into strings by
`hf_semicrf.text.detokenize`. The head has random weights, and scores for the outside that leave
about two entities a text, as many as a trained one finds.

In this order, stopping at the first that fails: the same entities as by a plain loop over batches;
texts a second in turns with the tokenizer alone, and of the stock pipeline; a fresh process's first
64 texts with a cold and with a warm Triton cache, and its first pass beside its second; what the
first batch of each length costs; and `hf-semicrf predict` on one GPU and on two.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any
from unittest import mock

STARTED = time.perf_counter()
LABELS = ["O", "B-Chemical", "I-Chemical", "B-Disease", "I-Disease"]
Line = dict[str, Any]


def strings_of(folder: Path, most: int | None) -> list[str]:
    """The test split as running text."""
    from hf_semicrf.text import detokenize

    with (folder / "test.jsonl").open(encoding="utf-8") as lines:
        return [detokenize(json.loads(line)["tokens"])[0] for line in lines][:most]


def loaded(folder: str | Path, device: str, dtype: str) -> tuple[Any, Any]:
    """The model and its tokenizer."""
    import torch
    from transformers import AutoTokenizer

    from hf_semicrf import SemiCRFForTokenClassification

    kind = getattr(torch, dtype)
    model = SemiCRFForTokenClassification.from_pretrained(str(folder), dtype=kind)
    return model.to(device).eval(), AutoTokenizer.from_pretrained(str(folder))


def save_model(encoder: Path, texts: list[str], folder: Path, device: str, dtype: str) -> None:
    """A saved model whose head finds about two entities a text."""
    import torch
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    from hf_semicrf import SemiCRFConfig, SemiCRFForTokenClassification

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    if any(encoder.glob("*.safetensors")):
        model = SemiCRFForTokenClassification.from_pretrained(str(encoder), labels=LABELS)
    else:
        config = AutoConfig.from_pretrained(encoder)
        body = AutoModel.from_config(config, add_pooling_layer=False)
        model = SemiCRFForTokenClassification(SemiCRFConfig(config, labels=LABELS), encoder=body)
    model.use_tokenizer(tokenizer)
    model.to(getattr(torch, dtype)).to(device).eval()
    sample = texts[:: max(len(texts) // 256, 1)]
    low, high = -20.0, 20.0
    bias = model.classifier.duration_bias.detach()
    before = float(bias[0, 0])
    for _ in range(12):
        middle = (low + high) / 2
        bias[0, 0] = before + middle
        count = sum(map(len, model.predict(sample, tokenizer, 64))) / len(sample)
        low, high = (middle, high) if count > 2 else (low, middle)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def waited(function: Callable[[], Any]) -> float:
    """Seconds of a call, the GPU's work included."""
    import torch

    synchronize = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    synchronize()
    begin = time.perf_counter()
    function()
    synchronize()
    return time.perf_counter() - begin


def plainly(model: Any, texts: list[str], tokenizer: Any, size: int) -> list[list[Line]]:
    """The entities by a loop: tokenise, pad, run and read one batch after the other."""
    import torch

    from hf_semicrf.inference.distribution import decoded_segments
    from hf_semicrf.text import Splitter, first_subwords

    splitter = Splitter.of(model.config.splitter)
    found = []
    for at in range(0, len(texts), size):
        chunk = texts[at : at + size]
        spans = [splitter.spans(text) for text in chunk]
        words = [[t[a:b] for a, b in row] for t, row in zip(chunk, spans, strict=True)]
        rows = tokenizer(words, is_split_into_words=True, padding=True, return_tensors="pt")
        marks = [first_subwords(rows.word_ids(n)) for n in range(len(chunk))]
        mask = torch.tensor([[word is not None for word in row] for row in marks])
        inputs = {name: value.to(model.device) for name, value in rows.items()}
        with torch.no_grad():
            head = model(
                **inputs, word_mask=mask.to(model.device), output_head=True, output_logits=False
            ).head
        segments = decoded_segments(head, model.config.scheme.types)
        for row, places in zip(segments, spans, strict=True):
            found.append(
                [
                    {
                        "label": s.type,
                        "start": places[s.first][0],
                        "end": places[s.end - 1][1],
                        "score": s.posterior,
                    }
                    for s in sorted(row or [])
                ]
            )
    return found


def compared(found: list[list[Any]], expected: list[list[Any]]) -> Line:
    """How many texts have other entities, and how far scores of the same ones are apart."""
    places = ("label", "start", "end")
    others, apart, count = 0, 0.0, 0
    for ours, theirs in zip(found, expected, strict=True):
        count += len(ours)
        if [[e[p] for p in places] for e in ours] != [[e[p] for p in places] for e in theirs]:
            others += 1
            continue
        pairs = zip(ours, theirs, strict=True)
        apart = max([apart, *(abs(a["score"] - b["score"]) for a, b in pairs)])
    return {"other_texts": others, "score_difference": apart, "entities": count}


def correctness(model: Any, texts: list[str], tokenizer: Any, options: Line) -> Line:
    """Compare with the plain loop; ends the run where entities differ.

    Random weights leave near ties, and batches of other shapes round otherwise: one text in 200
    may differ.
    """
    size = options["batch_size"]
    expected = plainly(model, texts, tokenizer, size)
    found = model.predict(texts, tokenizer, **options)
    line = compared(found, expected) | {"texts": len(texts)}
    if found != model.predict(texts, tokenizer, **options):
        raise SystemExit("predict gives other bits the second time")
    if line["other_texts"] > len(texts) / 200:
        raise SystemExit(f"predict finds other entities than the plain loop: {line}")
    return line


def in_turn(items: Iterable[Any], size: int, prepare: Callable[[list[Any]], Any]) -> Iterator[Any]:
    """What `ahead` does, without a thread."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield prepare(chunk)


def throughput(
    model: Any, texts: list[str], tokenizer: Any, size: int, rounds: int, graphs: bool, ways: bool
) -> Iterator[Line]:
    """Texts a second of the tokenizer alone, of `predict` and of the stock pipeline.

    With `ways`, also of `predict` without its thread, without the garbage collector and without
    both: what Python's lock and its collector cost.
    """
    from transformers import pipeline

    from hf_semicrf.inference import prediction

    def alone() -> None:
        for at in range(0, len(texts), 64):
            tokenizer(texts[at : at + 64])

    functions: dict[str, Callable[[], Any]] = {
        "tokenizer alone": alone,
        "predict": lambda: model.predict(texts, tokenizer, size),
    }
    if graphs:
        functions["predict, cuda_graphs"] = lambda: model.predict(
            texts, tokenizer, size, cuda_graphs=True
        )

    def changed(function: Callable[[], Any], **names: Any) -> Callable[[], Any]:
        """A call with other ways to prepare: in turn, or without the garbage collector."""

        def call() -> None:
            with ExitStack() as stack:
                if "ahead" in names:
                    stack.enter_context(mock.patch.object(prediction, "ahead", names["ahead"]))
                if "collect" in names:
                    gc.disable()
                    stack.callback(gc.enable)
                function()

        return call

    for name in [name for name in functions if ways and name.startswith("predict")]:
        functions[f"{name}, no thread"] = changed(functions[name], ahead=in_turn)
        functions[f"{name}, no collection"] = changed(functions[name], collect=False)
        functions[f"{name}, neither"] = changed(functions[name], ahead=in_turn, collect=False)
    times: dict[str, list[float]] = {name: [] for name in functions}
    for n in range(rounds + 1):
        for name, function in functions.items():
            seconds = waited(function)
            if n:
                times[name].append(seconds)
    alone_s = statistics.median(times["tokenizer alone"])
    for name, found in times.items():
        middle = statistics.median(found)
        yield {
            "backend": name,
            "batch_size": size,
            "texts_per_s": len(texts) / middle,
            "over_tokenizer": alone_s / middle,
            "slowest_s": max(found),
            "fastest_s": min(found),
        }
    stock = pipeline(
        "token-classification",
        model=model,
        tokenizer=tokenizer,
        aggregation_strategy="simple",
        batch_size=size,
        device=model.device,
    )
    some = texts[:512]
    stock(some[:64])
    seconds = waited(lambda: stock(some))
    yield {"backend": "stock pipeline", "batch_size": size, "texts_per_s": len(some) / seconds}


def child(args: argparse.Namespace) -> None:
    """What a fresh process takes, as one line; see `fresh`."""
    import torch

    line: Line = {}
    kernels: list[Line] = []
    before = time.perf_counter()
    import hf_semicrf

    line["import_hf_semicrf_s"] = time.perf_counter() - before
    hf_semicrf.SemiCRFForTokenClassification  # noqa: B018
    line["import_s"] = time.perf_counter() - STARTED
    texts = json.loads(Path(args.texts).read_text(encoding="utf-8"))
    before = time.perf_counter()
    model, tokenizer = loaded(args.child, args.device, args.dtype)
    line["load_s"] = time.perf_counter() - before
    if args.device.startswith("cuda"):
        before = time.perf_counter()
        import triton

        def listen(*, src: Any, metadata: Line, times: Any, cache_hit: bool, **_: Any) -> None:
            stages = sum(us for _, us in times.lowering_stages)
            seconds = (times.ir_initialization + stages + times.store_results) / 1e6
            kernels.append({"kernel": metadata["name"], "s": seconds, "cached": cache_hit})

        triton.knobs.compilation.listener = listen
        line["import_triton_s"] = time.perf_counter() - before
    if args.mode == "lengths":
        line["lengths"] = list(each_length(model, tokenizer, args.batch_size))
    elif args.mode == "profile":
        import cProfile
        import pstats

        profile = cProfile.Profile()
        profile.runcall(model.predict, texts[:64], tokenizer, 64)
        pstats.Stats(profile, stream=sys.stderr).sort_stats("tottime").print_stats(45)
        pstats.Stats(profile, stream=sys.stderr).sort_stats("cumtime").print_stats(90)
    else:
        for name in ("first_64_s", "second_64_s"):
            line[name] = waited(lambda: model.predict(texts[:64], tokenizer, 64))
        line["kernels"] = kernels
        line["kernels_s"] = sum(kernel["s"] for kernel in kernels)
        line["kernels_compiled"] = sum(not kernel["cached"] for kernel in kernels)
        known = len(kernels)
        for name in ("first_pass_s", "second_pass_s", "third_pass_s"):
            line[name] = waited(lambda: model.predict(texts, tokenizer, args.batch_size))
        line["pass_kernels"] = [kernel["kernel"] for kernel in kernels[known:]]
        line["first_over_second"] = line["first_pass_s"] / line["second_pass_s"]
    line["peak_memory_mb"] = torch.cuda.max_memory_allocated() / 2**20
    print(json.dumps(line))


def each_length(model: Any, tokenizer: Any, size: int) -> Iterator[Line]:
    """What the first and the second batch of each length take, of the encoder and of all."""
    import torch

    for length in (16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 200, 208, 224, 256):
        ids = torch.randint(1000, 2000, (size, length), device=model.device)
        mask = torch.ones_like(ids)
        mask[:, -1] = 0
        inputs = {"input_ids": ids, "attention_mask": mask}
        marks = mask.bool()

        def encoder(inputs: Line = inputs) -> None:
            with torch.no_grad():
                model.text_encoder(**inputs)

        def whole(inputs: Line = inputs, marks: Any = marks) -> None:
            with torch.no_grad():
                model(**inputs, word_mask=marks, output_head=True, output_logits=False)

        times = [waited(f) * 1e3 for f in (encoder, encoder, whole, whole)]
        names = ("encoder_first_ms", "encoder_ms", "first_ms", "ms")
        yield {"length": length} | dict(zip(names, times, strict=True))


def fresh(args: argparse.Namespace, folder: Path, mode: str, cache: Path) -> Line:
    """Run this script in a process of its own."""
    command = [sys.executable, __file__, "--child", str(folder / "model"), "--mode", mode]
    command += ["--texts", str(folder / "texts.json"), "--device", args.device]
    command += ["--dtype", args.dtype, "--batch_size", str(args.batch_size)]
    before = time.perf_counter()
    env = os.environ | {"TRITON_CACHE_DIR": str(cache)}
    run = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if run.returncode:
        raise SystemExit(run.stderr[-4000:])
    if mode == "profile":
        print(run.stderr, file=sys.stderr)
    return json.loads(run.stdout.splitlines()[-1]) | {"process_s": time.perf_counter() - before}


def processes(folder: Path, texts: list[str], copies: int) -> Iterator[Line]:
    """Seconds of the command on one GPU and on two, start-up included."""
    import torch

    file = folder / "many.jsonl"
    with file.open("w", encoding="utf-8") as lines:
        for n in range(copies):
            for text in texts:
                lines.write(json.dumps({"text": f"{text} {n}"}) + "\n")
    results = []
    for count in range(1, min(torch.cuda.device_count(), 2) + 1):
        output = folder / f"found{count}.jsonl"
        start = [sys.executable, "-m"]
        if count > 1:
            start += ["accelerate.commands.launch", "--num_processes", str(count)]
            start += ["--multi_gpu", "-m"]
        command = [*start, "hf_semicrf", "predict", str(folder / "model"), "--file", str(file)]
        before = time.perf_counter()
        run = subprocess.run(
            [*command, "--output", str(output)], capture_output=True, text=True, check=False
        )
        seconds = time.perf_counter() - before
        if run.returncode:
            raise SystemExit(run.stderr[-4000:])
        results.append(output.read_bytes())
        yield {
            "gpus": count,
            "texts": copies * len(texts),
            "s": seconds,
            "same_bytes": results[0] == results[-1],
        }


def main() -> None:
    """Measure, print and append lines."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--encoder", type=Path, help="folder with config.json and a tokenizer")
    parser.add_argument("--data", type=Path, help="folder with test.jsonl")
    parser.add_argument("--out", type=Path, help="file of JSON lines to append to")
    parser.add_argument("--commit", default="unknown", help="what was measured")
    parser.add_argument("--device", default="cuda", help="cpu to try the script")
    parser.add_argument("--dtype", default="float32", help="of the model")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5, help="timed passes of each kind")
    parser.add_argument("--texts", help=argparse.SUPPRESS)
    parser.add_argument("--most", type=int, help="texts to take; all by default")
    parser.add_argument("--copies", type=int, default=10, help="of the texts, for the command")
    parser.add_argument("--graphs", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--profile", action="store_true", help="profile a process's first call")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--mode", default="first", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args)
        return
    import torch

    on_gpu = args.device.startswith("cuda")
    about = {
        "commit": args.commit,
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "torch": torch.__version__,
        "dtype": args.dtype,
    }

    def tell(what: str, line: Line) -> None:
        text = json.dumps({"what": what} | line | about)
        print(text, flush=True)
        if args.out is not None:
            with args.out.open("a", encoding="utf-8") as file:
                file.write(text + "\n")

    texts = strings_of(args.data, args.most)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
        save_model(args.encoder, texts, folder / "model", args.device, args.dtype)
        model, tokenizer = loaded(folder / "model", args.device, args.dtype)
        for graphs in (False, True) if args.graphs else (False,):
            options: Line = {"batch_size": args.batch_size}
            options |= {"cuda_graphs": True} if graphs else {}
            line = correctness(model, texts[:1000], tokenizer, options)
            tell("correctness", line | {"cuda_graphs": graphs})
        for size in (args.batch_size, 32):
            ways = size == args.batch_size
            for line in throughput(model, texts, tokenizer, size, args.rounds, args.graphs, ways):
                tell("throughput", line)
        del model
        if on_gpu:
            torch.cuda.empty_cache()
        for cache in ("cold", "warm", "warm"):
            tell("fresh process", {"cache": cache} | fresh(args, folder, "first", folder / "cache"))
        tell("lengths", fresh(args, folder, "lengths", folder / "cache"))
        if args.profile:
            fresh(args, folder, "profile", folder / "cache")
        if on_gpu:
            for line in processes(folder, texts, args.copies):
                tell("hf-semicrf predict", line)


if __name__ == "__main__":
    main()
