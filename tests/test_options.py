"""The table of options against every place that takes them: below, above, NaN, bool, text, ..."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import math
import random
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from cases import random_potentials
from datasets import Dataset
from tiny import error_of, save_tiny_bert
from transformers import AutoTokenizer, BertConfig

from hf_semicrf import (
    HeadSettings,
    LabelScheme,
    SemiCRF,
    SemiCRFConfig,
    SemiCRFDataCollator,
    SemiCRFForFrameClassification,
    SemiCRFForTokenClassification,
    SemiCRFFrameConfig,
    SemiCRFPipeline,
    SemiCRFTrainingArguments,
    TokenizeAndAlign,
    choose_max_segment_length,
    data,
    evaluation,
    head,
    inference,
    ops,
    text,
)
from hf_semicrf.cli import (
    backend,
    calibrate,
    demo,
    evaluate,
    predict,
    redact,
    suggest,
    train,
)
from hf_semicrf.data import FORMATS
from hf_semicrf.head.calibration import LOSSES
from hf_semicrf.labels import PREFIXES, Rules, allowed_segments, split_long_segments
from hf_semicrf.model import continued_settings
from hf_semicrf.options import MOST, OPTIONS, Option, check, own

LABELS = ["O", "B-PER", "I-PER"]
SCHEME = LabelScheme.from_labels(LABELS)


def bad_values(option: Option) -> list[Any]:
    """Values that are not among those of an option, None aside."""
    values: list[Any] = [math.nan, np.float32("nan"), math.inf, -math.inf, [1], b"1", 1j, ()]
    if option.kind is str:
        named = ["no such name", option.choices[0].swapcase()] if option.choices else []
        return [*values, *named, "", 1, 0.5, True, np.False_]
    if option.kind is bool:
        return [*values, 0, 1, 1.0, "True", "", np.int64(1), torch.tensor(1)]
    low = option.low - 1
    values += [True, False, np.True_, torch.tensor(True), "1", "0.5", "", torch.tensor([1])]
    values += [low, float(low), np.int64(low), torch.tensor(low), np.array(low), -(10**30)]
    if option.high < MOST:
        values += [option.high + 1, np.float64(option.high + 1), 10**400]
    if option.above:
        values += [option.low, -0.0]
    if option.kind is int:
        values += [option.low + 0.5, option.low + 1.0, np.float64(option.low + 1), 20.5]
    return values


def good_values(option: Option) -> list[Any]:
    """Values of an option, in the types of Python, NumPy and PyTorch."""
    if option.kind is str:
        known = option.choices or ("some name",)
        return [*known, np.str_(known[0])]
    if option.kind is bool:
        return [True, False, np.True_, torch.tensor(False)]
    least = math.ceil(option.low) + option.above
    if least > option.high:  # between 0 and 1
        return [0.5, np.float32(0.5), np.float64(0.25), torch.tensor(0.75)]
    values = [least, np.int32(least), torch.tensor(least), np.array(least)]
    if option.kind is float:
        share = option.low + 0.5
        values += [share, np.float32(share), np.float64(share), torch.tensor(share)]
    return values if option.high < MOST else [*values, 10**6]


def names_of(function: Any, *others: str) -> list[str]:
    """The options among a function's parameters."""
    try:
        parameters = inspect.signature(function).parameters
    except ValueError:  # an exception's
        return []
    return [name for name in (*parameters, *others) if name in OPTIONS]


class Entry(SimpleNamespace):
    """A place that takes options.

    Attributes:
        names: The options.
        call: What is called with one of them.
        without_none: Options that may be None elsewhere and not here.
        with_none: Options that may be None here and not elsewhere.
    """

    without_none: tuple[str, ...] = ()
    with_none: tuple[str, ...] = ()

    def cases(self) -> list[tuple[str, Any]]:
        """Every option with every bad value."""
        found = []
        for name in self.names:
            option = OPTIONS[name]
            may_be_none = name in self.with_none or option.optional
            none = [] if may_be_none and name not in self.without_none else [None]
            found += [(name, value) for value in [*bad_values(option), *none]]
        return found


