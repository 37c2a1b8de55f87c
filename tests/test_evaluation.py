"""The breakdown of a tagger's scores, against hand counts, plain definitions and seqeval."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Sequence
from seqeval.metrics import classification_report, f1_score
from tiny import benchmark, error_of, save_tiny_bert, sentences, write_jsonl
from transformers import AutoTokenizer

from hf_semicrf import SemiCRFForTokenClassification
from hf_semicrf.cli import evaluate
from hf_semicrf.evaluation.breakdowns import LENGTHS, breakdown, evaluate_tagger
from hf_semicrf.evaluation.metrics import entity_scores
from hf_semicrf.labels.schemes import LabelScheme

SCHEME = LabelScheme.from_labels(["O", "B-A", "I-A", "B-B", "I-B"])


def random_spans(generator, words=30):
    spans, at = [], 0
    while at < words:
        length = int(generator.integers(1, 8))
        if generator.random() < 0.6 and at + length <= words:
            spans.append((at, at + length, "AB"[generator.integers(2)]))
        at += length
    return spans


def random_case(seed=0, sentences=40):
    """Truth, and findings that keep most of it, with scores."""
    generator = np.random.default_rng(seed)
    gold = [random_spans(generator) for _ in range(sentences)]
    other = [random_spans(generator) for _ in range(sentences)]
    kept = [g if generator.random() < 0.6 else o for g, o in zip(gold, other, strict=True)]
    return gold, [[(*span, float(generator.random())) for span in row] for row in kept]


def test_a_hand_counted_case():
    gold = [[(0, 1, "A"), (1, 3, "A"), (5, 10, "B")], [(0, 3, "A")]]
    found = [[(0, 1, "A", 0.95), (1, 3, "B", 0.85), (5, 10, "B", 0.75)], [(0, 4, "A", 0.25)]]
    result = breakdown(gold, found)
    right = {"precision": 1.0, "recall": 1.0, "f1": 1.0, "number": 1, "predicted": 1}
    wrong = {"precision": 0.0, "recall": 0.0, "f1": 0.0, "number": 1, "predicted": 1}
    assert result["lengths"] == {"1": right, "2": wrong, "3-4": wrong, "5+": right}
    # two of the truth touch another of their type, none of the findings does
    neighbours = {"precision": 0.0, "recall": 0.5, "f1": 0.0, "number": 2, "predicted": 0}
    assert result["neighbours"] == neighbours
    assert [row["predicted"] for row in result["reliability"]] == [1, 1, 1, 1]
    assert [row["precision"] for row in result["reliability"]] == [0.0, 1.0, 0.0, 1.0]
    expected = (0.25 + 0.25 + 0.85 + 0.05) / 4
    assert result["calibration_error"] == pytest.approx(expected, abs=1e-12)
    assert json.loads(json.dumps(result)) == result


def test_the_lengths_together_are_seqevals_counts():
    gold, found = random_case()
    tags = [SCHEME.spans_to_tags(row, 30) for row in gold]
    said = [SCHEME.spans_to_tags([span[:3] for span in row], 30) for row in found]
    scores = entity_scores(said, tags, SCHEME)
    rows = breakdown(gold, found)["lengths"]
    assert list(rows) == list(LENGTHS)
    number = sum(row["number"] for row in rows.values())
    predicted = sum(row["predicted"] for row in rows.values())
    recalled = sum(row["recall"] * row["number"] for row in rows.values())
    right = sum(row["precision"] * row["predicted"] for row in rows.values())
    assert right == pytest.approx(recalled)
    assert recalled / number == pytest.approx(scores["overall_recall"])
    assert right / predicted == pytest.approx(scores["overall_precision"])
    for row in rows.values():
        both = row["precision"] + row["recall"]
        assert row["f1"] == pytest.approx(2 * row["precision"] * row["recall"] / both)


def test_the_calibration_error_vanishes_for_a_calibrated_tagger_only():
    generator = np.random.default_rng(3)
    scores = generator.random(20_000)
    gold = [[(0, 1, "A")] if generator.random() < score else [] for score in scores]
    found = [[(0, 1, "A", float(score))] for score in scores]
    assert breakdown(gold, found)["calibration_error"] < 0.02
    sure = [[(0, 1, "A", 1.0)] for _ in scores]
    rate = sum(map(len, gold)) / len(gold)
    assert breakdown(gold, sure)["calibration_error"] == pytest.approx(1 - rate)


def test_bins_cover_the_scores_and_count_each_once():
    gold, found = random_case(seed=1)
    found[0].append((29, 30, "C", 1.0))
    for bins in (1, 3, 10):
        rows = breakdown(gold, found, bins)["reliability"]
        assert sum(row["predicted"] for row in rows) == sum(map(len, found))
        assert all(row["low"] <= row["score"] <= row["high"] for row in rows)
        assert all(row["high"] - row["low"] == pytest.approx(1 / bins) for row in rows)


def test_nothing_found_and_nothing_there():
    result = breakdown([[]], [[]])
    assert result["lengths"] == {} and result["reliability"] == []
    assert result["calibration_error"] == 0 and result["neighbours"]["number"] == 0


def test_errors():
    with pytest.raises(ValueError, match=r"as many sentences found as gold \(2\), got 1"):
        breakdown([[], []], [[]])
    with pytest.raises(ValueError, match=r"scores in 0..1, got 1.5 for the entity \(0, 1, 'A'\)"):
        breakdown([[]], [[(0, 1, "A", 1.5)]])
    with pytest.raises(ValueError, match="expected bins as an int of at least 1, got 0"):
        breakdown([[]], [[]], bins=0)


# a model on a data set


@pytest.fixture(scope="module")
def folder(tiny_tagger):
    return tiny_tagger


@pytest.fixture(scope="module")
def tagger(folder):
    model = SemiCRFForTokenClassification.from_pretrained(folder)
    return model, AutoTokenizer.from_pretrained(folder)


def rows_with_a_long_document():
    """Sentences and a document that is longer than the encoder; no tagger is right everywhere."""
    rows = sentences(30)
    rows += [{"tokens": ["saw", "Oslo", "."], "ner_tags": ["O", "O", "O"]}] * 3  # not annotated
    rows += [{"tokens": ["Oslo", "Lima", "saw"], "ner_tags": ["B-LOC", "B-LOC", "O"]}] * 3
    document = {name: [x for row in sentences(30) for x in row[name]] for name in rows[0]}
    return [*rows, document]


def predicted_tags(tagger, rows):
    model, tokenizer = tagger
    found = model.predict([row["tokens"] for row in rows], tokenizer)
    tags = [["O"] * len(row["tokens"]) for row in rows]
    for row, entities in zip(tags, found, strict=True):
        for e in entities:
            row[e["start"] : e["end"]] = [f"B-{e['label']}"] + [f"I-{e['label']}"] * (
                e["end"] - e["start"] - 1
            )
    return tags


def test_a_tagger_is_measured_on_what_it_predicts(tagger):
    rows = rows_with_a_long_document()
    metrics, details = evaluate_tagger(*tagger, Dataset.from_list(rows))
    gold, found = [row["ner_tags"] for row in rows], predicted_tags(tagger, rows)
    report = classification_report(gold, found, output_dict=True, zero_division=0)
    assert metrics["overall_f1"] == pytest.approx(f1_score(gold, found))
    assert 0.3 < metrics["overall_f1"] < 1
    for name in ("PER", "LOC"):
        assert metrics[f"{name}_f1"] == pytest.approx(report[name]["f1-score"])
        assert metrics[f"{name}_number"] == report[name]["support"]
    assert details["lengths"]["2"]["number"] == metrics["PER_number"]
    assert details["lengths"]["1"]["recall"] == pytest.approx(metrics["LOC_recall"])
    assert details["neighbours"]["number"] >= 6
    strict, _ = evaluate_tagger(*tagger, Dataset.from_list(rows), threshold=1.0)
    assert strict["overall_recall"] == 0 < metrics["overall_recall"]


def test_the_tags_of_the_data_may_follow_another_scheme(tagger):
    rows = rows_with_a_long_document()
    expected = evaluate_tagger(*tagger, Dataset.from_list(rows))
    known = tagger[0].config.scheme
    other = LabelScheme.from_labels(["O", *(f"{p}-{t}" for t in ("LOC", "PER") for p in "ESBI")])
    spans = [known.tags_to_spans(row["ner_tags"]) for row in rows]
    ids = [other.spans_to_tags(s, len(row["tokens"])) for s, row in zip(spans, rows, strict=True)]
    data = Dataset.from_dict({"words": [row["tokens"] for row in rows], "tags": ids})
    data = data.cast_column("tags", Sequence(ClassLabel(names=list(other.labels))))
    assert evaluate_tagger(*tagger, data, "words", "tags") == expected


@pytest.mark.parametrize("write", ["{0}_{1}", "{1}:{0}", "{1}-{0}"])
def test_the_tags_of_the_data_may_be_spelled_otherwise(tagger, write):
    rows = rows_with_a_long_document()
    expected = evaluate_tagger(*tagger, Dataset.from_list(rows))

    def spelled(tag, lower=False):
        prefix, _, kind = tag.partition("-")
        kind = kind.lower() if lower else kind
        return tag if tag == "O" else write.format(prefix.lower(), kind)

    same, other = (
        [{**row, "ner_tags": [spelled(tag, lower) for tag in row["ner_tags"]]} for row in rows]
        for lower in (False, True)
    )
    assert evaluate_tagger(*tagger, Dataset.from_list(same)) == expected
    metrics, _ = evaluate_tagger(*tagger, Dataset.from_list(other))
    assert metrics["per_number"] == expected[0]["PER_number"]
    assert metrics["overall_f1"] == 0  # types are names: per is not PER


def test_a_type_that_the_model_does_not_know_is_not_found(tagger):
    rows = [*sentences(6), {"tokens": ["Enterprise"], "ner_tags": ["B-SHIP"]}]
    metrics, details = evaluate_tagger(*tagger, Dataset.from_list(rows))
    assert metrics["SHIP_recall"] == 0 and metrics["SHIP_number"] == 1
    assert details["lengths"]["1"]["number"] == metrics["LOC_number"] + 1


def test_the_script_writes_tables_figures_and_a_picture(folder, tagger, tmp_path, capsys):
    rows = rows_with_a_long_document()
    file, out = write_jsonl(tmp_path / "test.jsonl", rows), tmp_path / "out"
    arguments = [folder, "--file", file, "--output_dir", str(out), "--device", "cpu"]
    metrics = evaluate.main(arguments)
    expected, details = evaluate_tagger(*tagger, Dataset.from_list(rows))
    assert metrics == expected
    assert json.loads((out / "evaluation.json").read_text()) == {**expected, **details}
    page = (out / "evaluation.md").read_text()
    assert page.startswith(capsys.readouterr().out.rstrip("\n"))
    assert f"| PER | {100 * metrics['PER_precision']:.2f} |" in page and "(evaluation.png)" in page
    assert f"entities' scores: {100 * details['calibration_error']:.2f} %" in page
    assert (out / "evaluation.png").read_bytes().startswith(b"\x89PNG")


def test_the_script_reads_a_data_set_by_name(folder, tagger, tmp_path, monkeypatch):
    """A folder stands in for the Hub: datasets reads both by the same name."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "corpus").mkdir()
    write_jsonl(tmp_path / "corpus" / "train.jsonl", sentences(3))
    write_jsonl(tmp_path / "corpus" / "test.jsonl", rows_with_a_long_document())
    name = str(tmp_path / "corpus")
    metrics = evaluate.main([folder, "--dataset_name", name, "--device", "cpu"])
    assert metrics == evaluate_tagger(*tagger, Dataset.from_list(rows_with_a_long_document()))[0]


