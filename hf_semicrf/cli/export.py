"""Write a trained model as ONNX, with what tags texts without PyTorch.

hf-semicrf export out/final out/onnx --quantize --evaluate_on validation.jsonl
python out/onnx/tag.py "Amelia Earhart flew to Paris."

The folder's README says what was measured.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hf_semicrf.cli.common import (
    Parser,
    WithProgress,
    add_reading,
    existing_file,
    new_folder,
    one_line_errors,
    read_tagged,
)
from hf_semicrf.cli.messages import opening


def parser() -> Parser:
    """The parser of the command."""
    made = Parser("export", str(__doc__))
    made.add_argument("model", help="Hub name or folder of the model")
    made.add_argument("folder", type=new_folder, help="where to write")
    made.add_argument("--quantize", action="store_true", help="write the weights as int8")
    made.add_argument(
        "--evaluate_on",
        type=existing_file,
        metavar="FILE",
        help="tagged texts on which F1 is measured, in any of the formats of docs/data.md",
    )
    add_reading(made)
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Load, trace and write.

    Args:
        arguments: The command line, `sys.argv` by default.
    """
    made = parser()
    args = made.parse_args(arguments)
    with one_line_errors(made):
        _run(args)


def _run(args: argparse.Namespace) -> None:
    import torch
    from transformers import AutoTokenizer

    from hf_semicrf import SemiCRFForTokenClassification, prepare_tokenizer
    from hf_semicrf.export import export_onnx

    evaluate = None
    if args.evaluate_on:
        data, report = read_tagged(args.evaluate_on, None, None, "", args)
        evaluate = partial(_scores, args, data, report)
    # in float32: few operations of CPU runtimes know half precision
    with opening(args.model):
        model = SemiCRFForTokenClassification.from_pretrained(args.model, dtype=torch.float32)
        tokenizer = prepare_tokenizer(AutoTokenizer.from_pretrained(args.model))
    path = export_onnx(model, tokenizer, args.folder, quantized=args.quantize, evaluate=evaluate)
    files = [file for file in path.parent.rglob("*") if file.is_file()]
    names = ", ".join(sorted(file.name for file in path.parent.iterdir()))
    print(f"{path.parent}: {names} ({sum(file.stat().st_size for file in files):,} bytes)")
    print(path.with_name("README.md").read_text(encoding="utf-8").rpartition("\n\n")[2], end="")


def _scores(args: argparse.Namespace, data: Any, report: Any, model: Any) -> dict[str, Any]:
    """What a model scores on the data, and what the data is."""
    from hf_semicrf.evaluation import evaluate_tagger

    columns = (args.tokens_column, args.tags_column)
    scores, _ = evaluate_tagger(WithProgress(model), None, data, *columns, report=report)
    ratios = {name: scores[f"overall_{name}"] for name in ("precision", "recall", "f1")}
    return {"data": Path(args.evaluate_on).name, "sentences": len(data), **ratios}
