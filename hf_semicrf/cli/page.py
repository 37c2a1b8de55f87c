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
  [...element.querySelectorAll('[data-span]')].find((b) => b.dataset.span === last)?.focus();
  last = undefined;
});
"""
_STYLE = """
textarea { unicode-bidi: plaintext; text-align: start; }
h1 { font-size: 1.3rem; font-weight: 600; overflow-wrap: anywhere; }
"""
# Gradio's own orange leaves white words with little contrast, its own bold font lacks letters
_THEME = gr.themes.Default(primary_hue="zinc", font=["system-ui", "sans-serif"])
# nothing is shared, kept in the browser or rendered by a process of its own
LAUNCH: dict[str, Any] = {"share": False, "run_history": False, "ssr_mode": False}
LAUNCH |= {"quiet": True, "prevent_thread_lock": True}
LAUNCH |= {"theme": _THEME, "css": _STYLE, "footer_links": []}


def page(annotator: Annotator, name: str) -> gr.Blocks:
    """A page that tags a text, takes corrections and saves what comes of them.

    Args:
        annotator: What finds and saves.
        name: What the page calls the model.
    """

    def shown(text: str, corrections: list, threshold: float, recall: float) -> tuple:
        with _said():
            found = annotator.find(text, corrections, threshold, recall or None)
        html = corrections_html(text, found.entities, corrections, found.candidates, types)
        return {"text": text, "corrections": corrections, "entities": found.entities}, html, ""

    def tag(text: str, threshold: float, recall: float) -> tuple:
        result = shown(text, [], threshold, recall)
        words = [(f"{n} {text[a:b]}", a, b) for n, (a, b) in enumerate(annotator.words(text), 1)]
        starts = gr.Dropdown(choices=[(word, start) for word, start, _ in words], value=None)
        ends = gr.Dropdown(choices=[(word, end) for word, _, end in words], value=None)
        return *result, starts, ends

    def again(state: dict, threshold: float, recall: float) -> tuple:
        return shown(state["text"], state["corrections"], threshold, recall)

    def press(state: dict, threshold: float, recall: float, event: gr.EventData) -> tuple:
        corrections = corrected(state["corrections"], event._data)
        result = shown(state["text"], corrections, threshold, recall)
        return *result, event.start, event.end, event.label

    def fix(
        state: dict, threshold: float, recall: float, start: Any, end: Any, label: Any
    ) -> tuple:
        if None in (start, end, label) or end <= start:
            raise gr.Error("expected a first word, a last word not before it, and a type")
        span = {"start": start, "end": end, "label": label}
        others = [known for known in state["corrections"] if known != span]
        return shown(state["text"], corrected(others, span), threshold, recall)

    def save(state: dict) -> str:
        with _said():
            count = annotator.save(state["text"], state["entities"])
        return f"Saved. Texts in {escape_line(annotator.output)}: {count}"

    types, recalls = annotator.types, annotator.recalls
    with gr.Blocks(analytics_enabled=False, title=f"hf-semicrf serve {name}") as blocks:
        state = gr.State({"text": "", "corrections": [], "entities": []})
        gr.HTML(f"<h1><bdi>{escape_line(name)}</bdi></h1>")
        text = gr.Textbox(label="Text", lines=4)
        button = gr.Button("Tag", variant="primary")
        what = "Threshold: the probability that an entity has to exceed"
        threshold = gr.Slider(0, 1, round(annotator.threshold, 2), step=0.01, label=what)
        choices, what = [(str(r), r) for r in recalls], "Further candidates at a promised recall of"
        recall = gr.Radio([("none", 0), *choices], value=0, label=what, visible=bool(recalls))
        article = gr.HTML(
            css_template=CORRECTIONS_STYLE, js_on_load=_LISTEN, apply_default_css=False
        )
        with gr.Row():
            start = gr.Dropdown([], label="From word")
            end = gr.Dropdown([], label="to word")
            label = gr.Dropdown([*types, ("no entity", "O")], value=types[0], label="Type")
            add = gr.Button("Fix these words")
        with gr.Row():
            keep = gr.Button("Save", variant="primary")
            status = gr.HTML("", html_template='<p role="status">${value}</p>')
        how: dict[str, Any] = {"concurrency_id": "model", "api_visibility": "private"}
        rule, result = [threshold, recall], [state, article, status]
        button.click(tag, [text, *rule], [*result, start, end], **how)
        for control in rule:
            control.change(again, [state, *rule], result, trigger_mode="always_last", **how)
        how["trigger_mode"] = "multiple"
        article.select(press, [state, *rule], [*result, start, end, label], **how)
        start.input(
            lambda state, at: dict(annotator.words(state["text"])).get(at), [state, start], end
        )
        add.click(fix, [state, *rule, start, end, label], result, **how)
        keep.click(save, state, status, **how)
    return blocks


@contextmanager
def _said() -> Iterator[None]:
    """Show what was not as expected."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        raise gr.Error(escape_line(error), print_exception=False) from error
