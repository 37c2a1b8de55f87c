"""From texts to entities: overlapping windows over the words of each text, tagged in batches."""

from __future__ import annotations

import copy
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from hf_semicrf.constraints import allowed_segments, spans_in_window, spans_of_words
from hf_semicrf.distribution import Distribution, Prediction, distributions, joined
from hf_semicrf.words import (
    first_subwords,
    is_prepared,
    prepare_tokenizer,
    split_words,
    tokenize_words,
)

IMPOSSIBLE = -50.0  # nats; the most probable of K tags has -log K at least


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
        distribution: What else the model knows of it, where asked for.
        constraints: What is known of spans of its words, counted from its first.
    """

    first: int
    end: int
    inputs: dict[str, list[int]]
    words: list[int | None]
    entities: list[Entity] = field(default_factory=list)
    distribution: Distribution | None = None
    constraints: list[dict[str, Any]] = field(default_factory=list)


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
        return [{"label": label, "score": score} | self._place(first, end)
                for first, end, label, score in sorted(kept)]  # fmt: skip

    def prediction(self, types: tuple[str, ...]) -> Prediction:
        """What its windows found, and what else they know.

        Args:
            types: The segment types.
        """
        kept = [
            (first - window.first, end - window.first)
            for window, (first, end) in zip(self.windows, sections(self.windows), strict=True)
        ]
        parts = [window.distribution for window in self.windows]
        sizes = [window.end - window.first for window in self.windows]
        whole = joined(parts, sizes, kept, len(types))
        alternatives = [
            {
                "probability": probability,
                "entities": [
                    {"label": label} | self._place(first, end) for first, end, label in spans
                ],  # fmt: skip
            }
            for probability, spans in whole.alternatives
        ]
        token, start, end, _ = whole.posteriors
        text = self.words if self.text is None else self.text
        return Prediction(
            text, self.entities(), self.spans, types, token, start, end, whole.entropy, alternatives
        )

    def _place(self, first: int, end: int) -> dict[str, Any]:
        """Where words [first, end) stand in the text."""
        start, stop = self.spans[first][0], self.spans[end - 1][1]
        text = " ".join(self.words[first:end]) if self.text is None else self.text[start:stop]
        return {"start": start, "end": stop, "text": text}


@torch.no_grad()
def predict(
    model: Any,
    texts: Sequence[str | Sequence[str]],
    tokenizer: Any,
    batch_size: int = 32,
    *,
    threshold: float | None = None,
    overlap: int | None = None,
    constraints: Sequence[Sequence[Mapping[str, Any]] | None] | None = None,
    return_posteriors: bool = False,
    n_best: int = 0,
) -> list[list[dict[str, Any]]] | list[Prediction]:
    """What ``SemiCRFForTokenClassification.predict`` promises."""
    if isinstance(texts, str):
        raise ValueError(f"expected a list of texts, got the string {texts[:40]!r}")
    if overlap is not None and overlap < 0:
        raise ValueError(f"expected an overlap of at least 0 words, got {overlap}")
    if n_best < 0:
        raise ValueError(f"expected an n_best of at least 0 segmentations, got {n_best}")
    if constraints is not None and len(constraints) != len(texts):
        raise ValueError(
            f"expected a list of constraints (or None) for each of the {len(texts)} texts, got "
            f"{len(constraints)}"
        )
    if not is_prepared(tokenizer):
        tokenizer = prepare_tokenizer(copy.deepcopy(tokenizer))
    documents = [Document.of(text) for text in texts]
    longest = model.config.max_segment_length
    cut_into_windows(documents, tokenizer, _max_length(model, tokenizer), overlap, longest)
    for number, document in enumerate(documents):
        if n_best and len(document.windows) > 1:
            raise ValueError(
                "expected texts that fit the encoder whole for n_best, got "
                f"{len(document.windows)} windows in text {number}"
            )
        try:
            _constrain(document, constraints and constraints[number], model.config)
        except ValueError as error:
            raise ValueError(f"text {number}: {error}") from None
    windows = [window for document in documents for window in document.windows]
    windows.sort(key=lambda window: len(window.words), reverse=True)  # a batch is of like lengths
    details = return_posteriors or n_best > 0
    was_training = model.training
    model.eval()
    for at in range(0, len(windows), batch_size):
        _tag(model, windows[at : at + batch_size], tokenizer, threshold, details, n_best)
    model.train(was_training)
    if details:
        types = model.config.scheme.types
        return [document.prediction(types) for document in documents]
    return [document.entities() for document in documents]


def _constrain(document: Document, spans: Sequence[Mapping[str, Any]] | None, config: Any) -> None:
    """Tell a document's windows what is known of its spans."""
    words = spans_of_words(spans or (), document.spans)
    allowed_segments(words, len(document.words), config.scheme.types, config.max_segment_length)
    for window in document.windows:
        bounds = [(w.first, w.end) for w in document.windows]
        window.constraints = spans_in_window(words, (window.first, window.end), bounds)


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


