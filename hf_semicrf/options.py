"""The options of the library: one table of their types and ranges, and the place that reads it.

Functions, classes, the configuration, the pipeline, training arguments and command lines check
their options here before they do anything else. An option has one meaning wherever it occurs.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, replace
from typing import Any

MOST, BELOW_1 = sys.float_info.max, math.nextafter(1, 0)
SCHEMES = ("IOB2", "IOB1", "IOBES", "BILOU", "BMES", "BMEWO", "BIEWO")


@dataclass(frozen=True)
class Option:
    """The values that an option may have.

    Args:
        kind: int, float, bool or str. A whole number is an int and a float, a bool is neither.
        low: The lowest number.
        high: The highest number; `MOST` for any that is finite.
        above: Whether `low` itself is too low.
        choices: The strings; any that is not empty where there are none.
        optional: Whether None is one of the values.
    """

    kind: type
    low: float = 0
    high: float = MOST
    above: bool = False
    choices: tuple[str, ...] = ()
    optional: bool = False

    @property
    def expected(self) -> str:
        """What an error says was expected, without None."""
        if self.choices:
            return f"one of {self.choices}" if len(self.choices) > 1 else repr(self.choices[0])
        if self.kind in (bool, str):
            return "True or False" if self.kind is bool else "a string that is not empty"
        what = "an int" if self.kind is int else "a number"
        if self.high < MOST:
            ends = f"above {self.low}, up to" if self.above else f"in {self.low}.."
            return f"{what} {ends}{' ' * self.above}{self.high}"
        what = what.replace("number", "finite number")
        return f"{what} above {self.low}" if self.above else f"{what} of at least {self.low}"

    def contains(self, value: Any) -> bool:
        """Whether a value of Python's own is one of them."""
        if value is None or isinstance(value, bool):
            return self.optional if value is None else self.kind is bool
        if self.kind is str:
            known = self.choices or (value,)
            return isinstance(value, str) and value != "" and value in known
        if self.kind is bool or not isinstance(value, int if self.kind is int else int | float):
            return False
        return self.low <= value <= self.high and not (self.above and value == self.low)

    def read(self, name: str, value: Any) -> Any:
        """The value as Python's own.

        Args:
            name: The option.
            value: What was given; also a number, bool or string of NumPy's or PyTorch's.

        Raises:
            ValueError: It is not one of the values.
        """
        found = own(value)
        if not self.contains(found):
            none = " or None" if self.optional else ""
            got = f"{value!r:.80}"
            raise ValueError(f"expected {name} as {self.expected}{none}, got {got}")
        is_number = found is not None and self.kind in (int, float)
        return self.kind(found) if is_number else found


def own(value: Any) -> Any:
    """A number, bool or string of NumPy's or PyTorch's as Python's own; all else as it is.

    Args:
        value: Any value.
    """
    if isinstance(value, int | float | str) or getattr(value, "ndim", None) != 0:
        return value
    return value.item()


def _whole(low: int, high: float = MOST) -> Option:
    return Option(int, low, high)


def _number(low: float, high: float = MOST, above: bool = False) -> Option:
    return Option(float, low, high, above)


def _one_of(*choices: str) -> Option:
    return Option(str, choices=choices)


def _or_none(option: Option) -> Option:
    return replace(option, optional=True)


COUNT, POSITIVE, SHARE = _whole(1), _number(0, above=True), _number(0, 1)
AT_LEAST_0, FLAG, TEXT = _number(0), Option(bool), Option(str)
SEED = _whole(0, 2**32 - 1)

