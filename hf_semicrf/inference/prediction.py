"""Predict the entities of texts: words, sub-words, scores, segments, entities, in this order."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any, Literal

import torch

from hf_semicrf.head import evaluating
from hf_semicrf.inference.distribution import (
    Distribution,
    decoded_segments,
    distributions,
    joined,
)
from hf_semicrf.labels import allowed_segments, spans_in_window, spans_of_words
from hf_semicrf.ops import ScoreError
from hf_semicrf.options import check, check_decoding
from hf_semicrf.results import Entity, Prediction, Segment
from hf_semicrf.text import (
    AS_WRITTEN,
    Splitter,
    Window,
    attached,
    check_room,
    first_subwords,
    is_prepared,
    prepare_tokenizer,
    sections,
    windows_of,
)

Constraints = Sequence[Mapping[str, Any]]
Decode = Literal["viterbi"]
Text = str | Sequence[str] | Sequence[Sequence[str]] | Mapping[str, Any]
Split = str | Callable[[str], Any] | Splitter


@dataclass
class WindowResult:
    """What is known of a window before and after the model has read it.

    Attributes:
        window: The window.
        text: Number of its text.
        constraints: What is known of spans of its words, counted from its first.
        segments: The decoded segments, in words of the text.
        distribution: Posteriors, entropy and n-best list, where asked for.
    """

    window: Window
    text: int
    constraints: list[dict[str, Any]] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    distribution: Distribution | None = None


@dataclass
class Document:
    """A text, its words and the windows through which it is read.

    Attributes:
        text: The raw string, None where the input was a list of words.
        words: Its words.
        spans: Where each word begins and ends, half-open; characters of a string, words of a list.
        sentences: The words [first, end) of each sentence; None where nobody has said them.
        results: Its windows in order; none if it has no words.
    """

    text: str | None
    words: list[str]
    spans: list[tuple[int, int]]
    sentences: list[tuple[int, int]] | None = None
    results: list[WindowResult] = field(default_factory=list)

    @classmethod
    def of(cls, text: Text, splitter: Splitter | None = None) -> Document:
        """A document of a string, of words, of sentences, or of a string whose words are known.

        Args:
            text: The string, the words, the sentences' words, or a mapping with "text" and
                "offsets".
            splitter: Cuts strings into words; the default one where None.

        Raises:
            ValueError: It has half of a surrogate pair, which is no character, or the offsets are
                not of words in order.
        """
        if isinstance(text, Mapping):
            offsets = text["offsets"]
            splitter = Splitter.of(lambda _: offsets)
            text = text["text"]
        if isinstance(text, str):
            _check_encodable(text)
            spans = (splitter or Splitter()).spans(text)
            return cls(text, [text[start:end] for start, end in spans], spans)
        sentences = None
        if any(not isinstance(item, str) for item in text):
            ends = [0, *accumulate(map(len, text))]
            sentences = [pair for pair in pairwise(ends) if pair[0] < pair[1]]
            text = [word for sentence in text for word in sentence]
        words: list[Any] = list(text)
        _check_encodable("".join(words))
        return cls(None, words, [(n, n + 1) for n in range(len(words))], sentences)

    def attached(self) -> list[bool]:
        """Whether each word follows the one before without a space."""
        if self.text is None:
            parts = [(0, len(self.words))] if self.sentences is None else self.sentences
            return [joins for first, end in parts for joins in attached(self.words[first:end])]
        ends = [-1, *(end for _, end in self.spans)]
        return [start == end for (start, _), end in zip(self.spans, ends, strict=False)]

    def sections(self) -> list[tuple[int, int]]:
        """The words [first, end) that each window answers for."""
        windows = [result.window for result in self.results]
        return sections(windows, [result.segments for result in self.results])

    def entities(self) -> list[Entity]:
        """What its windows found, placed in the text."""
        segments = sorted(
            segment
            for result, (first, end) in zip(self.results, self.sections(), strict=True)
            for segment in result.segments
            if first <= segment.first and segment.end <= end
        )
        return [
            Entity(label=label, score=posterior, **self._place(first, end))  # type: ignore[typeddict-item]
            for first, end, label, posterior in segments
        ]

    def prediction(self, types: tuple[str, ...]) -> Prediction:
        """What its windows found, and what else they know.

        Args:
            types: The segment types.
        """
        windows = [result.window for result in self.results]
        bounds = [
            (first - window.first, end - window.first)
            for window, (first, end) in zip(windows, self.sections(), strict=True)
        ]
        parts = [result.distribution for result in self.results if result.distribution is not None]
        sizes = [window.end - window.first for window in windows]
        distribution = joined(parts, sizes, bounds, len(types))
        token, start, end, _ = distribution.posteriors
        return Prediction(
            text=self.words if self.text is None else self.text,
            entities=self.entities(),
            words=self.spans,
            types=types,
            token=token,
            start=start,
            end=end,
            entropy=distribution.entropy,
            alternatives=[
                {
                    "probability": probability,
                    "entities": [
                        {"label": segment.type, **self._place(segment.first, segment.end)}
                        for segment in segments
                    ],
                }
                for probability, segments in distribution.alternatives
            ],
        )

    def _place(self, first: int, end: int) -> dict[str, Any]:
        """Where words [first, end) stand in the text."""
        start, stop = self.spans[first][0], self.spans[end - 1][1]
        text = " ".join(self.words[first:end]) if self.text is None else self.text[start:stop]
        return {"start": start, "end": stop, "text": text}


def predict(
    model: Any,
    texts: Sequence[Text],
    tokenizer: Any,
    batch_size: int = 32,
    *,
    threshold: float | None = None,
    decode: Decode | None = None,
    max_length: int | None = None,
    overlap: int | None = None,
    constraints: Sequence[Constraints | None] | None = None,
    splitter: Split | None = None,
) -> list[list[Entity]]:
    """What ``SemiCRFForTokenClassification.predict`` promises."""
    own = check(batch_size=batch_size, max_length=max_length, overlap=overlap)
    threshold = check_decoding(threshold, decode)
    tokenizer = _prepared(tokenizer)
    documents = _documents(model, texts, tokenizer, own, constraints, splitter)
    _read(model, documents, tokenizer, own["batch_size"], threshold, decode)
    return [document.entities() for document in documents]


def analyze(
    model: Any,
    texts: Sequence[Text],
    tokenizer: Any,
    batch_size: int = 32,
    *,
    n_best: int = 0,
    threshold: float | None = None,
    decode: Decode | None = None,
    max_length: int | None = None,
    overlap: int | None = None,
    constraints: Sequence[Constraints | None] | None = None,
    splitter: Split | None = None,
) -> list[Prediction]:
    """What ``SemiCRFForTokenClassification.analyze`` promises."""
    own = check(batch_size=batch_size, n_best=n_best, max_length=max_length, overlap=overlap)
    threshold = check_decoding(threshold, decode)
    tokenizer = _prepared(tokenizer)
    documents = _documents(model, texts, tokenizer, own, constraints, splitter)
    for number, document in enumerate(documents):
        if n_best and len(document.results) > 1:
            raise ValueError(
                "expected texts that fit the encoder whole for n_best, got "
                f"{len(document.results)} windows in text {number}"
            )
    _read(model, documents, tokenizer, own["batch_size"], threshold, decode, own["n_best"])
    types = model.config.scheme.types
    return [document.prediction(types) for document in documents]


def _documents(
    model: Any,
    texts: Sequence[Text],
    tokenizer: Any,
    options: Mapping[str, Any],
    constraints: Sequence[Constraints | None] | None,
    splitter: Split | None,
) -> list[Document]:
    """Cut texts into words and into windows that fit the encoder."""
    texts = _listed(texts, "texts")
    for number, text in enumerate(texts):
        if not _is_text(text):
            raise ValueError(
                "expected a string, a list of words or of sentences' words, or a mapping with "
                f'"text" and "offsets" as a text, got {text!r:.80} (text {number})'
            )
    if constraints is not None:
        constraints = _listed(constraints, "constraints")
    if constraints is not None and len(constraints) != len(texts):
        raise ValueError(
            f"expected a list of constraints (or None) for each of the {len(texts)} texts, got "
            f"{len(constraints)}"
        )
    cutter = None if splitter is None else Splitter.of(splitter)
    if cutter is None and any(isinstance(text, str) for text in texts):  # words need none
        cutter = Splitter.of(model.config.splitter)
    documents = [Document.of(text, cutter) for text in texts]
    joins = None
    if model.config.splitter in AS_WRITTEN:
        joins = [document.attached() for document in documents]
    check_room(tokenizer, options["max_length"])
    longest = (options["max_length"], longest_input(model, tokenizer))
    limits = [n for n in longest if n is not None]
    cut = windows_of(
        [document.words for document in documents],
        tokenizer,
        min(limits, default=None),
        options["overlap"],
        model.config.max_segment_length,
        joins,
        [document.sentences for document in documents],
        1 if model.config.neighbours == "none" else model.config.window_length,
    )
    for number, (document, windows) in enumerate(zip(documents, cut, strict=True)):
        document.results = [WindowResult(window, number) for window in windows]
        try:
            _constrain(document, constraints[number] if constraints else None, model.config)
        except ValueError as error:
            raise ValueError(f"text {number}: {error}") from None
    return documents


def _listed(values: Any, what: str) -> list[Any]:
    """The items of a list or its like: no string, no mapping, and nothing without an order.

    Raises:
        ValueError: It is one of those; the message says what it was.
    """
    is_list = isinstance(values, Sized) and hasattr(values, "__getitem__")
    other = isinstance(values, str | bytes | bytearray | memoryview | Mapping)
    if not is_list or other or getattr(values, "ndim", 1) != 1:
        got = f"{type(values).__name__} {values!r:.60}"
        raise ValueError(f"expected a list of {what}, got {got}")
    return list(values)


def _is_text(value: Any) -> bool:
    """Whether this is a string, its words, its sentences, or a string and its words' places."""
    if isinstance(value, Mapping):
        offsets = value.get("offsets")
        return isinstance(value.get("text"), str) and isinstance(offsets, list | tuple)
    if isinstance(value, str):
        return True
    if not isinstance(value, list | tuple):
        return False
    sentences = value if any(isinstance(item, list | tuple) for item in value) else [value]
    return all(
        isinstance(words, list | tuple) and all(isinstance(word, str) for word in words)
        for words in sentences
    )


