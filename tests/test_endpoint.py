"""What a push carries for an Inference Endpoint, and that it answers."""
# ruff: noqa: F811

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from test_hub import push_error, pushed
from tiny import ROOT, error_of

from hf_semicrf.cli import push

PAGE = (ROOT / "docs" / "endpoints.md").read_text()
METADATA = """\
Metadata-Version: 2.4
Name: hf_semicrf
Version: 0.1.0
Requires-Dist: torch>=2.11
Requires-Dist: transformers>=5.0
Requires-Dist: onnx>=1.19; extra == "onnx"
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The package as a wheel holds it."""
    path = tmp_path_factory.mktemp("dist") / "hf_semicrf-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in (ROOT / "hf_semicrf").rglob("*"):
            if file.is_file() and file.suffix != ".pyc":
                archive.write(file, file.relative_to(ROOT))
        archive.writestr("hf_semicrf-0.1.0.dist-info/METADATA", METADATA)
    return path


def test_a_push_carries_what_an_endpoint_needs(tiny_tagger, wheel, hub, tmp_path, capsys):
    folder = shutil.copytree(tiny_tagger, tmp_path / "out")
    (folder / "handler.py").write_text("raise SystemExit")  # a stranger's
    command = [str(folder), "someone/tagger", "--endpoint", str(wheel)]
    push.main([*command, "--dry-run"])
    shown = capsys.readouterr().out
    assert f"handler.py, requirements.txt, {wheel.name}" in shown and not hub.files
    push.main(command)
    found = pushed(hub)
    handler = (ROOT / "hf_semicrf" / "integrations" / "handler.py").read_bytes()
    assert found["handler.py"] == handler
    assert found["requirements.txt"] == b"torch>=2.11\ntransformers>=5.0\n"
    assert found[wheel.name] == wheel.read_bytes()


def test_without_the_request_a_handler_stays(tiny_tagger, wheel, hub, tmp_path):
    folder = shutil.copytree(tiny_tagger, tmp_path / "out")
    extra = {"handler.py", "requirements.txt", wheel.name}
    for name in extra:
        (folder / name).write_bytes(b"x")
    push.main([str(folder), "someone/tagger"])
    assert not extra & pushed(hub).keys()


def test_the_lines_of_the_page_run_where_the_push_lies(tiny_tagger, wheel, hub, tmp_path):
    push.main([tiny_tagger, "someone/tagger", "--endpoint", str(wheel)])
    for name, content in pushed(hub).items():
        (tmp_path / name).write_bytes(content)
    first, _ = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
    code = (
        f"import sys; sys.path.insert(0, '.')\n{first}\n"
        "import hf_semicrf\nprint(hf_semicrf.__file__)\n"
        "print(handler({'inputs': ['saw Oslo', '']}))\n"
        "for wrong in ({'text': 'Oslo'}, {'inputs': 'Oslo', 'parameters': {'top_k': 1}}):\n"
        "    try:\n        handler(wrong)\n"
        "    except (TypeError, ValueError) as error:\n        print(error)\n"
    )
    command = [sys.executable, "-P", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env={"HOME": "/"})
    assert not done.returncode, done.stderr
    entities, file, rows, *errors = done.stdout.splitlines()
    assert [(e["text"], e["label"]) for e in ast.literal_eval(entities)] == [
        ("Ada Lovelace", "PER"),
        ("Oslo", "LOC"),
    ]
    assert Path(file).parent.parent == tmp_path / wheel.name
    [[place], nothing] = ast.literal_eval(rows)
    assert (place["start"], place["end"]) == (4, 8) and nothing == []
    assert "expected a request with \"inputs\", got ['text']" in errors[0]
    assert "no option ['top_k']" in errors[1]


def test_what_is_no_wheel_is_refused(tiny_tagger, wheel, hub, tmp_path):
    other = shutil.copy(wheel, tmp_path / "torch-2.11-py3-none-any.whl")
    empty = tmp_path / wheel.name
    empty.touch()
    for path in (other, empty):
        error = push_error(tiny_tagger, "someone/tagger", "--endpoint", path)
        assert error.startswith("expected a wheel of this package") and str(path) in error
    assert "found none at" in error_of(push.main, tiny_tagger, "a/b", "--endpoint", "nowhere.whl")
    assert not hub.files
