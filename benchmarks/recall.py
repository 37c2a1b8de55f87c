r"""Recall that is promised, kept and paid for: the semi-CRF beside softmax, on corpora.

python benchmarks/recall.py dump --encoder bert-base-cased --corpora data/ncbi data/wnut17 --out out
python benchmarks/recall.py splits --out out --results results.jsonl

"dump" trains a semi-CRF (`hf-semicrf train` as it stands) and a softmax (same encoder, schedule and
budget) on each corpus, a folder of train, validation and test files in jsonl, and writes what
calibration needs of each document that they read: the test documents of all corpora, and their own
validation documents. Each training is a process, all at once. "splits" draws halves of the test
documents that have entities: a threshold from one half, what is missed and what it costs on the
other. It needs no GPU, and appends a JSON line for each cell.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hf_semicrf.evaluation import LOWEST, NotCarriedError, control_recall, found_at
from hf_semicrf.evaluation.risk import Sample, allowed_misses

HEADS = ("semicrf", "softmax")
RECALLS = (0.9, 0.95, 0.98, 0.99)
COVERINGS = ("words", "exact")
GRID = np.logspace(-6, 0, 61)  # thresholds at which candidates are counted
ERROR = 1.645  # standard errors that a one-sided 95 % interval is wide


class Dump(NamedTuple):
    """What a model says of documents; E entities, W words, D documents.

    Args:
        entity_document: Document of each entity [E].
        entity_type: Name of its type [E].
        entity_words: Highest threshold at which all its words are covered [E].
        entity_exact: Highest threshold at which it is a candidate itself [E].
        entity_size: Its words [E].
        word_document: Document of each word [W].
        word_inside: Whether it lies in an entity [W].
        word_cover: Highest threshold at which it is covered [W].
        candidates: Candidates of each document at each threshold of `GRID` [D, 61].
    """

    entity_document: np.ndarray
    entity_type: np.ndarray
    entity_words: np.ndarray
    entity_exact: np.ndarray
    entity_size: np.ndarray
    word_document: np.ndarray
    word_inside: np.ndarray
    word_cover: np.ndarray
    candidates: np.ndarray

    @classmethod
    def of(cls, documents: Sequence[tuple[Any, Any, int, list]], types: Sequence[str]) -> Dump:
        """From the candidates that count towards words, all candidates, words and entities."""
        rows: dict[str, list[Any]] = {name: [] for name in cls._fields}
        for number, (covering, exact, words, gold) in enumerate(documents):
            spans = [(a, b, types.index(t) if t in types else -1) for a, b, t in gold]
            inside = np.zeros(words, bool)
            for first, end, _ in gold:
                inside[first:end] = True
            rows["entity_document"].append(np.full(len(gold), number))
            rows["entity_type"].append(np.array([t for _, _, t in gold], dtype="U32"))
            rows["entity_words"].append(found_at(spans, covering, words, "words"))
            rows["entity_exact"].append(found_at(spans, exact, words, "exact"))
            rows["entity_size"].append(np.array([b - a for a, b, _ in gold], int))
            rows["word_document"].append(np.full(words, number))
            rows["word_inside"].append(inside)
            rows["word_cover"].append(covering.coverage(words))
            ascending = np.sort(exact.posterior)
            above = len(ascending) - np.searchsorted(ascending, GRID)
            rows["candidates"].append(above[None].astype(np.int32))
        return cls(*(np.concatenate(parts) for parts in rows.values()))

    def of_documents(self, chosen: np.ndarray) -> Dump:
        """Those of a mask of documents [D]; numbers stay."""
        entities, words = chosen[self.entity_document], chosen[self.word_document]
        parts = [x[entities] for x in self[:5]] + [x[words] for x in self[5:8]]
        return Dump(*parts, self.candidates[chosen])

    def scores(self, covering: str) -> np.ndarray:
        """The highest threshold at which each entity is found [E]."""
        return self.entity_words if covering == "words" else self.entity_exact


def read_rows(folder: str, split: str, limit: int | None) -> list[tuple[list[str], list[str]]]:
    """Words and tags of the documents of a split."""
    from hf_semicrf.data import read_corpus

    data = read_corpus(next(Path(folder).glob(f"{split}.jsonl*")))
    return list(zip(data["tokens"], data["ner_tags"], strict=True))[:limit]


def gold_of(rows: Sequence[tuple[list[str], list[str]]]) -> list[list[tuple[int, int, str]]]:
    """The entities of each document."""
    from hf_semicrf import LabelScheme

    names = ["O", *sorted({tag for _, tags in rows for tag in tags} - {"O"})]
    scheme = LabelScheme.from_labels(names, "IOB2")
    return [scheme.tags_to_spans(tags) for _, tags in rows]


# The models


def train_semicrf(args: argparse.Namespace, files: dict[str, str], folder: str) -> Any:
    """A semi-CRF by `hf-semicrf train`; it reads documents and gives candidates."""
    from transformers import AutoTokenizer

    from hf_semicrf import SemiCRFForTokenClassification, prepare_tokenizer
    from hf_semicrf.cli import train
    from hf_semicrf.inference import read_candidates

    command = ["--model_name_or_path", args.encoder, "--output_dir", folder]
    command += ["--train_file", files["train"], "--validation_file", files["validation"]]
    command += ["--seed", str(args.seed), "--disable_tqdm", "True"]
    command += ["--num_train_epochs", str(args.epochs)] if args.epochs else []
    train.main(command)
    model = SemiCRFForTokenClassification.from_pretrained(folder).to(device())
    tokenizer = prepare_tokenizer(AutoTokenizer.from_pretrained(folder))

    def read(rows: Sequence[tuple[list[str], list[str]]]) -> Iterator[tuple[Any, Any, int]]:
        texts = [words for words, _ in rows]
        for document in read_candidates(model, texts, tokenizer, LOWEST, 64):
            found = document.candidates()
            yield found, found, len(document.words)

    return read, list(model.config.scheme.types), model.config.max_segment_length


def train_softmax(args: argparse.Namespace, files: dict[str, str], folder: str) -> Any:
    """A softmax over tags, trained alike; its candidates are single words, or spans of tags.

    The probability of a span is the product of its tags', and of no I- tag after it.
    """
    import torch
    from torch.utils.data import DataLoader
    from transformers import (
        AutoModelForTokenClassification,
        AutoTokenizer,
        DataCollatorForTokenClassification,
        set_seed,
    )

    from hf_semicrf import (
        LabelScheme,
        SemiCRFTrainer,
        SemiCRFTrainingArguments,
        TokenizeAndAlign,
        choose_max_segment_length,
        prepare_tokenizer,
    )
    from hf_semicrf.data import choose_splitter

    set_seed(args.seed)
    rows = read_rows(args.corpus, "train", args.limit)
    types = sorted({tag[2:] for _, tags in rows for tag in tags} - {""})
    labels = ["O", *(f"{prefix}-{name}" for name in types for prefix in "BI")]
    scheme = LabelScheme.from_labels(labels, "IOB2")
    longest = choose_max_segment_length([tags for _, tags in rows], scheme)
    tokenizer = prepare_tokenizer(AutoTokenizer.from_pretrained(args.encoder))
    splitter = choose_splitter([words for words, _ in rows], None).name  # as train.py does
    align = TokenizeAndAlign(tokenizer, {tag: n for n, tag in enumerate(labels)}, splitter=splitter)

    def aligned(documents: Sequence[tuple[list[str], list[str]]]) -> list[dict[str, Any]]:
        tags = [[tag if tag in labels else "O" for tag in tags] for _, tags in documents]
        columns = align({"tokens": [words for words, _ in documents], "ner_tags": tags})
        columns.pop("word_mask")
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    model: Any = AutoModelForTokenClassification.from_pretrained(
        args.encoder,
        id2label=dict(enumerate(labels)),
        label2id={tag: n for n, tag in enumerate(labels)},
        dtype=torch.float32,
    )
    collator = DataCollatorForTokenClassification(tokenizer)
    epochs = {"num_train_epochs": args.epochs} if args.epochs else {}
    quiet = {"report_to": "none", "disable_tqdm": True}
    trainer = SemiCRFTrainer(
        model,
        SemiCRFTrainingArguments(folder, seed=args.seed, **quiet, **epochs),
        train_dataset=aligned(rows),
        processing_class=tokenizer,
        data_collator=collator,
    )
    trainer.train()
    model.eval()

    @torch.no_grad()
    def read(rows: Sequence[tuple[list[str], list[str]]]) -> Iterator[tuple[Any, Any, int]]:
        for batch in DataLoader(aligned(rows), 64, collate_fn=collator):
            tags = batch.pop("labels")
            batch = {name: value.to(model.device) for name, value in batch.items()}
            probabilities = model(**batch).logits.double().softmax(-1).cpu()
            for row, known in zip(probabilities, tags != -100, strict=True):
                own = row[known].numpy()
                yield word_candidates(own), span_candidates(own, longest), len(own)

    return read, list(scheme.types), longest


def word_candidates(probabilities: np.ndarray) -> Any:
    """The words [N, 1 + 2 types] as candidates, each by the probability of no O."""
    from hf_semicrf.inference import Candidates

    places = np.arange(len(probabilities))
    return Candidates(places, places + 1, np.ones_like(places), 1 - probabilities[:, 0])


def span_candidates(probabilities: np.ndarray, longest: int) -> Any:
    """The spans of up to `longest` words of independent IOB2 tags [N, 1 + 2 types]."""
    from hf_semicrf.inference import Candidates

    begin, inside = probabilities[:, 1::2], probabilities[:, 2::2]  # [N, types]
    stops = np.concatenate([1 - inside[1:], np.ones((1, inside.shape[1]))])
    score, found = begin, []
    for d in range(min(longest, len(begin))):
        if d:
            score = score[:-1] * inside[d:]
        whole = score * stops[d:]
        first, kind = (whole >= LOWEST).nonzero()
        found.append((first, first + d + 1, kind + 1, whole[first, kind]))
    return Candidates(*(np.concatenate(column) for column in zip(*found, strict=True)))


def device() -> str:
    """Where models run."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


