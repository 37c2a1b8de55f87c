"""Show how sure a model is, word by word: as a stand-alone HTML page, or as a PNG.

Under each word stands a cell for each entity type, the darker the more probable it is that the word
lies in a segment of the type; types that are nowhere likely are left out. The last row is of
boundaries: its left half that an entity starts at the word, its right half that one ends there.
What was predicted is marked in the text above.

Pure functions of what ``analyze`` returns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from hf_semicrf.reporting.visualize import HUES, escape, page
from hf_semicrf.results import Entity, Prediction
from hf_semicrf.saving import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BOUNDARY = "starts, ends"
INK = "#1d1d1f"
LIKELY = 0.01
LINE = 92  # characters in a line of a picture

_STYLE = """
article p { margin: 0 0 .4rem; font-size: .8rem; opacity: .75; }
article div { display: flex; flex-wrap: wrap; row-gap: .7rem; white-space: pre; line-height: 1.5; }
.word, .rows { display: inline-flex; flex-direction: column; }
.word.gap { margin-left: .3rem; }
.rows { font-size: .62rem; margin-right: .4rem; text-align: right; }
.word b, .rows b { font-weight: inherit; font-size: 1rem; padding: 0 .15rem; min-height: 1.5rem; }
.word b.entity { background: hsl(var(--hue) 75% 85%); }
.word b.first { border-radius: .3em 0 0 .3em; }
.word b.last { border-radius: 0 .3em .3em 0; }
.word b.first.last { border-radius: .3em; }
.word b small { font-size: .6rem; font-weight: 700; margin-left: .3em; opacity: .8; }
.word i, .rows i { height: .85rem; line-height: .85rem; font-style: normal; margin-top: 1px; }
.word i { background: linear-gradient(90deg, hsl(var(--hue) 75% 40% / var(--a)) 50%,
  hsl(var(--hue) 75% 40% / var(--b)) 50%), hsl(0 0% 50% / .08); }
.word i.boundary { background: linear-gradient(90deg, rgb(from currentColor r g b / var(--a)) 50%,
  rgb(from currentColor r g b / var(--b)) 50%), hsl(0 0% 50% / .08); }
@media (prefers-color-scheme: dark) { .word b.entity { background: hsl(var(--hue) 45% 30%); } }
"""


def uncertainty_page(predictions: Sequence[Prediction], title: str = "Uncertainty") -> str:
    """A page that needs no other file: one article a text, with the rows of cells under its words.

    The exact probabilities of a word show while the pointer is on it.

    Args:
        predictions: As ``analyze`` returns them.
        title: Heading of the page.

    Returns:
        HTML in which every character of the texts, labels and title is escaped.
    """
    hues = _hues(predictions)
    legend = "".join(
        f'<li><mark style="--hue:{hue}">{escape(label)}</mark></li>' for label, hue in hues.items()
    )
    articles = "\n".join(_article(prediction, hues) for prediction in predictions)
    return page(title, legend, articles, _STYLE)


def plot_uncertainty(predictions: Sequence[Prediction], path: str | Path) -> None:
    """A picture of a few texts, one below the other, in the format that the file's name says.

    Args:
        predictions: As ``analyze`` returns them; texts with words.
        path: The file.

    Raises:
        ValueError: There is no text with words.
        RuntimeError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise RuntimeError("plots need matplotlib: pip install hf_semicrf[plots]") from None
    hues = _hues(predictions)
    lines = [(p, first, end) for p in predictions for first, end in _lines(p)]
    if not lines:
        raise ValueError("expected at least one text with words, got none")
    width = max(_edges(p, first, end)[-1] for p, first, end in lines)
    size = (1.2 + 8 * width / LINE, len(lines) * (0.75 + 0.17 * len(hues)))
    figure = Figure(size, layout="constrained")
    for axes, line in zip(figure.subplots(len(lines), squeeze=False)[:, 0], lines, strict=True):
        _draw(axes, *line, hues)
        axes.set_xlim(0, width)
    with replacing(path) as unfinished:
        figure.savefig(unfinished, dpi=110)


def _hues(predictions: Sequence[Prediction]) -> dict[str, int]:
    """A colour for each entity type that was predicted or is likely somewhere."""
    likely = {entity["label"] for prediction in predictions for entity in prediction.entities}
    for prediction in predictions:
        chances = (prediction.token > LIKELY).any(0).tolist()
        likely |= {label for label, x in zip(prediction.types, chances, strict=True) if x}
    labels = sorted({label for prediction in predictions for label in prediction.types[1:]})
    hues = {label: HUES[index % len(HUES)] for index, label in enumerate(labels)}
    return {label: hue for label, hue in hues.items() if label in likely}


def _words(prediction: Prediction) -> list[str]:
    text = prediction.text
    if not isinstance(text, str):
        return list(text)
    return [text[start:end] for start, end in prediction.words]