def _check_encodable(text: str) -> None:
    """Refuse what no tokenizer reads."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        got = text[error.start : error.start + 20]
        raise ValueError(f"expected text of whole characters, got {got!r}") from None


def _prepared(tokenizer: Any) -> Any:
    """The tokenizer, or a copy that went through `prepare_tokenizer`."""
    if not hasattr(tokenizer, "pad_token"):
        raise ValueError(f"expected a tokenizer of transformers, got {tokenizer!r:.80}")
    return tokenizer if is_prepared(tokenizer) else prepare_tokenizer(copy.deepcopy(tokenizer))


def _constrain(document: Document, spans: Constraints | None, config: Any) -> None:
    """Tell a document's windows what is known of its spans."""
    if not spans:
        return
    words = spans_of_words(_listed(spans, "spans"), document.spans)
    allowed_segments(words, len(document.words), config.scheme.types, config.max_segment_length)
    bounds = [(result.window.first, result.window.end) for result in document.results]
    for result, window in zip(document.results, bounds, strict=True):
        result.constraints = spans_in_window(words, window, bounds)


@torch.no_grad()
def _read(
    model: Any,
    documents: Sequence[Document],
    tokenizer: Any,
    batch_size: int,
    threshold: float | None,
    decode: Decode | None,
    n_best: int | None = None,
) -> None:
    """Run the model over all windows, in batches of like lengths.

    Args:
        model: The model; its mode is restored, and other threads may run it too.
        documents: Texts cut into windows, which get their segments.
        tokenizer: The encoder's tokenizer.
        batch_size: Windows in a batch.
        threshold: As `predict` takes it.
        decode: As `predict` takes it.
        n_best: How many segmentations the distributions list; None for no distributions.
    """
    results = [result for document in documents for result in document.results]
    results.sort(key=lambda result: len(result.window.words), reverse=True)
    with evaluating(model):
        for at in range(0, len(results), batch_size):
            batch = results[at : at + batch_size]
            try:
                head = _head_output(model, batch, tokenizer, threshold, decode)
                segments = decoded_segments(head, model.config.scheme.types)
            except ScoreError as error:
                raise ValueError(_where(batch, error)) from error
            _take_segments(model.config, batch, segments)
            if n_best is not None:
                config = model.config
                found = distributions(head, config.head_temperature, config.scheme.types, n_best)
                for result, distribution in zip(batch, found, strict=True):
                    result.distribution = distribution


