"""The page and the terminal text keep every character, and let none of it act."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from hf_semicrf.reporting.visualize import to_ansi, to_html

HOSTILE = '<script>alert("1")</script> & O\'Neil </mark></article><img src=x onerror=y> {title}'


class Reader(HTMLParser):
    """Collects the tags, and the text of the articles without the labels."""

    def __init__(self):
        super().__init__()
        self.tags, self.text, self.open = [], "", []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.open.append(tag)

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        if "article" in self.open and self.open[-1] != "small":
            self.text += data


def read(page):
    reader = Reader()
    reader.feed(page)
    return reader


def entity(label, start, end, score=0.9):
    return {"label": label, "score": score, "start": start, "end": end, "text": "unused"}


def test_every_character_of_the_text_is_escaped():
    spans = [entity('"><b>', 0, 8), entity("x", 8, 20), entity("y", 40, len(HOSTILE))]
    page = read(to_html([HOSTILE], [spans], title=HOSTILE))
    assert page.text == HOSTILE
    assert not {"script", "img", "b"} & set(page.tags)
    assert page.tags.count("mark") == 3 + 3  # three entities, three types in the legend
    assert page.tags.count("article") == 1


def test_one_colour_a_type_and_a_legend_with_counts():
    entities = [[entity("PER", 0, 1), entity("LOC", 2, 3)], [entity("PER", 0, 1)]]
    page = to_html(["a b", "c"], entities)
    hues = dict(re.findall(r'<mark style="--hue:(\d+)">(\w+)</mark> \d', page))
    assert len(hues) == 2
    assert re.findall(r"</mark> (\d)</li>", page) == ["1", "2"]  # LOC, PER
    per = next(hue for hue, label in hues.items() if label == "PER")
    assert len(re.findall(rf'--hue:{per}" title', page)) == 2
    assert "prefers-color-scheme: dark" in page
    assert "http" not in page  # nothing is fetched


def test_words_are_joined_by_spaces():
    words = ["Amelia", "Earhart", "flew"]
    assert read(to_html([words], [[entity("PER", 0, 2)]])).text == "Amelia Earhart flew"
    plain = re.sub(r"\x1b\[[\d;]*m", "", to_ansi([words], [[entity("PER", 0, 2)]]))
    assert plain == "Amelia Earhart PER flew"


def test_a_terminal_is_not_steered_by_the_text():
    shown = to_ansi(["a\x1b[2Jb\rc\u202ed"], [[entity("PER", 0, 1)]])
    assert re.sub(r"\x1b\[[\d;]*m", "", shown) == "a PER\u241b[2Jb\u240dc\ufffdd"
    assert shown.count("\x1b[0m") == 1


def test_no_entities_and_no_text():
    assert read(to_html(["", "plain"], [[], []])).text == "plain"
    assert to_ansi(["plain\n\ttext"], [[]]) == "plain\n\ttext"


@pytest.mark.parametrize(
    "spans", [[(0, 9)], [(-1, 2)], [(2, 2)], [(0, 3), (2, 4)], [(3, 4), (0, 1)]], ids=str
)
def test_spans_outside_or_on_one_another_are_refused(spans):
    entities = [[entity("PER", *span) for span in spans]]
    with pytest.raises(ValueError, match="without overlap and inside the 5 characters"):
        to_html(["hello"], entities)


def test_each_text_needs_its_entities():
    with pytest.raises(ValueError, match="as many lists"):
        to_ansi(["one", "two"], [[]])
    with pytest.raises(ValueError, match="a string"):
        to_html("one", [[], [], []])
