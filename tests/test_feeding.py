"""`predict` as a pipeline: streams, threads, padding, known words, CUDA graphs."""

from __future__ import annotations

import copy
import gc
import random
import threading
from itertools import count, islice
from unittest import mock

import pytest
import torch
from tiny import sentences
from transformers import AutoTokenizer

from hf_semicrf import SemiCRFForTokenClassification, prepare_tokenizer
from hf_semicrf.head import HeadSettings, SemiCRF
from hf_semicrf.head.scorers import SCORERS
from hf_semicrf.inference import compilation, prediction
from hf_semicrf.inference.feeding import Feed, ahead, frozen, padded_length
from hf_semicrf.text import KnownWords, Splitter, Window
from hf_semicrf.text.words import _ASCII_PATTERNS, NAMES, _pattern

TEXTS = [" ".join(row["tokens"]) for row in sentences(40)]


@pytest.fixture(scope="module")
def tagger(tiny_tagger):
    model = SemiCRFForTokenClassification.from_pretrained(tiny_tagger)
    return model, prepare_tokenizer(AutoTokenizer.from_pretrained(tiny_tagger))


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of 8 texts."""
    monkeypatch.setattr(prediction, "TEXTS_AT_ONCE", 8)
    monkeypatch.setattr(prediction, "BATCHES_AT_ONCE", 1)


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("hf_semicrf")]


def places(found):
    return [[(e["label"], e["start"], e["end"]) for e in row] for row in found]


def test_chunks_give_the_entities_of_the_whole(tagger, small_chunks, monkeypatch):
    model, tokenizer = tagger
    chunks = model.predict(TEXTS, tokenizer, 4)
    streamed = list(model.predict_stream(iter(TEXTS), tokenizer, 4))
    monkeypatch.setattr(prediction, "TEXTS_AT_ONCE", 1000)
    whole = model.predict(TEXTS, tokenizer, 4)
    assert any(whole) and places(chunks) == places(whole) and streamed == chunks
    for ours, theirs in zip(chunks, whole, strict=True):
        assert [e["score"] for e in ours] == pytest.approx([e["score"] for e in theirs])


def test_an_endless_stream_is_read_a_few_chunks_ahead_and_its_thread_ends(tagger, small_chunks):
    model, tokenizer = tagger
    met = []

    def texts():
        for n in count():
            met.append(threading.current_thread())
            yield TEXTS[n % len(TEXTS)]

    stream = model.predict_stream(texts(), tokenizer, 4)
    assert not met
    found = list(islice(stream, 80))
    assert places(found) == places(model.predict(TEXTS, tokenizer)) * 2
    assert len(met) <= 80 + 3 * 8 and {*met} == {threading.main_thread()}
    assert threads() and not model.training and torch.is_grad_enabled()
    stream.close()
    assert not threads()


def test_errors_of_a_stream_come_with_their_number(tagger, small_chunks):
    model, tokenizer = tagger
    stream = model.predict_stream([*TEXTS[:20], 3], tokenizer, 4)
    with pytest.raises(ValueError, match=r"got 3 \(text 20\)"):
        list(stream)
    wrong = [None] * 19 + [[{"start": 0, "end": 10**6, "label": "O"}]]
    for call in (model.predict, model.predict_stream):
        with pytest.raises(ValueError, match="^text 19: "):
            list(call(TEXTS[:20], tokenizer, 4, constraints=wrong))
    with pytest.raises(ValueError, match="stream of texts"):
        model.predict_stream(TEXTS[0], tokenizer)
    with pytest.raises(ValueError, match="batch_size"):
        model.predict_stream([3], tokenizer, 0)
    assert not threads()


def test_what_the_thread_raises_is_raised_in_turn():
    def prepare(chunk):
        if 4 in chunk:
            raise KeyError(chunk[0])
        return sum(chunk)

    found = ahead(range(10), 2, prepare)
    assert [next(found), next(found)] == [1, 5]
    with pytest.raises(KeyError):
        next(found)
    assert not threads() and list(ahead([], 3, sum)) == [] and list(ahead([7], 3, sum)) == [7]


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_feed_is_what_the_tokenizer_pads(tagger, side, monkeypatch):
    model, tokenizer = tagger
    monkeypatch.setattr(tokenizer, "padding_side", side)
    rows = [text.split() for text in TEXTS[:6]] + [["Anna"]]
    known = KnownWords(tokenizer)
    windows = [
        Window(0, len(row), inputs, words)
        for row, (inputs, words) in zip(rows, known.rows(rows), strict=True)
    ]
    longest = max(len(window.words) for window in windows)
    feed = Feed.of(windows, tokenizer, longest + 3)
    inputs = feed.inputs(feed.columns)
    marks = inputs.pop("word_mask")
    columns = {name: [window.inputs[name] for window in windows] for name in inputs}
    padded = tokenizer.pad(
        columns, padding="max_length", max_length=longest + 3, return_tensors="pt"
    )
    assert {*inputs} == {*padded}
    for name, value in padded.items():
        assert torch.equal(inputs[name], value), name
    assert marks.sum(1).tolist() == [len(row) for row in rows]
    assert not (marks & (inputs["attention_mask"] == 0)).any()


def test_ascii_words_are_those_of_the_whole_pattern():
    generator = random.Random(0)
    characters = "ab1_-.'@ \t\n\x1c\x00~"
    for name in _ASCII_PATTERNS:
        for _ in range(500):
            text = "".join(generator.choices(characters, k=generator.randrange(12)))
            spans = [match.span() for match in _pattern(name).finditer(text)]
            assert Splitter.of(name).spans(text) == spans, (name, text)


def test_what_exists_is_spared_the_search_for_garbage_while_the_model_runs(tagger, small_chunks):
    model, tokenizer = tagger
    counts = []
    hook = model.text_encoder.register_forward_pre_hook(
        lambda *_: counts.append(gc.get_freeze_count())
    )
    try:
        stream = model.predict_stream(TEXTS, tokenizer, 4)
        next(stream)
        assert gc.isenabled()
        assert len(list(stream)) == len(TEXTS) - 1
    finally:
        hook.remove()
    assert len(counts) >= len(TEXTS) / 4 and min(counts) > 10_000
    assert gc.get_freeze_count() == 0


def test_what_a_user_has_frozen_stays_frozen_and_errors_thaw(tagger):
    model, tokenizer = tagger
    with pytest.raises(ZeroDivisionError), frozen:
        raise ZeroDivisionError
    assert gc.get_freeze_count() == 0 and gc.isenabled()
    gc.freeze()
    try:
        count = gc.get_freeze_count()
        assert count > 0 and any(model.predict(TEXTS, tokenizer))
        assert 0 < gc.get_freeze_count() <= count
    finally:
        gc.unfreeze()


def test_lengths_are_few_on_a_gpu_and_as_they_are_elsewhere():
    device = torch.device("cuda")
    padded = [padded_length(n, 500, device) for n in range(1, 501)]
    assert len({*padded}) <= 20 and padded[-1] == 500
    assert all(n <= m <= max(1.25 * n, n + 7) for n, m in enumerate(padded, start=1))
    assert padded_length(37, None, torch.device("cpu")) == 37


def test_cuda_graphs_are_refused_on_the_cpu(tagger):
    model, tokenizer = tagger
    with pytest.raises(ValueError, match="on one CUDA device for cuda_graphs=True, got .* on cpu"):
        model.predict(TEXTS, tokenizer, cuda_graphs=True)


@pytest.mark.gpu
def test_cuda_graphs_find_what_launches_find(tagger):
    model, tokenizer = tagger
    model = copy.deepcopy(model).cuda()
    known = [[{"start": 0, "end": len(text.split()[0]), "label": "O"}] for text in TEXTS]
    for options in ({}, {"decode": "viterbi"}, {"threshold": 0.3}, {"constraints": known}):
        plain = model.predict(TEXTS, tokenizer, 8, **options)
        for _ in range(2):
            replayed = model.predict(TEXTS, tokenizer, 8, cuda_graphs=True, **options)
            assert places(replayed) == places(plain)
    model.set_temperature(3.0)
    plain = model.predict(TEXTS, tokenizer, 8)
    for ours, theirs in zip(
        model.predict(TEXTS, tokenizer, 8, cuda_graphs=True), plain, strict=True
    ):
        assert [e["score"] for e in ours] == pytest.approx([e["score"] for e in theirs], abs=1e-4)
    with torch.no_grad():  # new values of the same weights
        model.classifier.duration_bias[0, 0] += 3
    scores = [
        [e["score"] for row in model.predict(TEXTS, tokenizer, 8, cuda_graphs=graphs) for e in row]
        for graphs in (False, True)
    ]
    before = [e["score"] for row in plain for e in row]
    assert scores[1] == pytest.approx(scores[0], abs=1e-4)
    assert scores[1] != pytest.approx(before, abs=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("options", [{}, {"decode": "viterbi"}, {"threshold": 0.3}], ids=str)
def test_a_first_batch_finds_its_kernels_compiled(tagger, options):
    import triton

    model, tokenizer = tagger
    model = copy.deepcopy(model).cuda()
    events: list[str] = []
    compilation._compiled.clear()
    with triton.knobs.compilation.scope():
        triton.knobs.compilation.listener = lambda **event: events.append(event["src"].name)
        with mock.patch.object(prediction, "compile_kernels", marked(events)):
            model.predict(TEXTS, tokenizer, 8, **options)
    assert "ready" in events and events.index("ready") == len(events) - 1


def marked(events: list[str]):
    """`compile_kernels`, which leaves a mark behind it."""

    def compile_kernels(*arguments: object) -> None:
        compilation.compile_kernels(*arguments)
        events.append("ready")

    return compile_kernels


@pytest.mark.parametrize("scorer", ["sum", "boundary", "span"])
def test_kernels_are_compiled_for_what_a_scorer_gives(scorer):
    settings = HeadSettings(scorer=scorer)
    scores = SemiCRF(16, 3, settings).scores(torch.zeros(1, 2, 16))
    given = [name for name, score in scores._asdict().items() if score is not None]
    assert given == [n for n in scores._fields if n in SCORERS[scorer].gives]


@pytest.mark.parametrize("name", [*NAMES, r"pattern:\w+"])
def test_words_are_the_same_with_their_places_and_alone(name):
    splitter = Splitter.of(name)
    for text in (
        *TEXTS[:5],
        "",
        " ",
        "a_b-c d.e@f.org",
        "Ünï-çode \u0e01\u0e33 漢字 👩\u200d🔬 x\u0301.",
    ):
        words = [text[start:end] for start, end in splitter.spans(text)]
        assert splitter.strings(text) == words
        document = prediction.Document.of(text, splitter)
        assert (document.words, document.spans) == (words, splitter.spans(text))
