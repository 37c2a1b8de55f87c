"""Show entities in their text: as a stand-alone HTML page, or by colours in a terminal.

Pure functions of the text and of what `predict` returns for it. An entity is a mapping with
"label", "start" and "end" (and "score", if it should be shown). Offsets count characters where the
text is a string, words where it is a list of words; half-open, in order, without overlap.
"""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

from hf_semicrf.reporting.colours import Colour, colours
from hf_semicrf.reporting.fonts import FONTS
from hf_semicrf.text import one_line, visible

Text = str | Sequence[str]
Entity = Mapping[str, Any]

# The colours of a page by day and by night.
LIGHT = """--page: #fdfdfc; --ink: #1d1d1f; --faint: #5c5c60;
  --line: #d8d8d4; --fill: 75% 85%; --edge: 75% 32%;"""
DARK = """--page: #17181a; --ink: #ececea; --faint: #a9a9ad; --line: #3a3b3e;
    --fill: 45% 27%; --edge: 75% 70%;"""

# Labels stand in the style sheet's content, not in the text: so copies are of the text alone.
MARKS = """
article { border-top: 1px solid var(--line); padding: .8rem 0; white-space: pre-wrap;
  unicode-bidi: plaintext; }
mark { background: hsl(var(--hue) var(--fill)); color: var(--ink); border-radius: .3em;
  border: 0 solid hsl(var(--hue) var(--edge)); padding: .15em .3em;
  -webkit-box-decoration-break: clone; box-decoration-break: clone; }
mark[data-label]::after { content: attr(data-label); margin: 0 .5em; font-size: .62em;
  font-weight: 700; line-height: 1.2; letter-spacing: .03em; unicode-bidi: plaintext; }
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; {light} }}
@media (prefers-color-scheme: dark) {{
  :root {{ {dark} }}
}}
body {{ background: var(--page); color: var(--ink); max-width: 46rem; margin: 2rem auto;
  padding: 0 1rem; overflow-wrap: anywhere; font: 17px/1.9 system-ui, sans-serif, {fonts}; }}
h1 {{ font-size: 1.3rem; }}
{marks}
ul {{ list-style: none; display: flex; flex-wrap: wrap; gap: .3rem .8rem; padding: 0; }}
ul, summary, section p, section i {{ -webkit-user-select: none; user-select: none; }}
details {{ border-top: 1px solid var(--line); padding: .8rem 0; overflow-x: auto; }}
summary {{ color: var(--faint); font-size: .8rem; cursor: pointer; }}
table {{ border-collapse: collapse; overflow-wrap: normal; font-size: .8rem; line-height: 1.5; }}
th, td {{ text-align: start; vertical-align: top; padding: .1rem 1rem .1rem 0; }}
{style}</style>
</head>
<body>
<h1 dir="auto">{title}</h1>
<ul aria-label="Legend">{legend}</ul>
{articles}
{table}
</body>
</html>
"""


def to_html(
    texts: Sequence[Text],
    entities: Sequence[Sequence[Entity]],
    title: str = "Entities",
    types: Iterable[str] = (),
) -> str:
    """A page that needs no other file: one article a text, a legend, and all entities as a table.

    A type's colour is that of its name. Copied text is without labels and scores.

    Args:
        texts: What was tagged.
        entities: The entities of each text, as `predict` returns them.
        title: Heading of the page.
        types: Names of types to tell apart though they do not occur, such as all of a model's:
            those of one colour then have the same outline on each page.

    Returns:
        HTML in which every character of the texts, labels and title is escaped.

    Raises:
        ValueError: The numbers of texts and entity lists differ, or entities overlap or leave
            their text.
    """
    documents = [cut(text, found) for text, found in _pairs(texts, entities)]
    counts = Counter(str(entity["label"]) for found in entities for entity in found)
    styles = colours([*counts, *types])
    articles = "\n".join(
        f'<article dir="auto" lang="">{"".join(_html_piece(*piece, styles) for piece in pieces)}'
        "</article>"
        for pieces in documents
    )
    rows = [
        (number, text, entity["label"], "" if (x := entity.get("score")) is None else f"{x:.3f}")
        for number, pieces in enumerate(documents, 1)
        for text, entity in pieces
        if entity is not None
    ]
    table = html_table("Entities as a table", ("text", "entity", "type", "probability"), rows)
    found_styles = {label: style for label, style in styles.items() if counts[label]}
    return page(title, legend(found_styles, counts), articles, table)


def page(title: str, legend: str, articles: str, table: str, style: str = "") -> str:
    """A page that needs no other file.

    Args:
        title: Its heading.
        legend: Items of a list, in HTML.
        articles: What it shows, in HTML.
        table: The same as a table, in HTML.
        style: Further rules of its style sheet, in CSS.
    """
    fonts = ", ".join(f'"{font}"' for font in FONTS)
    parts = {"legend": legend, "articles": articles, "table": table, "style": style}
    parts |= {"light": LIGHT, "dark": DARK, "marks": MARKS.strip()}
    return _PAGE.format(title=escape_line(title), fonts=fonts, **parts)


