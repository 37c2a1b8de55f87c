"""A family of tests: good files of every format, cut and flipped at random, read by the commands.

Each must end well, or with the exit status 2 and one line that names the file.
"""

from __future__ import annotations

import gzip
import io
import json
import math
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from datetime import date
from decimal import Decimal
from functools import cache
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

import datasets
import pyarrow
import pyarrow.parquet
import torch
from datasets import ClassLabel, Dataset, Features, Sequence, Value
from test_readers import LAYOUTS
from test_readers_spans import FORMS, SPANS, TEXT
from tiny import save_tiny_bert, sentences
from transformers import AutoTokenizer

from hf_semicrf import SemiCRFForTokenClassification, prepare_tokenizer
from hf_semicrf.cli import evaluate, predict, suggest, train

PIECES = [
    *(b"\xff", b"\x00", b"\r", b"\n", b"\n\n", b"\t", b" ", b'"', b"'", b",", b"|", b"=", b"#"),
    *(b"[", b"]", b"{", b"}", b"null", b"true", b"-1", b"1e999", b"9" * 30, b"9" * 5000, b"\\"),
    *(b'"\\ud800"', b"\\u0000", b"\xef\xbb\xbf", b"\xff\xfe", b"\xe2\x80\xa8", b"\xf0\x9f\x98\x80"),
    *(b"[" * 5000, b"[" * 900 + b"]" * 900, b'{"a":' * 400 + b"1" + b"}" * 400, b"x" * 9000),
    *(b"B-", b"I-X", b"O", b"-DOCSTART-"),
]
ODD = [
    *(None, True, False, 0, 1, -1, 7, 10**30, 1.5, math.inf, math.nan, "", " ", "O", "x", "B-"),
    *("\ud800", "\0", [], [[]], [None], ["x"], [1], [0, 1, "PER"], [0, 2**70, "O"], {}, {"a": 1}),
    *({"start": 0, "end": 3, "label": "PER"}, {"start": "0", "end": None, "label": []}),
    *(json.loads("[" * 900 + "]" * 900), json.loads('{"a":' * 400 + "1" + "}" * 400)),
    *({"text": "x"}, {"result": [{"value": {}}]}, {"data": None, "annotations": 3}, [{}] * 3),
]


@cache
def tagger() -> tuple[str, SemiCRFForTokenClassification, object]:
    """A model that knows nothing, its folder and its tokenizer."""
    folder = Path(tempfile.mkdtemp())
    bert = save_tiny_bert(folder / "bert", TEXT)
    labels = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-ORG", "I-ORG"]
    with torch.random.fork_rng(devices=[]):  # the same head, whatever ran before
        torch.manual_seed(0)
        model = SemiCRFForTokenClassification.from_pretrained(
            bert, labels=labels, max_segment_length=3
        )
    tokenizer = prepare_tokenizer(AutoTokenizer.from_pretrained(bert))
    for part in (model, tokenizer):
        part.save_pretrained(folder / "tagger")
    return str(folder / "tagger"), model, tokenizer


