"""One training run of a tiny model, the same whatever the number of processes and their devices.

torchrun --nproc-per-node 2 tests/distributed_train.py MODEL OUT [--fsdp] [--cpu]

MODEL is a saved model with its tokenizer. OUT receives the trained model, and `run.json`: what was
logged and what was predicted for the evaluation sentences.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from datasets import Dataset
from safetensors.torch import save_file
from tiny import sentences
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import AutoTokenizer

from hf_semicrf import (
    SemiCRFDataCollator,
    SemiCRFForTokenClassification,
    SemiCRFTrainer,
    SemiCRFTrainingArguments,
    TokenizeAndAlign,
    prepare_tokenizer,
    seqeval_metrics,
)

BATCH = 8  # sentences a step, over all processes
SETTINGS = {
    "optim": "sgd",  # Adam's division by tiny gradients would magnify rounding
    "learning_rate": 0.1,
    "head_learning_rate": 0.2,
    "num_train_epochs": 2,
    "lr_scheduler_type": "constant",
    "warmup_steps": 0,
    "logging_steps": 1,
    "disable_tqdm": True,
    "report_to": "none",
}
WRAPPED = ("BertLayer", "SemiCRF")  # what is sharded each on its own


def with_trainer(args: argparse.Namespace, model: SemiCRFForTokenClassification) -> None:
    """Train, predict and save with the Trainer; several processes make DDP or, on GPUs, FSDP2."""
    fsdp_config = {"version": 2, "transformer_layer_cls_to_wrap": list(WRAPPED)}
    sharded = {"fsdp": True, "fsdp_config": fsdp_config} if args.fsdp else {}
    settings = SemiCRFTrainingArguments(args.out, use_cpu=args.cpu, **SETTINGS, **sharded)
    settings.per_device_train_batch_size = BATCH // settings.world_size
    tokenizer = prepare_tokenizer(AutoTokenizer.from_pretrained(args.model))
    align = TokenizeAndAlign(tokenizer, model.config.label2id)
    train, test = (
        Dataset.from_list(sentences(count)).map(align, batched=True) for count in (24, 13)
    )
    trainer = SemiCRFTrainer(
        model,
        settings,
        train_dataset=train,
        eval_dataset=test,
        processing_class=tokenizer,
        data_collator=SemiCRFDataCollator(tokenizer),
        compute_metrics=seqeval_metrics(model.config),
    )
    trainer.train()
    output = trainer.predict(test)
    trainer.save_model()
    if trainer.is_world_process_zero():
        rows = [row for row in trainer.state.log_history if "loss" in row]
        run = {
            "losses": [row["loss"] for row in rows],
            "f1": output.metrics["test_overall_f1"],
            "tags": output.predictions.argmax(-1)[output.label_ids != -100].tolist(),
            "processes": settings.world_size,
        }
        Path(args.out, "run.json").write_text(json.dumps(run))


def by_hand(args: argparse.Namespace, model: SemiCRFForTokenClassification) -> None:
    """Three steps on the CPU with the model sharded as accelerate shards it on GPUs only."""
    if dist.is_initialized():
        for module in [m for m in model.modules() if type(m).__name__ in WRAPPED] + [model]:
            fully_shard(module, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    rank, processes = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    tokenizer = prepare_tokenizer(AutoTokenizer.from_pretrained(args.model))
    align = TokenizeAndAlign(tokenizer, model.config.label2id)
    rows = Dataset.from_list(sentences(3 * BATCH)).map(align, batched=True).to_list()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for first in range(0, len(rows), BATCH):
        step = rows[first : first + BATCH]
        words = sum(sum(row["word_mask"]) for row in step)
        batch = SemiCRFDataCollator(tokenizer)(step[rank::processes])
        # the gradients of the processes are averaged
        loss = model.train()(**batch, num_items_in_batch=words).loss * processes
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if processes > 1:
            dist.all_reduce(loss)
        losses.append(loss.item() / processes)
    weights = {
        name: value.full_tensor() if hasattr(value, "full_tensor") else value
        for name, value in model.state_dict().items()
    }
    if rank == 0:
        Path(args.out).mkdir(parents=True, exist_ok=True)
        save_file(weights, Path(args.out, "model.safetensors"), {"format": "pt"})
        model.config.save_pretrained(args.out)
        run = {"losses": losses, "processes": processes}
        Path(args.out, "run.json").write_text(json.dumps(run))


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("out")
    parser.add_argument("--fsdp", action="store_true", help="shard the model over the processes")
    parser.add_argument("--cpu", action="store_true", help="leave GPUs alone")
    args = parser.parse_args(arguments)
    model = SemiCRFForTokenClassification.from_pretrained(args.model)
    if args.fsdp and args.cpu:
        if dist.is_torchelastic_launched():
            dist.init_process_group("gloo")
        by_hand(args, model)
    else:
        with_trainer(args, model)
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
