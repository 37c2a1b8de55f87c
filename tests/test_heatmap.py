"""The pictures of uncertainty show the numbers and every word, and let no text act; suggest.py."""

from __future__ import annotations

import json
import re
import struct
from html.parser import HTMLParser

import pytest
import torch
from tiny import error_of, save_tiny_bert, sentences
from transformers import AutoTokenizer

from hf_semicrf import SemiCRFForTokenClassification, prepare_tokenizer
from hf_semicrf.cli import suggest
from hf_semicrf.reporting.colours import colours
from hf_semicrf.reporting.heatmap import plot_uncertainty, uncertainty_page
from hf_semicrf.results import Prediction

TYPES = ("O", "LOC", "PER")
HOSTILE = ["<script>alert(1)</script>", '"><b>', "</div>", "{title}", "\u202e"]


def prediction(words, text=None, entities=(), seed=0):
    """A prediction with random posteriors."""
    torch.manual_seed(seed)
    token = torch.rand(len(words), 3).softmax(-1)
    places, at = [], 0
    for n, word in enumerate(words):
        places.append((at, at + len(word)) if text else (n, n + 1))
        at += len(word) + 1
    return Prediction(text or words, list(entities), places, TYPES, token, token / 2, token / 4,
                      1.5, [])  # fmt: skip


class Words(HTMLParser):
    """Collects the tags, the words, and the articles' texts: what a browser copies from them."""

    def __init__(self):
        super().__init__()
        self.words, self.texts, self.tags, self.open, self.figures = [], [], [], [], []
        self.ways = []

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        self.tags.append(tag)
        self.open.append((tag, named.get("class", "")))
        if tag == "article":
            self.texts.append("")
            self.ways.append(named["dir"])
        if self.open[-1][1].startswith("word"):
            self.words.append("")
            self.figures.append([float(x) for x in re.findall(r"--p\d+:([\d.]+)", named["style"])])

    def handle_endtag(self, tag):
        while self.open and self.open.pop()[0] != tag:
            pass

    def handle_data(self, data):
        if any(tag == "article" for tag, _ in self.open):
            self.texts[-1] += data
        if self.open and self.open[-1][1].startswith("word"):
            self.words[-1] += data


def read(page):
    reader = Words()
    reader.feed(page)
    return reader


def test_the_page_shows_every_word_and_its_posteriors():
    entity = {"label": "PER", "score": 0.75, "start": 1, "end": 3, "text": "unused"}
    p = prediction(["We", "saw", "Ada", "!"], entities=[entity])
    page = uncertainty_page([p, prediction(["Oslo"], text="Oslo")], title="<i>Doubt</i>")
    reader = read(page)
    assert reader.words == ["We", "saw", "Ada", "!", "Oslo"]
    assert reader.texts == ["We saw Ada !", "Oslo"]
    assert "&lt;i&gt;Doubt" in page and "http" not in page
    shown = torch.tensor(reader.figures[:4])
    bounds = torch.stack([p.start[:, 1:].sum(1), p.end[:, 1:].sum(1)], 1)
    assert torch.allclose(shown, torch.cat([p.token[:, 1:], bounds], 1), atol=6e-4)
    columns = re.findall(r"hsl\((\d+) 75% 40% / var\(--p(\d)\)\) 50%, hsl", page)
    hues = [str(style.hue) for style in colours(TYPES[1:]).values()]
    assert columns == list(zip(hues, "01", strict=True))
    assert "var(--p2)) 50%, rgb(from var(--ink) r g b / var(--p3)) 50%)" in page
    [marked] = re.findall(r'<mark [^>]*data-label="PER\N{NO-BREAK SPACE}0.75">(.*?)</mark>', page)
    assert re.sub("<.*?>", "", marked) == "saw Ada"
    assert page.count("Entropy 1.50 nats") == 2


def test_a_table_says_what_pointing_shows():
    p = prediction(["saw", "<i>"])
    table = uncertainty_page([p]).split("<details>")[1]
    header, *rows = [re.findall(r"<bdi>(.*?)</bdi>", row) for row in table.split("<tr>")[1:]]
    assert header == ["text", "word", "LOC", "PER", "starts", "ends"]
    assert [row[:2] for row in rows] == [["1", "saw"], ["1", "&lt;i&gt;"]]
    assert [[float(x) for x in row[2:4]] for row in rows] == [
        pytest.approx(row, abs=6e-4) for row in p.token[:, 1:].tolist()
    ]


