"""The trainer's parameter groups and the card that it writes."""

from __future__ import annotations

import re
import sys

import pytest
from datasets import Dataset
from huggingface_hub import ModelCard
from tiny import save_tiny_bert, sentences
from transformers import AutoTokenizer, TrainingArguments, set_seed

from hf_semicrf import (
    SemiCRFDataCollator,
    SemiCRFForTokenClassification,
    TokenizeAndAlign,
    prepare_tokenizer,
)
from hf_semicrf.evaluation.breakdowns import breakdown
from hf_semicrf.evaluation.metrics import seqeval_metrics
from hf_semicrf.trainer import SemiCRFTrainer, SemiCRFTrainingArguments, default_epochs

LABELS = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    set_seed(0)
    return save_tiny_bert(tmp_path_factory.mktemp("tiny") / "bert")


def trainer(folder, output_dir, **arguments):
    set_seed(0)  # for the new head
    model = SemiCRFForTokenClassification.from_pretrained(
        folder, labels=LABELS, max_segment_length=3
    )
    tokenizer = prepare_tokenizer(AutoTokenizer.from_pretrained(folder))
    data = Dataset.from_list(sentences(24)).map(
        TokenizeAndAlign(tokenizer, model.config.label2id), batched=True
    )
    arguments = {"weight_decay": 0.5, "use_cpu": True, "disable_tqdm": True} | arguments
    return SemiCRFTrainer(
        model,
        SemiCRFTrainingArguments(str(output_dir), **arguments),
        train_dataset=data,
        eval_dataset=data,
        processing_class=tokenizer,
        data_collator=SemiCRFDataCollator(tokenizer),
        compute_metrics=seqeval_metrics(model.config),
    )


def test_every_parameter_is_in_the_group_that_its_place_and_shape_ask_for(folder, tmp_path):
    subject = trainer(folder, tmp_path, learning_rate=1e-5, head_learning_rate=1e-2)
    optimizer = subject.create_optimizer()
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(groups)
    for name, parameter in subject.model.named_parameters():
        group = groups.pop(id(parameter))
        head = not name.startswith("text_encoder.")
        assert group["lr"] == (1e-2 if head else 1e-5), name
        decays = parameter.ndim > 1 and "bias" not in name and "LayerNorm" not in name
        assert group["weight_decay"] == (0.5 if decays else 0), name
    assert not groups
    assert subject.create_optimizer() is optimizer


def test_schedule_scales_both_rates(folder, tmp_path):
    subject = trainer(folder, tmp_path, learning_rate=1e-5, head_learning_rate=1e-2)
    subject.create_optimizer_and_scheduler(num_training_steps=100)
    for _ in range(55):  # warm-up 10 steps, then half of the way down
        subject.optimizer.step()
        subject.lr_scheduler.step()
    rates = {group["lr"] for group in subject.optimizer.param_groups}
    assert sorted(rates) == pytest.approx([0.5e-5, 0.5e-2])


def test_training_writes_a_card_with_its_scores(folder, tmp_path):
    subject = trainer(folder, tmp_path, num_train_epochs=1, head_learning_rate=1e-2)
    subject.train()
    subject.create_model_card()
    assert "No scores were given" in (tmp_path / "README.md").read_text()
    scores = subject.evaluate(metric_key_prefix="test")
    subject.create_model_card(model_name="tiny", dataset=["a", "b"], license="mit", tasks="unused")
    text = (tmp_path / "README.md").read_text()
    data = ModelCard(text).data
    assert data.license == "mit" and data.model_name == "tiny"
    f1 = next(result for result in data.eval_results if result.metric_type == "f1")
    assert f1.metric_value == pytest.approx(scores["test_overall_f1"], abs=1e-4)
    assert f1.dataset_split == "test"
    assert "| LOC | 16 |" in text and "| PER | 16 |" in text  # counted in the training data
    assert "| learning rate of the head | 0.01 |" in text
    assert "| train | 24 |" in text and "| validation | 24 |" in text
    assert re.search(r"\| training \(sentences a second\) \| [\d,.]+ \|", text)
    assert re.search(r"\| evaluation, with decoding .* \| [\d,.]+ \|\n\| device \| cpu, ", text)
    assert str(folder) not in text
    assert "By the length" not in text and not (tmp_path / "scores.png").exists()


def test_a_breakdown_adds_lengths_calibration_and_a_plot_where_it_can_be_drawn(
    folder, tmp_path, monkeypatch, caplog
):
    subject = trainer(folder, tmp_path)
    subject.evaluate()
    scores = breakdown([[(0, 2, "PER")]], [[(0, 2, "PER", 0.75)]])
    subject.create_model_card(breakdown=scores, examples=[{"text": "Ada"}], tags="tiny")
    text = (tmp_path / "README.md").read_text()
    assert "| 2 words | 100.00 |" in text and "25.00 % on average" in text
    assert "(scores.png)" in text and (tmp_path / "scores.png").read_bytes()[1:4] == b"PNG"
    data = ModelCard(text).data
    assert data.widget == [{"text": "Ada"}] and "tiny" in data.tags
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with caplog.at_level("WARNING", "hf_semicrf.trainer"):
        subject.create_model_card(breakdown=scores)
    assert "no plot: plots need matplotlib" in caplog.text
    assert "scores.png" not in (tmp_path / "README.md").read_text()


