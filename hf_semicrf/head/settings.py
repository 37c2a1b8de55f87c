"""The settings of the head: their names and their defaults; `hf_semicrf.options` has the ranges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from hf_semicrf.options import OPTIONS, check


@dataclass(frozen=True)
class HeadSettings:
    """What a semi-Markov CRF head is built from, beside its sizes.

    `SemiCRFConfig` takes and stores each of them under the same name.

    Args:
        max_segment_length: Longest segment L, in positions: words, where the model runs on text.
            With a tail, the length beyond which it begins.
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
        threshold_factor: What the threshold is multiplied by for each word of a segment after its
            first; below 1, long segments need less.
        potentials: "factored", or "edge" to run on the dense [B, N, L + 1, C, C] tensor: the same
            distribution at O(N L C^2) time and memory.
        length_prior: What lengths score. "free": a parameter each, up to L, and nothing longer.
            With a tail there is no longest segment: "geometric" and "negative_binomial" have a
            parameter for each length up to L, "poisson" and "gamma" a shape of two or three; see
            `hf_semicrf.head.lengths`. A tail wants the scorer "sum" or "boundary", factored
            potentials and ``threshold=None``: decoding is Viterbi's.
        tail_order: Order r of a negative binomial tail, a whole number.
        min_segment_length: Shortest segment of a type other than the outside.

    Raises:
        ValueError: A value is out of its range, or of another type.
    """

    max_segment_length: int = 8
    scorer: str = "span"
    head_dropout: float = 0.1
    head_width: int = 192
    mix_layers: int = 0
    head_temperature: float = 1.0
    threshold: float | None = 0.4
    threshold_factor: float = 1.0
    potentials: str = "factored"
    length_prior: str = "free"
    tail_order: int = 2
    min_segment_length: int = 1

    def __post_init__(self) -> None:
        """Refuse what is out of range."""
        if _was_a_scorer(self.scorer):
            expected = OPTIONS["scorer"].expected
            message = f"expected scorer as {expected}, got {self.scorer!r}{REMOVED_HINT}"
            raise RemovedError(message)
        for name, value in check(**vars(self)).items():
            object.__setattr__(self, name, value)
        if self.min_segment_length > self.max_segment_length:
            raise ValueError(
                f"expected min_segment_length of at most max_segment_length "
                f"{self.max_segment_length}, got {self.min_segment_length}"
            )
        if self.has_tail:
            for name, allowed in WITH_TAIL.items():
                if (got := getattr(self, name)) not in allowed:
                    raise ValueError(
                        f"expected {name} among {allowed} with the tail of "
                        f"length_prior={self.length_prior!r}, got {got!r}"
                    )

    @property
    def has_tail(self) -> bool:
        """Whether segments have no longest length."""
        return self.length_prior != "free"


# what a tail goes with
WITH_TAIL = {"scorer": ("sum", "boundary"), "potentials": ("factored",), "threshold": (None,)}

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
    known = OPTIONS["scorer"].choices
    return (
        isinstance(value, str)
        and value not in known
        and set(value.split("+")) <= {*known, *REMOVED_SCORERS}
    )
