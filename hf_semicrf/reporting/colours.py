"""The colour of an entity type: of its name alone, so that it is the same on every page.

There are more names than colours. Types of one colour that meet get a further sign each: an
outline on a page, an ink or a line in a terminal, a hatching in a picture.
"""

from __future__ import annotations

import colorsys
import zlib
from collections import Counter
from collections.abc import Iterable

HUES = (0, 25, 50, 80, 130, 165, 190, 215, 245, 270, 300, 335)  # degrees
_BACKGROUNDS = (217, 216, 229, 192, 120, 158, 159, 153, 147, 183, 219, 218)  # the same, of 256
_INKS = (16, 17, 52, 53)  # black, blue, red, purple: dark enough for each background
_LINES = (4, 3, 53)  # underlined, italic, overlined

_SEED = 850  # of those that keep the types of well-known corpora apart


class Colour:
    """A colour, and the sign that tells its type from earlier ones of the same colour.

    Args:
        index: Of the colour, in ``range(len(HUES))``.
        rank: Number of types of this colour before this one.
    """

    def __init__(self, index: int, rank: int) -> None:
        self.hue = HUES[index]
        self.rank = rank
        self._index = index

    @property
    def css(self) -> str:
        """Its style: the hue, and an outline of which style, sides and width are the sign."""
        if not self.rank:
            return f"--hue:{self.hue}"
        more, style = divmod(self.rank - 1, 4)
        sides = more % 15 + 1  # bits: bottom, top, left, right
        width = 3 + more // 15
        widths = " ".join(f"{width if sides & bit else 0}px" for bit in (2, 8, 1, 4))
        style_name = ("solid", "dotted", "dashed", "double")[style]
        return f"--hue:{self.hue};border-style:{style_name};border-width:{widths}"

    @property
    def ansi(self) -> str:
        """Its parameters of a terminal's "select graphic rendition"."""
        ink, lines = divmod(self.rank, 2 ** len(_LINES))
        signs = "".join(f"{code};" for bit, code in enumerate(_LINES) if lines >> bit & 1)
        return f"{signs}38;5;{_INKS[ink % len(_INKS)]};48;5;{_BACKGROUNDS[self._index]}"

    @property
    def rgb(self) -> tuple[float, float, float]:
        """Its red, green and blue in a picture, in 0..1."""
        return colorsys.hsv_to_rgb(self.hue / 360, 0.75, 0.75)

    @property
    def hatch(self) -> str | None:
        """Its hatching in a picture of matplotlib."""
        density, pattern = divmod(self.rank - 1, 6)
        return "/\\|-.x"[pattern] * (2 + density) if self.rank else None


def colours(types: Iterable[str]) -> dict[str, Colour]:
    """The colour of each type, in the order of their names.

    Args:
        types: Names of all types that a reader may see together.
    """
    met: Counter[int] = Counter()
    found = {}
    for name in sorted(set(types)):
        index = zlib.crc32(name.encode("utf-8", "surrogatepass"), _SEED) % len(HUES)
        found[name] = Colour(index, met[index])
        met[index] += 1
    return found
