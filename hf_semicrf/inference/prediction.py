"""Predict the entities of texts: words, sub-words, scores, segments, entities, in this order."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, pairwise, repeat
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from hf_semicrf.head import evaluating
from hf_semicrf.inference.candidates import Candidates, candidates_of, joined_candidates
from hf_semicrf.inference.compilation import compile_kernels
from hf_semicrf.inference.distribution import (
    Distribution,
    distributions,
    joined,
    read_segments,
    segment_columns,
)
from hf_semicrf.inference.feeding import Arriving, Feed, ahead, frozen, padded_length, sent
from hf_semicrf.inference.graphs import Graphs
from hf_semicrf.inference.promises import (
    AGAIN,
    check_kept,
    dependencies,
    promise_of,
    thresholds_of,
)
from hf_semicrf.labels import allowed_segments, spans_in_window, spans_of_words
from hf_semicrf.ops import ScoreError
from hf_semicrf.options import check, check_decoding
from hf_semicrf.results import Entity, Prediction, Segment
from hf_semicrf.text import (
    AS_WRITTEN,
    KnownWords,
    Splitter,
    Window,
    attached,
    check_room,
    is_prepared,
    prepare_tokenizer,
    sections,
    windows_of,
)

Constraints = Sequence[Mapping[str, Any]]
Decode = Literal["viterbi"]
Text = str | Sequence[str] | Sequence[Sequence[str]] | Mapping[str, Any]
Split = str | Callable[[str], Any] | Splitter
Item = tuple[Text, Constraints | None]

# prepared together, so that a batch has texts of like lengths
TEXTS_AT_ONCE, BATCHES_AT_ONCE = 1024, 8


@dataclass(slots=True)
class WindowResult:
    """What is known of a window before and after the model has read it.

    Attributes:
        window: The window.
        text: Number of its text.
        constraints: What is known of spans of its words, counted from its first.
        segments: The decoded segments, in words of the text.
        distribution: Posteriors, entropy and n-best list, where asked for.
        candidates: All probable segments, counted from its first word, where asked for.
    """

    window: Window
    text: int
    constraints: list[dict[str, Any]] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    distribution: Distribution | None = None
    candidates: Candidates | None = None


@dataclass
class Document:
    """A text, its words and the windows through which it is read.

    Attributes:
        text: The raw string, None where the input was a list of words.
        words: Its words.
        places: Where each word begins and ends, half-open; characters of a string, words of a list.
            Or the splitter that finds them, since few texts are asked where their words stand.
        sentences: The words [first, end) of each sentence; None where nobody has said them.
        results: Its windows in order; none if it has no words.
    """

    text: str | None
    words: list[str]
    places: list[tuple[int, int]] | Splitter
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
            splitter = splitter or Splitter()
            if splitter.is_named:
                return cls(text, splitter.strings(text), splitter)
            spans = splitter.spans(text)  # at once: a function may refuse the text, or be slow
            return cls(text, [text[start:end] for start, end in spans], spans)
        sentences = None
        if any(not isinstance(item, str) for item in text):
            ends = [0, *accumulate(map(len, text))]
            sentences = [pair for pair in pairwise(ends) if pair[0] < pair[1]]
            text = [word for sentence in text for word in sentence]
        words: list[Any] = list(text)
        _check_encodable("".join(words))
        return cls(None, words, [(n, n + 1) for n in range(len(words))], sentences)

    @cached_property
    def spans(self) -> list[tuple[int, int]]:
        """Where each word begins and ends."""
        if isinstance(self.places, Splitter):
            assert self.text is not None
            return self.places.places(self.text, self.words)
        return self.places

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
        if len(self.results) == 1:
            segments = sorted(self.results[0].segments)
        else:
            segments = sorted(
                segment
                for result, (first, end) in zip(self.results, self.sections(), strict=True)
                for segment in result.segments
                if first <= segment.first and segment.end <= end
            )
        return [self._entity(*segment) for segment in segments]

    def candidates(self) -> Candidates:
        """All probable segments, in words of the text."""
        parts = [result.candidates for result in self.results if result.candidates is not None]
        return joined_candidates([result.window for result in self.results], parts)

    def above(self, thresholds: Sequence[float], types: Sequence[str]) -> list[Entity]:
        """The candidates whose posterior is at least the threshold of their type.

        Args:
            thresholds: Of each type but the outside.
            types: Names of the types, the outside's first.
        """
        found = self.candidates()
        kept = found.where(found.posterior >= np.array(thresholds)[found.type - 1])
        rows = zip(*(column.tolist() for column in kept), strict=True)
        return [self._entity(first, end, types[kind], score) for first, end, kind, score in rows]

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

    def _entity(self, first: int, end: int, label: str, score: float) -> Entity:
        """Words [first, end) as an entity."""
        return Entity(label=label, score=score, **self._place(first, end))  # type: ignore[typeddict-item]

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
    recall: float | None = None,
    max_length: int | None = None,
    overlap: int | None = None,
    constraints: Sequence[Constraints | None] | None = None,
    splitter: Split | None = None,
    cuda_graphs: bool = False,
) -> list[list[Entity]]:
    """What ``SemiCRFForTokenClassification.predict`` promises."""
    options: dict[str, Any] = {"threshold": threshold, "decode": decode, "recall": recall}
    options |= {"max_length": max_length, "overlap": overlap}
    options |= {"splitter": splitter, "cuda_graphs": cuda_graphs}
    return list(_stream(_items, model, texts, tokenizer, batch_size, constraints, **options))


def predict_stream(
    model: Any,
    texts: Iterable[Text],
    tokenizer: Any,
    batch_size: int = 32,
    *,
    constraints: Iterable[Constraints | None] | None = None,
    **options: Any,
) -> Iterator[list[Entity]]:
    """What ``SemiCRFForTokenClassification.predict_stream`` promises."""
    return _stream(_streamed, model, texts, tokenizer, batch_size, constraints, **options)


def _stream(
    items_of: Callable[[Any, Any], Iterable[Item]],
    model: Any,
    texts: Any,
    tokenizer: Any,
    batch_size: int,
    constraints: Any,
    *,
    threshold: float | None = None,
    decode: Decode | None = None,
    recall: float | None = None,
    max_length: int | None = None,
    overlap: int | None = None,
    splitter: Split | None = None,
    cuda_graphs: bool = False,
    texts_at_once: int | None = None,
) -> Iterator[list[Entity]]:
    """The entities of texts; the options are checked at once."""
    own = check(
        batch_size=batch_size,
        max_length=max_length,
        overlap=overlap,
        cuda_graphs=cuda_graphs,
        texts_at_once=texts_at_once,
    )
    threshold = check_decoding(threshold, decode, recall)
    if recall is not None and own["cuda_graphs"]:
        raise ValueError("expected cuda_graphs or a recall, got both")
    graphs = Graphs.of(model) if own["cuda_graphs"] else None
    tokenizer = _prepared(tokenizer)
    items = items_of(texts, constraints)
    types, thresholds = model.config.scheme.types, None
    if recall is not None:
        promise = promise_of(model.config.promises, check(recall=recall)["recall"])
        kind = promise["depends_on"]["texts"]
        windows = {name: own[name] for name in ("max_length", "overlap")}
        check_kept(promise, conditions(model, tokenizer, kind, splitter, **windows))
        thresholds = thresholds_of(promise, types)
        items = _of_kind(items, kind, recall)
    cutter = _Cutter(model, tokenizer, own, splitter)
    size = own["texts_at_once"] or max(TEXTS_AT_ONCE, BATCHES_AT_ONCE * own["batch_size"])
    least = None if thresholds is None else min(thresholds)

    def found(document: Document) -> list[Entity]:
        return document.entities() if thresholds is None else document.above(thresholds, types)

    return _read_ahead(
        model, items, size, cutter, own["batch_size"], threshold, decode, graphs, least, found
    )


def _of_kind(items: Iterable[Item], kind: str, recall: float) -> Iterator[Item]:
    """The texts; refuses those on which a recall was not promised."""
    for number, (text, spans) in enumerate(items):
        if kind_of(text) != kind:
            raise ValueError(
                f"expected {kind}, on which recall {recall} was promised, got {kind_of(text)} "
                f"(text {number}): give the same, or {AGAIN}"
            )
        if spans:
            raise ValueError(
                "expected constraints or a recall, which was promised without, got both (text "
                f"{number})"
            )
        yield text, spans


def kind_of(text: Text) -> str:
    """What a promise calls texts like this one."""
    if isinstance(text, Mapping):
        return "strings with offsets"
    return "strings" if isinstance(text, str) else "lists of words"


def conditions(
    model: Any,
    tokenizer: Any,
    texts: str,
    splitter: Split | None = None,
    max_length: int | None = None,
    overlap: int | None = None,
) -> dict[str, Any]:
    """What a promise of recall depends on, under options of `predict`.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        texts: What `kind_of` calls them.
        splitter: Cuts strings into words; the model's own where None.
        max_length: Sub-words in a window.
        overlap: Words that neighbouring windows share.
    """
    own = check(max_length=max_length, overlap=overlap)
    tokenizer = _prepared(tokenizer)
    name = model.config.splitter if splitter is None else Splitter.of(splitter).name
    limit = _room(model, tokenizer, own["max_length"])
    return dependencies(model, tokenizer, texts, name, limit, own["overlap"])


def read_candidates(
    model: Any,
    texts: Sequence[Text],
    tokenizer: Any,
    least: float,
    batch_size: int = 32,
    *,
    max_length: int | None = None,
    overlap: int | None = None,
    splitter: Split | None = None,
) -> list[Document]:
    """Texts with all their segments whose posterior is high enough.

    Args:
        model: The model.
        texts: As `predict` takes them.
        tokenizer: The encoder's tokenizer.
        least: The least posterior of a candidate.
        batch_size: As `predict` takes it, like all that follow.
        max_length: Sub-words in a window.
        overlap: Words that neighbouring windows share.
        splitter: Cuts strings into words.

    Returns:
        The documents, whose `candidates` are read.
    """
    own = check(batch_size=batch_size, max_length=max_length, overlap=overlap)
    tokenizer = _prepared(tokenizer)
    documents = _documents(model, texts, tokenizer, own, None, splitter)
    _read(model, documents, tokenizer, own["batch_size"], None, None, least=least)
    return documents


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


def _items(texts: Any, constraints: Any) -> list[Item]:
    """Each text of a list and what is known of its spans."""
    texts = _listed(texts, "texts")
    for number, text in enumerate(texts):
        _check_text(text, number)
    if constraints is None:
        return [(text, None) for text in texts]
    constraints = _listed(constraints, "constraints")
    if len(constraints) != len(texts):
        raise ValueError(
            f"expected a list of constraints (or None) for each of the {len(texts)} texts, got "
            f"{len(constraints)}"
        )
    return list(zip(texts, constraints, strict=True))


def _streamed(texts: Any, constraints: Any) -> Iterator[Item]:
    """Each text of a stream and what is known of its spans."""
    if isinstance(texts, str | bytes | Mapping) or not isinstance(texts, Iterable):
        raise ValueError(f"expected a stream of texts, got {type(texts).__name__} {texts!r:.60}")
    known = repeat(None) if constraints is None else constraints
    pairs = zip(enumerate(texts), known, strict=constraints is not None)
    return ((_check_text(text, number), spans) for (number, text), spans in pairs)


def _documents(
    model: Any,
    texts: Sequence[Text],
    tokenizer: Any,
    options: Mapping[str, Any],
    constraints: Sequence[Constraints | None] | None,
    splitter: Split | None,
) -> list[Document]:
    """Cut texts into words and into windows that fit the encoder."""
    items = _items(texts, constraints)
    return _Cutter(model, tokenizer, options, splitter).documents(list(enumerate(items)))


class _Cutter:
    """Cuts texts into words and into windows that fit the encoder.

    Args:
        model: The model, whose splitter and encoder are asked.
        tokenizer: Its prepared tokenizer.
        options: ``max_length`` and ``overlap``.
        splitter: Cuts strings into words instead of the model's own.
    """

    def __init__(
        self, model: Any, tokenizer: Any, options: Mapping[str, Any], splitter: Split | None
    ):
        check_room(tokenizer, options["max_length"])
        self.config = model.config
        self.tokenizer = tokenizer
        self.known = KnownWords(tokenizer)
        self.splitter = None if splitter is None else Splitter.of(splitter)
        self.limit = _room(model, tokenizer, options["max_length"])
        self.overlap = options["overlap"]

    def documents(self, items: Sequence[tuple[int, Item]]) -> list[Document]:
        """The documents of texts.

        Args:
            items: The number of each text, the text, and what is known of its spans.
        """
        if self.splitter is None and any(isinstance(text, str) for _, (text, _) in items):
            self.splitter = Splitter.of(self.config.splitter)  # words need none
        documents = [Document.of(text, self.splitter) for _, (text, _) in items]
        joins = None
        if self.config.splitter in AS_WRITTEN and self.known.marks_spaces:
            joins = [document.attached() for document in documents]
        cut = windows_of(
            [document.words for document in documents],
            self.tokenizer,
            self.limit,
            self.overlap,
            self.config.max_segment_length,
            joins,
            self.known,
            [document.sentences for document in documents],
            1 if self.config.neighbours == "none" else self.config.window_length,
        )
        for (number, (_, spans)), document, windows in zip(items, documents, cut, strict=True):
            document.results = [WindowResult(window, number) for window in windows]
            try:
                _constrain(document, spans, self.config)
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


def _check_text(text: Any, number: int) -> Text:
    """The text; refuses what is none."""
    if not _is_text(text):
        raise ValueError(
            "expected a string, a list of words or of sentences' words, or a mapping with "
            f'"text" and "offsets" as a text, got {text!r:.80} (text {number})'
        )
    return text


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


class _Batch(NamedTuple):
    """Windows that are read together, and the inputs made of them."""

    results: list[WindowResult]
    feed: Feed


def _batches(
    model: Any, documents: Sequence[Document], tokenizer: Any, batch_size: int
) -> list[_Batch]:
    """The windows of all documents in batches of like lengths.

    Args:
        model: The model that is to read them.
        documents: Texts cut into windows.
        tokenizer: The encoder's tokenizer.
        batch_size: Windows in a batch.
    """
    results = [result for document in documents for result in document.results]
    results.sort(key=lambda result: len(result.window.words), reverse=True)
    limit = longest_input(model, tokenizer) if model.device.type == "cuda" else None
    batches = []
    for at in range(0, len(results), batch_size):
        windows = [result.window for result in results[at : at + batch_size]]
        length = padded_length(len(windows[0].words), limit, model.device)
        batches.append(_Batch(results[at : at + batch_size], Feed.of(windows, tokenizer, length)))
    return batches


def _read_ahead(
    model: Any,
    items: Iterable[Item],
    size: int,
    cutter: _Cutter,
    batch_size: int,
    threshold: float | None,
    decode: Decode | None,
    graphs: Graphs | None,
    least: float | None,
    found: Callable[[Document], list[Entity]],
) -> Iterator[list[Entity]]:
    """The entities of documents that have been read, while a thread prepares those behind them.

    Args:
        model: The model; its mode is restored, and other threads may run it too.
        items: Each text, and what is known of its spans.
        size: Texts that are prepared together.
        cutter: Cuts the texts.
        batch_size: Windows in a batch.
        threshold: As `predict` takes it.
        decode: As `predict` takes it.
        graphs: Those of the model, or None.
        least: The least posterior of a candidate; None for no candidates.
        found: The entities of a document that has been read.
    """

    def prepared(
        chunk: list[tuple[int, Item]],
    ) -> tuple[list[Document], list[_Batch]]:
        with frozen:
            documents = cutter.documents(chunk)
            return documents, _batches(model, documents, cutter.tokenizer, batch_size)

    for documents, batches in ahead(enumerate(items), size, prepared):
        with frozen:
            _run(model, batches, threshold, decode, None, graphs, batch_size, least)
            entities = list(map(found, documents))
        yield from entities


def _read(
    model: Any,
    documents: Sequence[Document],
    tokenizer: Any,
    batch_size: int,
    threshold: float | None,
    decode: Decode | None,
    n_best: int | None = None,
    least: float | None = None,
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
        least: The least posterior of a candidate; None for no candidates.
    """
    batches = _batches(model, documents, tokenizer, batch_size)
    _run(model, batches, threshold, decode, n_best, least=least)


