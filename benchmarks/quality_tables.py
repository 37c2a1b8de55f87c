"""The tables and pictures of quality, from what `quality.py` measured; see tables.py."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from quality import f1_cells, read_lines

from hf_semicrf.reporting.tables import BLUE, GREY, LIGHT, ORANGE, markdown_table

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"
CORPORA = {"ncbi_disease": "NCBI-disease", "bc5cdr": "BC5CDR", "wnut17": "WNUT17"}
TEST = read_lines(RESULTS / "quality_test_h100.jsonl")
HEADS = ["softmax", "crf", "span", "span+mix_layers=4"]  # those of the file, in this order
PLAIN = "none/viterbi"
# heads with a setting that has been taken out, and the head that each stands beside
LOST = {
    "boundary+biaffine+mix_layers=4": "span+mix_layers=4",
    "boundary+pointer+entity+mix_layers=7": "span+mix_layers=7",
    "span_max+mix_layers=7": "span+mix_layers=7",
    "span+mix_layers=7+context=lstm": "span+mix_layers=7",
    "span+mix_layers=7+layer_decay=0.85+learning_rate=2e-4": "span+mix_layers=7",
    "span+mix_layers=7+label_smoothing=0.05": "span+mix_layers=7",
    "span+mix_layers=7+word_dropout=0.1": "span+mix_layers=7",
    "span+word_pooling=mean": "span",
    "boundary+word_pooling=mean": "boundary",
}


def chosen(rows: Iterable[dict], **wanted: str) -> list[dict]:
    """The rows whose fields have the wanted values."""
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


def mean(rows: Iterable[dict], value: Callable[[dict], float]) -> str:
    """The mean of a share over runs, in percent."""
    return f"{100 * statistics.mean(map(value, rows)):.1f}"


def plainly_decoded(rows: Iterable[dict]) -> list[dict]:
    """Runs of `span` with the scores that they have by Viterbi, at a temperature of 1."""
    return [
        {"corpus": row["corpus"], "head": "span, plain Viterbi"}
        | {"test_f1": row["decodings"][PLAIN]["f1"]}
        | {"calibration_error": row["decodings"][PLAIN]["calibration_error"]}
        for row in chosen(rows, head="span")
    ]


def earlier_default() -> list[dict]:
    """Runs of `scripts/train.py` when `boundary` was the default scorer."""
    rows = read_lines(RESULTS / "train_h100.jsonl")
    return [r | {"head": "boundary, earlier", "test_f1": r["test_overall_f1"]} for r in rows]


def quality() -> str:
    """Test F1 and calibration error of each head."""
    rows = [*TEST, *plainly_decoded(TEST), *earlier_default()]
    lines = []
    for head in [*HEADS, "span, plain Viterbi", "boundary, earlier"]:
        own = chosen(rows, head=head)
        measured = [[r for r in chosen(own, corpus=c) if "calibration_error" in r] for c in CORPORA]
        errors = [
            mean(of_corpus, lambda r: r["calibration_error"]) for of_corpus in measured if of_corpus
        ]
        lines.append([head, *f1_cells(own, CORPORA, "test_f1"), " / ".join(errors)])
    return markdown_table(["head", *CORPORA.values(), "mean", "calibration error"], lines)


def recalls() -> str:
    """Recall by the length of the entity and of neighbours, the mean over the seeds."""
    lines: list[list[Any]] = []
    for corpus, name in CORPORA.items():
        own = [chosen(TEST, corpus=corpus, head=head) for head in HEADS]
        plain = chosen(TEST, corpus=corpus, head="span")
        for length, row in own[0][0]["lengths"].items():
            cells = [mean(rows, lambda r, n=length: r["lengths"][n]["recall"]) for rows in own]
            cells.append(mean(plain, lambda r, n=length: r["decodings"][PLAIN]["recalls"][n]))
            lines.append(
                [name, f"{length} {'word' if length == '1' else 'words'}", row["number"], *cells]
            )
        for score, number in (("recall", own[0][0]["neighbours"]["number"]), ("precision", "")):
            cells = [mean(rows, lambda r, s=score: r["neighbours"][s]) for rows in own]
            lines.append([name, f"next to one of its type: {score}", number, *cells, ""])
    heads = [*HEADS, "span, plain Viterbi"]
    return markdown_table(["corpus", "entities of", "number", *heads], lines)


def types() -> str:
    """Test F1 of each type of WNUT17, the mean over the seeds."""
    own = [chosen(TEST, corpus="wnut17", head=head) for head in HEADS]
    lines = [
        [name, *(mean(rows, lambda r, n=name: r["types"].get(n, 0.0)) for rows in own)]
        for name in own[0][0]["types"]
    ]
    return markdown_table(["type", *HEADS], lines)


def on_validation() -> list[dict]:
    """All runs with the present schedule, which have a validation F1."""
    return [*read_lines(RESULTS / "quality_validation_h100.jsonl"), *TEST]


def on_wnut17() -> list[dict]:
    """Runs on WNUT17 before decoding was fitted to the validation data, by Viterbi."""
    rows = read_lines(RESULTS / "quality_wnut17_h100.jsonl")
    known = {(row["head"], row["seed"]) for row in rows}
    thresholds = read_lines(RESULTS / "threshold_wnut17_h100.jsonl")
    return [*rows, *(row for row in thresholds if (row["head"], row["seed"]) not in known)]


def kept_heads(rows: Iterable[dict]) -> list[str]:
    """The heads of runs that can still be built, in the order of the runs."""
    return [head for head in dict.fromkeys(row["head"] for row in rows) if head not in LOST]


def validation() -> str:
    """Validation F1 of all heads that can still be built, best first."""
    rows = on_validation()
    lines = [
        [h, *f1_cells(chosen(rows, head=h), CORPORA, "validation_f1")] for h in kept_heads(rows)
    ]
    lines.sort(key=lambda line: line[-1], reverse=True)  # those without a mean come last
    return markdown_table(["head", *CORPORA.values(), "mean"], lines)


def earlier() -> str:
    """F1 of the earlier runs on WNUT17, of heads that can still be built."""
    rows, lines = on_wnut17(), []
    for head in kept_heads(rows):
        own = chosen(rows, head=head)
        scores = [f1_cells(own, ["wnut17"], f"{split}_f1")[0] for split in ("validation", "test")]
        lines.append([head, *scores])
    lines.sort(key=lambda line: line[1], reverse=True)
    return markdown_table(["head", "validation F1", "test F1"], lines)


def difference(own: list[dict], others: list[dict], score: str, digits: int = 2) -> str:
    """The mean of runs' scores in percent and, in brackets, less that of others; or nothing."""
    values = [[100 * row[score] for row in rows if score in row] for rows in (own, others)]
    if not all(values):
        return ""
    mine, theirs = map(statistics.mean, values)
    return f"{mine:.{digits}f} ({mine - theirs:+.{digits}f})"


