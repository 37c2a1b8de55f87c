"""Two processes train as one does: DDP and FSDP2, on the CPU over gloo and on GPUs over NCCL."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import distributed_train
import pytest
import torch
from tiny import SCRIPTS, save_tiny_bert, sentences, write_jsonl
from transformers import AutoTokenizer

from hf_semicrf import SemiCRFForTokenClassification

TWO = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
two_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs 2 GPUs")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A saved model without dropout, which would differ between the processes."""
    folder = tmp_path_factory.mktemp("tiny")
    bert = save_tiny_bert(folder / "bert")
    torch.manual_seed(0)
    model = SemiCRFForTokenClassification.from_pretrained(
        bert,
        labels=["O", "B-LOC", "I-LOC", "B-PER", "I-PER"],
        max_segment_length=3,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        head_dropout=0.0,
    )
    for part in (model, AutoTokenizer.from_pretrained(bert)):
        part.save_pretrained(folder / "model")
    return folder / "model"


def python(*arguments):
    """Run Python here, with this package and the tests' helpers; the output only if it fails."""
    root = Path(__file__).parent.parent
    more = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    path = os.pathsep.join([str(root), str(root / "tests"), *filter(None, more)])
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def weights(folder):
    return SemiCRFForTokenClassification.from_pretrained(folder).state_dict()


def two_as_one(model, out, flags, tolerance):
    distributed_train.main([str(model), str(out / "one"), *flags])
    python(*TWO, distributed_train.__file__, model, out / "two", *flags)
    one, two = (json.loads((out / name / "run.json").read_text()) for name in ("one", "two"))
    assert (one.pop("processes"), two.pop("processes")) == (1, 2)
    assert two.pop("losses") == pytest.approx(one.pop("losses"), abs=tolerance)
    assert two == one  # predictions and scores, where there are any
    start, expected, found = map(weights, (model, out / "one", out / "two"))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=tolerance)
    moved = {name for name, value in expected.items() if not torch.equal(value, start[name])}
    assert {"classifier.transition_bias", "text_encoder.embeddings.LayerNorm.bias"} <= moved


@pytest.mark.parametrize("flags", [[], ["--fsdp"]], ids=["DDP", "FSDP2"])
def test_two_processes_on_the_cpu_are_one(model, tmp_path, flags):
    two_as_one(model, tmp_path, [*flags, "--cpu"], 1e-6)


@pytest.mark.gpu
@two_gpus
@pytest.mark.parametrize("flags", [[], ["--fsdp"]], ids=["DDP", "FSDP2"])
def test_two_gpus_are_one_process(model, tmp_path, flags):
    """One process on the CPU is the reference: in a single process the Trainer would take all."""
    distributed_train.main([str(model), str(tmp_path / "one"), "--cpu"])
    python(*TWO, distributed_train.__file__, model, tmp_path / "two", *flags)
    one, two = (json.loads((tmp_path / n / "run.json").read_text()) for n in ("one", "two"))
    assert two["processes"] == 2 and two["tags"] == one["tags"] and two["f1"] == one["f1"]
    assert two["losses"] == pytest.approx(one["losses"], abs=1e-5)
    expected, found = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-5)


def test_the_training_script_under_accelerate(model, tmp_path):
    train = write_jsonl(tmp_path / "train.jsonl", sentences(48))
    test = write_jsonl(tmp_path / "test.jsonl", sentences(12))
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    # --multi_gpu is what starts several processes; --use_cpu keeps them on the CPU
    launch = "-m accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 "
    launch += f"--mixed_precision no --dynamo_backend no --main_process_port {port}"
    settings = "--num_train_epochs 12 --per_device_train_batch_size 4 --disable_tqdm True "
    settings += "--learning_rate 1e-2 --head_learning_rate 1e-1 --use_cpu"
    python(
        *(
            *launch.split(),
            SCRIPTS / "train.py",
            *settings.split(),
            "--output_dir",
            tmp_path / "out",
        ),
        *("--model_name_or_path", model.parent / "bert"),
        *("--train_file", train, "--validation_file", test),
    )
    results = json.loads((tmp_path / "out" / "all_results.json").read_text())
    assert results["validation_overall_f1"] > 0.9
    assert "| batch size | 8 |" in (tmp_path / "out" / "README.md").read_text()  # of both
    tagger = SemiCRFForTokenClassification.from_pretrained(tmp_path / "out")
    (entities,) = tagger.predict(["saw Oslo"], AutoTokenizer.from_pretrained(tmp_path / "out"))
    assert [(e["label"], e["text"]) for e in entities] == [("LOC", "Oslo")]
