"""The handler of a push in an environment that has what its requirements.txt names."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from test_endpoint import pushed
from tiny import ROOT

from hf_semicrf.cli import push

# what Hugging Face's inference toolkit does with a repository's folder, and then with a request
TOOLKIT = """
import importlib.util, json, sys
folder = sys.argv[1]
spec = importlib.util.spec_from_file_location("handler.EndpointHandler", folder + "/handler.py")
sys.path.insert(0, folder)
module = importlib.util.module_from_spec(spec)
sys.modules["handler.EndpointHandler"] = module
spec.loader.exec_module(module)
handler = module.EndpointHandler(folder)
for request in json.load(sys.stdin):
    print(json.dumps(handler(request)))
"""


def test_an_empty_environment_answers(tiny_tagger, hub, tmp_path):
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path / "dist", ROOT]
    subprocess.run(build, check=True, capture_output=True)
    [wheel] = (tmp_path / "dist").glob("*.whl")
    push.main([tiny_tagger, "someone/tagger", "--endpoint", str(wheel)])
    repository = tmp_path / "repository"
    repository.mkdir()
    for name, content in pushed(hub).items():
        (repository / name).write_bytes(content)
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    pip = [python, "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt"]
    subprocess.run([*pip, "--requirement", repository / "requirements.txt"], check=True)
    requests = [
        {"inputs": "Yesterday Ada Lovelace saw Oslo."},
        {"inputs": ["saw Oslo ."], "parameters": {"threshold": 1.0}},
    ]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(
        [python, "-c", TOOLKIT, repository],
        input=json.dumps(requests),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
    )
    assert not done.returncode, done.stderr
    first, second = map(json.loads, done.stdout.splitlines())
    assert [entity["text"] for entity in first] == ["Ada Lovelace", "Oslo"]
    assert second == [[]]  # nothing is surer than certain
