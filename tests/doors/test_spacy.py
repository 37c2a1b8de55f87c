"""The component of a spaCy pipeline, in spaCy."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from tiny import ROOT

from hf_semicrf.integrations.tagger import load_tagger

spacy = pytest.importorskip("spacy")

TEXTS = ["Yesterday Ada Lovelace saw Oslo.\n\nGrace  Hopper flew .", "saw Lima .", " \n", ""]


@pytest.fixture(scope="module")
def nlp(tiny_tagger):
    made = spacy.blank("en")
    made.add_pipe("semicrf", config={"model": tiny_tagger})
    return made


def found(doc, name="semicrf"):
    """The entities of a document with their scores."""
    group = doc.spans[name]
    return [
        {
            "label": span.label_,
            "score": score,
            "start": span.start_char,
            "end": span.end_char,
            "text": span.text,
        }
        for span, score in zip(group, group.attrs["scores"].tolist(), strict=True)
    ]


def of_predict(nlp, texts):
    """What the model finds in spaCy's tokens."""
    inputs = [
        {
            "text": text,
            "offsets": [(t.idx, t.idx + len(t)) for t in nlp.make_doc(text) if not t.is_space],
        }
        for text in texts
    ]
    tagger = nlp.get_pipe("semicrf").tagger
    return tagger.model.predict(inputs, tagger.tokenizer)


def test_the_entities_are_those_of_predict(nlp):
    expected = of_predict(nlp, TEXTS)
    assert [len(entities) for entities in expected] == [3, 1, 0, 0]
    for text, entities in zip(TEXTS, expected, strict=True):
        doc = nlp(text)
        assert found(doc) == entities
        assert [(e.start_char, e.end_char, e.label_) for e in doc.ents] == [
            (e["start"], e["end"], e["label"]) for e in entities
        ]


def test_pipe_reads_documents_together(nlp, monkeypatch):
    model = nlp.get_pipe("semicrf").tagger.model
    sizes, predict = [], model.predict
    monkeypatch.setattr(
        model, "predict", lambda texts, *a, **k: sizes.append(len(texts)) or predict(texts, *a, **k)
    )
    docs = list(nlp.pipe(TEXTS * 3, batch_size=5))
    assert sizes == [5, 5, 2]
    for doc, entities in zip(docs, of_predict(nlp, TEXTS * 3), strict=True):
        assert [(e["label"], e["start"]) for e in found(doc)] == [
            (e["label"], e["start"]) for e in entities
        ]
        assert np.allclose([e["score"] for e in found(doc)], [e["score"] for e in entities])


def test_an_error_goes_to_the_handler(nlp, monkeypatch):
    def fail(*_, **__):
        raise ValueError("broken")

    model = nlp.get_pipe("semicrf").tagger.model
    monkeypatch.setattr(model, "predict", fail)
    seen = []
    nlp.set_error_handler(lambda name, _, docs, error: seen.append((name, len(docs), str(error))))
    try:
        assert list(nlp.pipe(TEXTS, batch_size=3)) == []
    finally:
        nlp.set_error_handler(spacy.util.raise_error)
    assert seen == [("semicrf", 3, "broken"), ("semicrf", 1, "broken")]


def test_what_was_found_before_is_kept(tiny_tagger):
    nlp = spacy.blank("en")
    ruler = nlp.add_pipe("entity_ruler")
    ruler.add_patterns([{"label": "DAY", "pattern": "Yesterday"}, {"label": "X", "pattern": "Ada"}])
    nlp.add_pipe("semicrf", config={"model": tiny_tagger})
    nlp.add_pipe("semicrf", name="second", config={"model": tiny_tagger})
    doc = nlp(TEXTS[0])
    labels = {span.text: span.label_ for span in doc.ents}
    assert labels["Yesterday"] == "DAY" and labels["Ada"] == "X" and labels["Oslo"] == "LOC"
    assert not {"Yesterday", "Ada", "Ada Lovelace"} & {span.text for span in doc.spans["semicrf"]}
    assert not doc.spans["second"]


