"""The README's snippets run as they stand, and its commands name what exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from tiny import save_tiny_bert, sentences, write_jsonl
from transformers import AutoTokenizer

import hf_semicrf.trainer
from hf_semicrf import SemiCRFForTokenClassification, prepare_tokenizer
from hf_semicrf.cli import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.M | re.S)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder that holds tiny things under the names that the README uses."""
    folder = tmp_path_factory.mktemp("readme")
    bert = save_tiny_bert(folder / "bert-base-cased")
    for name, count in (("train", 40), ("validation", 10), ("test", 10)):
        write_jsonl(folder / f"{name}.jsonl", sentences(count))
    model = SemiCRFForTokenClassification.from_pretrained(
        bert, labels=["O", "B-PERSON", "I-PERSON"], max_segment_length=4
    )
    tokenizer = prepare_tokenizer(AutoTokenizer.from_pretrained(bert))
    for saved in (model, tokenizer):
        saved.save_pretrained(folder / "out" / "demo" / "model")
    return folder


def test_it_is_short():
    assert len(README.splitlines()) <= 90
    assert len(blocks("python")) == 2


@pytest.mark.parametrize("snippet", blocks("python"), ids=lambda s: s.strip().splitlines()[-1])
def test_python_snippets_run(snippet, workplace, monkeypatch, capsys):
    monkeypatch.chdir(workplace)
    monkeypatch.setattr(hf_semicrf.trainer, "LEAST_STEPS", 0)  # few, so that it errs now and then
    exec(compile(snippet, "README.md", "exec"), {"__name__": "readme"})
    if "trainer.train()" in snippet:
        assert re.search(r"^\d\.\d+$", capsys.readouterr().out, re.M)  # the printed F1
        reloaded = SemiCRFForTokenClassification.from_pretrained("out/final")
        assert reloaded.config.max_segment_length == 10
        assert reloaded.config.head_temperature != 1  # calibrated before it was saved
        assert "test" in (workplace / "out" / "final" / "README.md").read_text()


def commands(start: str) -> list[list[str]]:
    lines = "\n".join(blocks("bash")).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.startswith(start)]


@pytest.mark.parametrize("command", commands("make "), ids=" ".join)
def test_make_targets_exist(command):
    assert re.search(rf"^{command[1]}:", (ROOT / "Makefile").read_text(), re.M)


COMMANDS = [*commands("python scripts/"), *commands("hf-semicrf ")]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: words[1])
def test_commands_know_the_flags(command, capsys):
    name = Path(command[1]).stem  # of a command, or of the script around it
    assert (ROOT / "scripts" / f"{name}.py").is_file()
    with pytest.raises(SystemExit):
        main([name, "--help-all" if name == "train" else "--help"])
    known = set(re.findall(r"--\w+", capsys.readouterr().out))
    assert {word for word in command if word.startswith("--")} <= known


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)|src=\"([^\"]+)\"", README):
        assert (ROOT / (target[0] or target[1])).exists(), target