def test_stock_arguments_are_refused(folder, tmp_path):
    with pytest.raises(TypeError, match="SemiCRFTrainingArguments.*got TrainingArguments"):
        SemiCRFTrainer(None, TrainingArguments(str(tmp_path)))


def noisy(dataset):
    """The rows many times over, with one in six of their entities missing from the labels."""
    rows = [dict(row) for row in dataset] * 12
    for row in rows[::6]:
        row["labels"] = [tag if tag == -100 else 0 for tag in row["labels"]]
    return rows


def test_calibration_sets_temperature_and_threshold_from_held_out_sentences(folder, tmp_path):
    subject = trainer(folder, tmp_path, num_train_epochs=6, head_learning_rate=1e-2)
    subject.train()
    subject.calibrate(subject.eval_dataset, temperature=False, threshold=False)
    config = subject.model.config
    assert (config.head_temperature, config.threshold) == (1.0, 0.4)
    rows = noisy(subject.eval_dataset)
    assert subject.calibrate(rows) == []
    assert config.head_temperature == subject.model.classifier.temperature != 1.0
    f1 = subject.evaluate(rows)["eval_overall_f1"]
    assert config.threshold == pytest.approx(f1 / 2, abs=0.05) and f1 < 0.95


def test_what_the_data_do_not_carry_is_kept_and_said(folder, tmp_path, caplog):
    subject = trainer(folder, tmp_path, num_train_epochs=4, head_learning_rate=1e-1)
    subject.train()
    config = subject.model.config
    rows = noisy(subject.eval_dataset)
    nothing = [{**row, "labels": [min(tag, 0) for tag in row["labels"]]} for row in rows]
    unfindable = [row for row in rows if set(row["labels"]) & {1}][:4]
    unfindable = [{**row, "labels": [t if t == -100 else 0 for t in row["labels"]]}
                  for row in unfindable]  # fmt: skip
    unknown = [{**row, "labels": [-100] * len(row["labels"])} for row in rows]
    subject.data_collator.allow_unknown = True
    no_threshold = ("threshold kept at 0.4: none of the 0 entities",)
    no_temperature = ("temperature kept at 1.0: any temperature from",)
    neither = ("temperature kept at 1.0: no sentence", "threshold kept at 0.4: no sentence")
    for data, temperature, threshold, reasons in (
        (nothing, False, True, no_threshold),
        (unfindable, False, True, no_threshold),
        (rows[:3], True, False, no_temperature),
        (unknown, True, True, neither),
    ):
        with caplog.at_level("WARNING", "hf_semicrf.trainer"):
            said = " ".join(subject.calibrate(data, temperature, threshold))
        assert all(reason in said for reason in reasons), said
        assert (config.head_temperature, config.threshold) == (1.0, 0.4)
    subject.create_model_card()
    assert "not calibrated" in (tmp_path / "README.md").read_text()


def test_calibration_can_be_switched_off(folder, tmp_path):
    subject = trainer(folder, tmp_path, temperature_loss="none", threshold_rule="none")
    subject.calibrate(subject.eval_dataset)
    config = subject.model.config
    assert (config.head_temperature, config.threshold) == (1.0, 0.4)


def test_calibration_leaves_out_sentences_with_unknown_words(folder, tmp_path):
    subject = trainer(folder, tmp_path)
    subject.data_collator.allow_unknown = True
    subject.model.config.unknown = "marginalize"
    rows = noisy(subject.eval_dataset)
    subject.calibrate(rows)
    found = subject.model.config.head_temperature
    partly = {**rows[0], "labels": [-100] * len(rows[0]["labels"])}
    subject.calibrate([*rows, partly])
    assert subject.model.config.head_temperature == found


def test_few_sentences_are_passed_over_until_there_are_enough_steps(folder, tmp_path):
    args = SemiCRFTrainingArguments(str(tmp_path), use_cpu=True)
    assert args.num_train_epochs is None
    for rows, epochs in ((50, 200), (499, 25), (500, 25), (1600, 8), (10**6, 8), (0, 8)):
        assert default_epochs(args, range(rows)) == epochs
    assert default_epochs(args, iter([])) == default_epochs(args, None) == 8
    args.gradient_accumulation_steps = 2
    assert default_epochs(args, range(499)) == 50
    assert trainer(folder, tmp_path).args.num_train_epochs == 400  # 24 sentences
    assert trainer(folder, tmp_path, num_train_epochs=2).args.num_train_epochs == 2
