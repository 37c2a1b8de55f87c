"""Decode a semi-Markov CRF with NumPy alone: what an exported model needs beside its ONNX file.

This file imports nothing of the package, so that it can be shipped without PyTorch. Potentials are
a dictionary of arrays in nats, as `hf_semicrf.ops.Potentials` names and shapes them: B sentences,
N positions, segments of up to L positions, C types of which type 0 is the outside. All arithmetic
is float64; a step of a recurrence is one vectorised operation over B, L and C.

    session = onnxruntime.InferenceSession("model.onnx")
    decoder = Decoder.load("decoder.json")
    names = [output.name for output in session.get_outputs()]
    outputs = session.run(names, {**tokens, "word_index": word_index(word_ids, words)})
    entities = decoder.entities(dict(zip(names, outputs)), [len(row) for row in words])
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

Arrays = Mapping[str, np.ndarray]


class Segmentations(NamedTuple):
    """The decoded segmentation of each sentence; past its length labels -1, starts False, 0.

    Args:
        labels: Type of each position [B, N] int64.
        starts: Whether a segment starts at the position [B, N] bool.
        posteriors: Probability of the segment that covers each position [B, N] float64.
    """

    labels: np.ndarray
    starts: np.ndarray
    posteriors: np.ndarray


class Decoder(NamedTuple):
    """From the potentials of an exported model to its entities.

    Args:
        types: Segment types, the outside type first.
        threshold: Posterior that a segment of one word has to exceed; None for the most probable
            segmentation as a whole.
        temperature: What all potentials are divided by.
        tags: Tag names in the order of their ids.
        written: Tag of a word by type, then by whether it starts a segment right after one of its
            type (4), starts one (2) and ends one (1) [C * 8].
        threshold_factor: What each further word of a segment multiplies the threshold by.
    """

    types: Sequence[str]
    threshold: float | None
    temperature: float
    tags: Sequence[str]
    written: Sequence[int]
    threshold_factor: float = 1.0

    @classmethod
    def load(cls, path: str | Path) -> Decoder:
        """Read decoder.json as `hf_semicrf.export.onnx` writes it."""
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        return cls(**{name: values[name] for name in cls._fields if name in values})

    def decode(self, potentials: Arrays, lengths: np.ndarray) -> Segmentations:
        """Decode a batch as the model that was exported does.

        Args:
            potentials: Arrays by name; those that a scorer does not give are absent or None.
            lengths: Words of each sentence [B].

        Raises:
            ValueError: A sentence has more words than the potentials have positions.
        """
        present = {name: x for name, x in potentials.items() if x is not None}
        tempered = {
            name: x if name == "order" else np.asarray(x) / self.temperature
            for name, x in present.items()
        }
        threshold: float | np.ndarray | None = self.threshold
        if self.threshold is not None and self.threshold_factor != 1:
            longest = len(tempered["duration"])
            threshold = self.threshold * self.threshold_factor ** np.arange(longest)[:, None]
        return decode(tempered, lengths, threshold)

    def entities(self, potentials: Arrays, lengths: np.ndarray) -> list[list[dict[str, Any]]]:
        """The entities of each sentence: ``label``, ``score``, ``start`` and ``end`` in words.

        Args:
            potentials: As `decode` takes them.
            lengths: Words of each sentence [B].
        """
        labels, starts, posteriors = self.decode(potentials, lengths)
        return [
            [
                {
                    "label": self.types[kind],
                    "score": float(scores[begin]),
                    "start": begin,
                    "end": end,
                }
                for begin, end, kind in segments
                if kind > 0
            ]
            for segments, scores in zip(_segments(labels, starts), posteriors, strict=True)
        ]

    def tag_names(self, potentials: Arrays, lengths: np.ndarray) -> list[list[str]]:
        """The tag of each word, in the scheme that the model was trained on.

        Args:
            potentials: As `decode` takes them.
            lengths: Words of each sentence [B].
        """
        labels, starts, _ = self.decode(potentials, lengths)
        changes = labels[:, 1:] != labels[:, :-1]
        after_other = np.pad(changes, ((0, 0), (1, 0)), constant_values=True)
        ends = np.pad(changes | starts[:, 1:], ((0, 0), (0, 1)), constant_values=True)
        key = (starts & ~after_other) * 4 + starts * 2 + ends * 1
        tags = np.asarray(self.written)[labels * 8 + key]
        return [
            [self.tags[tag] for tag in row[:length]]
            for row, length in zip(tags, lengths, strict=True)
        ]


def word_index(
    word_ids: Sequence[Sequence[int | None]], words: Sequence[Sequence[str]]
) -> np.ndarray:
    """Where the words of a batch stand: ``word_index`` of an exported model.

    Args:
        word_ids: The word of each sub-word of each sentence, None at special tokens.
        words: The words of each sentence.

    Returns:
        First sub-word of each word [B, N] int64, -1 past a sentence's words; N is the longest
        sentence's.

    Raises:
        ValueError: The tokenizer dropped a word, or cut it off.
    """
    index = np.full((len(words), max([1, *map(len, words)])), -1)
    for row, (ids, sentence) in enumerate(zip(word_ids, words, strict=True)):
        for at in range(len(ids) - 1, -1, -1):  # the first sub-word of a word is written last
            if ids[at] is not None:
                index[row, ids[at]] = at
        missing = np.flatnonzero(index[row, : len(sentence)] < 0)
        if missing.size:
            raise ValueError(
                f"expected sub-words of every word, got none of word {missing[0]}, "
                f"{sentence[missing[0]]!r}, of sentence {row}: the tokenizer dropped it (put the "
                "unknown token in its place) or cut it off"
            )
    return index


def decode(
    potentials: Arrays, lengths: np.ndarray, threshold: float | np.ndarray | None
) -> Segmentations:
    """Decode potentials: segments above a threshold, or the most probable segmentation.

    O(N (L C + C^2)) time; the scores of all segments are held, B N L C numbers. Where lengths have
    a tail, L is N.

    Args:
        potentials: Arrays by name, in nats; with a tail also ``enter`` [C], ``stay`` [C] and its
            ``order``, as `hf_semicrf.ops.TailedPotentials` has them.
        lengths: Positions of each sentence [B]; those of length 0 come out empty.
        threshold: As `Decoder` has it, or one for each length less one and type [L, C] or [L, 1].

    Raises:
        ValueError: A sentence has more words than the potentials have positions.
    """
    lengths = np.asarray(lengths)
    if "enter" in potentials:
        potentials = written_out(potentials)
    scores = segment_scores(potentials, np.maximum(lengths, 1))
    transition, initial, final = (
        np.asarray(potentials[name], dtype=np.float64)
        for name in ("transition", "initial", "final")
    )
    posterior = segment_posteriors(scores, transition, initial, final, np.maximum(lengths, 1))
    if threshold is None:
        labels, starts = best(scores, transition, initial, final, lengths)
    else:
        # what the scores forbid stays forbidden; the outside counts nothing and has length 1
        gain = posterior - threshold
        gain[:, :, 0, 0], gain[:, :, 1:, 0] = 0, -np.inf
        scores = np.where(np.isneginf(scores), scores, gain)
        transition, initial, final = (
            np.where(np.isneginf(x), x, 0) for x in (transition, initial, final)
        )
        labels, starts = best(scores, transition, initial, final, lengths)
    return Segmentations(labels, starts, _at_segments(posterior, labels, starts))


def written_out(potentials: Arrays) -> dict[str, np.ndarray]:
    """Potentials with a score of every length, of those whose lengths have a tail.

    Args:
        potentials: As `decode` takes them.
    """
    rest = {k: x for k, x in potentials.items() if k not in ("enter", "stay", "order")}
    local = (rest.get(name) for name in ("emission", "start", "end"))
    positions = next(np.shape(x)[1] for x in local if x is not None)
    duration, enter, stay = (
        np.asarray(potentials[name], dtype=np.float64) for name in ("duration", "enter", "stay")
    )
    more = np.arange(max(0, positions - len(duration)), dtype=np.float64)[:, None]
    stayed = np.where(more > 0, more * np.where(np.isneginf(stay), 0, stay), 0)
    stayed = np.where((more > 0) & np.isneginf(stay), -np.inf, stayed)
    order = int(potentials.get("order", 1))
    ways = sum((np.log1p(more / n) for n in range(1, order)), np.zeros_like(more))
    return {**rest, "duration": np.concatenate([duration, enter + stayed + ways])}


def segment_scores(potentials: Arrays, lengths: np.ndarray) -> np.ndarray:
    """The score of every segment [B, N, L, C] float64, by start and length less one.

    A segment that leaves its sentence scores -inf. Emissions are added one position at a time, so
    no difference of prefix sums loses digits.

    Args:
        potentials: Arrays by name, in nats.
        lengths: Positions of each sentence [B], 1..N.
    """
    present = {k: np.asarray(x, dtype=np.float64) for k, x in potentials.items() if x is not None}
    local = [present[k] for k in ("emission", "segment", "start", "end") if k in present]
    if not local:
        raise ValueError("expected at least one of emission, segment, start and end; got none")
    batch, positions = local[0].shape[:2]
    if lengths.max(initial=0) > positions:
        raise ValueError(
            f"expected sentences of at most the {positions} words that the potentials have, got "
            f"{lengths.max()}: see `word_index`"
        )
    longest, types = present["duration"].shape
    scores = np.full((batch, positions, longest, types), -np.inf)
    content = np.zeros((batch, positions, types))
    for d in range(min(longest, positions)):  # length less one
        begins, ends = slice(0, positions - d), slice(d, positions)
        content = content[:, : positions - d]
        if "emission" in present:
            content = content + present["emission"][:, ends]
        score = content + present["duration"][d]
        if "start" in present:
            score = score + present["start"][:, begins]
        if "end" in present:
            score = score + present["end"][:, ends]
        if "segment" in present:
            score = score + present["segment"][:, begins, d]
        inside = np.arange(d, positions) < lengths[:, None]
        scores[:, begins, d] = np.where(inside[..., None], score, -np.inf)
    return scores


def segment_posteriors(
    scores: np.ndarray,
    transition: np.ndarray,
    initial: np.ndarray,
    final: np.ndarray,
    lengths: np.ndarray,
) -> np.ndarray:
    """Probability of every segment [B, N, L, C], by the forward-backward algorithm.

    Args:
        scores: Score of every segment [B, N, L, C], as `segment_scores` returns it.
        transition: Score of type ``dst`` directly after type ``src`` [C_src, C_dst].
        initial: Score of the first segment's type [C].
        final: Score of the last segment's type [C].
        lengths: Positions of each sentence [B], 1..N.
    """
    batch, positions, longest, types = scores.shape
    # pre: all prefixes of [0, n), entering a type; post: all suffixes of [n, length), leaving one
    pre = np.full((batch, positions + 1, types), -np.inf)
    post = np.full_like(pre, -np.inf)
    pre[:, 0] = initial
    for end in range(1, positions + 1):
        ended = _log_sum(pre[:, :end][:, -longest:] + _ending(scores, end), 1)
        pre[:, end] = _log_sum(ended[..., None] + transition, 1)
    post[np.arange(batch), lengths] = final
    for begin in range(positions - 1, -1, -1):
        room = min(longest, positions - begin)
        begun = _log_sum(scores[:, begin, :room] + post[:, begin + 1 : begin + 1 + room], 1)
        left = _log_sum(begun[:, None] + transition, 2)
        post[:, begin] = np.where((begin < lengths)[:, None], left, post[:, begin])
        if begin == 0:
            log_z = _log_sum(initial + begun, 1)
    log_p = np.full_like(scores, -np.inf)
    for d in range(min(longest, positions)):
        begins = slice(0, positions - d)
        log_p[:, begins, d] = pre[:, begins] + scores[:, begins, d] + post[:, d + 1 :]
    possible = np.isfinite(log_z)[:, None, None, None]
    shift = np.where(possible, log_z[:, None, None, None], 0)
    return np.where(possible, np.exp(log_p - shift), 0)


def best(
    scores: np.ndarray,
    transition: np.ndarray,
    initial: np.ndarray,
    final: np.ndarray,
    lengths: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """The highest-scoring segmentation: labels [B, N] and starts [B, N].

    Ties go to the shorter segment and the lower type. Arguments as `segment_posteriors`; a length
    may be 0.
    """
    batch, positions, longest, types = scores.shape
    pre = np.full((batch, positions + 1, types), -np.inf)
    pre[:, 0] = initial
    ended = np.full_like(pre, -np.inf)
    duration = np.zeros(pre.shape, dtype=np.int64)  # of the best segment that ends there
    source = np.zeros(pre.shape, dtype=np.int64)  # the best type before a boundary
    for end in range(1, positions + 1):
        # the shortest segment first: argmax takes the first of equals
        window = (pre[:, :end][:, -longest:] + _ending(scores, end))[:, ::-1]
        duration[:, end] = window.argmax(1) + 1
        ended[:, end] = window.max(1)
        entered = ended[:, end, :, None] + transition
        source[:, end], pre[:, end] = entered.argmax(1), entered.max(1)
    labels = np.full((batch, positions), -1)
    starts = np.zeros((batch, positions), dtype=bool)
    for row, end in enumerate(lengths):
        kind = int((ended[row, end] + final).argmax())
        while end > 0:
            begin = end - int(duration[row, end, kind])
            labels[row, begin:end], starts[row, begin] = kind, True
            end, kind = begin, int(source[row, begin, kind])
    return labels, starts


def _ending(scores: np.ndarray, end: int) -> np.ndarray:
    """Scores [B, min(L, end), C] of the segments that end before ``end``, the longest first."""
    begins = np.arange(max(0, end - scores.shape[2]), end)
    return scores[:, begins, end - 1 - begins]


def _log_sum(x: np.ndarray, axis: int) -> np.ndarray:
    """Log-sum-exp along an axis, -inf where all is -inf."""
    top = x.max(axis, keepdims=True)
    top = np.where(np.isfinite(top), top, 0)
    with np.errstate(divide="ignore"):
        return np.log(np.exp(x - top).sum(axis)) + top.squeeze(axis)


def _segments(labels: np.ndarray, starts: np.ndarray) -> list[list[tuple[int, int, int]]]:
    """First position, position after the last and type of each segment of each sentence."""
    rows = []
    for kinds, opens in zip(labels, starts, strict=True):
        begins = np.flatnonzero(opens)
        ends = np.append(begins, (kinds >= 0).sum())[1:]
        rows.append(list(zip(begins.tolist(), ends.tolist(), kinds[begins].tolist(), strict=True)))
    return rows


def _at_segments(values: np.ndarray, labels: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """The value of the segment that covers each position [B, N]; 0 past the length."""
    read = np.zeros(labels.shape)
    for row, segments in enumerate(_segments(labels, starts)):
        for begin, end, kind in segments:
            read[row, begin:end] = values[row, begin, end - begin - 1, kind]
    return read
