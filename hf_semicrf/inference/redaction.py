"""Cover the candidates of texts, so that the promised share of entities can't be read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from hf_semicrf.inference.prediction import Split, Text, predict
from hf_semicrf.options import check
from hf_semicrf.results import Entity, Redaction

INK = "█"


def redact(
    model: Any,
    texts: Sequence[Text],
    tokenizer: Any,
    batch_size: int = 32,
    *,
    recall: float,
    replace: str = "label",
    max_length: int | None = None,
    overlap: int | None = None,
    splitter: Split | None = None,
) -> list[Redaction]:
    """What ``SemiCRFForTokenClassification.redact`` promises."""
    recall = check(optional=False, recall=recall)["recall"]
    replace = check(replace=replace)["replace"]
    options = {"max_length": max_length, "overlap": overlap, "splitter": splitter}
    found = predict(model, texts, tokenizer, batch_size, recall=recall, **options)  # type: ignore[arg-type]
    return [
        _redacted(text, entities, replace)  # type: ignore[arg-type]
        for text, entities in zip(texts, found, strict=True)
    ]


def restore(text: str | Sequence[str], mapping: Mapping[str, str]) -> str | list[str]:
    """The old text from a new one that was made with ``replace="mapping"``.

    Args:
        text: `Redaction.text`, or a text in which parts of it stand.
        mapping: `Redaction.mapping`.

    Returns:
        A string; of a list the items, covered runs of words as one item with spaces.
    """
    if not mapping:
        return text if isinstance(text, str) else list(text)
    signs = re.compile("|".join(map(re.escape, mapping)))

    def put_back(part: str) -> str:
        return signs.sub(lambda sign: mapping[sign[0]], part)

    return put_back(text) if isinstance(text, str) else [put_back(word) for word in text]


def _redacted(text: str | Sequence[str], entities: Sequence[Entity], replace: str) -> Redaction:
    """Cover the union of entities in a text, or in its words."""
    runs = union(entities)
    covered = [_joined(text[run["start"] : run["end"]]) for run in runs]
    mapping: dict[str, str] = {}
    if replace == "mask":
        signs = [re.sub(r"\S", INK, part) for part in covered]
    elif replace == "label":
        signs = [f"[{_plain(run['label'])}]" for run in runs]
    else:
        known: dict[tuple[str, str], str] = {}
        for key in zip((run["label"] for run in runs), covered, strict=True):
            if key not in known:
                known[key] = _sign(key[0], _joined(text), mapping)
                mapping[known[key]] = key[1]
        signs = [known[run["label"], part] for run, part in zip(runs, covered, strict=True)]
    parts: list[str] = []  # characters of a string, words of a list
    at = 0
    for run, sign in zip(runs, signs, strict=True):
        parts += [*text[at : run["start"]], sign]
        at = run["end"]
    parts += text[at:]
    return Redaction("".join(parts) if isinstance(text, str) else parts, runs, mapping)


def _joined(text: str | Sequence[str]) -> str:
    """A string, or words with spaces between them."""
    return text if isinstance(text, str) else " ".join(text)


def union(entities: Sequence[Entity]) -> list[dict[str, Any]]:
    """The runs that overlapping entities make up together, each with its most probable label.

    Args:
        entities: Of one text, in order of their starts.
    """
    runs: list[dict[str, Any]] = []
    for entity in entities:
        if runs and entity["start"] < runs[-1]["end"]:
            run = runs[-1]
            run["end"] = max(run["end"], entity["end"])
        else:
            run = {"start": entity["start"], "end": entity["end"], "label": "", "score": -1.0}
            runs.append(run)
        if entity["score"] > run["score"]:
            run |= {"label": entity["label"], "score": entity["score"]}
    return [{name: run[name] for name in ("start", "end", "label")} for run in runs]


def _plain(label: str) -> str:
    """A label without brackets, in which a sign stands."""
    return re.sub(r"[\[\]]", "", label)


def _sign(label: str, text: str, others: Mapping[str, str]) -> str:
    """A sign that stands nowhere in a text: no part of one is another, because of its brackets."""
    number = 1
    while (sign := f"[{_plain(label)}_{number}]") in others or sign in text:
        number += 1
    return sign
