"""Words and sub-words: how text is cut into words, words into sub-words, and texts into windows.

Lives here: the splitter, the tokenisation of words, the lattice that says which sub-word stands for
which word, the windows of a long text. Nothing here knows labels, scores or models. PyTorch is
imported with the lattice, at its first use: an exported model reads texts without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hf_semicrf.text.detokenization import attached, detokenize
from hf_semicrf.text.signs import direction, one_line, visible
from hf_semicrf.text.subwords import (
    KnownWords,
    check_room,
    first_subwords,
    is_prepared,
    prepare_tokenizer,
    tokenize_words,
)
from hf_semicrf.text.windows import (
    WINDOW_LENGTH,
    Window,
    around,
    sections,
    training_windows,
    windows_of,
)
from hf_semicrf.text.words import AS_WRITTEN, BEFORE_SPLITTERS, FUNCTION, Splitter, split_words

if TYPE_CHECKING:
    from hf_semicrf.text.lattice import Lattice, word_pieces, word_start_table, word_starts

__all__ = [
    "AS_WRITTEN",
    "BEFORE_SPLITTERS",
    "FUNCTION",
    "KnownWords",
    "WINDOW_LENGTH",
    "Splitter",
    "around",
    "attached",
    "check_room",
    "detokenize",
    "direction",
    "Lattice",
    "Window",
    "first_subwords",
    "is_prepared",
    "one_line",
    "prepare_tokenizer",
    "sections",
    "split_words",
    "tokenize_words",
    "training_windows",
    "visible",
    "windows_of",
    "word_pieces",
    "word_start_table",
    "word_starts",
]


def __getattr__(name: str) -> Any:
    """A name of the lattice."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from hf_semicrf.text import lattice

    return getattr(lattice, name)
