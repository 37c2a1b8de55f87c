"""Labels as people write them: every spelling is read by name, and nothing is guessed."""

from __future__ import annotations

import time
from itertools import product

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Sequence
from tiny import save_tiny_bert
from transformers import AutoTokenizer

from hf_semicrf.data import TokenizeAndAlign, count_entities, entity_spans, label_names
from hf_semicrf.labels import PREFIXES, LabelScheme
from hf_semicrf.labels.spelling import Spelling
from hf_semicrf.model.configuration_semicrf import SemiCRFConfig
from hf_semicrf.text import prepare_tokenizer

TYPES = ("PER", "creative-work", "a_b:c")
PREFIXED = [name for name in PREFIXES if name != "plain"]
SPELLINGS = [
    Spelling(separator, suffixed, lower)
    for separator, suffixed, lower in product("-_:/|.# ", (False, True), (False, True))
]


def tags(name, spelling, types=TYPES):
    """All tags of a scheme, "O" in the middle."""
    found = [spelling.join(prefix, kind) for kind in types for prefix in PREFIXES[name]]
    return [*reversed(found[1:]), "O", found[0]]


def read(labels, name=None):
    scheme = LabelScheme.from_labels(labels, name)
    return scheme.name, scheme.types


# Spellings


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("name", PREFIXED)
def test_every_scheme_in_every_spelling_is_read_as_in_the_usual_one(name, spelling):
    usual = LabelScheme.from_labels(tags(name, Spelling()))
    scheme = LabelScheme.from_labels(tags(name, spelling))
    assert (scheme.name, scheme.types, scheme.spelling) == (usual.name, usual.types, spelling)
    ids = torch.tensor(list(product([-100, *range(len(usual.labels))], repeat=2)))
    for mine, expected in zip(scheme.encode(ids), usual.encode(ids), strict=True):
        assert torch.equal(mine, expected)
    spans = [(0, 3, "PER"), (3, 4, "PER"), (5, 6, "a_b:c")]
    written = scheme.spans_to_tags(spans, 7)
    assert written == usual.spans_to_tags(spans, 7)
    assert scheme.tags_to_spans([scheme.labels[tag] for tag in written]) == spans
    again = LabelScheme.from_labels(scheme.labels, scheme.setting)
    assert again.tags_to_spans(written) == spans


@pytest.mark.parametrize("name", ["IOB2", "IOBES", "BILOU", "BMES", "BMEWO", "BIEWO"])
@pytest.mark.parametrize("lower", [False, True])
def test_tags_without_a_type_are_of_one(name, lower):
    spelling = Spelling("", lower=lower)
    labels = ["O", *(spelling.join(prefix, "") for prefix in PREFIXES[name])]
    scheme = LabelScheme.from_labels(labels)
    assert (scheme.name, scheme.types) == (name, ("O", "ENTITY"))
    spans = [(0, 3, "ENTITY"), (3, 4, "ENTITY")]
    assert scheme.tags_to_spans(scheme.spans_to_tags(spans, 5)) == spans


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["O", "B-E", "I-E"], ("IOB2", ("O", "E"))),
        (["O", "E-B", "E-I"], ("IOB2", ("O", "E"))),
        (["O", "I-X", "B-Y"], ("IOB1", ("O", "X", "Y"))),
        (["O", "B-1", "I-1"], ("IOB2", ("O", "1"))),
        (["O", "B-Hepatitis-B", "I-Hepatitis-B"], ("IOB2", ("O", "Hepatitis-B"))),
        (["O", "B-S", "I-S", "B-U", "I-U"], ("IOB2", ("O", "S", "U"))),
        (["O", "S-Bahn", "U-Bahn"], ("plain", ("O", "S-Bahn", "U-Bahn"))),
        (["O", "S-Bahn", "U-Bahn", "Bus"], ("plain", ("O", "S-Bahn", "U-Bahn", "Bus"))),
        (["O", "e-mail", "address"], ("plain", ("O", "e-mail", "address"))),
        (["O", "A", "B", "C"], ("plain", ("O", "A", "B", "C"))),
        (["O", "M-1", "W-2"], ("plain", ("O", "M-1", "W-2"))),
        (["O", "BPER", "IPER"], ("plain", ("O", "BPER", "IPER"))),
        (["O", "b-人名", "i-人名"], ("IOB2", ("O", "人名"))),
        (["O", "B-X", "I-X", "E-X", "W-X"], ("BIEWO", ("O", "X"))),
        (["O", "B-X", "E-X", "B-Y", "E-Y"], ("IOBES", ("O", "X", "Y"))),
    ],
)
def test_the_one_reading_that_is_consistent(labels, expected):
    assert read(labels) == expected