def entries(folder: Any) -> dict[str, Entry]:
    """All places that take options, by name."""
    bert = save_tiny_bert(folder / "bert")
    tokenizer = AutoTokenizer.from_pretrained(bert)
    config = SemiCRFConfig(BertConfig.from_pretrained(bert), labels=LABELS)
    model = SemiCRFForTokenClassification(config)

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("the encoder ran")

    model.text_encoder.forward = never
    p = random_potentials([3], 2, 3)
    posterior, marginals = ops.marginals(p, segment=True).segment, ops.marginals(p)
    batch = {"input_ids": torch.ones(1, 3).long(), "word_mask": torch.ones(1, 3).bool()}
    crf = SemiCRF(4, 3)
    frames = SemiCRFForFrameClassification(SemiCRFFrameConfig(types=["a"], frame_seconds=1.0))
    tagger = SemiCRFPipeline(model=model, tokenizer=tokenizer)
    options = names_of(inference.predict)
    nowhere = str(folder / "nowhere.jsonl")
    rows = Dataset.from_dict({"tokens": [["a"]], "ner_tags": [["O"]]})

    def of(function: Any, *given: Any, names: list[str] | None = None, **others: Any) -> Entry:
        kinds = {k: others.pop(k) for k in ("with_none", "without_none") if k in others}

        def call(**option: Any) -> None:
            made = function(*given, **{**others, **option})
            if inspect.isgenerator(made):
                list(made)

        return Entry(names=names_of(function) if names is None else names, call=call, **kinds)

    texts = {"": [], " of a text": ["Ada saw"]}
    predicting = {
        f"{name}{how}": of(getattr(model, name), given, tokenizer)
        for name in ("predict", "analyze")
        for how, given in texts.items()
    }
    running = {"names": options, "with_none": ("batch_size",)}
    sizes = ["batch_size", "num_workers"]
    made = ops.Potentials(*p)
    return {
        **predicting,
        "predict_stream": of(
            model.predict_stream, [], tokenizer, names=[*options, "texts_at_once"]
        ),
        "the pipeline of nothing": of(tagger, [], **running),
        "the pipeline of a text": of(tagger, "Ada saw", **running),
        "the pipeline of a stream": of(tagger, iter(["Ada saw"]), **running),
        "the pipeline's workers": of(
            tagger, [], names=[*sizes, "is_split_into_words"], with_none=sizes
        ),
        "SemiCRFPipeline": of(
            SemiCRFPipeline, model=model, tokenizer=tokenizer, names=[*options, "num_workers"],
            with_none=sizes,
        ),
        "SemiCRFForTokenClassification.forward": of(model.forward, **batch),
        "SemiCRFForTokenClassification.set_threshold": of(
            model.set_threshold, threshold=0.5, with_none=("threshold_factor",)
        ),
        "SemiCRFFrameConfig": of(
            SemiCRFFrameConfig, with_none=("hidden_size",),
            names=[*names_of(SemiCRFFrameConfig), *names_of(HeadSettings)],
        ),
        "SemiCRFForFrameClassification.predict": of(
            frames.predict, [], 16_000,
            names=["batch_size", "window_seconds", "overlap_seconds"],
        ),
        "timed_scores": of(evaluation.timed_scores, [], []),
        "diarization_error_rate": of(evaluation.diarization_error_rate, [], []),
        "frame_metrics": of(evaluation.frame_metrics, frames.config),
        "SemiCRF": of(SemiCRF, hidden_size=4, num_types=3),
        "SemiCRF.forward": of(crf.forward, torch.zeros(1, 3, 4), torch.tensor([3])),
        "SemiCRF.decoding_calls": of(crf.decoding_calls),
        "HeadSettings": of(HeadSettings),
        "SemiCRFConfig": of(
            SemiCRFConfig, labels=LABELS, names=names_of(SemiCRFConfig, *names_of(HeadSettings))
        ),
        "SemiCRFConfig.from_dict": of(
            lambda **saved: SemiCRFConfig.from_dict({**config.to_dict(), **saved}),
            names=names_of(SemiCRFConfig, *names_of(HeadSettings)),
        ),
        "SemiCRFForTokenClassification.from_pretrained": of(
            SemiCRFForTokenClassification.from_pretrained, bert, labels=LABELS,
            names=["unknown", *names_of(HeadSettings)], with_none=("max_segment_length",),
        ),
        "model.continued_settings": of(
            continued_settings, SCHEME, labels=LABELS, max_segment_length=2, with_none=("longest",)
        ),
        "SemiCRFTrainingArguments": of(SemiCRFTrainingArguments, str(folder / "o"), use_cpu=True),
        "SemiCRFDataCollator": of(SemiCRFDataCollator, tokenizer),
        "TokenizeAndAlign": of(
            TokenizeAndAlign, tokenizer, SCHEME, with_none=("max_segment_length", "window_length")
        ),
        "choose_max_segment_length": of(choose_max_segment_length, [], SCHEME),
        "LabelScheme.spans_to_tags": of(SCHEME.spans_to_tags, [], length=1),
        "ops.k_best": of(ops.k_best, made, k=1),
        "ops.sample": of(ops.sample, made, n=1),
        "ops.minimum_risk": of(
            ops.minimum_risk, posterior, p.lengths, without_none=("threshold",)
        ),
        "ops.minimum_token_risk": of(ops.minimum_token_risk, marginals, p.lengths, longest=2),
        **{
            f"ops.{name}": of(getattr(ops, name), made)
            for name in ("log_partition", "marginals", "entropy", "viterbi", "max_marginals",
                         "best_segmentation", "packed")
        },
        "ops.at_segments": of(
            ops.at_segments, posterior, torch.zeros(1, 3).long(), torch.ones(1, 3).bool(), p.lengths
        ),
        "ops.mean_loss": of(ops.mean_loss, torch.zeros(1), p.lengths),
        "ops.kernels_for": of(ops.kernels_for, "pack", torch.device("cpu")),
        "ops.kl_divergence": of(ops.kl_divergence, made, made),
        "ops.log_partition_difference": of(ops.log_partition_difference, made, made),
        "ops.segment_marginals": of(ops.segment_marginals, made, torch.zeros(1, 1, 2).long()),
        "ops.decoded_posteriors": of(
            ops.decoded_posteriors,
            ops.TailedPotentials(p._replace(segment=None), torch.zeros(3), torch.zeros(3)),
            torch.zeros(1, 3).long(),
            torch.ones(1, 3).bool(),
        ),
        "ops.negative_log_likelihood": of(
            ops.negative_log_likelihood, made, torch.zeros(1, 3).long(), torch.ones(1, 3).bool()
        ),
        "ops.resolve_backend": of(ops.resolve_backend, device=torch.device("cpu")),
        "head.fit_temperature": of(head.fit_temperature, []),
        "head.fit_threshold": of(head.fit_threshold, []),
        "head.temperature_doubt": of(head.temperature_doubt, [], temperature=1.0),
        "head.threshold_doubt": of(head.threshold_doubt, []),
        "text.tokenize_words": of(text.tokenize_words, tokenizer, [], names=["max_length"]),
        "text.check_room": of(text.check_room, tokenizer),
        "text.windows_of": of(
            text.windows_of, [], tokenizer, max_length=None, overlap=None, longest=1
        ),
        "labels.split_long_segments": of(
            split_long_segments, torch.zeros(3), torch.ones(3).bool(), without_none=("max_length",)
        ),
        "labels.Rules.read": of(Rules.read, {}, ["O", "PER"]),
        "labels.allowed_segments": of(allowed_segments, [], 1, ["O", "PER"]),
        "data.read_corpus": of(data.read_corpus, nowhere),
        "data.read_dataset": of(data.read_dataset, rows, "rows"),
        "data.read_hub": of(
            data.read_hub, "nobody/nothing", split="train", names=names_of(data.read_dataset)
        ),
        "data.stream_rows": of(data.stream_rows, nowhere),
        "data.label_names": of(data.label_names, rows),
        "data.named_tags": of(data.named_tags, rows),
        "data.choose_neighbours": of(data.choose_neighbours, rows),
        "data.documents_of": of(data.documents_of, rows, neighbours="none"),
        "data.with_neighbours": of(
            data.with_neighbours, rows, neighbours="none", window_length=8
        ),
        "data.entity_spans": of(data.entity_spans, rows, SCHEME),
        "SemiCRFForTokenClassification.redact": of(
            model.redact, [], tokenizer, recall=0.9, without_none=("recall",)
        ),
        "inference.redact": of(
            inference.redact, model, [], tokenizer, recall=0.9, without_none=("recall",)
        ),
        "inference.read_candidates": of(inference.read_candidates, model, [], tokenizer, 0.5),
        "inference.conditions": of(inference.conditions, model, tokenizer, "strings"),
        "evaluation.calibrate_recall": of(
            evaluation.calibrate_recall, model, tokenizer, rows, without_none=("recall",)
        ),
        "evaluation.control_recall": of(
            evaluation.control_recall, [0.5], [0], recall=0.9, without_none=("recall",)
        ),
        "evaluation.found_at": of(evaluation.found_at, [], None, 0),
        "inference.write_shards": of(inference.write_shards, folder / "shards", [], list, {}),
        "evaluation.breakdown": of(evaluation.breakdown, [], []),
        "evaluation.evaluate_tagger": of(evaluation.evaluate_tagger, model, tokenizer, rows),
    }  # fmt: skip


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    return entries(tmp_path_factory.mktemp("options"))


