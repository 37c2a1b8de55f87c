"""The generated card says what it was given, keeps local paths private and loads as metadata."""

from __future__ import annotations

import re

import pytest
from huggingface_hub import ModelCard

from hf_semicrf.configuration_semicrf import SemiCRFConfig
from hf_semicrf.model_card import render_card

LABELS = ["O", "B-LOC", "I-LOC", "B-PER|X", "I-PER|X"]
METRICS = {
    "LOC_precision": 0.5,
    "LOC_recall": 0.25,
    "LOC_f1": 1 / 3,
    "LOC_number": 40,
    "PER|X_precision": 1.0,
    "PER|X_recall": 0.5,
    "PER|X_f1": 2 / 3,
    "PER|X_number": 2,
    "overall_precision": 0.51234,
    "overall_recall": 0.26,
    "overall_f1": 0.345,
    "overall_accuracy": 0.9,
}


def config(**changes):
    return SemiCRFConfig(labels=LABELS, max_segment_length=6, **changes)


def full_card(**changes):
    arguments = {
        "model_id": "someone/tagger",
        "metrics": METRICS,
        "split": "test",
        "entity_counts": {"LOC": 7, "PER|X": 3},
        "training": {"epochs": 8, "seed": 1},
        "dataset": "wnut_17",
        "language": "en",
        "license": "apache-2.0",
    }
    return render_card(config(base_model="bert-base-cased"), **arguments | changes)


def test_front_matter():
    data = ModelCard(full_card()).data
    assert data.base_model == "bert-base-cased"
    assert data.library_name == "transformers"
    assert data.pipeline_tag == "token-classification"
    assert data.language == "en" and data.license == "apache-2.0"
    assert "hf_semicrf" in data.tags
    scores = {result.metric_type: result.metric_value for result in data.eval_results}
    assert scores == {"precision": 0.5123, "recall": 0.26, "f1": 0.345}
    assert {result.dataset_split for result in data.eval_results} == {"test"}


def test_tables():
    text = full_card()
    assert "| LOC | 50.00 | 25.00 | 33.33 | 40 |" in text
    assert "| PER\\|X | 100.00 | 50.00 | 66.67 | 2 |" in text
    assert "| all | 51.23 | 26.00 | 34.50 | 42 |" in text
    assert "| LOC | 7 |" in text and "| PER\\|X | 3 |" in text
    assert "| epochs | 8 |" in text and re.search(r"\| versions \| torch \d", text)
    assert "up to 6 words" in text and '"someone/tagger"' in text
    for line in re.findall(r"^\|.*\|$", text, re.M):
        assert len(re.findall(r"(?<!\\)\|", line)) in (3, 6)


def test_nothing_known_is_said_so():
    text = render_card(config())
    data = ModelCard(text).data
    assert data.eval_results is None and data.base_model is None and data.license is None
    assert "No scores were given" in text
    assert "| LOC | unknown |" in text
    assert "None" not in text


def test_a_local_folder_stays_private(tmp_path):
    text = render_card(config(base_model=str(tmp_path)))
    assert str(tmp_path) not in text
    card = config()
    card.base_model = str(tmp_path)  # as an older file may have it
    assert str(tmp_path) not in render_card(card)


@pytest.mark.parametrize("field", ["model_id", "dataset", "language", "license"])
def test_each_field_may_be_missing(field):
    assert ModelCard(full_card(**{field: None})).data.pipeline_tag == "token-classification"
