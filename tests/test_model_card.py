"""The generated card says what it was given, keeps local paths private and loads as metadata."""

from __future__ import annotations

import ast
import re

import pytest
from huggingface_hub import ModelCard

from hf_semicrf.evaluation.breakdowns import breakdown
from hf_semicrf.hub.model_card import TEMPLATE, find_card, render_card
from hf_semicrf.model.configuration_semicrf import SemiCRFConfig

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


BREAKDOWN = breakdown(
    [[(0, 1, "LOC"), (2, 5, "PER|X")]], [[(0, 1, "LOC", 0.9), (2, 4, "PER|X", 0.6)]]
)
EXAMPLES = [
    {"text": "Ada\nsaw Oslo", "entities": [{"text": "Oslo", "label": "LOC", "score": 0.91}]},
    {"text": "Nobody"},
]


def config(**changes):
    return SemiCRFConfig(labels=LABELS, max_segment_length=6, **changes)


def full_card(**changes):
    arguments = {
        "model_id": "someone/tagger",
        "metrics": METRICS,
        "split": "test",
        "entity_counts": {"LOC": 7, "PER|X": 3},
        "training": {"epochs": 8, "seed": 1},
        "breakdown": BREAKDOWN,
        "plot": "scores.png",
        "sentences": {"train": 1200, "test": 30},
        "speed": {"training (sentences a second)": "812.0"},
        "examples": EXAMPLES,
        "tags": ["clinical"],
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
    assert "hf_semicrf" in data.tags and "clinical" in data.tags
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
        assert len(re.findall(r"(?<!\\)\|", line)) in (3, 4, 5, 6)


def test_scores_by_length_calibration_and_speed():
    text = full_card()
    assert "| 1 word | 100.00 | 100.00 | 100.00 | 1 |" in text
    assert "| 3-4 words | 0.00 | 0.00 | 0.00 | 1 |" in text
    assert "off by\n35.00 % on average" in text  # half of 0.1 and 0.6
    assert "| 0.60 to 0.70 | 60.00 | 0.00 | 1 |" in text
    assert re.search(r"!\[.+\]\(scores\.png\)", text)
    assert "| training (sentences a second) | 812.0 |" in text
    assert "| train | 1,200 |" in text
    assert "above 0.4 (`threshold`)" in text
    assert "head_temperature" not in text
    assert "divided by 1.25 (`head_temp" in render_card(config(head_temperature=1.25))
    assert "most probable segmentation as a whole" in render_card(config(threshold=None))


def test_examples_are_shown_and_offered_to_try():
    text = full_card()
    assert "> Ada saw Oslo\n" in text and "| Oslo | LOC | 0.910 |" in text
    assert "> Nobody\n\nNo entities." in text
    assert ModelCard(text).data.widget == [{"text": "Ada\nsaw Oslo"}, {"text": "Nobody"}]


def test_limits_and_citations():
    text = render_card(config())
    assert "flat: they do not overlap" in text
    entries = re.findall(r"```bibtex\n@(\w+)\{(\w+),\n(.*?)\n\}\n```", text, re.S)
    assert [(kind, key) for kind, key, _ in entries] == [
        ("inproceedings", "sarawagi2004semimarkov"),
        ("software", "hf_semicrf"),
    ]
    for _, _, fields in entries:
        assert fields.count("{") == fields.count("}") and "author" in fields and "year" in fields


@pytest.mark.parametrize("adapter", [False, True])
def test_the_snippet_is_python_and_names_the_head(adapter):
    card = render_card(
        config(base_model="bert-base-cased", scorer="boundary", head_dropout=0.25), adapter=adapter
    )
    (snippet,) = re.findall(r"```python\n(.*?)```", card, re.S)
    tree = ast.parse(snippet)
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    settings = {k.arg: ast.literal_eval(k.value) for call in calls for k in call.keywords}
    head = {"labels": LABELS, "scorer": "boundary", "head_dropout": 0.25, "max_segment_length": 6}
    assert settings == (head if adapter else {})
    assert ModelCard(card).data.library_name == ("peft" if adapter else "transformers")
    assert ('"bert-base-cased"' in snippet) == adapter


def test_there_is_one_template_and_no_gap_in_it():
    link = TEMPLATE.parents[2] / "model_cards" / "template.md"
    assert link.resolve() == TEMPLATE.resolve() and link.is_symlink()
    for card in (full_card(), render_card(config())):
        assert "{{" not in card and "{%" not in card
        body = re.sub(r"```.*?```", "code", card.split("---\n", 2)[2], flags=re.S)
        assert "None" not in body
        assert "\n\n\n" not in body
        for table in re.findall(r"(?:^\|.*\n)+", body, re.M):
            assert f"\n\n{table}" in body  # Markdown wants an empty line before a table


def test_only_a_card_of_this_library_is_found_in_a_folder(tmp_path):
    assert find_card(None) is None and find_card("someone/tagger") is None
    assert find_card(tmp_path) is None
    path = tmp_path / "README.md"
    path.write_text("---\ntags:\n- bert\n---\n# An encoder\n")
    assert find_card(tmp_path) is None
    path.write_text("# No front matter\n")
    assert find_card(tmp_path) is None
    path.write_text(full_card())
    assert find_card(tmp_path) == full_card()


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
