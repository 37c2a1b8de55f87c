"""The recognizer in Presidio's analyzer, and its results in Presidio's anonymizer."""

from __future__ import annotations

import itertools
import re
import shutil

import pytest
from datasets import Dataset
from tiny import NAMES, ROOT, sentences

presidio_analyzer = pytest.importorskip("presidio_analyzer")
presidio_anonymizer = pytest.importorskip("presidio_anonymizer")

from presidio_analyzer.nlp_engine import NlpEngineProvider  # noqa: E402

from hf_semicrf.evaluation import calibrate_recall  # noqa: E402
from hf_semicrf.integrations.presidio import SemiCRFRecognizer  # noqa: E402
from hf_semicrf.integrations.tagger import load_tagger  # noqa: E402

TEXT = "Yesterday Ada Lovelace saw Oslo."
LABELS = {"PER": "PERSON"}
NO_OP = {"nlp_engine_name": "no_op", "models": [{"lang_code": "en", "model_name": "no_op"}]}


@pytest.fixture(scope="module")
def tagger(tiny_tagger):
    return SemiCRFRecognizer(tiny_tagger, labels=LABELS)


def analyzer(registry):
    engine = NlpEngineProvider(nlp_configuration=NO_OP).create_engine()
    return presidio_analyzer.AnalyzerEngine(registry=registry, nlp_engine=engine)


@pytest.fixture
def engine(tagger):
    registry = presidio_analyzer.RecognizerRegistry([tagger], supported_languages=["en"])
    return analyzer(registry)


def spans(results):
    return sorted((r.start, r.end, r.entity_type, r.score) for r in results)


def test_scores_are_the_posteriors_of_predict(tagger, engine):
    model, tokenizer = tagger.tagger.model, tagger.tagger.tokenizer
    (entities,) = model.predict([TEXT], tokenizer)
    expected = [
        (e["start"], e["end"], LABELS.get(e["label"], e["label"]), e["score"]) for e in entities
    ]
    assert [kind for _, _, kind, _ in expected] == ["PERSON", "LOC"]
    context = ["Yesterday", "saw"]  # which raises scores of Presidio's own patterns
    assert spans(engine.analyze(TEXT, "en", context=context)) == expected
    assert engine.analyze("", "en") == []


def test_only_wanted_entities(engine):
    assert set(engine.get_supported_entities("en")) == {"PERSON", "LOC"}
    (found,) = engine.analyze(TEXT, "en", entities=["LOC"])
    assert TEXT[found.start : found.end] == "Oslo"


def test_beside_a_spacy_engine_and_presidios_own(tagger):
    spacy = pytest.importorskip("spacy")
    nlp = presidio_analyzer.nlp_engine.SpacyNlpEngine()
    nlp.nlp = {"en": spacy.blank("en")}
    registry = presidio_analyzer.RecognizerRegistry(supported_languages=["en"])
    registry.add_recognizer(presidio_analyzer.predefined_recognizers.EmailRecognizer())
    registry.add_recognizer(tagger)
    engine = presidio_analyzer.AnalyzerEngine(registry=registry, nlp_engine=nlp)
    results = engine.analyze("Ada Lovelace saw ada@example.com .", "en")
    assert {"PERSON", "EMAIL_ADDRESS"} <= {r.entity_type for r in results}


def test_batches_and_the_decision_process(engine):
    batch = presidio_analyzer.BatchAnalyzerEngine(engine)
    found = list(batch.analyze_iterator([TEXT, "saw Lima ."], "en"))
    assert [len(results) for results in found] == [2, 1]
    (result, *_) = engine.analyze(TEXT, "en", return_decision_process=True)
    explained = result.analysis_explanation
    assert explained.recognizer == "SemiCRFRecognizer"
    assert explained.original_score == result.score


def test_anonymized(engine):
    anonymized = presidio_anonymizer.AnonymizerEngine().anonymize(TEXT, engine.analyze(TEXT, "en"))
    assert anonymized.text == "Yesterday <PERSON> saw <LOC>."


