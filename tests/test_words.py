"""What a word is: splitters, and how words without a space before them are tokenised."""

from __future__ import annotations

import re
import time
import unicodedata

import pytest
from test_data import KINDS
from transformers import ByT5Tokenizer, CanineTokenizer

from hf_semicrf.text import (
    Splitter,
    attached,
    detokenize,
    first_subwords,
    prepare_tokenizer,
    split_words,
    tokenize_words,
)

MARKED = [  # each stands between spaces and is one word
    "मीना",
    "दिल्ली",
    "சென்றாள்",
    "গেল",
    "سَافَرَ",
    "לְחֵיפָה",
    "می\u200cرود",
    "Zoe\u0308",
    "Don\u00adau\u00adfeld",
    "క్షేత్రం",
    "ശ്രീ\u200d",
    "ไทย"[:1],
    "ё\u0301ж",
    "covid-19",
    "snake_case",
    "a\u20dd",
    "❤\ufe0f",
    "👩\u200d💻",
]


def words(text, splitter="unicode"):
    return [word for word, _, _ in Splitter.of(splitter).words(text)]


def test_marks_and_joiners_stay_in_their_word():
    assert words(" ".join(MARKED)) == MARKED


@pytest.mark.parametrize(
    "text, expected",
    [
        ("林晓去了海口。", [*"林晓去了海口。"]),
        ("森アオイは2024年那覇へ", ["森", *"アオイ", "は", "2024", "年", *"那覇へ"]),
        ("สมชายไปน้ำ", ["ส", "ม", "ช", "า", "ย", "ไ", "ป", "น้ำ"]),
        ("COVID-19检测x", ["COVID-19", "检", "测", "x"]),
        ("東京-大阪", ["東", "京", "-", "大", "阪"]),
        ("ガギ", ["カ\u3099", "キ\u3099"]),
    ],
)
def test_scripts_without_spaces_are_cut_by_grapheme(text, expected):
    if text == "ガギ":
        text = unicodedata.normalize("NFD", text)
    assert words(text) == expected


@pytest.mark.parametrize("text", ["ភ្នំពេញ", "ວຽງຈັນ", "ရန်ကုန်သွား", "เชียงใหม่", "𠀀𠀁"])
def test_no_word_begins_with_a_mark_and_nothing_is_lost(text):
    found = words(text)
    assert "".join(found) == text and len(found) > 1
    assert all(unicodedata.category(word[0])[0] != "M" for word in found)


CONTEXTS = ("a{}b", "a {} b", "-{}-", "a-{}1", "{0}{0}")


@pytest.mark.parametrize("context", CONTEXTS)
def test_every_other_character_is_split_as_before(context):
    """Every code point but marks, joiners and scripts without spaces, in a context."""
    before = re.compile(r"\w+(?:[-_]\w+)*|\S")
    own = re.compile(
        "[\u00ad\u200c\u200d\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u2fdf\u3005\u3007"
        "\u3021-\u3029\u3038-\u303b\u3041-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
        "\ua9e0-\ua9ff\uaa60-\uaa7f\uf900-\ufaff\uff66-\uff9f\U0001aff0-\U0001b16f"
        "\U00020000-\U0003ffff]"
    )
    splitter = Splitter()
    codes = [*range(0xD800), *range(0xE000, 0x20000), *range(0xE0000, 0xE0200)]
    for code in codes:
        character = chr(code)
        if unicodedata.category(character)[0] == "M" or own.match(character):
            continue
        text = context.format(character)
        assert splitter.spans(text) == [m.span() for m in before.finditer(text)], hex(code)


def test_splitters_by_name():
    text = "well-known a/b x_y, (Paris)."
    marks = ["(", "Paris", ")", "."]
    assert words(text) == ["well-known", "a", "/", "b", "x_y", ",", *marks]
    assert words(text, "hyphens") == ["well", "-", "known", "a", "/", "b", "x_y", ",", *marks]
    assert words(text, "punctuation")[6:10] == ["x", "_", "y", ","]
    assert words(text, "spaces") == ["well-known", "a/b", "x_y,", "(Paris)."]
    text = "see (http://a.b/c?d=e), www.x.org. mail a.b-c@d.example.org! x@y #t www. 日http://x.y/z"
    addresses = ["http://a.b/c?d=e", "www.x.org", "a.b-c@d.example.org", "http://x.y/z"]
    assert [word for word in words(text, "web") if len(word) > 4] == addresses
    assert words(text, "web")[-9:-1] == ["x", "@", "y", "#", "t", "www", ".", "日"]
    assert words("e\u0301 é", "simple") == ["e", "\u0301", "é"]
    assert split_words("a b") == [("a", 0, 1), ("b", 2, 3)]


def test_a_pattern_or_a_function_makes_a_splitter():
    text = "write to r.lind@post.example \ufdd0 now"
    assert words(text, r"pattern:[\w.]+@[\w.]+|\w+")[2] == "r.lind@post.example"
    assert Splitter.of(r"pattern:\pL+").spans("ab 日本1") == [(0, 2), (3, 5)]
    halves = Splitter.of(lambda text: [(0, 2), (2, len(text))])
    assert halves.name == "function" and halves.spans("abcd") == [(0, 2), (2, 4)]
    for spans in ([(0, 0)], [(0, 9)], [(1, 2), (1, 3)], [(2, 3), (0, 1)]):
        with pytest.raises(ValueError, match="expected words in order"):
            Splitter.of(lambda text, spans=spans: spans).spans("abcd")