# The stages


def dump_one(args: argparse.Namespace) -> None:
    """Train one head on one corpus and write what it says of all."""
    import torch
    import transformers

    folder = args.out / "models" / f"{args.head}-{Path(args.corpus).name}"
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for split in ("train", "validation"):
        source = next(Path(args.corpus).glob(f"{split}.jsonl*"))
        files[split] = str(source)
        if args.limit:
            rows = read_rows(args.corpus, split, args.limit)
            files[split] = str(folder / f"{split}.jsonl")
            lines = [json.dumps({"tokens": w, "ner_tags": t}) + "\n" for w, t in rows]
            Path(files[split]).write_text("".join(lines))
    began = time.perf_counter()
    train = train_semicrf if args.head == "semicrf" else train_softmax
    read, types, longest = train(args, files, str(folder))
    seconds = time.perf_counter() - began
    own = Path(args.corpus).name
    reads = [(corpus, "test") for corpus in args.corpora] + [(args.corpus, "validation")]
    began = time.perf_counter()
    for corpus, split in reads:
        rows = read_rows(corpus, split, args.limit)
        found = ((*answer, gold) for answer, gold in zip(read(rows), gold_of(rows), strict=True))
        dump = Dump.of(list(found), types)
        name = f"{args.head}+{own}+{Path(corpus).name}+{split}.npz"
        np.savez_compressed(args.out / name, **dump._asdict())
    line = {
        "head": args.head,
        "corpus": own,
        "train_seconds": seconds,
        "read_seconds": time.perf_counter() - began,
        "max_segment_length": longest,
        "types": types,
        "epochs": args.epochs,
        "seed": args.seed,
        "device": torch.cuda.get_device_name() if device() == "cuda" else "CPU",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "commit": args.commit,
    }
    (args.out / f"{args.head}+{own}.json").write_text(json.dumps(line))


