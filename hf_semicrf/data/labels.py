"""Read labels and entities off a data set.

A data set here has one row a sentence, with a column of as many tags as words (names, or class ids
whose names stand in the data set's features).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import cast

from datasets import Dataset

from hf_semicrf.data.arrow import class_names
from hf_semicrf.data.records import ReadReport
from hf_semicrf.labels import OUTSIDE, UNKNOWN, LabelScheme
from hf_semicrf.options import check


def label_names(
    data: Dataset | Iterable[Dataset] | Mapping[str, Dataset],
    tags_column: str = "ner_tags",
    label_scheme: str | None = None,
) -> list[str]:
    """The labels of a data set, or of all its splits together.

    These are the class names where there are some, else the tags that occur, "O" first. To tags
    that occur, each type's other tags are added: those that the scheme has beside them, so that a
    tag that only another data set has is still known. None and "?" are unknown tags, no labels.

    Args:
        data: A data set, or several, such as a DatasetDict.
        tags_column: Column of the tags.
        label_scheme: The scheme of tags that occur, as a configuration has it; recognised where
            None.

    Raises:
        ValueError: There is no sentence, or tags are numbers without names.
    """
    check(tags_column=tags_column, label_scheme=label_scheme)
    if isinstance(data, Dataset):
        splits = [data]
    else:
        splits = list(data.values() if isinstance(data, Mapping) else data)
    splits = [split for split in splits if len(split)]
    if not splits:
        raise ValueError("expected a data set with at least one sentence, got an empty one")
    classes: dict[str, None] = {}  # in their order
    tags: set[str] = set()
    for split in splits:
        names = class_names(split, tags_column)
        classes |= dict.fromkeys(names or [])
        if not names:
            tags |= {tag for sentence in split[tags_column] for tag in sentence} - {None, UNKNOWN}
    if not all(isinstance(tag, str) for tag in tags):
        raise ValueError(
            f"the tags in {tags_column!r} are numbers without names: name the labels, "
            "in the order of their numbers"
        )
    if classes:
        return [*classes, *sorted(tags - classes.keys())]
    types = {tag: tag for tag in tags}
    try:
        scheme = LabelScheme.from_labels([OUTSIDE, *sorted(tags - {OUTSIDE})], label_scheme)
    except ValueError:
        pass  # what is wrong with them, who reads them says
    else:
        types |= {tag: name for name in scheme.types[1:] for tag in scheme.tags_of(name)}
    entity_tags = sorted(types.keys() - {OUTSIDE}, key=lambda tag: (types[tag], tag))
    return [OUTSIDE, *entity_tags] if OUTSIDE in tags else entity_tags


def named_tags(dataset: Dataset, tags_column: str = "ner_tags") -> Iterator[list[str | int | None]]:
    """The tags of each sentence, class ids replaced by the names of the classes or by None."""
    check(tags_column=tags_column)
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
