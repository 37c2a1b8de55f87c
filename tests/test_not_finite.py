"""Scores that are not finite are refused where they are fetched; so is what is no tensor."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from datasets import Dataset
from tiny import save_tiny_bert, sentences
from transformers import AutoTokenizer, pipeline

from hf_semicrf import (
    SemiCRFDataCollator,
    SemiCRFForTokenClassification,
    SemiCRFTrainer,
    SemiCRFTrainingArguments,
    TokenizeAndAlign,
    ops,
    prepare_tokenizer,
    seqeval_metrics,
)
from hf_semicrf.head import SemiCRFOutput
from hf_semicrf.head.calibration import Scored, fit_temperature, fit_threshold
from hf_semicrf.inference.distribution import decoded_segments

LABELS = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
NO_PERSON_OF_ONE_WORD = {"initial": ["PER"], "lengths": {"PER": [2, 3]}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_bert(tmp_path_factory.mktemp("tiny") / "bert")


def tagger(folder, **settings):
    torch.manual_seed(0)
    return SemiCRFForTokenClassification.from_pretrained(
        folder, labels=LABELS, max_segment_length=3, **settings
    )


def broken(folder, name="text_encoder"):
    """A model with NaN in one weight of a part."""
    model = tagger(folder)
    weight = [p for n, p in model.named_parameters() if n.startswith(name)][-1]
    weight.data.view(-1)[0] = torch.nan
    return model


@pytest.mark.parametrize("name", ["text_encoder", "classifier.scorer", "classifier.duration_bias"])
def test_entities_of_a_broken_model(folder, name):
    model, tokenizer = broken(folder, name), AutoTokenizer.from_pretrained(folder)
    tagging = pipeline("semicrf-ner", model=model, tokenizer=tokenizer)
    for call in (
        lambda: model.predict(["Anna", "Anna lives here"], tokenizer),
        lambda: model.analyze(["Anna"], tokenizer),
        lambda: tagging("Anna"),
    ):
        with pytest.raises(ValueError, match=r"expected finite scores .*got nan in \w+"):
            call()


def test_entities_of_sentences_that_were_not_checked():
    """As a GPU returns them."""
    nan = torch.full((2, 3, 2), torch.nan)
    nan[0] = 0.5
    labels = torch.tensor([[0, 1, 0], [-1, -1, -1]])
    head = SemiCRFOutput(None, labels, labels >= 0, nan[..., 0], ops.Marginals(nan, nan, nan))
    with pytest.raises(ops.ScoreError, match=r"expected finite scores, .* in sentences \[1\]"):
        decoded_segments(head, ["O", "PER"])


def trainer(model, folder, out, **arguments):
    tokenizer = prepare_tokenizer(AutoTokenizer.from_pretrained(folder))
    data = Dataset.from_list(sentences(16)).map(
        TokenizeAndAlign(tokenizer, model.config.label2id), batched=True
    )
    settings = {"use_cpu": True, "disable_tqdm": True, "report_to": "none", "max_steps": 2}
    return SemiCRFTrainer(
        model,
        SemiCRFTrainingArguments(str(out), **settings | arguments),
        train_dataset=data,
        eval_dataset=data,
        processing_class=tokenizer,
        data_collator=SemiCRFDataCollator(tokenizer),
        compute_metrics=seqeval_metrics(model.config),
    )


def test_training_evaluation_and_calibration_of_a_broken_model(folder, tmp_path):
    subject = trainer(broken(folder), folder, tmp_path)
    for call in (
        subject.train,
        subject.evaluate,
        lambda: subject.calibrate(subject.eval_dataset),
    ):
        with pytest.raises(ValueError, match="expected finite scores"):
            call()


def test_the_log_refuses_losses_and_takes_gradients(folder, tmp_path):
    subject = trainer(tagger(folder), folder, tmp_path)
    subject.log({"loss": 1.0, "grad_norm": math.nan})
    for name in ("loss", "eval_loss", "train_loss"):
        for value in (math.nan, math.inf):
            with pytest.raises(ValueError, match=rf"expected a finite loss, got {name} = {value}"):
                subject.log({name: value})
    assert len(subject.state.log_history) == 1
    assert subject.args.logging_nan_inf_filter is False


def test_a_loss_that_is_not_checked_stops_the_training(folder, tmp_path, monkeypatch):
    """As on a GPU: the encoder's NaN is found when the loss is fetched."""
    monkeypatch.setattr("hf_semicrf.ops.checks.values_are_checked", lambda device: False)
    subject = trainer(broken(folder), folder, tmp_path, logging_steps=1)
    with pytest.raises(ValueError, match="expected a finite loss, got loss = nan at step 1"):
        subject.train()


def test_metrics_of_log_probabilities_that_are_none():
    config = type("Config", (), {"scheme": None, "id2label": dict(enumerate(LABELS))})
    logits = np.zeros((2, 3, 5))
    labels = np.zeros((2, 3), dtype=int)
    compute = seqeval_metrics(config)
    prediction = type("Prediction", (), {"predictions": logits, "label_ids": labels})
    assert compute(prediction)["overall_accuracy"] == 1
    logits[1, 2, 0] = np.nan
    with pytest.raises(ValueError, match=r"expected log probabilities, got NaN in .* \[1\]"):
        compute(prediction)


