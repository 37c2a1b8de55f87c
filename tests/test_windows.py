"""Long documents: windows that fit, and a merge that neither loses nor doubles an entity.

The tagger here is known. It finds an entity where it sees all of it, makes the mistakes of a real
one where a window cuts it, and misses what stands too near to the edge of what it sees.
"""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from test_data import KINDS, fast
from tiny import StandIn
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import RobertaConfig

from hf_semicrf import SemiCRFConfig, SemiCRFForTokenClassification
from hf_semicrf.data.labels import entity_spans
from hf_semicrf.data.readers import read_corpus
from hf_semicrf.inference.prediction import Document, WindowResult, predict
from hf_semicrf.labels.schemes import LabelScheme
from hf_semicrf.results import Segment
from hf_semicrf.text.subwords import prepare_tokenizer, tokenize_words
from hf_semicrf.text.windows import Window, sections, windows_of

SCHEME = LabelScheme.from_labels(["O", "B-A", "I-A", "B-B", "I-B"])
LINNAEUS = Path(__file__).parents[2] / "shared" / "data" / "linnaeus_docs" / "test.jsonl.gz"
LONGEST = 30


def marked_words(spans, sizes):
    """Words that say what they are: "a3 i i" is an entity of type A; an x is one sub-word more."""
    words = ["o"] * len(sizes)
    for start, end, label in spans:
        words[start:end] = [f"{label.lower()}{end - start}"] + ["i"] * (end - start - 1)
    return [word + "x" * (size - 1) for word, size in zip(words, sizes, strict=True)]


def marker_tokenizer():
    marks = [f"{letter}{length}" for letter in "ab" for length in range(1, LONGEST + 1)]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "##x", "o", "i", *marks]
    ids = {token: index for index, token in enumerate(vocabulary)}
    backend = Tokenizer(models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=1000))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return fast(backend, model_max_length=10**30)


class KnownTagger(StandIn):
    """Reads the marks, as far as it sees them.

    Args:
        max_length: Sub-words that it takes at once; None for no limit.
        context: Words that it has to see on both sides of an entity.
        longest: Words of the longest segment that it knows.
    """

    def __init__(self, tokenizer, max_length=None, context=0, longest=4):
        super().__init__(list(SCHEME.labels), max_length, longest)
        self.tokenizer, self.context = tokenizer, context
        self.seen = []

    def forward(self, input_ids, word_mask, **_):
        self.seen += input_ids.ne(self.tokenizer.pad_token_id).sum(1).tolist()
        words = (
            self.tokenizer.convert_ids_to_tokens(ids[mask].tolist())
            for ids, mask in zip(input_ids, word_mask, strict=True)
        )
        return self.output(word_mask, [self.spans(row) for row in words])

    def spans(self, words):
        found, at = [], 0
        while at < len(words):
            end = at + 1
            if words[at] == "i":  # what a window cut off on the left looks like another entity
                while end < len(words) and words[end] == "i":
                    end += 1
                found.append((at, end, "B", 0.6))
            elif words[at] != "o":
                end = at + int(words[at][1:])
                score = 0.9 if end <= len(words) else 0.6
                end = min(end, len(words))
                if self.context <= at and end <= len(words) - self.context:
                    found.append((at, end, words[at][0].upper(), score))
            at = end
        return found


def spans_of(entities):
    return [(e["start"], e["end"], e["label"]) for e in entities]


def random_document(seed, longest=4):
    """Words, half of them in entities, many of which touch."""
    generator = random.Random(seed)
    spans, at = [], 0
    length = generator.randrange(60, 240)
    while at < length:
        size = generator.randrange(1, longest + 1)
        if generator.random() < 0.5 and at + size <= length:
            spans.append((at, at + size, generator.choice("AAB")))
        at += size
    sizes = [generator.choice((1, 1, 2, 3)) for _ in range(length)]
    return marked_words(spans, sizes), spans


@pytest.mark.parametrize("context", [0, 2])
@pytest.mark.parametrize("overlap", [None, 12, 100])
def test_overlapping_windows_find_what_the_whole_document_shows(context, overlap):
    tokenizer = marker_tokenizer()
    documents, gold = zip(*map(random_document, range(30)), strict=True)
    whole = predict(KnownTagger(tokenizer, None, context), documents, tokenizer)
    if context == 0:
        assert [spans_of(row) for row in whole] == list(gold)
    tagger = KnownTagger(tokenizer, 64, context)
    assert predict(tagger, documents, tokenizer, overlap=overlap) == whole
    assert 60 < max(tagger.seen) <= 64 and len(tagger.seen) > 3 * len(documents)


