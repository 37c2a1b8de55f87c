"""A head that trains on: what it knew of types and lengths stays, whatever the new labels are."""

from __future__ import annotations

import pytest
import torch
from tiny import error_of

from hf_semicrf.cli.train import main
from hf_semicrf.head import SemiCRF
from hf_semicrf.labels import LabelScheme
from hf_semicrf.model.configuration_semicrf import SemiCRFConfig
from hf_semicrf.model.continuing import (
    BOUNDARY_DIMENSIONS,
    DIMENSIONS,
    NEW_TYPE_BIAS,
    continued_settings,
    continued_state,
)

HIDDEN = 6
SCORERS = ("sum", "boundary", "span")
TYPES = ("O", "PER", "LOC")
SAVED = LabelScheme.from_labels(["O", "B-PER", "I-PER", "B-LOC", "I-LOC"])


def head(scorer, types, longest, seed=0):
    """A head with the settings of a configuration, and parameters that are not near 0."""
    torch.manual_seed(seed)
    settings = {"scorer": scorer, "max_segment_length": longest, "head_width": 8}
    config = SemiCRFConfig(labels=["O", "X"], label_scheme="plain", **settings)
    if hasattr(config, "head_settings"):
        built = SemiCRF(HIDDEN, len(types), config.head_settings)
    else:
        built = SemiCRF(HIDDEN, len(types), longest, scorer=scorer, width=8)
    for parameter in built.parameters():
        torch.nn.init.normal_(parameter)
    return built.eval()


def continued(saved, types, scorer, new_types, longest):
    new = head(scorer, new_types, longest, seed=1)
    state = continued_state(saved.state_dict(), new.state_dict(), types, new_types)
    new.load_state_dict(state)
    return new


def scores(p, types):
    """All potentials by the names of what they are of."""
    found = {}
    for index, name in enumerate(types):
        for part in ("emission", "start", "end", "segment"):
            value = getattr(p, part)
            if value is not None:
                found[part, name] = value[..., index]
        found["duration", name] = p.duration[:, index]
        found["initial", name], found["final", name] = p.initial[index], p.final[index]
        for other, follower in enumerate(types):
            found["transition", name, follower] = p.transition[index, other]
    return found


def batch(sentences=3, words=7):
    torch.manual_seed(2)
    return torch.randn(sentences, words, HIDDEN), torch.tensor([words, 4, 1])


@pytest.mark.parametrize("scorer", SCORERS)
def test_another_order_is_the_same_model(scorer):
    saved, order = head(scorer, TYPES, 4), ("O", "LOC", "PER")
    new = continued(saved, TYPES, scorer, order, 4)
    hidden, lengths = batch()
    before, after = saved(hidden, lengths), new(hidden, lengths)
    for row, length in enumerate(lengths.tolist()):
        old, now = (
            [names[kind] for kind in found.labels[row, :length].tolist()]
            for found, names in ((before, TYPES), (after, order))
        )
        assert old == now
        assert torch.equal(before.starts[row, :length], after.starts[row, :length])
    torch.testing.assert_close(before.marginals.token, after.marginals.token[..., [0, 2, 1]])
    old, now = (scores(o.potentials, t) for o, t in ((before, TYPES), (after, order)))
    assert old.keys() == now.keys()
    for key in old:
        torch.testing.assert_close(old[key], now[key])


@pytest.mark.parametrize("scorer", SCORERS)
def test_known_types_and_lengths_keep_their_scores(scorer):
    saved, types = head(scorer, TYPES, 3), ("O", "ORG", "LOC", "DATE", "PER")
    new = continued(saved, TYPES, scorer, types, 5)
    old, now = (scores(m.potentials(*batch()), t) for m, t in ((saved, TYPES), (new, types)))
    for key, value in old.items():
        kept = now[key]
        if key[0] == "segment" and kept.shape != value.shape:
            # segments that leave the sentence have no meaning
            places = torch.arange(7)[:, None] + torch.arange(3) < 7
            torch.testing.assert_close(kept[:, :, :3][:, places], value[:, places])
            continue
        torch.testing.assert_close(kept[:3] if key[0] == "duration" else kept, value)
    for name in ("LOC", "PER"):  # longer ones start as the longest of before
        assert torch.equal(now["duration", name][3:], old["duration", name][2].expand(2))
    fresh = head(scorer, types, 5, seed=1)
    assert torch.equal(new.initial_bias[[1, 3]], fresh.initial_bias[[1, 3]])
    assert torch.equal(new.transition_bias[1], fresh.transition_bias[1])
    assert torch.equal(new.duration_bias[:, 3], fresh.duration_bias[:, 3])


@pytest.mark.parametrize("scorer", SCORERS)
def test_a_new_type_starts_rare(scorer):
    types = ("O", "ORG", "PER", "LOC")
    new = continued(head(scorer, TYPES, 3), TYPES, scorer, types, 3)
    fresh = head(scorer, types, 3, seed=1)
    emission, expected = (m.potentials(*batch()).emission[..., 1] for m in (new, fresh))
    torch.testing.assert_close(emission, expected + NEW_TYPE_BIAS)


def test_a_shorter_longest_segment_cuts():
    saved = head("span", TYPES, 4)
    new = continued(saved, TYPES, "span", TYPES, 2)
    assert torch.equal(new.duration_bias, saved.duration_bias[:2])
    assert torch.equal(new.scorer.width.weight, saved.scorer.width.weight[:2])


