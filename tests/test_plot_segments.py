"""The picture of a sequence with its segments: boxes where they lie, as full as they are sure."""

from __future__ import annotations

import sys

import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle, StepPatch

from hf_semicrf.reporting import plot_segments
from hf_semicrf.reporting.colours import colours

TRUE = [{"label": "low", "start": 0.5, "end": 2.0}, {"label": "low", "start": 2.0, "end": 2.5}]
FOUND = [{"label": "$x^$", "start": 1.0, "end": 2.0, "score": 0.25}]


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are saved."""
    figures, stock = [], Figure.savefig

    def save(figure, *rest, **options):
        figures.append(figure)
        stock(figure, *rest, **options)

    monkeypatch.setattr(Figure, "savefig", save)
    return figures


def test_boxes_and_curves_lie_where_they_are(drawn, tmp_path):
    path = tmp_path / "a.png"
    curves = {"low": [0.5, 0.25, 1.0], "starts": [0.0, 1.0, 0.5]}
    plot_segments({"true": TRUE, "found": FOUND}, path, curves, 2.0)
    assert path.read_bytes()[:4] == b"\x89PNG" and len(path.read_bytes()) < 100_000
    above, below = drawn[0].axes
    boxes = [x for x in above.patches if isinstance(x, Rectangle)]
    shades = {name: style.rgb for name, style in colours(("low", "$x^$")).items()}
    places = [
        (x.get_x(), x.get_width(), x.get_y(), round(x.get_height() / 0.8, 9), x.get_facecolor()[:3])
        for x in boxes
    ]
    wanted = [
        *[(0.5, 1.5, 1, 1.0, shades["low"])] * 2,
        *[(2.0, 0.5, 1, 1.0, shades["low"])] * 2,
        (1.0, 1.0, 0, 1.0, shades["$x^$"]),
        (1.0, 1.0, 0, 0.25, shades["$x^$"]),
    ]
    assert places == wanted
    assert [x.get_text() for x in above.get_yticklabels()] == ["true", "found"]
    assert [x.get_text() for x in above.get_legend().get_texts()] == ["$x^$", "low"]
    area, line = (x for x in below.patches if isinstance(x, StepPatch))
    assert area.get_facecolor()[:3] == shades["low"] and line.get_label() == "starts"
    for patch, name in ((area, "low"), (line, "starts")):
        values, edges, _ = patch.get_data()
        assert values.tolist() == curves[name] and edges.tolist() == [0, 2, 4, 6]
    assert below.get_xlim() == (0, 6)


def test_rows_alone_and_rows_without_segments(drawn, tmp_path):
    plot_segments({"found": []}, tmp_path / "a.svg")
    plot_segments({"true": TRUE, "found": []}, tmp_path / "b.svg")
    assert [len(figure.axes) for figure in drawn] == [1, 1]
    assert drawn[1].axes[0].get_xlim() == (0, 2.5)


def test_what_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="at least one row of segments, got none"):
        plot_segments({}, tmp_path / "a.png")
    for wrong in (0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="seconds above 0"):
            plot_segments({"true": TRUE}, tmp_path / "a.png", seconds=wrong)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(RuntimeError, match=r"hf_semicrf\[plots\]"):
        plot_segments({"true": TRUE}, tmp_path / "a.png")
    assert not list(tmp_path.iterdir())
