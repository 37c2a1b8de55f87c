"""Character-span annotation: what each tool writes, and spans that do not fit the words."""

from __future__ import annotations

import json
import sys

import pytest

from hf_semicrf.data import ReadReport, read_corpus, stream_rows

TEXT = "Ada 🎈 Łódzka met Ωmega in Übach."
SPANS = [(0, 12, "PER"), (17, 22, "ORG"), (26, 31, "LOC")]
WORDS = ["Ada", "🎈", "Łódzka", "met", "Ωmega", "in", "Übach", "."]
TAGS = ["B-PER", "I-PER", "I-PER", "O", "B-ORG", "O", "B-LOC", "O"]


UNITS = [(0, 13, "PER"), (18, 23, "ORG"), (27, 32, "LOC")]  # of UTF-16


def mappings(spans=SPANS, *, start="start", end="end", label="label"):
    return [{label: name, end: b, start: a} for a, b, name in spans]


def task(spans, *, cancelled=False, **more):
    result = [
        {"type": "labels", "value": {"start": a, "end": b, "text": TEXT[a:b], "labels": [name]}}
        for a, b, name in spans
    ]
    result.append({"type": "choices", "value": {"choices": ["good"]}})
    return {"was_cancelled": cancelled, "result": result} | more


def lines(*rows):
    return "\n".join(json.dumps(row) for row in rows)


FORMS = {
    "doccano.jsonl": lines({"label": [list(s) for s in UNITS[::-1]], "text": TEXT, "id": 3}),
    "old_doccano.jsonl": lines({"text": TEXT, "labels": [list(s) for s in UNITS]}),
    "doccano_relations.jsonl": lines(
        {"text": TEXT, "entities": mappings(UNITS, start="start_offset", end="end_offset")}
    ),
    "prodigy.jsonl": lines(
        {
            "text": TEXT,
            "tokens": [{"text": "Ada", "start": 0, "end": 3, "id": 0}],
            "spans": mappings(),
            "answer": "accept",
        },
        {"text": "No.", "spans": [], "answer": "reject"},
        {"text": "Maybe.", "spans": [], "answer": "ignore"},
    ),
    "own.ndjson": lines({"text": TEXT, "entities": mappings(), "entropy": 0.2, "words": 8}),
    "own_words.jsonl": lines(
        {"tokens": WORDS, "entities": [{"start": 0, "end": 3, "label": "PER"},
                                       {"start": 4, "end": 5, "label": "ORG"},
                                       {"start": 6, "end": 7, "label": "LOC"}]}
    ),
    "pipeline.json": json.dumps([{"text": TEXT, "entities": mappings(label="entity_group")}]),
    "tasks.json": json.dumps([{"id": 5, "data": {"text": TEXT}, "annotations": [task(SPANS)]}]),
    "old_tasks.json": json.dumps(
        [{"data": {"text": TEXT}, "completions": [task(SPANS)]}], indent=1
    ).replace("\n", "\r\n"),
    "tasks.jsonl": lines({"data": {"text": TEXT}, "predictions": [task(SPANS)]}),
    "one_task.json": json.dumps({"data": {"text": TEXT}, "annotations": [task(SPANS)]}, indent=2),
    "min.json": json.dumps(
        [{"text": TEXT, "label": [{"start": a, "end": b, "labels": [n]} for a, b, n in SPANS]}]
    ),
    "table.csv": 'n,text,entities\n1,"' + TEXT + '","' + str([list(s) for s in SPANS]) + '"\n',
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_each_form_gives_the_same_tags(tmp_path, name):
    (tmp_path / name).write_text(FORMS[name], encoding="utf-8")
    report = ReadReport()
    read = read_corpus(tmp_path / name, report=report)
    assert read["tokens"][:] == [WORDS]
    assert read["ner_tags"][:] == [TAGS]
    if "words" not in name:
        assert read["text"][:] == [TEXT]
        assert [TEXT[a:b] for a, b in read["offsets"][0]] == WORDS
    assert len(report.rejected) == (2 if name == "prodigy.jsonl" else 0)
    assert bool(report.notes) == (name == "tasks.jsonl")
    row = next(stream_rows(tmp_path / name))
    assert row.get("text", row.get("tokens")) == (WORDS if "words" in name else TEXT)


def test_keys_of_other_names(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(lines({"sentence": TEXT, "marks": mappings(start="begin", label="type")}))
    with pytest.raises(ValueError, match="line 1: expected lists"):
        read_corpus(path)
    read = read_corpus(path, text_column="sentence", spans_column="marks")
    assert read["ner_tags"][0] == TAGS


def test_rows_that_fit_two_readings_are_refused(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(lines({"text": TEXT, "spans": mappings(), "entities": mappings()[:1]}))
    with pytest.raises(ValueError, match="'entities' and 'spans'.*pass spans_column"):
        read_corpus(path)
    assert read_corpus(path, format="prodigy")["ner_tags"][0] == TAGS
    row = {"tokens": ["Ada", "met"], "ner_tags": ["O", "O"]}
    path.write_text(lines(row | {"entities": [{"start": 0, "end": 1, "label": "PER"}]}))
    with pytest.raises(ValueError, match="line 1: cannot tell whether 'ner_tags' or 'entities'"):
        read_corpus(path)
    assert read_corpus(path, format="tags")["ner_tags"][0] == ["O", "O"]
    assert read_corpus(path, spans_column="entities")["ner_tags"][0] == ["B-PER", "O"]


def test_doccano_counts_utf16_units(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(lines({"text": TEXT, "label": SPANS}))
    assert read_corpus(path, spans_column="label")["ner_tags"][0] == TAGS
    with pytest.raises(ValueError, match="expected spans that end where words do"):
        read_corpus(path)
    for wrong in ([5, 13, "PER"], [0, 34, "PER"]):
        path.write_text(lines({"text": TEXT, "label": [wrong]}))
        with pytest.raises(ValueError, match="line 1: expected spans inside the 33 UTF-16 units"):
            read_corpus(path)
    path.write_text(lines({"text": TEXT, "entities": UNITS}))
    assert read_corpus(path, format="doccano")["ner_tags"][0] == TAGS


def test_tools_that_count_utf16_units(tmp_path):
    counted = task(SPANS)
    for result, (a, b, _) in zip(counted["result"], UNITS, strict=False):
        result["value"] |= {"start": a, "end": b}
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"data": {"text": TEXT}, "annotations": [counted]}]))
    assert read_corpus(path)["ner_tags"][0] == TAGS
    counted["result"][0]["value"]["text"] = "Eve"
    path.write_text(json.dumps([{"data": {"text": TEXT}, "annotations": [counted]}]))
    with pytest.raises(ValueError, match="a.json, line 1: expected the text of a span"):
        read_corpus(path)


