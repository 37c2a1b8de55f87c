"""What the Trainer offers, on a model of this package: precision, memory, resuming, compilation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from tiny import save_tiny_bert, sentences
from torch._dynamo.utils import counters
from transformers import AutoTokenizer, Trainer, TrainingArguments

from hf_semicrf import (
    SemiCRFDataCollator,
    SemiCRFForTokenClassification,
    TokenizeAndAlign,
    prepare_tokenizer,
    seqeval_metrics,
)

LABELS = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
NO_DROPOUT = {
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "head_dropout": 0.0,
}
ONE_STEP = {"max_steps": 1, "learning_rate": 0.5, "optim": "sgd", "lr_scheduler_type": "constant"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_bert(tmp_path_factory.mktemp("tiny") / "bert")


def trainer(folder, out, overrides=NO_DROPOUT, **arguments):
    """The stock Trainer on a model whose head always starts from the same weights."""
    torch.manual_seed(0)
    model = SemiCRFForTokenClassification.from_pretrained(
        folder, labels=LABELS, max_segment_length=3, **overrides
    )
    tokenizer = prepare_tokenizer(AutoTokenizer.from_pretrained(folder))
    data = Dataset.from_list(sentences(24)).map(
        TokenizeAndAlign(tokenizer, model.config.label2id), batched=True
    )
    settings = {"use_cpu": True, "disable_tqdm": True, "report_to": "none", "logging_steps": 1}
    settings |= {"save_strategy": "no", "per_device_train_batch_size": 8}
    return Trainer(
        model,
        TrainingArguments(str(out), **settings | arguments),
        train_dataset=data,
        eval_dataset=data,
        processing_class=tokenizer,
        data_collator=SemiCRFDataCollator(tokenizer),
        compute_metrics=seqeval_metrics(model.config),
    )


def losses(subject):
    return [row["loss"] for row in subject.state.log_history if "loss" in row]


def weights(model):
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def test_accumulated_batches_weigh_as_one(folder, tmp_path):
    """Sentences of different lengths: a mean of the batches' means would differ."""
    results = []
    for size, steps in ((8, 1), (2, 4)):
        subject = trainer(
            folder,
            tmp_path,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=steps,
            **ONE_STEP,
        )
        before = weights(subject.model)
        subject.train()
        results.append((losses(subject), weights(subject.model)))
    (loss, whole), (accumulated_loss, accumulated) = results
    assert loss == pytest.approx(accumulated_loss, abs=1e-6)
    assert not torch.equal(
        before["classifier.transition_bias"], whole["classifier.transition_bias"]
    )
    for name, value in whole.items():
        torch.testing.assert_close(accumulated[name], value, rtol=0, atol=1e-6)


def test_sentences_of_like_length_share_a_batch(folder, tmp_path):
    grouped = {"train_sampling_strategy": "group_by_length"}
    if not hasattr(TrainingArguments, "train_sampling_strategy"):  # early versions of 5
        grouped = {"group_by_length": True}
    padding = []
    for settings in (grouped, {}):
        subject = trainer(folder, tmp_path, per_device_train_batch_size=2, **settings)
        batches = subject.get_train_dataloader()
        padding.append(sum(int((batch["attention_mask"] == 0).sum()) for batch in batches))
    assert padding[0] < padding[1]


