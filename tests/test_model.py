"""The model inside transformers: loading, saving, the lattice, the loss and the logits."""

from __future__ import annotations

import json
import logging

import pytest
import torch
from tiny import save_tiny_bert
from transformers import (
    AutoConfig,
    AutoModelForTokenClassification,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertModel,
)

from hf_semicrf import (
    SemiCRFConfig,
    SemiCRFDataCollator,
    SemiCRFForTokenClassification,
    TokenizeAndAlign,
    prepare_tokenizer,
)

LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
SENTENCES = {
    "tokens": [["Ada", "Lovelace", "saw", "Paris", "."], ["Oslo", "Oslo"], ["unknownword", "."]],
    "ner_tags": [["B-PER", "I-PER", "O", "B-LOC", "O"], ["B-LOC", "B-LOC"], ["O", "O"]],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_bert(tmp_path_factory.mktemp("tiny") / "bert")


@pytest.fixture
def model(folder):
    torch.manual_seed(0)
    return SemiCRFForTokenClassification.from_pretrained(
        folder, labels=LABELS, max_segment_length=3
    )


@pytest.fixture(scope="module")
def tokenizer(folder):
    return prepare_tokenizer(AutoTokenizer.from_pretrained(folder))


def collate(tokenizer, sentences=SENTENCES):
    align = TokenizeAndAlign(tokenizer, {tag: index for index, tag in enumerate(LABELS)})
    columns = align(sentences)
    rows = [{k: v[i] for k, v in columns.items()} for i in range(len(columns["input_ids"]))]
    return SemiCRFDataCollator(tokenizer)(rows)


@pytest.fixture
def batch(tokenizer):
    return collate(tokenizer)


def same_weights(one, other):
    left, right = one.state_dict(), other.state_dict()
    assert left.keys() == right.keys()
    return [name for name in left if not torch.equal(left[name], right[name])] == []


# loading and saving


def test_a_prefixed_checkpoint_survives_training_saving_and_loading(folder, batch, tmp_path):
    config = AutoConfig.from_pretrained(folder)
    masked_lm = BertForMaskedLM(config)
    masked_lm.save_pretrained(tmp_path / "lm")
    model = SemiCRFForTokenClassification.from_pretrained(tmp_path / "lm", labels=LABELS)
    loaded = model.text_encoder.state_dict()
    expected = masked_lm.bert.state_dict()
    assert {k for k in expected if not torch.equal(loaded[k], expected[k])} == set()
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(**batch).loss.backward()
    optimizer.step()
    assert not torch.equal(
        model.text_encoder.embeddings.word_embeddings.weight,
        masked_lm.bert.embeddings.word_embeddings.weight,
    )
    model.save_pretrained(tmp_path / "saved")
    again = SemiCRFForTokenClassification.from_pretrained(tmp_path / "saved")
    assert same_weights(model, again)
    again.save_pretrained(tmp_path / "twice")
    assert same_weights(model, AutoModelForTokenClassification.from_pretrained(tmp_path / "twice"))


def test_attention_stays_what_the_encoder_was_loaded_with(folder, tmp_path):
    model = SemiCRFForTokenClassification.from_pretrained(folder, labels=LABELS)
    assert model.text_encoder.config._attn_implementation == "sdpa"
    model.save_pretrained(tmp_path)
    again = SemiCRFForTokenClassification.from_pretrained(tmp_path)
    assert again.text_encoder.config._attn_implementation == "sdpa"
    eager = SemiCRFForTokenClassification.from_pretrained(
        folder, labels=LABELS, attn_implementation="eager"
    )
    assert eager.text_encoder.config._attn_implementation == "eager"


def test_every_head_parameter_is_set_after_construction_on_meta(model, tmp_path):
    from safetensors.torch import load_file, save_file

    model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    encoder = {k: v for k, v in load_file(path).items() if k.startswith("text_encoder.")}
    save_file(encoder, path, metadata={"format": "pt"})
    again = SemiCRFForTokenClassification.from_pretrained(tmp_path)
    for name, value in again.classifier.named_parameters():
        assert value.isfinite().all() and value.abs().max() < 1, name
        assert "bias" not in name.split(".")[-1] or name.endswith("_bias") or not value.any(), name
    assert (again.word_starts == 1).all()
    assert same_weights(model.text_encoder, again.text_encoder)


def test_config_json_holds_no_local_path(model, folder, tmp_path):
    model.save_pretrained(tmp_path)
    text = (tmp_path / "config.json").read_text()
    assert folder not in text and str(tmp_path) not in text
    assert json.loads(text)["id2label"] == {str(i): tag for i, tag in enumerate(LABELS)}


def test_config_round_trip_and_defaults(tmp_path):
    assert SemiCRFConfig().encoder_config.model_type == "bert"
    config = SemiCRFConfig(BertConfig(hidden_size=24), labels=LABELS, max_segment_length=5)
    config.save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(again, SemiCRFConfig)
    again.name_or_path = config.name_or_path
    assert again.to_dict() == config.to_dict()
    assert again.get_text_config().hidden_size == 24 and again.labels == LABELS


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_dynamic_program_is_in_float32_at_least(folder, batch, dtype):
    model = SemiCRFForTokenClassification.from_pretrained(folder, labels=LABELS, dtype=dtype)
    assert model.classifier.transition_bias.dtype == dtype
    output = model(**batch)
    assert output.loss.dtype == torch.float32 and output.logits.dtype == torch.float32


def test_autocast_changes_the_encoder_and_not_the_head(model, batch):
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.text_encoder(input_ids=batch["input_ids"]).last_hidden_state
        inside = model.classifier.potentials(hidden, torch.tensor([2, 2, 2]))
    outside = model.classifier.potentials(hidden, torch.tensor([2, 2, 2]))
    assert inside.emission.dtype == inside.segment.dtype == torch.float32
    assert torch.equal(inside.emission, outside.emission)
    # but for the projection to what the span scorer's hidden layer reads
    assert not torch.equal(inside.segment, outside.segment)
    torch.testing.assert_close(inside.segment, outside.segment, rtol=2**-6, atol=2**-6)


def test_encoder_overrides_and_unknown_arguments(folder):
    model = SemiCRFForTokenClassification.from_pretrained(
        folder, labels=LABELS, hidden_dropout_prob=0.25
    )
    assert model.text_encoder.config.hidden_dropout_prob == 0.25
    with pytest.raises(TypeError, match="max_segment_lenght"):
        SemiCRFForTokenClassification.from_pretrained(folder, labels=LABELS, max_segment_lenght=3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, r"expected labels=\[...\], .* got None"),
        ({"labels": ["B-PER", "I-PER"]}, "expected a label 'O'"),
        ({"id2label": {0: "LABEL_0", 1: "LABEL_1"}}, r"placeholders.* pass labels=\["),
        ({"labels": LABELS, "max_segment_length": 0}, "max_segment_length as an int of at least 1"),
        ({"labels": LABELS, "scorer": "best"}, "expected scorer as one of .* got 'best'"),
    ],
)
def test_errors_name_what_was_expected(folder, arguments, message):
    with pytest.raises(ValueError, match=message):
        SemiCRFForTokenClassification.from_pretrained(folder, **arguments)


