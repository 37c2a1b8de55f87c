"""Training and predicting under constraints: the model, its configuration and the data step."""

from __future__ import annotations

import pytest
import torch
from datasets import ClassLabel, Dataset, Sequence
from tiny import save_tiny_bert, sentences, write_jsonl
from tolerances import FLOAT64, LOG_Z_FLOAT32
from torch.testing import assert_close
from transformers import AutoTokenizer

from hf_semicrf import (
    HeadSettings,
    LabelScheme,
    SemiCRF,
    SemiCRFConfig,
    SemiCRFDataCollator,
    SemiCRFForTokenClassification,
    TokenizeAndAlign,
    prepare_tokenizer,
)
from hf_semicrf.cli import train
from hf_semicrf.data.readers import label_names, named_tags
from hf_semicrf.labels.partial import Known, types_as_bits

LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
LABEL2ID = {tag: index for index, tag in enumerate(LABELS)}
WORDS = [["Ada", "Lovelace", "saw", "Paris", "."], ["Oslo", "unknownword"]]
KNOWN = [["B-PER", "I-PER", "O", "B-LOC", "O"], ["B-LOC", "O"]]
PARTLY = [["B-PER", "?", "O", None, "O"], ["?", "?"]]
NOTHING = [["?"] * 5, [None] * 2]
RULES = {"lengths": {"LOC": [1, 1]}, "transitions": {"PER": ["O"]}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    return save_tiny_bert(tmp_path_factory.mktemp("tiny") / "bert")


@pytest.fixture(scope="module")
def tokenizer(folder):
    return prepare_tokenizer(AutoTokenizer.from_pretrained(folder))


def tiny_model(folder, **settings):
    torch.manual_seed(0)
    settings = {"max_segment_length": 3, "unknown": "marginalize", **settings}
    return SemiCRFForTokenClassification.from_pretrained(folder, labels=LABELS, **settings)


def collate(tokenizer, tags, **columns):
    data = Dataset.from_dict({"tokens": WORDS, "ner_tags": tags, **columns})
    align = TokenizeAndAlign(tokenizer, LABEL2ID)
    rows = data.map(align, batched=True, remove_columns=data.column_names)
    return SemiCRFDataCollator(tokenizer, allow_unknown=True)(list(rows))


@pytest.mark.parametrize("potentials", ["factored", "edge"])
def test_the_loss_lies_between_zero_and_that_of_all_labels(folder, tokenizer, potentials):
    model = tiny_model(folder, potentials=potentials)
    batches = {name: collate(tokenizer, tags) for name, tags in
               (("all", KNOWN), ("some", PARTLY), ("none", NOTHING))}  # fmt: skip
    loss = {name: model(**batch).loss for name, batch in batches.items()}
    model.config.unknown = "error"
    assert_close(loss["all"], model(**batches["all"]).loss, **LOG_Z_FLOAT32)
    assert_close(loss["none"], torch.zeros(()), rtol=0, atol=1e-5)
    assert loss["none"] + 0.05 < loss["some"] < loss["all"] - 0.05


def test_training_on_partly_known_labels_lowers_the_loss(folder, tokenizer):
    model = tiny_model(folder, scorer="span").train()
    batch = collate(tokenizer, PARTLY)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        losses.append(model(**batch, num_items_in_batch=3).loss)
        losses[-1].backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("items", [0, torch.tensor(0)])
def test_a_batch_without_any_known_label_costs_nothing(folder, tokenizer, items):
    model = tiny_model(folder)
    loss = model(**collate(tokenizer, NOTHING), num_items_in_batch=items).loss
    loss.backward()
    assert abs(loss) < 1e-4
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_sets_of_types_reach_the_loss(folder, tokenizer):
    model = tiny_model(folder)
    any_type = [[[]] * 5, [[], []]]
    sets = [[[], ["PER"], [], ["LOC", "O"], []], [["LOC"], ["O"]]]
    batch = collate(tokenizer, PARTLY, allowed_types=sets)
    places = batch["allowed_types"][batch["word_mask"]].tolist()
    assert (
        places
        == [-1, 2, -1, 5, -1, 4, 1]
        == [types_as_bits(n, ("O", "PER", "LOC")) if n else -1 for row in sets for n in row]
    )
    assert (batch["allowed_types"][~batch["word_mask"]] == -1).all()
    free = model(**collate(tokenizer, PARTLY, allowed_types=any_type)).loss
    assert_close(free, model(**collate(tokenizer, PARTLY)).loss, rtol=0, atol=0)
    model.config.unknown = "error"
    one_entity = collate(tokenizer, [["B-PER", "I-PER", "O", "B-LOC", "O"], ["B-LOC", "O"]])
    full = model(**one_entity).loss
    model.config.unknown = "marginalize"
    assert free < model(**batch).loss < full


def test_unknown_words_are_refused_unless_they_are_asked_for(folder, tokenizer):
    batch = collate(tokenizer, PARTLY)
    with pytest.raises(ValueError, match="on every word of word_mask, got -100"):
        tiny_model(folder, unknown="error")(**batch)
    batch["labels"][0, 1] = 5
    with pytest.raises(ValueError, match="expected labels in 0..4 .* got 5"):
        tiny_model(folder)(**batch)
    with pytest.raises(ValueError, match="expected unknown as one of .* got 'ignore'"):
        tiny_model(folder, unknown="ignore")
    with pytest.raises(ValueError, match="allow_unknown=True"):
        SemiCRFDataCollator(tokenizer)(
            [{k: v[0].tolist() for k, v in collate(tokenizer, PARTLY).items()}]
        )


@pytest.mark.parametrize("threshold", [None, 0.0, 0.4])
def test_rules_hold_for_every_prediction_and_survive_saving(folder, tokenizer, threshold, tmp_path):
    model = tiny_model(folder, constraints=RULES, threshold=threshold)
    with torch.no_grad():
        for parameter in model.classifier.parameters():
            parameter.normal_()
    scheme = model.config.scheme
    for seed in range(5):
        torch.manual_seed(seed)
        ids = torch.randint(5, 200, (8, 16))
        output = model(input_ids=ids, word_mask=torch.ones_like(ids))
        for row in output.logits.argmax(-1).tolist():
            spans = scheme.tags_to_spans(row)
            assert all(end - begin == 1 for begin, end, name in spans if name == "LOC")
            follows = {(a[2], a[1] == b[0]) for a, b in zip(spans, spans[1:], strict=False)}
            assert ("PER", True) not in follows
    model.save_pretrained(tmp_path)
    again = SemiCRFForTokenClassification.from_pretrained(tmp_path)
    assert again.config.constraints == RULES and again.classifier.rules == model.classifier.rules


def test_labels_and_rules_that_contradict_are_refused(folder, tokenizer):
    batch = collate(tokenizer, KNOWN)
    for unknown in ("error", "marginalize"):
        model = tiny_model(folder, constraints={"lengths": {"PER": [1, 1]}}, unknown=unknown)
        with pytest.raises(ValueError, match=r"'PER': \[1, 1\].* in rows \[0\] of the batch"):
            model(**batch)
    with pytest.raises(ValueError, match="expected transitions among"):
        SemiCRFConfig(labels=LABELS, constraints={"transitions": {"ORG": []}})


@pytest.mark.parametrize("tags", [KNOWN, [["?", "I-PER", "O", None, "O"], ["?", "?"]]])
def test_the_data_step_refuses_tags_that_break_rules(tokenizer, tags):
    batch = {"tokens": WORDS, "ner_tags": tags}
    for rules, wrong in (
        (RULES, None),
        ({"lengths": {"PER": [1, 1]}}, 0),
        ({"initial": ["PER"]}, 1),
    ):
        align = TokenizeAndAlign(tokenizer, LABEL2ID, max_segment_length=3, constraints=rules)
        if wrong is None or (wrong == 1 and tags is not KNOWN):
            align(batch)
        else:
            with pytest.raises(ValueError, match=f"constraints allow, got .* in row {wrong} of"):
                align(batch)
    with pytest.raises(ValueError, match="expected max_segment_length together"):
        TokenizeAndAlign(tokenizer, LABEL2ID, constraints=RULES)


def test_rules_change_for_a_trained_model(folder, tokenizer):
    model = tiny_model(folder, threshold=0.0)
    texts = ["Ada saw Paris", "Oslo Lima"]
    assert "LOC" in {e["label"] for row in model.predict(texts, tokenizer) for e in row}
    model.set_constraints({"types": ["PER"]})
    found = model.predict(texts, tokenizer)
    assert any(found) and {e["label"] for row in found for e in row} == {"PER"}
    with pytest.raises(ValueError, match="expected types among"):
        model.set_constraints({"types": ["ORG"]})
    assert model.config.constraints == {"types": ["PER"]}
    model.set_constraints(None)
    assert model.classifier.rules is None and model.config.rules is None


def test_what_rules_forbid_trains_nothing():
    scheme = LabelScheme.from_labels(LABELS)
    config = SemiCRFConfig(labels=LABELS, constraints=RULES, max_segment_length=3)
    head = SemiCRF(8, len(scheme.types), config.head_settings, rules=config.rules)
    labels, starts = scheme.encode(torch.tensor([[1, 2, 0, 3]]))
    head(torch.randn(1, 4, 8), torch.tensor([4]), labels, starts).nll.sum().backward()
    assert (head.duration_bias.grad[1:, 2] == 0).all()
    assert (head.transition_bias.grad[1, 1:] == 0).all() and head.transition_bias.grad[1, 0] != 0


def head_loss(head, scheme, hidden, lengths, tags):
    known = Known.of_tags(scheme, tags, 3)
    return head(hidden, lengths, known=known).nll.sum()


@pytest.mark.parametrize(
    "device, backend",
    [("cpu", "eager"), pytest.param("cuda", "inductor", marks=pytest.mark.gpu)],
)
def test_one_graph_without_breaks(device, backend):
    scheme = LabelScheme.from_labels(LABELS)
    torch.manual_seed(0)
    settings = HeadSettings(max_segment_length=3, head_dropout=0.0)
    head = SemiCRF(8, len(scheme.types), settings).double().to(device)
    torch.compiler.reset()
    compiled = torch.compile(head_loss, backend=backend, fullgraph=True, dynamic=True)
    for size in (4, 7):
        hidden = torch.randn(2, size, 8, dtype=torch.float64)
        tags = torch.randint(0, 5, (2, size)).masked_fill(torch.rand(2, size) < 0.4, -100)
        inputs = [x.to(device) for x in (hidden, torch.tensor([size, 3]), tags)]
        found, expected = (f(head, scheme, *inputs) for f in (compiled, head_loss))
        assert_close(found, expected, **FLOAT64)
    torch.compiler.reset()


def test_unknown_tags_are_no_labels_and_have_no_class_id():
    classes = Sequence(ClassLabel(names=LABELS))
    named = Dataset.from_dict({"tokens": WORDS, "ner_tags": PARTLY})
    ids = [[None if tag in (None, "?") else LABEL2ID[tag] for tag in row] for row in PARTLY]
    numbered = Dataset.from_dict({"tokens": WORDS, "ner_tags": ids})
    numbered = numbered.cast_column("ner_tags", classes)
    assert label_names(named) == ["O", "B-PER", "I-PER"]
    assert label_names(numbered) == LABELS
    by_name = [[None if tag == "?" else tag for tag in row] for row in PARTLY]
    assert list(named_tags(numbered)) == by_name


def test_the_script_trains_on_partly_known_labels(folder, tmp_path):
    rows = sentences(36)
    for row in rows[::3]:
        row["ner_tags"] = ["?"] * len(row["ner_tags"])
    file = write_jsonl(tmp_path / "train.jsonl", rows)
    command = ["--model_name_or_path", folder, "--train_file", file, "--use_cpu"]
    command += ["--output_dir", str(tmp_path / "out"), "--num_train_epochs", "2"]
    command += ["--unknown", "marginalize", "--constraints", '{"lengths": {"LOC": [1, 1]}}']
    train.main(command)
    config = SemiCRFConfig.from_pretrained(tmp_path / "out")
    assert config.unknown == "marginalize"
    assert config.constraints == {"lengths": {"LOC": [1, 1]}}


@pytest.mark.gpu
def test_the_loss_waits_for_nothing_on_the_gpu():
    scheme = LabelScheme.from_labels(LABELS)
    config = SemiCRFConfig(labels=LABELS, constraints=RULES, max_segment_length=3)
    head = SemiCRF(8, len(scheme.types), config.head_settings, rules=config.rules).cuda()
    hidden = torch.randn(2, 6, 8, device="cuda")
    tags = torch.tensor([[1, -100, 0, -100, 2, 0], [-100, 3, 0, -100, -100, -100]]).cuda()
    lengths = torch.tensor([6, 4]).cuda()
    head_loss(head, scheme, hidden, lengths, tags).backward()  # compiles the kernels
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss = head_loss(head, scheme, hidden, lengths, tags)
        loss.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert loss.isfinite() and head.transition_bias.grad.isfinite().all()
