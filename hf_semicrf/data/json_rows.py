"""Rows of JSON files: one object a line, an array of objects, or objects over several lines."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from hf_semicrf.data.files import read_lines, undecoded
from hf_semicrf.data.records import Damage, Options, Row, Rows, short

_SPACE = re.compile(r"\s*")


def json_rows(path: Path, options: Options) -> Rows:
    """Read a JSON file; the first line tells how its objects are laid out."""
    lines = read_lines(path, options.encoding)
    for number, line in lines:
        if line.strip():
            found = chain([(number, line)], lines)
            whole = line.lstrip().startswith("[") or line.strip() == "{"
            yield from (_objects_of_file if whole else _objects_of_lines)(path, found)
            return


def _objects_of_lines(path: Path, lines: Iterable[tuple[int, str]]) -> Rows:
    """The object of each line that is not empty."""
    for number, line in lines:
        if line.strip():
            place = f"{path}, line {number}"
            reason = undecoded(line)
            if reason:
                yield Damage(place, reason)
                continue
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield Damage(place, f"expected a JSON object ({error})")
                continue
            yield _row(place, value)


def _objects_of_file(path: Path, lines: Iterable[tuple[int, str]]) -> Rows:
    """The objects of an array, or of a sequence; each stands where it begins."""
    collected: list[str] = []
    for number, line in lines:
        reason = undecoded(line)
        if reason:
            yield Damage(f"{path}, line {number}", reason)
            return
        collected += [""] * (number - len(collected) - 1) + [line]
    for number, value in _values("\n".join(collected)):
        place = f"{path}, line {number}"
        yield value._replace(place=place) if isinstance(value, Damage) else _row(place, value)


def _values(text: str) -> Iterator[tuple[int, Any]]:
    """The values of an array or of a sequence, each with its line; damage ends them."""
    decoder = json.JSONDecoder()
    position = _after_space(text, 0)
    in_array = text.startswith("[", position)
    position, counted, number, first = position + in_array, 0, 1, True
    while True:
        position = _after_space(text, position)
        if in_array and not first and text.startswith(",", position):
            position = _after_space(text, position + 1)
        elif in_array and not first and not text.startswith("]", position):
            number += text.count("\n", counted, position)
            after = _here(text, position)
            yield number, Damage("", f"expected ',' or ']' of an array, got {after}")
            return
        number += text.count("\n", counted, position)
        counted = position
        if in_array and text.startswith("]", position):
            if text[position + 1 :].strip():
                after = _here(text, _after_space(text, position + 1))
                yield number, Damage("", f"expected nothing behind the array, got {after}")
            return
        if not in_array and position == len(text):
            return
        try:
            value, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            yield number, Damage("", f"expected a JSON object ({error})")
            return
        yield number, value
        first = False


def _after_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position


def _here(text: str, position: int) -> str:
    return short(text[position : position + 40]) if position < len(text) else "the end of the file"


def _row(place: str, value: Any) -> Row | Damage:
    if isinstance(value, dict):
        return Row(place, value)
    return Damage(place, f"expected a JSON object, got {short(value)}")
