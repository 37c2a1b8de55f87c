"""Show how sure a model is, word by word: as a stand-alone HTML page, or as a PNG.

Under each word stands a cell for each entity type, the darker the more probable it is that the word
lies in a segment of the type; types that are nowhere likely are left out. The last row is of
boundaries: its left half that an entity starts at the word, its right half that one ends there.
What was predicted is marked in the text above.

Pure functions of what ``analyze`` returns.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from hf_semicrf.reporting.colours import Colour, colours
from hf_semicrf.reporting.fonts import drawing
from hf_semicrf.reporting.visualize import (
    characters,
    escape,
    escape_line,
    html_table,
    legend,
    open_mark,
    page,
)
from hf_semicrf.results import Entity, Prediction
from hf_semicrf.saving import replacing
from hf_semicrf.text import direction, one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BOUNDARY = "starts, ends"
INK = "#1d1d1f"
LIKELY = 0.01
LINE = 92  # characters in a line of a picture

# The cells are a word's background, in a padding that takes no place: so the text stays a text, of
# which browsers order, shape and break the words, and people copy them.
_STYLE = """
section {{ --row: .95rem; --cells: calc({rows} * var(--row));
  --line-height: calc(2.2rem + var(--cells));
  border-top: 1px solid var(--line); padding: .8rem 0; }}
section p {{ margin: 0; font-size: .8rem; color: var(--faint); }}
section > div {{ display: grid; grid-template-columns: auto minmax(0, 1fr); column-gap: .6rem;
  margin-top: calc(var(--cells) / -2); padding-bottom: calc(var(--cells) / 2); }}
section > div > div {{ font-size: .62rem; line-height: var(--row);
  padding-top: calc(var(--line-height) / 2 + 1.05rem); text-align: end; }}
section i {{ display: block; max-width: 9rem; font-style: normal; overflow: hidden;
  text-overflow: ellipsis; white-space: nowrap; }}
section article {{ border: 0; padding: 0; line-height: var(--line-height); }}
.ltr {{ --onwards: 90deg; }}
.rtl {{ --onwards: 270deg; }}
.word {{ padding: 0 .12rem calc(var(--cells) + .35rem); margin: 0 1px; background: {backgrounds};
  -webkit-box-decoration-break: clone; box-decoration-break: clone;
  -webkit-print-color-adjust: exact; print-color-adjust: exact; }}
"""
_CELL = """linear-gradient(var(--onwards), {first} 50%, {second} 50%)
  0 calc(100% - {below} * var(--row)) / 100% calc(var(--row) - 1px) no-repeat"""
_EMPTY = """repeating-linear-gradient(0deg, hsl(0 0% 50% / .08) 0 calc(var(--row) - 1px),
  transparent 0 var(--row)) 0 100% / 100% var(--cells) no-repeat"""


def uncertainty_page(predictions: Sequence[Prediction], title: str = "Uncertainty") -> str:
    """A page that needs no other file: one article a text, with the rows of cells under its words.

    The exact probabilities of a word show while the pointer is on it, and in a table at the end.

    Args:
        predictions: As ``analyze`` returns them.
        title: Heading of the page.

    Returns:
        HTML in which every character of the texts, labels and title is escaped.
    """
    styles = _styles(predictions)
    articles = "\n".join(_article(prediction, styles) for prediction in predictions)
    header = ("text", "word", *styles, "starts", "ends")
    rows = [
        (number, word, *figures)
        for number, prediction in enumerate(predictions, 1)
        for word, figures in zip(_words(prediction), _figures(prediction, styles), strict=True)
    ]
    table = html_table("Probabilities as a table", header, rows)
    return page(title, legend(styles), articles, table, _style(styles))


def plot_uncertainty(predictions: Sequence[Prediction], path: str | Path) -> None:
    """A picture of a few texts, one below the other, in the format that the file's name says.

    Args:
        predictions: As ``analyze`` returns them; texts with words.
        path: The file.

    Raises:
        ValueError: There is no text with words.
        RuntimeError: matplotlib is not installed.
    """
    styles = _styles(predictions)
    lines = [(p, first, end) for p in predictions for first, end in _lines(p)]
    if not lines:
        raise ValueError("expected at least one text with words, got none")
    width = max(_edges(p, first, end)[-1] for p, first, end in lines)
    size = (1.2 + 8 * width / LINE, len(lines) * (0.75 + 0.17 * len(styles)))
    with drawing():
        from matplotlib.figure import Figure

        figure = Figure(size, layout="constrained")
        for axes, line in zip(figure.subplots(len(lines), squeeze=False)[:, 0], lines, strict=True):
            axes.set_xlim(0, width)
            _draw(axes, *line, styles)
        with replacing(path) as unfinished:
            figure.savefig(unfinished, dpi=110)


def _styles(predictions: Sequence[Prediction]) -> dict[str, Colour]:
    """The colour of each entity type that was predicted or is likely somewhere."""
    likely = {entity["label"] for prediction in predictions for entity in prediction.entities}
    for prediction in predictions:
        chances = (prediction.token > LIKELY).any(0).tolist()
        likely |= {label for label, x in zip(prediction.types, chances, strict=True) if x}
    styles = colours(label for prediction in predictions for label in prediction.types[1:])
    return {label: style for label, style in styles.items() if label in likely}


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


def _figures(prediction: Prediction, types: Collection[str]) -> list[list[str]]:
    """Of each word, the probabilities of the types, and that an entity starts and ends there."""
    nowhere = [0.0] * len(prediction.words)
    token = dict(zip(prediction.types, prediction.token.T.tolist(), strict=True))
    columns = [*(token.get(label, nowhere) for label in types), *_boundaries(prediction)]
    return [[f"{x:.3f}" for x in row] for row in zip(*columns, strict=True)]


def _style(styles: Mapping[str, Colour]) -> str:
    """The page's rules: a word has its probabilities as --p0 and on, in the order of `_figures`."""
    cells = [
        _CELL.format(first=shade, second=shade, below=len(styles) - row)
        for row, style in enumerate(styles.values())
        for shade in [f"hsl({style.hue} 75% 40% / var(--p{row}))"]
    ]
    starts, ends = (f"rgb(from var(--ink) r g b / var(--p{len(styles) + side}))" for side in (0, 1))
    cells += [_CELL.format(first=starts, second=ends, below=0), _EMPTY]
    return _STYLE.format(rows=len(styles) + 1, backgrounds=",\n  ".join(cells))


