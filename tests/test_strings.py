"""Cards, tables, plots and messages show every string as text, and what cannot be seen."""

from __future__ import annotations

import json
import re
from collections import Counter

import pytest
from huggingface_hub import ModelCard
from tiny import error_of

from hf_semicrf import SemiCRFConfig
from hf_semicrf.cli import train
from hf_semicrf.evaluation.breakdowns import breakdown
from hf_semicrf.hub import render_card
from hf_semicrf.reporting import plot_scores

LABELS = ["O", "B-PER", "I-PER"]
NAMES = [
    *("<img src=x onerror=alert(1)>", "A\n\n# Injected", "a|b", "`code`", "[x](javascript:f())"),
    *("a\u202eb\u200bc", "\x1b[31mred", "\ud800", "---\nkey: value", "{{ 7 * 7 }}", "*bold* __x__"),
    *("$x$", "![i](http://x/y.png)", "</code></pre>", "a\"b'c\\", "- item", "&lt;", "```\n# H"),
]


def marks(card):
    """What acts in the text below the front matter: each mark, those of whole lines by the line."""
    body = card.split("\n---\n", 1)[1]
    lines = re.findall(r"^(#+ |```\w*|[-=]{3}|> |[-+*] |\d+[.)] )", body, re.MULTILINE)
    outside = re.sub(r"^```.*?^```", "", body, flags=re.MULTILINE | re.DOTALL)
    return lines, Counter(re.findall(r"(?<!\\)(?:\]\(|[*`~$<|])", outside))


@pytest.mark.parametrize("name", NAMES, ids=ascii)
@pytest.mark.parametrize("adapter", [False, True])
def test_a_card_shows_every_string_as_text(name, adapter):
    config = SemiCRFConfig(labels=["O", f"B-{name}", f"I-{name}"], base_model=f"someone/{name}")
    plain = SemiCRFConfig(labels=["O", "B-X", "I-X"], base_model="someone/X")

    def card(config, name):
        names = (f"{name}_f1", "overall_f1", "overall_precision", "overall_recall")
        scores = dict.fromkeys(names, 0.5)
        return render_card(
            config, model_id=f"m/{name}", metrics=scores, split=name, entity_counts={name: 1},
            sentences={name: 2}, speed={name: name}, training={name: name}, dataset=name,
            examples=[{"text": name, "entities": [{"text": name, "label": name, "score": 1.0}]}],
            language=name, license=name, tags=[name], adapter=adapter,
        )  # fmt: skip

    text, expected = card(config, name), card(plain, "X")
    text.encode()
    assert not set("\u202e\u200b\x1b\ud800") & set(text)
    assert marks(text) == marks(expected)
    data = ModelCard(text).data.to_dict()
    assert data.keys() | {"base_model", "datasets"} == ModelCard(expected).data.to_dict().keys()
    assert data.get("datasets", "").isidentifier() or "datasets" not in data


@pytest.mark.parametrize("place", ["/home/zz/data", "~/data", "./data", "C:\\data", "file:///data"])
def test_a_path_is_no_name_in_a_card(place):
    config = SemiCRFConfig(labels=LABELS)
    config.base_model = place
    card = render_card(config, model_id=place, dataset=place, adapter=True)
    assert place not in card and json.dumps(place)[1:-1] not in card
    assert SemiCRFConfig(labels=LABELS, base_model=place).base_model is None


def test_the_plot_says_nothing_of_the_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "zz-login-zz"))
    home = tmp_path / "zz-login-zz"
    home.mkdir()
    found = breakdown([[(0, 1, "LOC")]], [[(0, 1, "LOC", 0.9)]])
    scores = {"$\\frac{$_f1": 0.5, "a\x1b$b$_f1": 0.5, "overall_f1": 0.5}
    for name in ("scores.png", "scores.svg"):
        plot_scores(home / name, found, scores)
        assert b"zz-login-zz" not in (home / name).read_bytes()


def test_messages_cannot_steer_the_terminal(tmp_path):
    name = tmp_path / "\x1b]0;owned\x07\u202e\n.jsonl"
    name.write_text('{"tokens": ["a"], "ner_tags": ["B-\\u001b[31m", "O"]}\n')
    others = ("--model_name_or_path", "x", "--output_dir", tmp_path / "out")
    error = error_of(train.main, *others, "--train_file", name)
    assert error.isprintable() and "owned" in error
