"""Choose the splitter that cuts running text into the words that a corpus has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hf_semicrf.text import Splitter, detokenize

CANDIDATES = ("unicode", "hyphens", "punctuation", "web", "spaces")
MARGIN = 0.01  # share of words by which another splitter has to agree better than the default

Span = tuple[int, int]
Written = tuple[str, Sequence[Span]]  # a text, and where its words stand


@dataclass(frozen=True)
class SplitterChoice:
    """The splitter that was chosen for a corpus, and why.

    Attributes:
        name: Its name.
        words: Words of the corpus.
        agreeing: Words that each candidate finds exactly, by its name.
        on: What it was compared on: "text" of the corpus, or "words as they are usually written".
    """

    name: str
    words: int
    agreeing: dict[str, int]
    on: str

    def of(self, splitter: str) -> str:
        """A sentence on the splitter of a model: how many words it splits otherwise.

        Args:
            splitter: Its name; the one chosen or another.
        """
        counts = ", ".join(
            f"{name} {self.words - right:,}" for name, right in self.agreeing.items()
        )
        return (
            f"splitter {splitter}: of {self.words:,} words, prediction would split otherwise "
            f"({self.on}): {counts}"
        )


def choose_splitter(
    sentences: Iterable[Sequence[str]], written: Iterable[Written] | None = None
) -> SplitterChoice:
    """The splitter that agrees with most words of a corpus.

    Another splitter than the default is chosen only if it finds more than a hundredth of the words
    more. A word counts if it begins and ends where the corpus says.

    Args:
        sentences: The words of each sentence. They are put together by `detokenize`, unless the
            text is known.
        written: The text of each sentence, with the place of each word, where it is known.
    """
    on = "text" if written is not None else "words as they are usually written"
    texts = written if written is not None else (detokenize(words) for words in sentences)
    splitters = {name: Splitter(name) for name in CANDIDATES}
    agreeing = dict.fromkeys(CANDIDATES, 0)
    count = 0
    for text, spans in texts:
        expected = {(int(start), int(end)) for start, end in spans}
        count += len(expected)
        for name, splitter in splitters.items():
            agreeing[name] += len(expected.intersection(splitter.spans(text)))
    best = max(CANDIDATES, key=agreeing.__getitem__)
    if agreeing[best] - agreeing[CANDIDATES[0]] <= MARGIN * count:
        best = CANDIDATES[0]
    return SplitterChoice(best, count, agreeing, on)
