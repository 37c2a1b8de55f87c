"""What `import hf_semicrf.ops` and `import hf_semicrf.torchcrf` bring along."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import hf_semicrf

# the package without its __init__, so that only what ops itself imports is seen
PROGRAM = """
import json, sys, types
package = types.ModuleType("hf_semicrf")
package.__path__ = [sys.argv[1]]
sys.modules["hf_semicrf"] = package
import hf_semicrf.ops
import hf_semicrf.torchcrf
print(json.dumps(sorted({name.split(".")[0] for name in sys.modules})))
"""


def test_ops_import_neither_transformers_nor_triton():
    place = Path(hf_semicrf.__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(place)], capture_output=True, text=True, check=True
    )
    loaded = set(json.loads(done.stdout))
    assert "torch" in loaded
    assert not loaded & {"transformers", "tokenizers", "datasets", "huggingface_hub", "triton"}
