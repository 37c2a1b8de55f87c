"""A random encoder of a few kilobytes, a corpus that it can learn, and what runs the commands."""

from __future__ import annotations

import importlib.util
import io
import json
import sys
from collections.abc import Callable
from contextlib import redirect_stderr
from itertools import accumulate
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertModel, BertTokenizerFast

from hf_semicrf import (
    SemiCRFConfig,
    SemiCRFDataCollator,
    SemiCRFForTokenClassification,
    TokenizeAndAlign,
    ops,
    prepare_tokenizer,
)
from hf_semicrf.head import SemiCRFOutput

NAMES = ["Ada", "Grace", "Alan", "Edsger", "Barbara", "Donald"]
SURNAMES = ["Lovelace", "Hopper", "Turing", "Dijkstra", "Liskov", "Knuth"]
PLACES = ["Paris", "Oslo", "Lima", "Quito"]

ROOT = Path(__file__).parent.parent
SCRIPTS, BENCHMARKS = ROOT / "scripts", ROOT / "benchmarks"


def benchmark(name: str) -> ModuleType:
    """A script of benchmarks/ as a module, without running it."""
    spec = importlib.util.spec_from_file_location(f"script_{name}", BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def error_of(main: Callable[[list[str]], Any], *arguments: Any) -> str:
    """The line with which a command ends that can't go on."""
    written = io.StringIO()
    with redirect_stderr(written), pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    assert caught.value.code == 2 and "Traceback" not in written.getvalue()
    return written.getvalue().splitlines()[-1]


def sentences(count: int) -> list[dict[str, list[str]]]:
    """Tagged sentences that a tiny model can learn: two-word names and one-word places."""
    rows = []
    for index in range(count):
        name = [NAMES[index % 6], SURNAMES[index // 2 % 6]]
        if index % 3 == 0:
            words, tags = [*name, "flew", "."], ["B-PER", "I-PER", "O", "O"]
        elif index % 3 == 1:
            words = ["Yesterday", *name, "saw", PLACES[index % 4]]
            tags = ["O", "B-PER", "I-PER", "O", "B-LOC"]
        else:
            words, tags = ["saw", PLACES[index % 4], "."], ["O", "B-LOC", "O"]
        rows.append({"tokens": words, "ner_tags": tags})
    return rows


def spaced_texts(count: int) -> list[dict[str, Any]]:
    """The same with their texts and the words' places; some names are tagged nowhere above."""
    rows = sentences(count)
    for number, row in enumerate(rows):
        if number % 7 == 0:
            row["tokens"] = ["Lima" if word in NAMES else word for word in row["tokens"]]
        ends = list(accumulate(len(word) + 1 for word in row["tokens"]))
        offsets = [[end - len(w) - 1, end - 1] for w, end in zip(row["tokens"], ends, strict=True)]
        row |= {"text": " ".join(row["tokens"]), "offsets": offsets}
    return rows


def write_jsonl(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def save_tiny_bert(folder: Path, *texts: str) -> str:
    """Write a random BERT that knows the words above and those of the texts; returns the folder."""
    words = {word for row in sentences(40) for word in row["tokens"]}
    words |= {word for text in texts for word in text.split()}
    letters = [chr(code) for code in range(33, 127)]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = special + letters + [f"##{letter}" for letter in letters] + sorted(words)
    vocabulary = list(dict.fromkeys(vocabulary))
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
    )
    with torch.random.fork_rng(devices=[]):  # the same weights, whatever ran before
        torch.manual_seed(0)
        BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    tokenizer = BertTokenizerFast(
        vocab=str(folder / "vocab.txt"), do_lower_case=False, model_max_length=64
    )
    tokenizer.save_pretrained(folder)
    return str(folder)


class StandIn(torch.nn.Module):
    """What `predict` needs of a model; the forward of a subclass says what is found.

    Args:
        labels: Tag names.
        max_length: Sub-words that it takes at once; None for no limit.
        longest: Words of the longest segment that it knows.
    """

    device = torch.device("cpu")

    def __init__(self, labels: list[str], max_length: int | None = None, longest: int = 4):
        super().__init__()
        encoder = BertConfig(max_position_embeddings=max_length or 10**6)
        self.config = SemiCRFConfig(encoder, labels=labels, max_segment_length=longest)

    def output(self, word_mask: torch.Tensor, found: list[list[tuple]]) -> SimpleNamespace:
        """What the model gives for sentences with known segments.

        Args:
            word_mask: The batch's first sub-words [B, T].
            found: Entities of each sentence: first word, word after the last, type, posterior.
        """
        lengths = word_mask.sum(1)
        inside = torch.arange(word_mask.shape[1]) < lengths[:, None]  # [B, T]
        labels = torch.where(inside, 0, -1)
        starts, scores = inside.clone(), inside.float()
        for row, spans in enumerate(found):
            for first, end, name, score in spans:
                labels[row, first:end] = self.config.scheme.types.index(name)
                starts[row, first + 1 : end] = False
                scores[row, first:end] = score
        token = torch.nn.functional.one_hot(labels.clamp(min=0), len(self.config.scheme.types))
        marginals = ops.Marginals(token.float(), token.float(), token.float())
        return SimpleNamespace(head=SemiCRFOutput(None, labels, starts, scores, marginals))


def save_tiny_tagger(folder: Path, loss_bar: float = 0.001, limit: int = 200) -> str:
    """Train a tagger until it knows the sentences above; its folder holds model and tokenizer.

    Args:
        folder: Where to write.
        loss_bar: Training goes on until the loss, without dropout, is below this.
        limit: Steps after which it gives up.

    Raises:
        RuntimeError: The loss did not come below the bar.
    """
    labels = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    torch.manual_seed(0)
    bert = save_tiny_bert(folder / "bert")
    model = SemiCRFForTokenClassification.from_pretrained(bert, labels=labels, max_segment_length=3)
    tokenizer = prepare_tokenizer(AutoTokenizer.from_pretrained(bert))
    rows = sentences(48)
    columns = TokenizeAndAlign(tokenizer, model.config.label2id)(
        {name: [row[name] for row in rows] for name in rows[0]}
    )
    features = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    batch = SemiCRFDataCollator(tokenizer)(features)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(limit):
        if step % 20 == 0:
            with torch.no_grad():
                loss = model.eval()(**batch).loss.item()
            if loss < loss_bar:
                break
            model.train()
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
    else:
        raise RuntimeError(f"the tiny tagger did not learn: loss {loss}, not below {loss_bar}")
    model.save_pretrained(folder / "tagger")
    tokenizer.save_pretrained(folder / "tagger")
    return str(folder / "tagger")
