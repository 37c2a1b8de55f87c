"""Put words back together as people write them: where a space stands, and where none does.

The rules are the usual ones of European scripts and of scripts without spaces. They decide how a
list of words is tokenised, and on which text a corpus of words is compared with a splitter.
"""

from __future__ import annotations

from collections.abc import Sequence

from hf_semicrf.text.words import is_written_without_spaces

_WIDE = set("。，、；：！？）】》」』％（【《「『")  # no space stands beside these
_CLOSING = set(".,;:!?%)]}»”’…°′″") | _WIDE
_OPENING = set("([{«“‘„¿¡$£€#@")
_BETWEEN = set("-/‐‑–_\\")  # attached on both sides
_CONTRACTIONS = ("'", "’")  # 's, 'll, n't are written at the word before


def attached(words: Sequence[str]) -> list[bool]:
    """Whether each word follows the one before without a space.

    Closing marks stand at the word before, opening marks at the word after, hyphens and slashes at
    both; quotes open and close in turn; letters of scripts without spaces stand together.

    Args:
        words: The words of a sentence.
    """
    result: list[bool] = []
    joins_next = True  # nothing stands before the first word
    open_quotes: set[str] = set()
    for number, word in enumerate(words):
        before = words[number - 1] if number else ""
        joins = joins_next or not number
        joins_next = False
        if word in ('"', "'") and word in open_quotes:
            open_quotes.discard(word)
            joins = True
        elif word in ('"', "'", "``", "`"):
            if word in ('"', "'"):
                open_quotes.add(word)
            joins_next = True
        elif word == "''" or word in _CLOSING or set(word) <= {".", "!", "?"}:
            joins = True
        elif word in _OPENING:
            joins_next = True
        elif word in _BETWEEN:
            joins = joins_next = True
        elif len(word) > 1 and (word.startswith(_CONTRACTIONS) or word in ("n't", "n’t")):
            joins = True
        if before and _without_spaces(before[-1], word[:1]):
            joins = True
        result.append(bool(number) and joins)
    return result


def detokenize(words: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
    """The text that words are written as, and where each of them stands in it.

    Args:
        words: The words of a sentence.

    Returns:
        The text, and (first character, character after the last) of each word, half-open.
    """
    text = ""
    spans = []
    for word, joins in zip(words, attached(words), strict=True):
        if text and not joins:
            text += " "
        spans.append((len(text), len(text) + len(word)))
        text += word
    return text, spans


def _without_spaces(left: str, right: str) -> bool:
    """Whether two characters stand together because of their script."""
    if left in _WIDE or right in _WIDE:
        return True
    return is_written_without_spaces(left) and bool(right) and is_written_without_spaces(right)
