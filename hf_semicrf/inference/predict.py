"""From texts to entities: the windows of all texts tagged in batches, and put together again."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from hf_semicrf.inference.distribution import Prediction, distributions, joined
from hf_semicrf.labels import allowed_segments, spans_in_window, spans_of_words
from hf_semicrf.text import (
    Entity,
    Window,
    first_subwords,
    is_prepared,
    prepare_tokenizer,
    sections,
    split_words,
    windows_of,
)

IMPOSSIBLE = -50.0  # nats; the most probable of K tags has -log K at least


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
    max_length: int | None = None,
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
    words = [document.words for document in documents]
    limits = [n for n in (max_length, _max_length(model, tokenizer)) if n is not None]
    cut = windows_of(words, tokenizer, min(limits, default=None), overlap, longest)
    for number, (document, windows) in enumerate(zip(documents, cut, strict=True)):
        document.windows = windows
        for window in windows:
            window.text = number
        if n_best and len(windows) > 1:
            raise ValueError(
                "expected texts that fit the encoder whole for n_best, got "
                f"{len(windows)} windows in text {number}"
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
    try:
        for at in range(0, len(windows), batch_size):
            _tag(model, windows[at : at + batch_size], tokenizer, threshold, details, n_best)
    finally:
        model.train(was_training)
    if details:
        types = model.config.scheme.types
        return [document.prediction(types) for document in documents]
    return [document.entities() for document in documents]


def _constrain(document: Document, spans: Sequence[Mapping[str, Any]] | None, config: Any) -> None:
    """Tell a document's windows what is known of its spans."""
    if not spans:
        return
    words = spans_of_words(spans, document.spans)
    allowed_segments(words, len(document.words), config.scheme.types, config.max_segment_length)
    bounds = [(window.first, window.end) for window in document.windows]
    for window, own in zip(document.windows, bounds, strict=True):
        window.constraints = spans_in_window(words, own, bounds)


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
    possible = mask
    if allowed is not None or model.config.constraints:
        # no tag has a probability where no segmentation is allowed
        possible = output.logits.amax(-1).cpu() > IMPOSSIBLE
    found = []
    if details:
        temperature = model.config.head_temperature
        found = list(distributions(output.head, temperature, scheme, n_best))
    for row, window in enumerate(windows):
        if not possible[row, mask[row]].all():
            raise ValueError(
                f"text {window.text}: expected constraints that some segmentation of the words "
                f"[{window.first}, {window.end}) meets, got {window.constraints} and the model's "
                f"own {model.config.constraints}"
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
