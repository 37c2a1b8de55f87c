"""Text that shows what cannot be seen: signs for control, direction and zero-width characters."""

from __future__ import annotations

import unicodedata

# letters, marks and signs without ink, beside the characters that Unicode calls control or format
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")


def visible(text: str) -> str:
    """The text with a visible sign for each character that is not seen, one for one.

    Args:
        text: Of any characters, lone surrogates included.

    Returns:
        Line ends, tabs and spaces stay; another control character is its picture (U+2400 and on),
        and what else acts or hides is U+FFFD.
    """
    return "".join(map(_sign, text))


def one_line(text: str) -> str:
    """The text as `visible` shows it, runs of spaces and line ends as one space.

    Args:
        text: As `visible` takes it.
    """
    return visible(" ".join(text.split()))


def _sign(character: str) -> str:
    code = ord(character)
    if character in "\n\t":
        return character
    if code < 0x20 or code == 0x7F:
        return chr(0x2421 if code == 0x7F else 0x2400 + code)
    hides = unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")
    return "\ufffd" if hides or character in _BLANK else character
