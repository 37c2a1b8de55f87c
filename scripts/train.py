r"""Fine-tune an encoder with a semi-Markov CRF head on a named entity corpus.

python scripts/train.py --model_name_or_path bert-base-cased --dataset_name wnut_17 --output_dir out
python scripts/train.py --model_name_or_path bert-base-cased --output_dir out \
    --train_file train.jsonl --validation_file validation.conll.gz --test_file test.parquet

Every argument of transformers' TrainingArguments is accepted too; --help lists all.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from datasets import Dataset, load_dataset
from transformers import AutoTokenizer, HfArgumentParser, PreTrainedTokenizerBase, set_seed

from hf_semicrf import (
    LabelScheme,
    SemiCRFDataCollator,
    SemiCRFForTokenClassification,
    TokenizeAndAlign,
    choose_max_segment_length,
    prepare_tokenizer,
)
from hf_semicrf.data.labels import count_entities, entity_spans, label_names, named_tags
from hf_semicrf.data.readers import read_corpus
from hf_semicrf.evaluation.breakdowns import evaluate_tagger
from hf_semicrf.evaluation.metrics import seqeval_metrics
from hf_semicrf.trainer import SemiCRFTrainer, SemiCRFTrainingArguments


@dataclass
class ModelArguments:
    """Which encoder, and how large a head."""

    model_name_or_path: str = field(
        metadata={"help": "Hub name or folder of an encoder, or of a semi-CRF model to go on with."}
    )
    max_segment_length: int | None = field(
        default=None, metadata={"help": "Words in the longest entity; from the data by default."}
    )
    scorer: str | None = field(
        default=None, metadata={"help": "How hidden states score segments; see SemiCRFConfig."}
    )
    threshold: float | None = field(
        default=None,
        metadata={
            "help": "Posterior that a predicted segment has to exceed; chosen on the validation "
            "data by default (--threshold_rule)."
        },
    )
    head_temperature: float | None = field(
        default=None,
        metadata={
            "help": "What scores are divided by in decoding; fitted on the validation data by "
            "default (--temperature_loss)."
        },
    )
    constraints: str | None = field(
        default=None,
        metadata={"help": 'What is allowed, as JSON: {"lengths": {"PER": [1, 4]}}; SemiCRFConfig.'},
    )
    unknown: str | None = field(
        default=None,
        metadata={
            "help": 'With "marginalize", training sums over the tags of words whose tag is "?".'
        },
    )
    base_model: str | None = field(
        default=None, metadata={"help": "The encoder's public name for the model card."}
    )


@dataclass
class DataArguments:
    """Where the sentences come from, and what their columns are called."""

    dataset_name: str | None = field(default=None, metadata={"help": "Data set on the Hub."})
    dataset_config_name: str | None = field(default=None, metadata={"help": "Its configuration."})
    train_file: str | None = field(
        default=None, metadata={"help": "Local corpus: jsonl, CoNLL columns or parquet; or .gz."}
    )
    validation_file: str | None = field(default=None, metadata={"help": "As train_file."})
    test_file: str | None = field(default=None, metadata={"help": "As train_file."})
    tokens_column: str = field(default="tokens", metadata={"help": "Column of the words."})
    tags_column: str = field(default="ner_tags", metadata={"help": "Column of the tags."})
    labels: list[str] | None = field(
        default=None, metadata={"help": "All tags; read off the training data by default."}
    )
    card_examples: list[str] | None = field(
        default=None,
        metadata={
            "help": "Texts that the model card shows and the Hub's page offers to try; by default "
            "from the data if it is a data set on the Hub, none from local files."
        },
    )
    max_length: int | None = field(
        default=None, metadata={"help": "Sub-words in a sentence; the tokenizer's by default."}
    )


def load_splits(args: DataArguments) -> dict[str, Dataset]:
    """The splits that were asked for: "train" always, "validation" and "test" where there are."""
    files = {
        "train": args.train_file,
        "validation": args.validation_file,
        "test": args.test_file,
    }
    if (args.dataset_name is None) == (args.train_file is None):
        raise ValueError("expected either --dataset_name or --train_file")
    if args.dataset_name is not None:
        loaded = load_dataset(args.dataset_name, args.dataset_config_name)
        return {name: loaded[name] for name in files if name in loaded}
    return {
        name: read_corpus(path, args.tokens_column, args.tags_column)
        for name, path in files.items()
        if path is not None
    }


def describe(splits: dict[str, Dataset], scheme: LabelScheme, tags_column: str) -> None:
    """Print the size of each split and its entities; refuses tags outside the scheme."""
    for name, split in splits.items():
        try:
            counts = count_entities(entity_spans(split, scheme, tags_column))
        except ValueError as error:
            raise ValueError(f"{name} data, {error}") from None
        listed = ", ".join(f"{label} {count:,}" for label, count in counts.items()) or "none"
        print(f"{name}: {len(split):,} sentences, {sum(counts.values()):,} entities ({listed})")


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    """Train, evaluate and save; returns the scores of the last evaluation."""
    parser = HfArgumentParser((ModelArguments, DataArguments, SemiCRFTrainingArguments))
    model_args, data_args, training_args = parser.parse_args_into_dataclasses(arguments)
    set_seed(training_args.seed)

    try:
        splits = load_splits(data_args)
        labels = data_args.labels or label_names(splits["train"], data_args.tags_column)
        scheme = LabelScheme.from_labels(labels)
        describe(splits, scheme, data_args.tags_column)
        head = {
            "max_segment_length": model_args.max_segment_length,
            "scorer": model_args.scorer,
            "base_model": model_args.base_model,
            "threshold": model_args.threshold,
            "head_temperature": model_args.head_temperature,
            "constraints": model_args.constraints and json.loads(model_args.constraints),
            "unknown": model_args.unknown,
        }
        if head["max_segment_length"] is None:
            tags = named_tags(splits["train"], data_args.tags_column)
            head["max_segment_length"] = choose_max_segment_length(tags, scheme)
        model = SemiCRFForTokenClassification.from_pretrained(
            model_args.model_name_or_path,
            labels=labels,
            dtype=torch.float32,  # --bf16 and --fp16 train in mixed precision
            **{name: value for name, value in head.items() if value is not None},
        )
        tokenizer = prepare_tokenizer(AutoTokenizer.from_pretrained(model_args.model_name_or_path))
        align = TokenizeAndAlign(
            tokenizer,
            model.config.label2id,
            max_length=data_args.max_length,
            tokens_column=data_args.tokens_column,
            tags_column=data_args.tags_column,
            max_segment_length=model.config.max_segment_length,
            constraints=model.config.constraints,
        )
        inputs = {
            name: split.map(
                align, batched=True, remove_columns=split.column_names, desc=f"tokenising {name}"
            )
            for name, split in splits.items()
        }
    except (OSError, ValueError) as error:
        sys.exit(f"train.py: {error}")
    print(f"labels: {' '.join(labels)}")
    print(f"scheme {scheme.name}, segments of up to {model.config.max_segment_length} words")

    trainer = SemiCRFTrainer(
        model,
        training_args,
        train_dataset=inputs["train"],
        eval_dataset=inputs.get("validation"),
        processing_class=tokenizer,
        data_collator=SemiCRFDataCollator(
            tokenizer, allow_unknown=model.config.unknown == "marginalize"
        ),
        compute_metrics=seqeval_metrics(model.config),
    )
    result = trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
    if "validation" in inputs:
        trainer.calibrate(
            inputs["validation"],
            temperature=model_args.head_temperature is None,
            threshold=model_args.threshold is None,
        )
        config = model.config
        print(f"decoding temperature {config.head_temperature}, threshold {config.threshold}")
    trainer.save_model()
    trainer.save_metrics("train", result.metrics)

    metrics: dict[str, float] = {}
    for name in ("validation", "test"):
        if name in inputs:
            metrics = trainer.evaluate(inputs[name], metric_key_prefix=name)
            trainer.log_metrics(name, metrics)
            trainer.save_metrics(name, metrics)
    card = {"dataset": data_args.dataset_name} | card_details(model, tokenizer, splits, data_args)
    trainer.create_model_card(**card)
    if training_args.push_to_hub:
        trainer.push_to_hub(**card)
    return metrics


def card_details(
    model: SemiCRFForTokenClassification,
    tokenizer: PreTrainedTokenizerBase,
    splits: dict[str, Dataset],
    args: DataArguments,
) -> dict[str, Any]:
    """What the model card says beyond the trainer's log: sizes, a breakdown and examples."""
    details: dict[str, Any] = {"sentences": {name: len(split) for name, split in splits.items()}}
    texts = args.card_examples or []
    held_out = splits.get("test", splits.get("validation"))
    if held_out is not None:
        columns = (args.tokens_column, args.tags_column)
        _, details["breakdown"] = evaluate_tagger(model, tokenizer, held_out, *columns)
        if args.dataset_name and args.card_examples is None:  # public already
            spans = entity_spans(held_out, model.config.scheme, args.tags_column)
            rows = zip(held_out[args.tokens_column], spans, strict=True)
            fitting = (" ".join(words) for words, found in rows if found and len(words) < 40)
            texts = list(islice(fitting, 3))
    examples = zip(texts, model.predict(texts, tokenizer), strict=True)
    details["examples"] = [{"text": text, "entities": entities} for text, entities in examples]
    return details


if __name__ == "__main__":
    main()
