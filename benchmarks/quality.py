r"""Compare heads on named entity corpora: entity F1, by length, on neighbours, and calibration.

python benchmarks/quality.py --encoder bert-base-cased --corpora data/wnut17 data/ncbi \
    --heads softmax crf default "boundary+mix_layers=4+learning_rate=2e-4" \
    --seeds 1 2 3 4 5 --split test --jobs 6 --out results.jsonl

Each corpus is a folder of train, validation and test files in jsonl. A head is a baseline, the
"default" or a scorer, and any setting of SemiCRFConfig or of SemiCRFTrainingArguments, joined by
"+"; --training changes settings of all heads. All have the same encoder, schedule and budget, and
decode as train.py would: temperature and threshold come from the validation data. Scores are those
of one split: choose on validation, and read test once. Workers share the device and take one run
after the other; each run appends one JSON line, and runs that the file has already are left out.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import quality_recipes
import torch
import transformers
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForTokenClassification,
    set_seed,
)

from hf_semicrf import (
    LabelScheme,
    SemiCRFDataCollator,
    SemiCRFForTokenClassification,
    TokenizeAndAlign,
    choose_max_segment_length,
    ops,
    prepare_tokenizer,
)
from hf_semicrf.data import with_neighbours
from hf_semicrf.data.labels import label_names
from hf_semicrf.data.readers import read_corpus
from hf_semicrf.evaluation.breakdowns import breakdown
from hf_semicrf.evaluation.metrics import entity_scores
from hf_semicrf.head.calibration import segment_mask
from hf_semicrf.head.scorers import SCORERS
from hf_semicrf.model.loading import HEAD_ARGUMENTS
from hf_semicrf.text import WINDOW_LENGTH
from hf_semicrf.trainer import SemiCRFTrainer, SemiCRFTrainingArguments

HEADS: dict[str, dict[str, Any] | None] = {
    "softmax": None,
    "crf": {
        "label_scheme": "plain",  # the BIO tags are the types, of one word each
        "max_segment_length": 1,
        "scorer": "sum",
        "threshold": None,
        "head_temperature": 1.0,
        "mix_layers": 0,
    },
    "default": {},
}
READING = ("neighbours", "window_length", "alone", "teachers", "share", "sure")
TRAINING = {field.name for field in dataclasses.fields(SemiCRFTrainingArguments)}


class Run(NamedTuple):
    """One head on one corpus with one seed."""

    encoder: str
    encoder_name: str
    corpus: str
    head: str
    seed: int
    training: tuple[str, ...]
    split: str
    decodings: tuple[str, ...]
    commit: str
    jobs: int
    scratch: str
    candidates: str = ""
    models: str = ""
    sentences: int = 0  # of training, all where 0

    @property
    def key(self) -> tuple[Any, ...]:
        """What tells two lines of results apart."""
        name = Path(self.corpus).name
        return name, self.head, self.seed, self.split, list(self.training), self.sentences

    @property
    def origin(self) -> dict[str, Any]:
        """What a line of results says of where it comes from."""
        return {
            "jobs": self.jobs,
            "training": list(self.training),
            "encoder": self.encoder_name or Path(self.encoder).name,
            "commit": self.commit,
            "device": device_name(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }

    def drawn(self, count: int) -> list[int]:
        """The numbers of the training sentences, among as many as there are."""
        return random.Random(self.seed).sample(range(count), self.sentences or count)

    def file(self, split: str, ending: str) -> Path:
        """Where the segments of a split are written."""
        name = "-".join(map(str, (*self.key[:3], split))).replace("=", "_")
        return Path(self.candidates, f"{name}.{ending}")


class Corpus(NamedTuple):
    """The splits of a corpus that a run reads: tags by name, and rows of model inputs."""

    labels: list[str]
    tags: dict[str, list[list[str]]]
    rows: dict[str, list[dict[str, list[int]]]]


@cache
def load_corpus(
    folder: str,
    encoder: str,
    splits: tuple[str, ...],
    neighbours: str = "none",
    window_length: int = WINDOW_LENGTH,
) -> Corpus:
    """Read and tokenise a corpus; a worker does it once."""
    data = {s: read_corpus(next(Path(folder).glob(f"{s}.jsonl*"))) for s in splits}
    labels = label_names(data["train"])
    ids = {tag: i for i, tag in enumerate(labels)}
    align = TokenizeAndAlign(load_tokenizer(encoder), ids, window_length=window_length)
    rows = {}
    for name, split in data.items():
        columns = align(with_neighbours(split, neighbours, window_length)[:])
        rows[name] = [
            dict(zip(columns, values, strict=True))
            for values in zip(*columns.values(), strict=True)
        ]
    return Corpus(labels, {name: list(split["ner_tags"]) for name, split in data.items()}, rows)


def corpora_of(run: Run, reading: dict[str, Any]) -> tuple[Corpus, Corpus]:
    """The corpus as a head reads it, and with every sentence alone.

    Its rows "calibration" are those of the validation data that decoding is fitted on: all, or a
    quarter as many as a run has training sentences; "unlabelled" those that it does not train on.
    """
    splits = tuple(dict.fromkeys(("train", "validation", run.split)))
    alone = load_corpus(run.corpus, run.encoder, splits)
    corpus, draw = alone, random.Random(run.seed)
    if reading.get("neighbours", "none") != "none":
        where = reading["neighbours"], reading.get("window_length", WINDOW_LENGTH)
        corpus = load_corpus(run.corpus, run.encoder, splits, *where)
    pairs = zip(corpus.rows["train"], alone.rows["train"], strict=True)
    share = reading.get("alone", 0.0)
    train = [single if draw.random() < share else near for near, single in pairs]
    calibration = corpus.rows["validation"]
    others = []
    if run.sentences:
        numbers = run.drawn(len(train))
        others = [row for n, row in enumerate(train) if n not in {*numbers}]
        train = [train[n] for n in numbers]
        calibration = draw.sample(calibration, run.sentences // 4)
    rows = {**corpus.rows, "train": train, "calibration": calibration, "unlabelled": others}
    return corpus._replace(rows=rows), alone


@cache
def load_tokenizer(encoder: str) -> Any:
    """The encoder's tokenizer."""
    return prepare_tokenizer(AutoTokenizer.from_pretrained(encoder))


