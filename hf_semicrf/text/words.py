"""Split raw text into words: the positions of the lattice, with their places in the text.

A splitter is part of a model: what it was trained on it has to be given. Some splitters have names,
a pattern makes another, and so does a function.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from operator import index

Span = tuple[int, int]
Function = Callable[[str], Iterable[Span]]

NAMES = ("unicode", "hyphens", "punctuation", "web", "spaces", "simple")
DEFAULT = "unicode"
BEFORE_SPLITTERS = "simple"  # of models that were saved before splitters had names
PATTERN = "pattern:"
FUNCTION = "function"
# the splitters under which a list of words is tokenised as people write it: see `attached`
AS_WRITTEN = ("unicode", "hyphens", "punctuation", "web")

# Letters of scripts that are written without spaces, from Unicode's Scripts.txt
_WITHOUT_SPACES = (
    "\u0e00-\u0e7f"  # Thai
    "\u0e80-\u0eff"  # Lao
    "\u1000-\u109f\ua9e0-\ua9ff\uaa60-\uaa7f"  # Burmese
    "\u1780-\u17ff"  # Khmer
    "\u2e80-\u2fdf\u3005\u3007\u3021-\u3029\u3038-\u303b\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff"  # Han
    "\u3041-\u3096\u309d-\u309f"  # Hiragana
    "\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f\U0001aff0-\U0001b16f"  # Katakana
)
_GRAPHEME_ENDS = "\u0e33\u0eb3"  # vowels of Thai and Lao that no word begins with
# bounded where it would otherwise be tried from each character of a long run
_ADDRESS = (
    r"(?:https?://|www\.)[^\s<>\"]*[^\s<>\"'.,;:!?)\]}]|[^\W_][\w.+-]{0,63}@[^\W_]+(?:[.-][^\W_]+)+"
)
_JOINERS = "\u00ad\u200c\u200d"  # soft hyphen, ZWNJ, ZWJ
_ZWJ = "\u200d"


@dataclass(frozen=True)
class Splitter:
    r"""How raw text is cut into words.

    Args:
        name: What a configuration stores:

            - "unicode": runs of letters and digits, also with inner hyphens, or one mark. Combining
              marks, joiners and soft hyphens stay in their word. Scripts that are written without
              spaces are cut into graphemes.
            - "hyphens": the same, cut at hyphens too.
            - "punctuation": the same, cut at hyphens and at underscores.
            - "web": as "punctuation", but web and mail addresses are words.
            - "spaces": whatever stands between spaces.
            - "simple": letters and digits as Python's ``\w`` has them, without a word on marks.
            - "pattern:..." with a regular expression after the colon: each match is a word. It is
              matched by RE2, in time linear in the text.
            - "function": a function, which is not stored.
        function: From a text to the (first character, character after the last) of each word.
    """

    name: str = DEFAULT
    function: Function | None = None

    def __post_init__(self) -> None:
        """Refuse unknown names and broken patterns."""
        if (self.name == FUNCTION) != (self.function is not None):
            raise ValueError(
                "expected the function that splits text into words, which is not saved with the "
                "model: pass splitter=..., a function from a text to (start, end) pairs"
            )
        if self.name.startswith(PATTERN):
            _re2_spans(self.name.removeprefix(PATTERN), "")
        elif self.name not in (*NAMES, FUNCTION):
            raise ValueError(
                f"expected a splitter among {', '.join(NAMES)} or {PATTERN!r} and a regular "
                f"expression, got {self.name!r}"
            )

    @classmethod
    def of(cls, splitter: str | Function | Splitter | None) -> Splitter:
        """A splitter from its name, from a function, or the default.

        Raises:
            ValueError: The name is unknown, or the pattern is no regular expression of RE2.
            TypeError: It is none of these.
        """
        if splitter is None:
            return cls()
        if isinstance(splitter, Splitter):
            return splitter
        if isinstance(splitter, str):
            return cls(splitter)
        if callable(splitter):
            return cls(FUNCTION, splitter)
        raise TypeError(
            "expected a splitter's name, a pattern or a function, got "
            f"{type(splitter).__name__} {splitter!r:.60}"
        )

    def spans(self, text: str) -> list[Span]:
        """Where each word begins and ends, in characters, half-open and in order.

        Raises:
            ValueError: The function gave spans that are empty, overlap or leave the text.
        """
        if self.function is not None:
            return _checked(self.function(text), text)
        if self.name.startswith(PATTERN):
            return _re2_spans(self.name.removeprefix(PATTERN), text)
        return [match.span() for match in self._compiled(text).finditer(text)]

    @property
    def is_named(self) -> bool:
        """Whether it is one of those with names, whose words leave out nothing but spaces."""
        return self.name in NAMES

    def strings(self, text: str) -> list[str]:
        """The words alone, in half the time: for texts of whose words few places are asked for.

        Raises:
            ValueError: As `spans`.
        """
        if self.is_named:
            return self._compiled(text).findall(text)
        return [text[start:end] for start, end in self.spans(text)]

    def places(self, text: str, words: Iterable[str]) -> list[Span]:
        """As `spans`, of a text whose `strings` are known."""
        if not self.is_named:
            return self.spans(text)
        spans, end, find = [], 0, text.find
        for word in words:  # nothing but spaces stands between two of them
            start = find(word, end)
            end = start + len(word)
            spans.append((start, end))
        return spans

    def _compiled(self, text: str) -> re.Pattern[str]:
        """The regular expression of a named splitter, for a text."""
        pattern = _ASCII_PATTERNS.get(self.name) if text.isascii() else None
        return pattern or _pattern(self.name)

    def words(self, text: str) -> list[tuple[str, int, int]]:
        """(word, first character, character after the last) of each word."""
        return [(text[start:end], start, end) for start, end in self.spans(text)]


def split_words(text: str, splitter: Splitter | None = None) -> list[tuple[str, int, int]]:
    """Split raw text into words, by the default splitter or another.

    Returns:
        (word, first character, character after the last) of each word, half-open.
    """
    return (splitter or Splitter()).words(text)


def is_written_without_spaces(character: str) -> bool:
    """Whether a character belongs to a script that is written without spaces."""
    return _without_spaces().match(character) is not None


def _checked(found: Iterable[Span], text: str) -> list[Span]:
    try:
        spans = [(index(start), index(end)) for start, end in found]
    except (TypeError, ValueError):
        raise ValueError(f"expected (start, end) pairs of words, got {found!r:.80}") from None
    before = 0
    for start, end in spans:
        if not before <= start < end <= len(text):
            raise ValueError(
                f"expected words in order, not empty and inside the text of {len(text)} "
                f"characters, got the span ({start}, {end}) after {before}"
            )
        before = end
    return spans


# what the patterns below come to in ASCII, where they are found in less than half the time
_ASCII_PATTERNS = {
    "unicode": re.compile(r"\w+(?:-\w+)*|\S"),
    "hyphens": re.compile(r"\w+|\S"),
    "punctuation": re.compile(r"[^\W_]+|\S"),
}


@lru_cache
def _pattern(name: str) -> re.Pattern[str]:
    """The regular expression of a named splitter: no groups, and no two parts match the same."""
    if name == "simple":
        return re.compile(r"\w+(?:[-_]\w+)*|\S")
    if name == "spaces":
        return re.compile(r"\S+")
    stays = _marks() + _JOINERS
    underscore = "_" if name in ("punctuation", "web") else ""
    letter = rf"[^\W{_WITHOUT_SPACES}{underscore}]"
    run = rf"{letter}(?:{letter}|[{stays}])*"
    if name == "unicode":
        run += rf"(?:[-_]{run})*"
    grapheme = rf"[{_WITHOUT_SPACES}][{stays}{_GRAPHEME_ENDS}]*"
    # an emoji that a joiner glues together is one word
    mark = rf"[^\s\w][{stays}]*(?:(?<={_ZWJ})[^\s\w{stays}][{stays}]*)*|\S[{stays}]*"
    address = f"{_ADDRESS}|" if name == "web" else ""
    return re.compile(rf"{address}{run}|{grapheme}|{mark}")


@lru_cache
def _without_spaces() -> re.Pattern[str]:
    return re.compile(f"[{_WITHOUT_SPACES}]")


@lru_cache
def _marks() -> str:
    """The combining marks of Unicode, as ranges of a character class."""
    ranges: list[list[int]] = []
    for code in (*range(0x300, 0x20000), *range(0xE0100, 0xE01F0)):
        if unicodedata.category(chr(code))[0] == "M":
            if ranges and ranges[-1][1] == code - 1:
                ranges[-1][1] = code
            else:
                ranges.append([code, code])
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in ranges)


def _re2_spans(pattern: str, text: str) -> list[Span]:
    """The matches of a pattern that are not empty, found by RE2 in linear time."""
    import pyarrow
    from pyarrow.compute import replace_substring_regex

    # two characters that stand for nothing in any text frame the matches
    start, end = "\ufdd0", "\ufdd1"
    plain = text.replace(start, "\ufffd").replace(end, "\ufffd")
    try:
        framed = replace_substring_regex(
            pyarrow.array([plain]), pattern=f"({pattern})", replacement=f"{start}\\1{end}"
        )[0].as_py()
    except pyarrow.ArrowInvalid as error:
        raise ValueError(
            f"expected a regular expression of RE2, got {pattern!r}: {error}"
        ) from None
    spans: list[Span] = []
    at = opened = 0
    for character in framed:
        if character == start:
            opened = at
        elif character == end:
            if opened < at:
                spans.append((opened, at))
        else:
            at += 1
    return spans
