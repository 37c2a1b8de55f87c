"""Labels and entities, read off the tags of a data set."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import cast

from datasets import Dataset

from hf_semicrf.data.arrow import class_names
from hf_semicrf.data.records import ReadReport
from hf_semicrf.labels import OUTSIDE, UNKNOWN, LabelScheme


def label_names(dataset: Dataset, tags_column: str = "ner_tags") -> list[str]:
    """The labels of a data set: its class names, else the tags that occur, "O" first.

    Where the tags that occur are B-/I- tags, each type gets both, so that a tag that only another
    split has is still known. None and "?" are unknown tags, no labels.

    Raises:
        ValueError: The data set is empty, or its tags are numbers without names.
    """
    if not len(dataset):
        raise ValueError("expected a data set with at least one sentence, got an empty one")
    names = class_names(dataset, tags_column)
    if names:
        return names
    tags = {tag for sentence in dataset[tags_column] for tag in sentence} - {None, UNKNOWN}
    if not all(isinstance(tag, str) for tag in tags):
        raise ValueError(
            f"the tags in {tags_column!r} are numbers without names: name the labels, "
            "in the order of their numbers"
        )
    if all(re.fullmatch("O|[BI]-.+", tag) for tag in tags):
        tags |= {f"{prefix}-{tag[2:]}" for tag in tags if tag != OUTSIDE for prefix in "BI"}
    entity_tags = sorted(tags - {OUTSIDE}, key=lambda tag: (tag.partition("-")[2] or tag, tag))
    return [OUTSIDE, *entity_tags] if OUTSIDE in tags else entity_tags


def named_tags(dataset: Dataset, tags_column: str = "ner_tags") -> Iterator[list[str | int | None]]:
    """The tags of each sentence, class ids replaced by the names of the classes or by None."""
    names = class_names(dataset, tags_column)
    for tags in dataset[tags_column]:
        yield [_name(tag, names) for tag in tags] if names else list(tags)


def entity_spans(
    dataset: Dataset,
    scheme: LabelScheme,
    tags_column: str = "ner_tags",
    report: ReadReport | None = None,
) -> Iterator[list[tuple[int, int, str]]]:
    """The entities of each sentence as (first word, word after the last, type).

    Args:
        dataset: The data set.
        scheme: The scheme of its tags.
        tags_column: Name of the column of tags.
        report: What `read_corpus` filled when it made the data set; names the line in errors.

    Raises:
        ValueError: A tag is not in the scheme; the message names the line, or the sentence.
    """
    for index, tags in enumerate(named_tags(dataset, tags_column)):
        try:
            yield scheme.tags_to_spans(cast(list, tags))
        except ValueError as error:
            place = f"sentence {index}"
            if report is not None and index < len(report.places):
                unknown = [t for t in tags if isinstance(t, str) and t not in scheme.labels]
                place = report.tags.get(next(iter(unknown), ""), report.places[index])
            raise ValueError(f"{place}: {error}") from None


def scheme_of(
    labels: Sequence[str], report: ReadReport | None = None, name: str | None = None
) -> LabelScheme:
    """The scheme of a label list; `LabelScheme.from_labels` whose errors name the line.

    Args:
        labels: Tag names in the order of their ids.
        report: What `read_corpus` filled when it read the tags.
        name: The scheme, where it should not be recognised.

    Raises:
        ValueError: They follow no scheme; the message names where the tag that it shows stands.
    """
    try:
        return LabelScheme.from_labels(labels, name)
    except ValueError as error:
        if report is None:
            raise
        shown = [tag for tag in report.tags if f"got {tag!r}" in str(error)]
        raise ValueError(f"{report.place_of(next(iter(shown), ''))}: {error}") from None


def count_entities(spans: Iterable[list[tuple[int, int, str]]]) -> dict[str, int]:
    """Type to number of entities, most frequent first."""
    return dict(Counter(span[2] for sentence in spans for span in sentence).most_common())


def _name(tag: int | None, names: list[str]) -> str | None:
    """The name of a class id; None where there is none."""
    return None if tag is None or tag < 0 else names[tag]
