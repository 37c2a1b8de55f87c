r"""What is hard about each type of a corpus: its entities, and how heads fail on them.

python benchmarks/quality_types.py data/wnut17 --out types.jsonl
python benchmarks/quality_types.py data/wnut17 --found out/wnut17-*-test.json --out errors.jsonl

The first writes what the data say: how many entities of a type each split has, how long they are,
and how many the training data have too. The second reads what `quality.py --candidates` has written
of the test split, and counts how heads fail.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from quality_tables import chosen

from hf_semicrf import LabelScheme
from hf_semicrf.data.labels import label_names
from hf_semicrf.data.readers import entity_spans, read_corpus
from hf_semicrf.reporting.tables import markdown_table

LONG = 3  # words
FAILURES = ("right", "other ends", "other type", "both other", "missed")
Span = tuple[int, int, str]


class Named(NamedTuple):
    """An entity: its type, and its words in lower case."""

    type: str
    words: tuple[str, ...]


def entities(folder: str, split: str) -> list[Named]:
    """All entities of a split."""
    data = read_corpus(next(Path(folder).glob(f"{split}.jsonl*")))
    scheme = LabelScheme.from_labels(label_names(data))
    rows = zip(data["tokens"], entity_spans(data, scheme), strict=True)
    return [
        Named(name, tuple(word.lower() for word in words[first:end]))
        for words, spans in rows
        for first, end, name in spans
    ]


def facts(folder: str) -> list[dict[str, Any]]:
    """A row a type and split: number, words, and shares of long and of seen entities.

    Seen is an entity that the training data have with the same type, and "touched" one of whose
    words occurs there in an entity of that type.
    """
    train = entities(folder, "train")
    known = set(train)
    words = {(name, word) for name, inside in train for word in inside}
    rows = []
    for split in ("train", "validation", "test"):
        found = entities(folder, split)
        for kind in sorted({e.type for e in found}):
            own = [e for e in found if e.type == kind]
            share = {
                "words": sum(len(e.words) for e in own) / len(own),
                "long": sum(len(e.words) >= LONG for e in own) / len(own),
            }
            if split != "train":
                share["seen"] = sum(e in known for e in own) / len(own)
                touched = (any((kind, word) in words for word in e.words) for e in own)
                share["touched"] = sum(touched) / len(own)
            rows.append({"type": kind, "split": split, "number": len(own), **share})
    return rows


def failure(span: Span, found: Iterable[Span]) -> str:
    """Which of `FAILURES` befalls a true entity."""
    start, end, name = span
    near = [other for other in found if other[0] < end and start < other[1]]
    if span in near:
        return "right"
    if any(other[2] == name for other in near):
        return "other ends"
    if any(other[:2] == (start, end) for other in near):
        return "other type"
    return "both other" if near else "missed"


def failures(gold: Sequence[Sequence[Span]], found: Sequence[Sequence[Span]]) -> list[dict]:
    """A row a type: how many true entities meet which failure, and how many were invented.

    An entity is spurious that overlaps no true one.
    """
    met: dict[str, Counter[str]] = {}
    for truth, predicted in zip(gold, found, strict=True):
        for span in truth:
            met.setdefault(span[2], Counter())[failure(span, predicted)] += 1
        for span in predicted:
            own = met.setdefault(span[2], Counter())
            own["predicted"] += 1
            own["spurious"] += failure(span, truth) == "missed"
    names = (*FAILURES, "predicted", "spurious")
    return [{"type": kind, **{n: met[kind][n] for n in names}} for kind in sorted(met)]


def read_found(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of `quality.py --candidates`."""
    spans = json.loads(path.read_text())
    gold, found = ([[tuple(s[:3]) for s in row] for row in spans[n]] for n in ("gold", "found"))
    corpus, head, seed, split = path.stem.split("-")
    run = {"corpus": corpus, "head": head, "seed": int(seed), "split": split}
    return [{**run, **row} for row in failures(gold, found)]


def facts_table(rows: Sequence[dict]) -> str:
    """What the data say of each type."""
    lines = []
    for kind in sorted({row["type"] for row in rows}):
        splits = [chosen(rows, type=kind, split=s)[0] for s in ("train", "validation", "test")]
        cells = [" / ".join(str(row["number"]) for row in splits)]
        cells.append(" / ".join(f"{row['words']:.2f}" for row in splits))
        cells.append(" / ".join(f"{100 * row['long']:.0f}" for row in splits))
        for name in ("seen", "touched"):
            cells.append(" / ".join(f"{100 * row[name]:.0f}" for row in splits[1:]))
        lines.append([kind, *cells])
    columns = ["entities", "words", f"of {LONG} words and more, %", "seen, %", "touched, %"]
    return markdown_table(["type", *columns], lines)


def failures_table(rows: Sequence[dict]) -> str:
    """How heads fail on each type, in means over the seeds."""
    names = (*FAILURES, "predicted", "spurious")
    lines = []
    for kind in sorted({row["type"] for row in rows}):
        for head in dict.fromkeys(row["head"] for row in rows):
            own = chosen(rows, type=kind, head=head)
            cells = [f"{sum(row[n] for row in own) / len(own):.0f}" for n in names]
            lines.append([kind, head, *cells])
    return markdown_table(["type", "head", *names], lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the rows, and print their table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", help="folder of train, validation and test")
    parser.add_argument("--found", nargs="+", type=Path, help="files of quality.py --candidates")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines file to write")
    args = parser.parse_args(arguments)
    rows = [row for path in args.found or () for row in read_found(path)] or facts(args.corpus)
    args.out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    print((failures_table if args.found else facts_table)(rows))


if __name__ == "__main__":
    main()
