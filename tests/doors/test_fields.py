"""Files and measures of audio and genes beside the libraries that know them."""

from __future__ import annotations

import numpy as np
import pytest

from hf_semicrf.data import read_segments, write_segments
from hf_semicrf.evaluation import diarization_error_rate, timed_scores

pytest.importorskip("praatio")
pytest.importorskip("pyannote.metrics")
pytest.importorskip("gffutils")
mir_eval = pytest.importorskip("mir_eval")


def segments(*rows):
    return [
        dict(zip(("label", "start", "end", "score", "strand"), row, strict=False)) for row in rows
    ]


TIERS = [
    {
        "id": "a",
        "tier": 'ü "q"',
        "length": 9.0,
        "segments": segments(
            ('say "hi"', 0.1, 0.1 + 0.2), ("b", 0.1 + 0.2, 0.7), ("日 本\nx", 3.0, 10 / 3)
        ),
    },
    {
        "id": "a",
        "tier": "points",
        "length": 9.0,
        "segments": segments(("p", 0.0, 0.0), ("q", 1.5, 1.5)),
    },
    {"id": "a", "tier": "empty", "length": 9.0, "segments": []},
]
FEATURES = [
    {
        "id": "chr 1%",
        "length": 100,
        "segments": [
            {
                "label": "gene;=%",
                "start": 0,
                "end": 5,
                "score": 0.25,
                "strand": "-",
                "source": "x y",
                "phase": "0",
                "attributes": {"ID": ["a;b", "c,d"], "Note": ["ü = 5%"]},
            },
            {"label": "gene", "start": 3, "end": 7, "strand": "+"},
            {"label": "gene", "start": 7, "end": 8},
        ],
    },
    {"id": "z", "segments": [{"label": "CDS", "start": 3, "end": 10**9}]},
    {"id": "empty", "length": 3, "segments": []},
]


def test_a_text_grid_comes_back_as_it_was(tmp_path):
    path = tmp_path / "a.TextGrid"
    reverse = [{**row, "segments": row["segments"][::-1]} for row in TIERS]
    write_segments(reverse, path)
    assert read_segments(path) == TIERS
    write_segments([{"id": "a", "segments": segments(("x", 1, 2, 0.5))}], path)
    (row,) = read_segments(path)
    assert row == {"id": "a", "tier": "segments", "length": 2.0, "segments": segments(("x", 1, 2))}


@pytest.mark.parametrize("form", ["long_textgrid", "short_textgrid"])
def test_a_text_grid_of_praat_in_any_form_and_where_it_is_cut(form, tmp_path):
    from praatio import textgrid

    path = tmp_path / "a.TextGrid"
    write_segments(TIERS, path)
    textgrid.openTextgrid(str(path), True).save(
        str(path), form, includeBlankSpaces=True, minimumIntervalLength=None
    )
    text = path.read_text("utf-8")
    for encoding in ("utf-8-sig", "utf-16"):
        path.write_bytes(text.replace("\n", "\r\n").encode(encoding))
        assert read_segments(path) == TIERS
    for cut in range(0, len(text.rstrip()), 3):
        path.write_text(text[:cut], encoding="utf-8")
        with pytest.raises(ValueError, match=r"^[^\n]*a.TextGrid: expected"):
            read_segments(path)
    for old, new in (("0.1", "-0.1"), ("0.7", "5")):  # before the start; two that overlap
        path.write_text(text.replace(old, new), encoding="utf-8")
        with pytest.raises(ValueError, match=r"\A[^\n]*a.TextGrid: expected[^\n]*\Z"):
            read_segments(path)
    path.write_bytes(text.encode("utf-8").replace(b"b", b"\xfc", 1))
    with pytest.raises(ValueError, match=r"a.TextGrid, line \d+: expected text"):
        read_segments(path)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"id": "a", "segments": segments(("x", 0, 2), ("y", 1, 3))}], "do not overlap"),
        (
            [{"id": "a", "segments": segments(("x", 0, 2), ("y", 3, 3))}],
            "points in a tier of their",
        ),
        ([{"id": "a", "segments": segments((" x", 0, 2))}], "reads as it was"),
        (
            [{"id": "a", "segments": segments(("item [1]", 0, 2))}],
            "what was written: expected a TextG",
        ),
        (
            [{"id": "a", "segments": segments(("x", 1e-5, 2))}],
            "what was written: expected a TextGrid",
        ),
        ([{"id": "a", "segments": []}], "expected a TextGrid of Praat"),
        (
            [{"id": "a", "segments": []}, {"id": "b", "segments": []}],
            r"one recording .* \['a', 'b'\]",
        ),
        ([TIERS[0], TIERS[0]], "different names, got .* twice"),
        ([{"id": "a", "length": float("inf"), "segments": []}], "length of at least 0, got inf"),
    ],
)
def test_what_a_text_grid_cannot_hold_is_refused(rows, message, tmp_path):
    (tmp_path / "a.TextGrid").write_text("old")
    with pytest.raises(ValueError, match=message):
        write_segments(rows, tmp_path / "a.TextGrid")
    assert [x.read_text() for x in tmp_path.iterdir()] == ["old"]


