"""The benchmark of partly known labels: what it hides, and a run on a tiny corpus."""

from __future__ import annotations

import pytest
from tiny import BENCHMARKS, benchmark, save_tiny_bert, sentences, write_jsonl

from hf_semicrf import LabelScheme

LABELS = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
SCHEME = LabelScheme.from_labels(LABELS)


@pytest.fixture
def partial_labels(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return benchmark("partial_labels")


def test_conditions_hide_the_same_entities(partial_labels):
    tags = [row["ner_tags"] for row in sentences(30)]
    entities = sum(len(SCHEME.tags_to_spans(row)) for row in tags)
    words = sum(len(row) for row in tags)
    hidden = {c: partial_labels.hide(tags, SCHEME, c, 0.3, 5) for c in partial_labels.CONDITIONS}
    assert hidden["full"] == tags
    flat = {c: [tag for row in rows for tag in row] for c, rows in hidden.items()}
    changed = {c: [n for n in range(words) if x[n] != flat["full"][n]] for c, x in flat.items()}
    assert changed["outside"] == changed["unknown"]
    assert set(flat["outside"]) <= set(LABELS)
    left = sum(len(SCHEME.tags_to_spans(row)) for row in hidden["unknown"])
    assert left == entities - round(0.3 * entities)
    more = set(changed["unknown+outside"]) - set(changed["unknown"])
    assert more and all(flat["full"][n] == "O" for n in more)
    assert len(more) <= len(changed["unknown"]) < 2 * len(more)
    assert hidden["unknown"] != partial_labels.hide(tags, SCHEME, "unknown", 0.3, 6)


def test_a_run(partial_labels, tmp_path):
    for name, count in (("train", 40), ("validation", 12), ("test", 12)):
        write_jsonl(tmp_path / f"{name}.jsonl", sentences(count))
    run = partial_labels.Run(
        encoder=save_tiny_bert(tmp_path / "bert"),
        encoder_name="tiny",
        corpus=str(tmp_path),
        condition="unknown+outside",
        seed=0,
        share=0.3,
        limit=None,
        training=("num_train_epochs=10", "learning_rate=0.01", "use_cpu=true"),
        commit="",
        jobs=1,
        scratch=str(tmp_path / "out"),
    )
    row = partial_labels.train_and_score(run)
    assert row["test_f1"] > 0.8 and row["unknown_words"] > 0
    assert "| unknown+outside | " in partial_labels.table([row, row])