@torch.no_grad()
def _run(
    model: Any,
    batches: Sequence[_Batch],
    threshold: float | None,
    decode: Decode | None,
    n_best: int | None = None,
    graphs: Graphs | None = None,
    batch_size: int = 1,
    least: float | None = None,
) -> None:
    """Run the model over batches; on a GPU, a batch is launched before the last one is fetched."""
    running: deque[tuple[_Batch, Any, Arriving]] = deque()
    depth = 1 if model.device.type == "cuda" else 0
    with evaluating(model):
        if batches and depth:
            constrained = any(result.constraints for batch in batches for result in batch.results)
            compile_kernels(model, batches[0].feed, threshold, decode, constrained)
        for batch in batches:
            allowed = _allowed(model.config, batch)
            head = None
            try:
                if graphs is None:
                    columns = sent(batch.feed.columns, model.device)
                    allowed = None if allowed is None else sent(allowed, model.device)
                    head = _head_output(model, batch.feed, columns, allowed, threshold, decode)
                    arriving = Arriving(segment_columns(head))
                else:
                    arriving = _replayed(
                        model, batch, allowed, threshold, decode, graphs, batch_size
                    )
            except ScoreError as error:
                raise ValueError(_where(batch.results, error)) from error
            running.append((batch, head, arriving))
            if len(running) > depth:
                _fetch(model.config, *running.popleft(), n_best, least)
        while running:
            _fetch(model.config, *running.popleft(), n_best, least)