@pytest.mark.parametrize("ending", ["gff3", "gff"])
def test_gff3_comes_back_as_it_was_and_counts_from_1_in_the_file(ending, tmp_path):
    path = tmp_path / f"a.{ending}"
    write_segments(FEATURES, path)
    assert read_segments(path) == FEATURES
    lines = path.read_text("utf-8").splitlines()
    assert lines[:2] == ["##gff-version 3", "##sequence-region chr%201%25 1 100"]
    note = "ID=a%3Bb,c%2Cd;Note=ü %3D 5%25"
    assert lines[2] == f"chr%201%25\tx y\tgene;=%25\t1\t5\t0.25\t-\t0\t{note}"
    path.write_text("\n".join(lines) + "\n###\n##FASTA\n>z\nACGT\n", encoding="utf-8")
    assert read_segments(path) == FEATURES


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("c\t.\tgene\t0\t5\t.\t.\t.\t.", "expected 0 <= start <= end, got -1"),
        ("c\t.\tgene\t6\t4\t.\t.\t.\t.", "expected 0 <= start <= end, got 5 and 4"),
        ("c\t.\tgene\t1\tx\t.\t.\t.\t.", "expected a whole number, got 'x'"),
        ("c\t.\tgene\t1\t5\t.\t*\t.\t.", "as strand, got '\\*'"),
        ("c\t.\tgene\t1\t5\thigh\t.\t.\t.", "expected a score or ."),
        ("c\t.\tgene\t1\t5", "expected 9 columns with tabs between, got 5"),
        ("##gff-version 2", "expected GFF version 3, got '2'"),
        ("##sequence-region c", "expected a sequence, its start and its end"),
    ],
)
def test_damage_of_gff3_is_refused_by_its_line(line, message, tmp_path):
    (tmp_path / "a.gff3").write_text(f"##gff-version 3\n{line}\n")
    with pytest.raises(ValueError, match=f"a.gff3, line 2: .*{message}"):
        read_segments(tmp_path / "a.gff3")


def test_a_feature_of_no_base_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one base"):
        write_segments([{"id": "c", "segments": segments(("x", 3, 3))}], tmp_path / "a.gff3")


def turns(random, count: int):
    """Neighbours and gaps, of three labels."""
    times = np.sort(random.integers(0, 900, 2 * count)) / 30
    pairs = zip(times[::2].tolist(), times[1::2].tolist(), strict=True)
    return segments(*[(f"s{random.integers(3)}", a, b) for a, b in pairs if a < b])


def test_pyannote_reads_the_rttm_that_is_written(tmp_path):
    from pyannote.database.util import load_rttm

    random = np.random.default_rng(0)
    rows = [{"id": name, "channel": "1", "segments": turns(random, 20)} for name in ("a", "b")]
    write_segments(rows, tmp_path / "a.rttm")
    assert read_segments(tmp_path / "a.rttm") == rows
    for name, annotation in load_rttm(tmp_path / "a.rttm").items():
        (row,) = (row for row in rows if row["id"] == name)
        tracks = [
            (x.start, x.end, label) for x, _, label in annotation.itertracks(yield_label=True)
        ]
        wanted = [(x["start"], x["end"], x["label"]) for x in row["segments"]]
        assert [x[2] for x in tracks] == [x[2] for x in wanted]
        np.testing.assert_allclose([x[:2] for x in tracks], [x[:2] for x in wanted], rtol=1e-12)


def test_the_diarization_error_rate():
    gold = [segments(("a", 0, 10), ("b", 10, 20)), segments(("a", 0, 5))]
    names = [segments(("x", 0, 10), ("y", 10, 20)), segments(("z", 0, 5))]
    assert set(diarization_error_rate(names, gold).values()) == {0.0}
    # 2 s of b under the name of a, 1 s of b missed, 3 s where nobody speaks: of 25 s
    found = [segments(("a", 0, 12), ("b", 12, 19)), segments(("a", 0, 8))]
    rates = diarization_error_rate(found, gold)
    assert rates == pytest.approx(
        {
            "diarization_error_rate": 6 / 25,
            "missed_detection": 1 / 25,
            "false_alarm": 3 / 25,
            "confusion": 2 / 25,
        }
    )
    # without 0.5 s on either side of the boundaries at 0, 10, 20, and 0, 5
    kept = 25 - 0.5 - 1 - 0.5 - 0.5 - 0.5
    rates = diarization_error_rate(found, gold, collar=1.0)
    assert rates["diarization_error_rate"] == pytest.approx((1.5 + 0.5 + 2.5) / kept)
    for nothing in ([], [[]]):
        with pytest.raises(ValueError, match="expected true segments outside the collars"):
            diarization_error_rate(nothing, nothing)
    with pytest.raises(ValueError, match="expected segments of 2 recordings, got 1"):
        diarization_error_rate(found[:1], gold)


@pytest.mark.parametrize("tolerance", [0.0, 0.05, 0.5])
def test_boundaries_beside_mir_eval(tolerance):
    random = np.random.default_rng(1)
    for _ in range(50):
        # segments without gaps, which are what mir_eval scores
        sides = []
        for count in random.integers(1, 30, 2):
            inner = random.choice(np.arange(1, 1000), count, replace=False)
            times = [0.0, *(np.sort(inner) / 100).tolist(), 10.0]
            sides.append(segments(*[("a", x, y) for x, y in zip(times, times[1:], strict=False)]))
        found, gold = sides
        scores = timed_scores([found], [gold], tolerance=tolerance)
        intervals = [np.array([[x["start"], x["end"]] for x in side]) for side in (gold, found)]
        # mir_eval rounds distances no further than its floats
        wanted = mir_eval.segment.detection(*intervals, window=tolerance + 1e-9)
        names = ("precision", "recall", "f1")
        found_scores = [scores[f"boundary_{name}"] for name in names]
        np.testing.assert_allclose(found_scores, wanted, atol=1e-12)