def lost() -> str:
    """F1 of heads with a setting that has been taken out, and the difference without it."""
    lines = []
    for head, beside in LOST.items():
        rows = on_wnut17() if "word_pooling" in head else on_validation()
        own = [chosen(rows, head=head, corpus=corpus) for corpus in CORPORA]
        others = [chosen(rows, head=beside, corpus=corpus) for corpus in CORPORA]
        pairs = list(zip(own, others, strict=True))
        test = difference(own[-1], others[-1], "test_f1")
        # those on the validation data alone
        errors = [
            difference(x, [r for r in y if r.get("split") == "validation"], "calibration_error", 1)
            for x, y in pairs
        ]
        cells = [difference(*pair, "validation_f1") for pair in pairs]
        lines.append([head, beside, *cells, test, " / ".join(filter(None, errors))])
    columns = [*CORPORA.values(), "WNUT17, test", "calibration error"]
    return markdown_table(["head", "beside", *columns], lines)


def more() -> str:
    """Heads beside the default or softmax of the same seeds: F1, and the difference to it."""
    rows, lines = read_lines(RESULTS / "more_f1_h100.jsonl"), []
    later = read_lines(RESULTS / "recipes_h100.jsonl")
    rows += [row for row in later if "neighbours" in row["head"]]
    corpora = [name for name in CORPORA if chosen(rows, corpus=name)]
    seeds = {row["seed"] for row in rows}
    rows += [row for row in chosen(TEST, head="softmax") if row["seed"] in seeds]
    for head in dict.fromkeys(sorted((r["head"] for r in rows), key=lambda h: (h[0], len(h)))):
        cells = []
        for corpus in corpora:
            base = head.partition("+")[0]
            own, plain = (chosen(rows, head=h, corpus=corpus) for h in (head, base))
            cells += [difference(own, plain, f"{split}_f1") for split in ("validation", "test")]
            alone = [r | {"test_f1": r["test_f1_alone"]} for r in own if "test_f1_alone" in r]
            cells.append(difference(alone, plain, "test_f1"))
        lines.append([head, *cells])
    kinds = ("validation", "test", "test, alone")
    columns = [f"{CORPORA[name]}, {kind}" for name in corpora for kind in kinds]
    return markdown_table(["head", *columns], lines)


