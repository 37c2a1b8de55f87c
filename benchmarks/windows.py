r"""Compare ways to read documents that are longer than a window, with a saved model.

python scripts/demo.py --sentences 1000
python benchmarks/windows.py out/demo/model --file out/demo/corpus/test.jsonl --join 50 \
    --out benchmarks/results/windows_cpu.jsonl

Windows without an overlap, with the default one (a quarter) and with the largest (a half) are read
by the same model. Beside the F1 of all entities, the recall of those that a seam between windows
without an overlap cuts in two.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Sequence
from itertools import pairwise

import torch
from transformers import pipeline

from hf_semicrf.data.labels import entity_spans
from hf_semicrf.data.readers import read_corpus
from hf_semicrf.pipeline import TASK
from hf_semicrf.text.windows import windows_of

OVERLAPS = {"none": 0, "a quarter": None, "a half": 10**6}


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the documents in every way, a line a way."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", help="Hub name or folder of the model")
    parser.add_argument("--file", required=True, help="corpus: jsonl, CoNLL columns or parquet")
    parser.add_argument("--join", type=int, default=1, help="sentences that make a document")
    parser.add_argument("--max_length", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--commit", default="", help="the code's commit, for the results")
    parser.add_argument("--out", required=True, help="JSON lines file to append to")
    args = parser.parse_args(arguments)

    tagger = pipeline(TASK, model=args.model)
    model, tokenizer = tagger.model, tagger.tokenizer
    corpus = read_corpus(args.file)
    spans = list(entity_spans(corpus, model.config.scheme))
    texts: list[list[str]] = []
    gold: list[set[tuple[int, int, str]]] = []
    for index, (words, entities) in enumerate(zip(corpus["tokens"], spans, strict=True)):
        if index % args.join == 0:
            texts.append([])
            gold.append(set())
        before = len(texts[-1])
        texts[-1] += words
        gold[-1] |= {(start + before, end + before, label) for start, end, label in entities}

    for max_length in args.max_length:
        apart = windows_of(texts, tokenizer, max_length, 0, model.config.max_segment_length)
        # the last window begins as early as it fits, so it may share words all the same
        seams = [
            [left.end for left, right in pairwise(windows) if left.end == right.first]
            for windows in apart
        ]
        cut = [
            {span for span in row for seam in places if span[0] < seam < span[1]}
            for row, places in zip(gold, seams, strict=True)
        ]
        for name, overlap in OVERLAPS.items():
            began = time.perf_counter()
            rows = model.predict(texts, tokenizer, 16, max_length=max_length, overlap=overlap)
            seconds = time.perf_counter() - began
            found = [{(e["start"], e["end"], e["label"]) for e in row} for row in rows]
            right = sum(len(g & f) for g, f in zip(gold, found, strict=True))
            result = {
                "file": os.path.basename(args.file),
                "documents": len(texts),
                "words": sum(map(len, texts)),
                "max_length": max_length,
                "overlap": name,
                "f1": 2 * right / max(sum(map(len, gold)) + sum(map(len, found)), 1),
                "gold": sum(map(len, gold)),
                "cut": sum(map(len, cut)),
                "cut_found": sum(len(c & f) for c, f in zip(cut, found, strict=True)),
                "seconds": seconds,
                "device": torch.cuda.get_device_name()
                if model.device.type == "cuda"
                else f"{platform.machine()} CPU, {torch.get_num_threads()} threads",
                "commit": args.commit,
                **{name: importlib.metadata.version(name) for name in ("torch", "transformers")},
            }
            print(json.dumps(result), flush=True)
            with open(args.out, "a") as stream:
                stream.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
