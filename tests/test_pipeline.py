"""pipeline("semicrf-ner") on every kind of input, and the stock pipeline beside it."""

from __future__ import annotations

import itertools

import pytest
import torch
from datasets import Dataset
from oracle import Sentence
from tiny import NAMES, PLACES, SURNAMES, save_tiny_bert
from transformers import AutoModelForTokenClassification, AutoTokenizer, pipeline
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.pipelines.pt_utils import KeyDataset

from hf_semicrf import SemiCRFForTokenClassification, SemiCRFPipeline, prepare_tokenizer

TEXTS = [
    "Yesterday  Ada Lovelace saw Paris.",
    "",
    "Grace Hopper flew.",
    "Donald Knuth saw Lima. " * 40,  # longer than the encoder
    "saw Oslo, Quito.",
]
WORDS = [["saw", "Oslo"], ["Ada", "Lovelace"], ["saw"]]


@pytest.fixture(scope="module")
def folder(tiny_tagger):
    return tiny_tagger


@pytest.fixture(scope="module")
def model(folder):
    return AutoModelForTokenClassification.from_pretrained(folder)


@pytest.fixture(scope="module")
def tokenizer(folder):
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def pipe(folder):
    return pipeline("semicrf-ner", model=folder, device="cpu")


@pytest.fixture(scope="module")
def expected(model, tokenizer):
    return model.predict(TEXTS, tokenizer)


def same(found, expected, tolerance=1e-5):
    """Equal but for the rounding of scores in batches of another shape."""
    found = [list(row) for row in found]
    assert [[e | {"score": 0} for e in row] for row in found] == [
        [e | {"score": 0} for e in row] for row in expected
    ]
    for one, other in zip(itertools.chain(*found), itertools.chain(*expected), strict=True):
        assert one["score"] == pytest.approx(other["score"], abs=tolerance)
    return True


def test_the_task_is_registered_beside_the_stock_ones(model):
    assert PIPELINE_REGISTRY.check_task("semicrf-ner")[1]["impl"] is SemiCRFPipeline
    assert PIPELINE_REGISTRY.check_task("token-classification")[1]["impl"] is not SemiCRFPipeline
    assert not getattr(model.config, "custom_pipelines", None)


def test_one_text_gives_its_entities_with_offsets(pipe, expected):
    found = pipe(TEXTS[0])
    assert [(e["label"], e["start"], e["end"]) for e in found] == [("PER", 11, 23), ("LOC", 28, 33)]
    assert all(TEXTS[0][e["start"] : e["end"]] == e["text"] for e in found)
    assert same([found], expected[:1])
    assert pipe("") == [] and pipe([]) == []


@pytest.mark.parametrize("batch_size", [None, 1, 2, 8])
def test_lists_in_batches_of_any_size(pipe, expected, batch_size):
    assert same(pipe(TEXTS, batch_size=batch_size), expected)
    assert same(pipe(tuple(TEXTS), batch_size=batch_size), expected)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_split_words(pipe, model, tokenizer, batch_size):
    expected = model.predict(WORDS, tokenizer)
    assert [(e["start"], e["end"]) for e in expected[1]] == [(0, 2)]
    assert same(pipe(WORDS, batch_size=batch_size), expected)
    assert same([pipe(WORDS[1], is_split_into_words=True)], expected[1:2])
    rows = Dataset.from_dict({"tokens": WORDS})
    assert same(pipe(rows, batch_size=batch_size), expected)
    mixed = model.predict([TEXTS[0], WORDS[1]], tokenizer)
    assert same(pipe([TEXTS[0], WORDS[1]], batch_size=batch_size), mixed)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_data_sets(pipe, expected, batch_size):
    data = Dataset.from_dict({"text": TEXTS, "id": range(len(TEXTS))})
    for inputs in (data, KeyDataset(data, "text"), data.to_iterable_dataset()):
        found = pipe(inputs, batch_size=batch_size)
        assert not isinstance(found, list)  # a stream
        assert same(found, expected)
    assert same(pipe(data["text"], batch_size=batch_size), expected)
    assert same([pipe({"text": TEXTS[0]})], expected[:1])


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_generator_is_read_as_the_results_are(pipe, expected, batch_size):
    read = 0

    def endless():
        nonlocal read
        for text in itertools.cycle(TEXTS):
            read += 1
            yield text

    found = iter(pipe(endless(), batch_size=batch_size))
    assert read == 0
    assert same([next(found) for _ in range(7)], [*expected, *expected[:2]])
    assert read <= 7 + 2 * batch_size


def test_long_documents_are_encoded_in_batches(pipe, expected, monkeypatch):
    sizes = []
    forward = SemiCRFForTokenClassification.forward

    def spy(self, input_ids, **arguments):
        sizes.append(len(input_ids))
        return forward(self, input_ids, **arguments)

    monkeypatch.setattr(SemiCRFForTokenClassification, "forward", spy)
    assert same([pipe(TEXTS[3], batch_size=8)], expected[3:4])
    assert max(sizes) > 1
    assert expected[3][-1]["end"] > len(TEXTS[3]) - 30


def test_the_score_is_the_exact_posterior_of_the_segment(pipe, model, monkeypatch):
    """Against the sum over all segmentations, enumerated."""
    head, caught = pipe.model.classifier, []
    potentials = head.potentials

    def catch(*arguments):
        caught.append(potentials(*arguments))
        return caught[-1]

    monkeypatch.setattr(head, "potentials", catch)
    words = ["Yesterday", "Ada", "Lovelace", "saw", "Grace", "Paris"]
    found = pipe(words, is_split_into_words=True, threshold=0.01)
    truth = Sentence(caught[0].map(torch.Tensor.double), 0).segment_marginals()
    types = model.config.scheme.types
    for entity in found:
        segment = (entity["start"], entity["end"], types.index(entity["label"]))
        assert entity["score"] == pytest.approx(truth[segment], abs=1e-5)
    assert len(found) >= 2


