"""Segments as the files of other fields hold them: TextGrid, RTTM, GFF3 and BED.

praatio reads and writes TextGrids, gffutils the attributes of GFF3. RTTM and BED are columns and
are read here: the libraries that know them drop lines, round times or name no line of damage.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

from hf_semicrf.data.files import NotText, read_lines, read_text, suffix_of, undecoded
from hf_semicrf.data.records import short
from hf_semicrf.saving import replacing

Rows = list[dict[str, Any]]

_UNWRITABLE = re.compile("[\0\ud800-\udfff]")
# the head of a tier in Praat's long and short form, its number of entries last; that of tiers
_TIER = re.compile(
    r'"(?:IntervalTier|TextTier)"\s+(?:name ?= ?)?"(?:[^"]|"")*"\s+(?:xmin ?= ?)?[-+.\de]+\s+'
    r"(?:xmax ?= ?)?[-+.\de]+\s+(?:(?:intervals|points): ?size ?= ?)?(\d+)"
)
_TIERS = re.compile(r"<exists>\s+(?:size ?= ?)?(\d+)")
_NEGATIVE = re.compile(r"^\s*(?:xmin|xmax|number) ?= ?-[\d.]*[1-9]", re.M)


def read_segments(path: str | Path) -> Rows:
    """Read the segments of a file, whose ending tells the format.

    Args:
        path: A .TextGrid, .rttm, .gff3 (or .gff) or .bed file. The last three may be compressed and
            end in .gz.

    Returns:
        A row for each recording or sequence: "id", "segments" and, where the file says where it
        ends, "length". Segments are in their order: "label", "start", "end" and, where the file has
        them, "score" and "strand" ("+" or "-").

        - TextGrid, in seconds: a row for each "tier". Empty intervals are no segments; a point is a
          segment that ends where it starts.
        - RTTM, in seconds: a row for each file and "channel".
        - GFF3, in bases from 0, half-open. The label is the type of the feature; "source", "phase"
          and "attributes" (lists of strings by name) are there where the file has them.
        - BED, in the same bases. The label is the name, or "." where there is none; scores are
          divided by 1000. Columns after the strand are not read.

    Raises:
        FileNotFoundError: There is no such file.
        RuntimeError: The library that reads the format is not installed.
        ValueError: The ending is another one, or something is damaged; the message names the file
            and the line, of a TextGrid the file.
    """
    path = Path(path)
    rows = _format(suffix_of(path), path).read(path)
    for row in rows:
        row["segments"].sort(key=_place)
    return rows


def write_segments(rows: Iterable[Mapping[str, Any]], path: str | Path) -> None:
    """Write segments to a file, whose ending tells the format.

    Args:
        rows: As `read_segments` returns them; "id" and "segments" are enough, each segment with
            "label", "start" and "end". TextGrids have no scores and BED has them in thousandths. A
            row without segments leaves no line in RTTM and BED, and in GFF3 where it has no length.
        path: The file, not compressed, in a folder that exists. It is replaced as a whole.

    Raises:
        RuntimeError: The library that writes the format is not installed.
        ValueError: The ending is another one, or the format can't hold a row; nothing is written.
    """
    path = Path(path)
    write = _format(path.suffix.lower(), path).write
    checked: Rows = []
    for row in rows:
        segments = sorted(row["segments"], key=_place)
        if not 0 <= row.get("length", 0) < math.inf:
            raise ValueError(f"expected a length of at least 0, got {row['length']}")
        for x in segments:
            if not isinstance(x["label"], str) or not x["label"].strip():
                raise _refused("a label that is not empty", x)
            if _UNWRITABLE.search(x["label"]) or not math.isfinite(x.get("score", 0)):
                raise _refused("a label of characters and a finite score", x)
            if not 0 <= x["start"] <= x["end"] < math.inf:
                raise _refused("0 <= start <= end", x)
        checked.append({**row, "segments": segments})
    with replacing(path) as unfinished:
        write(checked, unfinished)


def _place(segment: Mapping[str, Any]) -> tuple[Any, Any]:
    return segment["start"], segment["end"]


def _refused(wanted: str, segment: Mapping[str, Any]) -> ValueError:
    return ValueError(f"expected {wanted}, got {short(dict(segment))}")


def _library(name: str, extra: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        package = name.split(".")[0]
        raise RuntimeError(
            f"expected the package {package}, not installed: pip install 'hf_semicrf[{extra}]'"
        ) from None


# TextGrid


def _read_text_grid(path: Path) -> Rows:
    library = _library("praatio.textgrid", "audio")
    try:
        text = read_text(path, "utf-8")
    except NotText as error:
        raise ValueError(f"{path}, {error}") from None
    try:
        grid = library.openTextgrid(str(path), True, "silence", "error")
    except Exception as error:  # praatio's own, of numbers, of indexing
        reason = " ".join([f"{type(error).__name__}:", *str(error).split()])
        raise ValueError(f"{path}: expected a TextGrid of Praat ({reason})") from None
    # praatio takes a file that was cut for a shorter one, and loses the sign of times
    declared = [int(n) for n in _TIER.findall(text)]
    found = [len(tier.entries) for tier in grid.tiers]
    if found != declared or not (count := _TIERS.search(text)) or int(count[1]) != len(found):
        raise ValueError(f"{path}: expected tiers of as many entries as they say, got {found}")
    if negative := _NEGATIVE.search(text):
        raise ValueError(f"{path}: expected times of at least 0, got {negative[0].strip()}")
    return [
        {
            "id": path.stem,
            "tier": tier.name,
            "length": float(grid.maxTimestamp),
            "segments": [
                {"label": entry[-1], "start": entry[0], "end": entry[-2]}
                for entry in tier.entries
                if entry[-1]
            ],
        }
        for tier in grid.tiers
    ]


def _write_text_grid(rows: Rows, path: Path) -> None:
    library = _library("praatio.textgrid", "audio")
    names = sorted({str(row.get("id")) for row in rows})
    if len(names) != 1:
        raise ValueError(f"expected rows of one recording for a TextGrid, got {names}")
    ends = [x["end"] for row in rows for x in row["segments"]]
    length = float(max([*ends, *(row.get("length", 0) for row in rows)]))
    grid = library.Textgrid(0.0, length)
    for row in rows:
        tier, segments = row.get("tier", "segments"), row["segments"]
        if tier in grid.tierNames:
            raise ValueError(f"expected tiers of different names, got {tier!r} twice")
        for x, y in zip(segments, segments[1:], strict=False):
            if y["start"] < x["end"]:
                raise _refused(f"segments of a tier that do not overlap {short(dict(x))}", y)
        points = [x["start"] == x["end"] for x in segments]
        if any(points) and not all(points):
            raise _refused("points in a tier of their own", segments[points.index(True)])
        if any(points):
            marks = [(x["start"], x["label"]) for x in segments]
            grid.addTier(library.PointTier(tier, marks, 0.0, length))
        else:
            entries = [(x["start"], x["end"], x["label"]) for x in segments]
            grid.addTier(library.IntervalTier(tier, entries, 0.0, length))
    grid.save(str(path), "long_textgrid", True, minimumIntervalLength=None)
    # praatio can't read labels like lines of the format, white space around them, and 1e-05 s
    try:
        again = _read_text_grid(path)
    except ValueError as error:
        reason = str(error).replace(str(path), "what was written")
        raise ValueError(f"expected labels and times that praatio can read: {reason}") from None
    for row, written in zip(rows, again, strict=True):
        for x, y in zip(row["segments"], written["segments"], strict=True):
            same = all(math.isclose(x[side], y[side], rel_tol=1e-12) for side in ("start", "end"))
            if x["label"] != y["label"] or not same:
                raise _refused(f"a segment that praatio reads as it was, not as {y}", x)


# lines of columns


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """The place and the text of each line that is not empty."""
    for number, line in read_lines(path):
        place = f"{path}, line {number}"
        if reason := undecoded(line):
            raise ValueError(f"{place}: {reason}")
        if line.strip():
            yield place, line


def _number(cell: str, place: str, wanted: str = "a number") -> Decimal:
    try:
        found = Decimal(cell)
    except InvalidOperation:
        found = Decimal("nan")
    if not found.is_finite() or found.adjusted() > 14:  # floats lose digits
        raise ValueError(f"{place}: expected {wanted}, got {short(cell)}")
    return found


def _whole(cell: str, place: str) -> int:
    if not re.fullmatch("[0-9]{1,15}", cell):
        raise ValueError(f"{place}: expected a whole number, got {short(cell)}")
    return int(cell)


def _span(start: Any, end: Any, place: str) -> dict[str, Any]:
    if not 0 <= start <= end:
        raise ValueError(f"{place}: expected 0 <= start <= end, got {start} and {end}")
    return {"start": start, "end": end}


def _score(cell: str, none: str, place: str) -> dict[str, Any]:
    return {} if cell == none else {"score": float(_number(cell, place, f"a score or {none}"))}


def _strand(cell: str, place: str) -> dict[str, Any]:
    if cell not in ("+", "-", ".", "?"):
        raise ValueError(f"{place}: expected +, - or . as strand, got {short(cell)}")
    return {"strand": cell} if cell in "+-" else {}


def _columns(row: Mapping[str, Any], fits: Callable[[str], bool], wanted: str) -> str:
    """The id of a row, for a format whose columns hold what fits."""
    name = row.get("id")
    if not isinstance(name, str) or _UNWRITABLE.search(name) or not fits(name):
        raise ValueError(f"expected rows with an id {wanted}, got {name!r}")
    for x in row["segments"]:
        if not fits(x["label"]):
            raise _refused(f"a label {wanted}", x)
    return name


def _bases(segment: Mapping[str, Any]) -> tuple[int, int, str]:
    """Start, end and strand of a segment of bases."""
    start, end, strand = segment["start"], segment["end"], segment.get("strand", ".")
    if start != int(start) or end != int(end) or strand not in ("+", "-", "."):
        raise _refused("bases as whole numbers, and + or - as strand", segment)
    return int(start), int(end), strand


def _read_rttm(path: Path) -> Rows:
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    others = []
    for place, line in _lines(path):
        cells = line.split()
        if cells[0].startswith(";"):
            continue
        if cells[0] != "SPEAKER":
            others.append(f"{place}: {short(cells[0])}")
            continue
        if len(cells) not in (9, 10):
            raise ValueError(f"{place}: expected 9 or 10 columns, got {len(cells)}")
        name, channel, begin, duration, label, score = (cells[n] for n in (1, 2, 3, 4, 7, 8))
        start, length = (_number(cell, place, "seconds") for cell in (begin, duration))
        segment = {"label": label, **_span(float(start), float(start + length), place)}
        row = rows.setdefault((name, channel), {"id": name, "channel": channel, "segments": []})
        row["segments"].append(segment | _score(score, "<NA>", place))
    if others:
        said = f"{len(others):,} lines without SPEAKER left out: {others[0]}"
        warnings.warn(said, stacklevel=3)
    return list(rows.values())


def _write_rttm(rows: Rows, path: Path) -> None:
    lines = []
    for row in rows:
        name = _columns(row, lambda x: x.split() == [x], "without white space")
        channel = str(row.get("channel", 1))
        if channel.split() != [channel]:
            raise ValueError(f"expected a channel without white space, got {channel!r}")
        for x in row["segments"]:
            start, end = (Decimal(repr(float(x[side]))) for side in ("start", "end"))
            cells = ("SPEAKER", name, channel, f"{start:f}", f"{end - start:f}")
            score = float(x["score"]) if "score" in x else "<NA>"
            lines.append(f"{' '.join(cells)} <NA> <NA> {x['label']} {score} <NA>\n")
    _write_lines(lines, path)


def _read_bed(path: Path) -> Rows:
    rows: dict[str, dict[str, Any]] = {}
    for place, line in _lines(path):
        if line.startswith("#") or line.split()[0] in ("track", "browser"):
            continue
        cells = line.split("\t") if "\t" in line else line.split()
        if len(cells) < 3:
            raise ValueError(f"{place}: expected at least 3 columns, got {len(cells)}")
        name, begin, stop, label, score, strand = [*cells, ".", ".", "."][:6]
        span = _span(_whole(begin, place), _whole(stop, place), place)
        segment = {"label": label or ".", **span}
        segment |= {**_score(score, ".", place), **_strand(strand, place)}
        if "score" in segment:
            segment["score"] /= 1000
        rows.setdefault(name, {"id": name, "segments": []})["segments"].append(segment)
    return list(rows.values())


def _write_bed(rows: Rows, path: Path) -> None:
    lines = []
    for row in rows:
        name = _columns(row, lambda x: not re.search(r"[\t\n\r]", x), "without tabs")
        if name.startswith("#") or name.split()[:1] in ([], ["track"], ["browser"]):
            raise ValueError(f"expected rows with an id that begins no comment, got {name!r}")
        for x in row["segments"]:
            start, end, strand = _bases(x)
            score = round(1000 * x["score"]) if "score" in x else "."
            lines.append(f"{name}\t{start}\t{end}\t{x['label']}\t{score}\t{strand}\n")
    _write_lines(lines, path)


def _read_gff(path: Path) -> Rows:
    parse = _library("gffutils.feature", "genes").feature_from_line
    dialect = _library("gffutils.constants", "genes").dialect
    rows: dict[str, dict[str, Any]] = {}
    for place, line in _lines(path):
        if line.startswith(("##FASTA", ">")):
            break
        cells = line.split() if line.startswith("#") else line.split("\t")
        if cells[0] == "##gff-version" and cells[1:] and cells[1].split(".")[0] != "3":
            raise ValueError(f"{place}: expected GFF version 3, got {short(cells[1])}")
        if cells[0] == "##sequence-region":
            if len(cells) != 4:
                raise ValueError(f"{place}: expected a sequence, its start and its end")
            name = unquote(cells[1])
            row = rows.setdefault(name, {"id": name, "segments": []})
            row["length"] = _whole(cells[3], place)
        if line.startswith("#"):
            continue
        if len(cells) != 9:
            raise ValueError(f"{place}: expected 9 columns with tabs between, got {len(cells)}")
        name, source, label, begin, stop, score, strand, phase, _ = map(unquote, cells)
        span = _span(_whole(begin, place) - 1, _whole(stop, place), place)
        segment = {"label": label, **span, **_score(score, ".", place), **_strand(strand, place)}
        attributes = parse(line, dialect).attributes if cells[8] != "." else {}
        others = {"source": source, "phase": phase, "attributes": dict(attributes.items())}
        segment |= {key: value for key, value in others.items() if value not in (".", {})}
        rows.setdefault(name, {"id": name, "segments": []})["segments"].append(segment)
    return list(rows.values())


def _write_gff(rows: Rows, path: Path) -> None:
    feature = _library("gffutils.feature", "genes").Feature
    lines = ["##gff-version 3\n"]
    for row in rows:
        name = quote(_columns(row, bool, "that is not empty"), safe=".:^*$@!+?|")
        if "length" in row:
            lines.append(
                f"##sequence-region {name} 1 {_bases({'start': 0, 'end': row['length']})[1]}\n"
            )
        for x in row["segments"]:
            start, end, strand = _bases(x)
            if start == end:
                raise _refused("segments of at least one base for GFF3", x)
            source, label, phase = (_escaped(x.get(k, ".")) for k in ("source", "label", "phase"))
            score = str(float(x["score"])) if "score" in x else "."
            cells = (name, source, label, start + 1, end, score, strand, phase)
            lines.append(f"{feature(*cells, x.get('attributes') or {'.': []})}\n")
    _write_lines(lines, path)


def _escaped(cell: str) -> str:
    """A column of GFF3: control characters and % as %XX."""
    return re.sub(r"[\x00-\x1f%\x7f]", lambda match: f"%{ord(match[0]):02X}", cell)


def _write_lines(lines: Sequence[str], path: Path) -> None:
    path.write_text("".join(lines), encoding="utf-8", newline="\n")


class _Format(NamedTuple):
    read: Callable[[Path], Rows]
    write: Callable[[Rows, Path], None]


_GFF = _Format(_read_gff, _write_gff)
_FORMATS = {
    ".textgrid": _Format(_read_text_grid, _write_text_grid),
    ".rttm": _Format(_read_rttm, _write_rttm),
    ".gff3": _GFF,
    ".gff": _GFF,
    ".bed": _Format(_read_bed, _write_bed),
}


def _format(suffix: str, path: Path) -> _Format:
    if suffix not in _FORMATS:
        endings = ".TextGrid, .rttm, .gff3, .gff or .bed"
        raise ValueError(f"expected a file name that ends in {endings}, got {path.name!r}")
    return _FORMATS[suffix]