def dump_all(args: argparse.Namespace) -> int:
    """A process for each head and corpus; the number of those that failed."""
    args.out.mkdir(parents=True, exist_ok=True)
    waiting = {}
    threads = str(max(1, (os.cpu_count() or 1) // (2 * len(args.corpora))))
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "false"}
    for corpus, head in product(args.corpora, args.heads):
        name = f"{head}-{Path(corpus).name}"
        command = [sys.executable, "-P", __file__, "one", "--head", head, "--corpus", corpus]
        command += ["--encoder", args.encoder, "--out", str(args.out), "--seed", str(args.seed)]
        command += ["--commit", args.commit, "--corpora", *args.corpora]
        command += ["--epochs", str(args.epochs)] if args.epochs else []
        command += ["--limit", str(args.limit)] if args.limit else []
        log = args.out / f"{name}.log"
        with log.open("w") as output:
            waiting[log] = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, env=environment
            )
        if args.jobs and len(waiting) % args.jobs == 0:
            for process in waiting.values():
                process.wait()
    failed = [log for log, process in waiting.items() if process.wait()]
    for log in failed:
        print(f"{log}:\n{log.read_text()[-2000:]}", flush=True)
    print(f"{len(waiting) - len(failed)} of {len(waiting)} done")
    return len(failed)


