"""From a project's export to a model, to suggestions in Label Studio, to a better model."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from letters import free_port, learn, letters, spans_of, wait_for
from tiny import ROOT, save_tiny_bert, write_jsonl
from transformers import AutoTokenizer

from hf_semicrf import SemiCRFForTokenClassification
from hf_semicrf.cli import suggest
from hf_semicrf.data import read_corpus
from hf_semicrf.integrations import Backend, server

COMMAND = os.environ.get("LABEL_STUDIO") or shutil.which(
    "label-studio", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}"
)
pytestmark = pytest.mark.skipif(COMMAND is None, reason="no label-studio on the path")
TOKEN = "0123456789abcdef0123456789abcdef01234567"
LABELS = '<Labels name="label" toName="text"><Label value="PER"/><Label value="LOC"/></Labels>'
CONFIG = f'<View>{LABELS}<Text name="text" value="$text"/></View>'
PAGE = (ROOT / "docs" / "label.md").read_text()


class Studio:
    """A Label Studio that runs: its address, and requests to it."""

    def __init__(self, folder: Path):
        port = free_port()
        self.address = f"http://127.0.0.1:{port}"
        command = [COMMAND, "start", "--no-browser", "--port", str(port), "--data-dir", folder]
        command += ["--username", "a@example.org", "--password", "secret-of-the-test"]
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("PYTHON")},
            "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
            "COLLECT_ANALYTICS": "false",
            "ML_BLOCK_LOCAL_IP": "false",  # so that it asks a backend on this machine
            "SSRF_PROTECTION_ENABLED": "false",
        }
        self.log = (folder / "log").open("w+")
        self.process = subprocess.Popen(
            [*command, "--user-token", TOKEN], stdout=self.log, stderr=self.log, env=environment
        )
        wait_for(self.process, lambda: self.ask("GET", "/api/projects/"), folder / "log")

    def ask(self, method: str, path: str, body=None):
        """The JSON of an answer."""
        headers = {"Authorization": f"Token {TOKEN}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = Request(self.address + path, data, headers, method=method)
        with urlopen(request, timeout=300) as answer:
            content = answer.read()
        return json.loads(content) if content else None


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    running = Studio(tmp_path_factory.mktemp("studio"))
    yield running
    running.process.terminate()
    running.process.wait(60)


def annotation_of(row):
    """A text, and what an annotator marks in it."""
    text, spans = spans_of(row)
    return text, [
        {
            "type": "labels",
            "from_name": "label",
            "to_name": "text",
            "value": {"start": start, "end": end, "text": text[start:end], "labels": [label]},
        }
        for start, end, label in spans
    ]


def annotate(studio, project, truth):
    """Do all tasks that are not done yet; the number of those."""
    done = 0
    for task in studio.ask("GET", f"/api/projects/{project}/tasks/?page_size=1000"):
        if not task["annotations"]:
            annotation = {"result": truth[task["data"]["text"]]}
            studio.ask("POST", f"/api/tasks/{task['id']}/annotations/", annotation)
            done += 1
    return done


def test_the_loop(studio, tmp_path):
    rows = letters()
    test, rows = rows[:44], rows[44:]
    truth = dict(map(annotation_of, rows))
    texts = list(truth)
    project = studio.ask("POST", "/api/projects/", {"title": "Letters", "label_config": CONFIG})
    number = project["id"]

    def load(tasks):
        studio.ask("POST", f"/api/projects/{number}/import", tasks)

    def export(name):
        tasks = studio.ask("GET", f"/api/projects/{number}/export?exportType=JSON")
        (tmp_path / name).write_text(json.dumps(tasks))
        return tmp_path / name

    load([{"text": text} for text in texts[:6]])
    assert annotate(studio, number, truth) == 6
    bert = save_tiny_bert(tmp_path / "bert")
    file = write_jsonl(tmp_path / "test.jsonl", test)
    first = export("first.json")
    assert len(read_corpus(first)) == 6
    before = learn(first, file, bert, str(tmp_path / "out1"))

    rest = tmp_path / "unlabelled.txt"
    rest.write_text("".join(f"{text}\n" for text in texts[6:]))
    tasks = tmp_path / "tasks.json"
    suggest.main([str(tmp_path / "out1"), "--file", str(rest), "--format", "label_studio",
                  "--number", "30", "--output", str(tasks), "--device", "cpu"])  # fmt: skip
    load(json.loads(tasks.read_text()))
    shown = studio.ask("GET", f"/api/projects/{number}/tasks/?page_size=1000")
    suggested = [task for task in shown if not task["annotations"]]
    assert len(suggested) == 30 and all(task["predictions"] for task in suggested)
    assert annotate(studio, number, truth) == 30
    second = export("second.json")
    assert len(read_corpus(second)) == 36
    after = learn(second, file, bert, str(tmp_path / "out2"))
    print(f"\n6 texts: F1 {100 * before:.1f}; 36 texts: F1 {100 * after:.1f}")
    assert after > before


def test_label_studio_asks_the_backend(studio, tiny_tagger):
    model = SemiCRFForTokenClassification.from_pretrained(tiny_tagger)
    answering = server(Backend(model, AutoTokenizer.from_pretrained(tiny_tagger), "v1"), 0)
    threading.Thread(target=answering.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{answering.server_port}"
    project = studio.ask("POST", "/api/projects/", {"title": "Asked", "label_config": CONFIG})["id"]
    text = "Yesterday Ada Lovelace saw Oslo"
    studio.ask("POST", f"/api/projects/{project}/import", [{"text": text}])
    made = studio.ask("POST", "/api/ml/", {"project": project, "url": url, "title": "tagger"})
    assert made["state"] == "CO" and made["model_version"] == "v1", made
    asked = {"selectedItems": {"all": True, "excluded": []}}
    path = f"/api/dm/actions/?id=retrieve_tasks_predictions&project={project}"
    studio.ask("POST", path, asked)
    [task] = studio.ask("GET", f"/api/projects/{project}/tasks/")
    [prediction] = studio.ask("GET", f"/api/predictions/?task={task['id']}")
    assert [(r["value"]["text"], r["value"]["labels"]) for r in prediction["result"]] == [
        ("Ada Lovelace", ["PER"]),
        ("Oslo", ["LOC"]),
    ]
    answering.shutdown()


def test_the_commands_of_the_page_are_those_of_the_library():
    blocks = re.findall(r"^```bash\n(.*?)^```", PAGE, re.M | re.S)
    [block] = [block for block in blocks if "export.json" in block]
    assert "hf-semicrf suggest" in block and "hf-semicrf train" in block
