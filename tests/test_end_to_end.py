"""The whole path in a few lines, with the stock Trainer, as a user writes them."""

from __future__ import annotations

import evaluate
import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Sequence
from seqeval.metrics import f1_score
from tiny import save_tiny_bert, sentences
from transformers import AutoModelForTokenClassification, AutoTokenizer, Trainer, TrainingArguments

import hf_semicrf.evaluation.seqeval_metric
from hf_semicrf import (
    SemiCRFDataCollator,
    SemiCRFForTokenClassification,
    TokenizeAndAlign,
    prepare_tokenizer,
    seqeval_metrics,
)

LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


def corpus(tags_are_ids: bool) -> DatasetDict:
    splits = {"train": sentences(48), "validation": sentences(20)}
    data = DatasetDict({name: Dataset.from_list(rows) for name, rows in splits.items()})
    if tags_are_ids:  # in another order than the model's labels, as data sets have it
        classes = ClassLabel(names=["B-LOC", "I-LOC", "O", "I-PER", "B-PER"])
        data = data.map(lambda row: {"ner_tags": classes.str2int(row["ner_tags"])})
        data = data.cast_column("ner_tags", Sequence(classes))
    return data


@pytest.mark.parametrize("tags_are_ids", [False, True])
def test_from_a_plain_encoder_to_a_reloaded_tagger(tmp_path, monkeypatch, tags_are_ids):
    save_tiny_bert(tmp_path / "bert-base-cased")
    monkeypatch.chdir(tmp_path)
    data = corpus(tags_are_ids)

    model = SemiCRFForTokenClassification.from_pretrained(
        "bert-base-cased", labels=LABELS, max_segment_length=8
    )
    tokenizer = prepare_tokenizer(AutoTokenizer.from_pretrained("bert-base-cased"))
    data = data.map(TokenizeAndAlign(tokenizer, model.config.label2id), batched=True)
    arguments = TrainingArguments(
        "out", num_train_epochs=25, learning_rate=1e-2, logging_steps=1, report_to="none"
    )
    trainer = Trainer(
        model,
        arguments,
        train_dataset=data["train"],
        eval_dataset=data["validation"],
        processing_class=tokenizer,
        data_collator=SemiCRFDataCollator(tokenizer),
        compute_metrics=seqeval_metrics(model.config),
    )
    trainer.train()
    scores = trainer.evaluate()
    trainer.save_model("out/final")

    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) / 4
    output = trainer.predict(data["validation"])
    words = output.label_ids != -100
    names = np.array(LABELS)
    predicted, truth = (
        [names[row[mask]].tolist() for row, mask in zip(tags, words, strict=True)]
        for tags in (output.predictions.argmax(-1), output.label_ids)
    )
    assert truth == [row["ner_tags"] for row in sentences(20)]
    assert scores["eval_overall_f1"] == pytest.approx(f1_score(truth, predicted))
    assert scores["eval_overall_f1"] > 0.9
    metric = evaluate.load(hf_semicrf.evaluation.seqeval_metric.__file__)
    computed = metric.compute(predictions=predicted, references=truth)
    assert computed["overall_f1"] == pytest.approx(scores["eval_overall_f1"])

    again = AutoModelForTokenClassification.from_pretrained("out/final")
    text = "Yesterday Ada Lovelace saw Paris"
    entities, of_words = again.predict([text, text.split()], tokenizer)
    assert [(e["label"], e["text"]) for e in entities] == [
        ("PER", "Ada Lovelace"),
        ("LOC", "Paris"),
    ]
    assert [(e["start"], e["end"]) for e in entities] == [(10, 22), (27, 32)]
    assert [(e["start"], e["end"]) for e in of_words] == [(1, 3), (4, 5)]
    assert all(0.5 < e["score"] <= 1 for e in entities)


@pytest.mark.parametrize("accumulation", [None, 1])
def test_predictions_of_batches_of_all_lengths_line_up_with_their_sentences(tmp_path, accumulation):
    """The Trainer pads and joins tensors of batches along one dimension, and nothing else."""
    bert = save_tiny_bert(tmp_path / "bert")
    model = SemiCRFForTokenClassification.from_pretrained(bert, labels=LABELS)
    tokenizer = prepare_tokenizer(AutoTokenizer.from_pretrained(bert))
    rows = [{name: row[name] * (1 + n % 4) for name in row} for n, row in enumerate(sentences(9))]
    align = TokenizeAndAlign(tokenizer, model.config.label2id)
    data = Dataset.from_list(rows).map(align, batched=True, remove_columns=list(rows[0]))
    arguments = TrainingArguments(
        str(tmp_path / "out"),
        per_device_eval_batch_size=2,
        eval_accumulation_steps=accumulation,
        report_to="none",
    )
    collator = SemiCRFDataCollator(tokenizer)
    output = Trainer(model, arguments, data_collator=collator).predict(data)
    longest = max(len(row["input_ids"]) for row in data)
    assert output.predictions.shape == (9, longest, len(LABELS))
    assert output.label_ids.shape == (9, longest)
    model.to("cpu").eval()
    for row, predictions, labels in zip(data, output.predictions, output.label_ids, strict=True):
        length = len(row["input_ids"])
        assert labels[:length].tolist() == row["labels"] and (labels[length:] == -100).all()
        with torch.no_grad():
            alone = model(**collator([row])).logits[0].numpy()
        np.testing.assert_allclose(predictions[:length], alone, atol=1e-4)
