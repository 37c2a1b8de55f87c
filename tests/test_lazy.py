"""The package imports what is used, and transformers knows the model in any order of imports."""

from __future__ import annotations

import importlib
import json
import os
import pickle
import subprocess
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import pytest
from datasets import Dataset
from tiny import save_tiny_bert, sentences
from transformers import AutoTokenizer

import hf_semicrf
from hf_semicrf import (
    SemiCRFConfig,
    SemiCRFForTokenClassification,
    TokenizeAndAlign,
    pipeline,
    prepare_tokenizer,
    registration,
)

LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
PUBLIC = ["HeadSettings", "LabelScheme", "SemiCRF", "SemiCRFConfig", "SemiCRFDataCollator"]
PUBLIC += ["SemiCRFForFrameClassification", "SemiCRFForTokenClassification"]
PUBLIC += ["SemiCRFFrameCollator", "SemiCRFFrameConfig", "SemiCRFPipeline", "SemiCRFTrainer"]
PUBLIC += ["SemiCRFTrainingArguments", "TokenizeAndAlign", "choose_max_segment_length"]
PUBLIC += ["prepare_tokenizer", "seqeval_metrics"]


def run(code: str) -> None:
    """A fresh process runs the code."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


# Imports what takes most time and knows nothing of transformers, then forks for each code.
FORKS = """
import json, os, sys, tempfile, traceback
import accelerate, datasets, seqeval.metrics, tokenizers, torch
import torch.utils.data
assert not {"hf_semicrf", "transformers"} & set(sys.modules)
torch.set_num_threads(1)
for name, code in json.load(sys.stdin).items():
    with tempfile.TemporaryFile() as log:
        child = os.fork()
        if not child:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            status = 1
            try:
                exec(code, {})
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        status = os.waitpid(child, 0)[1]
        log.seek(0)
        print(json.dumps([name, status, log.read().decode()]), flush=True)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A saved model with its tokenizer, and pickles."""
    path = tmp_path_factory.mktemp("lazy")
    bert = save_tiny_bert(path / "bert")
    model = SemiCRFForTokenClassification.from_pretrained(bert, labels=LABELS)
    tokenizer = prepare_tokenizer(AutoTokenizer.from_pretrained(bert))
    for part in (model, tokenizer):
        part.save_pretrained(path / "model")
    align = TokenizeAndAlign(tokenizer, model.config.label2id)
    for name, thing in {"config": model.config, "model": model, "align": align}.items():
        (path / f"{name}.pickle").write_bytes(pickle.dumps(thing))
    return path


def test_the_public_names():
    assert hf_semicrf.__all__ == PUBLIC
    assert set(PUBLIC) <= set(dir(hf_semicrf))
    assert all(getattr(hf_semicrf, name).__name__ == name for name in PUBLIC)
    with pytest.raises(AttributeError, match="has no attribute 'CRF'"):
        _ = hf_semicrf.CRF


def test_ops_head_and_labels_need_torch_alone():
    run("""
import sys
for name in ("transformers", "tokenizers", "huggingface_hub", "datasets", "evaluate", "seqeval",
             "accelerate"):
    sys.modules[name] = None  # can't be imported
import hf_semicrf.ops
from hf_semicrf import HeadSettings, LabelScheme, SemiCRF
import torch
head = SemiCRF(8, len(LabelScheme.from_labels(["O", "B-PER", "I-PER"]).types), HeadSettings(3))
assert head(torch.randn(2, 5, 8), torch.tensor([5, 3]), decode=True).labels.shape == (2, 5)
assert hf_semicrf.results.Prediction and hf_semicrf.head.SemiCRF is SemiCRF
""")


def test_the_package_and_predict_import_nothing_heavy(folder):
    run(f"""
import sys
import hf_semicrf
assert not {{"torch", "transformers", "numpy", "datasets"}} & set(sys.modules)
import transformers.models.auto.configuration_auto
assert not any(name.startswith("hf_semicrf.model") for name in sys.modules)
from transformers import AutoTokenizer
name = {str(folder / "model")!r}
model = hf_semicrf.SemiCRFForTokenClassification.from_pretrained(name)
model.predict(["Ada Lovelace saw Paris"], AutoTokenizer.from_pretrained(name))
heavy = {{"datasets", "evaluate", "seqeval", "matplotlib", "pandas", "peft", "pyarrow", "sklearn"}}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
""")


USE = """
def use(folder):
    from transformers import AutoConfig, AutoModel, AutoModelForTokenClassification, pipeline
    assert AutoConfig.from_pretrained(folder).model_type == "semicrf"
    for auto in (AutoModelForTokenClassification, AutoModel):
        found = type(auto.from_pretrained(folder)).__name__
        assert found == "SemiCRFForTokenClassification", found
    tagger = pipeline("semicrf-ner", model=folder)
    assert type(tagger).__name__ == "SemiCRFPipeline"
    assert isinstance(tagger("Ada Lovelace saw Paris"), list)
    assert tagger.save_pretrained and "semicrf-ner" in str(tagger.task)