def test_every_bad_value_is_refused_before_any_work_by_the_name_of_its_option(places, tmp_path):
    taken = []
    for place, entry in places.items():
        assert entry.names, place
        for name, value in entry.cases():
            if place == "SemiCRF.forward" and name == "decode" and isinstance(own(value), bool):
                continue  # whether to decode at all
            try:
                entry.call(**{name: value})
            except (ValueError, TypeError) as error:
                if str(error).startswith(f"expected {name} as ") and f"{value!r:.80}" in str(error):
                    continue
                taken.append(f"{place}({name}={value!r:.40}) said {error!r:.120}")
            else:
                taken.append(f"{place}({name}={value!r:.40}) was taken")
    assert not taken, "\n".join(taken)


# parameters that have the name of an option and another meaning, or come from a checked place
OTHERS = {
    *("Known.of_tags.longest", "Scored.tempered.temperature", "Scored.potentials"),
    *("SemiCRFForTokenClassification.config_class.label_scheme", "ReadReport.empty"),
    *("SemiCRFOutput.potentials", "SemiCRFPipeline.get_iterator.batch_size"),
    *("SemiCRFForFrameClassification.config_class.unknown", "SemiCRFFrameOutput.loss"),
    *("SemiCRFTokenClassifierOutput.loss", "SemiCRFTrainer.calibrate.temperature"),
    *("sections.windows", "spans_in_window.windows", "word_start_table.size"),
    *("span_scores.backend", "Control.threshold", "SemiCRFTrainer.calibrate_recall.recall"),
    "SemiCRFForTokenClassification.set_temperature.temperature",  # tested below
}
FLAGS = {"sentences", "epochs", "number", "shard_size", "by"}  # of command lines alone
ROOMS = ("ops", "text", "labels", "head", "export", "data", "inference", "evaluation")
ROOMS += ("reporting", "hub", "model", "trainer", "pipeline", "results")


