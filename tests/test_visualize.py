"""The page and the terminal text keep every character, and let none of it act."""

from __future__ import annotations

import colorsys
import re
import sys
import unicodedata
from html.parser import HTMLParser

import pytest

from hf_semicrf.reporting.colours import HUES, colours
from hf_semicrf.reporting.visualize import to_ansi, to_html
from hf_semicrf.text import visible

NAMES = [f"T{n}" for n in range(40)]
HOSTILE = '<script>alert("1")</script> & O\'Neil </mark></article><img src=x onerror=y> {title}'


class Reader(HTMLParser):
    """Collects the tags, and the text of the articles: what a browser copies from them."""

    def __init__(self):
        super().__init__()
        self.tags, self.text, self.open, self.attributes = [], "", [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        if "article" in self.open:
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
    assert not any(name.startswith("on") for _, named in page.attributes for name in named)
    assert page.tags.count("mark") == 3 + 3  # three entities, three types in the legend
    assert page.tags.count("article") == 1


def test_one_colour_a_type_and_a_legend_with_counts():
    entities = [[entity("PER", 0, 1), entity("LOC", 2, 3)], [entity("PER", 0, 1)]]
    page = to_html(["a b", "c"], entities)
    hues = dict(re.findall(r'<li><mark style="--hue:(\d+)"><bdi>(\w+)</bdi></mark> \d', page))
    assert len(hues) == 2
    assert re.findall(r"</mark> (\d)</li>", page) == ["1", "2"]  # LOC, PER
    per = next(hue for hue, label in hues.items() if label == "PER")
    assert len(re.findall(rf'--hue:{per}" title', page)) == 2
    assert "prefers-color-scheme: dark" in page
    assert "http" not in page  # nothing is fetched


def styles_on(page):
    """The style of each label in a page's legend."""
    legend = re.findall(r'<li><mark style="([^"]+)"><bdi>(\w+)</bdi>', page)
    return {label: style for style, label in legend}


def test_a_type_has_one_colour_on_every_page():
    alone = {name: styles_on(to_html(["ab"], [[entity(name, 0, 2)]]))[name] for name in NAMES}
    text, spans = (
        " ".join(["ab"] * 40),
        [entity(name, 3 * n, 3 * n + 2) for n, name in enumerate(NAMES)],
    )
    together = styles_on(to_html([text], [spans]))
    assert list(together) == sorted(NAMES)
    assert {name: style.split(";")[0] for name, style in together.items()} == alone
    assert len(set(alone.values())) == len(HUES)
    # more types than colours stay apart, by an outline
    assert len(set(together.values())) == len(NAMES)
    # and the pages of one model, which says its types, give each type the same outline
    some = styles_on(to_html(["ab"], [[entity("T7", 0, 2)]], types=NAMES))
    assert some == {"T7": together["T7"]}


def test_types_of_well_known_corpora_are_told_apart_by_colour_alone():
    for names in ("PER LOC ORG MISC", "Chemical Disease", "PERSON ORG GPE DATE LOC NORP"):
        styles = colours(names.split())
        assert len({style.hue for style in styles.values()}) == len(styles)
        assert not any(style.rank for style in styles.values())


def test_a_thousand_types_stay_apart():
    styles = colours(f"T{n}" for n in range(1000)).values()
    assert len({style.css for style in styles}) == 1000
    assert len({style.ansi for style in colours(f"T{n}" for n in range(200)).values()}) == 200
    assert colours(["\ud800"])


def luminance(rgb):
    """Relative luminance as WCAG 2 defines it, of red, green and blue in 0..1."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def of_hex(digits):
    return [int(digits[n : n + 2], 16) / 255 for n in (0, 2, 4)]


def test_text_stands_out_from_each_colour_in_both_schemes():
    page = to_html(["a"], [[entity("PER", 0, 1)]])
    assert "opacity" not in page
    light, dark = re.findall(r":root \{(.*?)\}", page, re.DOTALL)
    assert "background: hsl(var(--hue) var(--fill)); color: var(--ink)" in page
    for scheme in (light, dark):
        named = {name: of_hex(x) for name, x in re.findall(r"--(\w+): #(\w{6})", scheme)}
        assert contrast(named["ink"], named["page"]) > 7
        assert contrast(named["faint"], named["page"]) > 4.5
        saturation, lightness = re.search(r"--fill: (\d+)% (\d+)%", scheme).groups()
        for hue in HUES:
            fill = colorsys.hls_to_rgb(hue / 360, int(lightness) / 100, int(saturation) / 100)
            assert contrast(named["ink"], fill) > 4.5


def test_text_stands_out_from_each_colour_in_a_terminal():
    def rgb(number):  # of the 256 colours, those of the cube
        levels = (0, 95, 135, 175, 215, 255)
        return [levels[(number - 16) // step % 6] / 255 for step in (36, 6, 1)]

    for style in colours(f"T{n}" for n in range(400)).values():
        ink, back = re.search(r"38;5;(\d+);48;5;(\d+)$", style.ansi).groups()
        assert contrast(rgb(int(ink)), rgb(int(back))) > 4.5


def test_labels_and_scores_are_shown_outside_the_text():
    page = to_html(["Ada saw it"], [[entity("PER", 0, 3, 0.987)]])
    reader = read(page)
    assert reader.text == "Ada saw it"
    [mark] = [a for tag, a in reader.attributes if tag == "mark" and "data-label" in a]
    assert mark["data-label"] == "PER\N{NO-BREAK SPACE}0.99"
    assert "mark[data-label]::after { content: attr(data-label)" in page
    assert re.search(r"ul, summary[^{]*\{[^}]*user-select: none", page)


def test_a_table_says_what_pointing_shows():
    texts = ["Ada & Bo", ["Oslo", "is", "far"]]
    entities = [[entity("PER", 0, 3, 0.9876), entity("<b>", 6, 8, 0.5)], [{**entity("LOC", 0, 1)}]]
    del entities[1][0]["score"]
    table = to_html(texts, entities).split("<details>")[1]
    rows = [re.findall(r"<bdi>(.*?)</bdi>", row) for row in table.split("<tr>")[1:]]
    assert rows == [
        ["text", "entity", "type", "probability"],
        ["1", "Ada", "PER", "0.988"],
        ["1", "Bo", "&lt;b&gt;", "0.500"],
        ["2", "Oslo", "LOC", ""],
    ]
    assert "<summary>" in table  # opens by keyboard too
    assert "<table" not in to_html(["none"], [[]])


def test_a_page_reads_to_where_its_text_does():
    page = to_html(["שלום Ada"], [[entity("ארגון", 5, 8)]], title="שמות")
    attributes = read(page).attributes
    assert [a for tag, a in attributes if tag == "article"] == [{"dir": "auto", "lang": ""}]
    assert ("h1", {"dir": "auto"}) in attributes
    assert "unicode-bidi: plaintext" in page  # of paragraphs, and of labels with their scores
    assert "<bdi>ארגון</bdi>" in page
    assert '<meta charset="utf-8">' in page
    for script in ("Arabic", "Hebrew", "Devanagari", "Thai", "CJK SC"):
        assert f'"Noto Sans {script}"' in page


SHAPING = ["\u00ad", "\u200c", "\u200d", "\ufe0e", "\ufe0f", "\U000e0100", "\u180b"]
ENGLAND = "\U0001f3f4" + "".join(chr(0xE0000 + ord(c)) for c in "gbeng") + "\U000e007f"


def test_what_is_not_seen_has_a_sign():
    listed = "\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200b\u2060"
    listed += "\ufeff\u034f\u115f\u3164\u2028\u2029\x85\x9b\U000e0041\ud800"
    for character in listed:
        text = f"a{character}b"
        assert read(to_html([text], [[entity("X", 0, 3)]])).text == "a\ufffdb"
        assert "a\ufffdb" in to_ansi([text], [[]])
        both = (
            to_html(["ab"], [[entity(text, 0, 2)]], title=text),
            to_ansi(["ab"], [[entity(text, 0, 2)]]),
        )
        for shown in both:
            assert character not in shown and "a\ufffdb" in shown
    for shaping in [*SHAPING, ENGLAND, "\u0600"]:
        assert (
            read(to_html([f"a{shaping}b"], [[]])).text
            == f"a{shaping}b"
            == to_ansi([f"a{shaping}b"], [[]])
        )


def test_no_control_or_format_character_is_left_unseen():
    drawn = {*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD}  # numbers
    drawn |= set(range(0x13430, 0x13440))  # joiners of hieroglyphs
    kept = {ord(c) for c in (*SHAPING, "\t", "\n")} | drawn
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp"):
            assert (visible(character) == character) == (code in kept), hex(code)
            assert len(visible(character)) == 1


def test_a_label_stays_on_its_line():
    shown = to_ansi(["ab"], [[entity("A\n\tB\x1b[0m", 0, 2)]])
    assert re.sub(r"\x1b\[[\d;]*m", "", shown) == "ab A B\u241b[0m"
    assert 'data-label="A B\u241b[0m' in to_html(["ab"], [[entity("A\n\tB\x1b[0m", 0, 2)]])


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
