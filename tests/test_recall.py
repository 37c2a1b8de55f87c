"""A promised recall: candidates of whole texts, what a promise depends on, and redaction."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from datasets import Dataset
from tiny import NAMES, PLACES, error_of, sentences, write_jsonl
from transformers import AutoTokenizer

from hf_semicrf import (
    LabelScheme,
    SemiCRFForTokenClassification,
    SemiCRFTrainer,
    SemiCRFTrainingArguments,
    ops,
    prepare_tokenizer,
)
from hf_semicrf.cli import calibrate, redact
from hf_semicrf.evaluation import NotCarriedError, calibrate_recall, found_at
from hf_semicrf.hub import render_card
from hf_semicrf.inference import Candidates, read_candidates, restore
from hf_semicrf.inference.candidates import joined_candidates
from hf_semicrf.inference.redaction import union
from hf_semicrf.pipeline import SemiCRFPipeline
from hf_semicrf.text import Window

LEAST, R = 1e-4, 0.97


def loaded(folder: str, temperature: float = 4.0):
    """The tiny tagger, made unsure."""
    model = SemiCRFForTokenClassification.from_pretrained(folder)
    model.set_temperature(temperature)
    return model, prepare_tokenizer(AutoTokenizer.from_pretrained(folder))


@pytest.fixture
def tagger(tiny_tagger):
    return loaded(tiny_tagger)


def rows(count: int = 120) -> Dataset:
    """Sentences of which every seventh has a name that nobody tagged before."""
    made = sentences(count)
    for number, row in enumerate(made):
        if number % 7 == 0:
            row["tokens"] = [PLACES[2] if word in NAMES else word for word in row["tokens"]]
    return Dataset.from_list(made)


def written(data: Dataset) -> Dataset:
    """The same sentences as texts."""
    texts, offsets = [], []
    for words in data["tokens"]:
        at = 0
        places = []
        for word in words:
            places.append([at, at + len(word)])
            at += len(word) + 1
        texts.append(" ".join(words))
        offsets.append(places)
    return data.add_column("text", texts).add_column("offsets", offsets)


def letters_of(count: int) -> list[dict]:
    """The same as annotation tools write them: texts and spans."""
    scheme = LabelScheme.from_labels(["O", "B-PER", "I-PER", "B-LOC", "I-LOC"])
    return [
        {
            "text": row["text"],
            "entities": [
                {"start": row["offsets"][a][0], "end": row["offsets"][b - 1][1], "label": kind}
                for a, b, kind in scheme.tags_to_spans(row["ner_tags"])
            ],
        }
        for row in written(rows(count))
    ]


@pytest.fixture
def promised(tagger):
    """The tagger with a promise of strings, and the promise."""
    model, tokenizer = tagger
    return model, tokenizer, calibrate_recall(model, tokenizer, written(rows(200)), R)


def spans(entities):
    return [(e["start"], e["end"], e["label"]) for e in entities]


# Candidates


def test_candidates_are_all_segments_of_enough_posterior(tagger):
    model, tokenizer = tagger
    texts = ["Ada Lovelace saw Paris .", ["Yesterday", "Alan", "saw"], "saw", ""]
    documents = read_candidates(model, texts, tokenizer, LEAST)
    for document in documents[:3]:
        inputs = tokenizer(" ".join(document.words), return_tensors="pt")
        with torch.no_grad():
            head = model(**inputs, output_head=True).head
        posterior = ops.marginals(head.potentials.map(lambda x: x / 4), segment=True).segment[0]
        expected = {
            (n, n + d + 1, c): float(posterior[n, d, c])
            for n, d, c in (posterior >= LEAST).nonzero().tolist()
            if c
        }
        found = document.candidates()
        keys = list(zip(*(x.tolist() for x in found[:3]), strict=True))
        assert keys == sorted(expected) and len(keys) > len(document.words)
        assert found.posterior.tolist() == pytest.approx([expected[key] for key in keys], rel=1e-4)
    assert len(documents[3].candidates().first) == 0


def test_the_dense_form_has_the_same_candidates(tagger):
    model, tokenizer = tagger
    texts = ["Ada Lovelace saw Paris .", "Grace Hopper flew ."]
    before = [d.candidates() for d in read_candidates(model, texts, tokenizer, LEAST)]
    model.classifier.dense = True
    for one, other in zip(before, read_candidates(model, texts, tokenizer, LEAST), strict=True):
        assert all(map(np.array_equal, one[:3], other.candidates()[:3]))
        np.testing.assert_allclose(one.posterior, other.candidates().posterior, rtol=1e-4)


def test_a_candidate_comes_from_the_window_in_which_it_has_most_context():
    windows = [Window(0, 6, {}, []), Window(4, 10, {}, []), Window(8, 12, {}, [])]
    texts = [(0, 6), (4, 10), (8, 12)]
    parts = [
        Candidates(*(np.array(x) for x in zip(*[
            (a - first, b - first, 1, 0.1 * number + 0.1)
            for a in range(first, end) for b in range(a + 1, min(a + 3, end + 1))
        ], strict=True)))
        for number, (first, end) in enumerate(texts)
    ]  # fmt: skip
    joined = joined_candidates(windows, parts)
    found = {(a, b): p for a, b, _, p in zip(*(x.tolist() for x in joined), strict=True)}
    # every segment of up to two words once, though the windows share two
    assert len(found) == len(joined.first) == 12 + 11
    window = {key: round(10 * p) - 1 for key, p in found.items()}
    assert window[3, 4] == 0 and window[4, 5] == 0 and window[5, 6] == 1 and window[6, 7] == 1
    assert window[3, 5] == 0 and window[5, 7] == 1 and window[4, 6] == 0  # of two equal, the first
    assert window[8, 9] == 1 and window[9, 10] == 2 and window[10, 12] == 2


def test_long_texts_are_read_in_windows(tagger):
    model, tokenizer = tagger
    text = " ".join(["Ada Lovelace saw Paris ."] * 30)
    [whole] = read_candidates(model, [text], tokenizer, 0.05, max_length=20)
    found = whole.candidates()
    assert len(whole.results) > 5 and len(whole.words) == 150
    assert len(set(zip(found.first, found.end, found.type, strict=True))) == len(found.first)
    assert {(n, n + 2) for n in range(0, 150, 5)} <= set(zip(found.first, found.end, strict=True))


def test_how_an_entity_is_found():
    columns = ([0, 0, 1, 3], [2, 1, 3, 4], [1, 2, 1, 2], [0.5, 0.9, 0.2, 0.7])
    candidates = Candidates(*map(np.array, columns))
    assert candidates.coverage(5).tolist() == [0.9, 0.5, 0.2, 0.7, 0]
    gold = [(0, 2, 1), (0, 2, 2), (0, 3, 1), (3, 5, 2), (3, 4, -1)]
    assert found_at(gold, candidates, 5, "exact").tolist() == [0.5, 0, 0, 0, 0]
    assert found_at(gold, candidates, 5, "words").tolist() == [0.5, 0.5, 0.2, 0, 0.7]
    assert found_at([], candidates, 5, "words").tolist() == []


# Promises


@pytest.mark.parametrize("covering", ["words", "exact"])
def test_a_promise_is_what_the_data_say(tagger, covering):
    model, tokenizer = tagger
    data = rows(200)
    promise = calibrate_recall(model, tokenizer, data, 0.8, covering=covering, name="rows")
    [part] = promise["parts"]
    assert model.config.promises == [promise]
    assert (promise["unit"], promise["rows"], promise["data"]) == ("row", 200, "rows")
    assert part["largest"] == 2 and part["method"] == "conformal risk control"
    found = model.predict(list(data["tokens"]), tokenizer, recall=0.8)
    assert all(e["score"] >= part["threshold"] for row in found for e in row)
    scheme, missed, extra, own = model.config.scheme, 0, 0, 0
    for entities, tags in zip(found, data["ner_tags"], strict=True):
        gold = [tuple(span) for span in scheme.tags_to_spans(tags)]
        covered = {n for e in entities for n in range(e["start"], e["end"])}
        inside = {n for a, b, _ in gold for n in range(a, b)}
        if covering == "exact":
            missed += sum(span not in spans(entities) for span in gold)
        else:
            missed += sum(not set(range(a, b)) <= covered for a, b, _ in gold)
        extra, own = extra + len(covered - inside), own + len(inside)
    assert part["missed"] <= missed + 2 and missed <= 0.2 * 266 - 1  # two are set aside
    assert part["extra_words"] == pytest.approx(extra / own, abs=1e-4)


def test_a_confidence_asks_for_a_lower_threshold(tagger):
    model, tokenizer = tagger
    data = rows(300)
    mean = calibrate_recall(model, tokenizer, data, 0.8)
    sure = calibrate_recall(model, tokenizer, data, 0.8, 0.95)
    assert sure["parts"][0]["threshold"] <= mean["parts"][0]["threshold"]
    assert sure["parts"][0]["missed"] < mean["parts"][0]["missed"]
    assert sure["parts"][0]["method"] == "betting bound"
    assert model.config.promises == [sure]  # in the place of the first


def test_types_have_a_promise_each(tagger):
    model, tokenizer = tagger
    data = rows(300)
    promise = calibrate_recall(model, tokenizer, data, 0.8, types=["PER", "LOC"])
    thresholds = {part["type"]: part["threshold"] for part in promise["parts"]}
    assert promise["parts"][1]["largest"] == 1
    found = [e for row in model.predict(list(data["tokens"]), tokenizer, recall=0.8) for e in row]
    assert {e["label"] for e in found} == set(thresholds)
    assert all(e["score"] >= thresholds[e["label"]] for e in found)
    calibrate_recall(model, tokenizer, data, 0.9, types=["LOC"])
    found = [e for row in model.predict(list(data["tokens"]), tokenizer, recall=0.9) for e in row]
    assert {e["label"] for e in found} == {"LOC"}
    with pytest.raises(ValueError, match=r"types of the model, PER, LOC, got \['ORG'\]"):
        calibrate_recall(model, tokenizer, data, 0.9, types=["ORG"])


def test_rows_of_a_document_are_one_unit(tagger):
    model, tokenizer = tagger
    data = rows(200).add_column("letter", [n // 4 for n in range(200)])
    promise = calibrate_recall(model, tokenizer, data, 0.7, document_column="letter")
    assert promise["unit"] == "letter" and promise["parts"][0]["documents"] == 49
    assert promise["parts"][0]["largest"] > 4


def test_gold_that_ends_inside_a_word_is_found_by_its_words_alone(tagger):
    model, tokenizer = tagger
    data = written(rows(150))
    data = data.map(lambda row: {"offsets": [[a, b - (b - a > 1)] for a, b in row["offsets"]]})
    promise = calibrate_recall(model, tokenizer, data, 0.8)
    assert promise["depends_on"]["texts"] == "strings"
    with pytest.raises(NotCarriedError, match="198 that are never found"):
        calibrate_recall(model, tokenizer, data, 0.8, covering="exact")


def test_too_little_data_name_the_best_that_they_carry(tagger):
    model, tokenizer = tagger
    with pytest.raises(
        NotCarriedError, match="recall of 0.99 in expectation, got 25 ent"
    ) as caught:
        calibrate_recall(model, tokenizer, rows(20), 0.99)
    assert 0.8 < caught.value.best <= 25 / 27 and model.config.promises == []
    assert calibrate_recall(model, tokenizer, rows(20), caught.value.best)
    with pytest.raises(NotCarriedError, match="^PER: expected .*; LOC: expected "):
        calibrate_recall(model, tokenizer, rows(20), 0.99, types=["PER", "LOC"])


def test_unknown_tags_and_columns_are_refused(tagger):
    with pytest.raises(ValueError, match=r"expected columns \['letter'\], got \['tokens', "):
        calibrate_recall(*tagger, rows(3), 0.5, document_column="letter")
    data = Dataset.from_list([{"tokens": ["Ada", "saw"], "ner_tags": ["B-PER", "?"]}])
    with pytest.raises(ValueError, match="row 0: expected a tag for each word, got an unknown one"):
        calibrate_recall(*tagger, data, 0.5)


def test_a_promise_is_saved_and_holds_for_the_saved_model(promised, tmp_path):
    model, tokenizer, promise = promised
    text = "Ada Lovelace saw Paris ."
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path)
    before = model.predict([text], tokenizer, recall=R)
    saved, again = loaded(str(tmp_path))
    assert saved.config.promises == [json.loads(json.dumps(promise))]
    assert saved.predict([text], again, recall=R) == before
    assert SemiCRFPipeline(model=saved, tokenizer=again)(text, recall=R) == before[0]
    with torch.no_grad():
        saved.classifier.initial_bias += 1
    with pytest.raises(
        ValueError, match="expected weights '.*', with which recall 0.97 was promis"
    ):
        saved.predict([text], again, recall=R)


CHANGES = {
    "temperature": lambda model: model.set_temperature(2.0),
    "settings": lambda model: model.set_constraints({"types": ["PER"]}),
    "precision": lambda model: model.config and model.double(),
    "splitter": lambda model: setattr(model.config, "splitter", "hyphens"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_promise_is_refused_where_the_model_differs(promised, name):
    model, tokenizer, _ = promised
    CHANGES[name](model)
    if name == "precision":  # which shows in the weights too
        name = "weights"
    with pytest.raises(
        ValueError, match=f"expected {name} .*recall 0.97 was promised.*calibrate ag"
    ):
        model.predict(["Ada saw Paris ."], tokenizer, recall=R)


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        (["Ada"], {"max_length": 20}, "expected max_length 64, .* got 20"),
        (["Ada"], {"overlap": 3}, "expected overlap None, .* got 3"),
        (["Ada"], {"splitter": "spaces"}, "expected splitter 'unicode', .* got 'spaces'"),
        (["Ada", ["Ada"]], {}, r"expected strings, .* got lists of words \(text 1\)"),
        (["Ada"], {"constraints": [[{"start": 0, "end": 3, "label": "PER"}]]}, "got both"),
        (["Ada"], {"recall": 0.95}, r"was calibrated for \(0.97\), got 0.95"),
    ],
)
def test_a_promise_is_refused_under_other_options(promised, texts, options, message):
    model, tokenizer, _ = promised
    with pytest.raises(ValueError, match=message):
        model.predict(texts, tokenizer, **{"recall": R, **options})


def test_a_promise_holds_in_a_stream(promised):
    model, tokenizer, _ = promised
    texts = ["Ada Lovelace saw Paris .", "saw ."]
    expected = model.predict(texts, tokenizer, recall=R)
    assert list(model.predict_stream(iter(texts), tokenizer, recall=R)) == expected
    with pytest.raises(ValueError, match=r"got lists of words \(text 1\)"):
        list(model.predict_stream(iter([texts[0], ["saw"]]), tokenizer, recall=R))
    with pytest.raises(ValueError, match="expected cuda_graphs or a recall, got both"):
        model.predict(texts, tokenizer, recall=R, cuda_graphs=True)


def test_a_promise_that_was_changed_by_hand_is_refused(promised):
    model, tokenizer, promise = promised
    promise["parts"][0]["threshold"] = 0.5
    with pytest.raises(ValueError, match="promise of recall 0.97 as it was made, got one that has"):
        model.predict(["Ada"], tokenizer, recall=R)


def test_scores_that_are_none_are_refused(tagger):
    model, tokenizer = tagger
    with torch.no_grad():
        model.get_input_embeddings().weight[tokenizer.vocab["Ada"]] = math.nan
    with pytest.raises(ValueError, match=r"text 1, words \[0, 4\): expected finite scores"):
        read_candidates(model, ["saw Paris .", "Ada saw Paris ."], tokenizer, LEAST)


def test_the_trainer_promises_and_its_card_says_so(tagger, tmp_path):
    model, tokenizer = tagger
    args = SemiCRFTrainingArguments(str(tmp_path), use_cpu=True, report_to="none")
    trainer = SemiCRFTrainer(model, args, processing_class=tokenizer)
    promise = trainer.calibrate_recall(rows(200), 0.9, 0.8, types=["PER"], name="letters")
    trainer.save_model()
    trainer.create_model_card()
    card = (tmp_path / "README.md").read_text()
    assert "| 0.9 | 0.8 | PER | all words |" in card and "with up to 1, letters |" in card
    assert loaded(str(tmp_path))[0].config.promises == [promise]


@pytest.mark.gpu
def test_candidates_on_a_gpu(tagger):
    model, tokenizer = tagger
    texts = list(rows(40)["tokens"])
    before = read_candidates(model, texts, tokenizer, LEAST)
    after = read_candidates(model.cuda(), texts, tokenizer, LEAST)
    for one, other in zip(before, after, strict=True):
        for threshold in (0.01, 0.5):  # the least ones may be lost in rounding errors
            kept = [
                x.where(x.posterior >= threshold) for x in (one.candidates(), other.candidates())
            ]
            np.testing.assert_allclose(kept[0].posterior, kept[1].posterior, rtol=1e-3)
            assert all(map(np.array_equal, kept[0][:3], kept[1][:3]))


# Redaction


def test_redaction_covers_the_union_and_can_be_undone(promised):
    model, tokenizer, _ = promised
    texts = ["Ada Lovelace saw Paris .\nAda Lovelace flew .", "saw ."]
    found = model.predict(texts, tokenizer, recall=R)
    for replace in ("label", "mask", "mapping"):
        redactions = model.redact(texts, tokenizer, recall=R, replace=replace)
        for text, entities, redaction in zip(texts, found, redactions, strict=True):
            covered = {n for s in redaction.spans for n in range(s["start"], s["end"])}
            assert covered == {n for e in entities for n in range(e["start"], e["end"])}
            assert not {"Ada", "Paris"} & set(redaction.text.split())
            if replace == "mapping":
                assert restore(redaction.text, redaction.mapping) == text
                assert set(redaction.mapping.values()) == {
                    text[s["start"] : s["end"]] for s in redaction.spans
                }
            else:
                assert redaction.mapping == {}
            if replace == "mask":
                assert len(redaction.text) == len(text)
    assert redactions[0].text.count("[PER_1]") >= 1


def test_overlapping_entities_are_one_run_under_the_most_probable_label():
    entities = [
        {"label": label, "score": score, "start": start, "end": end}
        for start, end, label, score in [
            (0, 4, "A", 0.1), (2, 6, "B", 0.3), (2, 3, "C", 0.2), (6, 8, "C", 0.9)
        ]
    ]  # fmt: skip
    assert union(entities) == [
        {"start": 0, "end": 6, "label": "B"},
        {"start": 6, "end": 8, "label": "C"},
    ]


def test_signs_are_none_that_the_text_has_already(promised):
    model, tokenizer, _ = promised
    text = "[PER_1] [PER_2] saw Ada Lovelace . [LOC_1]"
    [redaction] = model.redact([text], tokenizer, recall=R, replace="mapping")
    assert restore(redaction.text, redaction.mapping) == text
    assert not any(sign in text for sign in redaction.mapping)


def test_lists_of_words_are_redacted_as_lists(tagger):
    model, tokenizer = tagger
    calibrate_recall(model, tokenizer, rows(200), R)
    words = ["Yesterday", "Ada", "Lovelace", "saw", "Paris", "."]
    [redaction] = model.redact([words], tokenizer, recall=R, replace="mapping")
    assert isinstance(redaction.text, list) and "Ada" not in redaction.text
    assert " ".join(restore(redaction.text, redaction.mapping)) == " ".join(words)


# Commands


@pytest.fixture
def folder(tiny_tagger, tmp_path):
    """A saved tagger with a card, and a file of texts to calibrate on."""
    model, tokenizer = loaded(tiny_tagger)
    place = tmp_path / "model"
    for part in (model, tokenizer):
        part.save_pretrained(place)
    (place / "README.md").write_text(render_card(model.config))
    write_jsonl(tmp_path / "letters.jsonl", letters_of(200))
    return place


def test_the_commands_promise_and_redact(folder, tmp_path, capsys):
    letters = tmp_path / "letters.jsonl"
    weights = (folder / "model.safetensors").read_bytes()
    calibrate.main([str(folder), "--file", str(letters), "--recall", "0.97"])
    table = capsys.readouterr().out
    assert "| 0.97 | on average | all types | all words |" in table and "letters.jsonl" in table
    calibrate.main([str(folder), "--file", str(letters), "--recall", "0.8", "--confidence", "0.97"])
    card = (folder / "README.md").read_text()
    assert card.count("## Promised recall") == 1 and table.splitlines()[2] in card
    assert capsys.readouterr().out.splitlines()[2] in card and "| 0.8 | 0.97 |" not in table
    assert card.index("## Calibration") < card.index("## Promised") < card.index("## Speed")
    assert (folder / "model.safetensors").read_bytes() == weights
    line = error_of(calibrate.main, folder, "--file", letters, "--recall", "0.999")
    assert "is the best that they carry" in line

    fours = [{**row, "doc_id": f"letter {n // 4}"} for n, row in enumerate(letters_of(200))]
    file = write_jsonl(tmp_path / "fours.jsonl", fours)
    calibrate.main([str(folder), "--file", file, "--recall", "0.6", "--document_column", "doc_id"])
    [promise] = (p for p in json.loads((folder / "config.json").read_text())["promises"]
                 if p["recall"] == 0.6)  # fmt: skip
    assert promise["unit"] == "doc_id" and promise["parts"][0]["documents"] == 49

    out, mapping = tmp_path / "out.jsonl", tmp_path / "mapping.jsonl"
    mapping.touch(0o644)
    command = [str(folder), "--file", str(letters), "--recall", "0.97"]
    redact.main([*command, "--output", str(out), "--replace", "mapping", "--mapping", str(mapping)])
    assert "fields left out: entities" in capsys.readouterr().err
    assert mapping.stat().st_mode & 0o077 == 0
    pairs = zip(letters.open(), out.open(), mapping.open(), strict=True)
    for number, (old, new, signs) in enumerate((map(json.loads, pair) for pair in pairs), start=1):
        assert new.keys() == {"text"} and signs["row"] == number
        assert restore(new["text"], signs["mapping"]) == old["text"]

    plain = tmp_path / "plain.txt"
    plain.write_text("Ada Lovelace saw Paris .\n\nsaw .\n")
    redact.main([str(folder), "--file", str(plain), "--recall", "0.97"])
    lines = capsys.readouterr().out.split("\n")
    assert len(lines) == 4 and "[" in lines[0] and "Ada" not in lines[0] and lines[1] == ""


def test_the_commands_say_in_a_line_what_is_wrong(folder, tmp_path):
    letters = tmp_path / "letters.jsonl"
    line = error_of(redact.main, folder, "--file", letters, "--recall", "0.97")
    assert "calibrated for (none), got 0.97" in line
    line = error_of(redact.main, folder, "--file", letters, "--recall", "0.97", "--replace=mapping")
    assert "expected --mapping FILE" in line
    line = error_of(calibrate.main, folder, "--file", letters, "--misaligned", "drop")
    assert "would not count as missed" in line
    line = error_of(calibrate.main, tmp_path, "--file", letters)
    assert "found no config.json" in line
