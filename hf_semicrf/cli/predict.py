r"""Tag texts with a trained model.

hf-semicrf predict out "Amelia Earhart flew to Paris."
hf-semicrf predict out --file letters.txt --format html --output letters.html
cat letters.txt | hf-semicrf predict out > entities.jsonl
accelerate launch --num_processes 4 -m hf_semicrf predict out --file large.jsonl.gz \
    --output entities.jsonl

Standard input is answered line by line as it comes. With --file and --output, JSON lines are
written in shards beside the output, by one process or by several. After a kill the same command
goes on where it was: shards of the same model, options and texts are kept, all others made anew.
At the end the shards become one file in the order of the input.
"""

from __future__ import annotations

import argparse
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import TYPE_CHECKING, Any, TextIO

from hf_semicrf.cli.common import (
    BATCHES_AT_ONCE,
    Parser,
    add_decoding,
    add_reading,
    add_running,
    chunks,
    decoding,
    existing_file,
    load,
    new_file,
    one_line_errors,
    progress,
    reading,
)
from hf_semicrf.cli.messages import tell

if TYPE_CHECKING:
    from accelerate import PartialState


WRITTEN = ("jsonl", "conll", "label_studio", "prodigy", "doccano")
WAIT = timedelta(days=30)  # for the slowest process


