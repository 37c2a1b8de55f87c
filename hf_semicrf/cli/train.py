r"""Fine-tune an encoder with a semi-Markov CRF head on a named entity corpus.

hf-semicrf train --model_name_or_path bert-base-cased --dataset_name wnut_17 --output_dir out
hf-semicrf train --model_name_or_path bert-base-cased --output_dir out \
    --train_file train.jsonl --validation_file validation.conll.gz --test_file test.parquet
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from hf_semicrf.cli.common import (
    Parser,
    add_reading,
    existing_file,
    json_object,
    one_line_errors,
    read_tagged,
    take_options,
)
from hf_semicrf.cli.messages import opening, tell
from hf_semicrf.options import OPTIONS

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import HfArgumentParser

    from hf_semicrf import LabelScheme, SemiCRFTrainer, SemiCRFTrainingArguments
    from hf_semicrf.data import ReadReport

SPLITS = ("train", "validation", "test")
# flags that are settings of the head where they are given
HEAD = (
    *("max_segment_length", "scorer", "base_model", "threshold", "head_temperature"),
    *("constraints", "unknown", "label_scheme", "splitter", "neighbours", "window_length"),
)


class HelpOnAll(argparse.Action):
    """Print the flags of the command and those of transformers, and end."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any, **__: Any) -> NoReturn:
        """Imports transformers.

        Args:
            parser: The command's.
            *_: Values, of which there are none.
            **__: The flag.
        """
        made = training_parser(parser)
        print(parser.format_help(), made.format_help(), sep="\n")
        parser.exit()
        raise AssertionError  # `exit` does not return


def parser() -> Parser:
    """The parser of our own flags."""
    made = Parser(
        "train",
        str(__doc__),
        epilog="All flags of transformers' TrainingArguments are known too, such as --output_dir,\n"
        "--learning_rate, --head_learning_rate, --num_train_epochs and --seed:\n"
        "hf-semicrf train --help-all lists them.",
    )
    made.add_argument(
        "--help-all",
        "--help_all",
        action=HelpOnAll,
        nargs=0,
        help="list the flags of transformers' TrainingArguments too, and exit",
    )
    _add_model(made.add_argument_group("model"))
    _add_data(made)
    return made


def _add_model(group: argparse._ArgumentGroup) -> None:
    """Which encoder, and which head."""
    group.add_argument(
        "--model_name_or_path",
        required=True,
        help="Hub name or folder of an encoder, or of a semi-CRF model to go on with",
    )
    group.add_argument(
        "--max_segment_length",
        help="words in the longest entity; from the data by default",
    )
    group.add_argument("--scorer", help="how hidden states score segments; see SemiCRFConfig")
    group.add_argument(
        "--threshold",
        help="posterior that a predicted segment has to exceed; chosen on the validation data by "
        "default (--threshold_rule)",
    )
    group.add_argument(
        "--head_temperature",
        help="what scores are divided by in decoding; fitted on the validation data by default "
        "(--temperature_loss)",
    )
    group.add_argument(
        "--constraints",
        type=json_object,
        help='what is allowed, as JSON: {"lengths": {"PER": [1, 4]}}; see SemiCRFConfig',
    )
    group.add_argument(
        "--unknown",
        choices=OPTIONS["unknown"].choices,
        help='with "marginalize", training sums over the tags of words whose tag is "?"',
    )
    group.add_argument(
        "--splitter",
        help="what a word of running text is: unicode, hyphens, punctuation, spaces, or pattern: "
        "and a regular expression; the one that agrees with the data by default",
    )
    group.add_argument(
        "--neighbours",
        choices=(*OPTIONS["neighbours"].choices, "auto"),
        help="sentences that each one is read together with: none (the default), those of its "
        "document (a column doc_id, or -DOCSTART- lines), or those beside it in the file where "
        "the data know no documents; auto takes what the training data have",
    )
    group.add_argument(
        "--window_length", help="sub-words in which these fit, with the sentence; 128"
    )
    group.add_argument("--base_model", help="the encoder's public name for the model card")