def _replayed(
    model: Any,
    batch: _Batch,
    allowed: torch.Tensor | None,
    threshold: float | None,
    decode: Decode | None,
    graphs: Graphs,
    batch_size: int,
) -> Arriving:
    """What a batch gives, by the graph of its size."""

    def run(columns: torch.Tensor, allowed: torch.Tensor | None) -> torch.Tensor:
        return segment_columns(_head_output(model, batch.feed, columns, allowed, threshold, decode))

    # powers of two, so that there are few graphs
    rows = min(1 << (len(batch.results) - 1).bit_length(), batch_size)
    with torch.cuda.device(model.device):
        return graphs.run(run, batch.feed, allowed, rows, (threshold, decode))


def _fetch(
    config: Any,
    batch: _Batch,
    head: Any,
    columns: Arriving,
    n_best: int | None,
    least: float | None,
) -> None:
    """Give the windows of a batch what the model has found in them."""
    types = config.scheme.types
    try:
        segments = read_segments(columns.arrived()[:, : len(batch.results)], types)
    except ScoreError as error:
        raise ValueError(_where(batch.results, error)) from error
    _take_segments(config, batch.results, segments)
    if least is not None:
        for result, part in zip(batch.results, candidates_of(head, least), strict=True):
            result.candidates = part
    if n_best is not None:
        found = distributions(head, config.head_temperature, types, n_best)
        for result, distribution in zip(batch.results, found, strict=True):
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
    feed: Feed,
    columns: torch.Tensor,
    allowed: torch.Tensor | None,
    threshold: float | None,
    decode: Decode | None,
) -> Any:
    """Run the model on a batch of windows, as far as the decoded segmentations."""
    output = model(
        **feed.inputs(columns),
        threshold=threshold,
        decode=decode,
        allowed_segments=allowed,
        output_head=True,
        output_logits=False,
        return_dict=True,
    )
    return output.head


def _allowed(config: Any, batch: _Batch) -> torch.Tensor | None:
    """Which segments may occur [B, T, L, C], where anything is known of a window's spans."""
    if not any(result.constraints for result in batch.results):
        return None
    size = (batch.feed.columns.shape[-1], config.scheme.types, config.max_segment_length)
    return torch.stack([allowed_segments(result.constraints, *size) for result in batch.results])


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
        result.segments = segments
        if first:
            result.segments = [
                segment._replace(first=first + segment.first, end=first + segment.end)
                for segment in segments
            ]


def _room(model: Any, tokenizer: Any, max_length: int | None) -> int | None:
    """Sub-words in a window; None for no limit."""
    limits = (max_length, longest_input(model, tokenizer))
    return min((n for n in limits if n is not None), default=None)


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
