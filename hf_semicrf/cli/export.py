"""Write a trained model as ONNX, with a decoder that needs NumPy alone.

hf-semicrf export out/final out/onnx
"""

from __future__ import annotations

from collections.abc import Sequence

from hf_semicrf.cli.common import Parser, new_folder, one_line_errors
from hf_semicrf.cli.messages import opening


def parser() -> Parser:
    """The parser of the command."""
    made = Parser("export", str(__doc__))
    made.add_argument("model", help="Hub name or folder of the model")
    made.add_argument(
        "folder", type=new_folder, help="where to write; docs/hugging_face.md shows its use"
    )
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Load, trace and write.

    Args:
        arguments: The command line, `sys.argv` by default.
    """
    made = parser()
    args = made.parse_args(arguments)
    with one_line_errors(made):
        import torch
        from transformers import AutoTokenizer

        from hf_semicrf import SemiCRFForTokenClassification, prepare_tokenizer
        from hf_semicrf.export import export_onnx

        # in float32: few operations of CPU runtimes know half precision
        with opening(args.model):
            model = SemiCRFForTokenClassification.from_pretrained(args.model, dtype=torch.float32)
            tokenizer = prepare_tokenizer(AutoTokenizer.from_pretrained(args.model))
        path = export_onnx(model, tokenizer, args.folder)
        files = sorted(path.parent.iterdir())
        size = sum(file.stat().st_size for file in files)
        print(f"{path.parent}: {', '.join(file.name for file in files)} ({size:,} bytes)")
