"""The model card of a trained tagger: front matter for the Hub, scores per type, how to use it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
import transformers
from huggingface_hub import EvalResult, ModelCardData

from hf_semicrf.configuration_semicrf import SemiCRFConfig
from hf_semicrf.report import markdown_table, type_table

TAGS = ["hf_semicrf", "semi-markov-crf", "named-entity-recognition"]

_BODY = """
# {title}

A named entity tagger: {encoder} under a semi-Markov conditional random field,
which scores whole entities of up to {max_segment_length} words and gives each a probability.
Made with `hf_semicrf`{training_data}.

## Use

```python
from transformers import AutoTokenizer
from hf_semicrf import SemiCRFForTokenClassification, prepare_tokenizer

name = "{model_id}"
model = SemiCRFForTokenClassification.from_pretrained(name)
tokenizer = prepare_tokenizer(AutoTokenizer.from_pretrained(name))
model.predict(["Some text to tag."], tokenizer)  # label, score, start, end and text of each entity
```

## Entity types

{types}
Tags follow the {scheme} scheme: {labels}.

## Evaluation

{evaluation}
## Training

{training}
## Limits

- Entities longer than {max_segment_length} words come out in pieces; entities inside one another
  can't be expressed.
- The scores hold for text like the training data; on other text, measure before you rely on them.
- The text is split at spaces and punctuation; languages written without spaces need their own word
  splitter.
"""


def render_card(
    config: SemiCRFConfig,
    *,
    model_id: str | None = None,
    metrics: Mapping[str, float] | None = None,
    split: str = "evaluation",
    entity_counts: Mapping[str, int] | None = None,
    training: Mapping[str, Any] | None = None,
    dataset: str | None = None,
    language: str | None = None,
    license: str | None = None,
) -> str:
    """Write a model card.

    What is not given is left out of the front matter and said to be missing in the text.

    Args:
        config: The model's configuration.
        model_id: Name of the model on the Hub.
        metrics: Scores as `seqeval_metrics` names them, without a prefix.
        split: What they were measured on.
        entity_counts: Entities of each type in the training data.
        training: Settings of the training run, name to value.
        dataset: Name of the data set, on the Hub or elsewhere.
        language: Code of its language, such as "en".
        license: Identifier of the model's licence.

    Returns:
        Markdown with YAML front matter.
    """
    base_model = config.base_model
    if base_model and os.path.exists(base_model):
        base_model = None  # a local folder is of no use to a reader, and its path is private
    title = (model_id or "A semi-Markov CRF tagger").rsplit("/", 1)[-1]
    results = [
        EvalResult(
            task_type="token-classification",
            task_name="Named entity recognition",
            dataset_type=dataset or "local files",
            dataset_name=dataset or "local files",
            dataset_split=split,
            metric_type=name,
            metric_name=f"entity {name}",
            metric_value=round(metrics[f"overall_{name}"], 4),
        )
        for name in ("precision", "recall", "f1")
        if metrics and f"overall_{name}" in metrics
    ]
    front_matter = ModelCardData(
        base_model=base_model,
        datasets=dataset,
        eval_results=results or None,
        language=language,
        library_name="transformers",
        license=license,
        model_name=title,
        pipeline_tag="token-classification",
        tags=list(TAGS),
    )
    scheme = config.scheme
    counts = entity_counts or {}
    body = _BODY.format(
        title=title,
        encoder=f"`{base_model}`"
        if base_model
        else f"a {config.encoder_config.model_type} encoder",
        max_segment_length=config.max_segment_length,
        training_data=f", on {dataset}" if dataset else "",
        model_id=model_id or "path/to/this/folder",
        types=markdown_table(
            ("type", "entities in the training data"),
            [(name, counts.get(name, "unknown")) for name in scheme.types[1:]],
        ),
        scheme=scheme.name,
        labels=", ".join(f"`{label}`" for label in scheme.labels),
        evaluation=_evaluation(metrics, split),
        training=_training(training),
    )
    return f"---\n{front_matter.to_yaml()}\n---\n{body}"


def _evaluation(metrics: Mapping[str, float] | None, split: str) -> str:
    if not metrics:
        return "No scores were given to this card.\n"
    return f"Exact entity matches on the {split} data, in percent.\n\n{type_table(metrics)}"


def _training(training: Mapping[str, Any] | None) -> str:
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    settings = {**(training or {}), "versions": versions}
    return markdown_table(("setting", "value"), list(settings.items()))
