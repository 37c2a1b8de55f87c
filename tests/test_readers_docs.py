"""The examples of docs/data.md are read as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hf_semicrf.data import FORMATS, WRITERS, read_corpus, read_texts

PAGE = (Path(__file__).parent.parent / "docs" / "data.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^\| ([^|]+) \| [^|]+ \| (.+) \|$", PAGE, re.M))


def example(name: str) -> str:
    """The lines of an example, without the words around them."""
    lines = [line for line in ROWS[name].split("<br>") if line.startswith("`")]
    return "\n".join(re.sub("`", "", line).replace("→", "\t") for line in lines) + "\n"


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("columns", "a.conll"),
        ("numbered columns", "a.tsv"),
        ("table, a sentence a row", "a.csv"),
        ("table, a word a row", "a.csv"),
        ("Label Studio", "a.json"),
    ],
)
def test_examples_as_they_stand(tmp_path, name, file):
    (tmp_path / file).write_text(example(name), encoding="utf-8")
    assert read_corpus(tmp_path / file)["ner_tags"][0][0] == "B-PER"


@pytest.mark.parametrize(
    "name",
    ["words and tags, JSON lines", "doccano", "Prodigy", "what predict and suggest write"],
)
def test_examples_of_one_object(tmp_path, name):
    (tmp_path / "a.jsonl").write_text(example(name).replace("\n", ""), encoding="utf-8")
    assert read_corpus(tmp_path / "a.jsonl")["ner_tags"][0][0] == "B-PER"


def test_examples_of_texts(tmp_path):
    (tmp_path / "a.txt").write_text(example("texts to predict"))
    assert read_texts(tmp_path / "a.txt") == ["Ada left.", "Eve stayed."]
    lines = example("texts with other fields").splitlines()[:2]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    assert read_texts(tmp_path / "a.csv") == ["Ada left."]


def test_every_format_has_its_name_on_the_page():
    assert all(f"`{name}`" in PAGE for name in (*FORMATS, *WRITERS))