@pytest.mark.parametrize("loss", ["sentence", "segment"])
def test_calibration_of_scores_that_were_not_checked(loss, monkeypatch):
    monkeypatch.setattr("hf_semicrf.ops.checks.values_are_checked", lambda device: False)
    p = ops.Potentials(
        emission=torch.full((1, 2, 2), torch.nan),
        duration=torch.zeros(2, 2),
        transition=torch.zeros(2, 2),
        initial=torch.zeros(2),
        final=torch.zeros(2),
        lengths=torch.tensor([2]),
    )
    batch = Scored(p, torch.zeros(1, 2).long(), torch.ones(1, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match="expected a finite loss of the held-out sentences"):
        fit_temperature([batch], loss)
    with pytest.raises(ValueError, match="expected finite scores of the held-out sentences"):
        fit_threshold([batch])


@pytest.mark.parametrize("potentials", ["factored", "edge"])
@pytest.mark.parametrize("unknown", ["error", "marginalize"])
@pytest.mark.parametrize("training", [True, False])
def test_labels_of_a_sentence_that_the_constraints_do_not_allow_at_all(
    folder, potentials, unknown, training
):
    model = tagger(
        folder, constraints=NO_PERSON_OF_ONE_WORD, potentials=potentials, unknown=unknown
    )
    inputs = {"input_ids": torch.tensor([[2, 5, 3]]), "labels": torch.tensor([[-100, 0, -100]])}
    with pytest.raises(
        ValueError, match=r"expected labels that .* allow, got others in rows \[0\]"
    ):
        model.train(training)(**inputs)


def test_a_batch_without_words_costs_nothing(folder):
    model = tagger(folder).train()
    inputs = {"input_ids": torch.tensor([[2, 3]]), "labels": torch.tensor([[-100, -100]])}
    loss = model(**inputs).loss
    loss.backward()
    assert loss == 0 and all(x.grad.isfinite().all() for x in model.parameters() if x.requires_grad)


FUNCTIONS = {
    "log_partition": lambda p: ops.log_partition(p),
    "log_partition_difference": lambda p: ops.log_partition_difference(p, p),
    "viterbi": lambda p: ops.viterbi(p),
    "marginals": lambda p: ops.marginals(p),
    "entropy": lambda p: ops.entropy(p),
    "kl_divergence": lambda p: ops.kl_divergence(p, p),
    "sample": lambda p: ops.sample(p, 1),
    "k_best": lambda p: ops.k_best(p, 1),
    "to_edge": lambda p: ops.to_edge(p),
    "negative_log_likelihood": lambda p: ops.negative_log_likelihood(p, None, None),
    "segmentation_score": lambda p: ops.segmentation_score(p, None, None),
    "segment_marginals": lambda p: ops.segment_marginals(p, None),
}
ZEROS = ops.Potentials(
    torch.zeros(1, 2, 2),
    duration=torch.zeros(2, 2),
    transition=torch.zeros(2, 2),
    initial=torch.zeros(2),
    final=torch.zeros(2),
    lengths=torch.tensor([2]),
)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_is_no_potentials(name):
    for wrong in (None, 5, torch.zeros(1, 2, 2), tuple(ZEROS)):
        with pytest.raises(TypeError, match=f"expected Potentials, got {type(wrong).__name__}"):
            FUNCTIONS[name](wrong)
    for field, wrong in (("emission", [[[0.0]]]), ("final", np.zeros(2)), ("lengths", [2])):
        with pytest.raises(TypeError, match=f"expected {field} as a tensor, got"):
            FUNCTIONS[name](ZEROS._replace(**{field: wrong}))


def test_what_is_no_tensor():
    lengths = torch.tensor([2])
    for call, name in (
        (lambda: ops.negative_log_likelihood(ZEROS, None, None), "labels"),
        (lambda: ops.segment_marginals(ZEROS, [(0, 1)]), "spans"),
        (lambda: ops.minimum_risk(None, lengths), "segment"),
        (lambda: ops.semi_crf_triton_forward(None, lengths), "edge"),
        (lambda: ops.linear_scan_streaming(torch.zeros(1, 2, 2, 2, 2), 5), "lengths"),
        (lambda: ops.edge_viterbi(None, lengths), "edge"),
    ):
        with pytest.raises(TypeError, match=f"expected {name} as a tensor, got"):
            call()
    with pytest.raises(TypeError, match="expected Marginals, got NoneType"):
        ops.minimum_token_risk(None, lengths, 2)


def test_posteriors_that_are_not_finite():
    segment = torch.full((1, 2, 2, 2), torch.nan)
    with pytest.raises(ops.ScoreError, match="got nan in segment of sentence 0"):
        ops.minimum_risk(segment, torch.tensor([2]))
