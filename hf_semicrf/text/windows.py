"""Texts longer than an encoder: overlapping windows over their words, and where they meet."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from hf_semicrf.inference import Distribution
from hf_semicrf.text.subwords import first_subwords, tokenize_words


class Entity(NamedTuple):
    """Words [first, end) of a text, their type and the probability of exactly this segment."""

    first: int
    end: int
    label: str
    score: float


@dataclass
class Window:
    """A run of a text's words that fits the encoder.

    Attributes:
        first: Its first word.
        end: The word after its last.
        inputs: The tokenizer's columns.
        words: The word of each sub-word, counted from the text's first; None at special tokens.
        entities: What the model found in it.
        distribution: What else the model knows of it, where asked for.
        constraints: What is known of spans of its words, counted from its first.
        text: Number of its text.
    """

    first: int
    end: int
    inputs: dict[str, list[int]]
    words: list[int | None]
    entities: list[Entity] = field(default_factory=list)
    distribution: Distribution | None = None
    constraints: list[dict[str, Any]] = field(default_factory=list)
    text: int = 0


def windows_of(
    texts: Sequence[Sequence[str]],
    tokenizer: Any,
    max_length: int | None,
    overlap: int | None,
    longest: int,
) -> Iterator[list[Window]]:
    """Cut texts into windows, each as many words as fit the encoder.

    Args:
        texts: The words of each text.
        tokenizer: As `prepare_tokenizer` returns it.
        max_length: Sub-words in a window, special tokens included; None for no limit.
        overlap: Words that neighbouring windows share, at most half of a window's; by default a
            quarter of a window, and at least a whole segment. The last window begins as early as
            it fits, whatever it shares then.
        longest: Words in the longest segment.

    Yields:
        The windows of each text in order, which cover its words; none where it has no words.

    Raises:
        ValueError: `max_length` has no room beside the special tokens.
    """
    tokenized = tokenize_words(tokenizer, [text for text in texts if text])
    for text in texts:
        if not text:
            yield []
            continue
        inputs, words = next(tokenized)
        inside = [n for n, word in enumerate(words) if word is not None]
        before, after = inside[0], inside[-1] + 1  # the special tokens are around these
        bounds = [n for n, word in enumerate(first_subwords(words)) if word is not None] + [after]
        special = len(words) - len(inside)
        room = len(words) if max_length is None else max_length - special
        if room < 1:
            raise ValueError(
                f"expected a max_length above the {special} special tokens, got {max_length}"
            )
        windows = []
        for first, end in _plan(bounds, room, overlap, longest):
            kept = [
                *range(before),
                *range(bounds[first], min(bounds[end], bounds[first] + room)),
                *range(after, len(words)),
            ]
            columns = {name: [values[n] for n in kept] for name, values in inputs.items()}
            windows.append(Window(first, end, columns, [words[n] for n in kept]))
        yield windows


def _plan(
    bounds: Sequence[int], room: int, overlap: int | None, longest: int
) -> Iterator[tuple[int, int]]:
    """The words [first, end) of each window.

    Args:
        bounds: First sub-word of each word, and the sub-word after the last word's.
        room: Sub-words in a window; a word of more is cut and has a window of its own.
        overlap: As in `windows_of`.
        longest: Words in the longest segment.
    """
    words = len(bounds) - 1
    first = end = 0
    while end < words:
        end = max(bisect_right(bounds, bounds[first] + room) - 1, first + 1)
        if end < words:
            yield first, end
            size = end - first
            shared = max(size // 4, longest) if overlap is None else overlap
            # as much of it as leaves room for the next word
            fitting = bisect_left(bounds, bounds[end + 1] - room)
            first = min(max(end - min(shared, size // 2), fitting), end)
    # the last window has room to the left
    yield min(first, bisect_left(bounds, bounds[words] - room)), words


def sections(windows: Sequence[Window]) -> list[tuple[int, int]]:
    """The words [first, end) that each window of a text answers for; they tile the text.

    A seam lies where both windows see as much context, in the middle of their overlap, or at the
    nearest cut between words that goes through no entity of either. Where every cut goes through
    one (the windows contradict each other throughout), the least probable entities are given up.
    """
    cuts = [0]
    for left, right in zip(windows, windows[1:], strict=False):
        cuts.append(_seam(left, right, max(right.first, cuts[-1])))
    ends = cuts[1:] + [window.end for window in windows[-1:]]
    return list(zip(cuts, ends, strict=False))


def _seam(left: Window, right: Window, low: int) -> int:
    """Where one window hands over to the next, in [low, left.end]."""
    shared = [entity for entity in left.entities + right.entities
              if low < entity.end and entity.first < left.end]  # fmt: skip

    def cost(cut: int) -> tuple[float, int]:
        lost = sum(entity.score for entity in shared if entity.first < cut < entity.end)
        return lost, abs(2 * cut - right.first - left.end)

    return min(range(low, left.end + 1), key=cost)