def test_windows_may_be_shorter_than_the_encoder_takes_and_not_longer():
    tokenizer = marker_tokenizer()
    documents, gold = zip(*map(random_document, range(10)), strict=True)
    for asked, longest in ((48, 48), (100, 64)):
        tagger = KnownTagger(tokenizer, 64)
        found = predict(tagger, documents, tokenizer, max_length=asked)
        assert [spans_of(row) for row in found] == list(gold)
        assert longest - 4 < max(tagger.seen) <= longest


def test_without_an_overlap_the_seams_lose_and_double_entities():
    """What the test above would not forgive."""
    tokenizer = marker_tokenizer()
    documents, gold = zip(*map(random_document, range(30)), strict=True)
    found = predict(KnownTagger(tokenizer, 64), documents, tokenizer, overlap=0)
    truth = Counter((n, *span) for n, row in enumerate(gold) for span in row)
    said = Counter((n, *span) for n, row in enumerate(found) for span in spans_of(row))
    assert sum((truth - said).values()) > 20 and sum((said - truth).values()) > 20


def test_an_entity_longer_than_the_overlap_comes_from_the_window_that_sees_it_whole():
    tokenizer = marker_tokenizer()
    for start in range(60):
        words = marked_words([(start, start + 12, "A")], [1] * 80)
        tagger = KnownTagger(tokenizer, 42)  # 40 words, of which 20 are shared at most
        (found,) = predict(tagger, [words], tokenizer, overlap=12)
        assert spans_of(found) == [(start, start + 12, "A")]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("overlap", [0, 3, None])