@pytest.mark.parametrize(
    ("labels", "settings"),
    [
        (["O", "I-95", "B-52"], {"IOB1": ("95", "52"), "plain": ("I-95", "B-52")}),
        (["O", "I-95", "I-80"], {"IOB1": ("95", "80"), "plain": ("I-95", "I-80")}),
        (["O", "E-mail", "S-Bahn"], {"IOBES": ("mail", "Bahn"), "plain": ("E-mail", "S-Bahn")}),
        (["O", "e-mail"], {"IOBES": ("mail",), "plain": ("e-mail",)}),
        (["O", "B_PER"], {"IOB2": ("PER",), "plain": ("B_PER",)}),
        (["O", "vitamin_b", "vitamin_e"], {"IOBES-suffix": ("vitamin",)}),
        (["O", "B-E"], {"IOB2": ("E",), "IOBES-suffix": ("B",), "plain": ("B-E",)}),
        (["O", "B-I", "I-B", "B-B", "I-I"], {"IOB2": ("I", "B"), "IOB2-suffix": ("B", "I")}),
        (["O", "B"], {"IOB2": ("ENTITY",), "plain": ("B",)}),
        (["O", "B", "E"], {"IOBES": ("ENTITY",), "plain": ("B", "E")}),
    ],
)
def test_what_reads_two_ways_is_refused_and_the_setting_decides(labels, settings):
    with pytest.raises(ValueError, match="can be read in one way") as caught:
        LabelScheme.from_labels(labels)
    assert "\n" not in str(caught.value)
    for setting, types in settings.items():
        assert f"label_scheme={setting!r} for {list(types)}" in str(caught.value)
        assert LabelScheme.from_labels(labels, setting).types == ("O", *types)
        config = SemiCRFConfig(labels=labels, label_scheme=setting)
        assert config.scheme.types == ("O", *types)
        assert SemiCRFConfig.from_dict(config.to_dict()).scheme == config.scheme


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["O", "B_PER", "I_PER", "LOC"], "got 'LOC'.*label_scheme='plain'"),
        (["O", "B_PER", "I_PER", "B-LOC"], "got '(B_PER|B-LOC)'"),
        (["O", "PER-B", "PER-I", "LOC"], "got 'LOC'"),
        (["O", "B-PER", "I-PER", "b-LOC", "i-LOC"], "got 'b-LOC'"),
        (["O", "b_X", "i_X", "e_X", "l_X"], "got both E and L"),
        (["O", "B-X", "I-X", "M-X", "E-X"], "got both I and M"),
        (["O", "B-X", "M-X"], "got 'M-X'"),
    ],
)
def test_labels_with_prefixes_beside_others(labels, message):
    with pytest.raises(ValueError, match=message):
        LabelScheme.from_labels(labels)
    assert read(labels, "plain")[1] == tuple(labels)


