"""Segments in RTTM and BED: what is written comes back, and damage is refused by its line."""

from __future__ import annotations

import gzip
import sys

import numpy as np
import pytest

from hf_semicrf.data import frame_labels, read_segments, write_segments


def segments(*rows):
    return [
        dict(zip(("label", "start", "end", "score", "strand"), row, strict=False)) for row in rows
    ]


# neighbours, one inside another, times that floats hold badly, unicode, a row out of order
TURNS = [
    {"id": "a", "segments": segments(("b", 0.3, 0.7), ("ünü", 0.1, 0.3, 0.25), ("c", 0.2, 10 / 3))},
    {"id": "日本", "channel": "2", "segments": segments(("b", 0.1 + 0.2, 1e-5 + 1.1), ("b", 7, 7))},
]
GENES = [
    {"id": "chr1", "segments": segments(("g", 9, 12), ("x y", 0, 9, 0.25, "-"), ("g", 3, 10**9))},
    {"id": "chr 2", "segments": segments(("ünü", 5, 6, 1.0, "+"), ("h", 6, 6))},
]


def in_order(rows, **more):
    return [
        {**more, **row, "segments": sorted(row["segments"], key=lambda x: (x["start"], x["end"]))}
        for row in rows
    ]


def test_rttm_comes_back_as_it_was(tmp_path):
    path = tmp_path / "a.rttm"
    write_segments(TURNS, path)
    assert read_segments(path) == in_order(TURNS, channel="1")
    assert path.read_text("utf-8").splitlines()[:2] == [
        "SPEAKER a 1 0.1 0.2 <NA> <NA> ünü 0.25 <NA>",
        "SPEAKER a 1 0.2 3.1333333333333335 <NA> <NA> c <NA> <NA>",  # decimals, so that ends stay
    ]
    assert [x.name for x in tmp_path.iterdir()] == ["a.rttm"]


def test_bed_comes_back_as_it_was(tmp_path):
    path = tmp_path / "a.BED"
    write_segments(GENES, path)
    assert read_segments(path) == in_order(GENES)
    assert path.read_text("utf-8").splitlines()[0] == "chr1\t0\t9\tx y\t250\t-"
    with gzip.open(tmp_path / "a.bed.gz", "wb") as file:
        file.write(path.read_bytes())
    assert read_segments(tmp_path / "a.bed.gz") == in_order(GENES)


@pytest.mark.parametrize("name", ["a.rttm", "a.bed"])
def test_nothing_is_written_and_read(name, tmp_path):
    write_segments([], tmp_path / name)
    assert read_segments(tmp_path / name) == []


@pytest.mark.parametrize(("name", "rows"), [("a.rttm", TURNS), ("a.bed", GENES)])
def test_thousands_of_segments_come_back(name, rows, tmp_path):
    random = np.random.default_rng(0)
    ends = np.cumsum(random.integers(1, 500, 4000))
    scale = 0.01 if name == "a.rttm" else 1
    times = [float(x) * scale if scale < 1 else int(x) for x in [0, *ends]]
    found = segments(
        *[(f"t{n % 3}", a, b) for n, (a, b) in enumerate(zip(times[:-1], times[1:], strict=True))]
    )
    write_segments(
        [{"id": "x", "segments": [found[n] for n in random.permutation(4000)]}], tmp_path / name
    )
    (row,) = read_segments(tmp_path / name)
    assert row["segments"] == found


