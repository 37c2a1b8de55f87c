"""Fonts of the scripts that a page's or a picture's own font may lack."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

FONTS = (
    "Noto Sans",
    "Noto Sans Arabic",
    "Noto Sans Hebrew",
    "Noto Sans Devanagari",
    "Noto Sans Bengali",
    "Noto Sans Tamil",
    "Noto Sans Telugu",
    "Noto Sans Thai",
    "Noto Sans Khmer",
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Nirmala UI",
    "Leelawadee UI",
    "PingFang SC",
    "Hiragino Sans",
    "Microsoft YaHei",
    "Yu Gothic",
    "Malgun Gothic",
)


@contextmanager
def drawing() -> Iterator[None]:
    """Draw each text as it is: no formulas, and every script of which a font is installed.

    Raises:
        RuntimeError: matplotlib is not installed.
    """
    try:
        import matplotlib.figure
        from matplotlib.font_manager import get_font_names
    except ImportError:
        raise RuntimeError("plots need matplotlib: pip install hf_semicrf[plots]") from None
    installed = set(get_font_names())
    family = ["DejaVu Sans", *(font for font in FONTS if font in installed)]
    with matplotlib.rc_context({"font.family": family, "text.parse_math": False}):
        yield
