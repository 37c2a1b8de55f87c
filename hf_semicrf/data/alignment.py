"""Align tags with sub-words: the columns that the model trains on.

The lattice is over words, and a word stands at its first sub-word: ``word_mask`` is 1 there and
``labels`` holds the word's tag; everywhere else they are 0 and -100.
"""

from __future__ import annotations

import warnings
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any, Protocol

from transformers import PreTrainedTokenizerBase

from hf_semicrf.data.neighbours import AFTER, BEFORE
from hf_semicrf.labels import UNKNOWN_TAG, LabelScheme, Rules, types_as_bits
from hf_semicrf.options import check
from hf_semicrf.text import (
    AS_WRITTEN,
    FUNCTION,
    WINDOW_LENGTH,
    Splitter,
    around,
    attached,
    check_room,
    first_subwords,
    is_prepared,
    tokenize_words,
    training_windows,
)


class HasScheme(Protocol):
    """What has a label scheme: the configuration of a model."""

    @property
    def scheme(self) -> LabelScheme:
        """The labels read as a tagging scheme."""


Tokenized = tuple[dict[str, list[int]], list[int | None]]  # inputs, and the word of each sub-word
SchemeSource = Mapping[str, int] | LabelScheme | HasScheme


@dataclass
class AlignmentCounts:
    """What `TokenizeAndAlign` met so far.

    Attributes:
        sentences: Sentences in all.
        truncated_sentences: Sentences of more than `max_length` sub-words.
        lost_words: Words behind the cut; none with windows.
        lost_entities: Entities behind the cut, or longer than a window.
        long_entities: Entities of more than `max_segment_length` words, which train as pieces.
    """

    sentences: int = 0
    truncated_sentences: int = 0
    lost_words: int = 0
    lost_entities: int = 0
    long_entities: int = 0