# The splits


def load(path: Path) -> Dump:
    """A dump that was written."""
    with np.load(path) as columns:
        return Dump(**columns)


def price(dump: Dump, threshold: float) -> dict[str, float]:
    """What candidates at a threshold cost: words beside the entities', and candidates an entity."""
    covered = dump.word_cover >= threshold
    at = max(int(np.searchsorted(GRID, threshold, side="right")) - 1, 0)  # some too many
    return {
        "extra_words": (covered & ~dump.word_inside).sum() / max(dump.word_inside.sum(), 1),
        "candidates": dump.candidates[:, at].sum() / max(len(dump.entity_document), 1),
    }


def one_split(
    dump: Dump, half: np.ndarray, covering: str, recall: float, confidence: float | None
) -> dict[str, Any] | None:
    """A threshold from one half of the documents, and what it does on the other; None if refused.

    Args:
        dump: What a model says of a corpus.
        half: Which documents the threshold is read off [D].
        covering: "words" or "exact".
        recall: What is promised.
        confidence: With which confidence; None for the expectation.
    """
    own = half[dump.entity_document]
    # what `control_recall` does, without the best recall of what it refuses
    sample = Sample.of(dump.scores(covering)[own], dump.entity_document[own], None)
    misses = allowed_misses(sample, recall, confidence)
    if misses < sample.unreachable:
        return None
    threshold = float(sample.scores[misses])
    rest = dump.of_documents(~half)
    units, counts = np.unique(rest.entity_document, return_counts=True)
    lost = rest.scores(covering) < threshold
    missed = np.bincount(np.searchsorted(units, rest.entity_document), lost, len(units))
    losses = missed - (1 - recall) * counts
    margin = ERROR * losses.std() / np.sqrt(len(losses))
    return {
        "threshold": threshold,
        "missed": missed.sum(),
        "entities": counts.sum(),
        "kept": losses.sum() <= 0,
        "kept_within_error": losses.mean() <= margin,
        **price(rest, threshold),
    }


def cell(rows: list[dict[str, Any] | None], recall: float) -> dict[str, Any]:
    """The mean of the splits of a cell, those that were refused aside."""
    done = [row for row in rows if row is not None]
    found: dict[str, Any] = {"splits": len(rows), "refused": len(rows) - len(done)}
    if not done:
        return found
    column = {name: np.array([float(row[name]) for row in done]) for name in done[0]}
    miss = column["missed"].sum() / column["entities"].sum()
    # of a ratio of means
    spread = (column["missed"] - miss * column["entities"]).std() / column["entities"].mean()
    return {
        **found,
        "miss": miss,
        "miss_error": spread / np.sqrt(len(done)),
        **{name: column[name].mean() for name in ("kept", "kept_within_error", "candidates")},
        "extra_words": column["extra_words"].mean(),
        "threshold": float(np.median(column["threshold"])),
        "keeps": bool(miss <= 1 - recall + 2 * spread / np.sqrt(len(done))),
    }