def test_every_public_name_with_an_option_is_among_the_places(places):
    known = {place.split(".", 1)[-1] for place in places} | set(places)
    methods = ("predict", "predict_stream", "analyze")
    known |= {f"SemiCRFForTokenClassification.{name}" for name in methods}
    others = {other.rsplit(".", 1)[0] for other in OTHERS}
    missing = set()
    for room in ("hf_semicrf", *(f"hf_semicrf.{room}" for room in ROOMS)):
        module = importlib.import_module(room)
        for name in getattr(module, "__all__", vars(module)):
            thing = getattr(module, name)
            if not (getattr(thing, "__module__", None) or "").startswith(room):
                continue
            functions = {name: thing} if callable(thing) else {}
            if inspect.isclass(thing):
                functions |= {f"{name}.{n}": getattr(thing, n) for n in vars(thing) if n[0] != "_"}
            for key, function in functions.items():
                names = set(names_of(function)) - FLAGS if callable(function) else set()
                if names and key not in known | others:
                    missing.add(f"{room}: {key} {names}")
    assert not missing


@pytest.mark.parametrize("name", OPTIONS)
def test_good_values_are_taken_whoever_made_them_and_become_pythons_own(name):
    option = OPTIONS[name]
    for value in good_values(option):
        found = check(**{name: value})[name]
        assert found == value and isinstance(found, option.kind)
        json.dumps(found)
    if option.optional:
        assert check(**{name: None}) == {name: None}
        with pytest.raises(ValueError, match=f"expected {name} as .*, got None"):
            check(optional=False, **{name: None})


def test_numbers_of_numpy_and_pytorch_are_saved_in_a_configuration(tmp_path):
    config = SemiCRFConfig(
        labels=LABELS, max_segment_length=np.int64(5), threshold=torch.tensor(0.25), head_dropout=1
    )
    config.save_pretrained(tmp_path)
    saved = SemiCRFConfig.from_pretrained(tmp_path)
    assert (saved.max_segment_length, saved.threshold, saved.head_dropout) == (5, 0.25, 1.0)


def test_the_table_agrees_with_what_it_speaks_of():
    assert OPTIONS["loss"].choices == tuple(LOSSES)
    assert {c.removesuffix("-suffix") for c in OPTIONS["label_scheme"].choices} == set(PREFIXES)
    assert OPTIONS["file_format"].choices == FORMATS
    trained = {field.name for field in dataclasses.fields(SemiCRFTrainingArguments)}
    assert trained & set(OPTIONS) == set(names_of(SemiCRFTrainingArguments))


def test_a_threshold_and_a_way_to_decode_are_refused_together_even_for_no_text(places):
    for place in ("predict", "analyze", "the pipeline of nothing", "SemiCRF.forward"):
        with pytest.raises(ValueError, match=r'expected decode="viterbi" or a threshold, got both'):
            places[place].call(threshold=0.5, decode="viterbi")


