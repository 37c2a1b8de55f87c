"""What the commands share: one-line errors, checks of arguments, progress, the model."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from hf_semicrf.cli.messages import opening, shown, tell
from hf_semicrf.options import OPTIONS, Option

if TYPE_CHECKING:
    from datasets import Dataset
    from tqdm import tqdm

    from hf_semicrf.data import ReadReport, Text

Item = TypeVar("Item")

FAILED = 2
INTERRUPTED = 130
BATCHES_AT_ONCE = 4  # batches of texts between two steps of a progress bar


class Parser(argparse.ArgumentParser):
    """A parser that says in one line what is wrong with an argument.

    Flags are written in full, as ``--batch_size`` or ``--batch-size``. Those that have the name of
    an option of `hf_semicrf.options` take its values.

    Args:
        command: Name of the command; None for `hf-semicrf` itself.
        description: What the command does.
        **options: What every parser takes.
    """

    def __init__(self, command: str | None, description: str, **options: Any):
        super().__init__(
            prog=f"hf-semicrf {command}" if command else "hf-semicrf",
            description=description,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            **options,
        )

    def parse_known_args(  # type: ignore[override]  # the stubs have overloads
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """Read the arguments, of which some may be unknown.

        Args:
            args: The command line, `sys.argv` by default.
            namespace: What takes the values.
        """
        take_options(self)
        args = sys.argv[1:] if args is None else args
        return super().parse_known_args(underscored(args), namespace)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and end.

        Args:
            message: What is wrong.
        """
        self.exit(FAILED, f"{self.prog}: {shown(message)}\n")
        raise AssertionError  # `exit` does not return


def underscored(arguments: Sequence[str]) -> list[str]:
    """The arguments with ``--batch-size`` written as ``--batch_size``.

    Args:
        arguments: The command line; what follows ``--`` stays.
    """
    written = list(arguments)
    last = written.index("--") if "--" in written else len(written)
    for index, argument in enumerate(written[:last]):
        if argument.startswith("--"):
            name, equals, value = argument[2:].partition("=")
            written[index] = f"--{name.replace('-', '_')}{equals}{value}"
    return written


@contextmanager
def one_line_errors(parser: Parser) -> Iterator[None]:
    """End with one line on standard error where a file, a value or the machine is not as expected.

    Args:
        parser: The command's.
    """
    for stream in (sys.stdout, sys.stderr):  # results hold characters of any script
        if (stream.encoding or "utf-8").lower().replace("-", "") != "utf8":
            getattr(stream, "reconfigure", lambda **_: None)(encoding="utf-8")
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output has seen enough
        _silence_output()
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        _silence_output()
        parser.error(_with_flags(str(error)) or type(error).__name__)
    except Exception as error:
        # such as DatasetGenerationError: data that can't be read
        if type(error).__module__.partition(".")[0] not in ("datasets", "pyarrow", "safetensors"):
            raise
        parser.error(str(error.__cause__ or error))


def _with_flags(message: str) -> str:
    """A message of the readers that names arguments as the command line has them."""
    names = "|".join(["columns", *_READING, "format"])

    def flag(found: re.Match[str]) -> str:
        name = "file_format" if found[1] == "format" else found[1]
        value = re.sub(r"[(),']", "", found[2])
        return f"--{name} {value}"

    return re.sub(rf"(?<![-\w])({names})=(\([^()]*\)|'[^']*'|[\w.]*)", flag, message)


