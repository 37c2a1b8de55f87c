"""Write the cards of the taggers that `quality.py` measured, from its recorded runs.

python benchmarks/quality_cards.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from quality import f1_cells
from quality_tables import CORPORA, TEST, chosen

from hf_semicrf import SemiCRFConfig
from hf_semicrf.hub.model_card import render_card
from hf_semicrf.reporting.tables import plot_scores
from hf_semicrf.trainer import SemiCRFTrainingArguments, describe_training

CARDS = Path(__file__).parent.parent / "model_cards"
ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
SEED = 1


# of each corpus its name in the card's front matter, and what it is
DATA = {
    "ncbi_disease": (
        "ncbi_disease",
        """\
Abstracts from PubMed with their mentions of diseases (Dogan, Leaman and Lu 2014, *NCBI disease
corpus*, J. Biomed. Inform. 47), in the conversion of
github.com/cambridgeltl/MTL-Bioinformatics-2016 (Crichton et al. 2017), split as published. That
repository puts its data under CC BY 4.0. The corpus is a product of the US National Library of
Medicine, which claims no copyright in the abstracts but warns that publishers may.""",
    ),
    "wnut17": (
        "wnut_17",
        """\
Tweets and posts from Reddit, YouTube and Stack Exchange, with new and rare entities of six types
(Derczynski, Nichols, van Erp and Limsopatham 2017, *Results of the WNUT2017 Shared Task*), from
github.com/leondz/emerging_entities_17, split as published. Licence: CC BY 4.0. The posts hold user
names and coarse language; those of Stack Exchange ask for attribution under CC BY-SA.""",
    ),
}


def recorded(corpus: str) -> dict[str, Any]:
    """The run of the default scorer that the card of a corpus is about."""
    (run,) = [r for r in chosen(TEST, corpus=corpus, head="span") if r["seed"] == SEED]
    return run


def name_of(corpus: str) -> str:
    """The tagger's name, and its card's."""
    return f"minilm-l6-{corpus.replace('_', '-')}"


def metrics_of(run: dict[str, Any]) -> dict[str, float]:
    """The run's scores as `seqeval_metrics` names them; of a type the F1 alone was recorded."""
    overall = {f"overall_{name}": run[name] for name in ("precision", "recall")}
    types = {f"{name}_f1": f1 for name, f1 in run["types"].items()}
    return {**overall, "overall_f1": run["test_f1"], **types}


def remarks(corpus: str, run: dict[str, Any]) -> str:
    """The sections that no run can fill in: purpose, data, weak spots, origin of the figures."""
    seeds = f1_cells(chosen(TEST, corpus=corpus, head="span"), [corpus], "test_f1")[0]
    long = run["lengths"]["5+"]
    weak = [f"{name} ({100 * f1:.1f})" for name, f1 in run["types"].items() if f1 < 0.5]
    return f"""## What it is for

A small model to compare heads with, and to start from. Do not let it decide about people without a
person who checks: what it misses or invents has not been weighed for any use.

## Where the data comes from

{DATA[corpus][1]}

## Where it fails

- Entities of five words and more: recall {100 * long["recall"]:.1f} % of {long["number"]}.
- Types with a test F1 below 50 %: {", ".join(weak) or "none"}.

## How the figures were made

One run of `benchmarks/quality.py` (head `{run["head"]}`, seed {run["seed"]}) at commit
{run["commit"]} on one {run["device"]}, which {run["jobs"]} processes shared; it stands in
`benchmarks/results/quality_test_h100.jsonl`. Test F1 over all recorded seeds, as mean ± deviation
(seeds): {seeds}. The weights were not kept; this trains the tagger anew:

```bash
python scripts/train.py --model_name_or_path {ENCODER} \\
    --train_file train.jsonl --validation_file validation.jsonl --test_file test.jsonl \\
    --seed {run["seed"]} --output_dir {name_of(corpus)}
```

"""


def card(corpus: str) -> str:
    """The card of a corpus's tagger."""
    run = recorded(corpus)
    config = SemiCRFConfig(
        labels=["O", *(f"{prefix}-{name}" for name in run["types"] for prefix in "BI")],
        max_segment_length=run["max_segment_length"],
        scorer=run["head"],
        head_temperature=run["temperature"],
        threshold=run["threshold"],
        base_model=ENCODER,
    )
    shared = f"one of {run['jobs']} processes on the device"
    text = render_card(
        config,
        model_id=name_of(corpus),
        metrics=metrics_of(run),
        split=run["split"],
        breakdown=run,
        plot=f"{name_of(corpus)}.png",
        speed={
            f"training, steps a second ({shared})": f"{run['steps_per_second']:.1f}",
            f"decoding the test split, seconds ({shared})": f"{run['decode_seconds']:.1f}",
        },
        training={
            **describe_training(SemiCRFTrainingArguments("out", seed=run["seed"], use_cpu=True)),
            "steps": run["steps"],
            "device": run["device"],
            "versions": f"torch {run['torch']}, transformers {run['transformers']}",
        },
        dataset=DATA[corpus][0],
        language="en",
    )
    before, limits, after = text.partition("## Limits")
    return before + remarks(corpus, run) + limits + after


if __name__ == "__main__":
    for corpus in DATA:
        run = recorded(corpus)
        (CARDS / f"{name_of(corpus)}.md").write_text(card(corpus))
        plot_scores(CARDS / f"{name_of(corpus)}.png", run, metrics_of(run))
        print(f"{CORPORA[corpus]}: {name_of(corpus)}.md")
