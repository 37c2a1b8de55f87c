"""Sentences among their neighbours: documents, the columns, windows, and the same in prediction."""

from __future__ import annotations

import json
import random

import pytest
import torch
from datasets import Dataset
from test_data import KINDS, wordpiece
from tiny import StandIn, error_of, save_tiny_bert, sentences, write_jsonl
from transformers import AutoTokenizer

from hf_semicrf import SemiCRFConfig, SemiCRFForTokenClassification
from hf_semicrf.cli import train
from hf_semicrf.data import (
    TokenizeAndAlign,
    choose_neighbours,
    documents_of,
    read_corpus,
    with_neighbours,
)
from hf_semicrf.evaluation import evaluate_tagger
from hf_semicrf.text import prepare_tokenizer

TAGS = ["O", "B-A", "I-A"]
IDS = {tag: number for number, tag in enumerate(TAGS)}
WORDS = ["Amelia", "Earhart", "flew", "to", "Paris", "it's", "(", ")", '"', ".", "plane"]


def random_document(count, seed=0, longest=9):
    draw = random.Random(seed)
    return [draw.choices(WORDS, k=draw.randrange(1, longest)) for _ in range(count)]


def rows_of(words, **columns):
    tags = [["O"] * len(sentence) for sentence in words]
    return Dataset.from_dict({"tokens": words, "ner_tags": tags, **columns})


class Recorder(StandIn):
    """Keeps what it is given, and finds an entity of all words of each sentence.

    Args:
        neighbours: What it was trained to read.
        window_length: Sub-words of its windows.
        max_length: Sub-words that it takes at once.
    """

    def __init__(self, neighbours="document", window_length=24, max_length=40):
        super().__init__(TAGS, max_length, longest=9)
        self.config.neighbours, self.config.window_length = neighbours, window_length
        self.seen = set()

    def forward(self, input_ids, word_mask, attention_mask, **_):
        for ids, words, there in zip(input_ids, word_mask, attention_mask.bool(), strict=True):
            self.seen.add((tuple(ids[there].tolist()), tuple(words[there].int().tolist())))
        return self.output(word_mask, [[(0, int(n), "A", 0.9)] for n in word_mask.sum(1)])

    def predict(self, texts, tokenizer, **options):
        return SemiCRFForTokenClassification.predict(self, texts, tokenizer, **options)


def test_documents_are_runs_of_one_id():
    rows = rows_of([["a"]] * 5, doc_id=["x", "x", "y", None, "x"])
    assert documents_of(rows, "document") == [(0, 2), (2, 3), (3, 4), (4, 5)]
    assert documents_of(rows, "file") == documents_of(rows, "document")
    assert documents_of(rows, "none") == [(n, n + 1) for n in range(5)]
    plain = rows.remove_columns("doc_id")
    assert documents_of(plain, "file") == [(0, 5)]
    assert documents_of(plain, "document") == documents_of(plain, "none")
    assert documents_of(plain.select([]), "file") == []