def test_windows_hold_what_their_words_alone_are_tokenised_to(kind, overlap):
    tokenizer = prepare_tokenizer(KINDS[kind]())
    text = "Amelia Earhart flew to Paris. It's not to be's, is it? (Paris) planes — flew! \ufe0f to"
    document = Document.of(text * 3)
    (windows,) = windows_of([document.words], tokenizer, 24, overlap, longest=2)
    assert len(windows) > 3
    for window in windows:
        assert len(window.words) <= 24
        [(inputs, words)] = tokenize_words(tokenizer, [document.words[window.first : window.end]])
        assert window.inputs == inputs
        assert window.words == [None if n is None else n + window.first for n in words]
    assert windows[0].first == 0 and windows[-1].end == len(document.words)
    for left, right in pairwise(windows[:-1]):
        shared, half = left.end - right.first, (left.end - left.first) // 2
        assert left.first < right.first and left.end < right.end
        asked = max((left.end - left.first) // 4, 2) if overlap is None else overlap
        assert 0 <= shared <= min(asked, half)


def test_words_longer_than_a_window_are_read_at_their_beginning():
    tokenizer = marker_tokenizer()
    generator = random.Random(5)
    for _ in range(20):
        sizes = [generator.choice((1, 2, 7, 9, 30)) for _ in range(30)]
        words = marked_words([(n, n + 1, "A") for n in range(30)], sizes)
        tagger = KnownTagger(tokenizer, 10)
        (found,) = predict(tagger, [words], tokenizer, overlap=generator.randrange(4))
        assert [e["start"] for e in found] == list(range(30))
        assert max(tagger.seen) <= 10 and len(tagger.seen) <= 30


def made_windows(*found, step=6, size=10):
    """Windows of words, and the segments (first, end, score) of each."""
    windows = [Window(n * step, n * step + size, {}, []) for n in range(len(found))]
    return windows, [[Segment(s, e, "A", p) for s, e, p in row] for row in found]


@pytest.mark.parametrize(
    ("found", "cut"),
    [
        (([], []), 8),  # the middle of [6, 10)
        (([(7, 9, 0.9)], [(7, 9, 0.8)]), 7),  # beside it, and in one of the two
        (([(6, 9, 0.9)], [(6, 9, 0.8)]), 9),
        (([(8, 10, 0.9)], [(8, 12, 0.8)]), 8),  # the right one sees it whole
        (([(3, 9, 0.9)], [(6, 9, 0.8)]), 9),  # the left one does
        (([(4, 7, 0.9), (7, 9, 0.9)], [(6, 8, 0.8), (8, 11, 0.9)]), 7),  # one is cut: not 0.9
        (([(4, 10, 0.5)], [(6, 12, 0.9)]), 6),  # neither sees the other's: the likelier one
        (([(4, 10, 0.9)], [(6, 12, 0.5)]), 10),
    ],
)
def test_where_the_seam_lies(found, cut):
    assert sections(*made_windows(*found)) == [(0, cut), (cut, 16)]


def test_sections_tile_the_document_whatever_the_windows_say():
    generator = random.Random(11)
    for _ in range(300):
        step = generator.randrange(1, 10)  # three windows and more may share a word
        rows = []
        for n in range(6):
            row, at = [], n * step
            while at < n * step + 10:
                end = min(at + generator.randrange(1, 5), n * step + 10)
                row.append((at, end, generator.random()))
                at = end
            rows.append(row)
        made, segments = made_windows(*rows, step=step)
        tiles = sections(made, segments)
        assert tiles[0][0] == 0 and tiles[-1][1] == made[-1].end
        assert all(left[1] == right[0] for left, right in pairwise(tiles))
        assert all(w.first <= a <= b <= w.end for w, (a, b) in zip(made, tiles, strict=True))
        document = Document.of(["word"] * made[-1].end)
        document.results = [
            WindowResult(window, 0, segments=row)
            for window, row in zip(made, segments, strict=True)
        ]
        spans = [(e["start"], e["end"]) for e in document.entities()]
        assert all(left[1] <= right[0] for left, right in pairwise(spans))
    assert sections([], []) == []


def test_errors():
    tokenizer = marker_tokenizer()
    with pytest.raises(ValueError, match="overlap as an int of at least 0 or None, got -1"):
        predict(KnownTagger(tokenizer), ["o"], tokenizer, overlap=-1)
    for limit, asked in ((2, None), (2, 9), (9, 2)):
        with pytest.raises(ValueError, match="above the 2 special tokens, got 2"):
            predict(KnownTagger(tokenizer, limit), ["o"], tokenizer, max_length=asked)
    for text in (3, None, ["a", 3], {"text": "a"}):
        with pytest.raises(ValueError, match="expected a string, a list of words or"):
            predict(KnownTagger(tokenizer), [text], tokenizer)


def test_the_positions_of_an_encoder_that_counts_them_from_behind_the_padding():
    """RoBERTa's config promises more positions than it has for text; its tokenizer may not know."""
    tokenizer = marker_tokenizer()
    settings = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = RobertaConfig(
        vocab_size=len(tokenizer), max_position_embeddings=20, pad_token_id=0, **settings
    )
    model = SemiCRFForTokenClassification(SemiCRFConfig(config, labels=SCHEME.labels))
    words = ["o"] * 60
    (windows,) = windows_of([words], tokenizer, 19, None, model.config.max_segment_length)
    seen = []
    model.text_encoder.register_forward_pre_hook(
        lambda module, args, inputs: seen.append(inputs["input_ids"].shape), with_kwargs=True
    )
    model.predict([words], tokenizer)
    assert seen == [(len(windows), 19)]


@pytest.mark.skipif(not LINNAEUS.exists(), reason="needs the corpus of whole papers")
def test_whole_papers_keep_every_annotated_entity():
    """The structure of real papers, in windows of 512 sub-words: up to 13,838 words."""
    tokenizer = marker_tokenizer()
    papers = read_corpus(LINNAEUS)
    scheme = LabelScheme.from_labels(["O", "B-Species", "I-Species"])
    gold = [[(s, e, "A") for s, e, _ in row] for row in entity_spans(papers, scheme)]
    longest = max(e - s for row in gold for s, e, _ in row)
    documents = [
        marked_words(spans, [1 + len(word) // 5 for word in words])
        for spans, words in zip(gold, papers["tokens"], strict=True)
    ]
    whole = predict(KnownTagger(tokenizer, 512, longest=longest), documents, tokenizer)
    assert [spans_of(row) for row in whole] == gold
    apart = predict(KnownTagger(tokenizer, 512), documents[:8], tokenizer, overlap=0)
    assert [spans_of(row) for row in apart] != gold[:8]
