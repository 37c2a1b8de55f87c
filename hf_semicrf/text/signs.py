"""Text that shows what cannot be seen: signs for control, direction and zero-width characters."""

from __future__ import annotations

import re
import unicodedata

_FLAGS = "|".join(
    "\U0001f3f4" + "".join(chr(0xE0000 + ord(letter)) for letter in region) + "\U000e007f"
    for region in ("gbeng", "gbsct", "gbwls")
)
# Controls, direction marks, separators of lines and whatever else is not drawn, but for what shapes
# its neighbours: joiners, the soft hyphen, variation selectors, the tags of a flag.
_UNSEEN = re.compile(
    f"({_FLAGS})|"
    "[\0-\x08\x0b-\x1f\x7f-\x9f\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f"
    "\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e00ff\U000e01f0-\U000e0fff"
    "\ud800-\udfff]"
)


def visible(text: str) -> str:
    """The text with a visible sign for each character that is not seen, one for one.

    Args:
        text: Of any characters, lone surrogates included.

    Returns:
        Line ends, tabs and spaces stay, and so does what shapes its neighbours; another ASCII
        control is its picture (U+2400 and on), and what else acts or hides is U+FFFD.
    """
    return _UNSEEN.sub(_sign, text)


def one_line(text: str) -> str:
    """The text as `visible` shows it, runs of spaces and line ends as one space.

    Args:
        text: As `visible` takes it.
    """
    return " ".join(visible(text).split())


def direction(text: str, default: str = "ltr") -> str:
    """Where a text reads to: by its first letter that has a direction.

    Args:
        text: Any text.
        default: That of a text without such letters.

    Returns:
        "ltr" or "rtl".
    """
    strong = (unicodedata.bidirectional(character) for character in text)
    first = next((kind for kind in strong if kind in ("L", "R", "AL")), None)
    return {None: default, "L": "ltr"}.get(first, "rtl")


def _sign(unseen: re.Match[str]) -> str:
    if unseen[1]:
        return unseen[1]
    code = ord(unseen[0])
    if code < 0x20:
        return chr(0x2400 + code)
    return "\u2421" if code == 0x7F else "\ufffd"
