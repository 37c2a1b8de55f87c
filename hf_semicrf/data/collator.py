"""Pad rows of different lengths to the tensors of a batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from transformers.data.data_collator import pad_without_fast_tokenizer_warning

from hf_semicrf.labels import UNKNOWN_TAG
from hf_semicrf.options import check


@dataclass
class SemiCRFDataCollator:
    """Pad a batch: the tokenizer's columns as it does, labels with -100, word_mask with 0.

    Padding goes to the tokenizer's side. Other columns are left out. Features without ``word_mask``
    but with labels get it from them.

    Attributes:
        tokenizer: As `prepare_tokenizer` returns it.
        pad_to_multiple_of: Pad the length to a multiple of this.
        allow_unknown: Accept words whose label is -100; the model must then be told to sum over
            their labels.
    """

    tokenizer: PreTrainedTokenizerBase
    pad_to_multiple_of: int | None = None
    allow_unknown: bool = False

    def __post_init__(self) -> None:
        """Refuse what is out of range."""
        own = check(pad_to_multiple_of=self.pad_to_multiple_of, allow_unknown=self.allow_unknown)
        self.pad_to_multiple_of, self.allow_unknown = own.values()

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Pad and stack.

        Args:
            features: Rows as `TokenizeAndAlign` makes them.

        Returns:
            The tokenizer's columns, labels [B, T] and allowed_types [B, T] (int64), word_mask
            [B, T] (bool).

        Raises:
            ValueError: There are no features, they lack or do not share columns, a row has no
                words or columns of different lengths, or labels and word_mask do not agree.
        """
        if not features:
            raise ValueError("expected at least one sentence to collate, got an empty list")
        names = [n for n in self.tokenizer.model_input_names if n in features[0]]
        if "input_ids" not in names:
            raise ValueError(
                f"expected features with input_ids, got the columns {sorted(features[0])}; map the "
                "data set with TokenizeAndAlign first"
            )
        rows = [self._word_columns(features, row) for row in range(len(features))]
        inputs = [{name: list(feature[name]) for name in names} for feature in features]
        batch = dict(
            pad_without_fast_tokenizer_warning(
                self.tokenizer,
                inputs,
                return_tensors="pt",
                pad_to_multiple_of=self.pad_to_multiple_of,
            )
        )
        length = batch["input_ids"].shape[1]
        for name, filler, dtype in (
            ("labels", UNKNOWN_TAG, torch.long),
            ("word_mask", 0, torch.bool),
            ("allowed_types", -1, torch.long),
        ):
            if name in rows[0]:
                padded = [self._pad(row[name], length, filler) for row in rows]
                batch[name] = torch.tensor(padded, dtype=dtype)
        return batch

    def _word_columns(self, features: Sequence[Mapping[str, Any]], row: int) -> dict[str, list]:
        """The labels, the word_mask and the allowed_types of a row, checked."""
        feature, names = features[row], ("labels", "word_mask", "allowed_types")
        present = [name for name in names if feature.get(name) is not None]
        if present != [name for name in names if features[0].get(name) is not None]:
            raise ValueError(
                f"expected {', '.join(names)} in all rows or in none, not so row {row}"
            )
        columns = {name: _whole(name, feature[name], row) for name in present}
        if not columns.keys() & {"labels", "word_mask"}:
            return {}
        for name, values in columns.items():
            if len(values) != len(feature["input_ids"]):
                raise ValueError(
                    f"expected {name} for {len(feature['input_ids'])} sub-words, got {len(values)} "
                    f"in row {row} of the batch"
                )
        labels = columns.get("labels")
        if "word_mask" not in columns:
            columns["word_mask"] = [int(label != UNKNOWN_TAG) for label in columns["labels"]]
        mask = columns["word_mask"]
        if not any(mask):
            raise ValueError(
                f"expected at least one word a sentence, got none in row {row} of the batch"
            )
        for position, label in enumerate(labels or []):
            if label != UNKNOWN_TAG and not mask[position]:
                raise ValueError(
                    f"expected labels on the words of word_mask only, got {label} at sub-word "
                    f"{position} of row {row} of the batch"
                )
            if label == UNKNOWN_TAG and mask[position] and not self.allow_unknown:
                raise ValueError(
                    f"expected a label for each word, got {UNKNOWN_TAG} (unknown) at sub-word "
                    f"{position} of row {row} of the batch; allow_unknown=True lets it pass"
                )
        return columns

    def _pad(self, values: list[int], length: int, filler: int) -> list[int]:
        padding = [filler] * (length - len(values))
        return padding + values if self.tokenizer.padding_side == "left" else values + padding


def _whole(name: str, values: Iterable[Any], row: int) -> list[int]:
    """The values of a row's column as ints.

    Raises:
        ValueError: One is no whole number.
    """
    try:
        ints = [int(value) for value in values]
        if all(a == b for a, b in zip(ints, values, strict=True)):
            return ints
    except (TypeError, ValueError, OverflowError):
        pass
    raise ValueError(
        f"expected whole numbers in {name}, got {values!r:.80} in row {row} of the batch"
    )
