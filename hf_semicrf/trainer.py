"""What the stock Trainer lacks: a learning rate for the head, and a card that knows the task.

Everything else is transformers' own Trainer, which trains the model as well.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments
from transformers.utils import logging

from hf_semicrf.data import count_entities
from hf_semicrf.evaluation import calibrate_recall
from hf_semicrf.head import (
    evaluating,
    fit_temperature,
    fit_threshold,
    temperature_doubt,
    threshold_doubt,
)
from hf_semicrf.hub import CARD_NAME, PLOT_NAME, ListedPushes, render_card
from hf_semicrf.labels import UNKNOWN_TAG, LabelScheme
from hf_semicrf.options import OPTIONS, check
from hf_semicrf.reporting import plot_scores
from hf_semicrf.results import Promise
from hf_semicrf.saving import filling, replacing

logger = logging.get_logger(__name__)

EPOCHS = 8
LEAST_STEPS = 400


@dataclass
class SemiCRFTrainingArguments(TrainingArguments):
    """TrainingArguments with the head's learning rate and defaults that suit a semi-CRF.

    Raises:
        ValueError: An argument is out of range.
    """

    learning_rate: float = field(default=1e-4, metadata={"help": "Peak rate of the encoder."})
    head_learning_rate: float = field(
        default=1e-3, metadata={"help": "Peak rate of all parameters outside the encoder."}
    )
    temperature_loss: str = field(
        default="sentence",
        metadata={
            "help": "What `calibrate` fits the temperature by: the likelihood of whole sentences "
            "('sentence') or of each entity ('segment'); 'none' leaves it as it is."
        },
    )
    threshold_rule: str = field(
        default="half_f1",
        metadata={
            "help": "How `calibrate` chooses the threshold: 'half_f1' of the held-out data, or the "
            "one with the 'best_f1'; 'none' leaves it as it is."
        },
    )
    num_train_epochs: float | None = field(  # type: ignore[assignment]
        default=None,
        metadata={"help": "Passes over the data; by default 8, or as many as make 400 steps."},
    )
    per_device_train_batch_size: int = field(default=32, metadata={"help": "Sentences a step."})
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Sentences a batch."})
    warmup_steps: float = field(
        default=0.1, metadata={"help": "Steps of warm-up, or their share of all if below 1."}
    )
    logging_steps: float = field(
        default=0.05, metadata={"help": "Steps between log lines, or their share if below 1."}
    )
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Whether to leave out losses that are not finite."}
    )
    save_strategy: str = field(
        default="no", metadata={"help": "When to keep checkpoints; the last model is the script's."}
    )

    def __post_init__(self) -> None:
        """Refuse what is out of range."""
        known = [item.name for item in fields(self) if item.name in OPTIONS]
        for name, value in check(**{name: getattr(self, name) for name in known}).items():
            setattr(self, name, value)
        super().__post_init__()


class SemiCRFTrainer(ListedPushes, Trainer):
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
        if args.num_train_epochs is None:
            args = copy.copy(args)  # whose other trainers may have other data
            args.num_train_epochs = default_epochs(args, kwargs.get("train_dataset"))
        super().__init__(model, args, **kwargs)
        self.remarks: dict[str, str] = {}  # rows of the card beside the arguments

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """The stock log, of finite losses.

        Args:
            logs: What is logged.
            *args: As the stock Trainer takes them.
            **kwargs: As the stock Trainer takes them.

        Raises:
            ValueError: A loss is not finite. (Gradients may be: fp16 tries a smaller scale then.)
        """
        for name, value in logs.items():
            if name.endswith("loss") and not math.isfinite(value):
                raise ValueError(
                    f"expected a finite loss, got {name} = {value} at step "
                    f"{self.state.global_step}: scores are not finite, or the model allows no "
                    "segmentation with the labels"
                )
        super().log(logs, *args, **kwargs)

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
            rates = self._rates(owner)
            groups = list(optimizer.param_groups)
            optimizer.param_groups.clear()
            for group in groups:
                parts: dict[float, list[torch.nn.Parameter]] = {}
                for value in group["params"]:
                    parts.setdefault(rates[id(value)], []).append(value)
                for rate, part in parts.items():
                    optimizer.add_param_group({**group, "params": part, "lr": rate})
        return self.optimizer

    def _rates(self, model: torch.nn.Module) -> dict[int, float]:
        """The peak learning rate of each parameter, by its id."""
        encoder = f"{model.base_model_prefix}."
        return {
            id(value): self.args.learning_rate if encoder in name else self.args.head_learning_rate
            for name, value in model.named_parameters()
        }

    def calibrate(
        self, dataset: Any, temperature: bool = True, threshold: bool = True
    ) -> list[str]:
        """Fit the model's temperature, then its threshold, on held-out sentences.

        What the sentences do not carry stays as it is: see `temperature_doubt` and
        `threshold_doubt` of `hf_semicrf.head`.

        How is said by the arguments' `temperature_loss` and `threshold_rule`. Every process reads
        all sentences, so that all come to the same numbers; sentences with unknown words are left
        out.

        Args:
            dataset: Rows as `TokenizeAndAlign` makes them, with labels.
            temperature: Whether to fit the temperature.
            threshold: Whether to choose the threshold.

        Returns:
            What was not fitted, and why; a sentence each. The log and the card say it too.
        """
        model = self.accelerator.unwrap_model(self.model)
        batches = []
        rows: Any = [row for row in dataset if _fully_known(row)]
        size = self.args.per_device_eval_batch_size
        with evaluating(self.model), torch.no_grad():
            for batch in DataLoader(rows, size, collate_fn=self.data_collator):
                output = self.model(**self._prepare_inputs(batch), output_potentials=True)
                batches.append(output.potentials)
        config, doubts = model.config, []
        loss, rule = self.args.temperature_loss, self.args.threshold_rule
        nothing = None if batches else "no sentence of the validation data has all its labels"
        if temperature and loss != "none":
            fitted = config.head_temperature if nothing else fit_temperature(batches, loss)
            if doubt := nothing or temperature_doubt(batches, fitted, loss):
                doubts.append(f"temperature kept at {config.head_temperature}: {doubt}")
            else:
                model.set_temperature(fitted)
        if threshold and rule != "none":
            if doubt := nothing or threshold_doubt(
                batches, config.head_temperature, config.threshold
            ):
                doubts.append(f"threshold kept at {config.threshold}: {doubt}")
            else:
                model.set_threshold(fit_threshold(batches, config.head_temperature, rule))
        for doubt in doubts:
            logger.warning("Not calibrated, %s.", doubt)
        self.remarks.pop("not calibrated", None)
        if doubts:
            self.remarks["not calibrated"] = "; ".join(doubts)
        return doubts

    def calibrate_recall(
        self,
        data: Any,
        recall: float = 0.98,
        confidence: float | None = None,
        covering: str = "words",
        types: Sequence[str] | None = None,
        **options: Any,
    ) -> Promise:
        """Promise that a share of the entities is found on documents like these.

        The threshold is the highest on the posteriors of segments at which the share of entities
        that are missed is controlled on new documents: ``model.predict(..., recall=recall)`` then
        returns every segment above it. What is longer than the model's segments, or ends inside a
        word where ``covering="exact"``, counts as missed. The model's configuration has the promise
        from now on, in the place of an earlier one of the same recall; call this after `calibrate`,
        and save the model after it.

        Args:
            data: Documents that neither training nor `calibrate` has seen, each a row of words and
                tags; where they have "text" and "offsets" too, as `read_corpus` makes them, the
                model is given the text, and the promise is of strings.
            recall: The share of entities that is to be found, on average.
            confidence: For which share of such data the promise has to come true, say 0.95; None
                for the average over data.
            covering: "words" where an entity is found if all its words lie in segments that are
                returned, "exact" where it has to be one of them.
            types: Types that get a threshold and a promise each; None for one of all entities.
            **options: Of `hf_semicrf.evaluation.calibrate_recall`: ``name`` of the data,
                ``document_column`` where a document has several rows, columns and windows.

        Returns:
            The promise.

        Raises:
            NotCarriedError: The data cannot carry the recall; the message and ``error.best`` name
                the best that they carry.
            ValueError: An option is out of range, or a word has no tag.
        """
        options = {"batch_size": self.args.per_device_eval_batch_size, **options}
        model = self.accelerator.unwrap_model(self.model)
        tokenizer = self.processing_class
        return calibrate_recall(
            model, tokenizer, data, recall, confidence, covering, types, **options
        )

    def create_model_card(
        self,
        language: str | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        dataset: str | list[str] | None = None,
        breakdown: Mapping[str, Any] | None = None,
        sentences: Mapping[str, int] | None = None,
        examples: Sequence[Mapping[str, Any]] = (),
        **kwargs: Any,
    ) -> None:
        """Write README.md into `output_dir`, and a plot beside it; `push_to_hub` calls this too.

        Scores and speed are those of the last evaluation, entities those of the training data.

        Args:
            language: Code of the language.
            license: Identifier of the licence.
            tags: Further tags.
            model_name: Name of the model on the Hub.
            dataset: Name of the data set.
            breakdown: The scores' breakdown, as `evaluation.breakdown` returns it: by length, with
                calibration and the plot (which needs matplotlib).
            sentences: Sentences of each split; of the trainer's own data sets by default.
            examples: Texts that the Hub's page offers to try, as `render_card` takes them.
            **kwargs: The stock card's other fields, which this card works out itself.
        """
        if not self.is_world_process_zero():
            return
        model = self.accelerator.unwrap_model(self.model)
        split, metrics = last_evaluation(self.state.log_history)
        folder = Path(self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        card = render_card(
            model.config,
            model_id=self.hub_model_id or model_name or self.args.hub_model_id,
            metrics=metrics,
            split=split,
            breakdown=breakdown,
            plot=_plot(folder, breakdown, metrics) if breakdown else None,
            entity_counts=self._entity_counts(model.config.scheme),
            sentences=sentences or self._sentences(),
            speed=describe_speed(self.args, self.state.log_history),
            training=describe_training(self.args) | self.remarks,
            examples=examples,
            dataset=", ".join(dataset) if isinstance(dataset, list) else dataset,
            language=language,
            license=license,
            tags=[*([tags] if isinstance(tags, str) else tags or ()), *(model.model_tags or ())],
            adapter=getattr(model, "peft_config", None) is not None,
        )
        with replacing(folder / CARD_NAME) as path:
            path.write_text(card, encoding="utf-8")

    def save_metrics(self, split: str, metrics: Mapping[str, Any], combined: bool = True) -> None:
        """Write the scores of a split into `output_dir`, as the stock method does.

        Args:
            split: Its name.
            metrics: The scores.
            combined: Whether to add them to all_results.json too.
        """
        if not self.is_world_process_zero():
            return
        files = {f"{split}_results.json": dict(metrics)}
        if combined:
            path = Path(self.args.output_dir, "all_results.json")
            before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
            files[path.name] = {**before, **metrics}
        with filling(self.args.output_dir) as folder:
            for name, content in files.items():
                written = json.dumps(content, indent=4, sort_keys=True)
                (folder / name).write_text(written, encoding="utf-8")

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """The stock save; after an error the files of an earlier one are as they were."""
        if not self.args.should_save:
            super()._save(output_dir, state_dict)
            return
        place = Path(output_dir or self.args.output_dir)
        with filling(place) as folder:
            try:
                super()._save(str(folder), state_dict)
            except (RuntimeError, SafetensorError) as error:  # which name no file
                raise OSError(f"the model can't be saved in {place}: {error}") from error
            new = {path.name for path in folder.iterdir()}
        for path in place.glob("model*.safetensors*"):
            if path.name not in new:  # in another number of files
                path.unlink()

    def _sentences(self) -> dict[str, int]:
        """Sentences of the data sets that know their length."""
        splits = {"train": self.train_dataset, "validation": self.eval_dataset}
        return {name: len(split) for name, split in splits.items() if isinstance(split, Sized)}

    def _entity_counts(self, scheme: LabelScheme) -> dict[str, int] | None:
        """Entities of each type in the training data, where it is a table with labels."""
        if "labels" not in getattr(self.train_dataset, "column_names", ()):
            return None
        tags = ([tag for tag in row if tag != UNKNOWN_TAG] for row in self.train_dataset["labels"])
        return count_entities(map(scheme.tags_to_spans, tags))


def default_epochs(args: TrainingArguments, rows: Any) -> float:
    """Passes over the training data: `EPOCHS`, or as many as make `LEAST_STEPS`.

    Args:
        args: Say how many sentences a step takes.
        rows: The training data.
    """
    if not isinstance(rows, Sized) or not len(rows):
        return EPOCHS
    batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    return max(EPOCHS, math.ceil(LEAST_STEPS / math.ceil(len(rows) / batch)))


def _fully_known(row: Mapping[str, Any]) -> bool:
    """Whether every word of a row as `TokenizeAndAlign` makes it has a label."""
    words = row.get("word_mask", ())
    return not any(w and t == UNKNOWN_TAG for w, t in zip(words, row["labels"], strict=False))


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


def describe_speed(
    args: SemiCRFTrainingArguments, history: list[Mapping[str, Any]]
) -> dict[str, Any]:
    """Sentences a second in the last training and the last evaluation of a log, and on what."""
    rates = {}
    for entry in history:
        for key, value in entry.items():
            if key.endswith("_samples_per_second"):
                what = "training" if key.startswith("train_") else "evaluation, with decoding"
                rates[f"{what} (sentences a second)"] = f"{value:,.1f}"
    if not rates:
        return {}
    if args.device.type == "cuda":
        device = torch.cuda.get_device_name(args.device)
    else:
        device = f"{args.device.type}, {torch.get_num_threads()} threads"
    if args.world_size > 1:
        device = f"{args.world_size} x {device}"
    return {**rates, "device": device}


def _plot(
    folder: Path, breakdown: Mapping[str, Any], metrics: Mapping[str, float] | None
) -> str | None:
    """Draw the scores beside the card; the name of the picture, None without matplotlib."""
    try:
        plot_scores(folder / PLOT_NAME, breakdown, metrics)
    except RuntimeError as error:
        logger.warning("The model card has no plot: %s", error)
        return None
    return PLOT_NAME


def describe_training(args: SemiCRFTrainingArguments) -> dict[str, Any]:
    """The settings of a run that its result depends on."""
    return {
        "epochs": args.num_train_epochs,
        "optimizer": getattr(args.optim, "value", args.optim),
        "batch size": args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
        "learning rate of the encoder": args.learning_rate,
        "learning rate of the head": args.head_learning_rate,
        "schedule": getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type),
        "warm-up (steps, or share below 1)": args.warmup_steps,
        "weight decay": args.weight_decay,
        "precision": "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32",
        "seed": args.seed,
    }
