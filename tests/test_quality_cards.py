"""The cards of the measured taggers say what was recorded."""

from __future__ import annotations

import json
import re

import pytest
from huggingface_hub import ModelCard
from tiny import BENCHMARKS

FOLDER = BENCHMARKS.parent / "model_cards"
RESULTS = BENCHMARKS.parent / "benchmarks/results/quality_test_h100.jsonl"
RUNS = [json.loads(line) for line in RESULTS.read_text().splitlines()]


@pytest.fixture(params=["ncbi_disease", "wnut17"])
def card_and_run(request):
    wanted = (request.param, "span", 1)
    (run,) = [r for r in RUNS if (r["corpus"], r["head"], r["seed"]) == wanted]
    return (FOLDER / f"minilm-l6-{request.param.replace('_', '-')}.md").read_text(), run


def row(name, scores):
    ratios = (f"{100 * scores[key]:.2f}" for key in ("precision", "recall", "f1"))
    return " | ".join([f"| {name}", *ratios, f"{scores['number']} |"])


def test_scores(card_and_run):
    text, run = card_and_run
    data = ModelCard(text).data
    assert data.base_model == "sentence-transformers/all-MiniLM-L6-v2"
    found = {result.metric_type: result.metric_value for result in data.eval_results}
    expected = {"precision": run["precision"], "recall": run["recall"], "f1": run["test_f1"]}
    assert found == pytest.approx(expected, abs=5e-5)
    for name, f1 in run["types"].items():
        assert f"| {name} | not recorded | not recorded | {100 * f1:.2f} | not recorded |" in text
    for length, scores in run["lengths"].items():
        assert row(f"{length} {'word' if length == '1' else 'words'}", scores) in text
    assert row("next to one of its type", run["neighbours"]) in text


def test_calibration_decoding_and_origin(card_and_run):
    text, run = card_and_run
    assert f"{100 * run['calibration_error']:.2f} % on average" in text
    for found in run["reliability"]:
        ratios = f"{100 * found['score']:.2f} | {100 * found['precision']:.2f}"
        assert f"| {ratios} | {found['predicted']} |" in text
    assert f"divided by {run['temperature']} " in text and f"above {run['threshold']} " in text
    assert f"up to {run['max_segment_length']} words" in text
    assert f"| versions | torch {run['torch']}, transformers {run['transformers']} |" in text
    assert f"| device | {run['device']} |" in text and f"commit\n{run['commit']} " in text
    (picture,) = re.findall(r"!\[[^]]+\]\(([^)]+)\)", text)
    assert (FOLDER / picture).read_bytes()[1:4] == b"PNG"


def test_the_script_writes_these_cards(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import quality_cards

    for corpus in quality_cards.DATA:
        path = FOLDER / f"{quality_cards.name_of(corpus)}.md"
        data = ModelCard(quality_cards.card(corpus)).data
        assert data.to_dict() == ModelCard(path.read_text()).data.to_dict()
