"""Measure a tagger on a data set: scores by type and by length, on neighbours, and calibration."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from hf_semicrf.data import documents_of, entity_spans, label_names, named_tags, scheme_of
from hf_semicrf.evaluation.metrics import entity_scores
from hf_semicrf.labels import UNKNOWN, LabelScheme
from hf_semicrf.options import check

if TYPE_CHECKING:
    from datasets import Dataset

    from hf_semicrf.data import ReadReport

Span = tuple[int, int, str]
ScoredSpan = tuple[int, int, str, float]

LENGTHS = ("1", "2", "3-4", "5+")


def evaluate_tagger(
    model: Any,
    tokenizer: Any,
    dataset: Dataset,
    tokens_column: str = "tokens",
    tags_column: str = "ner_tags",
    bins: int = 10,
    report: ReadReport | None = None,
    **options: Any,
) -> tuple[dict[str, float], dict[str, Any]]:
    """Tag a data set and compare with its tags, entity by entity.

    Sentences are read whole, in windows where they are longer than the encoder takes, and with
    their neighbours where the model was trained to (``model.config.neighbours``). The tags of
    the data may follow another scheme than the model's; entities of types that the model does not
    know count as not found. Predictions are compared as the data's tags can say them (see
    `as_tagged`).

    Args:
        model: A `SemiCRFForTokenClassification`.
        tokenizer: The encoder's fast tokenizer.
        dataset: Sentences and tags, as `corpora` describes them.
        tokens_column: Column of the words.
        tags_column: Column of the tags.
        bins: Of scores, as in `breakdown`.
        report: What `read_corpus` filled when it read the data; names the line in errors.
        **options: Of ``model.predict``, such as ``batch_size`` and ``threshold``.

    Returns:
        The scores of `entity_scores` over IOB2 tags, and the `breakdown`.

    Raises:
        ValueError: A tag follows no scheme, or an option is out of range.
    """
    check(bins=bins, tokens_column=tokens_column, tags_column=tags_column)
    known = model.config.scheme
    scheme = scheme_of_data(known, dataset, tags_column, report)
    gold = list(entity_spans(dataset, scheme, tags_column, report))
    sentences = list(dataset[tokens_column])
    documents = documents_of(dataset, model.config.neighbours)
    if len(documents) < len(sentences):
        texts = [sentences[first:end] for first, end in documents]
        predicted = model.predict(texts, tokenizer, **options)
        rows = _by_sentence(texts, predicted)
    else:
        rows = model.predict(sentences, tokenizer, **options)
    found = [
        as_tagged([(e["start"], e["end"], e["label"], e["score"]) for e in row], scheme)
        for row in rows
    ]
    types = dict.fromkeys([*known.types[1:], *scheme.types[1:]])
    tagged = LabelScheme.from_labels(
        ["O", *(f"{p}-{name}" for name in types for p in "BI")], "IOB2"
    )
    unscored = [[span[:3] for span in row] for row in found]
    predictions, references = (
        [tagged.spans_to_tags(row, len(words)) for row, words in zip(rows, sentences, strict=True)]
        for rows in (unscored, gold)
    )
    return entity_scores(predictions, references, tagged), breakdown(gold, found, bins)


def _by_sentence(
    texts: Sequence[Sequence[Sequence[str]]], predicted: Sequence[Sequence[Any]]
) -> list[list[dict[str, Any]]]:
    """The entities of each sentence of documents, counted from its first word.

    Args:
        texts: The words of the sentences of each document.
        predicted: The entities of each document, counted from the document's first word.
    """
    rows = []
    for sentences, entities in zip(texts, predicted, strict=True):
        ends = list(accumulate(map(len, sentences)))
        of_document: list[list[dict[str, Any]]] = [[] for _ in sentences]
        for entity in entities:
            number = bisect_right(ends, entity["start"])
            first = ends[number] - len(sentences[number])
            moved = {"start": entity["start"] - first, "end": entity["end"] - first}
            of_document[number].append({**entity, **moved})
        rows += of_document
    return rows


def scheme_of_data(
    known: LabelScheme, dataset: Dataset, tags_column: str, report: ReadReport | None
) -> LabelScheme:
    """The scheme of a data set's tags: the model's where it knows them all.

    Args:
        known: The scheme of the model.
        dataset: The data set.
        tags_column: Column of the tags.
        report: What `read_corpus` filled when it read the data.
    """
    tags = {tag for row in named_tags(dataset, tags_column) for tag in row}
    if all(known.knows(tag) for tag in tags if isinstance(tag, str) and tag != UNKNOWN):
        return known
    return scheme_of(label_names(dataset, tags_column), report)


def as_tagged(spans: Sequence[ScoredSpan], scheme: LabelScheme) -> list[ScoredSpan]:
    """Entities as they read once they have been written as tags of a scheme.

    Tags without prefixes cannot keep two neighbours of one type apart: they become one entity, as
    they are one in data with such tags. Its score is the lowest of theirs.

    Args:
        spans: Entities of a sentence that do not overlap: first word, word after the last, type,
            score.
        scheme: The scheme of the data's tags. Entities of types that it lacks stay as they are.
    """
    known = [span for span in spans if span[2] in scheme.types]
    others = [span for span in spans if span[2] not in scheme.types]
    length = max((end for _, end, _, _ in known), default=0)
    tags = scheme.spans_to_tags([span[:3] for span in known], length)
    read = [
        (first, end, name, min(s for a, b, _, s in known if a < end and first < b))
        for first, end, name in scheme.tags_to_spans(tags)
    ]
    return sorted([*read, *others])


def breakdown(
    gold: Sequence[Iterable[Span]], found: Sequence[Iterable[ScoredSpan]], bins: int = 10
) -> dict[str, Any]:
    """Scores of entities by their length and on neighbours, and how far a score can be trusted.

    An entity is right if its type and both boundaries are. The expected calibration error is the
    distance between the mean score and the precision of the entities in a bin of scores, averaged
    over the entities.

    Args:
        gold: The entities of each sentence, (first word, word after the last, type).
        found: What a tagger found in each sentence, with the probability that it gives each.
        bins: Bins of equal width on 0..1.

    Returns:
        A dictionary that can be written as JSON:

        - ``lengths``: for each of `LENGTHS` (words) that occurs, its ``precision``, ``recall``,
          ``f1``, ``number`` (in the truth) and ``predicted``;
        - ``neighbours``: the same of entities that touch another of their type, in the truth for
          the recall and in the prediction for the precision;
        - ``calibration_error``: in 0..1, 0 where nothing was found;
        - ``reliability``: of each bin that is not empty, from the lowest scores to the highest, its
          ``low`` and ``high`` end, ``score`` (the mean), ``precision`` and ``predicted``.

    Raises:
        ValueError: The two differ in length, a score is no probability, or there is no bin.

    Source: Guo et al. 2017, On Calibration of Modern Neural Networks, equation 3.
    """
    check(bins=bins)
    if len(gold) != len(found):
        raise ValueError(
            f"expected as many sentences found as gold ({len(gold)}), got {len(found)}"
        )
    truth = [{(start, end, label) for start, end, label in row} for row in gold]
    predicted = [{(start, end, label): score for start, end, label, score in row} for row in found]
    for row in predicted:
        for span, score in row.items():
            if not 0 <= score <= 1 + 1e-4:  # float32 rounds past 1
                raise ValueError(f"expected scores in 0..1, got {score} for the entity {span}")
    by_length = _scores(truth, predicted, lambda span, _: _length(span))
    neighbours = _scores(truth, predicted, lambda span, row: _touches(span, row) and "neighbours")
    return {
        "lengths": {name: by_length[name] for name in LENGTHS if name in by_length},
        "neighbours": neighbours.get("neighbours", _ratios(0, 0, 0, 0)),
        **_calibration(truth, predicted, bins),
    }


def _length(span: Span) -> str:
    """The one of `LENGTHS` that a span belongs to."""
    words = span[1] - span[0]
    return "5+" if words > 4 else "3-4" if words > 2 else str(words)


def _touches(span: Span, spans: Iterable[Span]) -> bool:
    """Whether a span ends where another of its type begins, or begins where one ends."""
    start, end, label = span
    return any(t == label and (e == start or s == end) for s, e, t in spans)


def _scores(
    truth: Sequence[Iterable[Span]],
    predicted: Sequence[Iterable[Span]],
    group: Callable[[Span, Iterable[Span]], str | bool],
) -> dict[str, dict[str, float]]:
    """Precision, recall and F1 of each group of entities.

    Args:
        truth: The entities of each sentence.
        predicted: Those that were predicted.
        group: The group of an entity among its sentence's, true or predicted; falsy for none.
    """
    # whether each entity of a group stands on the other side too
    recalled: dict[str, list[bool]] = defaultdict(list)
    right: dict[str, list[bool]] = defaultdict(list)
    for gold, found in zip(truth, predicted, strict=True):
        for matches, side, other in ((recalled, gold, found), (right, found, gold)):
            for span in side:
                if name := group(span, side):
                    matches[str(name)].append(span in other)
    return {
        name: _ratios(sum(right[name]), len(right[name]), sum(recalled[name]), len(recalled[name]))
        for name in [*recalled, *(name for name in right if name not in recalled)]
    }


def _ratios(right: int, predicted: int, recalled: int, number: int) -> dict[str, float]:
    precision = right / predicted if predicted else 0.0
    recall = recalled / number if number else 0.0
    both = precision + recall
    f1 = 2 * precision * recall / both if both else 0.0
    return {
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "number": number,
        "predicted": predicted,
    }


def _calibration(
    truth: Sequence[set[Span]], predicted: Sequence[Mapping[Span, float]], bins: int
) -> dict[str, Any]:
    """The error and the bins of `breakdown`."""
    members: dict[int, list[tuple[float, bool]]] = defaultdict(list)
    for gold, found in zip(truth, predicted, strict=True):
        for span, score in found.items():
            members[min(int(score * bins), bins - 1)].append((score, span in gold))
    reliability = [
        {
            "low": index / bins,
            "high": (index + 1) / bins,
            "score": sum(score for score, _ in inside) / len(inside),
            "precision": sum(right for _, right in inside) / len(inside),
            "predicted": len(inside),
        }
        for index, inside in sorted(members.items())
    ]
    total = sum(row["predicted"] for row in reliability)
    gaps = (row["predicted"] * abs(row["score"] - row["precision"]) for row in reliability)
    return {"calibration_error": sum(gaps) / total if total else 0.0, "reliability": reliability}
