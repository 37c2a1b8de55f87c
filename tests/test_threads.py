"""Threads share a model and its tokenizer: right answers, and the mode as it was."""

from __future__ import annotations

import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from tiny import sentences
from transformers import AutoTokenizer, pipeline

from hf_semicrf import SemiCRFForTokenClassification, prepare_tokenizer
from hf_semicrf.head import evaluating

TEXTS = [" ".join(row["tokens"]) for row in sentences(12)]


@pytest.fixture(scope="module")
def tagger(tiny_tagger):
    model = SemiCRFForTokenClassification.from_pretrained(tiny_tagger)
    return model, prepare_tokenizer(AutoTokenizer.from_pretrained(tiny_tagger))


def in_threads(count, work):
    """What so many threads return that begin together."""
    gate = threading.Barrier(count)

    def run(number):
        gate.wait()
        return work(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


def modes(model):
    return [part.training for part in model.modules()]


def as_training(model):
    """Training mode with a frozen encoder in evaluation mode."""
    model = copy.deepcopy(model).train()
    model.text_encoder.eval()
    for part in model.modules():  # which dropout would change
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.9
    return model


def test_threads_predict_with_a_model_in_training_mode(tagger):
    trained, tokenizer = tagger
    expected = trained.predict(TEXTS, tokenizer)
    model = as_training(trained)
    before, random = modes(model), torch.get_rng_state()
    assert any(before) and not all(before)

    def work(number):
        calls = [[text] for text in TEXTS[number % 3 :]]
        return [model.predict(call, tokenizer)[0] for call in calls]

    for number, found in enumerate(in_threads(6, work)):
        for one, other in zip(found, expected[number % 3 :], strict=True):
            assert [e["text"] for e in one] == [e["text"] for e in other]
            assert [e["score"] for e in one] == pytest.approx([e["score"] for e in other])
    assert modes(model) == before and torch.equal(torch.get_rng_state(), random)
    assert torch.is_grad_enabled()


def test_the_mode_comes_back_after_an_error_in_one_thread(tagger):
    model, tokenizer = as_training(tagger[0]), tagger[1]
    before = modes(model)

    def work(number):
        if number % 2:
            return model.analyze(TEXTS, tokenizer)
        with pytest.raises(KeyError), torch.inference_mode(), evaluating(model):
            raise KeyError
        return None

    in_threads(4, work)
    assert modes(model) == before


def test_a_run_inside_a_run_keeps_the_mode(tagger):
    model = as_training(tagger[0])
    before = modes(model)
    with evaluating(model):
        with evaluating(model):
            assert not any(modes(model))
        assert not any(modes(model))
        copy.deepcopy(model)
    assert modes(model) == before


def test_threads_share_a_tokenizer_that_truncates(tagger, tiny_tagger):
    """Its first call changes it, and any other may be reading then."""
    model, _ = tagger
    for _ in range(5):
        tokenizer = AutoTokenizer.from_pretrained(tiny_tagger)
        tokenizer(TEXTS, truncation=True, max_length=4, padding="max_length")
        prepared = prepare_tokenizer(tokenizer)
        found = in_threads(4, lambda _, shared=prepared: model.predict(TEXTS, shared))
        assert all(row == found[0] for row in found)
        raw = AutoTokenizer.from_pretrained(tiny_tagger)
        raw(TEXTS, truncation=True, max_length=4, padding="max_length")
        again = in_threads(4, lambda _, shared=raw: model.predict(TEXTS, shared))
        assert again == found


def test_threads_share_a_pipeline(tiny_tagger):
    tag = pipeline("semicrf-ner", model=tiny_tagger, device="cpu")
    expected = tag(TEXTS)
    tag.model.train()
    assert in_threads(4, lambda _: tag(TEXTS)) == [expected] * 4
    assert tag.model.training
