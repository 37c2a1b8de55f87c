"""A text that a person corrects: entities are fixed or forbidden, the rest is decoded anew."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hf_semicrf.data import stream_rows, write_rows
from hf_semicrf.results import Entity
from hf_semicrf.saving import only_writer, replacing
from hf_semicrf.text import Splitter

Corrections = Sequence[Mapping[str, Any]]


class Found(NamedTuple):
    """What a model finds in a text under corrections.

    Args:
        entities: The entities, in order.
        candidates: What else a promise of recall returns, the most probable first.
    """

    entities: list[Entity]
    candidates: list[Entity]


class Annotator:
    """A tagger, and the file of the texts that a person has corrected.

    Args:
        model: A `SemiCRFForTokenClassification`.
        tokenizer: Its tokenizer.
        output: The file, of JSON lines; perhaps there is none yet.

    Raises:
        ValueError: The file holds something else, or a function that is not saved cuts texts.
    """

    def __init__(self, model: Any, tokenizer: Any, output: Path):
        self.model, self.tokenizer, self.output = model, tokenizer, output
        self.types = model.config.scheme.types[1:]
        self.threshold = 0.5 if model.config.threshold is None else model.config.threshold
        promises = model.config.promises
        self.recalls = [p["recall"] for p in promises if p["depends_on"]["texts"] == "strings"]
        self.words = Splitter.of(model.config.splitter).spans
        if output.suffix != ".jsonl":
            raise ValueError(f"expected a file of JSON lines, NAME.jsonl, got {output}")
        if output.exists():
            for _ in stream_rows(output, damaged="error", empty="keep"):
                pass

    def find(
        self, text: str, corrections: Corrections, threshold: float, recall: float | None = None
    ) -> Found:
        """The entities of a text under corrections, and what else may be one.

        Args:
            text: The text.
            corrections: Constraints, as ``model.predict`` takes them.
            threshold: Posterior that an entity has to exceed.
            recall: A promised recall, for candidates; they are found without the corrections, and
                are left out where these have decided.

        Raises:
            ValueError: No segmentation meets the corrections, or the promise does not hold here.
        """
        ask = [text], self.tokenizer
        [entities] = self.model.predict(*ask, threshold=threshold, constraints=[corrections])
        if recall is None:
            return Found(entities, [])
        [candidates] = self.model.predict(*ask, recall=recall)
        decided = [*corrections, *({**e, "exclude": True} for e in entities)]
        free = [c for c in candidates if not any(_conflict(known, c) for known in decided)]
        return Found(entities, sorted(free, key=lambda c: -c["score"]))

    def save(self, text: str, entities: Sequence[Entity]) -> int:
        """Write a text with its entities into the file, in the place of an earlier version.

        Args:
            text: The text.
            entities: Its entities.

        Returns:
            The texts in the file.

        Raises:
            OSError: The file can't be written.
            ValueError: The text is empty, or another run writes the file.
        """
        if not text.strip():
            raise ValueError("expected a text that has been tagged, got an empty one")
        path = self.output
        before = json.dumps({"text": text}, ensure_ascii=False)[:-1] + ", "
        with only_writer(path.with_name(path.name + ".writing"), path), replacing(path) as new:
            lines = path.read_text("utf-8").split("\n") if path.exists() else []
            lines = [line for line in lines if line and not line.startswith(before)]
            lines += write_rows([text], [entities])
            new.write_text("".join(line + "\n" for line in lines), "utf-8")
        return len(lines)


def corrected(corrections: Corrections, correction: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Corrections with one more, which replaces what it contradicts; the same again is taken back.

    Args:
        corrections: Constraints, as ``model.predict`` takes them.
        correction: One with a single label.
    """
    kept = [known for known in corrections if not _conflict(known, correction)]
    return kept if correction in corrections else [*kept, correction]


def _conflict(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two can't both be: fixed spans that overlap, or one thing fixed and forbidden."""
    if one.get("exclude") or other.get("exclude"):
        return all(one[name] == other[name] for name in ("start", "end", "label"))
    return one["start"] < other["end"] and other["start"] < one["end"]
