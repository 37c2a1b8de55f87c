r"""Compare heads on named entity corpora: entity F1, by length, on neighbours, and calibration.

python scripts/benchmark_quality.py --encoder bert-base-cased --corpora data/wnut17 data/ncbi \
    --heads softmax crf boundary span --seeds 1 2 3 4 5 --jobs 8 --out results.jsonl

Each corpus is a folder of train, validation and test files in jsonl. Every run is a process of its
own, all have the same encoder, schedule and budget, and each appends one JSON line. The test split
is read once a run, after training.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForTokenClassification, AutoTokenizer, set_seed

from hf_semicrf import (
    LabelScheme,
    SemiCRFDataCollator,
    SemiCRFForTokenClassification,
    TokenizeAndAlign,
    prepare_tokenizer,
)
from hf_semicrf.corpora import label_names, read_corpus
from hf_semicrf.evaluation import breakdown
from hf_semicrf.metrics import seqeval_metrics
from hf_semicrf.trainer import SemiCRFTrainer, SemiCRFTrainingArguments

HEADS: dict[str, dict | None] = {
    "softmax": None,
    "crf": {
        "label_scheme": "plain",  # the BIO tags are the types, of one word each
        "max_segment_length": 1,
        "scorer": "sum",
        "threshold": None,
    },
    "sum": {"scorer": "sum"},
    "boundary": {"scorer": "boundary"},
    "span": {"scorer": "span"},
    "default": {},
}
SPLITS = ("train", "validation", "test")


def head_settings(name: str) -> dict | None:
    """Settings of a head; ``span+word_pooling=mean`` changes one of those above."""
    base, *changes = name.split("+")
    settings = HEADS[base]
    for change in changes:
        settings = {**(settings or {}), **setting(change)}
    return settings


def setting(change: str) -> dict[str, int | float | str]:
    """``name=value`` as a dictionary; numbers are numbers."""
    name, value = change.split("=")
    return {name: json.loads(value) if value[0].isdigit() else value}


def words_only(row_labels: list[int]) -> list[int]:
    """The tags at the words of a tokenised sentence."""
    return [tag for tag in row_labels if tag != -100]


def softmax_entities(trainer, data, scheme: LabelScheme) -> list[list[tuple]]:
    """Entities (start, end, type, score) of a softmax tagger; a score is the words' mean."""
    output = trainer.predict(data)
    found = []
    for logits, labels in zip(output.predictions, output.label_ids, strict=True):
        probabilities = torch.tensor(logits[labels != -100]).float().softmax(-1)
        top, tags = probabilities.max(-1)
        spans = scheme.tags_to_spans(tags.tolist())
        found.append([(s, e, label, float(top[s:e].mean())) for s, e, label in spans])
    return found


def semicrf_entities(model, sentences, tokenizer) -> list[list[tuple]]:
    """Entities (start, end, type, score) of a semi-CRF; a score is the segment's posterior."""
    found = model.predict(sentences, tokenizer, batch_size=64)
    return [[(e["start"], e["end"], e["label"], e["score"]) for e in row] for row in found]


