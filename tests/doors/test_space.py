"""The app of a Space, as the page has it, in Gradio."""

from __future__ import annotations

import os
import subprocess
import sys
from urllib.request import urlopen

import pytest
from letters import free_port, wait_for
from test_endpoint import PAGE, pushed, wheel  # noqa: F401

from hf_semicrf.cli import push

client = pytest.importorskip("gradio_client")


def test_a_space_answers(tiny_tagger, wheel, hub, tmp_path):  # noqa: F811
    push.main([tiny_tagger, "someone/tagger", "--endpoint", str(wheel)])
    for name, content in pushed(hub).items():
        (tmp_path / name).write_bytes(content)
    app = PAGE.rpartition("```python\n")[2].partition("```")[0]
    downloaded = f"huggingface_hub.snapshot_download = lambda name: {str(tmp_path)!r}\n"
    (tmp_path / "app.py").write_text(f"import huggingface_hub\n{downloaded}{app}")
    port = free_port()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    environment |= {"GRADIO_SERVER_PORT": str(port), "GRADIO_ANALYTICS_ENABLED": "False"}
    log = tmp_path / "log"
    with log.open("w") as stream:
        how = {"cwd": tmp_path, "stdout": stream, "stderr": stream, "env": environment}
        process = subprocess.Popen([sys.executable, "app.py"], **how)
    try:
        address = f"http://127.0.0.1:{port}"
        wait_for(process, lambda: urlopen(address), log)
        answer = client.Client(address).predict("Yesterday Ada Lovelace saw Oslo.")
        assert [(part["token"], part["class_or_confidence"]) for part in answer] == [
            ("Yesterday ", None),
            ("Ada Lovelace", "PER 1.00"),
            (" saw ", None),
            ("Oslo", "LOC 1.00"),
            (".", None),
        ]
    finally:
        process.terminate()
        process.wait(60)
