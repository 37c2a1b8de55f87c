"""F1 of a tagger on the words of a corpus, and on the same sentences as running text.

python benchmarks/running_text.py out/final --file test.jsonl --out running_text.jsonl

Running text is made from the words in two ways: as people write them (`hf_semicrf.text.detokenize`:
punctuation, brackets, quotes, hyphens and slashes attached), and joined by spaces. An entity is
right if its type and both ends are, in characters.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from hf_semicrf.cli.common import load
from hf_semicrf.data import entity_spans, read_corpus
from hf_semicrf.text import detokenize

Spans = set[tuple[int, int, str]]


def f1(gold: Iterable[Spans], found: Iterable[Spans]) -> float:
    """Micro F1 of exact matches, in percent."""
    right = said = true = 0
    for ours, theirs in zip(gold, found, strict=True):
        right, said, true = right + len(ours & theirs), said + len(theirs), true + len(ours)
    return round(200 * right / max(said + true, 1), 2)


def joined(words: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
    """The words with a space between each two, and where they stand."""
    spans, at = [], 0
    for word in words:
        spans.append((at, at + len(word)))
        at += len(word) + 1
    return " ".join(words), spans


def main() -> None:
    """Measure, print and append a line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--file", required=True)
    parser.add_argument("--name", default="", help="name of the corpus, for the results")
    parser.add_argument("--commit", default="", help="the code's commit, for the results")
    parser.add_argument("--out", type=Path, help="JSON lines file to append to")
    args = parser.parse_args()
    model, tokenizer = load(args.model, None)
    data = read_corpus(args.file)
    gold = list(entity_spans(data, model.config.scheme))
    words = list(data["tokens"])

    def predicted(texts: list[Any]) -> list[Spans]:
        rows = model.predict(texts, tokenizer, 64)
        return [{(e["start"], e["end"], e["label"]) for e in row} for row in rows]

    scores = {"words": f1(map(set, gold), predicted(words))}
    for name, write in (("as written", detokenize), ("joined by spaces", joined)):
        texts, places = zip(*map(write, words), strict=True)
        in_characters = [
            {(where[a][0], where[b - 1][1], label) for a, b, label in spans}
            for spans, where in zip(gold, places, strict=True)
        ]
        scores[name] = f1(in_characters, predicted(list(texts)))
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    line = {"corpus": args.name or args.file, "splitter": model.config.splitter, "f1": scores}
    line |= {"sentences": len(words), "device": device, "commit": args.commit}
    print(json.dumps(line))
    if args.out is not None:
        with args.out.open("a") as stream:
            stream.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