def test_rows_stand_in_the_order_of_a_text_or_not():
    text = [[f"w{n // 2}", "the", f"v{n}"] for n in range(60)]  # two sentences on each matter
    shuffled = random.Random(0).sample(text, 60)
    assert choose_neighbours(rows_of(text)) == "file"
    assert choose_neighbours(rows_of(shuffled)) == "none"
    assert choose_neighbours(rows_of([["same", "words"]] * 60)) == "none"
    assert choose_neighbours(rows_of(text[:1])) == "none"
    ids = list(range(60))
    assert choose_neighbours(rows_of(text, doc_id=ids)) == "none"  # an id for each sentence
    assert choose_neighbours(rows_of(text, id=ids)) == "file"
    assert choose_neighbours(rows_of(shuffled, document_id=[n // 3 for n in ids])) == "document"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.conll", "-DOCSTART- O\n\na O\n\nb O\n\n-DOCSTART- O\n\nc O\n"),
        ("a.jsonl", "".join(
            json.dumps({"tokens": [w], "ner_tags": ["O"], "doc_id": d}) + "\n"
            for w, d in zip("abc", (1, 1, 2), strict=True)
        )),
        ("a.tsv", "word\ttag\tdoc_id\tsent_id\na\tO\t1\t1\nb\tO\t1\t2\nc\tO\t2\t3\n"),
    ],
)  # fmt: skip
def test_files_say_which_document_a_sentence_is_of(name, content, tmp_path):
    (tmp_path / name).write_text(content)
    read = read_corpus(tmp_path / name)
    assert read["doc_id"] == ["1", "1", "2"] and list(read["tokens"]) == [["a"], ["b"], ["c"]]
    assert choose_neighbours(read) == "document"
    near = with_neighbours(read, "document", 8)
    assert near["sentences_before"] == [[], [["a"]], []]
    assert near["sentences_after"] == [[["b"]], [], []]
    assert with_neighbours(read, "none", 8) is read


def test_a_window_holds_as_much_on_both_sides():
    tokenizer = wordpiece()
    words = [[word] * 2 for word in ("to", "flew", "in", "her", "to", "flew")]
    align = TokenizeAndAlign(tokenizer, IDS, window_length=8)
    columns = align(with_neighbours(rows_of(words), "file", 8)[:])
    read = [" ".join(tokenizer.convert_ids_to_tokens(ids)) for ids in columns["input_ids"]]
    assert read == [
        "[CLS] to to flew flew in in [SEP]",
        "[CLS] to to flew flew in in [SEP]",
        "[CLS] flew flew in in her her [SEP]",
        "[CLS] in in her her to to [SEP]",
        "[CLS] her her to to flew flew [SEP]",
        "[CLS] her her to to flew flew [SEP]",
    ]
    own = [[0, 1, 1, 0, 0, 0, 0, 0], *[[0, 0, 0, 1, 1, 0, 0, 0]] * 4, [0, 0, 0, 0, 0, 1, 1, 0]]
    assert columns["word_mask"] == own
    assert columns["labels"] == [[0 if inside else -100 for inside in row] for row in own]


@pytest.mark.parametrize("kind", KINDS)
def test_training_and_prediction_read_the_same(kind):
    tokenizer = prepare_tokenizer(KINDS[kind]())
    words = random_document(30)
    recorder = Recorder()
    [found] = recorder.predict([words], tokenizer, batch_size=7)
    near = with_neighbours(rows_of(words), "file", 24)
    align = TokenizeAndAlign(tokenizer, recorder.config, max_length=40)
    columns = align(near[:])
    rows = zip(columns["input_ids"], columns["word_mask"], strict=True)
    assert recorder.seen == {(tuple(ids), tuple(mask)) for ids, mask in rows}
    assert sum(map(sum, columns["word_mask"])) == sum(map(len, words))
    ends = [sum(map(len, words[:n])) for n in range(31)]
    places = [(entity["start"], entity["end"]) for entity in found]
    assert places == list(zip(ends, ends[1:], strict=False))
    assert found[1]["text"] == " ".join(words[1])


def test_what_is_longer_than_a_window_has_less_context_and_loses_no_word():
    tokenizer = wordpiece()
    words = [["to"] * 3, ["flew"] * 22, ["in"] * 25, ["her"] * 90, ["to"] * 3]
    columns = TokenizeAndAlign(
        tokenizer, IDS, max_length=40, windows=True, window_length=24
    )(with_neighbours(rows_of(words), "file", 24)[:])  # fmt: skip
    lengths = list(map(len, columns["input_ids"]))
    assert lengths[:3] == [24, 24, 27] and lengths[-1] == 24 and max(lengths) <= 40
    assert sum(map(sum, columns["word_mask"])) == sum(map(len, words))
    recorder = Recorder()
    [found] = recorder.predict([words], tokenizer)
    places = {(entity["start"], entity["end"]) for entity in found}
    assert places >= {(0, 3), (3, 25), (25, 50), (140, 143)}
    assert max(len(ids) for ids, _ in recorder.seen) <= 40


def test_texts_are_independent_and_sentences_of_a_document_are_not():
    tokenizer, words = wordpiece(), random_document(12, seed=1)
    alone, together, without = Recorder(), Recorder(), Recorder("none")
    alone.predict(words, tokenizer)
    without.predict([words], tokenizer)
    together.predict([words, []], tokenizer)
    columns = TokenizeAndAlign(tokenizer, IDS)(rows_of(words)[:])
    rows = zip(columns["input_ids"], columns["word_mask"], strict=True)
    assert alone.seen == without.seen == {(tuple(ids), tuple(mask)) for ids, mask in rows}
    assert alone.seen.isdisjoint(together.seen)
    empty = Recorder().predict([[], [[]], [["to"], [], ["Paris"]]], tokenizer)
    assert [len(row) for row in empty] == [0, 0, 2]
    for wrong in ([["a"], "b"], [["a"], [1]], [[["a"]]]):
        with pytest.raises(ValueError, match="a list of words or of sentences' words, or"):
            Recorder().predict([wrong], tokenizer)


@pytest.mark.parametrize("neighbours", ["none", "document", "file"])
def test_evaluation_reads_what_the_model_was_trained_on(neighbours):
    tokenizer, words = wordpiece(), random_document(9, seed=2)
    rows = rows_of(words, doc_id=[n // 3 for n in range(9)])
    tags = [["B-A"] + ["I-A"] * (len(sentence) - 1) for sentence in words]
    rows = rows.remove_columns("ner_tags").add_column("ner_tags", tags)
    recorder, wanted = Recorder(neighbours), Recorder(neighbours)
    metrics, _ = evaluate_tagger(recorder, tokenizer, rows)
    assert metrics["overall_f1"] == 1
    wanted.predict(words if neighbours == "none" else [words[:3], words[3:6], words[6:]], tokenizer)
    assert recorder.seen == wanted.seen


def test_the_settings_are_saved_with_the_model(tmp_path):
    assert (SemiCRFConfig().neighbours, SemiCRFConfig().window_length) == ("none", 128)
    SemiCRFConfig(labels=TAGS, neighbours="file", window_length=64).save_pretrained(tmp_path)
    saved = SemiCRFConfig.from_pretrained(tmp_path)
    assert (saved.neighbours, saved.window_length) == ("file", 64)


def test_train_takes_the_neighbours_that_the_data_have(tmp_path, capsys):
    bert = save_tiny_bert(tmp_path / "bert")
    rows = [{**row, "doc_id": n // 4} for n, row in enumerate(sentences(24))]
    files = {
        "documents": write_jsonl(tmp_path / "documents.jsonl", rows),
        "none": write_jsonl(tmp_path / "none.jsonl", sentences(24)),
    }
    command = ["--model_name_or_path", bert, "--max_steps", "1", "--use_cpu", "true"]
    asked = ["--neighbours", "auto"]
    for name, how, expected in (
        ("documents", asked, "document"),
        ("none", asked, "none"),
        ("documents", [], "none"),
    ):
        place = str(tmp_path / name)
        train.main([*command, *how, "--train_file", files[name], "--output_dir", place])
        assert f"neighbours: {expected}\n" in capsys.readouterr().err
        assert SemiCRFConfig.from_pretrained(place).neighbours == expected
    line = error_of(
        train.main, *command, "--train_file", files["none"], "--output_dir", tmp_path / "x",
        "--neighbours", "document",
    )  # fmt: skip
    assert "none.jsonl: expected a column doc_id" in line


def test_a_model_is_changed_by_what_stands_around(tmp_path):
    torch.manual_seed(0)
    bert = save_tiny_bert(tmp_path / "bert")
    tokenizer = prepare_tokenizer(AutoTokenizer.from_pretrained(bert))
    model = SemiCRFForTokenClassification.from_pretrained(bert, labels=TAGS, neighbours="document")
    texts = [["Ada", "flew"], ["Alan", "saw", "Paris"]]
    near, far = (model.analyze([[*texts, last]], tokenizer)[0] for last in (["Oslo"], ["."]))
    first = [model.analyze([text], tokenizer)[0].token[0] for text in texts]
    assert not torch.equal(near.token[:5], far.token[:5])
    assert not torch.equal(near.token[2], first[1])
