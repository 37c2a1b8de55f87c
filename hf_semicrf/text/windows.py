"""Cut texts longer than an encoder into overlapping windows, and say where these meet.

A document whose sentences are known is cut into windows of one sentence each, with what stands
around it as context.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hf_semicrf.options import check
from hf_semicrf.results import Segment
from hf_semicrf.text.subwords import KnownWords, check_room, first_subwords, tokenize_words

Bounds = tuple[int, int]  # of words, half-open

WINDOW_LENGTH = 128  # sub-words in which a sentence is read together with its neighbours


@dataclass(frozen=True, slots=True)
class Window:
    """A run of a text's words that fits the encoder.

    Attributes:
        first: Its first word.
        end: The word after its last.
        inputs: The tokenizer's columns.
        words: The word of each sub-word, counted from the text's first; None at special tokens and
            in context.
    """

    first: int
    end: int
    inputs: dict[str, list[int]]
    words: list[int | None]


def windows_of(
    texts: Sequence[Sequence[str]],
    tokenizer: Any,
    max_length: int | None,
    overlap: int | None,
    longest: int,
    attached: Sequence[Sequence[bool]] | None = None,
    known: KnownWords | None = None,
    parts: Sequence[Sequence[Bounds] | None] | None = None,
    window_length: int = WINDOW_LENGTH,
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
        attached: As `tokenize_words` takes it.
        known: As `tokenize_words` takes it.
        parts: Of each text the words [first, end) of its sentences, each of which has a window of
            its own; None where it is read as a whole.
        window_length: Sub-words up to which such a window takes in what is around its sentence.

    Yields:
        The windows of each text in order, which cover its words; none where it has no words.

    Raises:
        ValueError: `max_length` has no room beside the special tokens.
    """
    check(overlap=overlap, longest=longest, window_length=window_length)
    check_room(tokenizer, max_length)
    joins = attached and [row for row in attached if row]
    tokenized = tokenize_words(tokenizer, [text for text in texts if text], None, joins, known)
    for number, text in enumerate(texts):
        if not text:
            yield []
            continue
        own_parts = parts[number] if parts is not None else None
        inputs, words = next(tokenized)
        if own_parts is None and (max_length is None or len(words) <= max_length):
            yield [Window(0, len(text), inputs, words)]
            continue
        inside = [n for n, word in enumerate(words) if word is not None]
        before, after = inside[0], inside[-1] + 1  # the special tokens are around these
        bounds = [n for n, word in enumerate(first_subwords(words)) if word is not None] + [after]
        special = len(words) - len(inside)
        room = len(words) if max_length is None else max_length - special
        windows = []
        for start, stop in own_parts or [(0, len(text))]:
            for first, end in _plan(bounds[start : stop + 1], room, overlap, longest):
                first, end = start + first, start + end
                left, right = first, end
                if own_parts is not None:
                    left, right = around(bounds, first, end, min(window_length - special, room))
                positions = [
                    *range(before),
                    *range(bounds[left], min(bounds[right], bounds[left] + room)),
                    *range(after, len(words)),
                ]
                columns = {name: [values[n] for n in positions] for name, values in inputs.items()}
                own = [words[n] for n in positions]
                own = [n if n is not None and first <= n < end else None for n in own]
                windows.append(Window(first, end, columns, own))
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


def training_windows(
    bounds: Sequence[int], room: int, entities: Sequence[tuple[int, int]]
) -> Iterator[tuple[int, int, int, int]]:
    """Cut a text that is too long to train on in one piece.

    Each word is trained on once, in the section of one window, and has context in its window on
    both sides. No section ends inside an entity that fits a window.

    Args:
        bounds: First sub-word of each word, and the sub-word after the last word's.
        room: Sub-words in a window.
        entities: First word and word after the last of each entity, in order.

    Yields:
        The section's words [first, end), and the window's.
    """
    words = len(bounds) - 1
    first = 0
    while first < words:
        end = words
        if bounds[words] - bounds[first] > room:
            # a quarter of the window is left for context
            end = max(bisect_right(bounds, bounds[first] + 3 * room // 4) - 1, first + 1)
            for start, stop in entities:
                if start < end < stop:
                    if start > first:
                        end = start
                    elif bounds[stop] - bounds[first] <= room:
                        end = stop
        yield first, end, *around(bounds, first, end, room)
        first = end


def around(bounds: Sequence[int], first: int, end: int, room: int) -> Bounds:
    """The words [left, right) of a window around others: as much on both sides, if it is there.

    Args:
        bounds: First sub-word of each word, and the sub-word after the last word's.
        first: The first of the words in the middle.
        end: The word after the last of them.
        room: Sub-words in the window; words that fill it have no context.
    """
    spare = max(room - (bounds[end] - bounds[first]), 0)
    right = bisect_right(bounds, bounds[end] + spare // 2) - 1
    left = bisect_left(bounds, bounds[first] - (spare - (bounds[right] - bounds[end])))
    right = bisect_right(bounds, bounds[left] + room) - 1  # where nothing stands to the left
    return min(left, first), max(right, end)


def sections(
    windows: Sequence[Window], segments: Sequence[Sequence[Segment]]
) -> list[tuple[int, int]]:
    """The words [first, end) that each window of a text answers for; they tile the text.

    A seam lies where both windows see as much context, in the middle of their overlap, or at the
    nearest cut between words that goes through no segment of either. Where every cut goes through
    one (the windows contradict each other throughout), the least probable segments are given up.

    Args:
        windows: The text's windows in order.
        segments: What was found in each, in words of the text.
    """
    if len(windows) == 1:
        return [(0, windows[0].end)]
    cuts = [0]
    for n, (left, right) in enumerate(zip(windows, windows[1:], strict=False)):
        both = [*segments[n], *segments[n + 1]]
        cuts.append(_seam(max(right.first, cuts[-1]), right.first, left.end, both))
    ends = cuts[1:] + [window.end for window in windows[-1:]]
    return list(zip(cuts, ends, strict=False))


def _seam(low: int, first: int, end: int, segments: Sequence[Segment]) -> int:
    """Where one window hands over to the next, in [low, end]; they share the words [first, end)."""
    shared = [segment for segment in segments if low < segment.end and segment.first < end]

    def cost(cut: int) -> tuple[float, int]:
        lost = sum(segment.posterior for segment in shared if segment.first < cut < segment.end)
        return lost, abs(2 * cut - first - end)

    return min(range(low, end + 1), key=cost)
