r"""Rank untagged texts by how unsure a trained model is of them, for annotation.

hf-semicrf suggest out --file unlabelled.jsonl --number 50 --output suggestions.jsonl
hf-semicrf suggest out --file unlabelled.txt --number 20 --by word --format html \
    --output suggestions.html
hf-semicrf suggest out --file unlabelled.txt --format label_studio --output tasks.json

What ranks is the entropy of the distribution over a text's segmentations, in nats: in total, which
favours long texts with several doubts, or per word, which favours short ones. Each JSON line is the
file's row with its entropy and the entities found, as a start for annotation; so are the tasks for
Label Studio, Prodigy and doccano.
"""

from __future__ import annotations

import argparse
import heapq
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hf_semicrf.cli.common import (
    BATCHES_AT_ONCE,
    Parser,
    add_reading,
    add_running,
    chunks,
    existing_file,
    load,
    new_file,
    one_line_errors,
    progress,
    reading,
)
from hf_semicrf.cli.messages import tell
from hf_semicrf.options import OPTIONS

if TYPE_CHECKING:
    from hf_semicrf.data import ReadReport
    from hf_semicrf.results import Prediction

    Suggestion = tuple[dict[str, Any], Prediction]

TOOLS = ("label_studio", "prodigy", "doccano")


def parser() -> Parser:
    """The parser of the command."""
    made = Parser("suggest", str(__doc__))
    made.add_argument("model", help="Hub name or folder of the model")
    made.add_argument(
        "--file",
        type=existing_file,
        required=True,
        help="texts in any of the formats of docs/data.md: a text a line, JSON lines, columns, ...",
    )
    made.add_argument("--number", default=100, help="texts to suggest; 100")
    made.add_argument(
        "--by", choices=OPTIONS["by"].choices, default="total", help="what ranks; total"
    )
    made.add_argument(
        "--format",
        choices=["jsonl", "html", *TOOLS],
        default="jsonl",
        help="JSON lines, a page, or what Label Studio, Prodigy and doccano import; jsonl",
    )
    made.add_argument("--output", type=new_file, help="file to write instead of standard output")
    add_reading(made, tagged=False)
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
    from hf_semicrf.data import ReadReport, write_rows
    from hf_semicrf.reporting import uncertainty_page
    from hf_semicrf.saving import replacing
    from hf_semicrf.text import FUNCTION, Splitter

    model, tokenizer = load(args.model, args.device)
    report = ReadReport()
    ranked = rank(_analyzed(args, model, tokenizer, report), args.number, args.by)
    if args.format == "html":
        title = "Texts to annotate, the least sure first"
        written = uncertainty_page([prediction for _, prediction in ranked], title)
    elif args.format in TOOLS:
        own = model.config.splitter
        splitter = Splitter.of(None if own == FUNCTION else own).words
        rows = [with_doubt(*one) for one in ranked]
        found = [prediction.entities for _, prediction in ranked]
        written = "\n".join(write_rows(rows, found, args.format, splitter, args.model))
    else:
        written = "\n".join(to_jsonl(*one) for one in ranked)
    if args.output:
        with replacing(args.output) as path:
            path.write_text(written + "\n", encoding="utf-8")
    else:
        print(written)
    for line in report.lines():
        tell(f"hf-semicrf suggest: {args.file}: {line}")


def _analyzed(
    args: argparse.Namespace, model: Any, tokenizer: Any, report: ReadReport
) -> Iterator[Suggestion]:
    """What the model knows of each row of the file."""
    from hf_semicrf.data import stream_rows, text_of

    rows = stream_rows(args.file, report=report, **reading(args))
    with progress(None) as bar:
        for group in chunks(rows, BATCHES_AT_ONCE * args.batch_size):
            texts = [text_of(row) for row in group]
            yield from zip(group, model.analyze(texts, tokenizer, args.batch_size), strict=True)
            bar.update(len(group))


def rank(suggestions: Iterable[Suggestion], number: int, by: str) -> list[Suggestion]:
    """Those with words of which the model is least sure, the least sure first.

    Args:
        suggestions: All rows of the file, with what the model knows of them.
        number: How many to keep.
        by: What ranks: the "total" entropy, or that per "word".
    """

    def doubt(suggestion: Suggestion) -> float:
        _, prediction = suggestion
        return prediction.entropy / (len(prediction.words) if by == "word" else 1)

    return heapq.nlargest(number, (s for s in suggestions if s[1].words), key=doubt)


def with_doubt(row: Mapping[str, Any], prediction: Prediction) -> dict[str, Any]:
    """A row with the entropy and the number of words.

    Args:
        row: As the reader gives it.
        prediction: What the model knows of it.
    """
    return {**row, "entropy": round(prediction.entropy, 4), "words": len(prediction.words)}


def to_jsonl(row: Mapping[str, Any], prediction: Prediction) -> str:
    """A row with the entropy, the number of words and the entities, as JSON on one line.

    Args:
        row: As the reader gives it.
        prediction: What the model knows of it.
    """
    whole = {**with_doubt(row, prediction), "entities": prediction.entities}
    return json.dumps(whole, ensure_ascii=False, default=str)