def test_files_of_others_are_read(tmp_path):
    (tmp_path / "a.rttm").write_text(
        ";; a comment\nSPKR-INFO a 1 <NA> <NA> <NA> unknown x <NA>\n"
        "SPEAKER   a  1  1.000  0.500 <NA> <NA> x <NA>\n\n"
    )
    with pytest.warns(
        UserWarning, match="1 lines without SPEAKER left out: .*, line 2: 'SPKR-INFO'"
    ):
        (row,) = read_segments(tmp_path / "a.rttm")
    assert row == {"id": "a", "channel": "1", "segments": segments(("x", 1.0, 1.5))}
    (tmp_path / "a.bed").write_text(
        "browser position chr7\ntrack name=x\n#note\nchr7 5 9\nchr7\t1\t5\t\t0\t.\t1\t5\t0,0,0\r\n"
    )
    (row,) = read_segments(tmp_path / "a.bed")
    assert row == {"id": "chr7", "segments": segments((".", 1, 5, 0.0), (".", 5, 9))}
    assert frame_labels(row["segments"], ["O", "."], 1.0, 10).tolist()[1:6] == [3, 2, 2, 2, 3]


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("a.rttm", "SPEAKER a 1 0.5 x <NA> <NA> b <NA> <NA>", "expected seconds, got 'x'"),
        ("a.rttm", "SPEAKER a 1 nan 1 <NA> <NA> b <NA> <NA>", "expected seconds, got 'nan'"),
        ("a.rttm", "SPEAKER a 1 0.5 1e999999 <NA> <NA> b <NA> <NA>", "got '1e999999'"),
        ("a.rttm", "SPEAKER a 1 0.5 -1 <NA> <NA> b <NA> <NA>", "expected 0 <= start <= end"),
        ("a.rttm", "SPEAKER a 1 -0.5 1 <NA> <NA> b <NA> <NA>", "expected 0 <= start <= end"),
        ("a.rttm", "SPEAKER a 1 0.5 1 <NA> <NA> b", "expected 9 or 10 columns, got 8"),
        (
            "a.rttm",
            "SPEAKER a 1 0.5 1 <NA> <NA> b high <NA>",
            "expected a score or <NA>, got 'high'",
        ),
        ("a.rttm", "SPEAKER a 1 0.5 1 <NA> <NA> \xfc <NA> <NA>", "the byte 0xFC at character 29"),
        ("a.bed", "chr1\t5", "expected at least 3 columns, got 2"),
        ("a.bed", "chr1\t5\t1.5", "expected a whole number, got '1.5'"),
        ("a.bed", "chr1\t5\t-7", "expected a whole number, got '-7'"),
        ("a.bed", "chr1\t5\t4", "expected 0 <= start <= end, got 5 and 4"),
        ("a.bed", "chr1\t5\t6\tx\ty", "expected a score or ., got 'y'"),
        ("a.bed", "chr1\t5\t6\tx\t1\t0", "expected \\+, - or . as strand, got '0'"),
    ],
)
def test_damage_is_refused_by_its_line(name, line, message, tmp_path):
    good = {"a.rttm": "SPEAKER a 1 0 1 <NA> <NA> b <NA> <NA>", "a.bed": "chr1\t0\t1"}[name]
    (tmp_path / name).write_bytes(f"{good}\n{line}\n{good}\n".encode("latin-1"))
    with pytest.raises(ValueError, match=f"{name}, line 2: .*{message}"):
        read_segments(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("a.rttm", ("b c", 0, 1), "expected a label without white space, got .*'b c'"),
        ("a.rttm", ("b", 1, 0.5), "expected 0 <= start <= end"),
        ("a.rttm", ("b", 0, float("nan")), "expected 0 <= start <= end"),
        ("a.rttm", ("b", 0, 1, float("nan")), "a finite score"),
        ("a.rttm", (" ", 0, 1), "a label that is not empty"),
        ("a.rttm", (1, 0, 1), "a label that is not empty"),
        ("a.bed", ("b\tc", 0, 1), "expected a label without tabs"),
        ("a.bed", ("b\udc80", 0, 1), "expected a label of characters"),
        ("a.bed", ("b", 0, 1.5), "expected bases as whole numbers"),
        ("a.bed", ("b", 0, 1, 1.0, "plus"), r"\+ or - as strand"),
    ],
)
def test_what_a_format_cannot_hold_is_refused_and_the_old_file_stays(name, row, message, tmp_path):
    (tmp_path / name).write_text("old")
    with pytest.raises(ValueError, match=message):
        write_segments([{"id": "a", "segments": segments(("x", 0, 1), row)}], tmp_path / name)
    for wrong in (None, "", "a\tb"):
        with pytest.raises(ValueError, match="expected rows with an id "):
            write_segments([{"id": wrong, "segments": []}], tmp_path / name)
    assert (tmp_path / name).read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_other_endings_and_comments_for_an_id_are_refused(tmp_path):
    for act in (read_segments, lambda path: write_segments([], path)):
        with pytest.raises(ValueError, match=r"ends in .TextGrid, .rttm, .* got 'a.txt'"):
            act(tmp_path / "a.txt")
    with pytest.raises(ValueError, match="got 'a.bed.gz'"):
        write_segments([], tmp_path / "a.bed.gz")
    for wrong in ("#a", "track x", "browser"):
        with pytest.raises(ValueError, match="an id that begins no comment"):
            write_segments([{"id": wrong, "segments": []}], tmp_path / "a.bed")
    with pytest.raises(ValueError, match="a channel without white space"):
        write_segments([{"id": "a", "channel": "1 2", "segments": []}], tmp_path / "a.rttm")
    with pytest.raises(FileNotFoundError):
        read_segments(tmp_path / "a.bed")


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [("a.TextGrid", "praatio", "audio"), ("a.gff3", "gffutils", "genes")],
)
def test_a_missing_library_is_named_with_its_extra(name, package, extra, tmp_path, monkeypatch):
    for module in [package, *(x for x in sys.modules if x.startswith(f"{package}."))]:
        monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / name).write_text("old")
    for act in (read_segments, lambda path: write_segments([], path)):
        with pytest.raises(RuntimeError, match=rf"{package}, .* 'hf_semicrf\[{extra}\]'"):
            act(tmp_path / name)
    assert (tmp_path / name).read_text() == "old"
