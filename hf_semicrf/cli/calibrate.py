r"""Promise that a saved model finds a share of the entities, on documents like those of a file.

hf-semicrf calibrate out/final --file calibration.jsonl --recall 0.98
hf-semicrf calibrate out/final --file calibration.jsonl --recall 0.95 --confidence 0.95

The file has tagged documents that training and validation have not seen. The promise is written
into the model's configuration and its card; `hf-semicrf redact` and `model.predict(recall=...)` use
it. Where the data cannot carry it, it is refused, and the best that they carry is named.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from hf_semicrf.cli.common import (
    Parser,
    add_reading,
    add_running,
    existing_file,
    existing_folder,
    load,
    one_line_errors,
    read_tagged,
)
from hf_semicrf.options import OPTIONS


def parser() -> Parser:
    """The parser of the command."""
    made = Parser("calibrate", str(__doc__))
    made.add_argument("model", type=existing_folder, help="folder of the saved model")
    source = made.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--file", type=existing_file, help="local corpus, in any of the formats of docs/data.md"
    )
    source.add_argument("--dataset_name", help="data set on the Hub, instead of a file")
    made.add_argument("--dataset_config_name", help="its configuration")
    made.add_argument("--split", default="test", help="its split; test")
    made.add_argument("--recall", default=0.98, help="share of the entities to be found; 0.98")
    made.add_argument(
        "--confidence",
        help="for which share of such data the promise has to come true; on average by default",
    )
    made.add_argument(
        "--covering",
        choices=OPTIONS["covering"].choices,
        default="words",
        help="whether all words of an entity have to be covered, or it has to be found exactly",
    )
    made.add_argument(
        "--types", nargs="+", help="types with a promise each; one of all entities by default"
    )
    made.add_argument(
        "--document_column",
        help="column that tells documents apart, doc_id in a file; each row is one by default",
    )
    made.add_argument(
        "--max_length", help="sub-words in a window of a long text; the encoder's limit"
    )
    made.add_argument("--overlap", help="words shared by the windows of a long text; a quarter")
    add_reading(made)
    add_running(made)
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Read, calibrate and save.

    Args:
        arguments: The command line, `sys.argv` by default.
    """
    made = parser()
    args = made.parse_args(arguments)
    if args.misaligned == "drop":
        made.error("argument --misaligned: an entity that is dropped would not count as missed")
    with one_line_errors(made):
        _run(args)


def _run(args: argparse.Namespace) -> None:
    from hf_semicrf.evaluation import calibrate_recall
    from hf_semicrf.hub import CARD_NAME, card_with_promises, find_card
    from hf_semicrf.reporting import promise_table
    from hf_semicrf.saving import filling

    folder = Path(args.model)
    if not (folder / "config.json").is_file():
        raise ValueError(f"expected a folder of a whole model, found no config.json in {folder}")
    data, report = read_tagged(args.file, args.dataset_name, args.dataset_config_name,
                               args.split, args)  # fmt: skip
    model, tokenizer = load(args.model, args.device)
    promise = calibrate_recall(
        model,
        tokenizer,
        data,
        args.recall,
        args.confidence,
        args.covering,
        args.types,
        name=Path(args.file).name if args.file else f"{args.dataset_name}, {args.split}",
        document_column=args.document_column,
        tokens_column=args.tokens_column,
        tags_column=args.tags_column,
        batch_size=args.batch_size,
        max_length=args.max_length,
        overlap=args.overlap,
        report=report,
    )
    card = find_card(folder)
    with filling(folder) as unfinished:
        model.config.save_pretrained(unfinished)
        if card is not None:
            written = card_with_promises(card, model.config.promises)
            (unfinished / CARD_NAME).write_text(written, encoding="utf-8")
    print(promise_table([promise]))
