"""Split raw text into words: the positions of the lattice, with their places in the text."""

from __future__ import annotations

import re

_WORD = re.compile(r"\w+(?:[-_]\w+)*|\S")


def split_words(text: str) -> list[tuple[str, int, int]]:
    """Split raw text into words: runs of letters and digits, also with inner hyphens, or one mark.

    Returns:
        (word, first character, character after the last) of each word, half-open.
    """
    return [(match[0], match.start(), match.end()) for match in _WORD.finditer(text)]