@cache
def contents() -> dict[str, tuple[dict[str, bytes], list[str]]]:
    """Good corpora by name: the content of each of their files, and the flags that read them."""
    made: dict[str, tuple[dict[str, bytes], list[str]]] = {}
    for name, (text, columns) in LAYOUTS.items():
        flags = ["--columns", *map(str, columns)] if columns else []
        made[name] = ({name.removesuffix(".gz"): text.encode()}, flags)
    for name, text in FORMS.items():
        made[name] = ({name: text.encode()}, [])
    rows = sentences(9)
    made["rows.json"] = ({"rows.json": json.dumps(rows, indent=1).encode()}, [])
    made["words.jsonl"] = ({"words.jsonl": "\n".join(map(json.dumps, rows)).encode()}, [])
    made["wide.csv"] = (
        {"wide.csv": b'tokens,ner_tags\n"[""Ada"", ""met""]","[""B-PER"", ""O""]"\n' * 2},
        [],
    )
    made["texts.txt"] = ({"texts.txt": (TEXT + "\n").encode() * 3}, [])
    made["wide.utf16.jsonl"] = (
        {"wide.utf16.jsonl": "\n".join(map(json.dumps, rows)).encode("utf-16")},
        [],
    )
    named = Features(
        {"tokens": Sequence(Value("string")), "ner_tags": Sequence(ClassLabel(names=["O", "B-X"]))}
    )
    tables = {
        "tags.parquet": Dataset.from_list(rows),
        "classes.parquet": Dataset.from_list(
            [{"tokens": ["Ada", "met"], "ner_tags": [1, 0]}] * 9, features=named
        ),
        "spans.parquet": Dataset.from_list(
            [{"text": TEXT, "entities": [{"start": 0, "end": 12, "label": "PER"}]}] * 3
        ),
    }
    for name, table in tables.items():
        stream = io.BytesIO()
        table.to_parquet(stream)
        made[name] = ({name: stream.getvalue()}, [])
    made["odd.parquet"] = ({"odd.parquet": b""}, [])  # see `odd_table`
    notes = "".join(f"T{n}\t{k} {a} {b}\t{TEXT[a:b]}\n" for n, (a, b, k) in enumerate(SPANS))
    made["brat"] = ({"brat/n.ann": notes.encode(), "brat/n.txt": TEXT.encode()}, [])
    made["pair"] = ({"pair.ann": notes.encode(), "pair.txt": TEXT.encode()}, [])
    made["d.spacy"] = ({"d.spacy": b"not spaCy's"}, [])
    return made


def odd_table(random: Random) -> bytes:
    """A parquet file that has the right columns, with values of any type."""
    names = [*("tokens", "ner_tags", "text", "entities", "offsets", "id")]
    columns: list[Any] = [
        *([["Ada", "met"]] * 2, [["B-PER", "O"]] * 2, [[1, 0]] * 2, ["Ada met", ""], [None, None]),
        *([["a", None], None], [[["a"]], []], [b"\xff", b"a"], [[b"a"], [b"b"]], [1.5, math.nan]),
        *([date(2020, 1, 1), None], [Decimal("1.5"), None], [{"a": 1}, None], [10**18, -1]),
        *([[{"start": 0, "end": 3, "label": "PER"}], []], [[[0, 3], [4, 7]]] * 2, [True, False]),
    ]
    chosen = random.sample(names, random.randint(0, 4))
    arrays = [pyarrow.array(random.choice(columns)) for _ in chosen]
    for n, array in enumerate(arrays):
        if array.type == pyarrow.string() and random.random() < 0.5:
            arrays[n] = random.choice([array.dictionary_encode(), array.cast("large_string")])
    table = pyarrow.table(arrays, names=chosen).slice(0, random.choice([0, 1, 2, 2]))
    stream = io.BytesIO()
    pyarrow.parquet.write_table(table, stream)
    return stream.getvalue()


def odd_value(value: Any, random: Random) -> Any:
    """A value of JSON, of which one part is replaced."""
    if value and isinstance(value, list | dict) and random.random() < 0.85:
        value = value.copy()
        key = random.choice(list(value) if isinstance(value, dict) else range(len(value)))
        if random.random() < 0.1:
            value.pop(key)
        else:
            value[key] = odd_value(value[key], random)
        return value
    return random.choice(ODD)


def odd_json(content: bytes, random: Random) -> bytes:
    """A JSON file, of which one value is replaced."""
    text = content.decode()
    try:
        return json.dumps(odd_value(json.loads(text), random)).encode()
    except ValueError:
        lines = text.splitlines()
        at = random.randrange(len(lines))
        lines[at] = json.dumps(odd_value(json.loads(lines[at]), random))
        return "\n".join(lines).encode()


