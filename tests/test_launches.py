"""How many kernels a model launches more than softmax: counted without a GPU, and on one."""

from __future__ import annotations

import logging
from collections import Counter

import pytest
import torch
from tiny import benchmark
from transformers import BertConfig, BertForTokenClassification

from hf_semicrf import SemiCRFConfig, SemiCRFForTokenClassification

counter = pytest.importorskip("launch_counter", exc_type=ImportError)

LABELS = ["O", *(f"{tag}-{name}" for name in ("PER", "LOC") for tag in "BI")]
ENCODER = BertConfig(
    vocab_size=50,
    hidden_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=32,
    num_labels=len(LABELS),
)
SETTINGS = {
    "span": {},
    "boundary": {"scorer": "boundary"},
    "temperature": {"head_temperature": 1.5},
    "constraints": {"constraints": {"lengths": {"LOC": [1, 2]}}},
    "viterbi": {"threshold": None},
}
# kernels that inference may have more than softmax, and a training step
INFERENCE, STEP = 12, 25
MORE = {"temperature": 1, "constraints": 2, "viterbi": 1}  # of inference


def models(device, dtype=torch.float32, **settings):
    """A model under a softmax head and under ours, and token ids and labels of a batch."""
    ids = torch.ones(2, 8, dtype=torch.long, device=device)
    labels = torch.zeros_like(ids)
    labels[:, 3:5], labels[:, ::4] = 1, -100
    config = SemiCRFConfig(ENCODER, labels=LABELS, max_segment_length=4, **settings)
    ours = SemiCRFForTokenClassification(config)
    with torch.no_grad():
        ours.word_starts.fill_(1)
    config.has_word_starts = True
    both = BertForTokenClassification(ENCODER), ours
    return *(model.to(device, dtype) for model in both), ids, labels


def infer(model, **inputs):
    model.eval()
    with torch.no_grad():
        return model(**inputs)


def step(model, **inputs):
    model.train()
    model.zero_grad()
    model(**inputs).loss.backward()


def counted(call, model, **inputs) -> Counter[str]:
    """Kernels of a call that is not the first: what a model keeps it has made by then."""
    for _ in range(2):
        with counter.counted() as launches:
            call(model, **inputs)
    assert not launches.kernels["copy from the host"]
    return launches.kernels


def more(ours: Counter[str], softmax: Counter[str]) -> tuple[int, dict[str, int]]:
    """How many kernels more, and which."""
    which = {name: ours[name] - softmax[name] for name in ours | softmax}
    return sum(which.values()), {name: n for name, n in which.items() if n}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", SETTINGS)
def test_inference_launches_few_kernels(name, dtype):
    softmax, ours, ids, _ = models("meta", dtype, **SETTINGS[name])
    ours._looked_at_labels = True
    before = counted(infer, softmax, input_ids=ids)
    mask = torch.ones_like(ids, dtype=torch.bool)
    for options, words in (
        ({"output_logits": False, "output_head": True}, {"word_mask": mask}),  # as predict does
        ({"output_logits": False, "output_segment_posteriors": True}, {"word_mask": mask.long()}),
        ({"output_logits": True}, {}),
        ({"output_logits": True, "labels": torch.zeros_like(ids)}, {}),
    ):
        count, which = more(counted(infer, ours, input_ids=ids, **options, **words), before)
        besides = {"output_segment_posteriors": 1, "labels": 5}
        most = INFERENCE + MORE.get(name, 0) + sum(besides.get(option, 0) for option in options)
        assert count <= most, which


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_a_training_step_launches_few_kernels(settings, dtype):
    softmax, ours, ids, labels = models("meta", dtype, **settings)
    ours._looked_at_labels = True
    before = counted(step, softmax, input_ids=ids, labels=labels)
    items = torch.ones((), dtype=torch.long, device="meta")
    for options in ({}, {"num_items_in_batch": items}, {"num_items_in_batch": 7}):
        count, which = more(counted(step, ours, input_ids=ids, labels=labels, **options), before)
        assert count <= STEP + (dtype == torch.bfloat16), which  # parameters are cast


def test_the_counter_sees_kernels_copies_and_waits():
    with counter.counted() as launches:
        x = torch.ones(3, device="meta")
        (x.view(3, 1) + torch.zeros(3).to("meta")).sum()
        torch.empty_like(x)
    assert launches.kernels == {"ones": 1, "add": 1, "sum": 1, "copy from the host": 1}
    with pytest.raises(RuntimeError, match="item"), counter.counted():
        bool(x.sum() > 0)


# what softmax's loss costs less than its kernels here: PyTorch may launch several for an operation
SLACK = 2


@pytest.mark.gpu
@pytest.mark.parametrize("name", SETTINGS)
def test_launches_on_the_gpu(name):
    events = benchmark("launches").events
    softmax, ours, ids, labels = models("cuda", **SETTINGS[name])
    mask = torch.ones_like(ids, dtype=torch.bool)
    own = {"word_mask": mask, "output_logits": False, "output_head": True}
    cases = (
        (infer, INFERENCE + SLACK + MORE.get(name, 0), {}, own),
        (step, STEP + SLACK, {"labels": labels}, {"labels": labels}),
    )
    for call, most, given, own in cases:
        found = events(lambda call=call, own=own: call(ours, input_ids=ids, **own))
        before = events(lambda call=call, given=given: call(softmax, input_ids=ids, **given))
        # copies are inside the device: the counter above sees those from the host
        count = sum(found[kind] - before[kind] for kind in ("launches", "fills", "copies"))
        assert count <= most and found["waits"] == 0, (found, before)


@pytest.mark.gpu
def test_no_call_waits_for_the_gpu():
    """Not even the first one, which makes what later ones keep and looks at the labels."""
    _, ours, ids, labels = models("cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        infer(ours, input_ids=ids)
        infer(ours, input_ids=ids, output_head=True, output_segment_posteriors=True)
        for _ in range(2):
            step(ours, input_ids=ids, labels=labels)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
def test_labels_on_every_piece_are_said_without_waiting(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("hf_semicrf"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    _, ours, ids, _ = models("cuda")
    ours.word_starts[ids] = 2
    for _ in range(2):
        step(ours, input_ids=ids, labels=torch.zeros_like(ids))
        torch.cuda.synchronize()
    assert caplog.text.count("Labels stand on every sub-word") == 1