def test_entities_with_white_space_are_kept_too(nlp):
    for end, label, expected in ((2, "WIDE", ["WIDE"]), (1, "SPACE", ["SPACE", "PER"])):
        doc = nlp.make_doc(" \n Ada Lovelace")
        assert doc[0].is_space
        doc.ents = [spacy.tokens.Span(doc, 0, end, label)]
        assert [span.label_ for span in nlp(doc).ents][: len(expected)] == expected


def test_to_disk_and_back_without_the_first_folder(tiny_tagger, nlp, tmp_path):
    folder = tmp_path / "tagger"
    shutil.copytree(tiny_tagger, folder)
    made = spacy.blank("en")
    made.add_pipe("semicrf", config={"model": str(folder), "threshold": 0.9})
    made.to_disk(tmp_path / "pipeline")
    data = made.to_bytes()
    shutil.rmtree(folder)
    from_bytes = spacy.blank("en")
    from_bytes.add_pipe("semicrf", config={"model": "gone"})
    for loaded in (spacy.load(tmp_path / "pipeline"), from_bytes.from_bytes(data)):
        assert [found(doc) for doc in loaded.pipe(TEXTS)] == [found(d) for d in nlp.pipe(TEXTS)]
    assert spacy.load(tmp_path / "pipeline").get_pipe("semicrf").options["threshold"] == 0.9
    doc = nlp(TEXTS[0])
    assert found(spacy.tokens.Doc(nlp.vocab).from_bytes(doc.to_bytes())) == found(doc)


def test_evaluate(nlp):
    words = ["Yesterday", "Ada", "Lovelace", "saw", "Oslo", "."]
    tags = ["O", "B-PER", "I-PER", "O", "B-LOC", "O"]
    gold = spacy.tokens.Doc(nlp.vocab, words=words, ents=tags)
    example = spacy.training.Example(nlp.make_doc(gold.text), gold)
    assert nlp.evaluate([example])["ents_f"] == 1


def test_options(tiny_tagger):
    nlp = spacy.blank("en")
    for config, message in (
        ({"threshold": 2.0}, "expected threshold as a number in 0..1 or None, got 2.0"),
        ({"threshold": 0.5, "decode": "viterbi"}, "got both"),
        ({"batch_size": 0}, "expected batch_size as an int of at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            nlp.add_pipe("semicrf", config={"model": tiny_tagger} | config)
    nlp.add_pipe("semicrf", config={"model": tiny_tagger, "threshold": 1.0})
    assert not nlp(TEXTS[0]).ents


def test_a_model_of_another_kind_is_refused(tmp_path):
    from tiny import save_tiny_bert
    from transformers import AutoTokenizer, BertForTokenClassification

    folder = save_tiny_bert(tmp_path / "bert")
    BertForTokenClassification.from_pretrained(folder).save_pretrained(folder)
    AutoTokenizer.from_pretrained(folder).save_pretrained(folder)
    with pytest.raises(ValueError, match="expected a semi-CRF model"):
        load_tagger(folder, "cpu")


def test_finding_the_component_imports_nothing_heavy():
    program = "import hf_semicrf.integrations.spacy, sys; print('transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr


def test_the_page(tiny_tagger, tmp_path, monkeypatch, capsys):
    (tmp_path / "out").mkdir()
    shutil.copytree(tiny_tagger, tmp_path / "out" / "final")
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(
        r"^```python\n(.*?)^```", (ROOT / "docs" / "spacy.md").read_text(), re.M | re.S
    )
    space: dict = {}
    exec(compile(block, "spacy.md", "exec"), space)
    assert capsys.readouterr().out == "Ada Lovelace PER 1.0\nOslo LOC 1.0\n"
    assert [[span.text for span in doc.ents] for doc in space["docs"]] == [
        ["Grace Hopper"],
        ["Lima"],
    ]