def test_which_annotation_of_a_task_counts(tmp_path):
    path = tmp_path / "a.json"

    def read(*tasks):
        path.write_text(json.dumps([{"data": {"text": TEXT}} | t for t in tasks]))
        report = ReadReport()
        return read_corpus(path, report=report)["ner_tags"][:], report

    first, second = task(SPANS), task(SPANS[:1])
    with pytest.raises(ValueError, match="line 1: expected one annotation, .*2 that differ"):
        read({"annotations": [first, second]})
    assert read({"annotations": [first, task(SPANS[::-1])]})[0] == [TAGS]
    assert read({"annotations": [second, task(SPANS, ground_truth=True)]})[0] == [TAGS]
    assert read({"annotations": [first, task(SPANS[:1], cancelled=True)]})[0] == [TAGS]
    tags, report = read(
        {"annotations": [first]},
        {"annotations": [], "predictions": [second]},
        {"annotations": [task(SPANS, cancelled=True)], "predictions": [first]},
    )
    assert tags == [TAGS] and len(report.rejected) == 2 and len(report.places) == 1


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_brat(tmp_path, newline):
    text = newline.join(["A note", "", TEXT, "Old", "Town Übach stands."])
    at, town = text.index(TEXT), text.index("Old")
    notes = [f"T{n}\t{name} {a + at} {b + at}\t{TEXT[a:b]}" for n, (a, b, name) in enumerate(SPANS)]
    end = town + len("Old Town") + len(newline) - 1
    notes += [f"T9\tLOC {town} {end}\tOld Town", "R1\tNear Arg1:T1 Arg2:T2", "#1\tNote T1\tsure"]
    (tmp_path / "n.txt").write_bytes(text.encode())
    (tmp_path / "n.ann").write_bytes(newline.join(notes).encode())
    (tmp_path / "a.txt").write_text("Nothing here.")
    (tmp_path / "a.ann").write_text("")
    report = ReadReport()
    read = read_corpus(tmp_path, report=report)
    assert read["ner_tags"][:] == [["O"] * 3, ["O"] * 2, TAGS, ["B-LOC", "I-LOC"] + ["O"] * 3]
    assert report.places[2:] == [f"{tmp_path / 'n.txt'}, line {n}" for n in (3, 4)]
    assert read_corpus(tmp_path / "n.ann")["tokens"][:] == read["tokens"][1:]
    (tmp_path / "n.ann").write_text("T1\tPER 0;4 6 9\tA te")
    with pytest.raises(ValueError, match="n.ann, line 1: expected T1, a tab"):
        read_corpus(tmp_path)
    (tmp_path / "n.ann").write_text("T1\tPER 0 1;2 6\tA note")
    with pytest.raises(ValueError, match="n.ann, line 1: 'A note' .* has gaps"):
        read_corpus(tmp_path)
    (tmp_path / "n.ann").write_text("\nT1\tPER 0 4\tEve")
    with pytest.raises(ValueError, match="n.ann, line 2: expected the text of the span"):
        read_corpus(tmp_path)
    (tmp_path / "n.txt").unlink()
    with pytest.raises(ValueError, match="n.ann: expected n.txt beside it"):
        read_corpus(tmp_path)