def _add_data(made: Parser) -> None:
    """Where the sentences come from, and what their columns are called."""
    group = made.add_argument_group("data")
    source = group.add_mutually_exclusive_group(required=True)
    source.add_argument("--dataset_name", help="data set on the Hub")
    source.add_argument(
        "--train_file",
        type=existing_file,
        help="local corpus, in any of the formats of docs/data.md",
    )
    group.add_argument("--dataset_config_name", help="configuration of the data set on the Hub")
    group.add_argument("--validation_file", type=existing_file, help="as --train_file")
    group.add_argument("--test_file", type=existing_file, help="as --train_file")
    group.add_argument("--labels", nargs="+", help="all tags; read off all the data by default")
    group.add_argument(
        "--label_scheme", help="how tags are read, such as IOB2 or plain; recognised by default"
    )
    group.add_argument(
        "--card_examples",
        nargs="+",
        help="texts that the model card shows and the Hub's page offers to try; by default from "
        "the data if it is a data set on the Hub, none from local files",
    )
    group.add_argument(
        "--max_length",
        help="sub-words in a sentence; the tokenizer's by default",
    )
    add_reading(made)


def training_parser(ours: argparse.ArgumentParser) -> HfArgumentParser:
    """The parser of the other flags, those of `SemiCRFTrainingArguments`; imports transformers.

    Args:
        ours: The parser of our own flags, which says what is wrong.
    """
    from transformers import HfArgumentParser

    from hf_semicrf import SemiCRFTrainingArguments

    class TrainingParser(HfArgumentParser):
        """A parser that says in one line what is wrong."""

        def error(self, message: str) -> NoReturn:
            ours.error(message)

    made = TrainingParser(
        SemiCRFTrainingArguments,  # type: ignore[arg-type]  # a subclass of a dataclass
        usage=argparse.SUPPRESS,
        description="All of transformers' TrainingArguments, and what SemiCRFTrainer adds:",
        allow_abbrev=False,
        add_help=False,
    )
    take_options(made)
    return made


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    """Train, calibrate, evaluate and save.

    Args:
        arguments: The command line, `sys.argv` by default.

    Returns:
        The scores of the last evaluation.
    """
    made = parser()
    args, others = made.parse_known_args(arguments)
    if args.dataset_name and (args.validation_file or args.test_file):
        made.error("expected --validation_file and --test_file with --train_file alone")
    results = sys.stdout
    with one_line_errors(made), redirect_stdout(sys.stderr):  # the log of the training
        from hf_semicrf.text import Splitter

        Splitter.of(args.splitter)  # refuse one that there is not before the data are read
        training_args = _training_arguments(made, others)
        read = load_splits(args)
        with _only_run(training_args):
            trainer, inputs = _prepare(args, training_args, read)
            splits = {name: data for name, (data, _) in read.items()}
            return _train(args, trainer, splits, inputs, results)


def _only_run(training_args: SemiCRFTrainingArguments) -> AbstractContextManager[None]:
    """Be the only run that writes the output folder, whatever the number of its processes."""
    from hf_semicrf.saving import only_writer

    if training_args.process_index:
        return nullcontext()
    place = str(training_args.output_dir)
    return only_writer(Path(place), place)


def _training_arguments(made: Parser, others: list[str]) -> SemiCRFTrainingArguments:
    """What our own parser has left."""
    read, unknown = training_parser(made).parse_args_into_dataclasses(
        others, return_remaining_strings=True, look_for_args_file=False
    )
    if unknown:
        made.error(f"unknown arguments: {' '.join(unknown)}")
    checkpoint = read.resume_from_checkpoint
    if checkpoint is not None and not Path(checkpoint).is_dir():
        made.error(f"argument --resume_from_checkpoint: found no folder at {checkpoint!r}")
    return read


def load_splits(args: argparse.Namespace) -> dict[str, tuple[Dataset, ReadReport]]:
    """The splits that were asked for, each with the report of its reading.

    "train" always, "validation" and "test" where there are.

    Args:
        args: The command line.
    """
    if args.dataset_name is not None:
        from datasets import get_dataset_split_names

        names = get_dataset_split_names(args.dataset_name, args.dataset_config_name)
        return {
            name: read_tagged(None, args.dataset_name, args.dataset_config_name, name, args)
            for name in SPLITS
            if name in names
        }
    files = {name: getattr(args, f"{name}_file") for name in SPLITS}
    return {
        name: read_tagged(path, None, None, name, args)
        for name, path in files.items()
        if path is not None
    }


