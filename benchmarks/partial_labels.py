r"""Compare what to do about entities that annotators left out: entity F1 on complete test data.

python benchmarks/partial_labels.py --encoder all-MiniLM-L6-v2 --corpus data/wnut17 \
    --seeds 1 2 --jobs 8 --training num_train_epochs=5 --out results.jsonl

A share of the training data's entity annotations, drawn at random by the seed, is hidden. The
conditions differ in what is said of the hidden entities' words:

- full: nothing is hidden; what complete annotation would give.
- outside: they are tagged O, as where annotators missed them without a trace.
- unknown: they are unknown, as where annotators skipped them knowingly; training sums over all
  segmentations that agree with the other words' tags. That they are entities is not said.
- unknown+outside: as unknown, and as many words outside entities are unknown too: for each hidden
  entity a random run of O words of its length, so that being unknown tells nothing.

All conditions have the same encoder, schedule, hidden entities and complete validation data, on
which temperature and threshold are fitted after training. Each run appends one JSON line.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from quality import (
    device_name,
    load_tokenizer,
    read_lines,
    run_all,
    settings_of,
    tag,
)
from transformers import set_seed

from hf_semicrf import (
    LabelScheme,
    SemiCRFDataCollator,
    SemiCRFForTokenClassification,
    TokenizeAndAlign,
    choose_max_segment_length,
)
from hf_semicrf.data.labels import label_names
from hf_semicrf.data.readers import read_corpus
from hf_semicrf.evaluation.metrics import entity_scores
from hf_semicrf.labels.schemes import OUTSIDE, UNKNOWN
from hf_semicrf.trainer import SemiCRFTrainer, SemiCRFTrainingArguments

CONDITIONS = ("full", "outside", "unknown", "unknown+outside")
SPLITS = ("train", "validation", "test")


class Run(NamedTuple):
    """One condition with one seed."""

    encoder: str
    encoder_name: str
    corpus: str
    condition: str
    seed: int
    share: float
    limit: int | None
    training: tuple[str, ...]
    commit: str
    jobs: int
    scratch: str


def hide(
    tags: list[list[str]], scheme: LabelScheme, condition: str, share: float, seed: int
) -> list[list[str]]:
    """The tags of the training sentences under a condition."""
    tags = [list(row) for row in tags]
    if condition == "full":
        return tags
    generator = random.Random(seed)
    entities = [(n, s, e) for n, row in enumerate(tags) for s, e, _ in scheme.tags_to_spans(row)]
    hidden = generator.sample(entities, round(share * len(entities)))
    # drawn before anything is written, and in every condition, so that all hide the same
    decoys = [decoy for _, s, e in hidden for decoy in outside_run(tags, e - s, generator)]
    for n, start, end in hidden:
        tags[n][start:end] = [OUTSIDE if condition == "outside" else UNKNOWN] * (end - start)
    if condition == "unknown+outside":
        for n, start, end in decoys:
            tags[n][start:end] = [UNKNOWN] * (end - start)
    return tags


def outside_run(
    tags: list[list[str]], length: int, generator: random.Random
) -> list[tuple[int, int, int]]:
    """A random run of O words, (sentence, first word, word after the last); or none."""
    for _ in range(1000):
        n = generator.randrange(len(tags))
        start = generator.randrange(len(tags[n]))
        if tags[n][start : start + length] == [OUTSIDE] * length:
            return [(n, start, start + length)]
    return []


def train_and_score(run: Run) -> dict[str, Any]:
    """Train under a condition, fit the decoding on the validation data, score on the test data."""
    files = {s: next(Path(run.corpus).glob(f"{s}.jsonl*")) for s in SPLITS}
    splits = {s: read_corpus(file)[: run.limit] for s, file in files.items()}
    labels = label_names(read_corpus(files["train"]))
    scheme = LabelScheme.from_labels(labels)
    longest = choose_max_segment_length(splits["train"]["ner_tags"], scheme)
    splits["train"]["ner_tags"] = hide(
        splits["train"]["ner_tags"], scheme, run.condition, run.share, run.seed
    )
    set_seed(run.seed)
    model = SemiCRFForTokenClassification.from_pretrained(
        run.encoder,
        labels=labels,
        max_segment_length=longest,
        unknown="marginalize" if run.condition.startswith("unknown") else "error",
        dtype=torch.float32,
    )
    tokenizer = load_tokenizer(run.encoder)
    align = TokenizeAndAlign(tokenizer, scheme.label2id)
    rows = {}
    for name, split in splits.items():
        columns = align(split)
        rows[name] = [
            dict(zip(columns, x, strict=True)) for x in zip(*columns.values(), strict=True)
        ]
    arguments = {"report_to": "none", "disable_tqdm": True, "save_strategy": "no"}
    arguments |= settings_of(run.training)
    trainer = SemiCRFTrainer(
        model,
        SemiCRFTrainingArguments(run.scratch, seed=run.seed, **arguments),
        train_dataset=rows["train"],
        processing_class=tokenizer,
        data_collator=SemiCRFDataCollator(tokenizer, allow_unknown=True),
    )
    began = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - began
    trainer.calibrate(rows["validation"])
    found = tag(trainer, rows["test"])
    scores = entity_scores([r["tags"] for r in found], [r["labels"] for r in found], scheme)
    return {
        "corpus": Path(run.corpus).name,
        "condition": run.condition,
        "seed": run.seed,
        "share": run.share,
        "unknown_words": sum(row.count(UNKNOWN) for row in splits["train"]["ner_tags"]),
        "test_f1": scores["overall_f1"],
        "test_precision": scores["overall_precision"],
        "test_recall": scores["overall_recall"],
        "threshold": model.config.threshold,
        "temperature": model.config.head_temperature,
        "max_segment_length": longest,
        "steps": trainer.state.global_step,
        "train_seconds": seconds,
        "jobs": run.jobs,
        "training": list(run.training),
        "encoder": run.encoder_name or Path(run.encoder).name,
        "commit": run.commit,
        "device": device_name(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Mean and deviation of F1, precision and recall over the seeds, percent; a row a condition."""
    lines = ["| condition | F1 | precision | recall | seeds |", "| --- | --- | --- | --- | --- |"]
    for condition in dict.fromkeys(row["condition"] for row in rows):
        own = [row for row in rows if row["condition"] == condition]
        cells = []
        for score in ("test_f1", "test_precision", "test_recall"):
            values = [100 * row[score] for row in own]
            spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.2f}{spread}")
        lines.append(f"| {condition} | {' | '.join(cells)} | {len(own)} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run every condition with every seed; returns the number of runs that failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--encoder", required=True, help="Hub name or folder of the encoder")
    parser.add_argument("--encoder_name", default="", help="its public name, for the results")
    parser.add_argument("--corpus", required=True, help="folder of jsonl splits")
    parser.add_argument("--conditions", nargs="+", choices=CONDITIONS, default=CONDITIONS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--share", type=float, default=0.3, help="of the entities that is hidden")
    parser.add_argument("--limit", type=int, help="sentences of each split, for a trial")
    parser.add_argument("--training", nargs="*", default=[], help="training arguments, name=value")
    parser.add_argument("--jobs", type=int, default=1, help="processes side by side")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines file to append to")
    parser.add_argument("--scratch", default="out/partial", help="folder of logs")
    parser.add_argument("--commit", default="", help="the code's commit, for the results")
    args = parser.parse_args(arguments)
    if not 0 <= args.share <= 1:
        parser.error(f"expected a share in 0..1, got {args.share}")
    Path(args.scratch).mkdir(parents=True, exist_ok=True)
    options = vars(args)
    common = {name: options[name] for name in Run._fields if name in options}
    common["training"] = tuple(args.training)
    runs = [
        Run(condition=condition, seed=seed, **common)
        for seed in args.seeds
        for condition in args.conditions
    ]
    names = ("condition", "seed")
    failed = run_all(train_and_score, runs, names, args.jobs, args.scratch, args.out)
    print(table(read_lines(args.out)))
    return failed


if __name__ == "__main__":
    sys.exit(bool(main()))