def device_name() -> str:
    """What the runs run on."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{platform.machine()} CPU, {os.cpu_count()} cores"


def settings_of(changes: Iterable[str]) -> dict[str, Any]:
    """``name=value`` pairs as a dictionary; what is JSON is read as JSON."""
    found = {}
    for change in changes:
        name, _, value = change.partition("=")
        try:
            found[name] = json.loads(value)
        except json.JSONDecodeError:
            found[name] = value
    return found


class Head(NamedTuple):
    """What the name of a head says.

    Args:
        settings: Settings of the head; None for softmax.
        training: Settings of its training.
        reading: What is read together with a sentence: ``neighbours``, ``window_length``, and
            ``alone``, the share of training sentences that are read alone nevertheless. And the
            recipes: ``teachers``, how many saved models with seeds from 11 on teach, with what
            ``share`` of the loss; ``sure``, how sure a first model has to be of its tags in the
            sentences that are not trained on, for a second one to learn from them.
    """

    settings: dict[str, Any] | None
    training: dict[str, Any]
    reading: dict[str, Any]


def parse_head(text: str) -> Head:
    """Read the name of a head.

    Raises:
        ValueError: The head or a setting is unknown, or softmax is given settings of a semi-CRF.
    """
    names = [part for part in text.split("+") if "=" not in part]
    changes = settings_of(part for part in text.split("+") if "=" in part)
    training = {name: changes.pop(name) for name in list(changes) if name in TRAINING}
    reading = {name: changes.pop(name) for name in READING if name in changes}
    if len(names) == 1 and names[0] in HEADS:
        settings = HEADS[names[0]]
    elif len(names) == 1 and names[0] in SCORERS:
        settings = {"scorer": names[0]}
    else:
        raise ValueError(
            f"expected a head among {sorted(HEADS)} or a scorer among {sorted(SCORERS)}, got {text}"
        )
    if settings is None and changes:
        raise ValueError(f"expected settings of training only for softmax, got {sorted(changes)}")
    if unknown := sorted(changes.keys() - set(HEAD_ARGUMENTS)):
        raise ValueError(f"expected settings of the head or of its training, got {unknown}")
    if settings is not None:
        kept = {name: reading[name] for name in READING[:2] if name in reading}
        settings = {**settings, **changes, **kept}
    return Head(settings, training, reading)


def build(run: Run, corpus: Corpus, settings: dict[str, Any] | None) -> torch.nn.Module:
    """A model with a new head."""
    if settings is None:
        return AutoModelForTokenClassification.from_pretrained(
            run.encoder,
            id2label=dict(enumerate(corpus.labels)),
            label2id={label: index for index, label in enumerate(corpus.labels)},
            dtype=torch.float32,
        )
    scheme = LabelScheme.from_labels(corpus.labels)
    longest = choose_max_segment_length(corpus.tags["train"], scheme)
    return SemiCRFForTokenClassification.from_pretrained(
        run.encoder,
        labels=corpus.labels,
        dtype=torch.float32,
        **{"max_segment_length": longest, **settings},
    )


@torch.no_grad()
def tag(trainer: SemiCRFTrainer, rows: list[dict[str, list[int]]]) -> list[dict[str, list]]:
    """The tags of each sentence's words, the true ones, and how sure the model is of each word's.

    That is the posterior of the segment over the word; a softmax gives the probability of the tag.
    """
    model, found = trainer.model.eval(), []
    segments = isinstance(model, SemiCRFForTokenClassification)
    wanted = {"output_segment_posteriors": True} if segments else {}
    loader = DataLoader(
        rows, trainer.args.per_device_eval_batch_size, collate_fn=trainer.data_collator
    )
    for batch in loader:
        labels = batch.pop("labels")
        output = model(**trainer._prepare_inputs(batch), **wanted)
        if segments:
            tags, scores = output.logits.argmax(-1), output.segment_posteriors
        else:
            scores, tags = output.logits.float().softmax(-1).max(-1)
        for row in zip(tags.cpu(), scores.cpu(), labels, strict=True):
            words = row[2] != -100
            names = ("tags", "scores", "labels")
            found.append({k: v[words].tolist() for k, v in zip(names, row, strict=True)})
    return found


@torch.no_grad()
def write_candidates(
    path: Path, trainer: SemiCRFTrainer, rows: list[dict[str, list[int]]], least: float = 0.02
) -> None:
    """Write the entity segments that may be decoded, as columns of an npz file.

    Args:
        path: The file: ``sentence``, ``start``, ``size`` (words), ``type``, ``posterior`` and
            ``gold`` (whether it is a true one) of each segment, and the true ones that are less
            probable than `least` too.
        trainer: Of a trained and calibrated semi-CRF.
        rows: The sentences.
        least: Posterior that a segment has to have.
    """
    model, found, sentence = trainer.model.eval(), [], 0
    loader = DataLoader(
        rows, trainer.args.per_device_eval_batch_size, collate_fn=trainer.data_collator
    )
    for batch in loader:
        scored = model(**trainer._prepare_inputs(batch), output_potentials=True).potentials
        p = scored.tempered(model.config.head_temperature)
        posterior = ops.marginals(p, segment=True).segment
        gold = segment_mask(scored.labels, scored.starts, scored.potentials)
        kept = gold | (posterior >= least)
        kept[..., 0] = False
        at = kept.nonzero()
        columns = [at[:, 0] + sentence, at[:, 1], at[:, 2] + 1, at[:, 3]]
        found.append([x.cpu().numpy() for x in (*columns, posterior[kept], gold[kept])])
        sentence += len(posterior)
    names = ("sentence", "start", "size", "type", "posterior", "gold")
    columns = {n: np.concatenate(c) for n, c in zip(names, zip(*found, strict=True), strict=True)}
    np.savez_compressed(path, **columns)


@contextmanager
def decoding_as(
    trainer: SemiCRFTrainer, validation: list[dict], decoding: str
) -> Iterator[dict[str, float | None]]:
    """Decode for a while with temperature and threshold fitted in another way.

    Args:
        trainer: Of a trained semi-CRF.
        validation: What they are fitted on.
        decoding: A temperature loss or "none", "/", and a threshold rule or "viterbi"; then
            perhaps "/" and a threshold factor.
    """
    config, args = trainer.model.config, trainer.args
    before = config.head_temperature, config.threshold, config.threshold_factor
    trainer.model.set_temperature(1.0)
    args.temperature_loss, args.threshold_rule, *factor = decoding.split("/")
    viterbi = args.threshold_rule == "viterbi"
    trainer.calibrate(validation, threshold=not viterbi)
    if viterbi or factor:
        trainer.model.set_threshold(None if viterbi else config.threshold, *map(float, factor))
    yield {"temperature": config.head_temperature, "threshold": config.threshold}
    trainer.model.set_temperature(before[0])
    trainer.model.set_threshold(*before[1:])


def entities(found: list[dict[str, list]], scheme: LabelScheme, score: str) -> list[list[tuple]]:
    """Entities (start, end, type, score) scored by the "segment", or words' "mean" or "product"."""
    rows = []
    for row in found:
        of_words = torch.tensor(row["scores"], dtype=torch.float64)
        reduce = {"segment": lambda x: x[0], "mean": torch.mean, "product": torch.prod}[score]
        spans = scheme.tags_to_spans(row["tags"])
        rows.append([(s, e, label, float(reduce(of_words[s:e]))) for s, e, label in spans])
    return rows


