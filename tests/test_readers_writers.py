"""What is written is read back with the same entities."""

from __future__ import annotations

import json

import pytest

from hf_semicrf.data import (
    WRITERS,
    ReadReport,
    entity_spans,
    label_names,
    read_corpus,
    scheme_of,
    stream_rows,
    text_of,
    write_rows,
)

ENDINGS = {"conll": "a.conll", "label_studio": "a.json"}
TEXTS = ["Ada 🎈 Łódzka, met\tΩmega-7.", "# in 東京, nothing", "שרה here\u2028there"]
SPANS = [[(0, 12, "PER"), (18, 25, "ORG")], [], [(0, 3, "PER"), (9, 14, "A b/c")]]


def entities_of(text, spans):
    return [
        {"label": k, "score": 0.5 + n / 10, "start": a, "end": b, "text": text[a:b]}
        for n, (a, b, k) in enumerate(spans)
    ]


def read_back(path):
    """The text of each entity and its type, row by row."""
    read = read_corpus(path, report=ReadReport())
    scheme = scheme_of(label_names(read))
    found = []
    for row, spans in zip(read, entity_spans(read, scheme), strict=True):
        if "text" in read.column_names and row["text"] is not None:
            ends = [(row["offsets"][a][0], row["offsets"][b - 1][1], k) for a, b, k in spans]
            found.append([(row["text"][a:b], k) for a, b, k in ends])
        else:
            found.append([(" ".join(row["tokens"][a:b]), k) for a, b, k in spans])
    return found


@pytest.mark.parametrize("format", WRITERS)
def test_texts_come_back_with_their_entities(tmp_path, format):
    rows = [{"text": text, "id": n, "source": "ä"} for n, text in enumerate(TEXTS)]
    entities = [entities_of(t, s) for t, s in zip(TEXTS, SPANS, strict=True)]
    path = tmp_path / ENDINGS.get(format, "a.jsonl")
    path.write_text("\n".join(write_rows(rows, entities, format, model="m")), encoding="utf-8")
    want = [[(e["text"], e["label"]) for e in found] for found in entities]
    if format == "conll":  # the words alone
        want[0] = [("Ada 🎈 Łódzka", "PER"), ("Ωmega-7", "ORG")]
    assert read_back(path) == want
    again = list(stream_rows(path))
    if format == "conll":
        assert [row["id"] for row in again] == ["0", "1", "2"]
    else:
        assert [(row["text"], row["id"], row["source"]) for row in again] == [
            (text, n, "ä") for n, text in enumerate(TEXTS)
        ]


@pytest.mark.parametrize("format", WRITERS)
def test_words_come_back_with_their_entities(tmp_path, format):
    words = [["Ada", "O'Hara", "met", "C++", "."], ["#", "12-a"]]
    entities = [
        [{"label": "PER", "start": 0, "end": 2, "text": "Ada O'Hara", "score": 0.9},
         {"label": "X", "start": 3, "end": 4, "text": "C++", "score": 0.8}],
        [],
    ]  # fmt: skip
    path = tmp_path / ENDINGS.get(format, "a.jsonl")
    path.write_text("\n".join(write_rows(words, entities, format)))
    assert read_back(path) == [[("Ada O'Hara", "PER"), ("C++", "X")], []]
    texts = [text_of(row) for row in stream_rows(path)]
    assert texts in (words, [" ".join(row) for row in words])


def test_scores_are_written():
    row, entities = {"text": TEXTS[0]}, entities_of(TEXTS[0], SPANS[0])
    (line,) = write_rows([row], [entities], "prodigy")
    span = json.loads(line)["spans"][0]
    assert span == {
        "start": 0, "end": 12, "label": "PER", "token_start": 0, "token_end": 2, "score": 0.5,
    }  # fmt: skip
    (task,) = json.loads("".join(write_rows([row], [entities], "label_studio", model="v1")))
    (prediction,) = task["predictions"]
    assert prediction["model_version"] == "v1" and prediction["score"] == 0.5
    assert [result["score"] for result in prediction["result"]] == [0.5, 0.6]
    assert json.loads("".join(write_rows([], [], "label_studio"))) == []


def test_a_correction_takes_the_place_of_old_annotation(tmp_path):
    path = tmp_path / "a.jsonl"
    row = {"text": "Ada met Eve", "spans": [], "label": [[0, 3, "OLD"]], "answer": "reject"}
    entities = [{"label": "PER", "start": 8, "end": 11, "text": "Eve", "score": 1.0}]
    for format in ("prodigy", "doccano", "label_studio"):
        path.write_text("\n".join(write_rows([row], [entities], format)))
        assert read_back(path) == [[("Eve", "PER")]]


def test_what_cannot_be_written_is_refused():
    entities = [{"label": "X", "start": 0, "end": 1, "text": "a", "score": 1.0}]
    for row, message in (
        ({"tokens": ["a\tb"]}, r"words that fit in a column, got 'a\\tb'"),
        ({"tokens": [" "]}, "words that fit in a column"),
        ({"tokens": ["-DOCSTART-"]}, "words that fit in a column"),
        ({"text": "abc"}, "whole words of the splitter, got .0, 1, 'X'. ends inside a word"),
    ):
        with pytest.raises(ValueError, match=message):
            list(write_rows([row], [entities], "conll"))
    with pytest.raises(ValueError, match="expected a format among jsonl, conll"):
        list(write_rows([], [], "xml"))