def _describe(
    splits: dict[str, tuple[Dataset, ReadReport]], scheme: LabelScheme, tags_column: str
) -> None:
    """Print the size of each split and its entities; refuses tags outside the scheme."""
    from hf_semicrf.data import count_entities, entity_spans

    for name, (split, report) in splits.items():
        try:
            counts = count_entities(entity_spans(split, scheme, tags_column, report))
        except ValueError as error:
            raise ValueError(f"{name} data, {error}") from None
        listed = ", ".join(f"{label} {count:,}" for label, count in counts.items()) or "none"
        tell(f"{name}: {len(split):,} sentences, {sum(counts.values()):,} entities ({listed})")


def _refuse_unknown(
    train: tuple[Dataset, ReadReport], args: argparse.Namespace, unknown: str | None
) -> None:
    """Refuse tags that nobody knows, unless training sums over them."""
    from hf_semicrf.data import named_tags

    if unknown == "marginalize":
        return
    data, report = train
    for place, tags in zip(report.places, named_tags(data, args.tags_column), strict=False):
        if any(tag in (None, "?", -100) for tag in tags):
            raise ValueError(
                f"{place}: expected a tag for each word, got an unknown one in {tags}; "
                "--unknown marginalize trains on what is known"
            )


@contextmanager
def _told_of(source: str) -> Iterator[None]:
    """Name in an error what the labels were read from."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None


def _written(split: Dataset) -> list[Any] | None:
    """The text of each sentence and the places of its words; None where nobody knows."""
    if not {"text", "offsets"} <= set(split.column_names):
        return None
    return list(zip(split["text"], split["offsets"], strict=True))


def _prepare(
    args: argparse.Namespace,
    training_args: SemiCRFTrainingArguments,
    read: dict[str, tuple[Dataset, ReadReport]],
) -> tuple[SemiCRFTrainer, dict[str, Dataset]]:
    """The trainer, and the splits as the model reads them."""
    import torch
    from transformers import AutoConfig, AutoTokenizer, set_seed

    from hf_semicrf import (
        SemiCRFConfig,
        SemiCRFDataCollator,
        SemiCRFForTokenClassification,
        SemiCRFTrainer,
        TokenizeAndAlign,
        choose_max_segment_length,
        prepare_tokenizer,
        seqeval_metrics,
    )
    from hf_semicrf.data import (
        choose_neighbours,
        choose_splitter,
        label_names,
        named_tags,
        scheme_of,
        with_neighbours,
    )
    from hf_semicrf.inference import longest_input
    from hf_semicrf.model import continued_settings

    set_seed(training_args.seed)
    splits = {name: data for name, (data, _) in read.items()}
    with _told_of(read["train"][1].source):
        labels = args.labels or label_names(splits, args.tags_column, args.label_scheme)
    scheme = scheme_of(labels, read["train"][1], args.label_scheme)
    _describe(read, scheme, args.tags_column)
    head = {name: getattr(args, name) for name in HEAD if getattr(args, name) is not None}
    _refuse_unknown(read["train"], args, head.get("unknown"))
    if "max_segment_length" not in head:
        tags: Any = named_tags(splits["train"], args.tags_column)
        head["max_segment_length"] = choose_max_segment_length(tags, scheme)
    found = None
    if args.neighbours in ("document", "auto"):
        found = choose_neighbours(splits["train"], args.tokens_column)
    if args.neighbours == "auto":
        head["neighbours"] = found
    elif args.neighbours == "document" and found != "document":
        raise ValueError(
            f"{read['train'][1].source}: expected a column doc_id that several sentences share, or "
            "-DOCSTART- lines, for --neighbours document; got none"
        )
    choice = choose_splitter(splits["train"][args.tokens_column], _written(splits["train"]))
    with opening(args.model_name_or_path):
        stored = AutoConfig.from_pretrained(args.model_name_or_path)
        if isinstance(stored, SemiCRFConfig):
            with _told_of("--labels" if args.labels else read["train"][1].source):
                known = stored.scheme, stored.max_segment_length
                continued_settings(*known, labels, args.label_scheme)
        if args.splitter is None and not isinstance(stored, SemiCRFConfig):
            head["splitter"] = choice.name
        model: Any = SemiCRFForTokenClassification.from_pretrained(
            args.model_name_or_path,
            labels=labels,
            dtype=torch.float32,  # --bf16 and --fp16 train in mixed precision
            **head,
        )
        tokenizer = prepare_tokenizer(AutoTokenizer.from_pretrained(args.model_name_or_path))
    align = TokenizeAndAlign(
        tokenizer,
        model.config,
        max_length=min(
            (n for n in (args.max_length, longest_input(model, tokenizer)) if n), default=None
        ),
        tokens_column=args.tokens_column,
        tags_column=args.tags_column,
        max_segment_length=model.config.max_segment_length,
        constraints=model.config.constraints,
        windows=True,
    )
    config = model.config
    inputs = {}
    for name, split in splits.items():
        around = with_neighbours(split, config.neighbours, config.window_length, args.tokens_column)
        inputs[name] = around.map(
            align, batched=True, remove_columns=around.column_names, desc=f"tokenising {name}"
        )
    print(f"neighbours: {config.neighbours}")
    print(choice.of(model.config.splitter))
    tell(f"labels: {' '.join(model.config.labels)}")
    longest = model.config.max_segment_length
    print(f"scheme {model.config.scheme.name}, segments of up to {longest} words")
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
    trainer.remarks["splitter"] = choice.of(model.config.splitter).removeprefix("splitter ")
    return trainer, inputs


def _train(
    args: argparse.Namespace,
    trainer: SemiCRFTrainer,
    splits: dict[str, Dataset],
    inputs: dict[str, Dataset],
    results: Any,
) -> dict[str, float]:
    """Train, calibrate, save, evaluate, write the card and push."""
    model: Any = trainer.model
    result = trainer.train(resume_from_checkpoint=trainer.args.resume_from_checkpoint)
    if "validation" in inputs:
        trainer.calibrate(
            inputs["validation"],
            temperature=args.head_temperature is None,
            threshold=args.threshold is None,
        )
        config = model.config
        print(f"decoding temperature {config.head_temperature}, threshold {config.threshold}")
    trainer.save_model()
    trainer.save_metrics("train", result.metrics)

    metrics: dict[str, float] = {}
    breakdown = None
    for name in ("validation", "test"):
        if name in inputs:
            metrics, breakdown = _evaluate(args, trainer, name, splits[name])
            with redirect_stdout(results):
                trainer.log_metrics(name, metrics)
            trainer.save_metrics(name, metrics)
    card = {"dataset": args.dataset_name, "breakdown": breakdown}
    card |= _card_details(args, trainer, splits)
    trainer.create_model_card(**card)
    if trainer.args.push_to_hub:
        trainer.push_to_hub(**card)
    return metrics


def _evaluate(
    args: argparse.Namespace, trainer: SemiCRFTrainer, name: str, split: Dataset
) -> tuple[dict[str, float], dict[str, Any]]:
    """Scores over all entities of a split, as `hf-semicrf evaluate` has them, and the breakdown."""
    from time import perf_counter

    from hf_semicrf.cli.common import WithProgress
    from hf_semicrf.evaluation import evaluate_tagger

    began = perf_counter()
    scores, breakdown = evaluate_tagger(
        WithProgress(trainer.model),
        trainer.processing_class,
        split,
        args.tokens_column,
        args.tags_column,
        batch_size=trainer.args.per_device_eval_batch_size,
        **({"max_length": args.max_length} if args.max_length else {}),
    )
    seconds = perf_counter() - began
    metrics = {f"{name}_{key}": value for key, value in scores.items()}
    metrics |= {
        f"{name}_runtime": seconds,
        f"{name}_samples_per_second": len(split) / seconds,
    }
    trainer.log(dict(metrics))
    return metrics, breakdown


def _card_details(
    args: argparse.Namespace, trainer: SemiCRFTrainer, splits: dict[str, Dataset]
) -> dict[str, Any]:
    """What the model card says beyond the trainer's log: sizes, a breakdown and examples."""
    from hf_semicrf.data import entity_spans

    model: Any = trainer.model
    tokenizer: Any = trainer.processing_class
    details: dict[str, Any] = {"sentences": {name: len(split) for name, split in splits.items()}}
    texts = args.card_examples or []
    held_out = splits.get("test", splits.get("validation"))
    if held_out is not None:
        if args.dataset_name and args.card_examples is None:  # public already
            spans = entity_spans(held_out, model.config.scheme, args.tags_column)
            rows = zip(held_out[args.tokens_column], spans, strict=True)
            fitting = (" ".join(words) for words, found in rows if found and len(words) < 40)
            texts = list(islice(fitting, 3))
    examples = zip(texts, model.predict(texts, tokenizer), strict=True)
    details["examples"] = [{"text": text, "entities": entities} for text, entities in examples]
    return details