def _silence_output() -> None:
    """Forget what standard output does not take, so that Python does not try again at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# Types of arguments


def take_options(parser: argparse.ArgumentParser) -> None:
    """Give arguments the types and ranges of the options that they are named after.

    Args:
        parser: The command's.
    """
    for action in parser._actions:
        if action.dest in OPTIONS and action.nargs != 0 and action.choices is None:
            action.type = option_type(OPTIONS[action.dest])


def option_type(option: Option) -> Callable[[str], Any]:
    """The type of an argument that takes the values of an option.

    Args:
        option: The option.
    """

    def read(text: str) -> Any:
        try:
            value = option.kind(text)
        except ValueError:
            value = None
        if value is None or not option.contains(value):
            raise argparse.ArgumentTypeError(f"expected {option.expected}, got {text!r}")
        return value

    return read


def existing_file(text: str) -> str:
    """The type of files that are there, or folders of them, such as BRAT's.

    Args:
        text: What was given.
    """
    if not _is(Path.exists, text):
        raise argparse.ArgumentTypeError(f"expected a file, found none at {text!r}")
    return text


def existing_folder(text: str) -> str:
    """The type of folders that are there.

    Args:
        text: What was given.
    """
    if not _is(Path.is_dir, text):
        raise argparse.ArgumentTypeError(f"expected a folder, found none at {text!r}")
    return text


def new_file(text: str) -> Path | None:
    """The type of files that can be written; "-" is standard output.

    Args:
        text: What was given.
    """
    if text == "-":
        return None
    path = Path(text)
    if _is(Path.is_dir, path) or not _is(Path.is_dir, path.parent):
        raise argparse.ArgumentTypeError(f"expected a file in a folder that exists, got {text!r}")
    if not os.access(path if _is(Path.exists, path) else path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"expected a file that may be written, got {text!r}")
    return path


def new_folder(text: str) -> Path:
    """The type of folders that are there or can be made.

    Args:
        text: What was given.
    """
    path = Path(text)
    if _is(Path.exists, path) and not _is(Path.is_dir, path):
        raise argparse.ArgumentTypeError(f"expected a folder, got the file {text!r}")
    return path


def _is(asked: Callable[[Path], bool], path: str | Path) -> bool:
    """What a path is asked for; False for one that the system refuses."""
    try:
        return asked(Path(path))
    except (OSError, ValueError):
        return False


def json_object(text: str) -> dict[str, Any]:
    """The type of JSON objects.

    Args:
        text: What was given.
    """
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected a JSON object: {error}") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"expected a JSON object, got {text!r}")
    return value


# Arguments of several commands


def add_running(parser: Parser) -> None:
    """The arguments of a model that runs on texts.

    Args:
        parser: The command's.
    """
    parser.add_argument("--batch_size", default=32, help="windows of text at once; 32")
    parser.add_argument("--device", help="where the model runs; the GPU if there is one")


def add_decoding(parser: Parser) -> None:
    """The arguments that say what is predicted, and through which windows.

    Args:
        parser: The command's.
    """
    rule = parser.add_mutually_exclusive_group()
    rule.add_argument(
        "--threshold",
        help="posterior that an entity has to exceed; the model's own",
    )
    rule.add_argument(
        "--decode",
        choices=OPTIONS["decode"].choices,
        help="predict the most probable segmentation as a whole, without a threshold",
    )
    parser.add_argument(
        "--max_length",
        help="sub-words in a window of a long text; the encoder's limit",
    )
    parser.add_argument(
        "--overlap",
        help="words shared by the windows of a long text; a quarter",
    )


def decoding(args: argparse.Namespace) -> dict[str, Any]:
    """What the command line says of `add_decoding`, as options of ``model.predict``.

    Args:
        args: The command line.
    """
    names = ("threshold", "decode", "max_length", "overlap")
    given = {name: getattr(args, name) for name in names}
    return {name: value for name, value in given.items() if value is not None}


_READING = (
    "tokens_column",
    "text_column",
    "separator",
    "encoding",
    "tags_column",
    "spans_column",
    "misaligned",
)


def add_reading(parser: Parser, tagged: bool = True) -> None:
    """The arguments that say how a file is read.

    Args:
        parser: The command's.
        tagged: Whether the file has tags or spans that the command reads.
    """
    group = parser.add_argument_group("reading files")
    group.add_argument("--tokens_column", default="tokens", help="column of the words; tokens")
    group.add_argument("--text_column", default="text", help="column of the text; text")
    group.add_argument("--file_format", help="format of the files; recognised by default")
    group.add_argument(
        "--columns",
        nargs="+",
        metavar="COLUMN",
        help="columns of the word, the tag and perhaps the sentence: numbers from 1, or names",
    )
    group.add_argument("--separator", help="what stands between columns; recognised by default")
    group.add_argument("--encoding", default="utf-8", help="encoding of the files; utf-8")
    if tagged:
        group.add_argument("--tags_column", default="ner_tags", help="column of the tags; ner_tags")
        group.add_argument("--spans_column", help="column of the spans; recognised by default")
        group.add_argument(
            "--misaligned",
            choices=OPTIONS["misaligned"].choices,
            default="error",
            help="what becomes of a span that ends inside a word; error",
        )


def reading(args: argparse.Namespace) -> dict[str, Any]:
    """What the command line says of `add_reading`, as arguments of the readers.

    Args:
        args: The command line.
    """
    columns = args.columns
    if columns is not None:
        columns = tuple(int(c) if c.lstrip("-").isdigit() else c for c in columns)
    given = {name: getattr(args, name) for name in _READING if hasattr(args, name)}
    return {**given, "format": args.file_format, "columns": columns}


def read_tagged(
    file: str | None, name: str | None, config: str | None, split: str, args: argparse.Namespace
) -> tuple[Dataset, ReadReport]:
    """A tagged file, or a split of a data set on the Hub; says what was left out.

    Args:
        file: The file, or None.
        name: The data set, where there is no file.
        config: Its configuration.
        split: Its split.
        args: The command line, which has what `add_reading` adds.
    """
    from hf_semicrf.data import ReadReport, read_corpus, read_hub

    report, how = ReadReport(), reading(args)
    if file is not None:
        data = read_corpus(file, report=report, **how)
    else:
        names = ("tokens_column", "tags_column", "text_column", "spans_column", "misaligned")
        some = {key: how[key] for key in names}
        data = read_hub(str(name), config, split=split, report=report, **some)
    for line in report.lines():
        tell(f"{report.source}: {line}")
    return data, report


# Running


def load(name: str, device: str | None) -> tuple[Any, Any]:
    """A model and its tokenizer.

    Args:
        name: Hub name or folder.
        device: Where the model is to run; the GPU if there is one by default.

    Raises:
        ValueError: There is no such device, or the model is no semi-CRF.
    """
    from transformers import pipeline

    from hf_semicrf.pipeline import TASK

    place = device_of(device)
    make: Any = pipeline  # whose signatures list the stock tasks alone
    with opening(name):
        tagger = make(TASK, model=name, device="cpu")
    # among several processes a pipeline leaves a model where it is
    return tagger.model.to(place), tagger.tokenizer


def device_of(name: str | None) -> Any:
    """The device of a name; the GPU if there is one by default.

    Args:
        name: Such as "cpu" or "cuda:1".

    Raises:
        ValueError: PyTorch knows no such device, or this machine has none.
    """
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"argument --device: no device is called {name!r}") from None
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise ValueError(
                f"argument --device: expected one of {count} GPUs, got {name!r}"
                if count
                else f"argument --device: got {name!r}, and there is no GPU that PyTorch can use"
            )
    try:
        torch.zeros(1, device=device).item()
    except Exception:  # of another kind for each back end
        raise ValueError(
            f"argument --device: expected a device that PyTorch can use here, got {name!r}"
        ) from None
    return device


def chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Items, some at once.

    Args:
        items: All items, read as they are needed.
        size: How many at once.
    """
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def progress(total: int | None, *, hidden: bool = False) -> tqdm:
    """A bar on standard error, if that is a terminal.

    Args:
        total: Number of texts; None if nobody knows.
        hidden: Whether to show none.
    """
    from tqdm import tqdm

    return tqdm(total=total, unit=" texts", file=sys.stderr, disable=True if hidden else None)


class WithProgress:
    """A model whose `predict` moves a bar.

    Args:
        model: The model.
    """

    def __init__(self, model: Any):
        self.model = model
        self.config = model.config

    def predict(
        self, texts: Sequence[Text], tokenizer: Any, batch_size: int = 32, **options: Any
    ) -> list[Any]:
        """What the model's own `predict` returns.

        Args:
            texts: The texts.
            tokenizer: The model's.
            batch_size: Windows of text at once.
            **options: Of the model's own `predict`.
        """
        found: list[Any] = []
        with progress(len(texts)) as bar:
            for chunk in chunks(texts, BATCHES_AT_ONCE * batch_size):
                found += self.model.predict(chunk, tokenizer, batch_size, **options)
                bar.update(len(chunk))
        return found