def parser() -> Parser:
    """The parser of the command."""
    made = Parser("predict", str(__doc__))
    made.add_argument("model", help="Hub name or folder of the model")
    made.add_argument("texts", nargs="*", help="texts to tag; those of standard input by default")
    made.add_argument(
        "--file",
        type=existing_file,
        help="texts in any of the formats of docs/data.md: a text a line, JSON lines, columns, ...",
    )
    made.add_argument(
        "--format",
        choices=[*WRITTEN, "ansi", "html", "uncertainty"],
        help="JSON lines, columns, or what Label Studio, Prodigy and doccano import; terminal "
        "colours, a page, or a page of how sure the model is; by default colours on a terminal "
        "and jsonl elsewhere",
    )
    made.add_argument("--output", type=new_file, help="file to write instead of standard output")
    add_reading(made, tagged=False)
    add_decoding(made)
    add_running(made)
    made.add_argument(
        "--cuda_graphs",
        action="store_true",
        help="replay batches of a size in one launch: small encoders on a GPU are faster",
    )
    made.add_argument(
        "--shard_size",
        default=1000,
        help="texts that are written (and lost) together; 1000",
    )
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Read, tag and write.

    Args:
        arguments: The command line, `sys.argv` by default.
    """
    made = parser()
    args = made.parse_args(arguments)
    if args.texts and args.file:
        made.error("expected texts or --file, got both")
    if args.cuda_graphs and args.format == "uncertainty":
        made.error("expected --cuda_graphs with another format than uncertainty")
    if args.format is None:
        args.format = "ansi" if sys.stdout.isatty() and not args.output else "jsonl"
    with one_line_errors(made):
        _run(args)


def _run(args: argparse.Namespace) -> None:
    """Tag by one process or by several."""
    from accelerate import PartialState

    from hf_semicrf.saving import replacing

    state = PartialState(cpu=args.device == "cpu", timeout=WAIT)
    whole = args.output and (args.output.is_file() or not args.output.exists())  # no /dev/stdout
    in_shards = args.file and whole and args.format == "jsonl"
    if state.num_processes > 1 and not in_shards:
        raise ValueError("several processes expect --file, --output and the format jsonl")
    device = str(state.device) if args.device is None else args.device
    if in_shards:
        _write_shards(args, device, state)
    elif args.output:
        with replacing(args.output) as path, path.open("w", encoding="utf-8") as output:
            _write(args, device, output)
    else:
        _write(args, device, sys.stdout)
    state.destroy_process_group()


def _write(args: argparse.Namespace, device: str, output: TextIO) -> None:
    """Tag the texts of the command line, of a file or of standard input."""
    from hf_semicrf.data import ReadReport, stream_rows, text_of, write_rows
    from hf_semicrf.reporting import to_ansi, to_html, uncertainty_page
    from hf_semicrf.text import FUNCTION, Splitter

    report = ReadReport()
    rows: list[Any] | None = args.texts or None
    if args.file:
        rows = list(stream_rows(args.file, empty="keep", report=report, **reading(args)))
    model, tokenizer = load(args.model, device)
    types = model.config.scheme.types[1:]
    tag = model.analyze if args.format == "uncertainty" else model.predict
    splitter = model.config.splitter
    # of a model whose splitter is a function, words alone are tagged
    words = Splitter.of(None if splitter == FUNCTION else splitter).words
    writing = {"splitter": words, "model": args.model}
    groups: Iterable[list[Any]]
    if rows is None:
        groups, total = _as_they_come(_standard_input(), args.batch_size), None
    else:
        groups, total = chunks(rows, BATCHES_AT_ONCE * args.batch_size), len(rows)
    done = 0
    met: list[Any] = []
    found: list[Any] = []
    with progress(total, hidden=output is sys.stdout and output.isatty()) as bar:
        for group in groups:
            texts = [row if isinstance(row, str) else text_of(row) for row in group]
            answers = tag(texts, tokenizer, args.batch_size, **_options(args))
            if args.format == "ansi":
                print(to_ansi(texts, answers, types), file=output, flush=True)
            elif args.format in WRITTEN and args.format != "label_studio":
                for row, answer in zip(group, answers, strict=True):
                    done += 1
                    try:
                        lines = list(write_rows([row], [answer], args.format, **writing))
                    except ValueError as error:
                        place = report.places[done - 1] if args.file else f"text {done}"
                        raise ValueError(f"{place}: {error}") from None
                    _print(lines, output)
            else:
                met += group if args.format in WRITTEN else texts
                found += answers
            bar.update(len(group))
    if args.format == "label_studio":
        _print(write_rows(met, found, args.format, **writing), output)
    elif args.format == "html":
        print(to_html(met, found, types=types), file=output)
    elif args.format == "uncertainty":
        print(uncertainty_page(found), file=output)
    for line in report.lines():
        tell(f"hf-semicrf predict: {args.file}: {line}")


def _options(args: argparse.Namespace) -> dict[str, Any]:
    """What `predict` is asked for."""
    return decoding(args) | ({"cuda_graphs": True} if args.cuda_graphs else {})


def _print(lines: Iterable[str], output: TextIO) -> None:
    """Write lines; at once, since somebody may wait for them."""
    for line in lines:
        print(line, file=output)
    output.flush()


def _standard_input() -> Iterator[str]:
    """The lines of standard input; names those that are no text and leaves them out.

    They come through a file of their own: Python ends badly while a thread reads `sys.stdin`.
    """
    from hf_semicrf.data import undecoded

    lines: Iterable[str] = sys.stdin
    with suppress(AttributeError, OSError):
        number, coding = sys.stdin.fileno(), sys.stdin.encoding
        lines = open(number, encoding=coding, errors="surrogateescape", closefd=False)
    for number, line in enumerate(lines, start=1):
        if reason := undecoded(line):
            print(f"hf-semicrf predict: standard input, line {number}: {reason}", file=sys.stderr)
        else:
            yield line


def _as_they_come(lines: Iterable[str], most: int) -> Iterator[list[Any]]:
    """The lines that are there, some at once; waits only while there is none.

    Args:
        lines: Lines, which may take their time.
        most: Lines at once, at most.
    """
    queue: Queue[str | Exception | None] = Queue(maxsize=BATCHES_AT_ONCE * most)

    def read() -> None:
        try:
            for line in lines:
                queue.put(line.removesuffix("\n"))
            queue.put(None)
        except Exception as error:
            queue.put(error)

    Thread(target=read, daemon=True).start()
    end: Exception | None = None
    more = True
    while more:
        group: list[Any] = []
        line = queue.get()
        try:
            while isinstance(line, str):
                group.append(line)
                if len(group) == most:
                    break
                line = queue.get_nowait()
            else:
                more, end = False, line
        except Empty:
            pass
        if group:
            yield group
    if end is not None:
        raise end


def _write_shards(args: argparse.Namespace, device: str, state: PartialState) -> None:
    """Tag a file of any size by all processes, going on where an earlier run was killed."""
    from hf_semicrf import __version__
    from hf_semicrf.data import ReadReport, stream_rows, text_of, write_rows
    from hf_semicrf.inference import fingerprint, merge_shards, write_shards

    output = args.output.resolve()
    folder = output.with_name(output.name + ".shards")
    report = ReadReport()
    with (
        _only_run(state, folder, args.output),
        progress(None, hidden=not state.is_main_process) as bar,
    ):
        model, tokenizer = load(args.model, device)
        options = _options(args)
        settings = {"version": __version__, "model": fingerprint(model, tokenizer), **options}

        def tagged(shards: Iterator[list[Any]]) -> Iterator[list[str]]:
            waiting: deque[list[Any]] = deque()

            def texts() -> Iterator[Any]:
                for rows in shards:
                    waiting.append(rows)
                    yield from map(text_of, rows)

            # a shard has the same bytes whatever is done beside it
            stream = model.predict_stream(
                texts(), tokenizer, args.batch_size, texts_at_once=args.shard_size, **options
            )
            found: list[Any] = []
            for entities in stream:
                found.append(entities)
                if len(found) == len(waiting[0]):
                    bar.update(len(found))
                    yield list(write_rows(waiting.popleft(), found))
                    found.clear()

        names = write_shards(
            folder,
            stream_rows(args.file, empty="keep", report=report, **reading(args)),
            tagged,
            settings,
            args.shard_size,
            state.process_index,
            state.num_processes,
        )
        state.wait_for_everyone()
        others = merge_shards(folder, names, output) if state.is_main_process else 0
    if state.is_main_process:
        lines = report.lines()
        if others:
            lines.append(f"{others:,} shards of another model, other options or texts, left out")
        for line in lines:
            tell(f"hf-semicrf predict: {args.file}: {line}")


@contextmanager
def _only_run(state: PartialState, folder: Path, output: Path) -> Iterator[None]:
    """Be the only run that writes a file, whatever the number of its processes.

    Raises:
        ValueError: Another run writes it; in every process.
    """
    from accelerate.utils import broadcast_object_list

    from hf_semicrf.saving import only_writer

    refused: list[Exception | None] = [None]
    with ExitStack() as stack:
        if state.is_main_process:
            try:
                stack.enter_context(only_writer(folder, output))
            except (OSError, ValueError) as error:
                refused = [error]
        broadcast_object_list(refused)
        if refused[0] is not None:
            raise refused[0]
        yield