def test_a_temperature_is_refused_and_the_model_stays_as_it_was():
    encoder = BertConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
    model = SemiCRFForTokenClassification(SemiCRFConfig(encoder, labels=LABELS))
    for value in bad_values(OPTIONS["temperature"]):
        with pytest.raises(ValueError, match="expected head_temperature as "):
            model.set_temperature(value)
    assert model.config.head_temperature == model.classifier.temperature == 1.0


COMMANDS = {
    backend: ["m"],
    calibrate: [".", "--file", __file__],
    demo: [],
    evaluate: ["m", "--dataset_name", "d"],
    predict: ["m", "text"],
    redact: ["m", "--file", __file__, "--recall", "0.9"],
    suggest: ["m", "--file", __file__],
    train: ["--model_name_or_path", "m", "--train_file", __file__, "--output_dir", "o"],
}


def bad_texts(option: Option) -> list[str]:
    """What stands on a command line for no value of an option."""
    if option.kind is str:
        return ["", *(["no such name", "1", "nan"] if option.choices else [])]
    texts = [str(option.low - 1), "nan", "inf", "-inf", "x", "True", "None", "", "1,5"]
    texts += [str(option.low)] if option.above else []
    texts += [str(option.high + 1)] if option.high < MOST else []
    return [*texts, *(["1.5", "1.0", "1e3"] if option.kind is int else ["1e400"])]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda module: module.__name__)
def test_commands_end_with_a_line_that_names_the_flag(command):
    flags = {action.dest for action in command.parser()._actions} & OPTIONS.keys()
    if command is train:
        flags |= set(names_of(SemiCRFTrainingArguments))
    assert flags
    for flag in sorted(flags):
        for value in bad_texts(OPTIONS[flag]):
            line = error_of(command.main, *COMMANDS[command], f"--{flag}={value}")
            assert f"--{flag}" in line and repr(value) in line, line


# Random values, for `fuzz`


def random_value(rng: random.Random) -> Any:
    """A value of any kind: numbers of all sizes and makers, strings, nothing, containers."""
    number = rng.choice([0, 1, -1, 2, 7, rng.randint(-5, 50), rng.uniform(-1, 2), 10**25, -1e30])
    number = rng.choice([number, number, float(number), math.nan, math.inf, 1e-300])
    makers = [np.float64, np.float32, torch.tensor, str, lambda x: [x], lambda x: x]
    if isinstance(number, int) and abs(number) < 2**31:
        makers += [np.int64, np.int32, bool, np.bool_]
    with np.errstate(over="ignore"):
        made = number if abs(number) >= 2**63 else rng.choice(makers)(number)
    names = [name for option in OPTIONS.values() for name in option.choices]
    return rng.choice([made, made, made, rng.choice(names), "", None, {}, object(), b"1"])


def _fits(option: Option, value: Any) -> bool:
    """Whether a value is one of an option's, told in another way than by `Option.contains`."""
    if value is None:
        return option.optional
    if isinstance(value, np.generic | np.ndarray | torch.Tensor):
        value = value.tolist()
    if option.kind in (bool, str) or type(value) not in (int, float):
        good = type(value) is option.kind and value != ""
        return good and (not option.choices or value in option.choices)
    if value != value or abs(value) == math.inf or (option.kind is int and type(value) is float):
        return False
    exact = Fraction(value)
    return option.low <= exact <= option.high and (exact != option.low or not option.above)


FUZZED = {
    HeadSettings: {},
    SemiCRFConfig: {},
    evaluation.breakdown: {"gold": [], "found": []},
    choose_max_segment_length: {"tags": [], "scheme": SCHEME},
    check: {},
}


def fuzz_options(rng: random.Random, values: int = 20) -> int:
    """Give places random values; their number.

    A value is taken if and only if it is among those of the option; else an error names it.
    """
    for _ in range(values):
        place, given = rng.choice(list(FUZZED.items()))
        # those that other settings bound are tested with the settings
        names = set(names_of(place) or OPTIONS) - {"length_prior", "min_segment_length"}
        name = rng.choice(sorted(names))
        value = random_value(rng)
        try:
            place(**given, **{name: value})
            taken = True
        except ValueError as error:
            taken = False
            assert str(error).startswith(f"expected {name} as "), (place, name, value, error)
        assert taken == _fits(OPTIONS[name], value), (place, name, value)
    return values


def test_random_values_are_taken_where_they_are_among_an_options():
    fuzz_options(random.Random(0), 1000)