"""
ORDERS = {
    "ours first": "import hf_semicrf; use(folder)",
    "theirs first": (
        "import transformers.pipelines; import transformers.models.auto.modeling_auto\n"
        "import hf_semicrf; use(folder)"
    ),
    "a class first": "from hf_semicrf import SemiCRFConfig; use(folder)",
    "the pipeline first": "from hf_semicrf import SemiCRFPipeline; use(folder)",
    "a lookup in between": (
        "import hf_semicrf\n"
        "from transformers import CONFIG_MAPPING, pipelines\n"
        "assert 'semicrf' in CONFIG_MAPPING and 'semicrf' in list(CONFIG_MAPPING)\n"
        "assert 'semicrf-ner' in pipelines.get_supported_tasks()\n"
        "assert 'hf_semicrf.model' not in sys.modules\n"
        "assert dict(CONFIG_MAPPING._extra_content.items())['semicrf'].model_type == 'semicrf'\n"
        "use(folder)"
    ),
    "made again": (
        "import hf_semicrf, importlib\n"
        "import transformers.models.auto.configuration_auto as auto\n"
        "assert auto.CONFIG_MAPPING['semicrf'].model_type == 'semicrf'\n"
        "importlib.reload(auto)\n"
        "assert auto.CONFIG_MAPPING['semicrf'].model_type == 'semicrf'\n"
        "importlib.reload(hf_semicrf)\n"
        "assert auto.CONFIG_MAPPING['semicrf'].model_type == 'semicrf'\n"
        "loader = type(auto.__spec__.loader).__name__\n"
        "assert loader == 'SourceFileLoader' and auto.__loader__ is auto.__spec__.loader\n"
    ),
    "a room that fails": (
        "import hf_semicrf\n"
        "from transformers import CONFIG_MAPPING, AutoConfig\n"
        "sys.modules['hf_semicrf.model'] = None  # can't be imported\n"
        "assert AutoConfig.for_model('bert').model_type == 'bert'\n"
        "try:\n    CONFIG_MAPPING['semicrf']\n"
        "except ImportError:\n    pass\n"
        "else:\n    raise AssertionError\n"
        "del sys.modules['hf_semicrf.model']\n"
        "use(folder)"
    ),
}


UNPICKLE = """
import pickle, sys
with open(f"{root}/%s.pickle", "rb") as file:
    thing = pickle.load(file)
assert type(thing).__name__ == "%s"
use(folder)
"""
for _name, _kind in {
    "config": "SemiCRFConfig",
    "model": "SemiCRFForTokenClassification",
    "align": "TokenizeAndAlign",
}.items():
    ORDERS[f"a pickled {_name} first"] = UNPICKLE % (_name, _kind)
ORDERS["remote code first"] = """
from transformers import AutoModelForTokenClassification
model = AutoModelForTokenClassification.from_pretrained(folder, trust_remote_code=True)
import hf_semicrf
assert type(model) is hf_semicrf.SemiCRFForTokenClassification
use(folder)
"""
ORDERS["threads that import at once"] = """
import sys
import threading
import transformers  # whose own first import is not for several threads
import hf_semicrf
from importlib import import_module
sys.setswitchinterval(1e-5)
names = ["hf_semicrf.model", "transformers.models.auto.modeling_auto", "hf_semicrf.pipeline",
         "transformers.pipelines", "transformers.models.auto.configuration_auto"]
errors, together = [], threading.Barrier(len(names))
def load(name):
    together.wait()
    try:
        import_module(name)
    except BaseException as error:
        errors.append((name, error))
