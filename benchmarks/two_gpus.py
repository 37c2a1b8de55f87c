r"""Time `hf-semicrf train` and `predict` as commands on one GPU and on two: one JSON line each.

python benchmarks/two_gpus.py --encoder MiniLM-L6-v2 --data bc5cdr --out two_gpus.jsonl

The folder of the data has train.jsonl, validation.jsonl and test.jsonl. Start-up and the wait at
the end count; `train` also says how long its steps took alone. The predictions of two GPUs have to
be the bytes of one's.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from predict import processes, save_model, strings_of


def trained(
    encoder: Path, data: Path, folder: Path, epochs: int, gpus: list[int], on_cpu: bool
) -> Iterator[dict[str, Any]]:
    """A training of the same sentences an epoch, on each number of GPUs."""
    for count in gpus:
        output = folder / f"trained{count}"
        command = [sys.executable, "-m"]
        if count > 1:
            command += ["accelerate.commands.launch", "--num_processes", str(count)]
            command += ["--multi_gpu", "--num_machines", "1", "--mixed_precision", "no"]
            command += ["--dynamo_backend", "no", "-m"]
        command += ["hf_semicrf", "train", "--model_name_or_path", str(encoder)]
        for split in ("train", "validation"):
            command += [f"--{split}_file", str(data / f"{split}.jsonl")]
        command += ["--output_dir", str(output), "--num_train_epochs", str(epochs)]
        command += ["--per_device_train_batch_size", str(64 // count), "--disable_tqdm", "True"]
        before = time.perf_counter()
        command += ["--use_cpu"] if on_cpu else []
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - before
        if run.returncode:
            raise SystemExit(run.stderr[-4000:])
        results = json.loads((output / "all_results.json").read_text(encoding="utf-8"))
        kept = ("train_runtime", "train_samples_per_second", "validation_overall_f1")
        numbers = {name: results.get(name) for name in kept}
        yield {"gpus": count, "epochs": epochs, "s": seconds} | numbers


def main() -> None:
    """Measure, print and append lines."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--encoder", type=Path, required=True, help="folder of the encoder")
    parser.add_argument("--data", type=Path, required=True, help="folder with the three splits")
    parser.add_argument("--out", type=Path, help="file of JSON lines to append to")
    parser.add_argument("--commit", default="unknown", help="what was measured")
    parser.add_argument("--epochs", type=int, default=3, help="of the training")
    parser.add_argument("--copies", type=int, default=21, help="of the test texts, to predict")
    parser.add_argument("--device", default="cuda", help="cpu to try the script")
    args = parser.parse_args()
    import torch

    on_cpu = args.device == "cpu"
    gpus = [1] if on_cpu else [n for n in (1, 2) if n <= torch.cuda.device_count()]
    device = "cpu" if on_cpu else torch.cuda.get_device_name()
    about = {"commit": args.commit, "device": device, "torch": torch.__version__}

    def tell(what: str, lines: Iterator[dict[str, Any]]) -> None:
        for line in lines:
            text = json.dumps({"what": what} | line | about)
            print(text, flush=True)
            if args.out is not None:
                with args.out.open("a", encoding="utf-8") as file:
                    file.write(text + "\n")

    texts = strings_of(args.data, None)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        save_model(args.encoder, texts, folder / "model", args.device, "float32")
        tell("hf-semicrf predict", processes(folder, texts, args.copies))
        trainings = trained(args.encoder, args.data, folder, args.epochs, gpus, on_cpu)
        tell("hf-semicrf train", trainings)


if __name__ == "__main__":
    main()