def train_and_score(run: Run) -> dict[str, Any]:
    """Train a head, fix its decoding on the validation data, and score it on the run's split."""
    settings, changes, reading = parse_head(run.head)
    corpus, alone = corpora_of(run, reading)
    scheme, rows = LabelScheme.from_labels(corpus.labels), corpus.rows
    set_seed(run.seed)
    model, tokenizer = build(run, corpus, settings), load_tokenizer(run.encoder)
    if settings is None:
        rows, alone = _without_masks(rows), alone._replace(rows=_without_masks(alone.rows))
    arguments = {"report_to": "none", "disable_tqdm": True, "logging_strategy": "no"}
    arguments |= {**settings_of(run.training), **changes}
    collator = DataCollatorForTokenClassification if settings is None else SemiCRFDataCollator

    def fitted(model: Any, train: list[dict], collator: Any, **teacher: Any) -> SemiCRFTrainer:
        """Train a model and fix its decoding."""
        made = (quality_recipes.Student if teacher else SemiCRFTrainer)(
            model,
            SemiCRFTrainingArguments(run.scratch, seed=run.seed, **arguments),
            train_dataset=train,
            processing_class=tokenizer,
            data_collator=collator,
            **teacher,
        )
        made.train()
        if settings is not None:
            numbers = ("head_temperature" not in settings, "threshold" not in settings)
            made.calibrate(rows["calibration"], *numbers)
        return made

    teacher = {}
    if "teachers" in reading:
        name = f"{Path(run.corpus).name}-default-{{}}"
        folders = [Path(run.models, name.format(11 + n)) for n in range(reading["teachers"])]
        train = [{**row, quality_recipes.ROW: n} for n, row in enumerate(rows["train"])]
        rows = {**rows, "train": train}
        arguments["remove_unused_columns"] = False
        plain = SemiCRFTrainer(
            model, SemiCRFTrainingArguments(run.scratch), data_collator=collator(tokenizer)
        )
        taught = quality_recipes.teacher_of(folders, plain, rows["train"])
        teacher = {"taught": taught, "share": reading.get("share", 0.5)}
    began = time.perf_counter()
    trainer = fitted(model, rows["train"], collator(tokenizer), **teacher)
    if "sure" in reading:
        sure = quality_recipes.with_sure_labels(trainer, rows["unlabelled"], reading["sure"])
        model = build(run, corpus, {**(settings or {}), "unknown": "marginalize"})
        partial_collator = SemiCRFDataCollator(tokenizer, allow_unknown=True)
        trainer = fitted(model, [*rows["train"], *sure], partial_collator)
    train_seconds = time.perf_counter() - began
    if run.models:
        model.save_pretrained(Path(run.models, "-".join(map(str, run.key[:3]))))
    if run.candidates and settings is not None:
        for split in ("validation", run.split):
            write_candidates(run.file(split, "npz"), trainer, rows[split])
    f1 = {}
    if "neighbours" in reading:
        for split in dict.fromkeys(("validation", run.split)):
            lone = tag(trainer, alone.rows[split])
            tags = [row["tags"] for row in lone], [row["labels"] for row in lone]
            f1[f"{split}_f1_alone"] = entity_scores(*tags, scheme)["overall_f1"]
    for split in dict.fromkeys(("validation", run.split)):
        began = time.perf_counter()
        found = tag(trainer, rows[split])
        decode_seconds = time.perf_counter() - began
        scores = entity_scores(
            [row["tags"] for row in found], [row["labels"] for row in found], scheme
        )
        f1[f"{split}_f1"] = scores["overall_f1"]
    gold = [scheme.tags_to_spans(row["labels"]) for row in found]
    decodings = {}
    for decoding in () if settings is None or run.head.startswith("crf") else run.decodings:
        with decoding_as(trainer, rows["calibration"], decoding) as numbers:
            others = tag(trainer, rows[run.split])
            chosen_by = tag(trainer, rows["validation"])
        scored = breakdown(gold, entities(others, scheme, "segment"))
        tags, of_validation = (
            ([row["tags"] for row in part], [row["labels"] for row in part])
            for part in (others, chosen_by)
        )
        decodings[decoding] = {
            "f1": entity_scores(*tags, scheme)["overall_f1"],
            "validation_f1": entity_scores(*of_validation, scheme)["overall_f1"],
            "calibration_error": scored["calibration_error"],
            "recalls": {n: row["recall"] for n, row in scored["lengths"].items()},
            **numbers,
        }
    kinds = ("mean", "product") if settings is None else ("segment",)
    details = {kind: breakdown(gold, entities(found, scheme, kind)) for kind in kinds}
    kind, best = min(details.items(), key=lambda item: item[1]["calibration_error"])
    if run.candidates:
        spans = {"gold": gold, "found": entities(found, scheme, kind)}
        run.file(run.split, "json").write_text(json.dumps(spans))
    return {
        "corpus": Path(run.corpus).name,
        "head": run.head,
        "seed": run.seed,
        "sentences": run.sentences,
        "split": run.split,
        **f1,
        "precision": scores["overall_precision"],
        "recall": scores["overall_recall"],
        "types": types_of(scores),
        **best,
        "entity_score": kind,  # of those that the head offers, the one with the lowest error
        "calibration_errors": {k: d["calibration_error"] for k, d in details.items()},
        "decodings": decodings,
        "temperature": getattr(model.config, "head_temperature", None),
        "threshold": getattr(model.config, "threshold", None),
        "max_segment_length": getattr(model.config, "max_segment_length", None),
        "steps": trainer.state.global_step,
        "train_seconds": train_seconds,
        "steps_per_second": trainer.state.global_step / train_seconds,
        "decode_seconds": decode_seconds,
        **run.origin,
    }