def damaged(content: bytes, random: Random) -> bytes:
    """The content with up to three wounds."""
    for _ in range(random.choice([0, 1, 1, 1, 2, 3])):
        at, to = (random.randrange(len(content) + 1) for _ in range(2))
        kind = random.randrange(7)
        if kind == 0:
            content = content[:at]
        elif kind == 1:
            content = content[:at] + content[at + random.randrange(1, 9) :]
        elif kind == 2:
            content = content[:at] + random.choice(PIECES) + content[at:]
        elif kind == 3:
            content = content[:at] + content[to:]
        elif kind == 4:
            content = content[:at] + random.randbytes(random.randrange(1, 5)) + content[at + 4 :]
        elif kind == 5:
            piece = random.choice(PIECES)
            content = content[:at] + piece + content[at + len(piece) :]
        elif content:
            flipped = bytearray(content)
            flipped[at - 1] ^= 1 << random.randrange(8)
            content = bytes(flipped)
    return content


def write(folder: Path, random: Random) -> tuple[Path, list[str]]:
    """Write a damaged corpus; its path and the flags that read it."""
    name = random.choice(sorted(contents()))
    files, flags = contents()[name]
    zipped = "brat" not in name and name != "pair" and random.random() < 0.15
    for part, content in files.items():
        path = folder / (part + ".gz" * zipped)
        path.parent.mkdir(exist_ok=True)
        if name == "odd.parquet":
            content = odd_table(random)
        elif "json" in path.name and "utf16" not in name and random.random() < 0.5:
            content = odd_json(content, random)
        else:
            content = damaged(content, random)
        if zipped:
            content = gzip.compress(content)
            content = damaged(content, random) if random.random() < 0.7 else content
        path.write_bytes(content)
    return (folder / "brat" if name == "brat" else path), flags


def commands(path: Path, flags: list[str], out: Path, random: Random) -> Iterator[tuple]:
    """A command that reads a corpus, its name and its arguments."""
    model = tagger()[0]
    misaligned = [*flags, "--misaligned", random.choice(["error", "drop", "expand"])]
    kind = random.choice([*predict.WRITTEN, "html", "uncertainty", "ansi"])
    yield predict, [model, "--file", path, "--format", kind, "--device", "cpu"]
    yield predict, [model, "--file", path, "--output", out, "--format", kind, "--shard_size", "2"]
    yield suggest, [model, "--file", path]
    yield evaluate, [model, "--file", path, *misaligned]
    files = ["--model_name_or_path", model, "--train_file", path, "--output_dir", out.parent]
    yield train, [*files, "--use_cpu", "--report_to", "none", *misaligned]


def check(module: object, arguments: list, path: Path, out: Path) -> None:
    """Run a command, which must end well or with one line about the file."""
    said, name = io.StringIO(), module.__name__.rpartition(".")[2]
    code = 0
    try:
        with redirect_stderr(said), redirect_stdout(io.StringIO()):
            module.main([str(argument) for argument in arguments])
    except SystemExit as end:
        code = end.code
    if code == 0:
        return
    lines = said.getvalue().splitlines()
    about = f"{path.parent}/{path.stem.removesuffix('.gz')}"
    assert code == 2, (code, lines)
    assert lines[-1].startswith(f"hf-semicrf {name}: "), lines
    assert about in lines[-1] and len(lines[-1]) < 4000, lines
    assert not any("Traceback" in line for line in lines), lines
    assert not out.exists(), lines


def corrupt_files(random: Random, deadline: float | None = None) -> int:
    """Let the commands read damaged files.

    Args:
        random: Draws the files and the damage.
        deadline: When to end, by `time.monotonic`; after one file where None.

    Returns:
        How many times a command has read a file.
    """
    _, model, tokenizer = tagger()
    datasets.disable_progress_bars()
    done = 0
    with ExitStack() as stack:
        for module in (predict, suggest, evaluate):
            stack.enter_context(mock.patch.object(module, "load", lambda *_: (model, tokenizer)))
        stack.enter_context(mock.patch.object(train, "_train", lambda *_: {}))
        while not done or (deadline is not None and time.monotonic() < deadline):
            with tempfile.TemporaryDirectory() as folder:
                path, flags = write(Path(folder), random)
                before = {p: p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}
                out = Path(folder) / "out" / "entities"
                out.parent.mkdir()
                for module, arguments in commands(path, flags, out, random):
                    try:
                        check(module, arguments, path, out)
                    except BaseException:
                        print(f"{arguments} of {before!r:.20000}")
                        raise
                    out.unlink(missing_ok=True)
                    done += 1
    return done