def test_the_page_reads_to_where_each_text_does():
    hebrew = "דוד לוי, Google Israel."
    page = uncertainty_page(
        [prediction(["דוד", "לוי", "Google", "7"], text=None), prediction(["Ada", "ארגון", "7"])]
    )
    assert read(page).ways == ["rtl", "ltr"]
    assert re.findall(r'<section dir="(\w+)"', page) == ["rtl", "ltr"]
    # the half of a word's cell that it starts with; numbers are as their text is
    words = re.findall(r'class="word (\w+)"', page)
    assert words == ["rtl", "rtl", "ltr", "rtl", "ltr", "rtl", "ltr"]
    spans = [(m.start(), m.end()) for m in re.finditer(r"\w+|[^\w\s]", hebrew)]
    placed = prediction([hebrew[a:b] for a, b in spans], text=hebrew)
    placed.words[:] = spans
    assert read(uncertainty_page([placed])).texts == [hebrew]


def test_no_text_acts_on_the_page():
    reader = read(uncertainty_page([prediction(HOSTILE), prediction(HOSTILE, " ".join(HOSTILE))]))
    visible = [word.replace("\u202e", "\ufffd") for word in HOSTILE]
    assert reader.words == visible * 2
    assert reader.texts == [" ".join(visible)] * 2
    assert "script" not in reader.tags


def test_the_picture_grows_with_the_text(tmp_path):
    pytest.importorskip("matplotlib")
    entity = {"label": "LOC", "score": 0.5, "start": 0, "end": 3, "text": "unused"}
    heights = []
    for count in (3, 60):
        path = tmp_path / f"{count}.png"
        plot_uncertainty([prediction(["$x^$"] * count, entities=[entity])], path)
        data = path.read_bytes()
        assert data.startswith(b"\x89PNG")
        heights.append(struct.unpack(">I", data[20:24])[0])
    assert heights[1] > 3 * heights[0]
    rounded = prediction(["Oslo"])
    rounded.start[0] = torch.tensor([0.0, 0.6, 0.4000002])  # more than 1 in all
    plot_uncertainty([rounded], tmp_path / "rounded.png")
    with pytest.raises(ValueError, match="at least one text with words"):
        plot_uncertainty([], tmp_path / "none.png")


@pytest.mark.parametrize("by", ["total", "word"])
def test_suggestions_come_in_the_order_of_their_entropy(by, tmp_path, capsys):
    tokens = [row["tokens"] for row in sentences(12)]
    torch.manual_seed(0)
    bert = save_tiny_bert(tmp_path / "bert")
    model = SemiCRFForTokenClassification.from_pretrained(
        bert, labels=["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    )
    model.save_pretrained(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(bert)
    tokenizer.save_pretrained(tmp_path / "model")
    rows = [{"id": number, "tokens": words} for number, words in enumerate([*tokens, []])]
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows) + "broken\n")
    out = tmp_path / "out.jsonl"
    arguments = [str(tmp_path / "model"), "--file", str(file), "--by", by, "--number", "5"]
    suggest.main([*arguments, "--output", str(out)])
    assert "texts.jsonl, line 14: " in capsys.readouterr().err
    found = [json.loads(line) for line in out.read_text().splitlines()]
    predictions = model.analyze(tokens, prepare_tokenizer(tokenizer))
    scale = [len(words) if by == "word" else 1 for words in tokens]
    doubts = sorted((p.entropy / n for p, n in zip(predictions, scale, strict=True)), reverse=True)
    own = [row["entropy"] / (row["words"] if by == "word" else 1) for row in found]
    assert own == pytest.approx(doubts[:5], abs=1e-3)
    assert all(row["tokens"] == tokens[row["id"]] and "entities" in row for row in found)
    suggest.main([*arguments, "--format", "html", "--output", str(tmp_path / "out.html")])
    assert (tmp_path / "out.html").read_text().count("<article") == 5
    assert "at least 1, got '0'" in error_of(suggest.main, *arguments[:-1], "0")
