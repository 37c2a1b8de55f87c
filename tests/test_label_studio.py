"""Suggestions for the tools of annotators, and the backend that answers Label Studio over HTTP."""

from __future__ import annotations

import json
import threading
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from tiny import sentences
from transformers import AutoTokenizer

from hf_semicrf import SemiCRFForTokenClassification
from hf_semicrf.cli import suggest
from hf_semicrf.data import read_corpus
from hf_semicrf.integrations.label_studio import Backend, Labelling, server

CONFIG = """
<View><Labels name="ner" toName="body"><Label value="PER"/><Label value="LOC"/></Labels>
<Text name="body" value="$letter"/></View>
"""
TEXT = "Yesterday Ada Lovelace saw Oslo"


@pytest.fixture(scope="module")
def model(tiny_tagger):
    return SemiCRFForTokenClassification.from_pretrained(tiny_tagger)


@pytest.fixture(scope="module")
def address(model, tiny_tagger):
    answering = server(Backend(model, AutoTokenizer.from_pretrained(tiny_tagger), "v1"), 0)
    threading.Thread(target=answering.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{answering.server_port}"
    answering.shutdown()
    answering.server_close()


def ask(address, path, body=None):
    """The status and the answer; with a body by POST."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    try:
        with urlopen(Request(address + path, data), timeout=60) as answer:
            return answer.status, json.load(answer)
    except HTTPError as error:
        return error.code, json.load(error)


def test_the_backend_answers_in_the_documented_forms(address):
    assert ask(address, "/health")[1]["status"] == "UP"
    setup = {"project": "1.0", "schema": CONFIG, "hostname": "", "access_token": ""}
    assert ask(address, "/setup", setup) == (200, {"model_version": "v1"})
    tasks = [{"id": 7, "data": {"letter": TEXT}}, {"id": 8, "data": {"letter": ""}}]
    asked = {"tasks": tasks, "project": "1.0", "label_config": CONFIG, "params": {}}
    status, answer = ask(address, "/predict", asked)
    found, empty = answer["results"]
    assert status == 200 and answer["model_version"] == found["model_version"] == "v1"
    assert [(r["from_name"], r["to_name"], r["type"]) for r in found["result"]] == [
        ("ner", "body", "labels")
    ] * 2
    assert [r["value"] for r in found["result"]] == [
        {"start": 10, "end": 22, "text": "Ada Lovelace", "labels": ["PER"]},
        {"start": 27, "end": 31, "text": "Oslo", "labels": ["LOC"]},
    ]
    assert found["score"] == min(r["score"] for r in found["result"]) and empty["result"] == []
    assert ask(address, "/train", {"project": "1.0"}) == (200, {})
    assert ask(address, "/webhook", {"action": "ANNOTATION_CREATED"}) == (200, {})


def test_what_it_cannot_answer_is_named(address):
    assert ask(address, "/nothing")[0] == 404
    assert ask(address, "/predict", b"{")[0] == ask(address, "/predict", b"[]")[0] == 400
    for config, message in {
        CONFIG.replace('<Label value="LOC"/>', ""): "got PER without LOC",
        "<View>": "expected a labelling interface in XML",
        "<View/>": "expected one tag Labels whose toName is that of a tag Text, got 0",
    }.items():
        for path, key in (("/setup", "schema"), ("/predict", "label_config")):
            status, answer = ask(address, path, {key: config, "tasks": []})
            assert status == 400 and message in answer["error"]
    tasks = [{"id": 3, "data": {"text": TEXT}}]
    status, answer = ask(address, "/predict", {"tasks": tasks, "label_config": CONFIG})
    assert status == 400 and "expected a text under 'letter'" in answer["error"]
    assert "task 3" in answer["error"]


def test_a_labelling_interface_names_its_tags():
    assert Labelling.of(CONFIG, ["LOC"]) == ("ner", "body", "letter")


@pytest.mark.parametrize("tool", ["label_studio", "prodigy", "doccano"])
def test_what_is_suggested_comes_back_as_training_data(tool, tiny_tagger, tmp_path):
    """An annotator accepts all that the tagger found; tools answer in their documented forms."""
    rows = sentences(9)
    texts = [" ".join(row["tokens"]) for row in rows]
    file = tmp_path / "texts.txt"
    file.write_text("\n".join(texts) + "\n")
    tasks = tmp_path / f"tasks.json{'' if tool == 'label_studio' else 'l'}"
    command = [tiny_tagger, "--file", str(file), "--format", tool, "--output", str(tasks)]
    suggest.main([*command, "--number", "9"])
    lines = tasks.read_text()
    suggested = json.loads(lines) if tool == "label_studio" else map(json.loads, lines.splitlines())
    done = []
    for n, task in enumerate(suggested):
        entropy = task.get("data", task)["entropy"]
        assert entropy >= 0
        if tool == "label_studio":
            [prediction] = task.pop("predictions")
            assert prediction["model_version"] == tiny_tagger
            result = [{**r, "origin": "prediction"} for r in prediction["result"]]
            annotation = {"id": n, "result": result, "was_cancelled": False, "ground_truth": False}
            done.append({"id": n, **task, "annotations": [annotation], "predictions": [n]})
        elif tool == "prodigy":
            done.append({**task, "_input_hash": n, "_task_hash": n, "answer": "accept"})
        else:
            done.append({"id": n, **task, "Comments": []})
    export = tmp_path / f"export{tasks.suffix}"
    texts_of = json.dumps(done) if tool == "label_studio" else "\n".join(map(json.dumps, done))
    export.write_text(texts_of + "\n")
    found = {" ".join(row["tokens"]): row["ner_tags"] for row in read_corpus(export)}
    assert found == {" ".join(row["tokens"]): row["ner_tags"] for row in rows}
