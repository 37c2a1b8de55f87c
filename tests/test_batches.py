"""`Tagger` as datasets.map calls it, in this process and in workers, and what it refuses."""

from __future__ import annotations

import pickle
import re
import shutil

import datasets
import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from datasets.fingerprint import Hasher
from tiny import ROOT, sentences
from transformers import AutoTokenizer

from hf_semicrf import SemiCRFForTokenClassification
from hf_semicrf.integrations.batches import ENTITIES, Tagger


@pytest.fixture(scope="module")
def rows():
    """Rows of which the first half has no entity."""
    texts = ["flew ."] * 20 + [" ".join(row["tokens"]) for row in sentences(20)]
    features = {"text": Value("string"), "kind": ClassLabel(names=["a", "b"])}
    columns = {"text": texts, "kind": [n % 2 for n in range(40)]}
    return Dataset.from_dict(columns, features=Features(features))


@pytest.fixture(scope="module")
def expected(rows, tiny_tagger):
    model = SemiCRFForTokenClassification.from_pretrained(tiny_tagger)
    return model.predict(rows["text"][:], AutoTokenizer.from_pretrained(tiny_tagger))


@pytest.mark.parametrize("workers", [None, 2])
def test_map_adds_what_predict_finds(rows, expected, tiny_tagger, workers):
    tagger = Tagger(tiny_tagger, device="cpu")
    tagged = rows.with_format("arrow").map(tagger, batched=True, batch_size=10, num_proc=workers)
    assert tagged.data.schema.field("entities").type == ENTITIES
    tagged = tagged.with_format(None)
    assert {k: tagged.features[k] for k in rows.features} == rows.features
    assert tagged["kind"][:] == rows["kind"][:] and not any(expected[:20])
    for found, row in zip(tagged["entities"][:], expected, strict=True):
        assert found == [{**entity, "score": pytest.approx(entity["score"])} for entity in row]
    assert (tagger.tagger is None) == (workers is not None)


def test_a_stream_is_tagged_too(rows, expected, tiny_tagger):
    stream = rows.to_iterable_dataset().with_format("arrow")
    tagged = stream.map(Tagger(tiny_tagger), batched=True, batch_size=10).with_format(None)
    labels = [[entity["label"] for entity in row["entities"]] for row in tagged]
    assert labels == [[entity["label"] for entity in row] for row in expected]


def test_words_are_texts_and_options_are_those_of_predict(tiny_tagger):
    words = pa.table({"tokens": [["saw", "Oslo", "."], ["flew"]]})
    found = Tagger(tiny_tagger, column="tokens", batch_size=1)(words)["entities"].to_pylist()
    assert [[(e["start"], e["end"]) for e in row] for row in found] == [[(1, 2)], []]
    none = Tagger(tiny_tagger, column="tokens", threshold=1.0)(words)
    assert none["entities"].to_pylist() == [[], []]


def test_it_is_pickled_without_the_model_and_cached_by_its_files(tiny_tagger, tmp_path):
    folder = shutil.copytree(tiny_tagger, tmp_path / "tagger")
    tagger, other = Tagger(folder), Tagger(folder)
    before = Hasher.hash(tagger)
    tagger(pa.table({"text": ["saw Oslo"]}))
    assert len(pickle.dumps(tagger)) < 2000 and Hasher.hash(tagger) == before == Hasher.hash(other)
    assert Hasher.hash(Tagger(folder, threshold=0.1)) != before
    (folder / "config.json").write_text((folder / "config.json").read_text() + " ")
    assert Hasher.hash(Tagger(folder)) != before


def test_what_is_no_table_of_texts_is_refused(tiny_tagger):
    tagger = Tagger(tiny_tagger)
    with pytest.raises(ValueError, match=r"expected a pyarrow.Table, .*\"arrow\".* got dict"):
        tagger({"text": ["Oslo"]})
    with pytest.raises(ValueError, match=r"expected a column 'text' of texts, got \['words'\]"):
        tagger(pa.table({"words": ["Oslo"]}))
    with pytest.raises(ValueError, match="expected a string, a list of words .* got 1"):
        tagger(pa.table({"text": [1]}))
    with pytest.raises(ValueError, match="expected batch_size as an int"):
        Tagger(tiny_tagger, batch_size=0)


def test_the_lines_of_the_page_run(tiny_tagger, tmp_path, monkeypatch, capsys):
    page = (ROOT / "docs" / "batches.md").read_text()
    first = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)[0]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "final").symlink_to(tiny_tagger)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    exec(compile(first, "batches.md", "exec"), {})
    assert "'text': 'Ada Lovelace'" in capsys.readouterr().out