@pytest.mark.parametrize("scorer", SCORERS)
def test_the_table_lists_each_parameter_that_knows_types_or_lengths(scorer):
    table = DIMENSIONS | (BOUNDARY_DIMENSIONS if scorer == "boundary" else {})
    one = head(scorer, TYPES, 4).state_dict()
    for other in (head(scorer, TYPES[:2], 4).state_dict(), head(scorer, TYPES, 5).state_dict()):
        for name, value in one.items():
            if value.shape != other[name].shape:
                assert name in table


def test_a_state_of_a_whole_model_in_half_precision():
    saved = head("span", TYPES, 3)
    state = {f"classifier.{k}": v.half() for k, v in saved.state_dict().items()}
    fresh = {f"classifier.{k}": v for k, v in head("span", (*TYPES, "X"), 3).state_dict().items()}
    encoder = torch.ones(2)
    new = continued_state(
        state | {"encoder": encoder},
        fresh | {"encoder": torch.zeros(2)},
        TYPES,
        (*TYPES, "X"),
        "classifier.",
    )
    assert new["encoder"] is encoder
    assert new["classifier.initial_bias"].dtype == torch.float16
    assert torch.equal(new["classifier.initial_bias"][:3], state["classifier.initial_bias"])


def test_what_does_not_fit_is_one_line():
    saved = head("sum", TYPES, 3)
    five = ("O", "B_PER", "I_PER", "B_LOC", "I_LOC")  # how a head was trained that reads as three
    with pytest.raises(ValueError, match=r"duration_bias: .*'B_PER'.* got 3 and 3.*label_scheme"):
        continued_state(saved.state_dict(), saved.state_dict(), five, TYPES)
    state, other = saved.state_dict(), head("boundary", TYPES, 3)
    with pytest.raises(ValueError, match="scorer.projection.weight among the saved"):
        continued_state(state, other.state_dict(), TYPES, TYPES)
    wide = SemiCRF(HIDDEN + 1, 3, *(() if hasattr(SemiCRFConfig, "head_settings") else (8,)))
    narrow = SemiCRF(HIDDEN, 3, *(() if hasattr(SemiCRFConfig, "head_settings") else (8,)))
    with pytest.raises(ValueError, match="expected sizes 7 .saved. and 7 .new.*got 7 and 6"):
        continued_state(wide.state_dict(), narrow.state_dict(), TYPES, TYPES)


# Which labels it trains on with


def settings(labels, saved=SAVED, **options):
    return continued_settings(saved, 4, labels, **options)


def test_labels_in_another_order_are_taken():
    order = ["O", "I-LOC", "B-LOC", "I-PER", "B-PER"]
    assert settings(order) == (order, "IOB2", 4)
    assert settings(dict(enumerate(order))).labels == order
    more = ["O", "B-ORG", "I-ORG", *order[1:]]
    assert settings(more).labels == more


def test_labels_that_lack_types_keep_the_model_s_own():
    assert settings(["O", "B-LOC", "I-LOC"]) == (list(SAVED.labels), "IOB2", 4)
    assert settings(None) == (list(SAVED.labels), "IOB2", 4)
    assert settings(["O", "I-LOC"]) == (list(SAVED.labels), "IOB2", 4)
    mixed = settings(["O", "B-DATE", "I-DATE", "B-PER", "I-PER"])
    assert mixed.labels == [*SAVED.labels, "B-DATE", "I-DATE"]


def test_the_longest_segment_grows():
    assert settings(None, longest=9).max_segment_length == 9
    assert settings(None, longest=2).max_segment_length == 4


def test_tags_that_are_spelled_otherwise_or_mark_ends():
    spelled = settings(["O", "PER_B", "PER_I"])
    assert spelled.labels == ["O", "PER_B", "PER_I", "LOC_B", "LOC_I"]
    ends = settings(["O", "B-PER", "I-PER", "E-PER", "S-PER"])
    assert ends.labels[5:] == ["B-LOC", "I-LOC", "E-LOC", "S-LOC"]
    assert ends.label_scheme == "IOBES"
    for found in (spelled, ends):
        scheme = LabelScheme.from_labels(found.labels, found.label_scheme)
        assert scheme.types == ("O", "PER", "LOC")


def test_labels_under_the_saved_scheme_where_they_follow_it():
    plain = LabelScheme.from_labels(["O", "E-mail", "S-Bahn"], "plain")
    assert settings(["O", "S-Bahn", "E-mail"], plain) == (["O", "S-Bahn", "E-mail"], "plain", 4)
    assert settings(["O", "E-mail"], plain).labels == list(plain.labels)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            ["O", "PER", "LOC"],
            "IOB2 and its types .'PER', 'LOC'.*scheme plain and the types",
        ),
        (["O", "B-PER", "LOC"], "got 'LOC'"),
        (["O"], "at least one entity type"),
        (["O", "B", "I"], "got labels of the scheme IOB2 and the types .'ENTITY'"),
        (["O", "I-95", "B-52"], "in one way"),
    ],
)
def test_labels_that_cannot_be(labels, message):
    with pytest.raises(ValueError, match=message) as caught:
        settings(labels)
    assert "\n" not in str(caught.value)


def test_train_names_the_file_whose_labels_do_not_go_with_the_model(tiny_tagger, tmp_path):
    path, out = tmp_path / "plain.conll", tmp_path / "out"
    path.write_text("Ada\tBC\nin\tO\n")
    files = ["--model_name_or_path", tiny_tagger, "--train_file", path, "--output_dir", out]
    assert f"{path}: expected labels of the saved model's scheme IOB2" in error_of(main, *files)
    assert "--labels: expected labels of the saved" in error_of(main, *files, "--labels", "O", "BC")
    assert not out.exists()