OPTIONS: dict[str, Option] = {
    # the head
    "max_segment_length": COUNT,
    "min_segment_length": COUNT,
    "length_prior": _one_of("free", "geometric", "negative_binomial", "poisson", "gamma"),
    "scorer": _one_of("sum", "boundary", "span"),
    "head_dropout": SHARE,
    "head_width": COUNT,
    "mix_layers": _whole(0),
    "head_temperature": POSITIVE,
    "threshold": _or_none(SHARE),
    "threshold_factor": _number(0, 1, above=True),
    "potentials": _one_of("factored", "edge"),
    "hidden_size": COUNT,
    "num_types": COUNT,
    # the configuration
    "label_scheme": _or_none(_one_of(*SCHEMES, "plain", *(f"{name}-suffix" for name in SCHEMES))),
    "unknown": _one_of("error", "marginalize"),
    "frame_seconds": _or_none(POSITIVE),
    "sampling_rate": COUNT,
    "downsample": COUNT,
    "base_model": _or_none(TEXT),
    "has_word_starts": FLAG,
    # prediction and evaluation
    "batch_size": COUNT,
    "num_workers": _whole(0),
    "is_split_into_words": FLAG,
    "decode": _or_none(_one_of("viterbi")),
    "max_length": _or_none(COUNT),
    "overlap": _or_none(_whole(0)),
    "n_best": _whole(0),
    "cuda_graphs": FLAG,
    "texts_at_once": _or_none(COUNT),
    "window_seconds": _or_none(POSITIVE),
    "overlap_seconds": AT_LEAST_0,
    "bins": COUNT,
    "tolerance": AT_LEAST_0,
    "collar": AT_LEAST_0,
    "iou": _number(0.5, 1),
    "size": COUNT,
    "rank": _whole(0),
    "processes": COUNT,
    # operations
    "k": COUNT,
    "n": COUNT,
    "tail_order": COUNT,
    "longest": COUNT,
    "backend": _one_of("auto", "torch", "triton"),
    # calibration
    "loss": _one_of("sentence", "segment"),
    "rule": _one_of("half_f1", "best_f1"),
    "temperature": POSITIVE,
    # recall
    "recall": _or_none(_number(0, BELOW_1, above=True)),
    "confidence": _or_none(_number(0, BELOW_1, above=True)),
    "covering": _one_of("words", "exact"),
    "largest": _or_none(COUNT),
    "replace": _one_of("label", "mask", "mapping"),
    # data
    "tokens_column": TEXT,
    "tags_column": TEXT,
    "types_column": TEXT,
    "text_column": TEXT,
    "spans_column": _or_none(TEXT),
    "document_column": _or_none(TEXT),
    "separator": _or_none(TEXT),
    "encoding": TEXT,
    "misaligned": _one_of("error", "drop", "expand"),
    "damaged": _one_of("skip", "error"),
    "empty": _one_of("skip", "keep"),
    "file_format": _or_none(
        _one_of(
            *("json", "csv", "columns", "parquet", "brat", "docbin", "text"),
            *("tags", "entities", "doccano", "prodigy", "label_studio"),
        )
    ),
    "windows": FLAG,
    "neighbours": _one_of("none", "document", "file"),
    "window_length": COUNT,
    "limit": COUNT,
    "length": _whole(0),
    "pad_to_multiple_of": _or_none(COUNT),
    "allow_unknown": FLAG,
    # training
    "learning_rate": AT_LEAST_0,
    "head_learning_rate": AT_LEAST_0,
    "temperature_loss": _one_of("sentence", "segment", "none"),
    "threshold_rule": _one_of("half_f1", "best_f1", "none"),
    "num_train_epochs": _or_none(AT_LEAST_0),
    "max_steps": _whole(-1),
    "per_device_train_batch_size": COUNT,
    "per_device_eval_batch_size": COUNT,
    "gradient_accumulation_steps": COUNT,
    "eval_accumulation_steps": _or_none(COUNT),
    "warmup_steps": AT_LEAST_0,
    "logging_steps": AT_LEAST_0,
    "eval_steps": _or_none(AT_LEAST_0),
    "eval_delay": AT_LEAST_0,
    "save_steps": AT_LEAST_0,
    "save_total_limit": _or_none(_whole(0)),
    "weight_decay": AT_LEAST_0,
    "adam_beta1": _number(0, BELOW_1),
    "adam_beta2": _number(0, BELOW_1),
    "adam_epsilon": AT_LEAST_0,
    "max_grad_norm": _or_none(AT_LEAST_0),
    "label_smoothing_factor": SHARE,
    "neftune_noise_alpha": _or_none(AT_LEAST_0),
    "seed": SEED,
    "data_seed": _or_none(SEED),
    "dataloader_num_workers": _whole(0),
    # command lines alone
    "sentences": COUNT,
    "epochs": COUNT,
    "number": COUNT,
    "shard_size": COUNT,
    "port": _whole(0, 65535),
    "by": _one_of("total", "word"),
}


def check(*, optional: bool = True, **values: Any) -> dict[str, Any]:
    """The values of options by their names, as Python's own.

    Args:
        optional: Whether None passes where the table has it.
        **values: The options.

    Raises:
        ValueError: A value is not among those of its option; the message names both.
    """
    return {
        name: (OPTIONS[name] if optional else replace(OPTIONS[name], optional=False)).read(name, x)
        for name, x in values.items()
    }


def check_decoding(threshold: Any, decode: Any, recall: Any = None) -> float | None:
    """The threshold, where it may stand beside the way to decode and a recall.

    Raises:
        ValueError: One of them is not among its values, or several are given.
    """
    found = check(threshold=threshold, decode=decode, recall=recall)["threshold"]
    if decode is not None and found is not None:
        raise ValueError(f'expected decode="viterbi" or a threshold, got both ({threshold})')
    if recall is not None and (decode is not None or found is not None):
        raise ValueError(f"expected a recall, a threshold or decode, got recall={recall} and more")
    return found
