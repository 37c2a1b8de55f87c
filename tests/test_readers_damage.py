"""Files that are cut and flipped at random: an error names the file, whatever the reader."""

from __future__ import annotations

import gzip
import random
import warnings

import pytest
from datasets import Dataset
from test_readers import LAYOUTS
from test_readers_spans import FORMS, SPANS, TEXT

from hf_semicrf.data import ReadReport, read_corpus, stream_rows

TIMES = 12


def contents(folder):
    """Good files of every format, and the columns to read each with."""
    for name, (text, columns) in LAYOUTS.items():
        content = text.encode()
        yield name, gzip.compress(content) if name.endswith("gz") else content, columns
    for name, text in FORMS.items():
        yield name, text.encode(), None
    rows = {"tokens": [["Ada", "met"]] * 9, "ner_tags": [["B-PER", "O"]] * 9}
    Dataset.from_dict(rows).to_parquet(folder / "whole")
    yield "a.parquet", (folder / "whole").read_bytes(), None
    yield "a.parquet.gz", gzip.compress((folder / "whole").read_bytes()), None
    yield "a.txt", TEXT.encode() * 3, None


def damaged(content, draw):
    """The content cut short, or with a bit, a byte or a piece changed."""
    place = draw.randrange(len(content))
    kind = draw.randrange(5)
    if kind == 0:
        return content[:place]
    if kind == 1:
        return content[:place] + content[place + draw.randrange(1, 9) :]
    if kind == 2:
        return (
            content[:place] + draw.choice([b"\xff", b"\x00", b'"', b"[", b"\n"]) + content[place:]
        )
    if kind == 3:
        return content[:place] + content[draw.randrange(len(content)) :]
    flipped = bytearray(content)
    flipped[place] ^= 1 << draw.randrange(8)
    return bytes(flipped)


def try_to_read(path, columns):
    """Both readers; returns how many refused."""
    refused = 0
    for read in (
        lambda: read_corpus(path, columns=columns, report=ReadReport(), misaligned="drop"),
        lambda: list(stream_rows(path, columns=columns, report=ReadReport())),
    ):
        try:
            read()
        except (ValueError, OSError) as error:
            assert str(path) in str(error)
            assert "\n" not in str(error)
            refused += 1
    return refused


def test_damage_is_told_with_the_name_of_the_file(tmp_path):
    draw = random.Random(0)
    refused = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, content, columns in contents(tmp_path):
            for _ in range(TIMES):
                (tmp_path / name).write_bytes(damaged(content, draw))
                refused += try_to_read(tmp_path / name, columns)
    assert refused > 100


@pytest.mark.parametrize("broken", ["txt", "ann"])
def test_damage_of_brat(tmp_path, broken):
    draw = random.Random(1)
    notes = "".join(f"T{n}\t{k} {a} {b}\t{TEXT[a:b]}\n" for n, (a, b, k) in enumerate(SPANS))
    files = {"ann": notes.encode(), "txt": TEXT.encode()}
    for _ in range(4 * TIMES):
        for end, content in files.items():
            changed = damaged(content, draw) if end == broken else content
            (tmp_path / f"n.{end}").write_bytes(changed)
        try:
            read_corpus(tmp_path, misaligned="drop", report=ReadReport())
        except (ValueError, OSError) as error:
            assert str(tmp_path) in str(error)


def test_damage_of_docbin(tmp_path):
    spacy = pytest.importorskip("spacy")
    from spacy.tokens import Doc, DocBin, Span

    doc = Doc(spacy.blank("xx").vocab, words=["Ada", "met", "Eve"])
    doc.set_ents([Span(doc, 0, 1, "PER")])
    content, draw = DocBin(docs=[doc]).to_bytes(), random.Random(2)
    for _ in range(TIMES):
        (tmp_path / "a.spacy").write_bytes(damaged(content, draw))
        try_to_read(tmp_path / "a.spacy", None)
