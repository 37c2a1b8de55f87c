"""The page of `hf-semicrf serve`, in Gradio; imported where it is shown."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gradio as gr

from hf_semicrf.integrations import Annotator, corrected
from hf_semicrf.reporting import CORRECTIONS_STYLE, corrections_html, escape_line

# A button is named by what it does, so that the focus finds it in the next version of the text.
_LISTEN = """
let last;
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-span]');
  if (button) { last = button.dataset.span; trigger('select', JSON.parse(last)); }
});
watch('value', () => {
  const same = [...element.querySelectorAll('[data-span]')].find((b) => b.dataset.span === last);
  if (same) same.focus();
  last = undefined;
});
"""
_STYLE = """
textarea { unicode-bidi: plaintext; text-align: start; }
h1 { font-size: 1.3rem; font-weight: 600; overflow-wrap: anywhere; }
"""
# orange, Gradio's own, leaves white words with little contrast
LOOK = {"css": _STYLE, "theme": gr.themes.Default(primary_hue="zinc")}


def page(annotator: Annotator, name: str) -> gr.Blocks:
    """A page that tags a text, takes corrections and saves what comes of them.

    Args:
        annotator: What finds and saves.
        name: What the page calls the model.
    """

    def shown(text: str, corrections: list, threshold: float, recall: float | None) -> tuple:
        with _said():
            found = annotator.find(text, corrections, threshold, recall or None)
        state = {"text": text, "corrections": corrections, "entities": found.entities}
        article = corrections_html(text, found.entities, corrections, found.candidates, types)
        return state, article, ""

    def tag(text: str, threshold: float, recall: float | None) -> tuple:
        words = annotator.splitter.spans(text)
        choices = [(f"{n} {text[start:end]}", n) for n, (start, end) in enumerate(words, 1)]
        empty = gr.Dropdown(choices=choices, value=None)
        return *shown(text, [], threshold, recall), empty, empty

    def again(state: dict, threshold: float, recall: float | None) -> tuple:
        return shown(state["text"], state["corrections"], threshold, recall)

    def press(state: dict, threshold: float, recall: float | None, event: gr.EventData) -> tuple:
        result = shown(
            state["text"], corrected(state["corrections"], event._data), threshold, recall
        )
        words = annotator.splitter.spans(state["text"])
        first = [start for start, _ in words].index(event.start) + 1
        last = [end for _, end in words].index(event.end) + 1
        return *result, first, last, event.label

    def fix(
        state: dict, threshold: float, recall: float | None, first: Any, last: Any, label: Any
    ) -> tuple:
        if not (first and last and label and first <= last):
            raise gr.Error("expected a first word, a last word not before it, and a type")
        words = annotator.splitter.spans(state["text"])
        span = {"start": words[first - 1][0], "end": words[last - 1][1], "label": label}
        corrections = [c for c in state["corrections"] if c != span]
        return shown(state["text"], corrected(corrections, span), threshold, recall)

    def save(state: dict) -> str:
        with _said():
            count = annotator.save(state["text"], state["entities"])
        return f"Saved. Texts in {escape_line(annotator.output)}: {count}"

    types = annotator.types
    with gr.Blocks(analytics_enabled=False, title=f"hf-semicrf serve {name}") as blocks:
        state = gr.State({"text": "", "corrections": [], "entities": []})
        gr.HTML(f"<h1><bdi>{escape_line(name)}</bdi></h1>")
        text = gr.Textbox(label="Text", lines=4)
        button = gr.Button("Tag", variant="primary")
        threshold = gr.Slider(
            0, 1, round(annotator.threshold, 2), step=0.01,
            label="Threshold: the probability that an entity has to exceed",
        )  # fmt: skip
        recall = gr.Radio(
            [("none", 0), *((str(recall), recall) for recall in annotator.recalls)], value=0,
            label="Further candidates at a promised recall of", visible=bool(annotator.recalls),
        )  # fmt: skip
        article = gr.HTML(
            css_template=CORRECTIONS_STYLE, js_on_load=_LISTEN, apply_default_css=False
        )
        with gr.Row():
            first = gr.Dropdown([], label="From word")
            last = gr.Dropdown([], label="to word")
            label = gr.Dropdown([*types, ("no entity", "O")], value=types[0], label="Type")
            add = gr.Button("Fix these words")
        with gr.Row():
            keep = gr.Button("Save", variant="primary")
            status = gr.HTML("", html_template='<p role="status">${value}</p>')
        how: dict[str, Any] = {"concurrency_id": "model", "trigger_mode": "multiple"}
        how |= {"api_visibility": "private"}
        rule, result = [threshold, recall], [state, article, status]
        gr.on([button.click, text.submit], tag, [text, *rule], [*result, first, last], **how)
        for control in rule:
            control.change(again, [state, *rule], result, **how | {"trigger_mode": "always_last"})
        article.select(press, [state, *rule], [*result, first, last, label], **how)
        first.input(lambda number: number, first, last, **how)
        add.click(fix, [state, *rule, first, last, label], result, **how)
        keep.click(save, state, status, **how)
    return blocks


@contextmanager
def _said() -> Iterator[None]:
    """Show what was not as expected."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        raise gr.Error(escape_line(error), print_exception=False) from error