@pytest.mark.parametrize(
    ("labels", "name", "message"),
    [
        (["O", "PER-B", "PER-X"], "IOB2", r"expected IOB2 tags \(-B, -I \+ type.*got 'PER-X'"),
        (["O", "B_PER", "E-PER"], "IOBES", "got '(B_PER|E-PER)'"),
        (["O", "B-PER", "I-PER"], "IOB2-suffix", "expected IOB2 tags.*got 'B-PER'"),
        (["O", "PER"], "plain-suffix", "expected label_scheme as one of.*got 'plain-suffix'"),
        (["O", "B", "X"], "IOB2", "got 'X'"),
    ],
)
def test_a_named_scheme_that_does_not_fit(labels, name, message):
    with pytest.raises(ValueError, match=message):
        LabelScheme.from_labels(labels, name)


def test_reading_is_linear_in_the_number_of_labels():
    def seconds(count):
        labels = ["O", *(f"{prefix}-T{n}" for n in range(count // 2) for prefix in "BI")]
        start = time.process_time()
        LabelScheme.from_labels(labels)
        return time.process_time() - start

    seconds(100)
    assert seconds(20_000) < max(1.0, 30 * seconds(2_000))


# Tags


def test_whole_numbers_are_ids_and_others_are_refused():
    scheme = LabelScheme.from_labels(["O", "B-X", "I-X"])
    for ids in (np.array([1, 2, 0]), torch.tensor([1, 2, 0]), [np.int8(1), np.uint64(2), 0]):
        assert scheme.tags_to_spans(ids) == [(0, 2, "X")]
        assert scheme.tag_ids(ids) == [1, 2, 0]
    for wrong in (1.5, np.float32(0.5), float("nan"), float("inf"), 3, -1):
        for method in (scheme.tags_to_spans, scheme.tag_ids):
            with pytest.raises(ValueError, match="is not in the label list"):
                method([0, wrong])


def test_all_tags_of_a_known_type_are_known():
    scheme = LabelScheme.from_labels(["O", "B-PER", "E-PER"])
    assert scheme.knows("S-PER") and scheme.knows("I-PER") and not scheme.knows("S-LOC")
    assert scheme.tags_to_spans(["S-PER", "B-PER", "I-PER", "E-PER"]) == [
        (0, 1, "PER"),
        (1, 4, "PER"),
    ]
    assert scheme.tag_ids(["S-PER", "O", None, "B-PER", "E-PER", "?"]) == [1, 0, -100, 1, 2, -100]
    words = LabelScheme.from_labels(["O", "B-X"])
    assert words.tag_ids(["I-X", "O"]) == [1, 0]
    with pytest.raises(ValueError, match="'I-X' is not in the label list.*cannot express it"):
        words.tag_ids(["B-X", "I-X"])  # it would become two
    behind = LabelScheme.from_labels(["O", "x:b", "x:e", "y:b", "y:i", "y:e"])
    assert behind.tags_to_spans(["x:s", "y:s"]) == [(0, 1, "x"), (1, 2, "y")]


# Labels of data sets


def data(*rows):
    return Dataset.from_dict({"tokens": [["w"] * len(row) for row in rows], "ner_tags": rows})


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([["B_PER", "I_PER", "O"], ["B_LOC"]], ["O", "B_LOC", "I_LOC", "B_PER", "I_PER"]),
        ([["PER-B", "PER-I", "LOC-B", "O"]], ["O", "LOC-B", "LOC-I", "PER-B", "PER-I"]),
        ([["O", "B-PER", "E-PER"]], ["O", "B-PER", "E-PER", "I-PER", "S-PER"]),
        ([["O", "B", "I"]], ["O", "B", "I"]),
        ([["O", "B-X", "M-X", "E-X"]], ["O", "B-X", "E-X", "M-X", "S-X"]),
        ([["O", "I-95", "B-52"]], ["O", "B-52", "I-95"]),
        ([["O", "S-Bahn", "U-Bahn"]], ["O", "S-Bahn", "U-Bahn"]),
    ],
)
def test_labels_that_occur_are_completed_by_their_scheme(rows, expected):
    assert label_names(data(*rows)) == expected


def test_a_named_scheme_completes_or_leaves_them():
    roads = data(["O", "I-95", "B-52"])
    assert label_names(roads, label_scheme="plain") == ["O", "B-52", "I-95"]
    assert label_names(roads, label_scheme="IOB2") == ["O", "B-52", "I-52", "B-95", "I-95"]


def test_the_labels_of_all_splits_count():
    train, test = data(["O", "B-PER"]), data(["O", "B-LOC", "I-LOC", None, "?"])
    expected = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
    assert label_names([train, test]) == label_names(iter([test, train])) == expected
    assert label_names(DatasetDict(train=train, test=test)) == expected
    assert label_names([train, train.select([])]) == ["O", "B-PER", "I-PER"]
    classes = Sequence(ClassLabel(names=["O", "I-PER", "B-PER"]))
    numbered = Dataset.from_dict({"ner_tags": [[0, 2]]}).cast_column("ner_tags", classes)
    assert label_names([numbered, test]) == ["O", "I-PER", "B-PER", "B-LOC", "I-LOC"]
    with pytest.raises(ValueError, match="at least one sentence"):
        label_names([])


def test_a_tag_that_only_another_split_has_is_read():
    train, other = data(["B-PER", "E-PER", "O"]), data(["S-PER", "O", "B-PER", "E-PER"])
    scheme = LabelScheme.from_labels(label_names(train))
    assert count_entities(entity_spans(other, scheme)) == {"PER": 2}


# The scheme of the configuration


def test_the_scheme_of_the_configuration_reaches_the_alignment(tmp_path):
    labels = ["O", "E-mail", "S-Bahn"]
    config = SemiCRFConfig(labels=labels, label_scheme="plain")
    rows = {"tokens": [["take", "the", "s"]], "ner_tags": [["O", "S-Bahn", "E-mail"]]}
    folder = save_tiny_bert(tmp_path / "tiny", "take the s")
    tagger = prepare_tokenizer(AutoTokenizer.from_pretrained(folder))
    for align in (
        TokenizeAndAlign(tagger, config),
        TokenizeAndAlign(tagger, config.scheme),
        TokenizeAndAlign(tagger, config.label2id, label_scheme="plain"),
        TokenizeAndAlign(tagger, {"O": "0", "S-Bahn": "2", "E-mail": "1"}, label_scheme="plain"),
    ):
        found = [label for label in align(rows)["labels"][0] if label != -100]
        assert found == [0, 2, 1]
        assert align.scheme == config.scheme
    with pytest.raises(ValueError, match="can be read in one way"):
        TokenizeAndAlign(tagger, config.label2id)


def test_written_tags_keep_their_spelling():
    config = SemiCRFConfig(labels=["O", "b:PER", "i:PER"])
    tags = config.scheme.spans_to_tags([(0, 2, "PER")], 3)
    assert [config.id2label[tag] for tag in tags] == ["b:PER", "i:PER", "O"]


def test_tags_are_read_in_time_and_memory_linear_in_the_labels():
    """A table of pairs of tags would have 4 * 10^8 entries."""
    labels = ["O", *(f"{prefix}-{n}" for n in range(10_000) for prefix in "BI")]
    scheme = LabelScheme.from_labels(labels)
    tags = torch.tensor([1, 2, 2, 4, 0, -100, 20_000, 19_999])
    types, starts = scheme.encode(tags)
    assert types.tolist() == [1, 1, 1, 2, 0, -1, 10_000, 10_000]
    assert starts.tolist() == [True, False, False, True, True, False, True, True]


@pytest.mark.parametrize("tag", [1.5, float("nan"), float("inf"), [1], b"1", 1j, 99, -1])
def test_what_is_no_tag_is_refused(tag):
    scheme = LabelScheme.from_labels(["O", "B-X", "I-X"])
    for read in (scheme.tags_to_spans, scheme.tag_ids):
        with pytest.raises(ValueError, match="is not in the label list"):
            read([tag])
    assert scheme.tags_to_spans([np.int8(1), 2.0, torch.tensor(0)]) == [(0, 2, "X")]
