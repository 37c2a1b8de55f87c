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
