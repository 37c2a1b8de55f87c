"""A text with its entities, and buttons that fix or forbid them, for a page that listens to them.

A button's ``data-span`` is the correction that it makes, and takes back, in JSON; ``aria-pressed``
says whether it is made.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hf_semicrf.labels import OUTSIDE
from hf_semicrf.reporting.colours import colours
from hf_semicrf.reporting.fonts import FONTS
from hf_semicrf.reporting.visualize import (
    DARK,
    LIGHT,
    MARKS,
    Entity,
    cut,
    escape,
    escape_line,
    open_mark,
)

FIX, FORBID = "✓", "✗"

# nested in the rule of the element that holds the article
CORRECTIONS_STYLE = f"""
{LIGHT} color: var(--ink); overflow-wrap: anywhere;
font: 17px/2.1 system-ui, sans-serif, {", ".join(f"'{font}'" for font in FONTS)};
.dark & {{ {DARK} }}
{MARKS}
ul {{ list-style: none; padding: 0; margin: 0; }}
h2 {{ color: var(--faint); font-size: .9rem; font-weight: 600; margin: .6rem 0 0; }}
.buttons {{ white-space: nowrap; margin-inline: .1rem .3rem; }}
button {{ min-width: 1.7rem; min-height: 1.7rem; margin-inline-start: .25rem; padding: 0;
  border: 1px solid var(--faint); border-radius: .3em; background: none; color: var(--ink);
  font-size: .8rem; line-height: 1; vertical-align: middle; cursor: pointer; user-select: none; }}
button[aria-pressed=true] {{ background: var(--ink); color: var(--page); }}
button:focus-visible {{ outline: 3px solid var(--ink); outline-offset: 2px; }}
"""


def corrections_html(
    text: str,
    entities: Sequence[Entity],
    corrections: Sequence[Mapping[str, Any]],
    candidates: Iterable[Entity] = (),
    types: Iterable[str] = (),
) -> str:
    """An article of the text, and lists of further candidates and of what is forbidden.

    Args:
        text: What was tagged.
        entities: Its entities, as `predict` returns them.
        corrections: What was fixed and forbidden, as `predict` takes constraints.
        candidates: Segments that may be entities too.
        types: As in `to_html`.

    Returns:
        HTML in which every character of the text and the labels is escaped.

    Raises:
        ValueError: Entities overlap or leave the text.
    """
    styles = colours([*types, *(str(entity["label"]) for entity in [*entities, *candidates])])

    def shown(entity: Entity, *signs: str) -> str:
        words = escape(text[entity["start"] : entity["end"]])
        if entity["label"] != OUTSIDE:
            words = f"{open_mark(entity, styles[str(entity['label'])])}{words}</mark>"
        buttons = "".join(_button(text, entity, sign, corrections) for sign in signs)
        return f'{words}<span class="buttons">{buttons}</span>'

    article = "".join(
        escape(part) if entity is None else shown(entity, FIX, FORBID)
        for part, entity in cut(text, entities)
    )
    forbidden = [shown(c, FORBID) for c in corrections if c.get("exclude")]
    forbidden += [shown(c, FIX) for c in corrections if c["label"] == OUTSIDE]
    further = [shown(entity, FIX, FORBID) for entity in candidates]
    return (
        f'<div dir="auto"><article lang="">{article}</article>'
        f"{_list('Further candidates', further)}{_list('Forbidden', forbidden)}</div>"
    )


def _button(text: str, entity: Entity, sign: str, corrections: Sequence[Mapping[str, Any]]) -> str:
    span = {name: entity[name] for name in ("start", "end", "label")}
    span |= {"exclude": True} if sign == FORBID else {}
    said = "fix" if sign == FIX else "forbid"
    name = f"{said} {text[span['start'] : span['end']]}, {span['label']}"
    return (
        f'<button type="button" aria-pressed="{str(span in corrections).lower()}" '
        f'aria-label="{escape_line(name)}" title="{said}" '
        f'data-span="{html.escape(json.dumps(span))}">{sign}</button>'
    )


def _list(title: str, items: Sequence[str]) -> str:
    rows = "".join(f'<li lang="">{item}</li>' for item in items)
    return f"<h2>{title}</h2><ul>{rows}</ul>" if items else ""
