"""A saved model on its way: the shim and its Auto classes, the card and the push."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch
import transformers
from datasets import Dataset
from huggingface_hub import ModelCard
from tiny import error_of, save_tiny_bert, sentences
from transformers import AutoConfig, AutoModel, AutoModelForTokenClassification, AutoTokenizer

import hf_semicrf
from hf_semicrf import (
    SemiCRFConfig,
    SemiCRFDataCollator,
    SemiCRFForTokenClassification,
    SemiCRFTrainer,
    SemiCRFTrainingArguments,
    TokenizeAndAlign,
    prepare_tokenizer,
    seqeval_metrics,
)
from hf_semicrf.cli import push
from hf_semicrf.evaluation.breakdowns import breakdown
from hf_semicrf.hub.allowed import SHIM
from hf_semicrf.hub.model_card import render_card

LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return save_tiny_bert(tmp_path_factory.mktemp("tiny") / "bert")


@pytest.fixture(scope="module")
def tokenizer(bert):
    return prepare_tokenizer(AutoTokenizer.from_pretrained(bert))


@pytest.fixture(scope="module")
def model(bert):
    return SemiCRFForTokenClassification.from_pretrained(bert, labels=LABELS, max_segment_length=3)


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    """A folder that holds the model alone, without a tokenizer."""
    folder = tmp_path_factory.mktemp("saved")
    model.save_pretrained(folder)
    return folder


def test_names_that_other_code_relies_on(model):
    """Prefixes of weights, what PEFT trains, what takes no weight decay."""
    assert model.base_model_prefix == "text_encoder" and model.base_model is model.text_encoder
    prefixes = {name.split(".")[0] for name in model.state_dict()}
    assert prefixes == {"text_encoder", "classifier", "word_starts"}
    assert not hasattr(model, "encoder")
    own = dict(model.classifier.named_parameters(recurse=False))
    assert own and all(name.endswith("_bias") for name in own)


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


# the shim


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
    expected = "with it: hf_semicrf.model.modeling_semicrf SemiCRFForTokenClassification"
    assert loaded == expected
    assert has_shim(tmp_path / "again")
    assert len(list((tmp_path / "again").glob("*.py"))) == 1


def test_the_stock_pipeline_asks_for_no_flag(saved, tokenizer):
    """A name in custom_pipelines would make it ask for trust_remote_code."""
    assert "custom_pipelines" not in json.loads((saved / "config.json").read_text())
    tagger = transformers.pipeline("token-classification", model=str(saved), tokenizer=tokenizer)
    assert type(tagger) is transformers.TokenClassificationPipeline
    assert isinstance(tagger("Ada saw Oslo"), list)


# pushing


def pushed(hub, repository="someone/tagger", branch="main"):
    return hub.files[repository][branch]


def card_of(hub, **where):
    return ModelCard(pushed(hub, **where)["README.md"].decode())


def test_a_model_is_pushed_with_shim_and_card(model, hub):
    model.push_to_hub("someone/tagger", private=True, commit_message="Mine")
    assert set(pushed(hub)) == {
        "README.md", "config.json", "model.safetensors", "modeling_semicrf.py"
    }  # fmt: skip
    assert hub.private == {"someone/tagger"} and hub.commits[0][2] == "Mine"
    assert pushed(hub)["modeling_semicrf.py"].decode() == SHIM
    card = card_of(hub)
    assert "| PER | unknown |" in card.text and '"someone/tagger"' in card.text
    assert card.data.pipeline_tag == "token-classification" and "hf_semicrf" in card.data.tags


def test_what_was_pushed_loads_by_its_name(model, tokenizer, hub, tmp_path):
    for part in (model, tokenizer):
        part.push_to_hub("someone/tagger")
    again = AutoModelForTokenClassification.from_pretrained(
        "someone/tagger", cache_dir=tmp_path / "downloads"
    )
    assert type(again) is SemiCRFForTokenClassification
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    again.save_pretrained(tmp_path / "again")  # and its auto_map names no repository
    assert has_shim(tmp_path / "again")


def test_the_card_beside_a_loaded_model_goes_with_it(saved, hub, tmp_path):
    folder = tmp_path / "trained"
    shutil.copytree(saved, folder)
    text = render_card(AutoConfig.from_pretrained(saved), dataset="wnut_17", license="mit")
    (folder / "README.md").write_text(text)
    (folder / "scores.png").write_bytes(b"plot")
    loaded = SemiCRFForTokenClassification.from_pretrained(folder)
    loaded.push_to_hub("someone/tagger")
    assert pushed(hub)["README.md"].decode() == text and pushed(hub)["scores.png"] == b"plot"
    # one that is on the Hub stays: it may have been edited there
    pushed(hub)["README.md"] = b"---\ntags:\n- mine\n---\n# Edited\n"
    loaded.push_to_hub("someone/tagger")
    assert "# Edited" in card_of(hub).content
    # but a folder that is saved and pushed at once keeps its own
    loaded.save_pretrained(folder, push_to_hub=True, repo_id="someone/tagger")
    assert (folder / "README.md").read_text() == text == pushed(hub)["README.md"].decode()
    assert pushed(hub)["scores.png"] == b"plot"


def test_an_encoders_card_is_not_taken_for_the_models(bert, hub, tmp_path):
    shutil.copytree(bert, tmp_path / "encoder")
    (tmp_path / "encoder" / "README.md").write_text("---\ntags:\n- bert\n---\n# An encoder\n")
    new = SemiCRFForTokenClassification.from_pretrained(tmp_path / "encoder", labels=LABELS)
    new.push_to_hub("someone/tagger")
    assert "An encoder" not in card_of(hub).content
    assert str(tmp_path) not in card_of(hub).content


def test_a_configuration_is_pushed_with_its_shim(model, hub, tmp_path):
    model.config.push_to_hub("someone/config")
    assert pushed(hub, "someone/config")["modeling_semicrf.py"].decode() == SHIM
    model.config.save_pretrained(tmp_path, push_to_hub=True, repo_id="someone/other")
    model.config.save_pretrained(tmp_path, push_to_hub=True, repo_id="someone/again")
    for repository in ("someone/other", "someone/again"):
        assert {"config.json", "modeling_semicrf.py"} <= set(pushed(hub, repository))


def tiny_trainer(bert, tokenizer, folder, **arguments):
    model = SemiCRFForTokenClassification.from_pretrained(bert, labels=LABELS)
    data = Dataset.from_list(sentences(16)).map(
        TokenizeAndAlign(tokenizer, model.config.label2id), batched=True
    )
    settings = {"use_cpu": True, "disable_tqdm": True, "report_to": [], "max_steps": 2}
    return SemiCRFTrainer(
        model,
        SemiCRFTrainingArguments(str(folder), **settings, **arguments),
        train_dataset=data,
        eval_dataset=data,
        processing_class=tokenizer,
        data_collator=SemiCRFDataCollator(tokenizer),
        compute_metrics=seqeval_metrics(model.config),
    )


def test_the_trainer_pushes_its_card_with_the_scores(bert, tokenizer, hub, tmp_path):
    trainer = tiny_trainer(bert, tokenizer, tmp_path / "tagger", hub_model_id="someone/tagger")
    trainer.train()
    scores = trainer.evaluate()
    found = breakdown([[(0, 2, "PER")]], [[(0, 2, "PER", 0.75)]])
    trainer.push_to_hub(dataset="wnut_17", breakdown=found)
    assert {"README.md", "scores.png", "modeling_semicrf.py", "tokenizer.json"} <= set(pushed(hub))
    card = card_of(hub)
    f1 = next(r.metric_value for r in card.data.eval_results if r.metric_type == "f1")
    assert f1 == pytest.approx(scores["eval_overall_f1"], abs=1e-4)
    assert "wnut_17" in card.text and "| 2 words |" in card.text


def test_the_stock_trainer_pushes_a_model_that_loads(model, hub, tmp_path):
    arguments = transformers.TrainingArguments(
        str(tmp_path), hub_model_id="someone/tagger", use_cpu=True, report_to=[]
    )
    transformers.Trainer(model, arguments).push_to_hub()
    assert {"README.md", "modeling_semicrf.py", "model.safetensors"} <= set(pushed(hub))
    again = AutoModel.from_pretrained("someone/tagger")
    assert type(again) is SemiCRFForTokenClassification


def test_pushes_while_training_carry_shim_and_card_too(bert, tokenizer, hub, tmp_path):
    trainer = tiny_trainer(
        bert, tokenizer, tmp_path / "tagger", hub_model_id="someone/tagger", push_to_hub=True,
        hub_strategy="every_save", save_strategy="steps", save_steps=1, hub_always_push=True,
    )  # fmt: skip
    trainer.train()
    trainer.push_in_progress.wait_until_done()
    commits = [paths for _, _, message, paths in hub.commits if "in progress" in message]
    assert commits
    for paths in commits:
        assert {"README.md", "config.json", "modeling_semicrf.py"} <= set(paths)
    assert "hf_semicrf" in card_of(hub).data.tags


def test_an_adapter_is_pushed_with_a_card_that_says_how_to_load_it(bert, tokenizer, hub, tmp_path):
    peft = pytest.importorskip("peft")
    trainer = tiny_trainer(bert, tokenizer, tmp_path / "out", hub_model_id="someone/adapter")
    lora = peft.LoraConfig(task_type="TOKEN_CLS", target_modules=["query", "value"])
    trainer.model = peft.get_peft_model(trainer.model, lora)
    trainer.push_to_hub()
    files = pushed(hub, "someone/adapter")
    assert {"adapter_config.json", "adapter_model.safetensors", "README.md"} <= set(files)
    assert not {"config.json", "model.safetensors"} & set(files)
    card = card_of(hub, repository="someone/adapter")
    assert card.data.library_name == "peft" and "PeftModel.from_pretrained(base" in card.text
    run_push(tmp_path / "out", "someone/again")
    again = pushed(hub, "someone/again")
    assert set(files) == set(again)
    assert again["README.md"] == files["README.md"]


def run_push(*arguments):
    push.main([str(argument) for argument in arguments])


def test_the_script_pushes_a_folder(saved, hub, tmp_path, capsys):
    folder = tmp_path / "out"
    shutil.copytree(saved, folder)
    (folder / "modeling_semicrf.py").unlink()  # as an older version of the library saved it
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {}}))
    (folder / "checkpoint-5").mkdir()
    for name in ("training_args.bin", "checkpoint-5/model.safetensors", "optimizer.pt"):
        (folder / name).write_bytes(b"left behind")
    run_push(folder, "someone/tagger", "--private", "--revision", "v1", "--message", "First")
    assert f"pushed to {hub.address}/someone/tagger" in capsys.readouterr().out
    assert hub.private == {"someone/tagger"} and pushed(hub) == {}
    assert hub.commits == [("someone/tagger", "v1", "First", [
        "README.md", "config.json", "model.safetensors", "modeling_semicrf.py"])]  # fmt: skip
    assert "| PER | unknown |" in card_of(hub, branch="v1").text
    assert has_shim(folder)
    again = json.loads(pushed(hub, branch="v1")["config.json"])
    assert again | {"auto_map": 0} == config | {"auto_map": 0}
    # a second push goes to the same repository, and keeps the card that is there
    (folder / "README.md").write_text("---\ntags: [hf_semicrf]\n---\nMine")
    run_push(folder, "someone/tagger")
    assert pushed(hub)["README.md"].decode().endswith("Mine")


def push_error(*arguments):
    return error_of(push.main, *arguments).removeprefix("hf-semicrf push: ")


def test_the_script_says_what_is_wrong(saved, bert, hub, tmp_path, monkeypatch):
    name = "someone/tagger"
    assert "expected a folder, found none at" in push_error(tmp_path / "nowhere", name)
    (tmp_path / "empty").mkdir()
    assert "found no weights in" in push_error(tmp_path / "empty", name)
    error = push_error(bert, name)
    assert error.startswith("expected a semi-CRF model") and error.endswith("model type 'bert'")
    assert "not a name at all" in push_error(saved, "not a name at all")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    assert "beside an adapter, README.md" in push_error(tmp_path, name)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "401 Unauthorized" in push_error(saved, name)
    monkeypatch.setattr("hf_semicrf.hub.push.get_token", lambda: None)
    assert "no token: run `hf auth login`, or set HF_TOKEN" in push_error(saved, name)
    assert hub.files == {}


def test_without_a_network_the_script_says_so(saved, hub, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    error = push_error(saved, "someone/tagger")
    assert error.startswith("can't reach http://127.0.0.1:9: ")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in push_error(saved, "someone/tagger")
