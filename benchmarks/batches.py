r"""Time `Tagger` in Ray Data and in datasets.map, by the number of workers.

python benchmarks/batches.py --out benchmarks/results/batches_cpu.jsonl

Invented sentences, a BERT of random weights and one layer, so that little but the tagging around
the model is timed. A worker is given one CPU and has one thread. Starting the workers is in it.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa

from hf_semicrf.integrations.batches import Tagger

ROOT = Path(__file__).parent.parent
BATCH = 1000  # rows
BLOCKS = 8  # that Ray hands out


def by_ray(table: pa.Table, model: str, workers: int) -> int:
    """Tag by Ray's local cluster; the number of rows."""
    import ray

    # in blocks from the start: with all CPUs in workers' hands, none is left to cut a table
    size = -(-len(table) // BLOCKS)
    blocks = [table.slice(start, size) for start in range(0, len(table), size)]
    tagged = ray.data.from_arrow(blocks).map_batches(
        Tagger,
        fn_constructor_args=(model,),
        batch_format="pyarrow",
        batch_size=BATCH,
        compute=ray.data.ActorPoolStrategy(size=workers),
    )
    return tagged.materialize().count()


def by_datasets(table: pa.Table, model: str, workers: int) -> int:
    """Tag by datasets.map, without its cache; the number of rows."""
    rows = datasets.Dataset(datasets.table.InMemoryTable(table)).with_format("arrow")
    return len(rows.map(Tagger(model), batched=True, batch_size=BATCH, num_proc=workers))


WAYS = {"ray": by_ray, "datasets": by_datasets}


def main(arguments: Sequence[str] | None = None) -> None:
    """Tag all rows in every way, a line a way."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sentences", type=int, default=100_000)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--commit", default="", help="the code's commit, for the results")
    parser.add_argument("--out", required=True, help="JSON lines file to append to")
    args = parser.parse_args(arguments)

    sys.path.insert(0, str(ROOT / "tests"))
    from tiny import save_tiny_bert, sentences
    from transformers import AutoTokenizer

    from hf_semicrf import SemiCRFForTokenClassification

    folder = Path(tempfile.mkdtemp())
    bert = save_tiny_bert(folder / "bert")
    labels = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    model = SemiCRFForTokenClassification.from_pretrained(bert, labels=labels, max_segment_length=3)
    for part in (model, AutoTokenizer.from_pretrained(bert)):
        part.save_pretrained(folder / "tagger")
    rows = [" ".join(row["tokens"]) for row in sentences(args.sentences)]
    table = pa.table({"id": range(len(rows)), "text": rows})
    if "ray" in args.ways:
        import ray

        ray.init(num_cpus=max(args.workers), include_dashboard=False, log_to_driver=False)
    for way in args.ways:
        for workers in args.workers:
            began = time.perf_counter()
            count = WAYS[way](table, str(folder / "tagger"), workers)
            seconds = time.perf_counter() - began
            assert count == len(rows)
            result: dict[str, Any] = {
                "way": way,
                "workers": workers,
                "sentences": count,
                "seconds": seconds,
                "load_average": os.getloadavg()[0],
                "device": f"{platform.machine()} CPU, {os.cpu_count()} cores",
                "commit": args.commit,
                **{n: importlib.metadata.version(n) for n in ("torch", "transformers", way)},
            }
            print(json.dumps(result), flush=True)
            with open(args.out, "a") as stream:
                stream.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