def test_spans_that_do_not_fit(tmp_path):
    path = tmp_path / "a.jsonl"
    text = "Ada Łódzka met Eve"
    spans = [[0, 10, "PER"], [4, 10, "ORG"], [11, 13, "X"], [14, 18, "PER"], [3, 4, "Y"]]
    path.write_text(
        lines({"text": "Ada", "label": [[0, 3, "PER"]]}, {"text": text, "label": spans})
    )
    with pytest.raises(ValueError, match=r"a.jsonl: .*got 3 others: .*a.jsonl, line 2: .*misalign"):
        read_corpus(path)
    rows = {"drop": ["B-PER", "I-PER", "O", "B-PER"], "expand": ["B-PER", "I-PER", "B-X", "B-PER"]}
    for rule, tags in rows.items():
        report = ReadReport()
        assert read_corpus(path, misaligned=rule, report=report)["ner_tags"][1] == tags
        assert [m.partition(": ")[2] for m in report.misaligned] == [
            "' ' (3 to 4, Y) holds no word and overlaps another span",
            "'me' (11 to 13, X) ends inside a word",
        ]
        assert len(report.overlapping) == 1
        assert "line 2: 'Łódzka' (4 to 10, ORG) overlaps" in report.overlapping[0]
        with pytest.warns(UserWarning, match="spans that (end inside a word|overlap)"):
            read_corpus(path, misaligned=rule)
    with pytest.raises(ValueError, match="misaligned as one of .'error', 'drop', 'expand'"):
        read_corpus(path, misaligned="move")


def test_another_splitter(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(lines({"text": "to a.b@c.org now", "label": [[3, 10, "MAIL"]]}))
    with pytest.raises(ValueError, match="'a.b@c.o' .3 to 10, MAIL. ends inside a word"):
        read_corpus(path)
    at_spaces = read_corpus(
        path, splitter=lambda text: [(0, 2), (3, 12), (13, 16)], misaligned="expand",
        report=ReadReport(),
    )  # fmt: skip
    assert at_spaces["ner_tags"][0] == ["O", "B-MAIL", "O"]


@pytest.mark.parametrize(
    ("span", "message"),
    [
        ([0, 99, "PER"], "inside the 3 characters"),
        ([-1, 2, "PER"], "inside the 3 characters"),
        ([2, 1, "PER"], "inside the 3 characters"),
        ([0, 10**30, "PER"], "inside the 3 characters"),
        ([0, 3, "O"], "a label that is not 'O'"),
        ([0, 3, None], "a label"),
        ([0, 3, []], "a label"),
        ([True, 3, "PER"], "whole numbers"),
        ({"start": 0, "end": 1.5, "label": "PER"}, "whole numbers"),
        ([0, 3], "start, end and label"),
        (7, "start, end and label"),
    ],
)
def test_damaged_spans(tmp_path, span, message):
    path = tmp_path / "a.jsonl"
    good = {"text": "Ada", "label": [[0, 3, "PER"]]}
    path.write_text(lines(good, good | {"label": [span]}))
    with pytest.raises(ValueError, match=f"a.jsonl, line 2: .*{message}"):
        read_corpus(path)


def test_docbin_asks_for_spacy(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "spacy", None)
    (tmp_path / "a.spacy").write_bytes(b"")
    with pytest.raises(ValueError, match="a.spacy: spaCy reads .* pip install spacy"):
        read_corpus(tmp_path / "a.spacy")


def test_docbin(tmp_path):
    spacy = pytest.importorskip("spacy")
    from spacy.tokens import Doc, DocBin, Span

    doc = Doc(spacy.blank("xx").vocab, words=[*WORDS[:2], "\n", *WORDS[2:]])
    doc.set_ents([Span(doc, 0, 4, "PER"), Span(doc, 5, 6, "ORG"), Span(doc, 7, 8, "LOC")])
    DocBin(docs=[doc]).to_disk(tmp_path / "a.spacy")
    assert read_corpus(tmp_path / "a.spacy")["ner_tags"][0] == TAGS
    assert next(stream_rows(tmp_path / "a.spacy"))["text"] == doc.text
    (tmp_path / "b.spacy").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="b.spacy: expected a DocBin file"):
        read_corpus(tmp_path / "b.spacy")
