"""Recordings with segments in seconds, as the batches of a model of frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hf_semicrf.labels import UNKNOWN_TAG


def frame_labels(
    segments: Sequence[Mapping[str, Any]], types: Sequence[str], seconds: float, positions: int
) -> Tensor:
    """Write segments as labels of positions: twice the type, and 1 where one starts [N].

    Boundaries are rounded to positions. What lies in no segment is outside, type 0, each position a
    segment of its own.

    Args:
        segments: Mappings with "label", "start" and "end" (seconds, half-open), in their order.
        types: Names of the types, the outside first.
        seconds: From one position to the next.
        positions: N.

    Raises:
        ValueError: A type is unknown, or a segment is empty, overlaps the one before, rounds to no
            position of its own, or begins past the last position.
    """
    labels = torch.ones(positions, dtype=torch.long)
    ids = {name: n for n, name in enumerate(types)}
    last_end, stop = 0.0, 0
    for segment in segments:
        name, start, end = segment["label"], float(segment["start"]), float(segment["end"])
        if ids.get(name, 0) == 0:
            raise ValueError(f"expected a label among {list(types[1:])}, got {dict(segment)}")
        if not last_end <= start < end:
            raise ValueError(f"expected segments in order without overlap, got {dict(segment)}")
        first, last_end = max(round(start / seconds), stop), end
        stop = min(max(round(end / seconds), first), positions)
        if first >= stop:
            raise ValueError(
                f"expected segments of at least one position of {seconds:g} s within "
                f"{positions * seconds:g} s, got {dict(segment)}"
            )
        labels[first:stop] = 2 * ids[name]
        labels[first] += 1
    return labels


@dataclass
class SemiCRFFrameCollator:
    """Pad a batch of recordings as the feature extractor does, and write their segments as labels.

    Attributes:
        feature_extractor: The encoder's.
        config: The model's configuration, a `SemiCRFFrameConfig`.
    """

    feature_extractor: Any
    config: Any

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Pad and stack.

        Args:
            rows: Mappings with "audio", one-dimensional samples (or a mapping with "array" and
                "sampling_rate", as data sets have it), and perhaps "segments", as `frame_labels`
                takes them.

        Returns:
            The feature extractor's tensors, attention_mask and, where there are segments, labels
            [B, N].

        Raises:
            ValueError: Audio is shorter than a frame, not one-dimensional or of another sampling
                rate, or segments are wrong, or missing in some rows.
        """
        marked = ["segments" in row for row in rows]
        if any(marked) and not all(marked):
            raise ValueError(
                f"expected segments in all rows or in none, got none in row {marked.index(False)}"
            )
        recordings = [self._samples(row["audio"]) for row in rows]
        batch = dict(
            self.feature_extractor(
                recordings,
                sampling_rate=self.feature_extractor.sampling_rate,
                padding=True,
                return_attention_mask=True,
                return_tensors="pt",
            )
        )
        if any(marked):
            counts = [self.config.positions(len(samples)) for samples in recordings]
            seconds, types = self.config.position_seconds, self.config.types
            labels = [
                frame_labels(row["segments"], types, seconds, count)
                for row, count in zip(rows, counts, strict=True)
            ]
            pad = torch.nn.utils.rnn.pad_sequence
            batch["labels"] = pad(labels, batch_first=True, padding_value=UNKNOWN_TAG)
        return batch

    def _samples(self, audio: Any) -> np.ndarray:
        """The samples of a recording."""
        rate = self.feature_extractor.sampling_rate
        if isinstance(audio, Mapping):
            if audio["sampling_rate"] != rate:
                raise ValueError(
                    f"expected audio of {rate} samples a second, got {audio['sampling_rate']}"
                )
            audio = audio["array"]
        samples = np.asarray(audio, dtype=np.float32)
        if samples.ndim != 1 or not len(samples):
            raise ValueError(f"expected one-dimensional audio, got shape {list(samples.shape)}")
        return samples
