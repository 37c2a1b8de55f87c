r"""Train the taggers of model_cards/ by `hf-semicrf train`, and finish the cards that it leaves.

python benchmarks/quality_cards.py --encoder sentence-transformers/all-MiniLM-L6-v2 \
    --data data --commit 1a2b3c4 --out model_cards

What no run knows of the world is written here: purpose, origin and licence of the data.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard
from quality import device_name, f1_cells
from quality_tables import TEST, chosen

from hf_semicrf.cli import train
from hf_semicrf.hub import CARD_NAME, PLOT_NAME

ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
LICENCE = "apache-2.0"  # the encoder's, and this library's
UNNAMED = "The data set was not named to this card."
EMPTY = ("unknown", "not recorded", "Not measured", "local files")
# of each corpus its name in the card's front matter, what it is, and a text to try
DATA = {
    "ncbi_disease": (
        "ncbi_disease",
        """\
Abstracts from PubMed with their mentions of diseases (Dogan, Leaman and Lu 2014, *NCBI disease
corpus*, J. Biomed. Inform. 47), in the conversion of
github.com/cambridgeltl/MTL-Bioinformatics-2016 (Crichton et al. 2017) at commit df0df02f, split as
published. That repository puts its data under CC BY 4.0. The corpus is a product of the US National
Library of Medicine, which claims no copyright in the abstracts but warns that publishers may.""",
        "Women who carry the mutation have a higher risk of breast cancer and ovarian cancer.",
    ),
    "wnut17": (
        "wnut_17",
        """\
Tweets and posts from Reddit, YouTube and Stack Exchange, with new and rare entities of six types
(Derczynski, Nichols, van Erp and Limsopatham 2017, *Results of the WNUT2017 Shared Task*), from
github.com/leondz/emerging_entities_17 at commit e52a2d2a, split as published. Licence: CC BY 4.0.
The posts hold user names and coarse language; those of Stack Exchange ask for attribution under
CC BY-SA.""",
        "Anybody going to see Jodie Foster in Toronto tonight?",
    ),
}


def name_of(corpus: str) -> str:
    """The tagger's name, and its card's."""
    return f"minilm-l6-{corpus.replace('_', '-')}"


def command(corpus: str, encoder: str, data: str, folder: str, *flags: str) -> list[str]:
    """The arguments of `hf-semicrf train` for a corpus.

    Args:
        corpus: Its name, that of its folder.
        encoder: Name or folder of the encoder.
        data: Folder of the corpora.
        folder: Where the model goes.
        *flags: Further flags.
    """
    files = [f"--{n}_file={Path(data, corpus, n)}.jsonl" for n in ("train", "validation", "test")]
    names = [f"--base_model={ENCODER}", f"--hub_model_id={name_of(corpus)}"]
    examples = ["--card_examples", DATA[corpus][2]]
    shared = [*files, *names, *examples, f"--output_dir={folder}", "--report_to=none"]
    return [f"--model_name_or_path={encoder}", *shared, *flags]


def weak_types(metrics: Mapping[str, float]) -> str:
    """The types with a test F1 below a half, each with it in percent."""
    f1 = {n.removeprefix("test_").removesuffix("_f1"): v for n, v in metrics.items() if "_f1" in n}
    weak = [f"{name} ({100 * v:.1f})" for name, v in f1.items() if v < 0.5 and name != "overall"]
    return ", ".join(weak) or "none"


def remarks(corpus: str, metrics: Mapping[str, float], commit: str) -> str:
    """The sections on purpose, weak spots, and how the figures were made."""
    seeds = f1_cells(chosen(TEST, corpus=corpus, head="span"), [corpus], "test_f1")[0]
    return f"""\
## What it is for

A small model to compare heads with, and to start from. Do not let it decide about people without a
person who checks: what it misses or invents has not been weighed for any use.

## Where it fails

- Long entities: see the table by length.
- Types with a test F1 below 50 %: {weak_types(metrics)}.

## How the figures were made

One run at commit {commit} on one {device_name()}, by `benchmarks/quality_cards.py`. Five seeds of
the same training have a test F1 of {seeds} (mean ± deviation, number of seeds;
`benchmarks/results/quality_test_h100.jsonl`). The weights were not kept; this trains the tagger
anew:

```bash
hf-semicrf train --model_name_or_path {ENCODER} \\
    --train_file train.jsonl --validation_file validation.jsonl --test_file test.jsonl \\
    --output_dir {name_of(corpus)}
```

"""


def finish(card: ModelCard, corpus: str, metrics: Mapping[str, float], commit: str) -> ModelCard:
    """A trained model's card with what is known of the world beside it.

    Raises:
        ValueError: Something in it is still empty.
    """
    name, origin, _ = DATA[corpus]
    data: Any = card.data
    data.datasets, data.language, data.license = name, "en", LICENCE
    for result in data.eval_results or ():
        result.dataset_name = result.dataset_type = name
    before, limits, after = card.text.partition("## Limits")
    card.text = before.replace(UNNAMED, origin) + remarks(corpus, metrics, commit) + limits + after
    if missing := [word for word in (*EMPTY, UNNAMED) if word in str(card)]:
        raise ValueError(f"expected a card with every row filled, got {missing} in {corpus}'s")
    return card


def main(arguments: Sequence[str] | None = None) -> None:
    """Train both taggers, and write their cards and pictures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--encoder", default=ENCODER, help="its name or folder")
    parser.add_argument("--data", required=True, help="folder of the corpora")
    parser.add_argument("--corpora", nargs="+", choices=sorted(DATA), default=sorted(DATA))
    parser.add_argument("--models", default="out/cards", help="folder of the models")
    parser.add_argument("--commit", required=True, help="the code's commit")
    parser.add_argument("--out", type=Path, required=True, help="folder of the cards")
    args, flags = parser.parse_known_args(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    for corpus in args.corpora:
        folder = Path(args.models, name_of(corpus))
        metrics = train.main(command(corpus, args.encoder, args.data, str(folder), *flags))
        card = finish(ModelCard.load(folder / CARD_NAME), corpus, metrics, args.commit)
        picture = f"{name_of(corpus)}.png"
        card.text = card.text.replace(f"]({PLOT_NAME})", f"]({picture})")
        card.save(args.out / f"{name_of(corpus)}.md")
        shutil.copy(folder / PLOT_NAME, args.out / picture)
        print(f"{corpus}: {name_of(corpus)}.md", file=sys.stderr)


if __name__ == "__main__":
    main()
