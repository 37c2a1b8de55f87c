"""The settings of the head: defaults, ranges, and the configuration that stores them."""

from __future__ import annotations

import dataclasses
import math
import re

import numpy as np
import pytest
from transformers import BertConfig

from hf_semicrf import HeadSettings, SemiCRF, SemiCRFConfig
from hf_semicrf.hub.model_card import render_card

NO_INT = (True, "4", 4.0, None, math.nan)
NO_NUMBER = (True, "0.5", math.nan, math.inf, [0.5])
# of each setting: its default, further good values, bad values
TABLE = {
    "max_segment_length": (8, (1, 100), (0, -1, *NO_INT)),
    "scorer": ("span", ("sum", "boundary"), ("best", "Span", "", None, 1, ["span"])),
    "head_dropout": (0.1, (0, 0.0, 0.5, 1), (-0.1, 1.1, None, *NO_NUMBER)),
    "head_width": (192, (1, 7), (0, *NO_INT)),
    "mix_layers": (0, (1, 4), (-1, *NO_INT)),
    "head_temperature": (1.0, (1, 0.25, 8, np.float64(2.5)), (0, -1.0, None, *NO_NUMBER)),
    "threshold": (0.4, (None, 0, 1, 0.25), (-0.1, 2, *NO_NUMBER)),
    "threshold_factor": (1.0, (1, 0.5), (0, -0.5, 1.5, None, *NO_NUMBER)),
    "potentials": ("factored", ("edge",), ("dense", None, True)),
    "length_prior": ("free", (), ("normal", "", None, 1)),
    "tail_order": (2, (1, 5), (0, *NO_INT)),
    "min_segment_length": (1, (2, 8), (0, *NO_INT)),
}
GOOD = [(name, value) for name, (_, good, _) in TABLE.items() for value in good]
BAD = [(name, value) for name, (_, _, bad) in TABLE.items() for value in bad]


def test_the_table_has_every_setting_with_its_default():
    defaults = {name: default for name, (default, _, _) in TABLE.items()}
    assert dataclasses.asdict(HeadSettings()) == defaults


@pytest.mark.parametrize(("name", "value"), GOOD)
def test_good_values_are_kept_by_settings_and_configuration(name, value):
    assert getattr(HeadSettings(**{name: value}), name) == value
    config = SemiCRFConfig(BertConfig(num_hidden_layers=4), **{name: value})
    assert getattr(config, name) == value
    assert config.head_settings == HeadSettings(**{name: value})


@pytest.mark.parametrize(("name", "value"), BAD)
def test_bad_values_are_refused_by_settings_and_configuration(name, value):
    message = rf"expected {name} as .*, got {re.escape(repr(value))}$"
    with pytest.raises(ValueError, match=message):
        HeadSettings(**{name: value})
    with pytest.raises(ValueError, match=message):
        SemiCRFConfig(**{name: value})
    config = SemiCRFConfig()
    setattr(config, name, value)
    with pytest.raises(ValueError, match=message):
        config.head_settings  # noqa: B018


def test_settings_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        HeadSettings().threshold = 0.5


def test_errors_say_what_was_expected():
    for settings, message in (
        ({"threshold": 2}, "expected threshold as a number in 0..1 or None, got 2"),
        ({"mix_layers": True}, "expected mix_layers as an int of at least 0, got True"),
        ({"potentials": "dense"}, "potentials as one of ('factored', 'edge'), got 'dense'"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            HeadSettings(**settings)


@pytest.mark.parametrize(
    "name", ["mlp", "entity", "length", "biaffine", "pointer", "span_max", "boundary+span"]
)
def test_scorers_that_are_gone_say_which_commit_has_them(name):
    for make in (HeadSettings, SemiCRFConfig):
        with pytest.raises(ValueError, match=rf"got '{re.escape(name)}'; .* commit 77474b6"):
            make(scorer=name)


@pytest.mark.parametrize(
    ("name", "nothing", "something"),
    [
        ("context", None, "convolution"),
        ("label_smoothing", 0.0, 0.1),
        ("token_loss", 0.0, 1),
        ("word_dropout", 0.0, 0.1),
        ("word_pooling", "first", "mean"),
    ],
)
def test_settings_that_are_gone_are_dropped_or_refused(name, nothing, something):
    assert not hasattr(SemiCRFConfig(**{name: nothing}), name)
    message = re.escape(f"expected no setting {name}, got {name}={something!r}; ")
    with pytest.raises(ValueError, match=message + ".* commit 77474b6 is the last"):
        SemiCRFConfig(**{name: something})


def test_the_token_of_dropped_words_is_dropped_whatever_it_is():
    assert not hasattr(SemiCRFConfig(dropped_token_id=103), "dropped_token_id")


def test_the_head_is_built_from_the_settings_whole():
    settings = HeadSettings(
        max_segment_length=5, head_dropout=0.3, head_width=7, mix_layers=3, head_temperature=2.0
    )
    head = SemiCRF(6, 3, settings)
    assert head.duration_bias.shape == (5, 3) and head.mix_bias.shape == (3,)
    assert head.scorer.boundary.dropout.p == 0.3 and head.scorer.width.weight.shape == (5, 7)
    assert (head.temperature, head.threshold, head.dense) == (2.0, 0.4, False)
    assert SemiCRF(6, 3).duration_bias.shape == (8, 3)
    for sizes in ((0, 3), (6, 0)):
        with pytest.raises(ValueError, match="of at least 1, got 0"):
            SemiCRF(*sizes)


def test_the_card_names_the_settings_that_were_changed():
    config = SemiCRFConfig(labels=["O", "B-X", "I-X"], head_width=7, label_scheme="IOB2")
    card = render_card(config, adapter=True)
    assert '    head_width=7,\n    label_scheme="IOB2",' in card and "head_dropout" not in card
