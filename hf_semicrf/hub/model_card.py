"""Render the model card of a trained tagger: front matter for the Hub, scores, how to use it.

The text stands in ``model_card_template.md``, a Jinja template; here are the values for it.
"""

from __future__ import annotations

import inspect
import json
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from hf_semicrf.head import DEFAULTS
from hf_semicrf.hub.allowed import CARD_NAME, is_local, read_card
from hf_semicrf.reporting import (
    length_table,
    markdown_table,
    markdown_text,
    promise_table,
    reliability_table,
    type_table,
)
from hf_semicrf.results import Promise
from hf_semicrf.text import one_line, visible

TEMPLATE = Path(__file__).with_name("model_card_template.md")
TAGS = ["hf_semicrf", "semi-markov-crf", "named-entity-recognition"]
_RECALL = "## Promised recall"
_NO_DATASET = "The data set was not named to this card."
_NOT_OF_THE_HEAD = (
    *("self", "encoder_config", "labels", "base_model", "has_word_starts", "promises", "kwargs"),
)


def render_card(
    config: Any,
    *,
    model_id: str | None = None,
    metrics: Mapping[str, float] | None = None,
    split: str = "evaluation",
    breakdown: Mapping[str, Any] | None = None,
    plot: str | None = None,
    entity_counts: Mapping[str, int] | None = None,
    sentences: Mapping[str, int] | None = None,
    speed: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    examples: Sequence[Mapping[str, Any]] = (),
    dataset: str | None = None,
    language: str | None = None,
    license: str | None = None,
    tags: Sequence[str] = (),
    adapter: bool = False,
) -> str:
    """Write a model card.

    What is not given is left out of the front matter and said to be missing in the text. So is a
    path where a name is asked for: it is of no use to a reader, and private. What the strings hold
    is shown, not followed.

    Args:
        config: The model's `SemiCRFConfig`.
        model_id: Name of the model on the Hub.
        metrics: Scores as `seqeval_metrics` names them, without a prefix.
        split: What they were measured on.
        breakdown: The scores' breakdown, as `evaluation.breakdown` returns it.
        plot: Name of a picture of them that lies beside the card.
        entity_counts: Entities of each type in the training data.
        sentences: Sentences of each split of the data.
        speed: What was timed, name to value.
        training: Settings of the training run, name to value; ``versions`` of the libraries, the
            installed ones by default.
        examples: Texts that the Hub's page offers to try: ``text``, and ``entities`` as `predict`
            finds them.
        dataset: Name of the data set, on the Hub or elsewhere.
        language: Code of its language, such as "en".
        license: Identifier of the model's licence.
        tags: Further tags.
        adapter: Whether the model is a PEFT adapter on its base model.

    Returns:
        Markdown with YAML front matter.
    """
    base_model, dataset, model_id = map(_public, (config.base_model, dataset, model_id))
    title = (model_id or "A semi-Markov CRF tagger").rsplit("/", 1)[-1]
    front_matter = ModelCardData(
        base_model=_hub_name(base_model),
        datasets=_hub_name(dataset),
        eval_results=_results(metrics or {}, dataset or "local files", one_line(split)) or None,
        language=_shown(language),
        library_name="peft" if adapter else "transformers",
        license=_shown(license),
        model_name=title,
        pipeline_tag="token-classification",
        tags=list(dict.fromkeys([*TAGS, *map(one_line, tags)])),
        widget=[{"text": visible(example["text"])} for example in examples] or None,
    )
    counts = entity_counts or {}
    model_type = config.encoder_config.model_type
    card = ModelCard.from_template(
        front_matter,
        template_path=str(TEMPLATE),
        text=markdown_text,
        python=_literal,
        title=title,
        base_model=base_model,
        encoder=base_model or f"a {model_type} encoder",
        config=config,
        scheme=config.scheme,
        model_id=model_id or "path/to/this/folder",
        adapter=adapter,
        settings=_settings(config),
        dataset=dataset,
        types=markdown_table(
            ("type", "entities in the training data"),
            [(name, counts.get(name, "unknown")) for name in config.scheme.types[1:]],
        ),
        data=_data(dataset, sentences or {}),
        metrics=metrics,
        split=split,
        type_scores=type_table(metrics) if metrics else None,
        breakdown=breakdown,
        length_scores=length_table(breakdown) if breakdown else None,
        reliability=reliability_table(breakdown) if breakdown else None,
        recall=_recall(config.promises),
        plot=plot,
        speed=markdown_table(("measured", "value"), list(speed.items())) if speed else None,
        training=_training(training or {}),
        examples=[_example(example) for example in examples],
    )
    return str(card)