def run(args: argparse.Namespace) -> dict:
    """Train and test one head on one corpus with one seed."""
    corpus, name, seed = args.corpora[0], args.heads[0], args.seeds[0]
    set_seed(seed)
    splits = {s: read_corpus(next(Path(corpus).glob(f"{s}.jsonl*"))) for s in SPLITS}
    labels = label_names(splits["train"], "ner_tags")
    scheme = LabelScheme.from_labels(labels)
    settings = head_settings(name)
    if settings is None:
        model = AutoModelForTokenClassification.from_pretrained(
            args.encoder,
            id2label=dict(enumerate(labels)),
            label2id={label: i for i, label in enumerate(labels)},
            dtype=torch.float32,
        )
    else:
        settings = {"max_segment_length": args.max_segment_length, **settings}
        model = SemiCRFForTokenClassification.from_pretrained(
            args.encoder, labels=labels, dtype=torch.float32, **settings
        )
    tokenizer = prepare_tokenizer(AutoTokenizer.from_pretrained(args.encoder))
    label2id = {label: index for index, label in enumerate(labels)}
    align = TokenizeAndAlign(tokenizer, label2id)
    inputs = {
        s: data.map(align, batched=True, remove_columns=data.column_names)
        for s, data in splits.items()
    }
    if settings is None:
        inputs = {s: data.remove_columns("word_mask") for s, data in inputs.items()}
    training = SemiCRFTrainingArguments(
        output_dir=args.scratch,
        seed=seed,
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
        **{k: v for change in args.training for k, v in setting(change).items()},
    )
    trainer = SemiCRFTrainer(
        model,
        training,
        train_dataset=inputs["train"],
        processing_class=tokenizer,
        data_collator=SemiCRFDataCollator(tokenizer),
        compute_metrics=seqeval_metrics(model.config),
    )
    began = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - began
    scores = {s: trainer.evaluate(inputs[s], metric_key_prefix=s) for s in ("validation", "test")}
    gold = [scheme.tags_to_spans(tags) for tags in splits["test"]["ner_tags"]]
    if settings is None:
        found = softmax_entities(trainer, inputs["test"], scheme)
    else:
        found = semicrf_entities(model, splits["test"]["tokens"], tokenizer)
    return {
        "corpus": Path(corpus).name,
        "head": name,
        "seed": seed,
        "validation_f1": scores["validation"]["validation_overall_f1"],
        "test_f1": scores["test"]["test_overall_f1"],
        "test_precision": scores["test"]["test_overall_precision"],
        "test_recall": scores["test"]["test_overall_recall"],
        "types": {
            k.removeprefix("test_").removesuffix("_f1"): v
            for k, v in scores["test"].items()
            if k.endswith("_f1") and "overall" not in k
        },
        **breakdown(gold, found),
        "train_seconds": seconds,
        "steps": trainer.state.global_step,
        "training": args.training,
        "encoder": args.encoder_name or Path(args.encoder).name,
        "commit": args.commit,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def table(rows: list[dict]) -> str:
    """Mean and standard deviation of the test F1, a row a head."""
    corpora = sorted({row["corpus"] for row in rows})
    lines = ["| head | " + " | ".join(corpora) + " | mean |", "| --- " * (len(corpora) + 2) + "|"]
    for head in dict.fromkeys(row["head"] for row in rows):
        cells, means = [], []
        for corpus in corpora:
            f1 = [100 * r["test_f1"] for r in rows if (r["head"], r["corpus"]) == (head, corpus)]
            if not f1:
                cells.append("")
                continue
            means.append(statistics.mean(f1))
            deviation = statistics.stdev(f1) if len(f1) > 1 else float("nan")
            cells.append(f"{means[-1]:.2f} ± {deviation:.2f} ({len(f1)})")
        mean = f"{statistics.mean(means):.2f}" if len(means) == len(corpora) else ""
        lines.append(f"| {head} | " + " | ".join(cells) + f" | {mean} |")
    return "\n".join(lines)


def run_in_process(args: argparse.Namespace, corpus: str, head: str, seed: int) -> int:
    """Start one run; its line goes to the file, its log beside it."""
    log = Path(args.scratch, f"{Path(corpus).name}-{head}-{seed}.log")
    command = [sys.executable, __file__, "--one", "--encoder", args.encoder, "--corpora", corpus]
    command += ["--heads", head, "--seeds", str(seed), "--out", args.out, "--commit", args.commit]
    command += ["--max_segment_length", str(args.max_segment_length), "--scratch", args.scratch]
    command += ["--encoder_name", args.encoder_name, "--training", *args.training]
    with log.open("w") as stream:
        code = subprocess.run(command, stdout=stream, stderr=subprocess.STDOUT).returncode
    if code:
        print(f"{corpus} {head} {seed} failed ({code}): {log.read_text()[-600:]}", flush=True)
    return code


def main() -> None:
    """Run every head on every corpus with every seed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--encoder", required=True, help="Hub name or folder of the encoder")
    parser.add_argument("--encoder_name", default="", help="its public name, for the results")
    parser.add_argument("--corpora", nargs="+", required=True, help="folders of jsonl splits")
    parser.add_argument("--heads", nargs="+", default=["softmax", "crf", "default"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--max_segment_length", type=int, default=10, help="words")
    parser.add_argument("--training", nargs="*", default=[], help="training arguments, name=value")
    parser.add_argument("--jobs", type=int, default=1, help="processes side by side")
    parser.add_argument("--out", required=True, help="JSON lines file to append to")
    parser.add_argument("--scratch", default="out/quality", help="folder of logs")
    parser.add_argument("--commit", default="", help="the code's commit, for the results")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    Path(args.scratch).mkdir(parents=True, exist_ok=True)
    if args.one:
        line = json.dumps(run(args))
        with open(args.out, "a") as stream:
            stream.write(line + "\n")
        return
    runs = [(c, h, s) for s in args.seeds for c in args.corpora for h in args.heads]
    with ThreadPoolExecutor(args.jobs) as pool:
        codes = list(pool.map(lambda one: run_in_process(args, *one), runs))
    with open(args.out) as stream:
        print(table([json.loads(line) for line in stream]))
    sys.exit(any(codes))


if __name__ == "__main__":
    main()
