"""Rows of BRAT: a .txt file with the text, beside it an .ann file with the spans."""

from __future__ import annotations

import re
from bisect import bisect_right
from pathlib import Path
from typing import Any

from hf_semicrf.data.files import LINE_END, NotText, read_lines, read_text, undecoded
from hf_semicrf.data.records import Damage, Options, Row, Rows, short

_SPAN = re.compile(r"(T\S*)\t(\S+) (\d+ \d+(?:;\d+ \d+)*)\t(.*)")
_LINE = re.compile(r"[^\r\n]+")


def is_brat(path: Path) -> bool:
    """Whether a path is a folder with .ann files, or one of a pair of .txt and .ann."""
    if path.is_dir():
        return any(path.glob("*.ann"))
    return path.suffix in (".ann", ".txt") and path.with_suffix(".ann").is_file()


def brat_rows(path: Path, options: Options) -> Rows:
    """Read one pair of files, or all pairs of a folder in the order of their names.

    A row is a line of the text; lines that a span goes across are one row.
    """
    notes = sorted(path.glob("*.ann")) if path.is_dir() else [path.with_suffix(".ann")]
    for note in notes:
        try:
            text = read_text(note.with_suffix(".txt"), options.encoding)
        except FileNotFoundError:
            yield Damage(str(note), f"expected {note.with_suffix('.txt').name} beside it")
            continue
        except NotText as error:
            yield Damage(f"{note.with_suffix('.txt')}, line {error.line}", error.reason)
            continue
        yield from _document(note, text, options)


def _document(note: Path, text: str, options: Options) -> Rows:
    """The rows of a pair of files."""
    spans, damaged = _spans(note, text, options)
    yield from damaged
    lines = [match.span() for match in _LINE.finditer(text)]
    starts = [start for start, _ in lines]
    owned: list[list[dict[str, Any]]] = [[] for _ in lines]
    goes_on = [False] * len(lines)  # whether a line belongs to the row of the line before it
    for span in spans:
        first = max(bisect_right(starts, span["start"]) - 1, 0)
        last = max(bisect_right(starts, max(span["end"] - 1, span["start"])) - 1, first)
        if not lines:
            yield Damage(span["place"], f"expected a text in {note.with_suffix('.txt').name}")
            return
        owned[first].append(span)
        goes_on[first + 1 : last + 1] = [True] * (last - first)
    line = 0
    while line < len(lines):
        end = line + 1
        while end < len(lines) and goes_on[end]:
            end += 1
        start, stop = lines[line][0], lines[end - 1][1]
        inside = [span for spans in owned[line:end] for span in spans]
        moved = [s | {"start": s["start"] - start, "end": s["end"] - start} for s in inside]
        number = len(LINE_END.findall(text[:start])) + 1
        fields: dict[str, Any] = {"id": note.stem, options.text_column: text[start:stop]}
        fields |= {"entities": moved} if options.tagged else {}
        yield Row(f"{note.with_suffix('.txt')}, line {number}", fields)
        line = end


def _spans(note: Path, text: str, options: Options) -> tuple[list[dict[str, Any]], list[Damage]]:
    """The spans of an .ann file; its other lines are relations, events and notes."""
    spans: list[dict[str, Any]] = []
    damaged: list[Damage] = []
    for number, line in read_lines(note, options.encoding):
        place = f"{note}, line {number}"
        if not line.startswith("T"):
            reason = undecoded(line)
            if reason or (line.strip() and line[0] not in "REAMN#*"):
                damaged.append(Damage(place, reason or f"expected a note, got {short(line)}"))
            continue
        match = _SPAN.fullmatch(line.rstrip())
        if match is None or undecoded(line):
            wanted = "expected T1, a tab, a type, two numbers, a tab and the text of the span"
            damaged.append(Damage(place, undecoded(line) or f"{wanted}, got {short(line)}"))
            continue
        pieces = [piece.split() for piece in match[3].split(";")]
        if any(len(number) > 12 for piece in pieces for number in piece):
            damaged.append(Damage(place, f"expected smaller numbers, got {short(line)}"))
            continue
        start, end = int(pieces[0][0]), int(pieces[-1][1])
        span = {"start": start, "end": end, "label": match[2], "place": place}
        if len(pieces) > 1:
            span["gaps"] = True
        elif text[start:end].split() != match[4].split():
            got = f"{match[4][:40]!r}; the text has {text[start:end][:40]!r} there"
            damaged.append(Damage(place, f"expected the text of the span, got {got}"))
            continue
        if not start <= end <= len(text):
            damaged.append(Damage(place, f"expected a span inside the text, got {short(line)}"))
            continue
        spans.append(span)
    return spans, damaged
