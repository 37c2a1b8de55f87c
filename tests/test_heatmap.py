"""The pictures of uncertainty show the numbers and every word, and let no text act; suggest.py."""

from __future__ import annotations

import json
import re
import struct
from html.parser import HTMLParser

import pytest
import torch
from tiny import save_tiny_bert, script, sentences
from transformers import AutoTokenizer

from hf_semicrf import SemiCRFForTokenClassification, prepare_tokenizer
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
    """Collects the tags, and the words that the page shows, without labels."""

    def __init__(self):
        super().__init__()
        self.words, self.tags, self.open = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.open.append((tag, dict(attrs).get("class", "")))
        if tag == "b" and len(self.open) > 1 and "word" in self.open[-2][1]:
            self.words.append("")

    def handle_endtag(self, tag):
        while self.open and self.open.pop()[0] != tag:
            pass

    def handle_data(self, data):
        if self.open and self.open[-1][0] == "b" and self.words:
            self.words[-1] += data


def test_the_page_shows_every_word_and_its_posteriors():
    entity = {"label": "PER", "score": 0.75, "start": 1, "end": 3, "text": "unused"}
    p = prediction(["We", "saw", "Ada", "!"], entities=[entity])
    page = uncertainty_page([p, prediction(["Oslo"], text="Oslo")], title="<i>Doubt</i>")
    reader = Words()
    reader.feed(page)
    assert reader.words == ["We", "saw", "Ada", "!", "Oslo"]
    assert "&lt;i&gt;Doubt" in page and "http" not in page
    cells = re.findall(r"--hue:(\d+);--a:([\d.]+);--b:", page)[: 2 * 4]
    shown = torch.tensor([float(a) for _, a in cells]).view(4, 2)
    assert torch.allclose(shown, p.token[:, 1:], atol=6e-4)
    bounds = re.findall(r'class="boundary" style="--a:([\d.]+);--b:([\d.]+)"', page)[:4]
    starts_ends = torch.tensor([[float(a), float(b)] for a, b in bounds])
    expected = torch.stack([p.start[:, 1:].sum(1), p.end[:, 1:].sum(1)], 1)
    assert torch.allclose(starts_ends, expected, atol=6e-4)
    marks = re.findall(r'<b class="entity([ \w]*)"[^>]*>(\w+)(<small>PER)?', page)
    assert marks == [(" first", "saw", ""), (" last", "Ada", "<small>PER")]
    assert page.count("Entropy 1.50 nats") == 2


def test_no_text_acts_on_the_page():
    reader = Words()
    reader.feed(uncertainty_page([prediction(HOSTILE), prediction(HOSTILE, " ".join(HOSTILE))]))
    visible = [word.replace("\u202e", "\ufffd") for word in HOSTILE]
    assert reader.words == visible * 2
    assert "script" not in reader.tags


def test_the_picture_grows_with_the_text(tmp_path):
    pytest.importorskip("matplotlib")
    entity = {"label": "LOC", "score": 0.5, "start": 0, "end": 3, "text": "unused"}
    heights = []
    for count in (3, 60):
        path = tmp_path / f"{count}.png"
        plot_uncertainty([prediction(["word$"] * count, entities=[entity])], path)
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
def test_suggestions_come_in_the_order_of_their_entropy(by, tmp_path):
    tokens = [row["tokens"] for row in sentences(12)]
    torch.manual_seed(0)
    bert = save_tiny_bert(tmp_path / "bert")
    model = SemiCRFForTokenClassification.from_pretrained(
        bert, labels=["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    )
    model.save_pretrained(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(bert)
    tokenizer.save_pretrained(tmp_path / "model")
    rows = [{"tokens": words} for words in [*tokens, []]]
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "out.jsonl"
    arguments = [str(tmp_path / "model"), "--file", str(file), "--by", by, "--number", "5"]
    suggest = script("suggest")
    suggest.main([*arguments, "--output", str(out)])
    found = [json.loads(line) for line in out.read_text().splitlines()]
    predictions = model.analyze(tokens, prepare_tokenizer(tokenizer))
    scale = [len(words) if by == "word" else 1 for words in tokens]
    doubts = sorted((p.entropy / n for p, n in zip(predictions, scale, strict=True)), reverse=True)
    own = [row["entropy"] / (row["words"] if by == "word" else 1) for row in found]
    assert own == pytest.approx(doubts[:5], abs=1e-3)
    assert all(row["tokens"] in tokens and "entities" in row for row in found)
    suggest.main([*arguments, "--format", "html", "--output", str(tmp_path / "out.html")])
    assert (tmp_path / "out.html").read_text().count("<article") == 5
    with pytest.raises(SystemExit, match="at least 1 sentence, got 0"):
        suggest.main([*arguments[:-1], "0"])
