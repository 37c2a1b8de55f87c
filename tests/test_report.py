"""Tables and the picture say what the scores say, whatever is missing."""

from __future__ import annotations

import sys

import pytest
from test_evaluation import SCHEME, random_case

from hf_semicrf.evaluation.breakdowns import breakdown
from hf_semicrf.evaluation.metrics import entity_scores
from hf_semicrf.reporting.tables import (
    length_table,
    markdown_table,
    plot_scores,
    reliability_table,
    type_table,
)


@pytest.fixture(scope="module")
def scored():
    """Metrics and breakdown of one case."""
    gold, found = random_case()
    tags = [SCHEME.spans_to_tags(row, 30) for row in gold]
    said = [SCHEME.spans_to_tags([span[:3] for span in row], 30) for row in found]
    return entity_scores(said, tags, SCHEME), breakdown(gold, found)


def cells(table):
    return [line.strip("| ").split(" | ") for line in table.splitlines()]


def test_scores_of_types_that_were_not_recorded_are_said_to_be_missing():
    metrics = {"overall_precision": 0.5, "overall_recall": 0.25, "overall_f1": 1 / 3, "LOC_f1": 0.4}
    _, _, row, total = cells(type_table(metrics))
    assert row == ["LOC", "not recorded", "not recorded", "40.00", "not recorded"]
    assert total == ["all", "50.00", "25.00", "33.33", "not recorded"]


def test_type_table(scored):
    metrics, _ = scored
    header, _, *rows = cells(type_table(metrics))
    assert header == ["type", "precision", "recall", "F1", "entities"]
    assert [row[0] for row in rows] == ["A", "B", "all"]
    assert float(rows[0][3]) == pytest.approx(100 * metrics["A_f1"], abs=5e-3)
    assert int(rows[2][4]) == metrics["A_number"] + metrics["B_number"]


def test_length_table(scored):
    _, result = scored
    _, _, *rows = cells(length_table(result))
    names = ["1 word", "2 words", "3-4 words", "5+ words", "next to one of its type"]
    assert [row[0] for row in rows] == names
    assert float(rows[1][2]) == pytest.approx(100 * result["lengths"]["2"]["recall"], abs=5e-3)
    assert int(rows[4][4]) == result["neighbours"]["number"] > 0


def test_reliability_table(scored):
    _, result = scored
    _, _, *rows = cells(reliability_table(result))
    assert [row[0] for row in rows[:2]] == ["0.00 to 0.10", "0.10 to 0.20"]
    assert sum(int(row[3]) for row in rows) == sum(r["predicted"] for r in result["reliability"])


def test_bars_in_cells_are_escaped():
    assert markdown_table(("a",), [("x|y",)]) == "| a |\n| --- |\n| x\\|y |\n"


def many_types(metrics):
    extra = {f"T{n}_{name}": 0.5 for n in range(12) for name in ("precision", "recall", "f1")}
    return {**metrics, **extra, **{f"T{n}_number": 1 for n in range(12)}}


@pytest.mark.parametrize("kind", ["lengths only", "with types", "many types", "nothing found"])
def test_the_picture_shows_bars_and_points(scored, tmp_path, kind, monkeypatch):
    from matplotlib.figure import Figure
    from matplotlib.image import imread

    drawn = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda f, *a, **k: (drawn.append(f), save(f, *a, **k)))
    metrics, result = scored
    if kind == "nothing found":
        result = breakdown([[]], [[]])
    types = {"with types": metrics, "many types": many_types(metrics)}.get(kind)
    path = tmp_path / "scores.png"
    plot_scores(path, result, types)
    pixels = imread(path)
    assert pixels.shape[0] > 300 and pixels.shape[1] > 700
    *first, by_length, reliability = drawn[0].axes
    heights = [bar.get_height() for bar in by_length.patches]
    f1 = [row["f1"] for row in result["lengths"].values()]
    if result["neighbours"]["number"]:
        f1.append(result["neighbours"]["f1"])
    assert heights == pytest.approx([100 * value for value in f1])
    points = reliability.collections[0].get_offsets()
    assert points.tolist() == [[r["score"], r["precision"]] for r in result["reliability"]]
    if types:
        names = [label.get_text() for label in first[0].get_yticklabels()]
        assert set(names) == {key[:-7] for key in types if key.endswith("_number")}
        widths = {n: b.get_width() for n, b in zip(names, first[0].patches, strict=True)}
        assert widths["A"] == pytest.approx(100 * metrics["A_f1"])


def test_names_of_types_are_drawn_as_they_are(scored, tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    drawn = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda f, *a, **k: (drawn.append(f), save(f, *a, **k)))
    names = ["$x^$", "a\u200eb", "a\u200fb", "שם"]
    scores = {f"{name}_{score}": 0.5 for name in names for score in ("f1", "number")}
    plot_scores(tmp_path / "scores.png", scored[1], scores)
    labels = [label.get_text() for label in drawn[0].axes[0].get_yticklabels()]
    assert sorted(labels) == ["$x^$", "a\ufffdb", "a\ufffdb", "שם"]
    assert len(drawn[0].axes[0].patches) == 4


def test_without_matplotlib_the_error_says_what_to_install(scored, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(RuntimeError, match=r"pip install hf_semicrf\[plots\]"):
        plot_scores(tmp_path / "scores.png", scored[1])
