"""Write a trained model as ONNX, with a decoder that needs NumPy alone.

python scripts/export_onnx.py out/final out/onnx
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import torch
from transformers import AutoTokenizer

from hf_semicrf import SemiCRFForTokenClassification, prepare_tokenizer
from hf_semicrf.export.onnx import export_onnx


def main(arguments: Sequence[str] | None = None) -> None:
    """Load, trace and write."""
    parser = argparse.ArgumentParser(description="Write a trained semi-CRF model as ONNX.")
    parser.add_argument("model", help="Hub name or folder of the model")
    parser.add_argument("folder", help="where to write; docs/hugging_face.md shows its use")
    args = parser.parse_args(arguments)
    try:
        # in float32: few operations of CPU runtimes know half precision
        model = SemiCRFForTokenClassification.from_pretrained(args.model, dtype=torch.float32)
        tokenizer = prepare_tokenizer(AutoTokenizer.from_pretrained(args.model))
        path = export_onnx(model, tokenizer, args.folder)
    except (OSError, RuntimeError, ValueError) as error:
        sys.exit(f"export_onnx.py: {error}")
    files = sorted(path.parent.iterdir())
    size = sum(file.stat().st_size for file in files)
    print(f"{path.parent}: {', '.join(file.name for file in files)} ({size:,} bytes)")


if __name__ == "__main__":
    main()
