"""What leaves the machine by every way to push, beside hostile files, and what is in it."""
# ruff: noqa: F811

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import transformers
from huggingface_hub import ModelCard
from test_hub import LABELS, bert, model, pushed, saved, tiny_trainer, tokenizer  # noqa: F401
from tiny import error_of

from hf_semicrf import SemiCRFForTokenClassification, prepare_tokenizer
from hf_semicrf.cli import predict, push
from hf_semicrf.hub import leaving, push_folder
from hf_semicrf.hub.allowed import additions

SECRET = "hf_secretOfThisTest"
SETTINGS = {"config.json", "adapter_config.json", "tokenizer_config.json", "decoder.json"}
GOES = {*SETTINGS, "README.md", "scores.png", "modeling_semicrf.py", "tokenizer.json", "vocab.txt"}
WEIGHTS = [
    *("model.safetensors", "adapter_model.safetensors", "model.fp16.safetensors"),
    *("model-00001-of-00002.safetensors", "model.safetensors.index.json"),
]
STAYS = [
    *(".env", "id_rsa", "train.jsonl", "model.pkl", "pytorch_model.bin", "training_args.bin"),
    *("optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "all_results.json"),
    *("config.json\n", "README.md ", "readme.md", "x\nconfig.json", "a\x1b[31mb", "\u202egnp.x"),
    *("model.safetensors.bak", "my-model.safetensors", "model-1-of-2.safetensors", "config.json~"),
    *("model.onnx", "evil.py", "numpy_decoder.py", "vocab.txt.swp", "a.html", ".gitattributes"),
    *("model.\u0661.safetensors", "model-\u0660\u0660\u0660\u0660\u0661-of-00002.safetensors"),
]
FOLDERS = ["checkpoint-x", "runs", ".git", "vocab.json", "adapter_model"]


def hostile(folder: Path) -> Path:
    """The folder with files and folders in it that must stay."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in STAYS:
        (folder / name).write_text(SECRET)
    for name in FOLDERS:
        (folder / name).mkdir()
        for inner in ("config.json", "model.safetensors"):
            (folder / name / inner).write_text(SECRET)
    outside = folder.parent / "outside"
    outside.write_text(SECRET)
    (folder / "merges.txt").symlink_to(outside)
    (folder / "spiece.model").symlink_to(".env")
    (folder / "added_tokens.json").symlink_to("nowhere")
    os.mkfifo(folder / "special_tokens_map.json")
    return folder


@pytest.fixture
def home(monkeypatch, tmp_path):
    """A home folder with a login name that nothing else has."""
    folder = tmp_path / "home" / "zz-login-zz"
    folder.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(folder))
    return folder


def assert_clean(hub, *places: Path):
    """Nothing but what is listed went, without a path or a token."""
    uploaded = {(n, c) for r in hub.files.values() for b in r.values() for n, c in b.items()}
    assert uploaded
    for name, content in uploaded:
        assert name.split("/")[-1] in {*GOES, *WEIGHTS}, name
        for private in (SECRET, "hf_right", "zz-login-zz", "trainer_state", *map(str, places)):
            assert private.encode() not in content, (name, private)


def test_a_list_says_what_goes(tmp_path):
    folder = hostile(tmp_path / "out")
    assert leaving(folder).goes == []
    for name in [*GOES, *WEIGHTS]:
        (folder / name).write_text("{}")
    goes, stays = leaving(folder)
    assert set(goes) == {*GOES, *WEIGHTS}
    links = {"merges.txt", "spiece.model", "added_tokens.json", "special_tokens_map.json"}
    assert set(stays) == {*STAYS, *(f"{name}/" for name in FOLDERS), *links}


@pytest.mark.parametrize("strategy", ["end", "every_save", "checkpoint", "all_checkpoints"])
@pytest.mark.parametrize("adapter", [False, True])
def test_a_trainer_pushes_what_is_listed(strategy, adapter, bert, tokenizer, hub, home):
    peft = pytest.importorskip("peft")
    base = SemiCRFForTokenClassification.from_pretrained(bert, labels=LABELS)
    base.save_pretrained(home / "base")  # a base that lies in a private place
    folder = hostile(home / "tagger")
    trainer = tiny_trainer(
        bert, tokenizer, folder, hub_model_id="someone/tagger", push_to_hub=True,
        hub_strategy=strategy, hub_token="hf_right", save_strategy="steps", save_steps=1,
        hub_always_push=True, save_total_limit=1,
    )  # fmt: skip
    loaded = SemiCRFForTokenClassification.from_pretrained(home / "base")
    lora = peft.LoraConfig(task_type="TOKEN_CLS", target_modules=["query", "value"])
    trainer.model = peft.get_peft_model(loaded, lora) if adapter else loaded
    trainer.model_wrapped = trainer.model
    trainer.train()
    if strategy != "end":
        assert any("in progress, step 2" in message for _, _, message, _ in hub.commits)
    trainer.push_to_hub(dataset=str(home / "data"), private=True)
    assert_clean(hub, home)
    files = pushed(hub)
    prefix = "adapter_" if adapter else ""
    expected = {
        f"{prefix}config.json", f"{prefix}model.safetensors", "README.md", "modeling_semicrf.py",
        "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    inside = {name.split("/")[0] for name in files if "/" in name}
    assert {name for name in files if "/" not in name} >= expected - {"modeling_semicrf.py"}
    every = {"checkpoint-1", "checkpoint-2"}
    folders = {"checkpoint": {"last-checkpoint"}, "all_checkpoints": every}
    assert inside == folders.get(strategy, set())
    for name in inside:
        assert f"{name}/{prefix}model.safetensors" in files
    assert "base_model" not in ModelCard(files["README.md"].decode()).data.to_dict()


def test_the_token_of_the_arguments_is_in_no_file(bert, tokenizer, hub, tmp_path):
    trainer = tiny_trainer(
        bert, tokenizer, tmp_path / "out", hub_model_id="someone/tagger", hub_token="hf_right"
    )
    trainer.save_model()
    assert b"hf_right" in (tmp_path / "out" / "training_args.bin").read_bytes()
    trainer.push_to_hub()
    assert_clean(hub, tmp_path)
    # and where somebody has put it into a file that goes, nothing does
    (tmp_path / "out" / "vocab.txt").write_text("hf_right")
    commits = len(hub.commits)
    with pytest.raises(ValueError, match=r"^expected no token .* in '.*vocab\.txt'"):
        trainer.push_to_hub()
    assert len(hub.commits) == commits


@pytest.mark.parametrize(
    "way", ["push_to_hub", "save_pretrained", "config", "pipeline", "adapter", "tokenizer"]
)
def test_other_ways_push_what_is_listed(way, saved, tokenizer, hub, home):
    folder = home / "trained"
    shutil.copytree(saved, folder)
    tokenizer.save_pretrained(folder)
    hostile(folder)
    loaded = SemiCRFForTokenClassification.from_pretrained(folder)
    if way == "push_to_hub":
        loaded.push_to_hub("someone/tagger")
    elif way == "save_pretrained":
        for name in STAYS:  # written while the model was
            os.utime(folder / name, (2**32, 2**32))
        loaded.save_pretrained(folder, push_to_hub=True, repo_id="someone/tagger")
    elif way == "config":
        loaded.config.save_pretrained(folder, push_to_hub=True, repo_id="someone/tagger")
        loaded.config.push_to_hub("someone/tagger")
    elif way == "pipeline":
        transformers.pipeline("semicrf-ner", model=str(folder)).push_to_hub("someone/tagger")
        assert "tokenizer.json" in pushed(hub)
    elif way == "tokenizer":
        places = {"cache_dir": str(home), "token": "hf_right"}
        read = transformers.AutoTokenizer.from_pretrained(folder, **places)
        prepare_tokenizer(read).push_to_hub("someone/tagger")
    else:
        peft = pytest.importorskip("peft")
        lora = peft.LoraConfig(task_type="TOKEN_CLS", target_modules=["query", "value"])
        peft.get_peft_model(loaded, lora).push_to_hub("someone/tagger")
        assert "adapter_model.safetensors" in pushed(hub)
    assert_clean(hub, home)


def trained(saved, folder: Path, **changes) -> Path:
    """A copy of a saved model, its configuration changed."""
    shutil.copytree(saved, folder, dirs_exist_ok=True)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder


def test_the_command_names_what_stays(saved, hub, home, capsys):
    folder = trained(saved, hostile(home / "out"))
    push.main([str(folder), "someone/tagger", "--dry-run"])
    printed = capsys.readouterr().out
    goes = "would push: config.json, model.safetensors, modeling_semicrf.py\n"
    assert printed.startswith(goes + "left here: ") and hub.files == {}
    push.main([str(folder), "someone/tagger"])
    assert_clean(hub, home)
    said, done = capsys.readouterr().out.splitlines()
    assert done.startswith("pushed to ")
    for name in (".env", "training_args.bin", "checkpoint-x/", "merges.txt", "a\u241b[31mb"):
        assert name in said.removeprefix("left here: ").split(", ")
    assert "\x1b" not in said and "\u202e" not in said


def test_settings_go_without_the_paths_in_them(saved, hub, home):
    place = str(home / "bert")
    folder = trained(
        saved, home / "out", _name_or_path=place, base_model="/mnt/elsewhere/bert",
        auto_map={"AutoConfig": "other/repository--evil.Config"},
    )  # fmt: skip
    config = json.loads((folder / "config.json").read_text())
    config["encoder_config"]["_name_or_path"] = "C:\\Users\\zz-login-zz\\bert"
    (folder / "config.json").write_text(json.dumps(config))
    adapter = {"base_model_name_or_path": place, "r": 8}
    (folder / "adapter_config.json").write_text(json.dumps(adapter))
    own = {"name_or_path": place, "cache_dir": place, "vocab_file": f"{place}/v.txt", "n": ["/"]}
    (folder / "tokenizer_config.json").write_text(json.dumps(own))
    tags = f"tags:\n- base_model:adapter:{place}\n- hf_semicrf\n"
    card = f"---\nbase_model: {place}\n{tags}---\n# Mine\n"
    (folder / "README.md").write_text(card)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    push_folder(folder, "someone/tagger")
    assert_clean(hub, home, Path("/mnt/elsewhere"))
    files = pushed(hub)
    assert json.loads(files["adapter_config.json"]) == {"r": 8}
    assert json.loads(files["tokenizer_config.json"]) == {"n": ["/"]}
    sent = json.loads(files["config.json"])
    assert sent["id2label"] == config["id2label"]
    assert all("--" not in reference for reference in sent["auto_map"].values())
    assert ModelCard(files["README.md"].decode()).data.to_dict() == {"tags": ["hf_semicrf"]}
    assert b"# Mine" in files["README.md"]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_public_names_and_labels_like_paths_stay_in(saved, hub, tmp_path):
    labels = {"0": "O", "1": "/person", "2": "/person/artist"}
    folder = trained(
        saved, tmp_path / "out", base_model="someone/bert", id2label=labels,
        label2id={label: int(index) for index, label in labels.items()},
    )  # fmt: skip
    (folder / "README.md").write_text(
        "---\nbase_model: someone/bert\n---\nSee https://x.com/root/a"
    )
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "someone/bert"}')
    content = {a.path_in_repo: a for a in additions(folder, leaving(folder).goes)}
    for name in ("README.md", "adapter_config.json"):
        with content[name].as_file() as file:
            assert file.read() == (folder / name).read_bytes()
    with content["config.json"].as_file() as file:
        sent = json.loads(file.read())
    assert sent["id2label"] == labels and sent["base_model"] == "someone/bert"


@pytest.mark.parametrize("name", ["README.md", "vocab.txt", "tokenizer.json", "scores.png"])
def test_a_path_or_a_token_elsewhere_stops_the_push(name, saved, hub, home):
    folder = trained(saved, home / "out")
    for private, what in (("hf_right", "token"), (f'x "{home}/data"', "path of this machine")):
        (folder / name).write_text(private)
        error = error_of(push.main, folder, "someone/tagger")
        assert f"expected no {what} in what is pushed" in error and name in error
    assert hub.files == {}


def test_weights_are_searched_too(saved, hub, home):
    folder = trained(saved, home / "out")
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-9] + b"hf_right!")
    assert "expected no token" in error_of(push.main, folder, "someone/tagger")
    header = json.dumps({"__metadata__": {"from": str(home)}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    assert "expected no path" in error_of(push.main, folder, "someone/tagger")
    assert hub.files == {}


@pytest.mark.parametrize("name", ["config.json", "README.md", "modeling_semicrf.py"])
def test_links_are_neither_read_nor_written_through(name, saved, hub, tmp_path):
    folder = trained(saved, tmp_path / "out")
    outside = tmp_path / "outside"
    outside.write_text("mine")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(outside)
    error = error_of(push.main, folder, "someone/tagger")
    assert f"expected a file at '{folder / name}', got a link" in error
    assert outside.read_text() == "mine" and hub.files == {}


DEEP = "[" * 200_000 + "]" * 200_000
OTHER = '{"id2label": 5}'
BROKEN = [DEEP, "5", "null", "[]", "{", "", "9" * 5000, b"\xff\xfe", b"\x80\x04\x95.", OTHER]


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "tokenizer.json"])
def test_broken_files_of_a_model_are_one_line(name, saved, tokenizer, tmp_path, hub):
    tokenizer.save_pretrained(trained(saved, tmp_path / "out\nput"))
    folder = tmp_path / "out\nput"
    for content in BROKEN:
        data = content if isinstance(content, bytes) else content.encode()
        (folder / name).write_bytes(data)
        if name == "config.json":
            with pytest.raises((ValueError, OSError)):
                SemiCRFForTokenClassification.from_pretrained(folder)
            error_of(push.main, folder, "someone/tagger")
        if content != OTHER or name == "config.json":
            assert error_of(predict.main, folder, "Ada saw Oslo")
    assert hub.files == {}


@pytest.mark.parametrize("top", ["a: [", DEEP[:20_000], "a: !!python/object/apply:os.getcwd []"])
def test_a_card_with_broken_yaml_stops_the_push(top, saved, hub, tmp_path):
    folder = trained(saved, tmp_path / "out")
    (folder / "README.md").write_text(f"---\n{top}\n---\n# Card\n")
    error = error_of(push.main, folder, "someone/tagger")
    assert "expected a card with YAML on top" in error and hub.files == {}


def test_pickles_are_not_read(saved, tmp_path):
    import torch
    from safetensors.torch import load_file

    folder = trained(saved, tmp_path / "out")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(OSError, match="safetensors"):
        SemiCRFForTokenClassification.from_pretrained(folder)
    with pytest.raises(OSError, match="safetensors"):
        transformers.AutoModelForTokenClassification.from_pretrained(folder)
    # by name alone, and then as tensors: torch refuses any other pickle
    assert SemiCRFForTokenClassification.from_pretrained(folder, use_safetensors=False)
