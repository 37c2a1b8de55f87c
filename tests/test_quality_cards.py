"""The cards of the measured taggers: those of real training runs, with every row filled."""

from __future__ import annotations

import re

import pytest
from huggingface_hub import ModelCard
from tiny import BENCHMARKS, benchmark, save_tiny_bert, sentences, write_jsonl

FOLDER = BENCHMARKS.parent / "model_cards"


@pytest.fixture(scope="module")
def cards():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield benchmark("quality_cards")


def test_a_run_of_train_leaves_a_card_without_an_empty_row(cards, tmp_path):
    encoder, corpus = save_tiny_bert(tmp_path / "bert"), tmp_path / "data" / "wnut17"
    corpus.mkdir(parents=True)
    for name, count in (("train", 24), ("validation", 12), ("test", 12)):
        write_jsonl(corpus / f"{name}.jsonl", sentences(count))
    command = ["--encoder", encoder, "--data", corpus.parent, "--corpora", "wnut17"]
    command += ["--models", tmp_path / "models", "--out", tmp_path / "cards", "--commit", "abc"]
    cards.main([*map(str, command), "--use_cpu", "--num_train_epochs=1"])
    card = ModelCard.load(tmp_path / "cards" / "minilm-l6-wnut17.md")
    assert (card.data.license, card.data.datasets, card.data.language) == (
        "apache-2.0",
        "wnut_17",
        "en",
    )
    assert card.data.eval_results[0].dataset_name == "wnut_17"
    assert "# minilm-l6-wnut17\n" in card.text and "| PER | 16 |" in card.text
    assert "at commit abc on one" in card.text and "Types with a test F1 below 50 %:" in card.text
    picture = tmp_path / "cards" / "minilm-l6-wnut17.png"
    assert f"]({picture.name})" in card.text and picture.read_bytes()[1:4] == b"PNG"


def test_a_card_with_an_empty_row_is_refused(cards):
    text = "---\nlanguage: en\nmodel-index:\n- name: x\n  results: []\n---\n| PER | unknown |\n"
    with pytest.raises(ValueError, match=r"every row filled, got \['unknown'\] in wnut17's"):
        cards.finish(ModelCard(text), "wnut17", {}, "")


@pytest.mark.parametrize("corpus", ["ncbi_disease", "wnut17"])
def test_the_table_and_the_front_matter_have_the_same_scores(cards, corpus):
    card = ModelCard.load(FOLDER / f"{cards.name_of(corpus)}.md")
    found = {result.metric_type: result.metric_value for result in card.data.eval_results}
    (row,) = re.findall(r"^\| all \| (\S+) \| (\S+) \| (\S+) \|", card.text, re.M)
    shares = [float(cell) / 100 for cell in row]
    assert [found[n] for n in ("precision", "recall", "f1")] == pytest.approx(shares, abs=1e-4)
    (picture,) = re.findall(r"!\[[^]]+\]\(([^)]+)\)", card.text)
    assert (FOLDER / picture).read_bytes()[1:4] == b"PNG"