def _where(results: Sequence[WindowResult], error: ScoreError) -> str:
    """Say which words of which text have scores that are not finite, or too large."""
    row = min(error.sentences, key=lambda row: results[row].text, default=None)
    if row is None:  # scores that all texts share
        return str(error)
    window = results[row].window
    return f"text {results[row].text}, words [{window.first}, {window.end}): {error}"


def _head_output(
    model: Any,
    results: Sequence[WindowResult],
    tokenizer: Any,
    threshold: float | None,
    decode: Decode | None,
) -> Any:
    """Run the model on a batch of windows, as far as the decoded segmentations."""
    windows = [result.window for result in results]
    columns = {name: [window.inputs[name] for window in windows] for name in windows[0].inputs}
    batch = tokenizer.pad(columns, return_tensors="pt")
    mask = torch.zeros_like(batch["input_ids"], dtype=torch.bool)  # [B, T]
    for row, window in enumerate(windows):
        padding = mask.shape[1] - len(window.words) if tokenizer.padding_side == "left" else 0
        firsts = [n for n, word in enumerate(first_subwords(window.words)) if word is not None]
        mask[row, [padding + n for n in firsts]] = True
    allowed = None
    if any(result.constraints for result in results):
        size = (mask.shape[1], model.config.scheme.types, model.config.max_segment_length)
        allowed = torch.stack([allowed_segments(result.constraints, *size) for result in results])
        allowed = allowed.to(model.device)  # [B, T, L, C]
    batch = {name: value.to(model.device) for name, value in batch.items()}
    output = model(
        **batch,
        word_mask=mask.to(model.device),
        threshold=threshold,
        decode=decode,
        allowed_segments=allowed,
        output_head=True,
        output_logits=False,
        return_dict=True,
    )
    return output.head


def _take_segments(
    config: Any, results: Sequence[WindowResult], found: Sequence[list[Segment] | None]
) -> None:
    """Give each window its segments, counted from the first word of its text."""
    for result, segments in zip(results, found, strict=True):
        first, end = result.window.first, result.window.end
        if segments is None:
            raise ValueError(
                f"text {result.text}: expected constraints that some segmentation of the words "
                f"[{first}, {end}) meets, got {result.constraints} and the model's own "
                f"{config.constraints}"
            )
        result.segments = [
            segment._replace(first=first + segment.first, end=first + segment.end)
            for segment in segments
        ]


def longest_input(model: Any, tokenizer: Any) -> int | None:
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