def types_of(scores: dict[str, float]) -> dict[str, float]:
    """The F1 of each type among scores."""
    own = {name.removesuffix("_f1"): f1 for name, f1 in scores.items() if name.endswith("_f1")}
    return {name: f1 for name, f1 in own.items() if name != "overall"}


def _without_masks(rows: dict[str, list[dict]]) -> dict[str, list[dict]]:
    """Rows as a softmax takes them."""
    return {
        name: [{k: v for k, v in row.items() if k != "word_mask"} for row in split]
        for name, split in rows.items()
    }


def start_worker(scratch: str, threads: int) -> None:
    """Send what a worker prints to a file of its own."""
    log = Path(scratch, f"worker-{os.getpid()}.log").open("w")
    os.dup2(log.fileno(), sys.stdout.fileno())
    os.dup2(log.fileno(), sys.stderr.fileno())
    torch.set_num_threads(threads)


def f1_cells(rows: list[dict], corpora: Iterable[str], score: str) -> list[str]:
    """Of one head's runs: each corpus's mean, deviation and number of seeds, and the mean of all.

    In percent. A corpus without runs has an empty cell, and then the mean of all has one too.
    """
    values = [[100 * r[score] for r in rows if r["corpus"] == corpus] for corpus in corpora]
    means = [statistics.mean(f1) for f1 in values if f1]
    spreads = [f" ± {statistics.stdev(f1):.2f}" if len(f1) > 1 else "" for f1 in values]
    cells = [
        f"{statistics.mean(f1):.2f}{spread} ({len(f1)})" if f1 else ""
        for f1, spread in zip(values, spreads, strict=True)
    ]
    return [*cells, f"{statistics.mean(means):.2f}" if len(means) == len(cells) else ""]


