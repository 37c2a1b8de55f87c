"""What users hold in their hands: the entities of a text, and what else is known of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

if TYPE_CHECKING:
    from torch import Tensor


class Segment(NamedTuple):
    """A segment of a text's words, before it is placed in the text.

    Args:
        first: Its first word.
        end: The word after its last.
        type: Name of its type.
        posterior: Probability of exactly this segment.
    """

    first: int
    end: int
    type: str
    posterior: float


class Entity(TypedDict):
    """An entity of a text; a dictionary.

    Attributes:
        label: Its type.
        score: Probability of exactly this segment, in 0..1.
        start: Where it begins: a character of a string, a word of a list.
        end: Where it ends, half-open, in the same units.
        text: The characters of the string, or the words of the list joined by spaces.
    """

    label: str
    score: float
    start: int
    end: int
    text: str


class TimedSegment(TypedDict):
    """A segment of a recording; a dictionary.

    Attributes:
        label: Its type.
        score: Probability of exactly this segment, in 0..1.
        start: Where it begins, in seconds.
        end: Where it ends, in seconds.
    """

    label: str
    score: float
    start: float
    end: float


@dataclass(frozen=True)
class Prediction:
    """A text, its entities and how sure they are.

    Attributes:
        text: The text as it was given: a string or a list of words.
        entities: What ``predict`` returns.
        words: Where each of the W words begins and ends, half-open; characters of a string, words
            of a list.
        types: Segment types in the order of the posteriors; the first is "O".
        token: Probability that a word lies in a segment of each type [W, C].
        start: Probability that a segment of each type starts at the word [W, C].
        end: Probability that a segment of each type ends with the word [W, C].
        entropy: Entropy of the distribution over the text's segmentations, in nats: 0 where the
            model is certain. Of a text in several windows, the sum of theirs, each in the share of
            its words that it answers for.
        alternatives: The ``n_best`` most probable segmentations, best first: mappings with
            "probability" and "entities" (as above, without scores). No two have the same entities.
            Empty unless asked for.
    """

    text: str | Sequence[str]
    entities: list[Entity]
    words: list[tuple[int, int]]
    types: tuple[str, ...]
    token: Tensor
    start: Tensor
    end: Tensor
    entropy: float
    alternatives: list[dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """All of it as lists, strings and numbers, which JSON can hold."""
        return {
            "text": self.text if isinstance(self.text, str) else list(self.text),
            "entities": self.entities,
            "words": [list(span) for span in self.words],
            "types": list(self.types),
            "token": self.token.tolist(),
            "start": self.start.tolist(),
            "end": self.end.tolist(),
            "entropy": self.entropy,
            "alternatives": self.alternatives,
        }


class PromisedPart(TypedDict):
    """A threshold of a promise, and what it was read off.

    Attributes:
        type: The type whose entities it is of; None for all.
        threshold: The least posterior of a candidate.
        documents: Documents with such entities, less the largest, which is set aside.
        entities: Their entities.
        missed: Those of them that are missed.
        largest: Entities of the largest document: the promise is of documents with no more.
        extra_words: Words of candidates that lie in no entity, as a share of those that do.
        method: How the threshold was found.
    """

    type: str | None
    threshold: float
    documents: int
    entities: int
    missed: int
    largest: int
    extra_words: float
    method: str


class Promise(TypedDict):
    """A recall that was calibrated, as a configuration's ``promises`` hold it.

    Attributes:
        recall: The share of entities that is found, at least.
        confidence: The share of calibration data for which that is so; None for the expectation.
        covering: "words" where an entity is found if all its words lie in candidates, "exact" if
            it is one of them.
        parts: A threshold for all entities, or one for each type.
        unit: What the data consist of: "row", or the column that tells documents apart.
        rows: How many there were, those without entities included.
        data: Name of the data.
        depends_on: What the promise holds for: weights, temperature, splitter, windows, ...
        digest: Of all this, so that a change is seen.
    """

    recall: float
    confidence: float | None
    covering: str
    parts: list[PromisedPart]
    unit: str
    rows: int
    data: str | None
    depends_on: dict[str, Any]
    digest: str


@dataclass(frozen=True)
class Redaction:
    """A text whose candidates are covered.

    Attributes:
        text: The new text: a string, or a list of words with one item for a covered run.
        spans: What was covered, in order: mappings with "start" and "end" (half-open, in the units
            of the old text) and "label", the type of the most probable candidate there.
        mapping: What stands in the new text to what stood in the old one; empty but for
            ``replace="mapping"``. `hf_semicrf.inference.restore` puts it back.
    """

    text: str | list[str]
    spans: list[dict[str, Any]]
    mapping: dict[str, str]
