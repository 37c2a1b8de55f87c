"""From texts to entities: windows over the words of each text, tagged in batches."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, NamedTuple

import torch

from hf_semicrf.words import (
    first_subwords,
    is_prepared,
    prepare_tokenizer,
    split_words,
    tokenize_words,
)


@dataclass
class Document:
    """A text, its words and the entities found so far.

    Attributes:
        text: The raw string, None where the input was a list of words.
        words: Its words.
        spans: Where each word begins and ends, half-open; characters of a string, words of a list.
        entities: What was found, as :func:`predict` returns it.
    """

    text: str | None
    words: list[str]
    spans: list[tuple[int, int]]
    entities: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def of(cls, text: str | Sequence[str]) -> Document:
        """A document of a raw string or of a list of words."""
        if not isinstance(text, str):
            return cls(None, list(text), [(n, n + 1) for n in range(len(text))])
        split = split_words(text)
        return cls(text, [word for word, _, _ in split], [(start, end) for _, start, end in split])

    def add(self, first: int, end: int, label: str, score: float) -> None:
        """Add the entity of words [first, end)."""
        start, stop = self.spans[first][0], self.spans[end - 1][1]
        text = self.text[start:stop] if self.text is not None else " ".join(self.words[first:end])
        self.entities.append(
            {"label": label, "score": score, "start": start, "end": stop, "text": text}
        )


class Window(NamedTuple):
    """A run of a document's words that fits the encoder.

    Attributes:
        document: Where it comes from.
        first: Its first word.
        inputs: The tokenizer's columns.
        words: The word of each sub-word, counted from ``first``; None at special tokens.
    """

    document: Document
    first: int
    inputs: dict[str, list[int]]
    words: list[int | None]


@torch.no_grad()
def predict(
    model: Any, texts: Sequence[str | Sequence[str]], tokenizer: Any, batch_size: int
) -> list[list[dict[str, Any]]]:
    """What ``SemiCRFForTokenClassification.predict`` promises."""
    if isinstance(texts, str):
        raise ValueError(f"expected a list of texts, got the string {texts[:40]!r}")
    if not is_prepared(tokenizer):
        tokenizer = prepare_tokenizer(copy.deepcopy(tokenizer))
    documents = [Document.of(text) for text in texts]
    windows = list(_windows(documents, tokenizer, _max_length(model, tokenizer)))
    windows.sort(key=lambda window: len(window.words), reverse=True)  # a batch is of like lengths
    was_training = model.training
    model.eval()
    for at in range(0, len(windows), batch_size):
        _tag(model, windows[at : at + batch_size], tokenizer)
    model.train(was_training)
    return [sorted(document.entities, key=itemgetter("start")) for document in documents]


def _windows(
    documents: Sequence[Document], tokenizer: Any, max_length: int | None
) -> Iterator[Window]:
    """Cut documents into windows of at most ``max_length`` sub-words, between words."""
    waiting = [(document, 0) for document in documents if document.words]
    while waiting:
        # a word has a sub-word at least: no window holds more than max_length words
        pieces = [document.words[first:][:max_length] for document, first in waiting]
        rest = []
        for (document, first), (inputs, words) in zip(
            waiting, tokenize_words(tokenizer, pieces, max_length), strict=True
        ):
            yield Window(document, first, inputs, words)
            end = first + 1 + max(word for word in words if word is not None)
            if end < len(document.words):
                rest.append((document, end))
        waiting = rest


def _tag(model: Any, windows: Sequence[Window], tokenizer: Any) -> None:
    """Add the entities of a batch of windows to their documents."""
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
        output_segment_posteriors=True,
        return_dict=True,
    )
    tags, scores = output.logits.argmax(-1).cpu(), output.segment_posteriors.cpu()
    scheme = model.config.scheme
    for row, window in enumerate(windows):
        row_scores = scores[row, mask[row]].tolist()
        for begin, end, label in scheme.tags_to_spans(tags[row, mask[row]].tolist()):
            window.document.add(window.first + begin, window.first + end, label, row_scores[begin])


def _max_length(model: Any, tokenizer: Any) -> int | None:
    """Sub-words that the encoder takes at once; None for no limit."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    limits = [n for n in (tokenizer.model_max_length, positions) if n and n < 10**6]
    return min(limits, default=None)
