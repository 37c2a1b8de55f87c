"""From texts to entities: overlapping windows over the words of each text, tagged in batches."""

from __future__ import annotations

import copy
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from hf_semicrf.words import (
    first_subwords,
    is_prepared,
    prepare_tokenizer,
    split_words,
    tokenize_words,
)


class Entity(NamedTuple):
    """Words [first, end) of a document, their type and the probability of exactly this segment."""

    first: int
    end: int
    label: str
    score: float


@dataclass
class Window:
    """A run of a document's words that fits the encoder.

    Attributes:
        first: Its first word.
        end: The word after its last.
        inputs: The tokenizer's columns.
        words: The word of each sub-word, counted from the document's first; None at special tokens.
        entities: What the model found in it.
    """

    first: int
    end: int
    inputs: dict[str, list[int]]
    words: list[int | None]
    entities: list[Entity] = field(default_factory=list)


@dataclass
class Document:
    """A text, its words and the windows through which it is read.

    Attributes:
        text: The raw string, None where the input was a list of words.
        words: Its words.
        spans: Where each word begins and ends, half-open; characters of a string, words of a list.
        windows: Its windows in order; none if it has no words.
    """

    text: str | None
    words: list[str]
    spans: list[tuple[int, int]]
    windows: list[Window] = field(default_factory=list)

    @classmethod
    def of(cls, text: str | Sequence[str]) -> Document:
        """A document of a raw string or of a list of words.

        Raises:
            ValueError: It is neither.
        """
        if isinstance(text, str):
            split = split_words(text)
            spans = [(start, end) for _, start, end in split]
            return cls(text, [word for word, _, _ in split], spans)
        if not isinstance(text, list | tuple) or not all(isinstance(word, str) for word in text):
            raise ValueError(f"expected a string or a list of words as a text, got {text!r:.80}")
        return cls(None, list(text), [(n, n + 1) for n in range(len(text))])

    def entities(self) -> list[dict[str, Any]]:
        """What its windows found, as :func:`predict` returns it."""
        kept = [
            entity
            for window, (first, end) in zip(self.windows, sections(self.windows), strict=True)
            for entity in window.entities
            if first <= entity.first and entity.end <= end
        ]
        return [self._described(entity) for entity in sorted(kept)]

    def _described(self, entity: Entity) -> dict[str, Any]:
        start, end = self.spans[entity.first][0], self.spans[entity.end - 1][1]
        words = self.words[entity.first : entity.end]
        text = " ".join(words) if self.text is None else self.text[start:end]
        return {"label": entity.label, "score": entity.score, "start": start, "end": end,
                "text": text}  # fmt: skip


@torch.no_grad()
def predict(
    model: Any,
    texts: Sequence[str | Sequence[str]],
    tokenizer: Any,
    batch_size: int = 32,
    *,
    threshold: float | None = None,
    overlap: int | None = None,
) -> list[list[dict[str, Any]]]:
    """What ``SemiCRFForTokenClassification.predict`` promises."""
    if isinstance(texts, str):
        raise ValueError(f"expected a list of texts, got the string {texts[:40]!r}")
    if overlap is not None and overlap < 0:
        raise ValueError(f"expected an overlap of at least 0 words, got {overlap}")
    if not is_prepared(tokenizer):
        tokenizer = prepare_tokenizer(copy.deepcopy(tokenizer))
    documents = [Document.of(text) for text in texts]
    longest = model.config.max_segment_length
    cut_into_windows(documents, tokenizer, _max_length(model, tokenizer), overlap, longest)
    windows = [window for document in documents for window in document.windows]
    windows.sort(key=lambda window: len(window.words), reverse=True)  # a batch is of like lengths
    was_training = model.training
    model.eval()
    for at in range(0, len(windows), batch_size):
        _tag(model, windows[at : at + batch_size], tokenizer, threshold)
    model.train(was_training)
    return [document.entities() for document in documents]


def cut_into_windows(
    documents: Sequence[Document],
    tokenizer: Any,
    max_length: int | None,
    overlap: int | None,
    longest: int,
) -> None:
    """Give each document its windows, each as many words as fit the encoder.

    Args:
        documents: Documents without windows.
        tokenizer: As `prepare_tokenizer` returns it.
        max_length: Sub-words in a window, special tokens included; None for no limit.
        overlap: Words that neighbouring windows share, at most half of a window's; by default a
            quarter of a window, and at least a whole segment.
        longest: Words in the longest segment.

    Raises:
        ValueError: `max_length` has no room beside the special tokens.
    """
    documents = [document for document in documents if document.words]
    tokenized = tokenize_words(tokenizer, [document.words for document in documents])
    for document, (inputs, words) in zip(documents, tokenized, strict=True):
        inside = [n for n, word in enumerate(words) if word is not None]
        before, after = inside[0], inside[-1] + 1  # the special tokens are around these
        bounds = [n for n, word in enumerate(first_subwords(words)) if word is not None] + [after]
        special = len(words) - len(inside)
        room = len(words) if max_length is None else max_length - special
        if room < 1:
            raise ValueError(
                f"expected a max_length above the {special} special tokens, got {max_length}"
            )
        for first, end in _plan(bounds, room, overlap, longest):
            kept = [
                *range(before),
                *range(bounds[first], min(bounds[end], bounds[first] + room)),
                *range(after, len(words)),
            ]
            columns = {name: [values[n] for n in kept] for name, values in inputs.items()}
            document.windows.append(Window(first, end, columns, [words[n] for n in kept]))


def _plan(
    bounds: Sequence[int], room: int, overlap: int | None, longest: int
) -> Iterator[tuple[int, int]]:
    """The words [first, end) of each window.

    Args:
        bounds: First sub-word of each word, and the sub-word after the last word's.
        room: Sub-words in a window; a word of more is cut and has a window of its own.
        overlap: As in `cut_into_windows`.
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
    """The words [first, end) that each window of a document answers for; they tile the document.

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


def _tag(model: Any, windows: Sequence[Window], tokenizer: Any, threshold: float | None) -> None:
    """Find the entities of a batch of windows."""
    columns = {k: [window.inputs[k] for window in windows] for k in windows[0].inputs}
    batch = tokenizer.pad(columns, return_tensors="pt")
    mask = torch.zeros_like(batch["input_ids"], dtype=torch.bool)
    for row, window in enumerate(windows):
        padding = mask.shape[1] - len(window.words) if tokenizer.padding_side == "left" else 0
        firsts = [n for n, word in enumerate(first_subwords(window.words)) if word is not None]
        mask[row, [padding + n for n in firsts]] = True
    batch = {name: value.to(model.device) for name, value in batch.items()}
    output = model(
        **batch,
        word_mask=mask.to(model.device),
        threshold=threshold,
        output_segment_posteriors=True,
        return_dict=True,
    )
    tags, scores = output.logits.argmax(-1).cpu(), output.segment_posteriors.cpu()
    scheme = model.config.scheme
    for row, window in enumerate(windows):
        row_scores = scores[row, mask[row]].clamp(max=1).tolist()
        window.entities = [
            Entity(window.first + start, window.first + end, label, row_scores[start])
            for start, end, label in scheme.tags_to_spans(tags[row, mask[row]].tolist())
        ]


def _max_length(model: Any, tokenizer: Any) -> int | None:
    """Sub-words that the encoder takes at once; None for no limit."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    limits = [n for n in (tokenizer.model_max_length, positions) if n and n < 10**6]
    return min(limits, default=None)
