r"""Rank untagged texts by how unsure a trained model is of them, for annotation.

hf-semicrf suggest out --file unlabelled.jsonl --number 50 --output suggestions.jsonl
hf-semicrf suggest out --file unlabelled.txt --number 20 --by word --format html \
    --output suggestions.html

What ranks is the entropy of the distribution over a text's segmentations, in nats: in total, which
favours long texts with several doubts, or per word, which favours short ones. Each JSON line has
the text or the tokens, the entropy and the entities found, as a start for annotation.
"""

from __future__ import annotations

import argparse
import heapq
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_semicrf.cli.common import (
    BATCHES_AT_ONCE,
    Parser,
    add_running,
    chunks,
    existing_file,
    load,
    new_file,
    one_line_errors,
    progress,
)
from hf_semicrf.options import OPTIONS

if TYPE_CHECKING:
    from hf_semicrf.results import Prediction


def parser() -> Parser:
    """The parser of the command."""
    made = Parser("suggest", str(__doc__))
    made.add_argument("model", help="Hub name or folder of the model")
    made.add_argument(
        "--file",
        type=existing_file,
        required=True,
        help='.txt with one text a line, or .jsonl with "text" or "tokens" in each line; or .gz',
    )
    made.add_argument("--number", default=100, help="texts to suggest; 100")
    made.add_argument(
        "--by", choices=OPTIONS["by"].choices, default="total", help="what ranks; total"
    )
    made.add_argument(
        "--format", choices=["jsonl", "html"], default="jsonl", help="JSON lines or a page; jsonl"
    )
    made.add_argument("--output", type=new_file, help="file to write instead of standard output")
    add_running(made)
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Read, rank and write.

    Args:
        arguments: The command line, `sys.argv` by default.
    """
    made = parser()
    args = made.parse_args(arguments)
    with one_line_errors(made):
        _run(args)


def _run(args: argparse.Namespace) -> None:
    from hf_semicrf.reporting import uncertainty_page
    from hf_semicrf.saving import replacing

    model, tokenizer = load(args.model, args.device)
    ranked = rank(_analyzed(args, model, tokenizer), args.number, args.by)
    if args.format == "html":
        written = uncertainty_page(ranked, "Texts to annotate, the least sure first")
    else:
        written = to_jsonl(ranked)
    if args.output:
        with replacing(args.output) as path:
            path.write_text(written + "\n", encoding="utf-8")
    else:
        print(written)


def _analyzed(args: argparse.Namespace, model: Any, tokenizer: Any) -> Iterator[Prediction]:
    """What the model knows of each text of the file."""
    from hf_semicrf.data import stream_texts

    with progress(None) as bar:
        for texts in chunks(stream_texts(Path(args.file)), BATCHES_AT_ONCE * args.batch_size):
            yield from model.analyze(texts, tokenizer, args.batch_size)
            bar.update(len(texts))


def rank(predictions: Iterable[Prediction], number: int, by: str) -> list[Prediction]:
    """Those with words of which the model is least sure, the least sure first.

    Args:
        predictions: Of all texts.
        number: How many to keep.
        by: What ranks: the "total" entropy, or that per "word".
    """

    def doubt(prediction: Prediction) -> float:
        return prediction.entropy / (len(prediction.words) if by == "word" else 1)

    return heapq.nlargest(number, (p for p in predictions if p.words), key=doubt)


def to_jsonl(ranked: Iterable[Prediction]) -> str:
    """One object a line: the text or the tokens, the entropy and the entities.

    Args:
        ranked: What `rank` returns.
    """
    lines = []
    for prediction in ranked:
        key = "text" if isinstance(prediction.text, str) else "tokens"
        row = {key: prediction.text, "entropy": round(prediction.entropy, 4)}
        row |= {"words": len(prediction.words), "entities": prediction.entities}
        lines.append(json.dumps(row, ensure_ascii=False))
    return "\n".join(lines)
