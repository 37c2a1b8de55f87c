"""Show entities in their text: as a stand-alone HTML page, or by colours in a terminal.

Pure functions of the text and of what `predict` returns for it. An entity is a mapping with
"label", "start" and "end" (and "score", if it should be shown). Offsets count characters where the
text is a string, words where it is a list of words; half-open, in order, without overlap.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

Text = str | Sequence[str]
Entity = Mapping[str, Any]

# Control and direction characters could steer a terminal or reorder a page: a visible character
# stands in for each, one for one.
_VISIBLE = {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\t\n"}
_VISIBLE |= {0x7F: "\u2421"} | dict.fromkeys(range(0x80, 0xA0), "\ufffd")
_VISIBLE |= dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A)], "\ufffd")

# Light backgrounds of the 256-colour palette under black text, for dark and light terminals.
_ANSI_BACKGROUNDS = (159, 222, 157, 218, 189, 229, 216, 152, 183, 194)

HUES = [round(index * 137.5) % 360 for index in range(360)]  # of types, in the order of their names

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --page: #fdfdfc; --ink: #1d1d1f; --line: #d8d8d4; }}
body {{ background: var(--page); color: var(--ink); font: 17px/1.9 system-ui, sans-serif;
  max-width: 46rem; margin: 2rem auto; padding: 0 1rem; }}
h1 {{ font-size: 1.3rem; }}
article {{ border-top: 1px solid var(--line); padding: .8rem 0; white-space: pre-wrap;
  overflow-wrap: anywhere; }}
mark {{ background: hsl(var(--hue) 75% 85%); color: inherit; border-radius: .3em;
  padding: .15em .3em; unicode-bidi: isolate; -webkit-box-decoration-break: clone;
  box-decoration-break: clone; }}
mark small {{ font-size: .62em; font-weight: 700; letter-spacing: .03em;
  margin-left: .5em; opacity: .8; }}
{style}ul {{ list-style: none; display: flex; flex-wrap: wrap; gap: .3rem .8rem; padding: 0; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --page: #17181a; --ink: #ececea; --line: #3a3b3e; }}
  mark {{ background: hsl(var(--hue) 45% 30%); }}
}}
</style>
</head>
<body>
<h1>{title}</h1>
<ul aria-label="Legend">{legend}</ul>
{articles}
</body>
</html>
"""


def to_html(
    texts: Sequence[Text], entities: Sequence[Sequence[Entity]], title: str = "Entities"
) -> str:
    """A page that needs no other file: one article a text, a colour a type, and a legend.

    Args:
        texts: What was tagged.
        entities: The entities of each text, as `predict` returns them.
        title: Heading of the page.

    Returns:
        HTML in which every character of the texts, labels and title is escaped.

    Raises:
        ValueError: The numbers of texts and entity lists differ, or entities overlap or leave
            their text.
    """
    documents = [_pieces(text, found) for text, found in _pairs(texts, entities)]
    hues = _per_label(entities, HUES)
    legend = "".join(
        f'<li><mark style="--hue:{hue}">{escape(label)}</mark> {_count(entities, label)}</li>'
        for label, hue in hues.items()
    )
    articles = "\n".join(
        f'<article dir="auto">{"".join(_html_piece(*piece, hues) for piece in pieces)}</article>'
        for pieces in documents
    )
    return page(title, legend, articles)


def page(title: str, legend: str, articles: str, style: str = "") -> str:
    """A page that needs no other file.

    Args:
        title: Its heading.
        legend: Items of a list, in HTML.
        articles: What it shows, in HTML.
        style: Further rules of its style sheet, in CSS.
    """
    return _PAGE.format(title=escape(title), legend=legend, articles=articles, style=style)


def to_ansi(texts: Sequence[Text], entities: Sequence[Sequence[Entity]]) -> str:
    """The texts with ANSI colours, one after the other, each entity followed by its label.

    Args:
        texts: What was tagged.
        entities: The entities of each text, as `predict` returns them.

    Raises:
        ValueError: As in `to_html`.
    """
    colours = _per_label(entities, _ANSI_BACKGROUNDS)

    def coloured(text: str, entity: Entity | None) -> str:
        text = text.translate(_VISIBLE)
        if entity is None:
            return text
        label = str(entity["label"])
        shown = f"\x1b[38;5;16;48;5;{colours[label]}m"
        return f"{shown}{text} \x1b[1m{label.translate(_VISIBLE)}\x1b[0m"

    documents = [_pieces(text, found) for text, found in _pairs(texts, entities)]
    return "\n".join("".join(coloured(*piece) for piece in pieces) for pieces in documents)


def _pairs(
    texts: Sequence[Text], entities: Sequence[Sequence[Entity]]
) -> Iterator[tuple[Text, Sequence[Entity]]]:
    if isinstance(texts, str) or len(texts) != len(entities):
        raise ValueError(
            f"expected a list of texts and as many lists of entities, got "
            f"{'a string' if isinstance(texts, str) else len(texts)} and {len(entities)}"
        )
    return zip(texts, entities, strict=True)


def _pieces(text: Text, entities: Sequence[Entity]) -> list[tuple[str, Entity | None]]:
    """The text cut into (characters, their entity or None), in order and complete."""
    units, unit = (text, "characters") if isinstance(text, str) else (list(text), "words")
    glue = "" if isinstance(text, str) else " "
    starts = list(accumulate((len(part + glue) for part in units), initial=0))  # in characters
    joined = glue.join(units)
    pieces: list[tuple[str, Entity | None]] = []
    done = 0
    for entity in entities:
        first, after = entity["start"], entity["end"]
        if not 0 <= first < after <= len(units) or starts[first] < done:
            raise ValueError(
                f"expected entities in order, without overlap and inside the {len(units)} {unit}, "
                f"got [{first}, {after})"
            )
        start, end = starts[first], starts[after] - len(glue)
        pieces += [(joined[done:start], None), (joined[start:end], entity)]
        done = end
    return [*pieces, (joined[done:], None)]


def _per_label(entities: Sequence[Sequence[Entity]], palette: Sequence[int]) -> dict[str, int]:
    """A colour for each label, in the order of their names."""
    labels = sorted({str(entity["label"]) for found in entities for entity in found})
    return {label: palette[index % len(palette)] for index, label in enumerate(labels)}


def _count(entities: Sequence[Sequence[Entity]], label: str) -> int:
    return sum(str(entity["label"]) == label for found in entities for entity in found)


def _html_piece(text: str, entity: Entity | None, hues: Mapping[str, int]) -> str:
    if entity is None:
        return escape(text)
    label = str(entity["label"])
    score = f" {entity['score']:.2f}" if "score" in entity else ""
    small = f"<small>{escape(label)}{score}</small>"
    tip = (
        f' title="{escape(label)}, probability {entity["score"]:.3f}"' if "score" in entity else ""
    )
    return f'<mark style="--hue:{hues[label]}"{tip}>{escape(text)}{small}</mark>'


def escape(text: str) -> str:
    """Text as HTML in which nothing acts and every character is visible."""
    return html.escape(text.translate(_VISIBLE), quote=True)