def test_errors_of_the_command(folder, tmp_path, monkeypatch):
    main, file = evaluate.main, write_jsonl(tmp_path / "a.jsonl", sentences(3))
    missing = "hf-semicrf evaluate: one of the arguments --file --dataset_name is required"
    assert error_of(main, folder) == missing
    assert "found none at 'nowhere.jsonl'" in error_of(main, folder, "--file", "nowhere.jsonl")
    assert "expected a number in 0..1" in error_of(
        main, folder, "--file", file, "--threshold", "nan"
    )
    bert = save_tiny_bert(tmp_path / "bert")
    assert "expected a semi-CRF model" in error_of(main, bert, "--file", file)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    out = ["--output_dir", str(tmp_path / "out"), "--device", "cpu"]
    assert "pip install hf_semicrf[plots]" in error_of(main, folder, "--file", file, *out)


def test_the_benchmark_of_windows_counts_what_seams_cut(folder, tagger, tmp_path):
    rows, out = sentences(36), tmp_path / "windows.jsonl"
    file = write_jsonl(tmp_path / "test.jsonl", rows)
    arguments = [folder, "--file", file, "--join", "18", "--max_length", "9", "--out", str(out)]
    benchmark("windows").main(arguments)
    none, quarter, half = (json.loads(line) for line in out.read_text().splitlines())
    assert [row["overlap"] for row in (none, quarter, half)] == ["none", "a quarter", "a half"]
    documents = [
        {name: [x for row in rows[at : at + 18] for x in row[name]] for name in rows[0]}
        for at in (0, 18)
    ]
    data = Dataset.from_list(documents)
    for row, overlap in ((none, 0), (quarter, None), (half, 99)):
        metrics, _ = evaluate_tagger(*tagger, data, max_length=9, overlap=overlap)
        assert row["f1"] == pytest.approx(metrics["overall_f1"])
        assert row["gold"] == metrics["PER_number"] + metrics["LOC_number"]
    assert none["documents"] == 2 and none["words"] == sum(len(row["tokens"]) for row in rows)
    assert none["cut"] == quarter["cut"] > 2  # of names of two words
    assert none["cut_found"] == 0 < quarter["cut_found"] <= quarter["cut"]