def pooled(rows: Iterable[dict]) -> list[tuple[float, float, int]]:
    """Mean score, precision and number of entities of each bin of scores, over the seeds."""
    bins: dict[float, list[dict]] = {}
    for row in rows:
        for found in row["reliability"]:
            bins.setdefault(found["low"], []).append(found)
    points = []
    for _, found in sorted(bins.items()):
        number = sum(b["predicted"] for b in found)
        score, precision = (
            sum(b[name] * b["predicted"] for b in found) / number for name in ("score", "precision")
        )
        points.append((score, precision, number))
    return points


def draw_reliability(path: Path) -> None:
    """How often entities of a score are right, of softmax and of `span`; a panel a corpus."""
    figure = Figure((9, 3.5), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    for axes, (corpus, name) in zip(panels, CORPORA.items(), strict=True):
        axes.plot([0, 1], [0, 1], "--", color=GREY, linewidth=1)
        for head, colour in (("softmax", ORANGE), ("span", BLUE)):
            scores, precisions, numbers = zip(
                *pooled(chosen(TEST, corpus=corpus, head=head)), strict=True
            )
            sizes = [10 + 250 * number / sum(numbers) for number in numbers]
            axes.plot(scores, precisions, color=colour, linewidth=1.2, label=head)
            axes.scatter(
                scores, precisions, sizes, color=colour, alpha=0.7, linewidths=0, clip_on=False
            )
        axes.set(title=name, xlim=(0, 1.02), ylim=(0, 1.04), aspect="equal")
        axes.set_xlabel("score of an entity")
    panels[0].set_ylabel("share that is right")
    panels[0].legend(frameon=False, loc="upper left")
    save(figure, path)


def draw_recall(path: Path) -> None:
    """Recall by the length of the entity; a panel a corpus, bars with deviations over seeds."""
    figure = Figure((9, 3), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    heads = {"softmax": ORANGE, "crf": LIGHT, "span": BLUE}
    for axes, (corpus, name) in zip(panels, CORPORA.items(), strict=True):
        for i, (head, colour) in enumerate(heads.items()):
            own = chosen(TEST, corpus=corpus, head=head)
            lengths = own[0]["lengths"]
            values = [[100 * r["lengths"][n]["recall"] for r in own] for n in lengths]
            axes.bar(
                [place + 0.27 * (i - 1) for place in range(len(lengths))],
                [statistics.mean(v) for v in values],
                0.27,
                yerr=[statistics.stdev(v) for v in values],
                color=colour,
                label=head,
                error_kw={"linewidth": 0.8, "ecolor": GREY},
            )
        names = [f"{n}\nn={row['number']:,}" for n, row in lengths.items()]
        axes.set_xticks(range(len(names)), names)
        axes.set(title=name, ylim=(0, 100))
        axes.set_xlabel("words of the entity")
    panels[0].set_ylabel("recall, %")
    panels[-1].legend(frameon=False)
    save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """Write a picture without the frame's upper and right lines."""
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
        axes.title.set_size(10)
    figure.savefig(path, dpi=100)


def figures(folder: Path) -> None:
    """Draw both pictures into a folder."""
    draw_reliability(folder / "quality_reliability.png")
    draw_recall(folder / "quality_recall.png")


TABLES: dict[str, Callable[[], str]] = {
    "quality": quality,
    "quality_recalls": recalls,
    "quality_types": types,
    "quality_validation": validation,
    "quality_earlier": earlier,
    "quality_lost": lost,
    "quality_more": more,
}