def legend(styles: Mapping[str, Colour], counts: Mapping[str, int] | None = None) -> str:
    """Items of a page's legend, in HTML.

    Args:
        styles: The colour of each label.
        counts: How often each occurs.
    """
    return "".join(
        f'<li><mark style="{style.css}"><bdi>{escape_line(label)}</bdi></mark>'
        f"{f' {counts[label]}' if counts else ''}</li>"
        for label, style in styles.items()
    )


def html_table(summary: str, header: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """What a page shows by colours and on pointing, as a table that opens on a click or a key.

    Args:
        summary: What it holds.
        header: Names of its columns.
        rows: The cells of each row.

    Returns:
        HTML in which every cell is escaped; nothing without rows.
    """
    lines = ["".join(f"<td><bdi>{escape_line(cell)}</bdi></td>" for cell in row) for row in rows]
    if not lines:
        return ""
    names = "".join(f'<th scope="col"><bdi>{escape_line(name)}</bdi></th>' for name in header)
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return (
        f"<details><summary>{summary}</summary>\n<table>\n<thead><tr>{names}</tr></thead>\n"
        f'<tbody lang="">\n{body}\n</tbody>\n</table></details>'
    )


def open_mark(entity: Entity, style: Colour) -> str:
    """The tag before an entity's text; its label and score are shown, and stay out of copies."""
    label = escape_line(entity["label"])
    score = entity.get("score")
    tip = "" if score is None else f' title="{label}, probability {score:.3f}"'
    shown = label if score is None else f"{label}\N{NO-BREAK SPACE}{score:.2f}"
    return f'<mark style="{style.css}"{tip} data-label="{shown}">'


def to_ansi(
    texts: Sequence[Text],
    entities: Sequence[Sequence[Entity]],
    types: Iterable[str] = (),
) -> str:
    """The texts with ANSI colours, one after the other, each entity followed by its label.

    Args:
        texts: What was tagged.
        entities: The entities of each text, as `predict` returns them.
        types: As in `to_html`.

    Raises:
        ValueError: As in `to_html`.
    """
    styles = colours([*types, *(str(entity["label"]) for found in entities for entity in found)])

    def coloured(text: str, entity: Entity | None) -> str:
        text = visible(text)
        if entity is None:
            return text
        shown = f"\x1b[{styles[str(entity['label'])].ansi}m"
        return f"{shown}{text} \x1b[1m{one_line(str(entity['label']))}\x1b[0m"

    documents = [cut(text, found) for text, found in _pairs(texts, entities)]
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


def characters(text: Text, spans: Iterable[tuple[int, int]]) -> tuple[str, list[tuple[int, int]]]:
    """The text as one string, and where spans of its units lie in it.

    Args:
        text: A string, or words that are joined by spaces.
        spans: Half-open, in characters of the string or in words.

    Raises:
        ValueError: Spans are out of order, overlap or leave the text.
    """
    units, unit = (text, "characters") if isinstance(text, str) else (list(text), "words")
    glue = "" if isinstance(text, str) else " "
    starts = list(accumulate((len(part + glue) for part in units), initial=0))
    done = 0
    places = []
    for first, after in spans:
        if not done <= first < after <= len(units):
            raise ValueError(
                f"expected entities in order, without overlap and inside the {len(units)} {unit}, "
                f"got [{first}, {after})"
            )
        places.append((starts[first], starts[after] - len(glue)))
        done = after
    return glue.join(units), places


def cut(text: Text, entities: Sequence[Entity]) -> list[tuple[str, Entity | None]]:
    """The text cut into (characters, their entity or None), in order and complete.

    Args:
        text: A string or words.
        entities: Its entities.

    Raises:
        ValueError: As in `to_html`.
    """
    joined, places = characters(text, ((entity["start"], entity["end"]) for entity in entities))
    pieces: list[tuple[str, Entity | None]] = []
    done = 0
    for entity, (start, end) in zip(entities, places, strict=True):
        pieces += [(joined[done:start], None), (joined[start:end], entity)]
        done = end
    return [*pieces, (joined[done:], None)]


def _html_piece(text: str, entity: Entity | None, styles: Mapping[str, Colour]) -> str:
    if entity is None:
        return escape(text)
    return f"{open_mark(entity, styles[str(entity['label'])])}{escape(text)}</mark>"


def escape(text: str) -> str:
    """A text as HTML in which nothing acts and every character is visible."""
    return html.escape(visible(text), quote=True)


def escape_line(text: object) -> str:
    """A label or a title as `escape` shows it, in one line."""
    return html.escape(one_line(str(text)), quote=True)
