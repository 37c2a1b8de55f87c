r"""Measure a trained model on a data set: F1 by type, by length, on neighbours; calibration.

python scripts/evaluate.py out/final --file test.jsonl --output_dir out/evaluation
python scripts/evaluate.py out/final --dataset_name wnut_17 --split test --threshold 0.3

The tables are printed; with --output_dir they are also written there (evaluation.md), beside all
figures (evaluation.json) and a picture (evaluation.png, which needs matplotlib).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset, load_dataset
from transformers import pipeline

from hf_semicrf.data.readers import read_corpus
from hf_semicrf.evaluation.breakdowns import evaluate_tagger
from hf_semicrf.pipeline import TASK
from hf_semicrf.reporting.tables import length_table, plot_scores, reliability_table, type_table


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure a trained semi-CRF model on a data set.")
    parser.add_argument("model", help="Hub name or folder of the model")
    parser.add_argument("--file", help="local corpus: jsonl, CoNLL columns or parquet; or .gz")
    parser.add_argument("--dataset_name", help="data set on the Hub, instead of a file")
    parser.add_argument("--dataset_config_name", help="its configuration")
    parser.add_argument("--split", default="test", help="its split")
    parser.add_argument("--tokens_column", default="tokens", help="column of the words")
    parser.add_argument("--tags_column", default="ner_tags", help="column of the tags")
    parser.add_argument("--batch_size", type=int, default=32, help="windows of text at once")
    parser.add_argument(
        "--threshold", type=float, help="posterior that an entity has to exceed; the model's own"
    )
    parser.add_argument(
        "--max_length", type=int, help="sub-words in a window of a long text; the encoder's limit"
    )
    parser.add_argument(
        "--overlap", type=int, help="words shared by the windows of a long text; a quarter"
    )
    parser.add_argument("--bins", type=int, default=10, help="of scores, for the calibration")
    parser.add_argument("--output_dir", type=Path, help="folder for tables, figures and picture")
    parser.add_argument("--device", help="where the model runs; the GPU if there is one")
    return parser.parse_args(arguments)


def load(args: argparse.Namespace) -> Dataset:
    """The data set that was asked for."""
    if (args.file is None) == (args.dataset_name is None):
        raise ValueError("expected either --file or --dataset_name")
    if args.file is not None:
        return read_corpus(args.file, args.tokens_column, args.tags_column)
    return load_dataset(args.dataset_name, args.dataset_config_name, split=args.split)


def run(args: argparse.Namespace) -> dict[str, float]:
    """Tag, compare, print and write; returns the scores."""
    data = load(args)
    tagger = pipeline(TASK, model=args.model, device=args.device)
    metrics, breakdown = evaluate_tagger(
        tagger.model,
        tagger.tokenizer,
        data,
        args.tokens_column,
        args.tags_column,
        args.bins,
        batch_size=args.batch_size,
        threshold=args.threshold,
        max_length=args.max_length,
        overlap=args.overlap,
    )
    name = Path(args.file).name if args.file else f"{args.dataset_name}, {args.split}"
    error = 100 * breakdown["calibration_error"]
    text = (
        f"# {args.model} on {name}\n\n"
        f"Exact matches of type and both boundaries, in percent; {len(data):,} sentences.\n\n"
        f"{type_table(metrics)}\n{length_table(breakdown)}\n"
        f"Expected calibration error of the entities' scores: {error:.2f} %.\n\n"
        f"{reliability_table(breakdown)}"
    )
    print(text)
    if args.output_dir is not None:
        args.output_dir.mkdir(parents=True, exist_ok=True)
        written = json.dumps({**metrics, **breakdown}, indent=1)
        (args.output_dir / "evaluation.json").write_text(written, encoding="utf-8")
        plot_scores(args.output_dir / "evaluation.png", breakdown, metrics)
        text += "\n![Scores](evaluation.png)\n"
        (args.output_dir / "evaluation.md").write_text(text, encoding="utf-8")
    return metrics


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    """Run, or say in a line why not."""
    try:
        return run(parse(arguments))
    except (OSError, ValueError, RuntimeError) as error:
        sys.exit(f"evaluate.py: {error}")


if __name__ == "__main__":
    main()