def test_splitters_that_are_refused():
    with pytest.raises(ValueError, match="splitter among unicode, .*, got 'letters'"):
        Splitter.of("letters")
    with pytest.raises(ValueError, match=r"regular expression of RE2, got '\(a'"):
        Splitter.of("pattern:(a")
    with pytest.raises(ValueError, match="the function that splits text"):
        Splitter.of("function")
    with pytest.raises(TypeError, match="got int"):
        Splitter.of(3)


@pytest.mark.parametrize(
    "name", ["unicode", "hyphens", "punctuation", "web", r"pattern:(\w+\w+)+\."]
)
def test_no_text_makes_a_splitter_hang(name):
    splitter, began = Splitter.of(name), time.perf_counter()
    repeated = ("a-", "aa", "👩\u200d", "-_", "é", "a@", "a.", "www.", "http://.")
    for text in [unit * 50_000 for unit in repeated] + ["http://" + "." * 50_000]:
        splitter.spans(text)
    assert time.perf_counter() - began < 20


# without a space


RUNNING = [
    (["flew", "to", "-", "Paris", "'s", "plane"], "flew to-Paris's plane"),
    (["it", "'s", "not", "to"], "it's not to"),
]


@pytest.mark.parametrize("kind", ["wordpiece", "gpt2", "qwen", "qwen with the flag set"])
@pytest.mark.parametrize("tokens, text", RUNNING)
def test_attached_words_are_tokenised_as_running_text(kind, tokens, text):
    tokenizer = prepare_tokenizer(KINDS[kind]())
    joins = attached(tokens)
    assert detokenize(tokens)[0] == text and any(joins)
    [(inputs, word_ids)] = tokenize_words(tokenizer, [tokens], attached=[joins])
    assert inputs["input_ids"] == tokenizer(text)["input_ids"]
    assert [w for w in first_subwords(word_ids) if w is not None] == list(range(len(tokens)))
    assert {len(column) for column in inputs.values()} == {len(word_ids)}


@pytest.mark.parametrize("kind", KINDS)
def test_the_pieces_of_an_attached_word_have_no_space(kind):
    tokenizer = prepare_tokenizer(KINDS[kind]())
    tokens = ["Paris", "plane", "flew"]
    [(apart, _)] = tokenize_words(tokenizer, [tokens])
    assert apart == next(tokenize_words(tokenizer, [tokens], attached=[[False] * 3]))[0]
    [(inputs, word_ids)] = tokenize_words(tokenizer, [tokens], attached=[[False, True, False]])
    pieces = tokenizer.convert_ids_to_tokens(inputs["input_ids"])
    joined = ["".join(p for p, w in zip(pieces, word_ids, strict=True) if w == n) for n in range(3)]
    assert joined[1] == "plane" and joined[0].lstrip("▁Ġ").lower() == "paris"


def test_a_cut_goes_between_words_with_attached_ones_too():
    tokenizer = prepare_tokenizer(KINDS["gpt2"]())
    tokens = ["Amelia", "Earhart", "flew"]
    [(whole, ids)] = tokenize_words(tokenizer, [tokens], attached=[[False, True, True]])
    limit = ids.index(2) + 1 if ids.count(2) > 1 else ids.index(2)
    [(cut, cut_ids)] = tokenize_words(tokenizer, [tokens], limit, [[False, True, True]])
    assert cut["input_ids"] == whole["input_ids"][: ids.index(2)] and set(cut_ids) == {0, 1}


@pytest.mark.parametrize("make", [CanineTokenizer, ByT5Tokenizer])
def test_tokenizers_in_python_are_given_word_by_word(make):
    tokenizer = prepare_tokenizer(make())
    assert not tokenizer.is_fast
    rows = list(tokenize_words(tokenizer, [["Ada", "saw", "東"], ["x"]]))
    for (inputs, word_ids), tokens in zip(rows, (["Ada", "saw", "東"], ["x"]), strict=True):
        for n, word in enumerate(tokens):
            ids = [i for i, w in zip(inputs["input_ids"], word_ids, strict=True) if w == n]
            assert ids == tokenizer.encode(word, add_special_tokens=False)
        special = [i for i, w in zip(inputs["input_ids"], word_ids, strict=True) if w is None]
        assert special == tokenizer.build_inputs_with_special_tokens([])
        assert set(inputs) == set(tokenizer.model_input_names)
    [(cut, _)] = tokenize_words(tokenizer, [["Ada", "saw"]], 6)
    assert len(cut["input_ids"]) <= 6


# as people write


@pytest.mark.parametrize(
    "tokens, text",
    [
        (["He", "said", ",", '"', "no", '"', "."], 'He said, "no".'),
        (["the", "(", "BRCA1", "/", "2", ")", "-", "gene"], "the (BRCA1/2)-gene"),
        (["I", "do", "n't", "know", "Mara", "'s", "cat", "!"], "I don't know Mara's cat!"),
        (["costs", "$", "5", "or", "10", "%"], "costs $5 or 10%"),
        (["去", "了", "海口", "。", "Then", "left"], "去了海口。Then left"),
        (["``", "yes", "''", "?"], "``yes''?"),
    ],
)
def test_detokenised_text(tokens, text):
    written, spans = detokenize(tokens)
    assert written == text
    assert [written[start:end] for start, end in spans] == tokens
