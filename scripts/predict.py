r"""Tag text with a trained model.

python scripts/predict.py out "Amelia Earhart flew to Paris."
python scripts/predict.py out --file letters.txt --format html --output letters.html
cat letters.txt | python scripts/predict.py out > entities.jsonl
accelerate launch --num_processes 4 scripts/predict.py out --file large.jsonl.gz \
    --output entities.jsonl

With --file and --output, JSON lines are written in shards beside the output, by one process or by
several. After a kill the same command goes on where it was; at the end the shards become one file
in the order of the input.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

from accelerate import PartialState
from transformers import pipeline

from hf_semicrf.data.readers import Text, read_texts, stream_texts
from hf_semicrf.inference.shards import merge_shards, write_shards
from hf_semicrf.pipeline import TASK
from hf_semicrf.reporting.heatmap import uncertainty_page
from hf_semicrf.reporting.visualize import to_ansi, to_html

Tag = Callable[[Sequence[Text]], list[list[dict]]]
WAIT = timedelta(days=30)  # for the slowest process


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Tag text with a trained semi-CRF model.",
        epilog="Without texts and without --file, one text a line is read from standard input.",
    )
    parser.add_argument("model", help="Hub name or folder of the model")
    parser.add_argument("texts", nargs="*", help="texts to tag")
    parser.add_argument(
        "--file",
        help='.txt with one text a line, or .jsonl with "text" or "tokens" in each line; or .gz',
    )
    parser.add_argument(
        "--format",
        choices=["jsonl", "ansi", "html", "uncertainty"],
        help="entities with offsets, terminal colours, a page, or a page of how sure the model is; "
        "by default colours on a terminal and jsonl elsewhere",
    )
    parser.add_argument("--output", help="file to write instead of standard output")
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
    parser.add_argument(
        "--shard_size", type=int, default=1000, help="texts that are written (and lost) together"
    )
    parser.add_argument("--device", help="where the model runs; each process's GPU if there is one")
    return parser.parse_args(arguments)


def options(args: argparse.Namespace) -> dict[str, float | int | None]:
    """What the command line asks of ``model.predict``, apart from the batch size."""
    return {name: getattr(args, name) for name in ("threshold", "max_length", "overlap")}


def to_jsonl(texts: Sequence[Text], entities: Sequence[list[dict]]) -> list[str]:
    """One object a line: the text or the tokens, and the entities."""
    lines = []
    for text, found in zip(texts, entities, strict=True):
        key = "text" if isinstance(text, str) else "tokens"
        lines.append(json.dumps({key: text, "entities": found}, ensure_ascii=False))
    return lines


def read(args: argparse.Namespace) -> list[Text]:
    """The texts of the command line, the file or standard input."""
    if args.file:
        return read_texts(args.file)
    return args.texts or sys.stdin.read().removesuffix("\n").split("\n")


def write(args: argparse.Namespace, texts: list[Text], entities: list[list[dict]]) -> None:
    """Write in the format that was asked for, or that suits the place."""
    on_terminal = sys.stdout.isatty() and not args.output
    chosen = args.format or ("ansi" if on_terminal else "jsonl")
    if chosen == "jsonl":
        written = "\n".join(to_jsonl(texts, entities))
    else:
        written = {"ansi": to_ansi, "html": to_html}[chosen](texts, entities)
    emit(args, written)


def emit(args: argparse.Namespace, written: str) -> None:
    """Write to the output, or print."""
    if args.output:
        Path(args.output).write_text(written + "\n", encoding="utf-8")
    else:
        print(written)


def write_in_shards(args: argparse.Namespace, tag: Tag, state: PartialState) -> None:
    """Tag a file of any size by all processes, going on where an earlier run was killed."""
    file, output = Path(args.file), Path(args.output)
    folder = output.with_name(output.name + ".shards")
    settings = {
        "model": args.model,
        "file": str(file.resolve()),
        "modified": file.stat().st_mtime_ns,
        **options(args),
    }
    count = write_shards(
        folder,
        stream_texts(file),
        lambda texts: to_jsonl(texts, tag(texts)),
        settings,
        args.shard_size,
        state.process_index,
        state.num_processes,
    )
    state.wait_for_everyone()
    if state.is_main_process:
        merge_shards(folder, count, output)


def run(args: argparse.Namespace) -> None:
    """Read, tag and write."""
    state = PartialState(cpu=args.device == "cpu", timeout=WAIT)
    in_shards = args.file and args.output and args.format in (None, "jsonl")
    if args.texts and args.file:
        raise ValueError("expected texts or --file, got both")
    if state.num_processes > 1 and not in_shards:
        raise ValueError("several processes expect --file, --output and the format jsonl")
    texts = None if in_shards else read(args)
    tagger = pipeline(TASK, model=args.model, device="cpu")
    # among several processes a pipeline leaves a model where it is
    tagger.model.to(args.device or state.device)

    def tag(texts: Sequence[Text], **more: bool) -> list:
        chosen = {**options(args), **more}
        return tagger.model.predict(texts, tagger.tokenizer, args.batch_size, **chosen)

    if texts is None:
        write_in_shards(args, tag, state)
    elif args.format == "uncertainty":
        emit(args, uncertainty_page(tag(texts, return_posteriors=True)))
    else:
        write(args, texts, tag(texts))
    state.destroy_process_group()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run, or say in a line why not."""
    try:
        run(parse(arguments))
    except (OSError, ValueError) as error:
        sys.exit(f"predict.py: {error}")


if __name__ == "__main__":
    main()
