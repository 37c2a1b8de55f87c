"""The pages' figures of quality are those of the recorded runs."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path

import pytest
from tiny import BENCHMARKS, benchmark

ROOT = BENCHMARKS.parent
RUNS = [
    json.loads(line)
    for line in (ROOT / "benchmarks/results/quality_test_h100.jsonl").read_text().splitlines()
]


@pytest.fixture(scope="module")
def tables():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield benchmark("quality_tables")


@pytest.mark.parametrize("page", ["docs/quality.md"])
def test_the_tables_are_up_to_date(tables, page):
    blocks = re.findall(
        r"<!-- table: (quality\w*) -->\n(.*?)<!-- end -->", (ROOT / page).read_text(), re.S
    )
    assert len(blocks) == len(tables.TABLES)
    for name, text in blocks:
        assert text == tables.TABLES[name](), name


@pytest.mark.parametrize("head", ["softmax", "crf", "span", "span+mix_layers=4"])
def test_the_main_table_has_means_and_deviations_of_the_runs(tables, head):
    (line,) = re.findall(rf"^\| {re.escape(head)} \|.*$", tables.quality(), re.M)
    means = []
    for corpus, cell in zip(
        ("ncbi_disease", "bc5cdr", "wnut17"), line.split("|")[2:5], strict=True
    ):
        f1 = [100 * r["test_f1"] for r in RUNS if (r["head"], r["corpus"]) == (head, corpus)]
        means.append(statistics.mean(f1))
        assert cell.strip() == f"{means[-1]:.2f} ± {statistics.stdev(f1):.2f} ({len(f1)})"
    assert line.split("|")[5].strip() == f"{statistics.mean(means):.2f}"


def test_what_was_lost_stands_in_its_own_table_with_the_difference(tables):
    runs = [
        json.loads(line)
        for line in (ROOT / "benchmarks/results/quality_validation_h100.jsonl")
        .read_text()
        .splitlines()
    ]
    f1 = {(r["head"], r["corpus"]): 100 * r["validation_f1"] for r in runs}
    lost, kept = tables.lost(), tables.validation() + tables.earlier()
    for head, beside in tables.LOST.items():
        assert f"| {head} |" in lost and f"| {head} |" not in kept and f"| {beside} |" in kept
    head, beside = "span+mix_layers=7+word_dropout=0.1", "span+mix_layers=7"
    (line,) = re.findall(rf"^\| {re.escape(head)} \|.*$", lost, re.M)
    cells = [cell.strip() for cell in line.split("|")]
    for corpus, cell in (("ncbi_disease", cells[3]), ("wnut17", cells[5])):
        mine, theirs = f1[head, corpus], f1[beside, corpus]
        assert cell == f"{mine:.2f} ({mine - theirs:+.2f})"
    assert cells[2] == beside and cells[4] == cells[6] == ""


def test_bins_of_several_runs_are_pooled_by_their_entities(tables):
    row = {"low": 0.5, "score": 0.6, "precision": 1.0, "predicted": 3}
    other = {"low": 0.5, "score": 0.5, "precision": 0.0, "predicted": 1}
    ((score, precision, number),) = tables.pooled(
        [{"reliability": [row]}, {"reliability": [other]}]
    )
    assert (score, precision, number) == (pytest.approx(0.575), 0.75, 4)


def test_the_pictures_are_drawn(tables, tmp_path):
    tables.figures(tmp_path)
    for picture in ("quality_reliability.png", "quality_recall.png"):
        assert (tmp_path / picture).read_bytes()[1:4] == b"PNG"
        assert Path(ROOT, "docs/pictures", picture).stat().st_size < 80_000


def test_learning_curves_are_drawn_of_what_was_run(tables, tmp_path):
    rows = [
        {"corpus": corpus, "head": head, "sentences": n, "seed": seed, "test_f1": n / 2000}
        for corpus in tables.CORPORA
        for head in ("softmax", "default")
        for n in (0, 50, 100)
        for seed in (1, 2)
    ]
    tables.draw_curves(tmp_path / "curves.png", rows)
    assert (tmp_path / "curves.png").read_bytes()[1:4] == b"PNG"


def test_the_table_of_the_readme_is_up_to_date(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    made = benchmark("readme_tables").TABLES
    blocks = re.findall(
        r"<!-- table: (readme\w*) -->\n(.*?)<!-- end -->", (ROOT / "README.md").read_text(), re.S
    )
    assert dict(blocks) == {name: make() for name, make in made.items()}
