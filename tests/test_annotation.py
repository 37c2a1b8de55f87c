"""What `hf-semicrf serve` knows without its page: corrections, decoding under them, the file."""

from __future__ import annotations

import json
import sys
from html.parser import HTMLParser

import pytest
from datasets import Dataset
from tiny import error_of, spaced_texts
from transformers import AutoTokenizer

from hf_semicrf import SemiCRFForTokenClassification
from hf_semicrf.cli import serve
from hf_semicrf.data import read_corpus
from hf_semicrf.evaluation import calibrate_recall
from hf_semicrf.integrations import Annotator, corrected
from hf_semicrf.reporting import corrections_html
from hf_semicrf.saving import only_writer

TEXT = "Yesterday Ada Lovelace saw Oslo."
ADA = {"start": 10, "end": 22, "label": "PER"}
SAW = {"start": 14, "end": 26, "label": "LOC"}
OSLO = {"start": 27, "end": 31, "label": "LOC"}


def forbidden(span):
    return {**span, "exclude": True}


def places(entities):
    return [{name: entity[name] for name in ("start", "end", "label")} for entity in entities]


@pytest.fixture(scope="module")
def tagger(tiny_tagger):
    """A model that is sure of the names that it knows, and promises two recalls."""
    model = SemiCRFForTokenClassification.from_pretrained(tiny_tagger)
    tokenizer = AutoTokenizer.from_pretrained(tiny_tagger)
    rows = Dataset.from_list(spaced_texts(210))
    calibrate_recall(model, tokenizer, rows, 0.99)
    calibrate_recall(model, tokenizer, rows.select_columns(["tokens", "ner_tags"]), 0.9)
    return model, tokenizer


@pytest.fixture
def annotator(tagger, tmp_path):
    return Annotator(*tagger, tmp_path / "corrected.jsonl")


def test_a_correction_replaces_what_it_contradicts_and_is_taken_back():
    assert corrected([], ADA) == [ADA]
    assert corrected([ADA], ADA) == []
    assert corrected([ADA, OSLO], SAW) == [OSLO, SAW]
    assert corrected([ADA], forbidden(ADA)) == [forbidden(ADA)]
    assert corrected([forbidden(ADA)], ADA) == [ADA]
    assert corrected([forbidden(ADA)], forbidden(ADA)) == []
    outside = {**ADA, "label": "O"}
    assert corrected([SAW], outside) == [outside] and corrected([outside], ADA) == [ADA]
    # others of the same place are untouched
    assert corrected([forbidden(ADA)], SAW) == [forbidden(ADA), SAW]
    other = forbidden({**ADA, "label": "LOC"})
    assert corrected([ADA], other) == [ADA, other]


def test_a_text_is_decoded_anew_under_corrections(annotator):
    def find(corrections, threshold=0.4):
        return annotator.find(TEXT, corrections, threshold).entities

    assert places(find([])) == [ADA, OSLO]
    assert find([], 1.0) == []  # nothing is surer than certain
    assert places(find([forbidden(OSLO)])) == [ADA]
    assert ADA not in places(find([forbidden(ADA)], 0.0))
    fixed = find([SAW])
    [score] = [entity["score"] for entity in fixed if entity["start"] == SAW["start"]]
    assert SAW in places(fixed) and ADA not in places(fixed) and score == pytest.approx(1)
    with pytest.raises(ValueError, match="whole words"):
        find([{**ADA, "start": 11}])


def test_candidates_of_a_promise_are_those_that_nothing_has_decided(annotator):
    def find(corrections, threshold=1.0):
        return annotator.find(TEXT, corrections, threshold, 0.99)

    assert annotator.recalls == [0.99]  # the other was promised for lists of words
    entities, candidates = find([])
    assert entities == [] and {10, 27} <= {candidate["start"] for candidate in candidates}
    [every] = annotator.model.predict([TEXT], annotator.tokenizer, recall=0.99)
    assert candidates == sorted(every, key=lambda entity: -entity["score"])
    entities, others = find([], 0.4)
    assert places(entities) == [ADA, OSLO]
    assert others == [c for c in candidates if places([c])[0] not in (ADA, OSLO)]
    assert find([forbidden(ADA)]).candidates == [c for c in candidates if places([c]) != [ADA]]
    fixed = find([ADA]).candidates
    assert fixed == [c for c in candidates if c["end"] <= 10 or c["start"] >= 22]


