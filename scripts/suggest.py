r"""Rank unlabelled sentences by how unsure a trained model is of them, for annotation.

python scripts/suggest.py out --file unlabelled.jsonl --number 50 --output suggestions.jsonl
python scripts/suggest.py out --file unlabelled.txt --number 20 --by word --format html \
    --output suggestions.html

What ranks is the entropy of the distribution over a sentence's segmentations, in nats: in total,
which favours long sentences with several doubts, or per word, which favours short ones. Each JSON
line has the text or the tokens, the entropy and the entities found, as a start for annotation.
"""

from __future__ import annotations

import argparse
import heapq
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from transformers import AutoTokenizer

from hf_semicrf import SemiCRFForTokenClassification, prepare_tokenizer
from hf_semicrf.data.readers import Text, stream_texts
from hf_semicrf.reporting.heatmap import uncertainty_page
from hf_semicrf.results import Prediction

AT_ONCE = 1000  # texts that are tagged before those that rank too low are forgotten


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="Hub name or folder of the model")
    parser.add_argument(
        "--file",
        required=True,
        help='.txt with one text a line, or .jsonl with "text" or "tokens" in each line; or .gz',
    )
    parser.add_argument("--number", type=int, default=100, help="sentences to suggest")
    parser.add_argument("--by", choices=["total", "word"], default="total", help="what ranks")
    parser.add_argument("--format", choices=["jsonl", "html"], default="jsonl")
    parser.add_argument("--output", type=Path, help="file to write instead of standard output")
    parser.add_argument("--batch_size", type=int, default=32, help="windows of text at once")
    parser.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="where the model runs; the GPU if there is one",
    )
    return parser.parse_args(arguments)


def chunks(texts: Iterable[Text]) -> Iterator[list[Text]]:
    """Texts, some at once."""
    chunk: list[Text] = []
    for text in texts:
        chunk.append(text)
        if len(chunk) == AT_ONCE:
            yield chunk
            chunk = []
    yield chunk


def rank(predictions: Iterable[Prediction], number: int, by: str) -> list[Prediction]:
    """Those with words of which the model is least sure, the least sure first."""

    def doubt(prediction: Prediction) -> float:
        return prediction.entropy / (len(prediction.words) if by == "word" else 1)

    return heapq.nlargest(number, (p for p in predictions if p.words), key=doubt)


def to_jsonl(ranked: Iterable[Prediction]) -> str:
    """One object a line: the text or the tokens, the entropy and the entities."""
    lines = []
    for prediction in ranked:
        key = "text" if isinstance(prediction.text, str) else "tokens"
        row = {key: prediction.text, "entropy": round(prediction.entropy, 4)}
        row |= {"words": len(prediction.words), "entities": prediction.entities}
        lines.append(json.dumps(row, ensure_ascii=False))
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read, rank and write."""
    args = parse(arguments)
    try:
        if args.number < 1:
            raise ValueError(f"expected a --number of at least 1 sentence, got {args.number}")
        model = SemiCRFForTokenClassification.from_pretrained(args.model).to(args.device)
        tokenizer = prepare_tokenizer(AutoTokenizer.from_pretrained(args.model))
        predictions = (
            prediction
            for chunk in chunks(stream_texts(Path(args.file)))
            for prediction in model.predict(
                chunk, tokenizer, args.batch_size, return_posteriors=True
            )
        )
        ranked = rank(predictions, args.number, args.by)
    except (OSError, ValueError) as error:
        sys.exit(f"suggest.py: {error}")
    if args.format == "html":
        written = uncertainty_page(ranked, "Sentences to annotate, the least sure first")
    else:
        written = to_jsonl(ranked)
    if args.output:
        args.output.write_text(written + "\n", encoding="utf-8")
    else:
        print(written)


if __name__ == "__main__":
    main()
