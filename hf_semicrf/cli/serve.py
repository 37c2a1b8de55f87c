r"""Show a page on which a text is tagged, corrected and saved as training data.

hf-semicrf serve out/final --output corrected.jsonl
hf-semicrf train --train_file corrected.jsonl --model_name_or_path bert-base-cased \
    --output_dir out/next

The page is on this machine's own address, and asks nothing of any other.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from hf_semicrf.cli.common import Parser, load, new_file, one_line_errors
from hf_semicrf.cli.messages import tell


def parser() -> Parser:
    """The parser of the command."""
    made = Parser("serve", str(__doc__))
    made.add_argument("model", help="Hub name or folder of the model")
    made.add_argument(
        "--output",
        type=new_file,
        default=Path("corrected.jsonl"),
        help="file that corrected texts are added to; corrected.jsonl",
    )
    made.add_argument(
        "--port", default=7860, help="of this machine's own address; 7860, and 0 for any"
    )
    made.add_argument("--device", help="where the model runs; the GPU if there is one")
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Load and show, until interrupted.

    Args:
        arguments: The command line, `sys.argv` by default.
    """
    made = parser()
    args = made.parse_args(arguments)
    if args.output is None:
        made.error("expected --output as a file, got standard output")
    if find_spec("gradio") is None:
        made.error("the page needs Gradio: pip install hf_semicrf[serve]")
    with one_line_errors(made):
        from hf_semicrf.cli.page import LAUNCH, page
        from hf_semicrf.integrations import HOST, Annotator

        with socket.create_server((HOST, args.port)) as free:  # an error names what is taken
            port = free.getsockname()[1]
        annotator = Annotator(*load(args.model, args.device), args.output)
        if hidden := len(annotator.model.config.promises) - len(annotator.recalls):
            tell(
                f"hf-semicrf serve: {hidden} promises of recall left out, which are not of strings"
            )
        blocks = page(annotator, args.model)
        blocks.launch(server_name=HOST, server_port=port, **LAUNCH)
        tell(f"hf-semicrf serve: http://{HOST}:{port}")
        blocks.block_thread()
