"""Lines and bytes of files: compressed or not, with any line ends."""

from __future__ import annotations

import codecs
import gzip
import io
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

LINE_END = re.compile(r"\r\n|\r|\n")
_NOT_DECODED = re.compile("[\0\udc80-\udcff]")
_BROKEN_GZIP = (EOFError, zlib.error, gzip.BadGzipFile)


class NotText(ValueError):
    """A line is no text.

    Args:
        line: Its number, counted from 1.
        reason: What was expected and what came.
    """

    def __init__(self, line: int, reason: str):
        super().__init__(f"line {line}: {reason}")
        self.line = line
        self.reason = reason


def suffix_of(path: Path) -> str:
    """The part of a name that tells the format: ".jsonl" of "train.jsonl.gz"."""
    return Path(path.name.removesuffix(".gz")).suffix.lower()


def read_bytes(path: Path) -> bytes:
    """All bytes of a file, uncompressed.

    Raises:
        ValueError: The compressed file is cut short or broken.
    """
    try:
        with _opened(path) as file:
            return file.read()
    except _BROKEN_GZIP as error:
        raise ValueError(f"{path}: the compressed file is damaged ({error})") from None


def read_text(path: Path, encoding: str) -> str:
    """All of a text file with its line ends as they are, and a byte order mark of UTF-8.

    Args:
        path: As `read_lines` takes it.
        encoding: The same.

    Raises:
        NotText: A line is no text in the encoding.
        ValueError: The compressed file is broken, or there is no such encoding.
    """
    content = read_bytes(path)
    chosen = _encoding_of(io.BytesIO(content), encoding)
    try:
        text = content.decode("utf-8" if chosen == "utf-8-sig" else chosen, _errors(chosen))
    except UnicodeDecodeError as error:
        before = content[: error.start].decode(chosen, "ignore")
        raise NotText(before.count("\n") + 1, f"expected text in {encoding}, got {error}") from None
    except LookupError:
        raise ValueError(f"{path}: expected the name of an encoding, got {encoding!r}") from None
    for number, line in enumerate(LINE_END.split(text), start=1):
        if reason := undecoded(line):
            raise NotText(number, reason)
    return text


def read_lines(path: Path, encoding: str = "utf-8") -> Iterator[tuple[int, str]]:
    r"""Read the lines of a text file one by one; they end in \n, \r\n or \r.

    Bytes that are no text stay in their line as surrogates; `undecoded` finds them.

    Args:
        path: The file; compressed where its name ends in .gz.
        encoding: Its encoding; UTF-16 and UTF-32 are seen from the byte order mark.

    Yields:
        The number of each line, counted from 1, and the line without its end.

    Raises:
        ValueError: The compressed file is cut short or broken.
    """
    number = 0
    try:
        with _opened(path) as file:
            chosen = _encoding_of(file, encoding)
            with io.TextIOWrapper(file, chosen, errors=_errors(chosen)) as text:
                for number, line in enumerate(text, start=1):
                    yield number, line.removesuffix("\n")
    except _BROKEN_GZIP as error:
        raise ValueError(
            f"{path}, line {number + 1}: the compressed file is damaged ({error})"
        ) from None
    except UnicodeError as error:
        raise ValueError(
            f"{path}, line {number + 1}: expected text in {encoding}, got {error}"
        ) from None


def undecoded(line: str) -> str | None:
    """Why a line is no text in the file's encoding; None if it is."""
    byte = None if line.isascii() and "\0" not in line else _NOT_DECODED.search(line)
    if byte is None:
        return None
    code, other = ord(byte[0]) & 0xFF, "'latin-1'" if ord(byte[0]) else "'utf-16-le'"
    return (
        f"expected text in the file's encoding, got the byte 0x{code:02X} at character "
        f"{byte.start() + 1}; pass encoding=..., such as {other}"
    )


def _opened(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def _encoding_of(file: BinaryIO, encoding: str) -> str:
    """The encoding to read with: what the byte order mark says, else the one that was named."""
    mark = file.read(4)
    file.seek(0)
    if mark in (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE):
        return "utf-32"
    if mark[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return "utf-16"
    return "utf-8-sig" if encoding.lower().replace("_", "-") in ("utf-8", "utf8") else encoding


def _errors(encoding: str) -> str:
    return "surrogateescape" if encoding == "utf-8-sig" else "strict"
