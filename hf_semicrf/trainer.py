"""What the stock Trainer lacks: a learning rate for the head, and a card that knows the task.

Everything else is transformers' own Trainer, which trains the model as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainingArguments

from hf_semicrf.corpora import count_entities
from hf_semicrf.model_card import render_card
from hf_semicrf.segments import UNKNOWN_TAG, LabelScheme


@dataclass
class SemiCRFTrainingArguments(TrainingArguments):
    """TrainingArguments with the head's learning rate and defaults that suit a semi-CRF."""

    learning_rate: float = field(default=1e-4, metadata={"help": "Peak rate of the encoder."})
    head_learning_rate: float = field(
        default=1e-3, metadata={"help": "Peak rate of all parameters outside the encoder."}
    )
    num_train_epochs: float = field(default=8.0, metadata={"help": "Passes over the data."})
    per_device_train_batch_size: int = field(default=32, metadata={"help": "Sentences a step."})
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Sentences a batch."})
    warmup_steps: float = field(
        default=0.1, metadata={"help": "Steps of warm-up, or their share of all if below 1."}
    )
    logging_steps: float = field(
        default=0.05, metadata={"help": "Steps between log lines, or their share if below 1."}
    )
    save_strategy: str = field(
        default="no", metadata={"help": "When to keep checkpoints; the last model is the script's."}
    )


class SemiCRFTrainer(Trainer):
    """Trainer with `SemiCRFTrainingArguments.head_learning_rate` and a card for the task.

    Raises:
        TypeError: The arguments are not `SemiCRFTrainingArguments`.
    """

    def __init__(self, model=None, args: SemiCRFTrainingArguments | None = None, **kwargs: Any):
        if not isinstance(args, SemiCRFTrainingArguments):
            raise TypeError(
                "expected args=SemiCRFTrainingArguments(...), which has the head's learning rate, "
                f"got {type(args).__name__}"
            )
        super().__init__(model, args, **kwargs)

    def get_decay_parameter_names(self, model: torch.nn.Module) -> list[str]:
        """Weight decay is for matrices: not for biases (whatever their shape), scales and norms."""
        matrices = {name for name, value in model.named_parameters() if value.ndim >= 2}
        return [name for name in super().get_decay_parameter_names(model) if name in matrices]

    def create_optimizer(self, *model: torch.nn.Module) -> torch.optim.Optimizer:
        """The stock optimizer, whose parameter groups are each parted into encoder and head.

        Args:
            *model: The model as wrapped for training; early versions of transformers 5 give none.
        """
        if self.optimizer is None:
            optimizer = super().create_optimizer(*model)
            (owner,) = model or (self.model,)
            encoder = f"{owner.base_model_prefix}."
            head = {id(value) for name, value in owner.named_parameters() if encoder not in name}
            for group in list(optimizer.param_groups):
                part = [value for value in group["params"] if id(value) in head]
                group["params"] = [value for value in group["params"] if id(value) not in head]
                settings = {**group, "params": part, "lr": self.args.head_learning_rate}
                optimizer.add_param_group(settings)
        return self.optimizer

    def create_model_card(
        self,
        language: str | None = None,
        license: str | None = None,
        model_name: str | None = None,
        dataset: str | list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write README.md into `output_dir`; `push_to_hub` calls this too.

        Scores are those of the last evaluation, entities those of the training data.

        Args:
            language: Code of the language.
            license: Identifier of the licence.
            model_name: Name of the model on the Hub.
            dataset: Name of the data set.
            **kwargs: The stock card's other fields, which this card works out itself.
        """
        if not self.is_world_process_zero():
            return
        config = self.accelerator.unwrap_model(self.model).config
        split, metrics = last_evaluation(self.state.log_history)
        card = render_card(
            config,
            model_id=self.hub_model_id or model_name,
            metrics=metrics,
            split=split,
            entity_counts=self._entity_counts(config.scheme),
            training=describe_training(self.args),
            dataset=", ".join(dataset) if isinstance(dataset, list) else dataset,
            language=language,
            license=license,
        )
        Path(self.args.output_dir, "README.md").write_text(card, encoding="utf-8")

    def _entity_counts(self, scheme: LabelScheme) -> dict[str, int] | None:
        """Entities of each type in the training data, where it is a table with labels."""
        if "labels" not in getattr(self.train_dataset, "column_names", ()):
            return None
        tags = ([tag for tag in row if tag != UNKNOWN_TAG] for row in self.train_dataset["labels"])
        return count_entities(map(scheme.tags_to_spans, tags))


def last_evaluation(history: list[Mapping[str, Any]]) -> tuple[str, dict[str, float] | None]:
    """The split ("test" for test_...) and the scores of the last evaluation in a log."""
    for entry in reversed(history):
        prefix = next(
            (k.removesuffix("overall_f1") for k in entry if k.endswith("overall_f1")), None
        )
        if prefix is not None:
            scores = {k.removeprefix(prefix): v for k, v in entry.items() if k.startswith(prefix)}
            return prefix.strip("_").replace("eval", "validation") or "evaluation", scores
    return "evaluation", None


def describe_training(args: SemiCRFTrainingArguments) -> dict[str, Any]:
    """The settings of a run that its result depends on."""
    return {
        "epochs": args.num_train_epochs,
        "batch size": args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
        "learning rate of the encoder": args.learning_rate,
        "learning rate of the head": args.head_learning_rate,
        "schedule": getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type),
        "warm-up (steps, or share below 1)": args.warmup_steps,
        "weight decay": args.weight_decay,
        "precision": "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32",
        "seed": args.seed,
    }
