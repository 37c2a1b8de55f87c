"""Tag text with a trained model.

python scripts/predict.py out "Amelia Earhart flew to Paris."
python scripts/predict.py out --file letters.txt --format html --output letters.html
cat letters.txt | python scripts/predict.py out > entities.jsonl
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoTokenizer

from hf_semicrf import SemiCRFForTokenClassification, prepare_tokenizer
from hf_semicrf.corpora import Text, read_texts
from hf_semicrf.visualize import to_ansi, to_html


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Tag text with a trained semi-CRF model.",
        epilog="Without texts and without --file, one text a line is read from standard input.",
    )
    parser.add_argument("model", help="Hub name or folder of the model")
    parser.add_argument("texts", nargs="*", help="texts to tag")
    parser.add_argument(
        "--file",
        help='.txt with one text a line, or .jsonl with "text" or "tokens" in each line; or .gz',
    )
    parser.add_argument(
        "--format",
        choices=["jsonl", "ansi", "html"],
        help="entities with offsets, terminal colours or a page; "
        "by default colours on a terminal and jsonl elsewhere",
    )
    parser.add_argument("--output", help="file to write instead of standard output")
    parser.add_argument("--batch_size", type=int, default=32, help="texts at once")
    parser.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="where the model runs; the GPU if there is one",
    )
    return parser.parse_args(arguments)


def to_jsonl(texts: Sequence[Text], entities: Sequence[list[dict]]) -> str:
    """One object a line: the text or the tokens, and the entities."""
    lines = []
    for text, found in zip(texts, entities, strict=True):
        key = "text" if isinstance(text, str) else "tokens"
        lines.append(json.dumps({key: text, "entities": found}, ensure_ascii=False))
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read, tag and write."""
    args = parse(arguments)
    try:
        if args.texts and args.file:
            raise ValueError("expected texts or --file, got both")
        if args.file:
            texts = read_texts(args.file)
        else:
            texts = args.texts or sys.stdin.read().removesuffix("\n").split("\n")
        model = SemiCRFForTokenClassification.from_pretrained(args.model).to(args.device)
        tokenizer = prepare_tokenizer(AutoTokenizer.from_pretrained(args.model))
    except (OSError, ValueError) as error:
        sys.exit(f"predict.py: {error}")
    entities = model.predict(texts, tokenizer, batch_size=args.batch_size)

    on_terminal = sys.stdout.isatty() and not args.output
    chosen = args.format or ("ansi" if on_terminal else "jsonl")
    written = {"jsonl": to_jsonl, "ansi": to_ansi, "html": to_html}[chosen](texts, entities)
    if args.output:
        Path(args.output).write_text(written + "\n", encoding="utf-8")
    else:
        print(written)


if __name__ == "__main__":
    main()