threads = [threading.Thread(target=load, args=[name]) for name in names]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not errors, errors
from transformers import CONFIG_MAPPING
from transformers.pipelines import PIPELINE_REGISTRY
assert CONFIG_MAPPING["semicrf"] is hf_semicrf.SemiCRFConfig
assert PIPELINE_REGISTRY.check_task("semicrf-ner")[1]["impl"] is hf_semicrf.SemiCRFPipeline
"""


@pytest.fixture(scope="module")
def outcomes(folder):
    """How each process ended, and what it wrote."""
    start = f"import sys\nroot = {str(folder)!r}\nfolder = f'{{root}}/model'\n{USE}\n"
    codes = {name: start + code for name, code in ORDERS.items()}
    done = subprocess.run(
        [sys.executable, "-c", FORKS],
        input=json.dumps(codes), capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return {name: (status, log) for name, status, log in map(json.loads, done.stdout.splitlines())}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks, to spare imports of torch")
@pytest.mark.parametrize("order", ORDERS)
def test_transformers_knows_the_model_in_any_order(order, outcomes):
    status, log = outcomes[order]
    assert status == 0, log
    assert "already registered" not in log


def test_workers_of_a_data_set_align_too(folder):
    align = pickle.loads((folder / "align.pickle").read_bytes())
    data = Dataset.from_list(sentences(8))
    columns = {"batched": True, "remove_columns": data.column_names}
    alone, shared = (data.map(align, num_proc=n, **columns) for n in (None, 2))
    assert shared.to_dict() == alone.to_dict()


def test_the_names_are_those_of_the_rooms():
    assert registration.MODEL_TYPES[SemiCRFConfig.model_type] == "SemiCRFConfig"
    assert pipeline.TASK == registration.TASK
    with pytest.raises(KeyError):
        registration.TaskEntry()["default"]


# The finder, on modules of our own


@pytest.fixture
def tables(tmp_path, monkeypatch):
    """A folder of modules of which one, `made_table`, is watched; what was added, in order."""
    added = []
    monkeypatch.setitem(registration.TABLES, "made_table", added.append)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "made_table", raising=False)
    (tmp_path / "made_table.py").write_text("value = 1\n")
    importlib.invalidate_caches()
    yield SimpleNamespace(folder=tmp_path, added=added)
    sys.modules.pop("made_table", None)


def test_a_table_gets_its_entry_once_it_is_made(tables):
    module = importlib.import_module("made_table")
    assert tables.added == [module] and module.value == 1
    assert type(module.__loader__).__name__ == type(module.__spec__.loader).__name__
    assert not isinstance(module.__loader__, registration.TableLoader)
    importlib.reload(module)
    assert tables.added == [module, module]


def test_a_table_that_fails_gets_none(tables):
    (tables.folder / "made_table.py").write_text("raise OSError('broken')\n")
    with pytest.raises(OSError, match="broken"):
        importlib.import_module("made_table")
    assert not tables.added and "made_table" not in sys.modules
    (tables.folder / "made_table.py").write_text("value = 2222\n")
    importlib.invalidate_caches()
    assert importlib.import_module("made_table").value == 2222 and len(tables.added) == 1


def test_finders_that_ask_each_other(tables, monkeypatch):
    class Asking:
        """Another library's finder, which asks all others too."""

        def find_spec(self, name, path=None, target=None):
            if name != "made_table":
                return None
            others = (finder for finder in sys.meta_path if finder is not self)
            specs = (finder.find_spec(name, path, target) for finder in others)
            return next((spec for spec in specs if spec is not None), None)

    before = list(sys.meta_path)
    for place in (0, 1):
        finders = list(before)
        finders.insert(place, Asking())
        monkeypatch.setattr(sys, "meta_path", finders)
        module = importlib.import_module("made_table")
        assert module.value == 1 and tables.added[-1] is module
        del sys.modules["made_table"]


def test_a_loader_of_the_old_kind_is_left_alone(tables, monkeypatch):
    class Old:
        def load_module(self, name):
            return sys.modules.setdefault(name, ModuleType(name))

    class Finder:
        def find_spec(self, name, path=None, target=None):
            return ModuleSpec(name, Old()) if name == "made_table" else None

    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path[:1], Finder(), *sys.meta_path[1:]])
    assert isinstance(sys.meta_path[0], registration.TableFinder)
    spec = sys.meta_path[0].find_spec("made_table")
    assert isinstance(spec.loader, Old)


def test_whatever_a_loader_can_do_it_can_still_do():
    class Loader:
        def get_source(self, name):
            return "source"

        def create_module(self, spec):
            return None

    loader = registration.TableLoader(Loader(), print)
    assert loader.get_source("x") == "source" and loader.create_module(None) is None
    assert not hasattr(loader, "is_package")
    assert not hasattr(loader, "__deepcopy__")


def test_a_package_is_watched_by_one_finder():
    registration.register_with_transformers()
    assert sum(isinstance(finder, registration.TableFinder) for finder in sys.meta_path) == 1