def test_saved_texts_are_training_data(annotator):
    path = annotator.output
    path.write_text('{"text": "Oslo", "entities": [], "id": 7}')  # no end of line
    lines = "two\u2028lines of \N{GRINNING FACE} Oslo\n"
    for text in (TEXT, lines):
        count = annotator.save(text, annotator.find(text, [], 0.4).entities)
    assert count == 3
    assert annotator.save(TEXT, [SAW, OSLO]) == 3  # in the place of the earlier version
    rows = [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]
    assert [row["text"] for row in rows] == ["Oslo", lines, TEXT]
    data = read_corpus(path)
    assert data["tokens"][2] == ["Yesterday", "Ada", "Lovelace", "saw", "Oslo", "."]
    assert data["ner_tags"][2] == ["O", "O", "B-LOC", "I-LOC", "B-LOC", "O"]
    assert data["ner_tags"][1][-1] == "B-LOC"
    assert sorted(p.name for p in path.parent.iterdir()) == ["corrected.jsonl"]


def test_two_runs_do_not_write_one_file(annotator):
    with (
        only_writer(annotator.output.with_name("corrected.jsonl.writing"), annotator.output),
        pytest.raises(ValueError, match="expected one run that writes .*corrected.jsonl"),
    ):
        annotator.save(TEXT, [])
    assert not annotator.output.exists()
    with pytest.raises(ValueError, match="got an empty one"):
        annotator.save(" \n", [])
    assert annotator.save(TEXT, []) == 1


def test_a_file_of_something_else_is_refused(tagger, tmp_path):
    with pytest.raises(ValueError, match=r"NAME.jsonl, got .*letters.txt"):
        Annotator(*tagger, tmp_path / "letters.txt")
    path = tmp_path / "corrected.jsonl"
    path.write_text('{"text": "Oslo", "entities": []}\nDear Ada,\n')
    with pytest.raises(ValueError, match="line 2: expected a JSON object"):
        Annotator(*tagger, path)


class Buttons(HTMLParser):
    """The buttons and the other tags of a page."""

    def __init__(self, page: str):
        super().__init__()
        self.buttons: list[dict] = []
        self.tags: set[str] = set()
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        if tag == "button":
            self.buttons.append(dict(attributes))

    def handle_data(self, data):
        self.text += data


def test_the_buttons_say_what_they_do_and_whether_it_is_done():
    entities = [{**ADA, "score": 1.0}, {**OSLO, "score": 0.5}]
    outside = {"start": 0, "end": 9, "label": "O"}
    seen = Buttons(corrections_html(TEXT, entities, [ADA, forbidden(SAW), outside]))
    spans = [json.loads(button["data-span"]) for button in seen.buttons]
    assert spans == [ADA, forbidden(ADA), OSLO, forbidden(OSLO), forbidden(SAW), outside]
    pressed = [button["aria-pressed"] for button in seen.buttons]
    assert pressed == ["true", "false", "false", "false", "true", "true"]
    assert seen.buttons[1]["aria-label"] == "forbid Ada Lovelace, PER"
    further = Buttons(corrections_html(TEXT, [], [], [{**ADA, "score": 0.2}]))
    assert [json.loads(b["data-span"]) for b in further.buttons] == [ADA, forbidden(ADA)]
    assert "Further candidates" in further.text


def test_nothing_of_a_text_or_a_label_acts():
    text = '<script>alert("1")</script> \u202e'
    entity = {"start": 0, "end": 8, "label": '"><img src=x onerror=1>', "score": 0.5}
    page = corrections_html(text, [entity], [forbidden(entity)], [entity], [entity["label"]])
    seen = Buttons(page)
    assert seen.tags == {"div", "article", "mark", "span", "button", "h2", "ul", "li"}
    assert "\u202e" not in page and text[:27] in seen.text.replace("✓✗", "")
    assert json.loads(seen.buttons[0]["data-span"])["label"] == entity["label"]


def test_errors_of_serve_say_what_is_wrong(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "hf_semicrf.cli.page", raising=False)
    assert "pip install hf_semicrf[serve]" in error_of(serve.main, tmp_path / "nowhere")
    assert "got standard output" in error_of(serve.main, "model", "--output", "-")
    assert "65535" in error_of(serve.main, "model", "--port", "65536")
