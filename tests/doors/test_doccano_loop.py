"""Suggestions in a running doccano, corrected there, exported, and a better model.

Every letter begins with a character of two UTF-16 units, in which doccano's page counts.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from letters import free_port, learn, letters, spans_of, wait_for
from tiny import save_tiny_bert, write_jsonl

from hf_semicrf.cli import suggest
from hf_semicrf.data import read_corpus

COMMAND = os.environ.get("DOCCANO") or shutil.which(
    "doccano", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}"
)
pytestmark = pytest.mark.skipif(COMMAND is None, reason="no doccano on the path")
PASSWORD = "secret-of-the-test"
BORDER = "a border that is in no letter"
PROJECT = {
    "name": "Letters",
    "description": "of the test",
    "project_type": "SequenceLabeling",
    "resourcetype": "SequenceLabelingProject",
}


class Doccano:
    """A doccano that runs, with one project: its address, and requests to it."""

    def __init__(self, folder: Path):
        port = free_port()
        self.address, self.token = f"http://127.0.0.1:{port}/v1", None
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        environment["DOCCANO_HOME"] = str(folder)
        log = (folder / "log").open("w+")
        how = {"stdout": log, "stderr": log, "env": environment}
        user = ["--username", "a", "--password", PASSWORD, "--email", "a@example.org"]
        for command in (["init"], ["createuser", *user]):
            subprocess.run([COMMAND, *command], check=True, **how)
        web = ["webserver", "--port", str(port), "--workers", "1"]
        self.processes = [
            subprocess.Popen([COMMAND, *command], **how)
            for command in (web, ["task", "--concurrency", "1"])
        ]
        login = {"username": "a", "password": PASSWORD}
        wait_for(self.processes[0], lambda: self.ask("POST", "/auth/login/", login), folder / "log")
        self.token = self.ask("POST", "/auth/login/", login)["key"]
        self.project = f"/projects/{self.ask('POST', '/projects', PROJECT)['id']}"
        for label in ("PER", "LOC"):
            self.ask("POST", f"{self.project}/span-types", {"text": label})

    def ask(self, method: str, path: str, body=None, kind: str = "application/json"):
        """What an answer holds: JSON, or bytes."""
        headers = {"Content-Type": kind}
        if self.token:
            headers["Authorization"] = f"Token {self.token}"
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        request = Request(self.address + path, data, headers, method=method)
        with urlopen(request, timeout=300) as answer:
            content = answer.read()
            return json.loads(content) if "json" in answer.headers.get_content_type() else content

    def wait(self, started):
        """The result of a task that doccano does in the background."""
        while not (status := self.ask("GET", f"/tasks/status/{started['task_id']}"))["ready"]:
            time.sleep(1)
        assert not status["error"], status
        return status["result"]

    def load(self, file: Path):
        """Import a file of texts and spans."""
        head = f'Content-Disposition: form-data; name="filepond"; filename="{file.name}"'
        part = f"--{BORDER}\r\n{head}\r\n\r\n{file.read_text()}\r\n--{BORDER}--\r\n"
        kind = f'multipart/form-data; boundary="{BORDER}"'
        uploaded = self.ask("POST", "/fp/process/", part.encode(), kind).decode()
        how = {"format": "JSONL", "task": "SequenceLabeling", "column_data": "text"}
        how |= {"column_label": "label", "encoding": "utf_8", "uploadIds": [uploaded]}
        assert self.wait(self.ask("POST", f"{self.project}/upload", how)) == {"error": []}

    def annotate(self, truth):
        """Correct and confirm all texts that are not confirmed; spans left, added and removed."""
        types = {kind["id"]: kind["text"] for kind in self.ask("GET", f"{self.project}/span-types")}
        numbers = {name: number for number, name in types.items()}
        left = added = removed = 0
        for text in self.ask("GET", f"{self.project}/examples?limit=1000")["results"]:
            if text["is_confirmed"]:
                continue
            place, wanted = f"{self.project}/examples/{text['id']}", set(truth[text["text"]])
            for span in self.ask("GET", f"{place}/spans"):
                known = (span["start_offset"], span["end_offset"], types[span["label"]])
                if known in wanted:
                    wanted.remove(known)
                    left += 1
                else:
                    self.ask("DELETE", f"{place}/spans/{span['id']}")
                    removed += 1
            for start, end, label in wanted:
                span = {"start_offset": start, "end_offset": end, "label": numbers[label]}
                self.ask("POST", f"{place}/spans", {**span, "prob": 0.0})
                added += 1
            self.ask("POST", f"{place}/states", {})
        return left, added, removed

    def export(self, file: Path):
        """Export the texts that are confirmed."""
        how = {"format": "JSONL", "exportApproved": True}
        started = self.ask("POST", f"{self.project}/download", how)
        self.wait(started)
        content = self.ask("GET", f"{self.project}/download?taskId={started['task_id']}")
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            [name] = archive.namelist()
            file.write_bytes(archive.read(name))
        return file


@pytest.fixture(scope="module")
def doccano(tmp_path_factory):
    running = Doccano(tmp_path_factory.mktemp("doccano"))
    yield running
    for process in running.processes:
        process.terminate()
        process.wait(60)


def marked(row):
    """A text, and what an annotator marks in doccano's page."""
    text, spans = spans_of(row)

    def units(n):
        return len(text[:n].encode("utf-16-le")) // 2

    return text, [(units(start), units(end), label) for start, end, label in spans]


def test_the_loop(doccano, tmp_path):
    rows = [
        {"tokens": ["🎈", *row["tokens"]], "ner_tags": ["O", *row["ner_tags"]]} for row in letters()
    ]
    test, rows = rows[:44], rows[44:]
    truth = dict(map(marked, rows))
    texts = list(truth)
    start = [{"text": text, "label": []} for text in texts[:6]]
    doccano.load(Path(write_jsonl(tmp_path / "start.jsonl", start)))
    assert doccano.annotate(truth) == (0, 12, 0)
    bert = save_tiny_bert(tmp_path / "bert")
    file = write_jsonl(tmp_path / "test.jsonl", test)
    first = doccano.export(tmp_path / "first.jsonl")
    assert sorted(read_corpus(first)["text"]) == sorted(texts[:6])
    before = learn(first, file, bert, str(tmp_path / "out1"))

    rest = tmp_path / "unlabelled.txt"
    rest.write_text("".join(f"{text}\n" for text in texts[6:]))
    suggested = tmp_path / "suggested.jsonl"
    suggest.main([str(tmp_path / "out1"), "--file", str(rest), "--format", "doccano",
                  "--number", "30", "--output", str(suggested), "--device", "cpu"])  # fmt: skip
    doccano.load(suggested)
    left, added, removed = doccano.annotate(truth)
    found = sum(len(json.loads(line)["label"]) for line in suggested.read_text().splitlines())
    assert left + removed == found and left + added == 60 and left > 0
    second = doccano.export(tmp_path / "second.jsonl")
    read = read_corpus(second)
    assert len(read) == 36
    known = {" ".join(row["tokens"]): row["ner_tags"] for row in rows}
    assert all(known[" ".join(row["tokens"])] == row["ner_tags"] for row in read)
    after = learn(second, file, bert, str(tmp_path / "out2"))
    print(f"\n6 texts: F1 {100 * before:.1f}; 36 texts: F1 {100 * after:.1f}; "
          f"{left} spans left, {added} added, {removed} removed")  # fmt: skip
    assert after > before