def table(rows: list[dict]) -> str:
    """Mean and deviation over the seeds of the F1, and means of the rest; a row a head."""
    corpora = sorted({row["corpus"] for row in rows})
    columns = ["head", *corpora, "mean", "recall 5+", "calibration error", "steps/s"]
    lines = ["| " + " | ".join(columns) + " |", "| --- " * len(columns) + "|"]
    for head in dict.fromkeys(row["head"] for row in rows):
        of_head = [r for r in rows if r["head"] == head]
        own = {c: [r for r in of_head if r["corpus"] == c] for c in corpora}
        cells = f1_cells(of_head, corpora, f"{of_head[0]['split']}_f1")

        def mean(value: Any, factor: float = 1.0, own: dict = own) -> str:
            """The mean over the corpora of the means over the seeds; empty where one lacks."""
            if not all(own.values()):
                return ""
            each = (statistics.mean(map(value, of_corpus)) for of_corpus in own.values())
            return f"{factor * statistics.mean(each):.2f}"

        cells.append(mean(lambda r: r["lengths"].get("5+", {}).get("recall", 0.0), 100))
        cells.append(mean(lambda r: r["calibration_error"], 100))
        cells.append(mean(lambda r: r["steps_per_second"]))
        lines.append(f"| {head} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def decoding_table(rows: list[dict]) -> str:
    """Mean F1 and calibration error of each way to decode, over all runs that tried it."""
    lines = ["| decoding | F1 | calibration error | runs |", "| --- | --- | --- | --- |"]
    for name in dict.fromkeys(name for row in rows for name in row.get("decodings", ())):
        tried = [row["decodings"][name] for row in rows if name in row.get("decodings", ())]
        f1, error = (
            f"{100 * statistics.mean(t[key] for t in tried):.2f}"
            for key in ("f1", "calibration_error")
        )
        lines.append(f"| {name} | {f1} | {error} | {len(tried)} |")
    return "\n".join(lines)


def read_lines(path: Path) -> list[dict]:
    """The results in a file, if there is one."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def run_all(
    train_and_score: Callable[[Any], dict[str, Any]],
    runs: Sequence[Any],
    names: Sequence[str],
    jobs: int,
    scratch: str,
    out: Path,
) -> int:
    """Share runs among processes, append a line for each to a file, and count those that failed.

    Args:
        train_and_score: What a process does with a run.
        runs: The runs, in order.
        names: Fields of a run that name it where it failed.
        jobs: Processes side by side.
        scratch: Folder of logs.
        out: JSON lines file to append to.
    """
    failed = 0
    threads = max(1, (os.cpu_count() or 1) // jobs)
    with ProcessPoolExecutor(
        jobs,
        multiprocessing.get_context("spawn"),
        initializer=start_worker,
        initargs=(scratch, threads),
    ) as pool:
        waiting = {pool.submit(train_and_score, run): run for run in runs}
        for future in as_completed(waiting):
            try:
                line = json.dumps(future.result())
            except Exception as error:  # the others go on
                failed += 1
                name = " ".join(str(getattr(waiting[future], field)) for field in names)
                print(f"{name} failed: {error!r}", flush=True)
                continue
            with out.open("a") as stream:
                stream.write(line + "\n")
    return failed


def main(arguments: list[str] | None = None) -> int:
    """Run every head on every corpus with every seed; returns the number of runs that failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--encoder", required=True, help="Hub name or folder of the encoder")
    parser.add_argument("--encoder_name", default="", help="its public name, for the results")
    parser.add_argument("--corpora", nargs="+", required=True, help="folders of jsonl splits")
    parser.add_argument("--heads", nargs="+", default=["softmax", "crf", "default"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument(
        "--sentences", nargs="+", type=int, default=[0], help="to train on, drawn by seed; 0: all"
    )
    parser.add_argument("--split", choices=["validation", "test"], default="validation")
    parser.add_argument(
        "--training", nargs="*", default=[], help="training arguments of all heads, name=value"
    )
    parser.add_argument(
        "--decodings",
        nargs="*",
        default=[],
        help="other ways to decode each trained semi-CRF, such as none/half_f1, sentence/viterbi, "
        "segment/best_f1 or sentence/half_f1/0.95: what the temperature and the threshold are "
        "fitted by, and a factor of the threshold a word",
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes side by side")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines file to append to")
    parser.add_argument("--scratch", default="out/quality", help="folder of logs")
    parser.add_argument(
        "--candidates", default="", help="folder for what each run finds, and may find"
    )
    parser.add_argument(
        "--models", default="", help="folder where models are saved, and teachers looked for"
    )
    parser.add_argument("--commit", default="", help="the code's commit, for the results")
    args = parser.parse_args(arguments)
    for head in args.heads:
        parse_head(head)  # refuse what is unknown before anything runs
    Path(args.scratch).mkdir(parents=True, exist_ok=True)
    done = [
        (
            *(r[name] for name in ("corpus", "head", "seed", "split", "training")),
            r.get("sentences", 0),
        )
        for r in read_lines(args.out)
    ]
    common = {"training": tuple(args.training), "split": args.split, "commit": args.commit}
    common["decodings"] = tuple(args.decodings)
    common |= {"encoder": args.encoder, "encoder_name": args.encoder_name}
    common |= {"jobs": args.jobs, "scratch": args.scratch, "candidates": args.candidates}
    common["models"] = args.models
    if args.candidates:
        Path(args.candidates).mkdir(parents=True, exist_ok=True)
    runs = [
        Run(corpus=corpus, head=head, seed=seed, sentences=sentences, **common)
        for sentences in args.sentences
        for seed in args.seeds
        for head in args.heads
        for corpus in args.corpora
    ]
    runs = [run for run in runs if run.key not in done]
    names = ("corpus", "head", "seed", "sentences")
    failed = run_all(train_and_score, runs, names, args.jobs, args.scratch, args.out)
    rows = [row for row in read_lines(args.out) if row["split"] == args.split]
    for sentences in dict.fromkeys(row.get("sentences", 0) for row in rows):
        print(f"{sentences or 'all'} sentences")
        print(table([row for row in rows if row.get("sentences", 0) == sentences]))
    if args.decodings:
        print(decoding_table(rows))
    return failed


if __name__ == "__main__":
    sys.exit(bool(main()))
