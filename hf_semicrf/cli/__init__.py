"""The commands of `hf-semicrf`, one file each: arguments in, results out.

Lives here: the parsers of the commands, and what calls the library with the arguments. A parser
imports nothing heavy, so help and errors come at once. No library logic lives here.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from hf_semicrf.cli.common import Parser

COMMANDS = {
    "train": "fine-tune an encoder with a semi-CRF head",
    "predict": "tag texts",
    "evaluate": "measure a model on tagged data",
    "calibrate": "promise that a share of the entities is found",
    "redact": "cover what may be an entity, at a promised recall",
    "suggest": "rank untagged texts by how unsure a model is, for annotation",
    "serve": "show a page on which a text is tagged and corrected",
    "backend": "answer Label Studio's requests for predictions",
    "export": "write a model as ONNX",
    "push": "push a saved model to the Hub",
    "demo": "make a corpus, train on it, evaluate, reload and tag",
}

__all__ = ["COMMANDS", "main"]


def parser() -> Parser:
    """The parser of the first word; the others are the command's own."""
    from hf_semicrf import __version__

    lines = [f"  {name:10}{what}" for name, what in COMMANDS.items()]
    made = Parser(
        None,
        "A semi-Markov CRF head for transformers: entities as whole segments.",
        epilog="\n".join(["commands:", *lines, "", "hf-semicrf COMMAND --help says more."]),
    )
    made.add_argument("--version", action="version", version=f"hf-semicrf {__version__}")
    made.add_argument(
        "command", choices=COMMANDS, metavar="COMMAND", help="what to do, and its arguments"
    )
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command that the first argument names.

    Args:
        arguments: The command line, `sys.argv` by default.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    command = parser().parse_args(arguments[:1]).command
    import_module(f"hf_semicrf.cli.{command}").main(arguments[1:])
