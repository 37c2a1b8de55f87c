"""The pages' figures of quality are those of the recorded runs."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path

import pytest
from tiny import BENCHMARKS, benchmark, write_jsonl

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


@pytest.fixture(scope="module")
def recipes():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield benchmark("recipe_tables")


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


def runs(heads, sizes, **more):
    return [
        {"corpus": corpus, "head": head, "sentences": n, "seed": seed, **more}
        | {f"{split}_f1": heads[head] + 0.1 * (n >= 1000) for split in ("validation", "test")}
        for corpus in ("ncbi_disease", "bc5cdr", "wnut17")
        for head in heads
        for n in sizes
        for seed in (1, 2)
    ]


def test_learning_curves_say_how_many_sentences_softmax_needs(recipes, tmp_path):
    points = {250: [50.0, 52.0], 500: [55.0], 1000: [61.0]}
    assert recipes.needed(points, 58) == pytest.approx(1000 / 2**0.5)  # half-way over the logarithm
    assert recipes.needed(points, 51) == pytest.approx(250)
    assert recipes.needed(points, 61.5) == float("inf")
    rows = runs({"softmax": 0.5, "default": 0.55}, (0, 250, 500, 1000))
    (line,) = re.findall(r"^\| WNUT17 \| softmax .*$", recipes.curves(rows), re.M)
    cell, last = "50.00 ± 0.00 (2)", "60.00 ± 0.00 (2)"
    assert line == f"| WNUT17 | softmax | {cell} | {cell} | {last} | 707 |"
    low = runs({"softmax": 0.5, "default": 0.7}, (250, 500))
    assert "| more than 500 |" in recipes.curves(low)
    recipes.draw_curves(tmp_path / "curves.png", rows)
    assert (tmp_path / "curves.png").read_bytes()[1:4] == b"PNG"


def test_recipes_stand_beside_both_baselines_and_the_default(recipes):
    heads = {"softmax": 0.5, "crf": 0.52, "default": 0.55, "default+sure=0.9": 0.56}
    details = {"lengths": {"5+": {"recall": 0.25}}, "calibration_error": 0.03}
    (*_, line) = recipes.recipes(runs(heads, (0,), **details), list(heads)).strip().splitlines()
    cell, recall = "56.00 ± 0.00 (2)", "25.0 / 25.0 / 25.0"
    assert line == (
        f"| default+sure=0.9 | {cell} | {cell} | {cell} | 56.00 | +6.00 | +4.00 | {recall} "
        "| 3.0 / 3.0 / 3.0 |"
    )
    (*_, line) = recipes.few(runs(heads, (100,))).strip().splitlines()
    assert line == "| 100 | default+sure=0.9 |" + " 56.00 (+1.00) |" * 3 + " +1.00 |"


def test_decoding_without_a_part_is_set_beside_the_whole(recipes):
    other = {"f1": 0.5, "calibration_error": 0.1, "recalls": {"5+": 0.5}}
    details = {"lengths": {"5+": {"recall": 0.25}}, "calibration_error": 0.03}
    details["decodings"] = dict.fromkeys(recipes.WITHOUT, other)
    (*_, line) = recipes.without(runs({"default": 0.55}, (0,), **details)).strip().splitlines()
    cells = " 50.00 (-5.00) |" * 3 + " 50.0 / 50.0 / 50.0 | 10.0 / 10.0 / 10.0 |"
    assert line == f"| neither |{cells}"


def test_types_are_told_by_what_was_seen_and_how_heads_fail(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        types = benchmark("quality_types")
    recorded = (ROOT / "benchmarks/results/wnut17_types.jsonl").read_text().splitlines()
    assert (
        types.facts_table(list(map(json.loads, recorded))) in (ROOT / "docs/quality.md").read_text()
    )
    gold = [[(0, 1, "a"), (2, 4, "b"), (5, 6, "b"), (7, 9, "b"), (9, 10, "a")], []]
    found = [[(0, 1, "a"), (2, 3, "b"), (5, 6, "a"), (8, 9, "a")], [(0, 1, "b")]]
    one, other = types.failures(gold, found)
    assert list(one.values()) == ["a", 1, 0, 0, 0, 1, 3, 0]
    assert list(other.values()) == ["b", 0, 1, 1, 1, 0, 2, 1]
    words = {"train": ["Ada", "ada", "Lovelace"], "validation": ["ADA"], "test": ["Lovelace", "x"]}
    for split, names in words.items():
        rows = [{"tokens": [name], "ner_tags": ["B-PER"]} for name in names]
        write_jsonl(tmp_path / f"{split}.jsonl", [*rows, {"tokens": ["."], "ner_tags": ["O"]}])
    rows = {row["split"]: row for row in types.facts(str(tmp_path))}
    assert [rows[n]["number"] for n in words] == [3, 1, 2]
    assert (rows["validation"]["seen"], rows["test"]["seen"]) == (1.0, 0.5)


def test_the_table_of_the_readme_is_up_to_date(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    made = benchmark("readme_tables").TABLES
    blocks = re.findall(
        r"<!-- table: (readme\w*) -->\n(.*?)<!-- end -->", (ROOT / "README.md").read_text(), re.S
    )
    assert dict(blocks) == {name: make() for name, make in made.items()}
