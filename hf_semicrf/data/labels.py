"""Read labels and entities off a data set.

A data set here has one row a sentence, with a column of as many tags as words (names, or class ids
whose names stand in the data set's features).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator

from datasets import ClassLabel, Dataset

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
    names = _class_names(dataset, tags_column)
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
    names = _class_names(dataset, tags_column)
    for tags in dataset[tags_column]:
        yield [_name(tag, names) for tag in tags] if names else list(tags)


def entity_spans(
    dataset: Dataset, scheme: LabelScheme, tags_column: str = "ner_tags"
) -> Iterator[list[tuple[int, int, str]]]:
    """The entities of each sentence as (first word, word after the last, type).

    Raises:
        ValueError: A tag is not in the scheme; the message names the sentence.
    """
    for index, tags in enumerate(named_tags(dataset, tags_column)):
        try:
            yield scheme.tags_to_spans(tags)
        except ValueError as error:
            raise ValueError(f"sentence {index}: {error}") from None


def count_entities(spans: Iterable[list[tuple[int, int, str]]]) -> dict[str, int]:
    """Type to number of entities, most frequent first."""
    return dict(Counter(span[2] for sentence in spans for span in sentence).most_common())


def _name(tag: int | None, names: list[str]) -> str | None:
    """The name of a class id; None where there is none."""
    return None if tag is None or tag < 0 else names[tag]


def _class_names(dataset: Dataset, tags_column: str) -> list[str] | None:
    """The names behind class ids; None where the tags are names themselves (or have none)."""
    feature = getattr(dataset.features[tags_column], "feature", None)
    return list(feature.names) if isinstance(feature, ClassLabel) else None