def _article(prediction: Prediction, styles: Mapping[str, Colour]) -> str:
    text, places = characters(prediction.text, prediction.words)
    way = direction(text)
    marks = list(_entity_words(prediction))
    opened = {first: open_mark(entity, styles[entity["label"]]) for first, _, entity in marks}
    closed = {end - 1 for _, end, _ in marks}
    shown, done = "", 0
    rows = zip(places, _figures(prediction, styles), strict=True)
    for n, ((start, end), figures) in enumerate(rows):
        word = text[start:end]
        chances = ";".join(f"--p{column}:{x}" for column, x in enumerate(figures))
        tip = zip((*styles, "starts", "ends"), figures, strict=True)
        shown += (
            f"{escape(text[done:start])}{opened.get(n, '')}"
            f'<span class="word {direction(word, way)}" style="{chances}" '
            f'title="{escape_line(", ".join(map(" ".join, tip)))}">{escape(word)}</span>'
            f"{'</mark>' if n in closed else ''}"
        )
        done = end
    names = "".join(f"<i><bdi>{escape_line(name)}</bdi></i>" for name in (*styles, BOUNDARY))
    return (
        f'<section dir="{way}"><p>Entropy {prediction.entropy:.2f} nats</p>'
        f'<div><div aria-hidden="true">{names}</div>'
        f'<article dir="{way}" lang="">{shown}{escape(text[done:])}</article></div></section>'
    )


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


def _draw(
    axes: Axes, prediction: Prediction, first: int, end: int, styles: Mapping[str, Colour]
) -> None:
    """One line of a text: its words on top, a row of cells a type, and the boundaries."""
    shades = {label: style.rgb for label, style in styles.items()}
    words = _words(prediction)[first:end]
    edges = _edges(prediction, first, end)
    starts, ends = _boundaries(prediction)
    token = dict(zip(prediction.types, prediction.token.T.tolist(), strict=True))
    for n, word in enumerate(words):
        left, width = edges[n], edges[n + 1] - edges[n]
        axes.text(left + width / 2, -1.1, one_line(word), ha="center", va="center", fontsize=8)
        for row, label in enumerate(styles):
            chance = token[label][first + n] if label in token else 0
            axes.barh(
                row, width - 0.3, 0.9, left + 0.15, color=shades[label], alpha=chance, linewidth=0
            )
        half = (width - 0.3) / 2
        for at, chance in ((left + 0.15, starts[first + n]), (left + 0.15 + half, ends[first + n])):
            axes.barh(len(styles), half, 0.9, at, color=INK, alpha=chance, linewidth=0)
    for a, b, entity in _entity_words(prediction):
        if a < end and b > first:
            left, right = edges[max(a, first) - first], edges[min(b, end) - first]
            label = entity["label"]
            shade = shades[label]
            axes.barh(-1.1, right - left - 0.3, 0.9, left + 0.15, alpha=0.25, linewidth=0,
                      color=shade, edgecolor=shade, hatch=styles[label].hatch)  # fmt: skip
            note = f"{one_line(label)} {entity['score']:.2f}"
            axes.text(left + 0.2, -1.95, note, fontsize=6.5, color=INK, va="center")
    names = [one_line(name) for name in (*styles, BOUNDARY)]
    axes.set_yticks(range(len(styles) + 1), names, fontsize=7)
    axes.set(xticks=[], ylim=(len(styles) + 0.6, -2.4))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    if direction(" ".join(_words(prediction))) == "rtl":
        axes.invert_xaxis()
        axes.yaxis.tick_right()
        for drawn in axes.texts[len(words) :]:  # the notes
            drawn.set_horizontalalignment("right")