def _entity_words(prediction: Prediction) -> Iterator[tuple[int, int, Entity]]:
    """The words [first, end) of each entity."""
    firsts = {start: n for n, (start, _) in enumerate(prediction.words)}
    ends = {end: n + 1 for n, (_, end) in enumerate(prediction.words)}
    for entity in prediction.entities:
        yield firsts[entity["start"]], ends[entity["end"]], entity


def _boundaries(prediction: Prediction) -> tuple[list[float], list[float]]:
    """The probabilities that an entity of any type starts, and ends, at each word."""
    # rounding leaves a certain event a little beside 1
    starts, ends = (x[:, 1:].sum(1).clamp(max=1) for x in (prediction.start, prediction.end))
    return starts.tolist(), ends.tolist()


def _article(prediction: Prediction, hues: dict[str, int]) -> str:
    marks = {n: (n == first, n == end - 1, entity["label"])
             for first, end, entity in _entity_words(prediction)
             for n in range(first, end)}  # fmt: skip
    rows = {label: prediction.types.index(label) for label in hues if label in prediction.types}
    names = "".join(f"<i>{escape(name)}</i>" for name in (*rows, BOUNDARY))
    columns = [f'<span class="rows"><b></b>{names}</span>']
    starts, ends = _boundaries(prediction)
    token = prediction.token.tolist()
    for n, word in enumerate(_words(prediction)):
        tip = [f"{label} {token[n][k]:.3f}" for label, k in rows.items()]
        tip += [f"starts {starts[n]:.3f}", f"ends {ends[n]:.3f}"]
        shown = f"<b>{escape(word)}</b>"
        if n in marks:
            first, last, label = marks[n]
            kind = "entity" + " first" * first + " last" * last
            small = f"<small>{escape(label)}</small>" if last else ""
            shown = f'<b class="{kind}" style="--hue:{hues[label]}">{escape(word)}{small}</b>'
        cells = "".join(
            f'<i style="--hue:{hues[label]};--a:{token[n][k]:.3f};--b:{token[n][k]:.3f}"></i>'
            for label, k in rows.items()
        )
        cells += f'<i class="boundary" style="--a:{starts[n]:.3f};--b:{ends[n]:.3f}"></i>'
        apart = n > 0 and prediction.words[n - 1][1] < prediction.words[n][0]
        gap = " gap" if apart or not isinstance(prediction.text, str) else ""
        columns.append(
            f'<span class="word{gap}" title="{escape(", ".join(tip))}">{shown}{cells}</span>'
        )
    note = f"<p>Entropy {prediction.entropy:.2f} nats</p>"
    return f'<article dir="auto">{note}<div>{"".join(columns)}</div></article>'


def _lines(prediction: Prediction) -> Iterator[tuple[int, int]]:
    """The words [first, end) of each line of a picture."""
    first, width = 0, 0
    sizes = [len(word) + 2 for word in _words(prediction)]
    for n, size in enumerate(sizes):
        if width + size > LINE and n > first:
            yield first, n
            first, width = n, 0
        width += size
    if sizes:
        yield first, len(sizes)


def _edges(prediction: Prediction, first: int, end: int) -> list[int]:
    """Where each of the words [first, end) begins in a picture's line, and where the last ends."""
    sizes = (len(word) + 2 for word in _words(prediction)[first:end])
    return list(accumulate(sizes, initial=0))


def _draw(axes: Axes, prediction: Prediction, first: int, end: int, hues: dict[str, int]) -> None:
    """One line of a text: its words on top, a row of cells a type, and the boundaries."""
    from matplotlib.colors import hsv_to_rgb

    colours = {label: hsv_to_rgb((hue / 360, 0.75, 0.75)) for label, hue in hues.items()}
    words = _words(prediction)[first:end]
    edges = _edges(prediction, first, end)
    starts, ends = _boundaries(prediction)
    token = prediction.token.tolist()
    for n, word in enumerate(words):
        left, width = edges[n], edges[n + 1] - edges[n]
        axes.text(left + width / 2, -1.1, word, ha="center", va="center", fontsize=8)
        for row, label in enumerate(hues):
            chance = token[first + n][prediction.types.index(label)]
            axes.barh(
                row, width - 0.3, 0.9, left + 0.15, color=colours[label], alpha=chance, linewidth=0
            )
        half = (width - 0.3) / 2
        for at, chance in ((left + 0.15, starts[first + n]), (left + 0.15 + half, ends[first + n])):
            axes.barh(len(hues), half, 0.9, at, color=INK, alpha=chance, linewidth=0)
    for a, b, entity in _entity_words(prediction):
        if a < end and b > first:
            left, right = edges[max(a, first) - first], edges[min(b, end) - first]
            colour = colours[entity["label"]]
            axes.barh(-1.1, right - left - 0.3, 0.9, left + 0.15, color=colour, alpha=0.25)
            note = f"{entity['label']} {entity['score']:.2f}"
            axes.text(left + 0.2, -1.95, note, fontsize=6.5, color=colour, va="center")
    axes.set_yticks(range(len(hues) + 1), [*hues, BOUNDARY], fontsize=7)
    axes.set(xticks=[], ylim=(len(hues) + 0.6, -2.4))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