def test_only_labels_has_label_in_its_name():
    import inspect

    names = inspect.signature(SemiCRFForTokenClassification.forward).parameters
    assert [name for name in names if "label" in name] == ["labels"]


# the lattice


def test_the_words_are_told_by_mask_or_labels_or_the_vocabulary_alike(model, batch):
    words = model(**batch).logits
    by_labels = model(**{k: v for k, v in batch.items() if k != "word_mask"}).logits
    bare = {k: v for k, v in batch.items() if k not in ("word_mask", "labels")}
    assert torch.equal(words, by_labels)
    assert torch.equal(words, model(**bare).logits)


def test_labels_on_every_sub_word_are_said(model, tokenizer, batch, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("hf_semicrf"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}
    model(**inputs)  # on first sub-words alone
    assert "sub-word" not in caplog.text
    encoded = tokenizer(["unknownword .", "Ada"], padding=True, return_tensors="pt")
    pieces = encoded["attention_mask"].bool()
    pieces[:, 0] = False
    labels = torch.full(pieces.shape, -100).masked_fill(pieces, 1)
    model(input_ids=encoded["input_ids"], labels=labels)
    assert caplog.text.count("Labels stand on every sub-word") == 1
    model(input_ids=encoded["input_ids"], labels=labels)
    assert caplog.text.count("Labels stand on every sub-word") == 1


def test_without_any_way_to_tell_the_words_the_error_says_so(folder, batch):
    model = SemiCRFForTokenClassification(
        SemiCRFConfig(AutoConfig.from_pretrained(folder), labels=LABELS)
    )
    with pytest.raises(ValueError, match="expected word_mask .* model.use_tokenizer"):
        model(input_ids=batch["input_ids"])


def test_an_unknown_label_inside_the_lattice_is_refused(model, batch):
    batch["labels"] = batch["labels"].masked_fill(batch["labels"] == 2, -100)
    with pytest.raises(ValueError, match=r"expected labels in 0\.\.4 .* got -100"):
        model(**batch)


def test_padding_side_and_padding_change_nothing(model, folder):
    left = prepare_tokenizer(AutoTokenizer.from_pretrained(folder, padding_side="left"))
    right = prepare_tokenizer(AutoTokenizer.from_pretrained(folder))
    batches = [collate(tokenizer) for tokenizer in (left, right)]
    # absolute positions would move with the padding; the head alone must not
    hidden = torch.randn(3, batches[0]["input_ids"].shape[1], 32)
    outputs = []
    for batch in batches:
        real = batch["attention_mask"].bool()
        states = torch.zeros_like(hidden)
        for row in range(3):
            states[row, real[row]] = hidden[row, : int(real[row].sum())]
        model.text_encoder.forward = lambda *_, states=states, **__: _Encoded(states)
        outputs.append(model(**batch))
    assert torch.equal(outputs[0].loss, outputs[1].loss)
    for row in range(3):
        pick = [o.logits[row, b["word_mask"][row]] for o, b in zip(outputs, batches, strict=True)]
        assert torch.equal(*pick)


class _Encoded(dict):
    def __init__(self, states):
        super().__init__(last_hidden_state=states)
        self.last_hidden_state = states


def test_a_row_without_words_adds_nothing(model, batch):
    alone = model(**batch).loss
    more = {k: torch.cat([v, v[:1]]) for k, v in batch.items()}
    more["word_mask"][-1], more["labels"][-1] = False, -100
    assert torch.allclose(model(**more).loss, alone, rtol=0, atol=1e-6)


# loss and logits


def test_loss_is_the_mean_over_words_or_over_num_items_in_batch(model, batch):
    words = int(batch["word_mask"].sum())
    mean, over_five = model(**batch).loss, model(**batch, num_items_in_batch=5).loss
    as_tensor = model(**batch, num_items_in_batch=torch.tensor(5)).loss
    assert torch.allclose(mean * words, over_five * 5) and torch.equal(over_five, as_tensor)


def test_a_gold_entity_longer_than_the_limit_is_scored_in_pieces(model, tokenizer):
    long = {
        "tokens": [["Ada", "Lovelace", "Grace", "Hopper", "Alan"]],
        "ner_tags": [["B-PER", "I-PER", "I-PER", "I-PER", "I-PER"]],
    }
    pieces = {**long, "ner_tags": [["B-PER", "I-PER", "I-PER", "B-PER", "I-PER"]]}
    assert model.config.max_segment_length == 3
    losses = [model(**collate(tokenizer, rows)).loss for rows in (long, pieces)]
    assert losses[0].isfinite() and torch.equal(*losses)


def test_logits_are_log_posteriors_whose_argmax_is_the_decoded_tagging(model, batch):
    output = model(**batch)
    mask = batch["word_mask"]
    assert output.logits.shape == (*batch["input_ids"].shape, len(LABELS))
    # all tags of a word sum to one, but where the decoded tag was raised to the maximum
    assert (output.logits.exp().sum(-1)[mask] > 1 - 1e-4).all()
    head = model.classifier(_words(model, batch), mask.sum(1), decode=True, segment_marginals=True)
    tags = model.config.scheme.decode(head.labels, head.starts)
    for row in range(3):
        words = int(mask[row].sum())
        assert output.logits.argmax(-1)[row, mask[row]].tolist() == tags[row, :words].tolist()


def _words(model, batch):
    from hf_semicrf.text.lattice import Lattice

    inputs = {k: v for k, v in batch.items() if k not in ("labels", "word_mask")}
    hidden = model.text_encoder(**inputs).last_hidden_state
    return Lattice.of(batch["word_mask"]).gather(hidden)


@pytest.mark.parametrize(
    "labels", [LABELS, ["O", "B-X", "I-X", "E-X", "S-X"], ["O", "X", "Y"], ["O", "I-X", "B-Y"]]
)
def test_tags_of_every_scheme_sum_to_one_before_the_decoded_is_raised(folder, labels, batch):
    model = SemiCRFForTokenClassification.from_pretrained(folder, labels=labels)
    del batch["labels"]
    probabilities = model(**batch).logits.exp()[batch["word_mask"]]
    top = probabilities.amax(-1, keepdim=True)
    # raising the decoded tag can only add, and at most as much as the maximum
    assert (probabilities.sum(-1) > 1 - 1e-4).all()
    assert (probabilities.sum(-1) < 1 + top[:, 0] + 1e-4).all()


def test_hidden_states_and_attentions_come_on_request(folder, batch):
    model = SemiCRFForTokenClassification.from_pretrained(
        folder, labels=LABELS, attn_implementation="eager"
    )
    output = model(**batch, output_hidden_states=True, output_attentions=True)
    assert len(output.hidden_states) == 2 and len(output.attentions) == 1
    assert model(**batch).hidden_states is None


def test_training_returns_the_loss_alone(model, batch):
    model.train()
    output = model(**batch)
    assert output.logits is None and output.loss.requires_grad


# prediction


def test_predict_gives_offsets_of_characters_or_words(model, tokenizer):
    text = "Ada  Lovelace saw Paris."
    found, of_words, empty = model.predict([text, ["Ada", "Lovelace"], ""], tokenizer)
    assert empty == []
    for entity in found:
        assert text[entity["start"] : entity["end"]] == entity["text"]
        assert 0 < entity["score"] <= 1 and entity["label"] in ("PER", "LOC")
    for entity in of_words:
        assert entity["text"] == " ".join(["Ada", "Lovelace"][entity["start"] : entity["end"]])
    with pytest.raises(ValueError, match="expected a list of texts"):
        model.predict(text, tokenizer)


def test_predict_is_the_same_alone_and_in_a_batch_and_with_an_unprepared_tokenizer(model, folder):
    raw = AutoTokenizer.from_pretrained(folder)
    texts = ["Ada Lovelace saw Paris.", "Oslo", "Grace Hopper flew yesterday ."]
    together = model.predict(texts, raw)
    for text, entities in zip(texts, together, strict=True):
        (alone,) = model.predict([text], raw, batch_size=1)
        assert [e | {"score": 0} for e in alone] == [e | {"score": 0} for e in entities]
        for one, other in zip(alone, entities, strict=True):
            assert one["score"] == pytest.approx(other["score"], abs=1e-5)


def test_predict_reads_a_text_longer_than_the_encoder_to_its_end(model, tokenizer):
    words = ["Ada"] * 150  # the encoder takes 64 sub-words
    with torch.no_grad():  # every word an entity of its own
        model.classifier.initial_bias[0] = model.classifier.transition_bias[:, 0] = -1e4
        model.classifier.duration_bias[1:] = -1e4
    model.classifier.threshold = None
    (entities,) = model.predict([words], tokenizer)
    covered = [n for e in entities for n in range(e["start"], e["end"])]
    assert covered == list(range(150))


def test_a_threshold_is_kept_with_the_model(model, tokenizer, tmp_path):
    counts = []
    for threshold in (1.0, 0.0):
        model.set_threshold(threshold)
        (entities,) = model.predict([["Ada", "Lovelace", "saw", "Paris"]], tokenizer)
        counts.append(len(entities))
    assert counts[0] == 0 < counts[1]
    model.save_pretrained(tmp_path)
    again = SemiCRFForTokenClassification.from_pretrained(tmp_path)
    assert again.classifier.threshold == 0.0
    with pytest.raises(ValueError, match="expected threshold .* got 2"):
        model.set_threshold(2)


def test_a_threshold_for_one_call_is_that_of_set_threshold_and_leaves_the_model_alone(
    model, tokenizer
):
    words = ["Ada", "Lovelace", "saw", "Paris"]
    before = model.config.threshold
    for threshold in (0.0, 0.1, 0.2, 0.5, 1.0):
        (found,) = model.predict([words], tokenizer, threshold=threshold)
        assert all(entity["score"] > threshold for entity in found)
        assert model.config.threshold == model.classifier.threshold == before
        model.set_threshold(threshold)
        assert model.predict([words], tokenizer) == [found]
        model.set_threshold(before)
    with pytest.raises(ValueError, match=r"threshold as a number in 0..1 or None, got 1.5"):
        model.predict([words], tokenizer, threshold=1.5)


def test_predict_keeps_the_mode_of_the_model(model, tokenizer):
    model.train()
    model.predict(["Ada"], tokenizer)
    assert model.training


def test_encoder_given_as_a_module_is_kept(folder):
    encoder = BertModel.from_pretrained(folder, add_pooling_layer=False)
    config = SemiCRFConfig(encoder.config, labels=LABELS)
    weights = {k: v.clone() for k, v in encoder.state_dict().items()}
    model = SemiCRFForTokenClassification(config, encoder=encoder)
    assert model.text_encoder is encoder
    assert all(torch.equal(v, weights[k]) for k, v in encoder.state_dict().items())


# the head's settings


def test_the_head_reads_a_mix_of_the_encoders_last_layers(folder, batch, tmp_path):
    model = SemiCRFForTokenClassification.from_pretrained(
        folder, labels=LABELS, mix_layers=2, scorer="boundary"
    )
    seen = []
    model.classifier.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    output = model(**batch)
    assert output.hidden_states is None
    states = model(**batch, output_hidden_states=True).hidden_states
    word = batch["word_mask"][0].nonzero()[1, 0]
    torch.testing.assert_close(seen[0][0, 1], torch.cat([state[0, word] for state in states]))
    model.save_pretrained(tmp_path)
    again = SemiCRFForTokenClassification.from_pretrained(tmp_path)
    assert same_weights(model, again)
    assert torch.equal(again(**batch).logits, output.logits)


def test_a_configuration_without_newer_settings_loads(model, batch, tmp_path):
    model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    for name in ("head_width", "mix_layers", "head_temperature"):
        del config[name]
    path.write_text(json.dumps(config))
    again = SemiCRFForTokenClassification.from_pretrained(tmp_path)
    assert same_weights(model, again) and again.config.head_temperature == 1.0
    assert torch.equal(model(**batch).logits, again(**batch).logits)


def test_a_temperature_is_set_saved_and_used(model, batch, tmp_path):
    with torch.no_grad():
        for parameter in model.classifier.parameters():
            parameter.mul_(20)
    before = model(**batch)
    model.set_temperature(4.0)
    after = model(**batch)
    assert after.loss == before.loss and not torch.equal(after.logits, before.logits)
    model.save_pretrained(tmp_path)
    again = SemiCRFForTokenClassification.from_pretrained(tmp_path)
    assert again.config.head_temperature == 4.0
    assert torch.equal(again(**batch).logits, after.logits)
    with pytest.raises(ValueError, match="head_temperature as a finite number above 0, got 0"):
        model.set_temperature(0)


def test_potentials_come_with_the_segmentation_of_the_labels(model, batch):
    scored = model(**batch, output_potentials=True).potentials
    types = [model.config.scheme.types[index] for index in scored.labels[0, :5]]
    assert types == ["PER", "PER", "O", "LOC", "O"]
    assert scored.starts[0, :5].tolist() == [True, False, True, True, True]
    with pytest.raises(ValueError, match="expected labels together with output_potentials"):
        model(**{k: v for k, v in batch.items() if k != "labels"}, output_potentials=True)