class TokenizeAndAlign:
    """Tokenise split sentences and put each word's tag on its first sub-word.

    For ``dataset.map(..., batched=True)``. Tags are names, or class ids: those of the data set's
    ClassLabel where it has one (translated by name, whatever their order), else ids of `labels`.
    Without the tags column the result has ``word_mask`` but no ``labels``. A tag of None, "?" or
    -100 is unknown: its label is -100 inside ``word_mask``.

    Long sentences are cut between words, before an entity that would be cut, or become several rows
    with `windows`. Words without sub-words keep their place, as in `tokenize_words`. The first loss
    and the first too long entity warn, once each; `counts` has the figures (with ``num_proc``, each
    worker counts and warns for itself).

    A sentence whose row knows its neighbours (`with_neighbours`) is read in a window with them: up
    to `window_length` sub-words, as much on both sides if it is there. Only its own words are in
    ``word_mask``.

    Args:
        tokenizer: As `prepare_tokenizer` returns it.
        labels: The model's configuration, ``model.config``; or a `LabelScheme`; or tag name to tag
            id, whose scheme is recognised from the names.
        max_length: Sub-words in a sentence, special tokens included; by default the tokenizer's
            own limit, if it has one.
        tokens_column: Column of the sentences, each a list of words.
        tags_column: Column of the tags, one a word; may be missing.
        max_segment_length: The model's, to count the entities that are longer.
        types_column: Column of the types that each word may have, where its tag is unknown: a list
            of type names a word, an empty one for any; may be missing.
        constraints: The model's, to refuse tags that break them; with `max_segment_length`.
        windows: Whether a sentence of more than `max_length` sub-words becomes several rows, so
            that no word is lost: windows, each with a section of its words in ``word_mask`` and the
            words around it as context. ``dataset.map`` needs ``remove_columns`` then.
        splitter: The model's, which says whether words are tokenised as people write them (see
            `hf_semicrf.text.attached`); that of the configuration by default.
        label_scheme: The scheme of the tags, where `labels` are names with ids and it should not be
            recognised from them.
        window_length: Sub-words in a window with neighbours, special tokens included; that of the
            configuration by default.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        labels: SchemeSource,
        max_length: int | None = None,
        tokens_column: str = "tokens",
        tags_column: str = "ner_tags",
        max_segment_length: int | None = None,
        types_column: str = "allowed_types",
        constraints: Mapping[str, Any] | None = None,
        label_scheme: str | None = None,
        splitter: str | None = None,
        windows: bool = False,
        window_length: int | None = None,
    ) -> None:
        """See the class."""
        own = check(max_length=max_length, windows=windows, types_column=types_column)
        if window_length is None:
            window_length = getattr(labels, "window_length", WINDOW_LENGTH)
        self.window_length = check(window_length=window_length)["window_length"]
        check(tokens_column=tokens_column, tags_column=tags_column)
        if max_segment_length is not None:
            check(max_segment_length=max_segment_length)
        if splitter != FUNCTION:
            Splitter.of(splitter)
        if not is_prepared(tokenizer):
            raise ValueError("expected a tokenizer that went through prepare_tokenizer")
        max_length = own["max_length"]
        if max_length is None and tokenizer.model_max_length < 10**6:
            max_length = tokenizer.model_max_length
        check_room(tokenizer, max_length)
        self.tokenizer = tokenizer
        self.scheme = _scheme(labels, label_scheme)
        name = splitter or getattr(labels, "splitter", None)
        self.as_written = name in AS_WRITTEN
        self.windows = windows
        self.max_length = max_length
        self.tokens_column = tokens_column
        self.tags_column = tags_column
        self.max_segment_length = max_segment_length
        self.types_column = types_column
        self.rules = None
        if constraints:
            if max_segment_length is None:
                raise ValueError("expected max_segment_length together with constraints, got None")
            self.rules = Rules.read(constraints, self.scheme.types, max_segment_length)
        self.counts = AlignmentCounts()

    def __getstate__(self) -> dict[str, Any]:
        """The state without the counts: what `dataset.map` caches by depends on settings only."""
        return {**self.__dict__, "counts": AlignmentCounts()}

    def __call__(self, batch: Mapping[str, Sequence]) -> dict[str, list[list[int]]]:
        """Tokenise a batch of sentences.

        Args:
            batch: Columns of a data set.

        Returns:
            The tokenizer's columns, ``word_mask``, and ``labels`` and ``allowed_types`` if there
            are tags and types.

        Raises:
            ValueError: A column is missing, a sentence has no words or not one tag a word, a tag is
                not in `labels`, or tags break the constraints; the message names the row.
        """
        sentences = self._sentences(batch)
        tags = self._tags(batch, sentences)
        types = self._allowed_types(batch, sentences)
        before = AlignmentCounts(**asdict(self.counts))
        columns: dict[str, list[list[int]]] = {}
        before_each, after_each = _neighbours(batch, len(sentences))
        tokenized = self._tokenized([*sentences, *chain(*before_each, *after_each)])
        for row, (left, own, right) in enumerate(
            zip(before_each, sentences, after_each, strict=True)
        ):
            inputs, word_ids = _joined([tokenized[tuple(words)] for words in (*left, own, *right)])
            spans = self.scheme.tags_to_spans(tags[row]) if tags is not None else []
            at, words = sum(map(len, left)), len(own)
            pieces = self._pieces(word_ids, at, words, spans)
            for positions, first, end in pieces:
                piece = {name: [values[n] for n in positions] for name, values in inputs.items()}
                firsts = [
                    None if word is None or not first <= word - at < end else word - at
                    for word in first_subwords([word_ids[n] for n in positions])
                ]
                piece["word_mask"] = [int(word is not None) for word in firsts]
                if tags is not None:
                    piece["labels"] = [
                        UNKNOWN_TAG if word is None else tags[row][word] for word in firsts
                    ]
                if types is not None:
                    piece["allowed_types"] = [
                        -1 if word is None else types[row][word] for word in firsts
                    ]
                for name, values in piece.items():
                    columns.setdefault(name, []).append(values)
            subwords = sum(n is None or at <= n < at + words for n in word_ids)
            self._count(words, subwords, [p[1:] for p in pieces], spans)
        self._warn(before)
        return columns

    def _tokenized(self, sentences: Iterable[Sequence[str]]) -> dict[tuple[str, ...], Tokenized]:
        """The inputs and the words of each sentence, which is tokenised once."""
        distinct = list(dict.fromkeys(map(tuple, sentences)))
        joins = [attached(words) for words in distinct] if self.as_written else None
        tokenized = tokenize_words(self.tokenizer, distinct, attached=joins)
        return dict(zip(distinct, tokenized, strict=True))

    def _sentences(self, batch: Mapping[str, Sequence]) -> list[list[str]]:
        if self.tokens_column not in batch:
            raise ValueError(
                f"expected a column {self.tokens_column!r} of words, got the columns "
                f"{list(batch)}; pass tokens_column=..."
            )
        sentences = list(batch[self.tokens_column])
        for row, words in enumerate(sentences):
            if words is None or isinstance(words, str):
                raise ValueError(
                    f"expected a list of words in {self.tokens_column!r}, got {words!r} in "
                    f"{_row(batch, row)}"
                )
            if len(words) == 0:
                raise ValueError(
                    f"expected at least one word a sentence, got none in {_row(batch, row)}"
                )
            for word in words:
                if not isinstance(word, str):
                    raise ValueError(f"expected words, got {word!r} in {_row(batch, row)}")
        return [list(words) for words in sentences]

    def _tags(self, batch: Mapping[str, Sequence], sentences: list[list[str]]):
        """The tag ids of each sentence, or None."""
        if self.tags_column not in batch:
            return None
        features = getattr(getattr(batch, "formatter", None), "features", None)
        names = _class_names(features, self.tags_column)
        tags = []
        for row, (words, values) in enumerate(zip(sentences, batch[self.tags_column], strict=True)):
            if values is None or len(values) != len(words):
                count = "none" if values is None else len(values)
                raise ValueError(
                    f"expected a tag for each of the {len(words)} words, got {count} in "
                    f"{_row(batch, row)}"
                )
            try:
                tags.append(self.scheme.tag_ids(_named(values, names)))
            except ValueError as error:
                raise ValueError(f"{error}; found in {_row(batch, row)}") from None
        if self.rules is not None:
            for row, allowed in enumerate(self.rules.allow(self.scheme, tags)):
                if not allowed:
                    broken = batch[self.tags_column][row]
                    raise ValueError(
                        f"expected tags that the constraints allow, got {broken} in "
                        f"{_row(batch, row)}"
                    )
        return tags

    def _allowed_types(self, batch: Mapping[str, Sequence], sentences: list[list[str]]):
        """The types that each word may have, as the bits of an integer, or None."""
        if self.types_column not in batch:
            return None
        rows = []
        for row, (words, names) in enumerate(zip(sentences, batch[self.types_column], strict=True)):
            if len(names) != len(words):
                raise ValueError(
                    f"expected a list of types for each of the {len(words)} words, got "
                    f"{len(names)} in {_row(batch, row)}"
                )
            rows.append([types_as_bits(n, self.scheme.types) if n else -1 for n in names])
        return rows

    def _pieces(
        self,
        word_ids: Sequence[int | None],
        at: int,
        words: int,
        spans: Sequence[tuple[int, int, str]],
    ) -> list[tuple[list[int], int, int]]:
        """The rows that a sentence becomes: sub-words, and the words [first, end) of the lattice.

        Args:
            word_ids: The word of each sub-word, of the sentence and its neighbours.
            at: The sentence's first word among these.
            words: Its words.
            spans: Its entities.
        """
        inside = [n for n, word in enumerate(word_ids) if word is not None]
        before, after = inside[0], inside[-1] + 1  # the special tokens are around these
        bounds = [n for n, word in enumerate(first_subwords(word_ids)) if word is not None] + [
            after
        ]
        special = len(word_ids) - len(inside)
        own = bounds[at : at + words + 1]
        size = own[-1] - own[0]
        room = size if self.max_length is None else self.max_length - special
        cuts: Iterable[tuple[int, int, int, int]]
        if size <= room:
            left, right = at, at + words
            if len(bounds) > len(own):
                left, right = around(bounds, left, right, min(self.window_length - special, room))
            cuts = [(0, words, left - at, right - at)]
        elif self.windows:
            cuts = training_windows(own, room, [span[:2] for span in spans])
        else:
            end = max(bisect_right(own, own[0] + room) - 1, 1)
            for start, stop, _ in spans:
                if 0 < start < end < stop:
                    end = start
            cuts = [(0, end, 0, end)]
        return [
            (
                [
                    *range(before),
                    *range(bounds[at + left], min(bounds[at + right], bounds[at + left] + room)),
                    *range(after, len(word_ids)),
                ],
                first,
                end,
            )
            for first, end, left, right in cuts
        ]

    def _count(
        self,
        words: int,
        subwords: int,
        sections: Sequence[tuple[int, int]],
        spans: Sequence[tuple[int, int, str]],
    ) -> None:
        counts, longest = self.counts, self.max_segment_length
        counts.sentences += 1
        counts.truncated_sentences += self.max_length is not None and subwords > self.max_length
        counts.lost_words += words - sections[-1][1]
        counts.lost_entities += sum(
            not any(first <= start and end <= last for first, last in sections)
            for start, end, _ in spans
        )
        if longest is not None:
            counts.long_entities += sum(end - start > longest for start, end, _ in spans)

    def _warn(self, before: AlignmentCounts) -> None:
        counts = self.counts
        lost, lost_before = (c.lost_words + c.lost_entities for c in (counts, before))
        if lost and not lost_before:
            warnings.warn(
                f"{counts.truncated_sentences} of {counts.sentences} sentences so far are longer "
                f"than max_length={self.max_length} sub-words: {counts.lost_words} words and "
                f"{counts.lost_entities} entities are cut off (all of them: .counts)",
                stacklevel=3,
            )
        if counts.long_entities and not before.long_entities:
            warnings.warn(
                f"{counts.long_entities} entities in {counts.sentences} sentences so far have more "
                f"than max_segment_length={self.max_segment_length} words and train as pieces (all "
                "of them: .counts); choose_max_segment_length picks a length from the data",
                stacklevel=3,
            )


def longest_entity(tags: Iterable[Sequence[int | str]], scheme: LabelScheme) -> int:
    """The words of the longest entity in a data set, 0 if it has none.

    Args:
        tags: Tag names or ids of `scheme` for each sentence, such as ``dataset["ner_tags"]``.
        scheme: Their scheme.
    """
    return max(
        (end - start for row in tags for start, end, _ in scheme.tags_to_spans(row)), default=0
    )


def choose_max_segment_length(
    tags: Iterable[Sequence[int | str]], scheme: LabelScheme, limit: int = 32
) -> int:
    """A `max_segment_length` for a data set: its longest entity, at least 1 and at most `limit`.

    The cost of the model is linear in it, and one odd annotation should not set it; entities above
    the limit train as pieces.

    Raises:
        ValueError: The limit is below 1, or a tag is not in the scheme.
    """
    check(limit=limit)
    return min(max(longest_entity(tags, scheme), 1), limit)


def _joined(sentences: Sequence[Tokenized]) -> Tokenized:
    """Sentences as one, with special tokens around them all; words are counted through."""
    if len(sentences) == 1:
        return sentences[0]
    columns: dict[str, list[int]] = {name: [] for name in sentences[0][0]}
    joined: list[int | None] = []
    words = 0
    for number, (inputs, word_ids) in enumerate(sentences):
        inside = [n for n, word in enumerate(word_ids) if word is not None]
        first = inside[0] if number else 0
        end = inside[-1] + 1 if number + 1 < len(sentences) else len(word_ids)
        for name, values in inputs.items():
            columns[name] += values[first:end]
        joined += [None if word is None else words + word for word in word_ids[first:end]]
        words = next(word for word in reversed(joined) if word is not None) + 1
    return columns, joined


def _neighbours(
    batch: Mapping[str, Sequence], rows: int
) -> tuple[Sequence[list[list[str]]], Sequence[list[list[str]]]]:
    """The sentences before and after each row, none where the batch knows none."""
    if BEFORE not in batch or AFTER not in batch:
        return [[]] * rows, [[]] * rows
    return batch[BEFORE], batch[AFTER]


def _scheme(labels: SchemeSource, name: str | None) -> LabelScheme:
    """The scheme of what `TokenizeAndAlign` takes as labels."""
    if isinstance(labels, Mapping):
        return LabelScheme.from_labels({index: tag for tag, index in labels.items()}, name)
    scheme = labels if isinstance(labels, LabelScheme) else labels.scheme
    return scheme if name is None else LabelScheme.from_labels(scheme.labels, name)


def _class_names(features: Mapping[str, Any] | None, column: str) -> list[str] | None:
    """The class names of a column of lists, where the data set has them."""
    spec = (features or {}).get(column)
    inner = spec[0] if isinstance(spec, list) else getattr(spec, "feature", None)
    return getattr(inner, "names", None)


def _named(tags: Sequence[int | str], names: list[str] | None) -> list[int | str]:
    """Tags with class ids replaced by the names of the classes."""
    if names is None:
        return list(tags)
    return [
        tag if tag is None or isinstance(tag, str) or not 0 <= tag < len(names) else names[tag]
        for tag in tags
    ]


def _row(batch: Mapping[str, Sequence], row: int) -> str:
    """A row of a batch in words, with its id where the data set has one."""
    return f"row {row} of the batch" + (f" (id {batch['id'][row]!r})" if "id" in batch else "")
