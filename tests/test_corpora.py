"""The readers of local files, and what is read off a data set."""

from __future__ import annotations

import gzip
import json

import pytest
from datasets import ClassLabel, Dataset, Features, Sequence, Value

from hf_semicrf.data.labels import count_entities, entity_spans, label_names, named_tags
from hf_semicrf.data.readers import read_corpus, read_texts, stream_texts
from hf_semicrf.labels.schemes import LabelScheme

SENTENCES = [
    {"tokens": ["Amelia", "Earhart", "\u00a0", "flew"], "ner_tags": ["B-PER", "I-PER", "O", "O"]},
    {"tokens": ["#", "Paris", "\ufe0f"], "ner_tags": ["O", "B-LOC", "O"]},
]


def as_conll(separator, extra=()):
    blocks = []
    for row in SENTENCES:
        words = zip(row["tokens"], row["ner_tags"], strict=True)
        blocks.append("\n".join(separator.join([word, *extra, tag]) for word, tag in words))
    return "\n\n".join(blocks)


def rows(dataset):
    return [dict(row) for row in dataset]


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".jsonl.gz"])
def test_json_lines(tmp_path, suffix):
    path = tmp_path / f"train{suffix}"
    text = "\n".join(json.dumps(row | {"id": "left out"}) for row in SENTENCES) + "\n\n"
    path.write_bytes(gzip.compress(text.encode()) if suffix.endswith("gz") else text.encode())
    assert rows(read_corpus(path)) == SENTENCES


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.conll", as_conll(" ") + "\n"),
        ("a.b.tsv", "-DOCSTART-\tO\n\n" + as_conll("\t") + "\n\n\n"),
        ("a.txt", as_conll(" ", ("NNP", "B-NP"))),
        ("a.iob2", "\ufeff" + as_conll("\t").replace("\n", "\r\n")),
        ("a.bio.gz", as_conll("  ")),
    ],
)
def test_conll_columns(tmp_path, name, text):
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    assert rows(read_corpus(path)) == SENTENCES


def test_parquet_keeps_class_names(tmp_path):
    names = ["O", "B-LOC", "B-PER", "I-PER"]
    features = Features(
        {"words": Sequence(Value("string")), "tags": Sequence(ClassLabel(names=names))}
    )
    ids = [[names.index(tag) for tag in row["ner_tags"]] for row in SENTENCES]
    words = [row["tokens"] for row in SENTENCES]
    data = Dataset.from_dict({"words": words, "tags": ids}, features=features)
    data.add_column("more", [1, 2]).to_parquet(tmp_path / "train.parquet")
    read = read_corpus(tmp_path / "train.parquet", "words", "tags")
    assert rows(read) == [{"words": w, "tags": t} for w, t in zip(words, ids, strict=True)]
    assert label_names(read, "tags") == names
    assert list(named_tags(read, "tags")) == [row["ner_tags"] for row in SENTENCES]
    spans = list(entity_spans(read, LabelScheme.from_labels(names), "tags"))
    assert spans == [[(0, 2, "PER")], [(1, 2, "LOC")]]
    with pytest.raises(ValueError, match="no column.*ner_tags.*got.*tags"):
        read_corpus(tmp_path / "train.parquet")


def test_labels_of_strings_are_complete_and_in_order():
    dataset = Dataset.from_list(SENTENCES)
    assert label_names(dataset) == ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
    plain = Dataset.from_dict({"ner_tags": [["PER", "O", "LOC"]]})
    assert label_names(plain) == ["O", "LOC", "PER"]
    no_outside = Dataset.from_dict({"ner_tags": [["B-PER"]]})  # the scheme says what is missing
    assert "O" not in label_names(no_outside)
    with pytest.raises(ValueError, match="label 'O'"):
        LabelScheme.from_labels(label_names(no_outside))


def test_entities_are_counted():
    dataset = Dataset.from_list(SENTENCES * 2 + SENTENCES[1:])
    scheme = LabelScheme.from_labels(label_names(dataset))
    spans = list(entity_spans(dataset, scheme))
    assert spans[:2] == [[(0, 2, "PER")], [(1, 2, "LOC")]]
    assert count_entities(spans) == {"LOC": 3, "PER": 2}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", "", "at least one sentence"),
        ("a.conll", "-DOCSTART- O\n\n", "at least one sentence"),
        ("a.jsonl", '{"tokens": ["a"], "ner_tags": ["O"]}\n{"tok', "line 2: expected a JSON obj"),
        ("a.jsonl", '{"tokens": ["a"]}', "line 1: expected lists.*'ner_tags'"),
        ("a.jsonl", "[1]", "line 1: expected a JSON object, got"),
        ("a.jsonl", '{"tokens": ["a"], "ner_tags": []}', "each of the 1 words, got 0"),
        ("a.conll", "one O\ntwo NN O\n", "line 2: expected 2 columns.*got 3 in 'two NN O'"),
        ("a.conll", "\nalone\n", "line 2: expected 2 columns"),
        ("a.csv", "a,O", "line 1: expected a header that names the column of words"),
        ("a", "a O", "expected a name that ends in .jsonl"),
    ],
)
def test_malformed_files_say_where(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_corpus(path)
    assert str(path) in str(caught.value)


def test_texts_to_tag(tmp_path):
    (tmp_path / "a.txt").write_text("one\u2028line\n\nthree\n")
    assert read_texts(tmp_path / "a.txt") == ["one\u2028line", "", "three"]
    lines = '{"text": "a b"}\n\n{"tokens": ["a", "b"]}\n'
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    assert read_texts(tmp_path / "a.jsonl.gz") == ["a b", ["a", "b"]]
    (tmp_path / "b.jsonl").write_text('{"text": "a"}\n{"words": []}')
    with pytest.raises(ValueError, match='line 2: expected "text" or "tokens"'):
        read_texts(tmp_path / "b.jsonl")
    with pytest.raises(FileNotFoundError, match="found none at '.*b.txt'"):
        read_texts(tmp_path / "b.txt")
    stream = stream_texts(tmp_path / "b.jsonl")
    assert next(stream) == "a"  # before the bad line is met


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="found none at '.*nowhere.jsonl'"):
        read_corpus(tmp_path / "nowhere.jsonl")


def test_unusable_tags():
    with pytest.raises(ValueError, match="numbers without names"):
        label_names(Dataset.from_dict({"ner_tags": [[0, 1]]}))
    with pytest.raises(ValueError, match="got an empty one"):
        label_names(Dataset.from_dict({"ner_tags": []}))
    scheme = LabelScheme.from_labels(["O", "B-PER", "I-PER"])
    dataset = Dataset.from_list([SENTENCES[0], SENTENCES[1]])
    with pytest.raises(ValueError, match="sentence 1: tag 'B-LOC' is not in the label list"):
        list(entity_spans(dataset, scheme))