def card_with_promises(card: str, promises: Sequence[Promise]) -> str:
    """A card of this library with other promises of recall.

    Args:
        card: As `render_card` writes it.
        promises: As a configuration holds them.
    """
    without = re.sub(rf"^{_RECALL}\n.*?(?=^## )", "", card, flags=re.M | re.S)
    written = _recall(promises)
    return re.sub(r"^(?=## Speed$)", lambda _: written, without, count=1, flags=re.M)


def find_card(folder: str | os.PathLike | None) -> str | None:
    """The card in a folder, if there is one and it is of this library.

    Args:
        folder: Where to look; None and what is no folder hold none.

    Raises:
        ValueError: There is a card that can't be read.
    """
    path = Path(folder, CARD_NAME) if folder else None
    if path is None or not path.is_file():
        return None
    tags = read_card(path).data.get("tags")
    return path.read_text(encoding="utf-8") if TAGS[0] in (tags or ()) else None


def _public(name: str | None) -> str | None:
    """A name on the Hub; None for a path."""
    return one_line(name) if name and not is_local(name) else None


def _hub_name(name: str | None) -> str | None:
    """The name if the Hub may have it: its index refuses a card with any other."""
    return name if name and re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name, re.ASCII) else None


def _shown(name: str | None) -> str | None:
    return name and one_line(name)


def _literal(value: Any) -> str:
    """A value as Python that holds no markup."""
    written = json.dumps(value) if isinstance(value, str) else repr(value)
    return written.replace("<", r"\x3c")


def _settings(config: Any) -> dict[str, Any]:
    """The settings of a head that differ from the defaults, beside its labels."""
    others = inspect.signature(type(config).__init__).parameters
    defaults = {n: p.default for n, p in others.items() if n not in _NOT_OF_THE_HEAD}
    defaults = {**DEFAULTS, **defaults}
    return {n: getattr(config, n) for n in defaults if getattr(config, n) != defaults[n]}


def _results(metrics: Mapping[str, float], dataset: str, split: str) -> list[EvalResult]:
    """The scores for the Hub's index."""
    return [
        EvalResult(
            task_type="token-classification",
            task_name="Named entity recognition",
            dataset_type=dataset,
            dataset_name=dataset,
            dataset_split=split,
            metric_type=name,
            metric_name=f"entity {name}",
            metric_value=round(metrics[f"overall_{name}"], 4),
        )
        for name in ("precision", "recall", "f1")
        if f"overall_{name}" in metrics
    ]


def _data(dataset: str | None, sentences: Mapping[str, int]) -> str:
    name = f"The data set is {markdown_text(dataset)}." if dataset else _NO_DATASET
    if not sentences:
        return f"{name}\n"
    rows = [(split, f"{count:,}") for split, count in sentences.items()]
    return f"{name}\n\n{markdown_table(('split', 'sentences'), rows)}"


def _training(training: Mapping[str, Any]) -> str:
    installed = {"torch": torch.__version__, "transformers": transformers.__version__}
    with suppress(PackageNotFoundError):  # it may be imported from its source folder
        installed["hf_semicrf"] = version("hf_semicrf")
    versions = ", ".join(f"{name} {number}" for name, number in installed.items())
    settings = {**training, "versions": training.get("versions", versions)}
    return markdown_table(("setting", "value"), list(settings.items()))


def _recall(promises: Sequence[Promise]) -> str:
    """The section on promises of recall; nothing without any."""
    if not promises:
        return ""
    return (
        f"{_RECALL}\n\n`predict(..., recall=...)` and `redact(..., recall=...)` take every segment "
        "whose posterior is at least a threshold. On documents like those that it was read off, "
        "the share of entities that is found is the recall or more: on average over such data, or "
        "for the share of them that the confidence says. Documents have to be exchangeable with "
        "those, and have no more entities than the largest of them; of other text nothing is "
        "promised.\n\n"
        f"{promise_table(promises)}\n"
        "Extra words are those beside the entities' own, as a share of these.\n\n"
    )


def _example(example: Mapping[str, Any]) -> dict[str, str]:
    """The text of an example, and a table of its entities."""
    rows = [(e["text"], e["label"], f"{e['score']:.3f}") for e in example.get("entities", ())]
    table = markdown_table(("entity", "type", "score"), rows) if rows else "No entities.\n"
    return {"text": markdown_text(example["text"]), "table": table}