def test_options_for_all_calls_and_for_one(folder, model, tokenizer):
    pipe = pipeline("semicrf-ner", model=folder, device="cpu", threshold=0.9, overlap=4)
    text = "Ada saw Lovelace Paris Alan. " * 20
    for options in ({}, {"threshold": 0.1}, {"overlap": 0}):
        (expected,) = model.predict([text], tokenizer, **{"threshold": 0.9, "overlap": 4} | options)
        assert same([pipe(text, **options)], [expected])
    lenient = pipe(text, threshold=0.01)
    strict = pipe(text, threshold=sorted(entity["score"] for entity in lenient)[1])
    assert 0 < len(strict) < len(lenient)
    with pytest.raises(TypeError, match=r"no option \['treshold'\], expected .*'threshold'"):
        pipe(text, treshold=0.5)
    with pytest.raises(TypeError, match=r"no option \['constraints'\]"):
        pipe(text, constraints=[])  # of which text, in a stream?
    with pytest.raises(TypeError, match="no option"):
        pipeline("semicrf-ner", model=folder, top_k=3)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_what_is_known_of_a_text_stands_in_its_row(pipe, model, tokenizer, batch_size):
    known = [[{"start": 4, "end": 8, "label": "PER"}], None, [{"start": 0, "end": 1, "label": "O"}]]
    texts = ["saw Oslo", "saw Oslo", ["Ada", "saw"]]
    rows = [{"text": t, "constraints": k} for t, k in zip(texts, known, strict=True)]
    expected = model.predict(texts, tokenizer, constraints=known)
    assert same(pipe(rows, batch_size=batch_size), expected)
    assert same([pipe(rows[0])], expected[:1])
    assert [row[0]["label"] for row in expected[:2]] == ["PER", "LOC"]
    with pytest.raises(TypeError, match="no option"):
        pipe(texts, constraints=known)


def test_saved_and_made_again_without_remote_code(pipe, expected, tmp_path):
    pipe.save_pretrained(tmp_path)
    assert not any("pipeline" in file.name for file in tmp_path.iterdir())
    again = pipeline("semicrf-ner", model=str(tmp_path), device="cpu")
    assert same(again(TEXTS), expected)


def test_errors(folder, model, tokenizer, pipe, tmp_path):
    with pytest.raises(
        ValueError, match="expected a string, a list of words or .* as a text, got 3"
    ):
        pipe([3])
    with pytest.raises(ValueError, match="expected a text or texts, got int"):
        pipe(3)
    with pytest.raises(ValueError, match="expected tokenizer="):
        SemiCRFPipeline(model=model, device=-1)
    bert = AutoModelForTokenClassification.from_pretrained(save_tiny_bert(tmp_path / "bert"))
    with pytest.raises(ValueError, match="expected a semi-CRF model for 'semicrf-ner', got Bert"):
        pipeline("semicrf-ner", model=bert, tokenizer=tokenizer)


@pytest.mark.gpu
def test_on_a_gpu_it_finds_what_it_finds_on_the_cpu(folder, expected):
    pipe = pipeline("semicrf-ner", model=folder, device="cuda:0", batch_size=4)
    assert same(pipe(TEXTS), expected, tolerance=1e-3)


# The stock pipeline


def plain_texts():
    """Texts whose words all splitters agree on."""
    people = [" ".join(pair) for pair in zip(NAMES, SURNAMES, strict=True)]
    for index in range(12):
        person, place = people[index % 6], PLACES[index % 4]
        yield f"Yesterday {person} saw {place}."
        yield f"saw {person} {people[(index + 1) % 6]} flew."  # neighbours of one type
        yield f"{place} {PLACES[(index + 1) % 4]}, {person} flewing Adas"


@pytest.mark.parametrize("threshold", [None, 0.02])
def test_the_stock_pipeline_gives_the_same_entities(folder, model, tokenizer, threshold):
    model = AutoModelForTokenClassification.from_pretrained(folder)
    model.set_threshold(threshold)
    stock = pipeline(
        "token-classification", model=model, tokenizer=tokenizer, aggregation_strategy="simple"
    )
    texts = list(plain_texts())
    expected = model.predict(texts, tokenizer)
    for text, found, entities in zip(texts, stock(texts), expected, strict=True):
        pairs = [(e["entity_group"], e["start"], e["end"]) for e in found]
        assert pairs == [(e["label"], e["start"], e["end"]) for e in entities], text
    touching = sum(
        one["end"] + 1 == two["start"] and one["label"] == two["label"]
        for row in expected
        for one, two in itertools.pairwise(row)
    )
    assert touching > 5


def test_the_stock_pipeline_knows_no_other_prefixes_than_b_and_i(tmp_path):
    """So neighbours of one type run together where the labels are IOBES or BILOU."""
    torch.manual_seed(0)
    labels = ["O", "B-PER", "I-PER", "E-PER", "S-PER"]
    bert = save_tiny_bert(tmp_path / "bert")
    model = SemiCRFForTokenClassification.from_pretrained(bert, labels=labels, threshold=0.0)
    tokenizer = prepare_tokenizer(AutoTokenizer.from_pretrained(bert))
    stock = pipeline(
        "token-classification", model=model, tokenizer=tokenizer, aggregation_strategy="simple"
    )
    text = "Ada Lovelace"
    assert [(e["start"], e["end"]) for e in model.predict([text], tokenizer)[0]] == [
        (0, 3),
        (4, 12),
    ]
    assert [(e["start"], e["end"]) for e in stock(text)] == [(0, 12)]
