"""The settings of the head: their names, their defaults and their ranges, in one place."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple


class Range(NamedTuple):
    """The values that a setting may have.

    Args:
        expected: What an error says was expected.
        contains: Whether a value is one of them.
    """

    expected: str
    contains: Callable[[Any], bool]


def _whole(least: int) -> Range:
    return Range(
        f"an int of at least {least}",
        lambda x: isinstance(x, int) and not isinstance(x, bool) and x >= least,
    )


def _number(expected: str, contains: Callable[[float], bool]) -> Range:
    return Range(
        f"a number {expected}",
        lambda x: isinstance(x, int | float) and not isinstance(x, bool) and contains(x),
    )


def _or_none(values: Range) -> Range:
    return Range(f"{values.expected} or None", lambda x: x is None or values.contains(x))


def _one_of(*names: str) -> Range:
    return Range(f"one of {names}", lambda x: isinstance(x, str) and x in names)


SCORER_NAMES = ("sum", "boundary", "span")
SHARE = _number("in 0..1", lambda x: 0 <= x <= 1)
POSITIVE = _number("above 0, and finite", lambda x: 0 < x < math.inf)


def _setting(default: Any, values: Range) -> Any:
    """A field with its range."""
    return field(default=default, metadata={"range": values})


@dataclass(frozen=True)
class HeadSettings:
    """What a semi-Markov CRF head is built from, beside its sizes.

    `SemiCRFConfig` takes and stores each of them under the same name.

    Args:
        max_segment_length: Longest segment L, in positions: words, where the model runs on text.
        scorer: How hidden states score segments. "sum": by the scores of their positions.
            "boundary": also by scores of their first and last positions. "span": also by a small
            network that reads each segment as a whole.
        head_dropout: Probability of dropping a hidden unit before scoring.
        head_width: Units of the network that "span" has.
        mix_layers: How many of the encoder's last layers the head reads, in a learned mix; 0 for
            the last one alone. The encoder's embeddings count as one.
        head_temperature: What all scores are divided by in decoding and posteriors; above 1 the
            model is less sure. Source: Guo et al. (2017).
        threshold: Posterior that a segment has to exceed to be decoded (``ops.minimum_risk``);
            lower means more recall and less precision. None decodes the most probable segmentation
            as a whole (Viterbi).
        potentials: "factored", or "edge" to run on the dense [B, N, L + 1, C, C] tensor: the same
            distribution at O(N L C^2) time and memory.

    Raises:
        ValueError: A value is out of its range, or of another type.
    """

    max_segment_length: int = _setting(8, _whole(least=1))
    scorer: str = _setting("span", _one_of(*SCORER_NAMES))
    head_dropout: float = _setting(0.1, SHARE)
    head_width: int = _setting(192, _whole(least=1))
    mix_layers: int = _setting(0, _whole(least=0))
    head_temperature: float = _setting(1.0, POSITIVE)
    threshold: float | None = _setting(0.4, _or_none(SHARE))
    potentials: str = _setting("factored", _one_of("factored", "edge"))

    def __post_init__(self) -> None:
        """Refuse what is out of range."""
        for setting in fields(self):
            value, values = getattr(self, setting.name), setting.metadata["range"]
            if not values.contains(value):
                message = f"expected {setting.name} as {values.expected}, got {value!r}"
                if setting.name == "scorer" and _was_a_scorer(value):
                    raise RemovedError(message + REMOVED_HINT)
                raise ValueError(message)


DEFAULTS: dict[str, Any] = {f.name: f.default for f in fields(HeadSettings)}


# What has been taken out; docs/quality.md says why. None of the names is used for anything else.

REMOVED_HINT = "; it has been taken out, commit 77474b6 is the last that can load it"
REMOVED_SCORERS = {"mlp", "entity", "length", "biaffine", "pointer", "span_max"}
# and the values at which they did nothing; `dropped_token_id` did nothing by itself
REMOVED_SETTINGS = {
    "context": None,
    "label_smoothing": 0.0,
    "token_loss": 0.0,
    "word_dropout": 0.0,
    "word_pooling": "first",
}
REMOVED_NAMES = (*REMOVED_SETTINGS, "dropped_token_id")


class RemovedError(ValueError):
    """A configuration has a setting that has been taken out, or a value of one."""


def without_removed(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a configuration without the settings that have been taken out.

    Raises:
        RemovedError: One of those has a value at which it did something.
    """
    for name, nothing in REMOVED_SETTINGS.items():
        value = arguments.get(name, nothing)
        if value != nothing:
            raise RemovedError(f"expected no setting {name}, got {name}={value!r}{REMOVED_HINT}")
    return {name: value for name, value in arguments.items() if name not in REMOVED_NAMES}


def _was_a_scorer(value: Any) -> bool:
    """Whether a value is a scorer that has been taken out, or a sum of scorers."""
    known = {*SCORER_NAMES, *REMOVED_SCORERS}
    return isinstance(value, str) and set(value.split("+")) <= known
