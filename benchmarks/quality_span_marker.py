r"""Train SpanMarker on the corpora of `quality.py`, and write rows of the same form.

PYTHONPATH=folder python benchmarks/quality_span_marker.py --encoder bert-base-cased \
    --corpora data/wnut17 data/ncbi --seeds 1 2 --split test --out results.jsonl

It needs transformers below 5: the folder holds span_marker 1.8.1, transformers 4.57.6, tokenizers
0.22.2, huggingface_hub 0.36.2 and datasets 4.4.1, unpacked. Encoder, sentences, passes, warm-up and
batch are those of the other heads; each run is made at two learning rates, and the model that is
better on the validation data is scored. The lengths of segments and windows are SpanMarker's own.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from quality import Run, read_lines, run_all, table, types_of
from transformers import TrainingArguments, set_seed

from hf_semicrf import LabelScheme
from hf_semicrf.data.labels import label_names
from hf_semicrf.data.readers import entity_spans, read_corpus
from hf_semicrf.evaluation.breakdowns import breakdown
from hf_semicrf.evaluation.metrics import entity_scores
from hf_semicrf.trainer import default_epochs

HEAD = "span_marker"
RATES = (5e-5, 1e-4)
WINDOW, BATCH = 256, 32
Rows = list[list[tuple[int, int, str, float]]]


def trained(run: Run, data: Dataset, labels: list[str], rate: float) -> tuple[Any, Any]:
    """A trained model, and what its trainer says of the training."""
    from span_marker import SpanMarkerModel, Trainer

    set_seed(run.seed)
    model = SpanMarkerModel.from_pretrained(run.encoder, labels=labels, model_max_length=WINDOW)
    args = TrainingArguments(
        run.scratch,
        seed=run.seed,
        learning_rate=rate,
        per_device_train_batch_size=BATCH,
        warmup_ratio=0.1,
        bf16=torch.cuda.is_available(),
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    args.num_train_epochs = default_epochs(args, data)
    ids = {label: number for number, label in enumerate(labels)}
    tags = [[ids[tag] for tag in row] for row in data["ner_tags"]]
    rows = Dataset.from_dict({"tokens": data["tokens"], "ner_tags": tags})
    result = Trainer(model, args, train_dataset=rows).train()
    return model, result


def entities(model: Any, data: Dataset) -> Rows:
    """What a model finds in each sentence: first word, word after the last, type, score."""
    found = model.predict([list(words) for words in data["tokens"]], batch_size=64)
    names = ("word_start_index", "word_end_index", "label", "score")
    return [[tuple(entity[name] for name in names) for entity in row] for row in found]


def scores_of(found: Rows, data: Dataset, scheme: LabelScheme) -> dict[str, float]:
    """The scores of entities, as `entity_scores` has them."""
    lengths = map(len, data["tokens"])
    tags = [
        scheme.spans_to_tags([entity[:3] for entity in row], n)
        for row, n in zip(found, lengths, strict=True)
    ]
    return entity_scores(tags, [list(row) for row in data["ner_tags"]], scheme)


def train_and_score(run: Run) -> dict[str, Any]:
    """Train at each rate, and score the model that is best on the validation data."""
    names = dict.fromkeys(("train", "validation", run.split))
    data = {n: read_corpus(next(Path(run.corpus).glob(f"{n}.jsonl*"))) for n in names}
    labels = label_names(data["train"])
    scheme = LabelScheme.from_labels(labels)
    chosen = data["train"].select(run.drawn(len(data["train"])))
    tried = {}
    for rate in RATES:
        model, result = trained(run, chosen, labels, rate)
        found = entities(model, data["validation"])
        tried[rate] = scores_of(found, data["validation"], scheme)["overall_f1"], model, result
    rate = max(tried, key=lambda rate: tried[rate][0])
    validation_f1, model, result = tried[rate]
    began = time.perf_counter()
    found = entities(model, data[run.split])
    decode_seconds = time.perf_counter() - began
    scores = scores_of(found, data[run.split], scheme)
    seconds = result.metrics["train_runtime"]
    return {
        "corpus": Path(run.corpus).name,
        "head": HEAD,
        "seed": run.seed,
        "sentences": run.sentences,
        "split": run.split,
        "validation_f1": validation_f1,
        f"{run.split}_f1": scores["overall_f1"],
        "precision": scores["overall_precision"],
        "recall": scores["overall_recall"],
        "types": types_of(scores),
        **breakdown(list(entity_spans(data[run.split], scheme)), found),
        "learning_rate": rate,
        "validation_f1_by_rate": {str(rate): f1 for rate, (f1, *_) in tried.items()},
        "steps": result.global_step,
        "train_seconds": seconds,
        "steps_per_second": result.global_step / seconds,
        "decode_seconds": decode_seconds,
        **run.origin,
    }


def main(arguments: list[str] | None = None) -> int:
    """Run every corpus with every seed; returns the number of runs that failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--encoder", required=True, help="Hub name or folder of the encoder")
    parser.add_argument("--encoder_name", default="", help="its public name, for the results")
    parser.add_argument("--corpora", nargs="+", required=True, help="folders of jsonl splits")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--sentences", nargs="+", type=int, default=[0], help="as in quality.py")
    parser.add_argument("--split", choices=["validation", "test"], default="validation")
    parser.add_argument("--jobs", type=int, default=1, help="processes side by side")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines file to append to")
    parser.add_argument("--scratch", default="out/span_marker", help="folder of logs")
    parser.add_argument("--commit", default="", help="the code's commit, for the results")
    args = parser.parse_args(arguments)
    Path(args.scratch).mkdir(parents=True, exist_ok=True)
    common = {"encoder": args.encoder, "encoder_name": args.encoder_name, "head": HEAD}
    common |= {"training": (), "split": args.split, "decodings": (), "commit": args.commit}
    common |= {"jobs": args.jobs, "scratch": args.scratch}
    done = [tuple(r[n] for n in ("corpus", "seed", "sentences")) for r in read_lines(args.out)]
    runs = [
        Run(corpus=corpus, seed=seed, sentences=sentences, **common)
        for sentences in args.sentences
        for seed in args.seeds
        for corpus in args.corpora
        if (Path(corpus).name, seed, sentences) not in done
    ]
    names = ("corpus", "seed", "sentences")
    failed = run_all(train_and_score, runs, names, args.jobs, args.scratch, args.out)
    print(table(read_lines(args.out)))
    return failed


if __name__ == "__main__":
    sys.exit(bool(main()))