def split_all(args: argparse.Namespace) -> None:
    """Every cell of every corpus and head, then what happens on other documents."""
    runs = {path.stem: json.loads(path.read_text()) for path in sorted(args.out.glob("*+*.json"))}
    lines = [{"kind": "run", **run} for run in runs.values()]
    for run in runs.values():
        head, corpus = run["head"], run["corpus"]
        dump = load(args.out / f"{head}+{corpus}+{corpus}+test.npz")
        size = len(dump.candidates)
        sizes = {"documents": size, "entities": len(dump.entity_document)}
        ways = product(COVERINGS, RECALLS, (None, args.confidence))
        for covering, recall, confidence in ways:
            rng = np.random.default_rng(0)  # the same halves everywhere
            halves = (rng.permutation(size) < size // 2 for _ in range(args.splits))
            rows = [one_split(dump, half, covering, recall, confidence) for half in halves]
            what = {"head": head, "corpus": corpus, "covering": covering, "recall": recall}
            what |= {"confidence": confidence, **sizes}
            lines.append({"kind": "cell", **what, **cell(rows, recall)})
        lines += shifts(args.out, head, corpus)
    with args.results.open("w") as file:
        for line in lines:
            file.write(json.dumps(line, default=float) + "\n")


# Corpora whose types can be compared, and which entities of the second count
COMPARABLE = {
    ("ncbi_disease", "bc5cdr"): ("Disease",),
    ("bc5cdr", "ncbi_disease"): ("Disease",),
    ("wnut17", "pii"): ("PERSON", "ORGANISATION", "ADDRESS"),
    ("pii", "wnut17"): ("person", "corporation", "location"),
}


def shifts(out: Path, head: str, corpus: str) -> Iterator[dict[str, Any]]:
    """A threshold from all documents of one kind, and what it does on those of another."""
    own = load(out / f"{head}+{corpus}+{corpus}+test.npz")
    validation = load(out / f"{head}+{corpus}+{corpus}+validation.npz")
    pairs = [(validation, f"{corpus}, validation", own, f"{corpus}, test", None)]
    for (first, second), types in COMPARABLE.items():
        path = out / f"{head}+{first}+{second}+test.npz"
        if first == corpus and path.exists():
            pairs.append((own, f"{corpus}, test", load(path), f"{second}, test", types))
    for (source, source_name, target, target_name, types), recall in product(pairs, RECALLS):
        what = {"kind": "shift", "head": head, "recall": recall, "types": types}
        what |= {"calibrated": source_name, "used": target_name}
        try:
            control = control_recall(source.entity_words, source.entity_document, recall)
        except NotCarriedError as error:
            yield {**what, "best": error.best}
            continue
        chosen = np.isin(target.entity_type, types) if types else slice(None)
        missed = (target.entity_words[chosen] < control.threshold).mean()
        paid = price(target, control.threshold)
        yield {**what, "miss": missed, "threshold": control.threshold, **paid}


def main(arguments: list[str] | None = None) -> int:
    """Run a stage; returns how much of it failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    stages = parser.add_subparsers(dest="stage", required=True)
    dump, one, splits = (stages.add_parser(name) for name in ("dump", "one", "splits"))
    for stage in (dump, one):
        stage.add_argument("--encoder", required=True, help="Hub name or folder of the encoder")
        stage.add_argument("--corpora", nargs="+", required=True, help="folders of jsonl splits")
        stage.add_argument("--epochs", type=int, help="passes over the data; those of train.py")
        stage.add_argument("--limit", type=int, help="documents of each split; all")
        stage.add_argument("--seed", type=int, default=1)
        stage.add_argument("--commit", default="", help="the code's commit, for the results")
    one.add_argument("--head", choices=HEADS, required=True, help="what is trained")
    one.add_argument("--corpus", required=True, help="what it is trained on")
    dump.add_argument("--heads", nargs="+", choices=HEADS, default=list(HEADS))
    dump.add_argument("--jobs", type=int, help="processes side by side; all")
    for stage in (dump, one, splits):
        stage.add_argument("--out", type=Path, required=True, help="folder of the dumps")
    splits.add_argument("--results", type=Path, required=True, help="JSON lines file to write")
    splits.add_argument("--splits", type=int, default=200, help="halves that are drawn")
    splits.add_argument("--confidence", type=float, default=0.95)
    args = parser.parse_args(arguments)
    if args.stage == "dump":
        return dump_all(args)
    if args.stage == "one":
        dump_one(args)
    else:
        split_all(args)
    return 0


if __name__ == "__main__":
    sys.exit(bool(main()))