def test_an_interrupted_run_ends_with_the_same_weights(folder, tmp_path):
    """With dropout, so that the generator's state counts too."""
    settings = {"num_train_epochs": 2, "save_strategy": "steps", "save_steps": 2}
    whole = trainer(folder, tmp_path, overrides={}, **settings)
    whole.train()
    resumed = trainer(folder, tmp_path, overrides={}, **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert losses(resumed) == losses(whole)
    expected, found = weights(whole.model), weights(resumed.model)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_the_best_checkpoint_is_loaded_at_the_end(folder, tmp_path):
    subject = trainer(
        folder,
        tmp_path,
        num_train_epochs=3,
        learning_rate=1e-2,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="eval_overall_f1",
    )
    subject.train()
    rows = [row for row in subject.state.log_history if "eval_overall_f1" in row]
    best = Path(subject.state.best_model_checkpoint)
    assert subject.state.best_metric == max(row["eval_overall_f1"] for row in rows)
    stored = load_file(best / "model.safetensors")
    assert all(torch.equal(subject.model.state_dict()[name], v) for name, v in stored.items())


def test_predictions_of_all_batches_are_gathered(folder, tmp_path):
    subject = trainer(folder, tmp_path, per_device_eval_batch_size=5, eval_accumulation_steps=2)
    output = subject.predict(subject.eval_dataset)
    assert output.predictions.shape == (*output.label_ids.shape, len(LABELS))
    alone = trainer(folder, tmp_path, per_device_eval_batch_size=1).predict(subject.eval_dataset)
    at = output.label_ids != -100
    assert (at == (alone.label_ids != -100)).all()
    torch.testing.assert_close(
        torch.tensor(output.predictions[at]), torch.tensor(alone.predictions[at]), rtol=0, atol=1e-4
    )


def test_bf16_trains_a_float32_model(folder, tmp_path):
    precise, mixed = (
        trainer(folder, tmp_path, bf16=bf16, max_steps=6, learning_rate=1e-2)
        for bf16 in (False, True)
    )
    for subject in (precise, mixed):
        subject.train()
    assert losses(mixed) == pytest.approx(losses(precise), rel=0.05)
    assert losses(mixed) != losses(precise)
    assert {value.dtype for value in mixed.model.parameters()} == {torch.float32}
    assert mixed.predict(mixed.eval_dataset).predictions.dtype == "float32"


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_on_a_gpu(folder, tmp_path, precision):
    precise, mixed = (
        trainer(folder, tmp_path, use_cpu=False, max_steps=6, learning_rate=1e-2, **setting)
        for setting in ({}, {precision: True})
    )
    for subject in (precise, mixed):
        subject.train()
    assert losses(mixed) == pytest.approx(losses(precise), rel=0.05)
    assert mixed.evaluate()["eval_loss"] < losses(mixed)[0]


def test_gradient_checkpointing_changes_memory_and_nothing_else(folder, tmp_path):
    results = []
    for checkpointing in (False, True):
        subject = trainer(folder, tmp_path, gradient_checkpointing=checkpointing, **ONE_STEP)
        subject.train()
        assert subject.model.text_encoder.is_gradient_checkpointing == checkpointing
        results.append(weights(subject.model))
    assert all(torch.equal(results[1][name], value) for name, value in results[0].items())


def test_a_batch_that_does_not_fit_is_made_smaller(folder, tmp_path, monkeypatch):
    subject = trainer(folder, tmp_path, auto_find_batch_size=True, max_steps=2)
    forward, sizes = subject.model.classifier.forward, []

    def small_memory(hidden, *args, **kwargs):
        sizes.append(len(hidden))
        if len(hidden) > 4:
            raise RuntimeError("CUDA out of memory. Tried to allocate more than there is")
        return forward(hidden, *args, **kwargs)

    monkeypatch.setattr(subject.model.classifier, "forward", small_memory)
    subject.train()
    assert sizes[0] == 8 and sizes[-1] <= 4 and subject.state.global_step == 2


def test_label_smoothing_by_the_trainer_is_refused(folder, tmp_path):
    subject = trainer(folder, tmp_path, label_smoothing_factor=0.1, max_steps=1)
    with pytest.raises(ValueError, match="label_smoothing_factor takes the labels away"):
        subject.train()


def test_a_compiled_run_breaks_no_graph_and_learns_alike(folder, tmp_path):
    plain = trainer(folder, tmp_path, max_steps=3)
    plain.train()
    torch.compiler.reset()
    counters.clear()
    compiled = trainer(
        folder, tmp_path, max_steps=3, torch_compile=True, torch_compile_backend="aot_eager"
    )
    compiled.train()
    torch.compiler.reset()
    assert counters["stats"]["unique_graphs"] > 0 and not counters["graph_break"]
    assert losses(compiled) == pytest.approx(losses(plain), rel=1e-5)


def test_the_whole_model_has_no_graph_break(folder, tmp_path):
    subject = trainer(folder, tmp_path)
    batch = next(iter(subject.get_train_dataloader()))
    torch.compiler.reset()
    explained = torch._dynamo.explain(subject.model.train())(**batch, num_items_in_batch=10)
    torch.compiler.reset()
    assert (explained.graph_count, explained.graph_break_count) == (1, 0)
