"""Words and sub-words: how text is cut into words, words into sub-words, and texts into windows.

Lives here: the splitter, the tokenisation of words, the lattice that says which sub-word stands for
which word, the windows of a long text. Nothing here knows labels, scores or models.
"""

from hf_semicrf.text.detokenization import attached, detokenize
from hf_semicrf.text.lattice import Lattice, word_pieces, word_start_table, word_starts
from hf_semicrf.text.signs import direction, one_line, visible
from hf_semicrf.text.subwords import (
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

__all__ = [
    "AS_WRITTEN",
    "BEFORE_SPLITTERS",
    "FUNCTION",
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
