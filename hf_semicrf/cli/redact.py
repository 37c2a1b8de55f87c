r"""Cover what may be an entity in a file, so that a promised share of all entities can't be read.

hf-semicrf redact out/final --file letters.txt --recall 0.98 --output redacted.txt
hf-semicrf redact out/final --file letters.jsonl --recall 0.98 --output redacted.jsonl \
    --replace mapping --mapping mapping.jsonl

The model has to be calibrated for the recall (`hf-semicrf calibrate`). Plain text gives plain text;
all else gives JSON lines with "text" or "tokens" and the row's "id", and without its other fields.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

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

PRIVATE = 0o600  # who may read a mapping: its owner


def parser() -> Parser:
    """The parser of the command."""
    made = Parser("redact", str(__doc__))
    made.add_argument("model", help="Hub name or folder of the model")
    made.add_argument(
        "--file",
        type=existing_file,
        required=True,
        help="texts in any of the formats of docs/data.md: a text a line, JSON lines, columns, ...",
    )
    made.add_argument("--recall", required=True, help="a recall that the model is calibrated for")
    made.add_argument(
        "--replace",
        choices=OPTIONS["replace"].choices,
        default="label",
        help="what stands in the place of what is covered; label",
    )
    made.add_argument("--output", type=new_file, help="file to write instead of standard output")
    made.add_argument(
        "--mapping", type=new_file, help="file that tells what was covered, with --replace mapping"
    )
    made.add_argument(
        "--max_length", help="sub-words in a window of a long text; the encoder's limit"
    )
    made.add_argument("--overlap", help="words shared by the windows of a long text; a quarter")
    add_reading(made, tagged=False)
    add_running(made)
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Read, cover and write.

    Args:
        arguments: The command line, `sys.argv` by default.
    """
    made = parser()
    args = made.parse_args(arguments)
    if (args.replace == "mapping") != (args.mapping is not None):
        made.error("expected --mapping FILE with --replace mapping, and with that alone")
    with one_line_errors(made):
        _run(args)


def _run(args: argparse.Namespace) -> None:
    from hf_semicrf.data import ReadReport, stream_rows
    from hf_semicrf.saving import replacing

    report = ReadReport()
    model, tokenizer = load(args.model, args.device)
    rows = stream_rows(args.file, empty="keep", report=report, **reading(args))
    with ExitStack() as stack:
        output: TextIO = sys.stdout
        mapping: TextIO | None = None
        if args.output:
            path = stack.enter_context(replacing(args.output))
            output = stack.enter_context(path.open("w", encoding="utf-8"))
        if args.mapping:
            if args.mapping.is_file():  # whose mode the new file takes
                args.mapping.chmod(PRIVATE)
            path = stack.enter_context(replacing(args.mapping))
            number = os.open(path, os.O_WRONLY | os.O_CREAT, PRIVATE)
            mapping = stack.enter_context(open(number, "w", encoding="utf-8"))
        left_out = _write(args, rows, model, tokenizer, output, mapping)
    if left_out:
        tell(f"hf-semicrf redact: {args.file}: fields left out: {', '.join(sorted(left_out))}")
    for line in report.lines():
        tell(f"hf-semicrf redact: {args.file}: {line}")


def _write(
    args: argparse.Namespace,
    rows: Iterable[dict[str, Any]],
    model: Any,
    tokenizer: Any,
    output: TextIO,
    mapping: TextIO | None,
) -> set[str]:
    """Cover the rows; the fields of theirs that are not written."""
    from hf_semicrf.data import text_of

    plain = _is_plain_text(args)
    left_out: set[str] = set()
    options = {"max_length": args.max_length, "overlap": args.overlap}
    number = 0
    with progress(None, hidden=output is sys.stdout and output.isatty()) as bar:
        for group in chunks(rows, BATCHES_AT_ONCE * args.batch_size):
            texts = [text_of(row) for row in group]
            found = model.redact(
                texts, tokenizer, args.batch_size, recall=args.recall, replace=args.replace,
                **options,
            )  # fmt: skip
            for row, redaction in zip(group, found, strict=True):
                number += 1
                name = "text" if isinstance(redaction.text, str) else "tokens"
                left_out |= row.keys() - {"id", name}
                own = {key: row[key] for key in ("id",) if key in row}
                written = {**own, name: redaction.text}
                print(redaction.text if plain else _dumped(written), file=output)
                if mapping is not None:
                    place = own or {"row": number}
                    print(_dumped({**place, "mapping": redaction.mapping}), file=mapping)
            bar.update(len(group))
    return left_out


def _is_plain_text(args: argparse.Namespace) -> bool:
    """Whether a file has one text a line, and nothing else."""
    if args.file_format is not None:
        return bool(args.file_format == "text")
    return Path(args.file).name.removesuffix(".gz").endswith(".txt") and args.columns is None


def _dumped(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
