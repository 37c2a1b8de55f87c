"""A saved model on its way: the shim and its Auto classes, the card and the push."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import save_tiny_bert
from transformers import AutoConfig, AutoModel, AutoModelForTokenClassification

import hf_semicrf
from hf_semicrf import SemiCRFConfig, SemiCRFForTokenClassification

LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return save_tiny_bert(tmp_path_factory.mktemp("tiny") / "bert")


@pytest.fixture(scope="module")
def model(bert):
    return SemiCRFForTokenClassification.from_pretrained(bert, labels=LABELS, max_segment_length=3)


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    """A folder that holds the model alone, without a tokenizer."""
    folder = tmp_path_factory.mktemp("saved")
    model.save_pretrained(folder)
    return folder


def has_shim(folder: Path) -> bool:
    """Whether the Auto classes of config.json lead to a two-line module that lies beside it."""
    auto_map = json.loads((folder / "config.json").read_text())["auto_map"]
    modules = {reference.split(".")[0] for reference in auto_map.values()}
    names = [line for line in (folder / "modeling_semicrf.py").read_text().splitlines() if line]
    return (
        modules == {"modeling_semicrf"}
        and {"AutoConfig", "AutoModel", "AutoModelForTokenClassification"} == set(auto_map)
        and len(names) == 2
    )


# the shim (point 20)


def test_every_save_writes_the_shim_and_nothing_else_of_the_package(model, saved, tmp_path):
    assert has_shim(saved)
    assert [path.name for path in saved.glob("*.py")] == ["modeling_semicrf.py"]
    model.config.save_pretrained(tmp_path / "config")
    assert has_shim(tmp_path / "config")
    SemiCRFConfig(labels=LABELS).save_pretrained(tmp_path / "new")
    assert has_shim(tmp_path / "new")


def test_no_flag_is_needed_once_the_package_is_imported(saved):
    assert type(AutoConfig.from_pretrained(saved)) is SemiCRFConfig
    for auto in (AutoModel, AutoModelForTokenClassification):
        assert type(auto.from_pretrained(saved)) is SemiCRFForTokenClassification


def test_saving_again_after_a_load_that_trusted_the_shim_still_works(saved, model, tmp_path):
    SemiCRFForTokenClassification.register_for_auto_class("AutoModelForTokenClassification")
    SemiCRFConfig.register_for_auto_class()  # what the Auto classes call in such a load
    again = AutoModelForTokenClassification.from_pretrained(saved, trust_remote_code=True)
    again.config.auto_map = {"AutoConfig": "someone/tagger--modeling_semicrf.SemiCRFConfig"}
    again.save_pretrained(tmp_path)
    assert has_shim(tmp_path)
    assert [path.name for path in tmp_path.glob("*.py")] == ["modeling_semicrf.py"]
    reloaded = AutoModelForTokenClassification.from_pretrained(tmp_path)
    for name, value in model.state_dict().items():
        assert torch.equal(reloaded.state_dict()[name], value), name


FRESH_PROCESS = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "hf_semicrf":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hidden())
from transformers import AutoModelForTokenClassification
folder, again = sys.argv[1:]
try:
    AutoModelForTokenClassification.from_pretrained(folder, trust_remote_code=True)
except ImportError as error:
    print("without the package:", error)

sys.meta_path.pop(0)
model = AutoModelForTokenClassification.from_pretrained(folder, trust_remote_code=True)
print("with it:", type(model).__module__, type(model).__name__)
model.save_pretrained(again)
"""


def test_in_a_fresh_process_the_flag_suffices_or_the_error_says_what_to_install(saved, tmp_path):
    home = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    paths = [str(Path(hf_semicrf.__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-c", FRESH_PROCESS, str(saved), str(tmp_path / "again")],
        env={**os.environ, **home, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    without, loaded = done.stdout.splitlines()
    assert "pip install hf_semicrf" in without
    expected = "with it: hf_semicrf.modeling_semicrf SemiCRFForTokenClassification"
    assert loaded == expected
    assert has_shim(tmp_path / "again")
    assert len(list((tmp_path / "again").glob("*.py"))) == 1