def test_a_promised_recall_reaches_predict_and_its_candidates_are_covered(monkeypatch, tagger):
    """Overlapping candidates stand for those of ``predict(..., recall=)``."""
    text = "Ada Lovelace of Oslo wrote ."
    candidates = [
        {"label": label, "score": score, "start": start, "end": end, "text": text[start:end]}
        for label, score, start, end in (
            ("PER", 0.5, 0, 12),
            ("PER", 0.2, 4, 20),
            ("LOC", 0.4, 16, 20),
            ("PER", 0.1, 0, 3),
        )
    ]
    given = {}

    class StandIn:
        model = tagger.tagger.model

        def __call__(self, _):
            return candidates

    def load(name, device, **options):
        given.update(options)
        return StandIn()

    monkeypatch.setattr("hf_semicrf.integrations.presidio.load_tagger", load)
    recognizer = SemiCRFRecognizer("any", recall=0.98)
    assert given == {"recall": 0.98}
    registry = presidio_analyzer.RecognizerRegistry([recognizer], supported_languages=["en"])
    results = analyzer(registry).analyze(text, "en")
    assert {(r.start, r.end) for r in results} == {(0, 12), (4, 20), (16, 20)}
    anonymized = presidio_anonymizer.AnonymizerEngine().anonymize(text, results)
    assert re.sub("<[A-Z]+>", "", anonymized.text) == " wrote ."


def test_a_promised_recall(tiny_tagger, tmp_path):
    tagger = load_tagger(tiny_tagger, "cpu")
    tagger.model.set_temperature(8.0)  # unsure, so that candidates overlap
    rows = []
    for number, row in enumerate(sentences(210)):
        if number % 7 == 0:  # names that nobody tagged before
            row["tokens"] = ["Lima" if word in NAMES else word for word in row["tokens"]]
        ends = list(itertools.accumulate(len(word) + 1 for word in row["tokens"]))
        offsets = [[end - len(w) - 1, end - 1] for w, end in zip(row["tokens"], ends, strict=True)]
        rows.append(row | {"text": " ".join(row["tokens"]), "offsets": offsets})
    calibrate_recall(tagger.model, tagger.tokenizer, Dataset.from_list(rows), 0.99)
    tagger.save_pretrained(tmp_path)
    recognizer = SemiCRFRecognizer(str(tmp_path), recall=0.99)
    registry = presidio_analyzer.RecognizerRegistry([recognizer], supported_languages=["en"])
    text = "Lima Lovelace flew ."
    (candidates,) = tagger.model.predict([text], tagger.tokenizer, recall=0.99)
    results = analyzer(registry).analyze(text, "en")
    found = {(r.start, r.end, r.entity_type, r.score) for r in results}
    assert found <= {(e["start"], e["end"], e["label"], e["score"]) for e in candidates}
    covered = {n for e in candidates for n in range(e["start"], e["end"])}
    assert sum(e["end"] - e["start"] for e in candidates) > len(covered)  # some overlap
    assert covered == {n for r in results for n in range(r.start, r.end)}
    with pytest.raises(ValueError, match=r"calibrated for \(0.99\), got 0.9:"):
        SemiCRFRecognizer(str(tmp_path), recall=0.9).analyze(text, None)


def test_errors(tiny_tagger):
    with pytest.raises(ValueError, match=r"expected labels for types of .*'PER'.*got \['DRUG'\]"):
        SemiCRFRecognizer(tiny_tagger, labels={"DRUG": "X"})
    with pytest.raises(ValueError, match="expected threshold as a number in 0..1"):
        SemiCRFRecognizer(tiny_tagger, threshold=2)
    with pytest.raises(TypeError, match="recal"):
        SemiCRFRecognizer(tiny_tagger, recal=0.9)


def test_the_page(tiny_tagger, tmp_path, monkeypatch, capsys):
    (tmp_path / "out").mkdir()
    shutil.copytree(tiny_tagger, tmp_path / "out" / "final")
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "presidio.md").read_text()
    (block,) = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    exec(compile(block, "presidio.md", "exec"), {})
    assert capsys.readouterr().out == "Yesterday <PERSON> saw <LOCATION>.\n"
