"""The factored kernels: on the CPU through Triton's interpreter, on a GPU as they are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

kernel_checks = pytest.importorskip("kernel_checks", exc_type=ImportError)
CHECKS = list(kernel_checks.CHECKS)


@pytest.fixture(scope="module")
def interpreted() -> dict[str, str | None]:
    """What was wrong with each check in the interpreter."""
    file = Path(kernel_checks.__file__)
    path = os.pathsep.join([str(file.parent.parent), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": path}
    environment |= {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, str(file)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {line["check"]: line["wrong"] for line in lines}


@pytest.mark.parametrize("name", CHECKS)
def test_in_the_interpreter(name, interpreted):
    assert interpreted[name] is None, interpreted[name]


@pytest.mark.gpu
@pytest.mark.parametrize("name", dict.fromkeys([*CHECKS, *kernel_checks.ON_A_GPU]))
def test_on_the_gpu(name):
    kernel_checks.run(name, "cuda")
