r"""Measure a trained model on a data set: F1 by type, by length, on neighbours; calibration.

hf-semicrf evaluate out/final --file test.jsonl --output_dir out/evaluation
hf-semicrf evaluate out/final --dataset_name wnut_17 --split test --threshold 0.3

The tables are printed; with --output_dir they are also written there (evaluation.md), beside all
figures (evaluation.json) and a picture (evaluation.png, which needs matplotlib).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from hf_semicrf.cli.common import (
    Parser,
    WithProgress,
    add_decoding,
    add_reading,
    add_running,
    decoding,
    existing_file,
    load,
    new_folder,
    one_line_errors,
    read_tagged,
)


def parser() -> Parser:
    """The parser of the command."""
    made = Parser("evaluate", str(__doc__))
    made.add_argument("model", help="Hub name or folder of the model")
    source = made.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--file",
        type=existing_file,
        help="local corpus, in any of the formats of docs/data.md",
    )
    source.add_argument("--dataset_name", help="data set on the Hub, instead of a file")
    made.add_argument("--dataset_config_name", help="its configuration")
    made.add_argument("--split", default="test", help="its split; test")
    made.add_argument("--bins", default=10, help="of scores, for the calibration; 10")
    made.add_argument(
        "--output_dir", type=new_folder, help="folder for tables, figures and picture"
    )
    add_reading(made)
    add_decoding(made)
    add_running(made)
    return made


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    """Tag, compare, print and write.

    Args:
        arguments: The command line, `sys.argv` by default.

    Returns:
        The scores.
    """
    made = parser()
    args = made.parse_args(arguments)
    with one_line_errors(made):
        return _run(args)


def _run(args: argparse.Namespace) -> dict[str, float]:
    from hf_semicrf.evaluation import evaluate_tagger
    from hf_semicrf.reporting import length_table, plot_scores, reliability_table, type_table
    from hf_semicrf.saving import filling

    source = (args.file, args.dataset_name, args.dataset_config_name, args.split)
    data, report = read_tagged(*source, args)
    if args.output_dir is not None:
        args.output_dir.mkdir(parents=True, exist_ok=True)
    model, tokenizer = load(args.model, args.device)
    metrics, breakdown = evaluate_tagger(
        WithProgress(model),
        tokenizer,
        data,
        args.tokens_column,
        args.tags_column,
        args.bins,
        report,
        batch_size=args.batch_size,
        **decoding(args),
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
        written = json.dumps({**metrics, **breakdown}, indent=1)
        text += "\n![Scores](evaluation.png)\n"
        with filling(args.output_dir) as folder:
            (folder / "evaluation.json").write_text(written, encoding="utf-8")
            (folder / "evaluation.md").write_text(text, encoding="utf-8")
        plot_scores(args.output_dir / "evaluation.png", breakdown, metrics)
    return metrics
