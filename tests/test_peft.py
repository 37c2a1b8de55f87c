"""LoRA on the encoder, with the head trained and saved beside it."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset
from tiny import save_tiny_bert, sentences
from transformers import AutoTokenizer

from hf_semicrf import (
    SemiCRFDataCollator,
    SemiCRFForTokenClassification,
    SemiCRFTrainer,
    SemiCRFTrainingArguments,
    TokenizeAndAlign,
    prepare_tokenizer,
)

peft = pytest.importorskip("peft")

LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
TEXTS = [row["tokens"] for row in sentences(6)]


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return save_tiny_bert(tmp_path_factory.mktemp("tiny") / "bert")


@pytest.fixture(scope="module")
def tokenizer(bert):
    return prepare_tokenizer(AutoTokenizer.from_pretrained(bert))


def base(bert):
    """The base with its labels and a head of its own: every load draws another."""
    return SemiCRFForTokenClassification.from_pretrained(bert, labels=LABELS, max_segment_length=3)


def batch_of(tokenizer, rows):
    data = Dataset.from_list(rows)
    label2id = {tag: index for index, tag in enumerate(LABELS)}
    return data.map(TokenizeAndAlign(tokenizer, label2id), remove_columns=data.column_names,
                    batched=True)  # fmt: skip


@pytest.fixture(scope="module")
def trained(bert, tokenizer, tmp_path_factory):
    """A LoRA model after some steps of the trainer, the trainer, and the adapter's folder."""
    lora = peft.LoraConfig(
        task_type="TOKEN_CLS", r=4, target_modules=["query", "value"], init_lora_weights=False
    )
    model = peft.get_peft_model(base(bert), lora)
    before = {name: value.clone() for name, value in model.named_parameters()}
    folder = tmp_path_factory.mktemp("adapter")
    data = batch_of(tokenizer, sentences(24))
    trainer = SemiCRFTrainer(
        model,
        SemiCRFTrainingArguments(
            str(folder), max_steps=6, use_cpu=True, disable_tqdm=True, report_to=[],
            per_device_train_batch_size=8, head_learning_rate=1e-1, learning_rate=1e-2,
        ),
        train_dataset=data,
        processing_class=tokenizer,
        data_collator=SemiCRFDataCollator(tokenizer),
    )  # fmt: skip
    trainer.train()
    trainer.save_model()
    return model.eval(), before, trainer, folder


@pytest.fixture(scope="module")
def batch(tokenizer):
    return SemiCRFDataCollator(tokenizer)(batch_of(tokenizer, sentences(6)).to_list())


def outputs(model, batch):
    with torch.no_grad():
        output = model(**batch)
    return output.loss, output.logits


def test_the_adapter_and_the_head_are_trained_and_nothing_else(trained):
    model, before, trainer, _ = trained
    for name, value in model.named_parameters():
        moves = "lora_" in name or ("classifier" in name and "modules_to_save" in name)
        assert value.requires_grad == moves, name
        assert torch.equal(value, before[name]) != moves, name
    rates = {
        name: group["initial_lr"]
        for group in trainer.optimizer.param_groups
        for name, value in model.named_parameters()
        if any(value is other for other in group["params"])
    }
    assert {rate for name, rate in rates.items() if "lora_" in name} == {1e-2}
    assert {rate for name, rate in rates.items() if "classifier" in name} == {1e-1}


def test_an_adapter_on_a_fresh_base_gives_the_same_outputs(trained, bert, batch):
    model, _, _, folder = trained
    assert (folder / "adapter_model.safetensors").exists()
    assert not (folder / "model.safetensors").exists()
    fresh = base(bert)
    assert not torch.equal(outputs(fresh, batch)[1], outputs(model, batch)[1])
    again = peft.PeftModel.from_pretrained(fresh, folder).eval()
    for one, other in zip(outputs(again, batch), outputs(model, batch), strict=True):
        assert torch.equal(one, other)


def test_merged_saved_and_loaded_it_is_an_ordinary_model(trained, bert, batch, tokenizer, tmp_path):
    model, _, _, folder = trained
    expected = outputs(model, batch)
    merged = peft.PeftModel.from_pretrained(base(bert), folder).merge_and_unload().eval()
    assert type(merged) is SemiCRFForTokenClassification
    merged.save_pretrained(tmp_path)
    again = SemiCRFForTokenClassification.from_pretrained(tmp_path)
    for one, other in zip(outputs(merged, batch), outputs(again, batch), strict=True):
        assert torch.equal(one, other)
    (loss, logits), (expected_loss, expected_logits) = outputs(again, batch), expected
    assert torch.allclose(loss, expected_loss, rtol=1e-5)  # W + BA is rounded once more
    assert torch.allclose(logits.exp(), expected_logits.exp(), rtol=0, atol=1e-5)
    assert torch.equal(logits.argmax(-1), expected_logits.argmax(-1))
    assert again.predict(TEXTS, tokenizer) == merged.predict(TEXTS, tokenizer)


def test_the_threshold_reaches_the_head_under_its_wrapper(bert):
    model = peft.get_peft_model(
        base(bert), peft.LoraConfig(task_type="TOKEN_CLS", target_modules=["query"])
    )
    model.set_threshold(0.25)
    model.set_temperature(2.0)
    merged = model.merge_and_unload()
    assert merged.classifier.threshold == merged.config.threshold == 0.25
    assert merged.classifier.temperature == merged.config.head_temperature == 2.0


def test_target_modules_are_mandatory(bert):
    with pytest.raises(ValueError, match="target_modules"):
        peft.get_peft_model(base(bert), peft.LoraConfig(task_type="TOKEN_CLS"))