def _tag(
    model: Any,
    windows: Sequence[Window],
    tokenizer: Any,
    threshold: float | None,
    details: bool,
    n_best: int,
) -> None:
    """Find the entities of a batch of windows."""
    columns = {k: [window.inputs[k] for window in windows] for k in windows[0].inputs}
    batch = tokenizer.pad(columns, return_tensors="pt")
    mask = torch.zeros_like(batch["input_ids"], dtype=torch.bool)
    for row, window in enumerate(windows):
        padding = mask.shape[1] - len(window.words) if tokenizer.padding_side == "left" else 0
        firsts = [n for n, word in enumerate(first_subwords(window.words)) if word is not None]
        mask[row, [padding + n for n in firsts]] = True
    scheme = model.config.scheme
    allowed = None
    if any(window.constraints for window in windows):
        size = (mask.shape[1], scheme.types, model.config.max_segment_length)
        allowed = torch.stack([allowed_segments(window.constraints, *size) for window in windows])
        allowed = allowed.to(model.device)
    batch = {name: value.to(model.device) for name, value in batch.items()}
    output = model(
        **batch,
        word_mask=mask.to(model.device),
        threshold=threshold,
        allowed_segments=allowed,
        output_segment_posteriors=True,
        output_head=details,
        return_dict=True,
    )
    tags, scores = output.logits.argmax(-1).cpu(), output.segment_posteriors.cpu()
    # no tag has a probability where no segmentation is allowed
    possible = output.logits.amax(-1).cpu() > IMPOSSIBLE
    found = []
    if details:
        temperature = model.config.head_temperature
        found = list(distributions(output.head, temperature, scheme, n_best))
    for row, window in enumerate(windows):
        if not possible[row, mask[row]].all():
            raise ValueError(
                f"expected constraints that some segmentation meets, got {window.constraints} for "
                f"words {window.first} to {window.end} of a text, under the model's own "
                f"{model.config.constraints}"
            )
        row_scores = scores[row, mask[row]].clamp(max=1).tolist()
        window.entities = [
            Entity(window.first + start, window.first + end, label, row_scores[start])
            for start, end, label in scheme.tags_to_spans(tags[row, mask[row]].tolist())
        ]
        window.distribution = found[row] if details else None


def _max_length(model: Any, tokenizer: Any) -> int | None:
    """Sub-words that the encoder takes at once; None for no limit."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    # RoBERTa and its kin count positions from behind the padding's
    reserved = [
        module.padding_idx + 1
        for module in model.modules()
        if isinstance(module, torch.nn.Embedding)
        and module.num_embeddings == positions
        and module.padding_idx is not None
        and module is not model.get_input_embeddings()
    ]
    if positions:
        positions -= max(reserved, default=0)
    limits = [n for n in (tokenizer.model_max_length, positions) if n and n < 10**6]
    return min(limits, default=None)
