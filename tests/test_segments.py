"""Label schemes: every small case by enumeration, long ones at random, seqeval as the oracle."""

from __future__ import annotations

import random
from itertools import product

import pytest
import torch
from seqeval import scheme as seqeval_schemes
from seqeval.metrics.sequence_labeling import get_entities

from hf_semicrf.labels.schemes import PREFIXES, LabelScheme, split_long_segments

PREFIXED = [name for name in PREFIXES if name != "plain"]


def label_list(name, types=("PER", "creative-work")):
    """All tags of a scheme, in an order that has O in the middle."""
    tags = [f"{p}-{t}" for t in types for p in PREFIXES[name]] if PREFIXES[name] else list(types)
    return [*reversed(tags[1:]), "O", tags[0]]


def scheme(name):
    return LabelScheme.from_labels(label_list(name), name)


def segmentations(n, types):
    """Every segmentation of n words as a list of (start, end, type); O is one word long."""
    if n == 0:
        yield []
    for length, kind in product(range(1, n + 1), range(types)):
        if kind or length == 1:
            for rest in segmentations(n - length, types):
                yield [(0, length, kind), *((s + length, e + length, k) for s, e, k in rest)]


def as_tensors(segments, n):
    labels, starts = torch.full((n,), -1), torch.zeros(n, dtype=torch.bool)
    for start, end, kind in segments:
        labels[start:end] = kind
        starts[start] = True
    return labels, starts


def touching(segments):
    """Whether two neighbouring segments are entities of one type."""
    return any(
        a[2] == b[2] > 0 and a[1] == b[0] for a, b in zip(segments, segments[1:], strict=False)
    )


def conll_spans(tags):
    """seqeval's conlleval reading; it knows I, E and S but not M, L, U and W."""
    rename = {"L": "E", "U": "S", "M": "I", "W": "S"}
    renamed = [rename.get(tag[0], tag[0]) + tag[1:] for tag in tags]
    return [(start, end + 1, kind) for kind, start, end in get_entities(renamed)]


@pytest.mark.parametrize("name", PREFIXES)
def test_round_trip_of_every_small_segmentation(name):
    tagger = scheme(name)
    for n in range(6):
        cases = [s for s in segmentations(n, 3) if name != "plain" or not touching(s)]
        labels, starts = map(
            torch.stack, zip(*(as_tensors(case, n) for case in cases), strict=True)
        )
        again_labels, again_starts = tagger.encode(tagger.decode(labels, starts))
        assert torch.equal(again_labels, labels)
        assert torch.equal(again_starts, starts)


@pytest.mark.parametrize("name", PREFIXES)
def test_round_trip_at_random_through_spans(name):
    draw, tagger = random.Random(0), scheme(name)
    for _ in range(100):
        n = draw.randint(1, 40)
        spans, position = [], 0
        while position < n:
            end = min(n, position + draw.randint(1, 9))
            if draw.random() < 0.6:
                spans.append((position, end, draw.choice(tagger.types[1:])))
                end += name == "plain"  # a gap: plain cannot express neighbours of one type
            position = end
        tags = tagger.spans_to_tags(draw.sample(spans, len(spans)), n)
        assert tagger.tags_to_spans(tags) == spans
        assert tagger.tags_to_spans([tagger.labels[tag] for tag in tags]) == spans


@pytest.mark.parametrize("name", PREFIXED)
def test_every_short_tagging_is_read_as_conlleval_does(name):
    tagger = scheme(name)
    lengths = range(1, 5 if len(PREFIXES[name]) == 2 else 4)
    for tags in (tags for n in lengths for tags in product(tagger.labels, repeat=n)):
        assert tagger.tags_to_spans(tags) == conll_spans(tags), tags


@pytest.mark.parametrize("name", PREFIXES)
def test_spans_are_those_of_encode(name):
    """On every short tagging, unknown words included."""
    tagger = scheme(name)
    ids = [-100, *range(len(tagger.labels))]
    taggings = torch.tensor(list(product(ids, repeat=4 if len(ids) < 8 else 3)))
    labels, starts = tagger.encode(taggings)
    for tags, kinds, row in zip(*map(torch.Tensor.tolist, (taggings, labels, starts)), strict=True):
        spans = tagger.tags_to_spans(tags)
        assert [first for first, _, _ in spans] == [
            i for i, start in enumerate(row) if start and kinds[i] > 0
        ]
        covered = {i: kind for first, end, kind in spans for i in range(first, end)}
        assert covered == {i: tagger.types[kind] for i, kind in enumerate(kinds) if kind > 0}


@pytest.mark.parametrize("name", ["IOB2", "IOBES", "BILOU"])
def test_written_tags_are_strictly_legal(name):
    """seqeval's strict mode finds in what decode writes what was meant."""
    tagger = scheme(name)
    for segments in segmentations(5, 3):
        tags = [tagger.labels[tag] for tag in tagger.decode(*as_tensors(segments, 5))]
        strict = seqeval_schemes.Entities([tags], getattr(seqeval_schemes, name)).entities[0]
        expected = [(s, e, tagger.types[k]) for s, e, k in segments if k]
        assert [(entity.start, entity.end, entity.tag) for entity in strict] == expected


def test_iob1_writes_b_only_after_its_own_type():
    tagger = scheme("IOB1")
    tags = tagger.spans_to_tags([(0, 2, "PER"), (2, 3, "PER"), (3, 4, "creative-work")], 4)
    assert [tagger.labels[tag] for tag in tags] == ["I-PER", "I-PER", "B-PER", "I-creative-work"]


def test_neighbours_of_one_type_stay_two_except_in_the_plain_scheme():
    pair = [(0, 2, "PER"), (2, 3, "PER")]
    for name in PREFIXED:
        assert scheme(name).tags_to_spans(scheme(name).spans_to_tags(pair, 3)) == pair
    plain = scheme("plain")
    assert plain.tags_to_spans(plain.spans_to_tags(pair, 3)) == [(0, 3, "PER")]


@pytest.mark.parametrize("name", PREFIXES)
def test_unknown_words(name):
    tagger = scheme(name)
    tags = tagger.spans_to_tags([(0, 5, "PER")], 6)
    tags[2] = -100
    labels, starts = tagger.encode(torch.tensor(tags))
    per = tagger.types.index("PER")
    assert labels.tolist() == [per, per, -1, per, per, 0]
    assert starts.tolist() == [True, False, False, True, False, True]
    assert tagger.decode(labels, starts)[2] == -100
    assert tagger.tags_to_spans(tags) == [(0, 2, "PER"), (3, 5, "PER")]


def test_leading_dimensions_and_no_words():
    tagger = scheme("IOBES")
    tags = torch.randint(-1, len(tagger.labels), (2, 3, 4, 7)).masked_fill_(
        torch.rand(2, 3, 4, 7) < 0.1, -100
    )
    labels, starts = tagger.encode(tags)
    for index in product(range(2), range(3), range(4)):
        row_labels, row_starts = tagger.encode(tags[index])
        assert torch.equal(labels[index], row_labels)
        assert torch.equal(starts[index], row_starts)
        assert torch.equal(
            tagger.decode(labels, starts)[index], tagger.decode(row_labels, row_starts)
        )
    empty = tagger.encode(torch.zeros(2, 0, dtype=torch.long))
    assert empty[0].shape == empty[1].shape == tagger.decode(*empty).shape == (2, 0)


def test_compiles_without_a_graph_break():
    tagger = scheme("BILOU")

    @torch.compile(backend="eager", fullgraph=True, dynamic=True)
    def there_and_back(tags):
        labels, starts = tagger.encode(tags)
        return tagger.decode(labels, split_long_segments(labels, starts, 3))

    for n in (5, 9):
        tags = torch.tensor([tagger.spans_to_tags([(0, n, "PER")], n)])
        pieces = [(i, min(i + 3, n), "PER") for i in range(0, n, 3)]
        assert there_and_back(tags).tolist() == [tagger.spans_to_tags(pieces, n)]


@pytest.mark.gpu
def test_never_waits_for_the_gpu():
    tagger = scheme("IOB2")
    tags = torch.randint(0, len(tagger.labels), (4, 16))
    on_gpu = tags.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        labels, starts = tagger.encode(on_gpu)
        starts = split_long_segments(labels, starts, 3)
        again = tagger.decode(labels, starts)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    labels, starts = tagger.encode(tags)
    starts = split_long_segments(labels, starts, 3)
    assert torch.equal(again.cpu(), tagger.decode(labels, starts))


@pytest.mark.parametrize(
    ("labels", "name"),
    [
        (["I-PER", "O", "B-PER"], "IOB2"),
        (["O", "B-PER"], "IOB2"),
        (["O", "B-LOC", "I-LOC", "I-PER"], "IOB1"),
        (["O", "I-PER"], "IOB1"),
        (["O", "S-PER", "B-PER", "I-PER", "E-PER"], "IOBES"),
        (["O", "S-PER"], "IOBES"),
        (["O", "B-PER", "L-PER"], "BILOU"),
        (["LOC", "PER", "O"], "plain"),
        ({"0": "O", "2": "I-PER", "1": "B-PER"}, "IOB2"),
    ],
)
def test_recognised(labels, name):
    tagger = LabelScheme.from_labels(labels)
    assert tagger.name == name
    assert tagger.types[0] == "O"
    assert hash(tagger) == hash(LabelScheme.from_labels(labels))


def test_types_keep_their_order_and_dashes():
    tagger = LabelScheme.from_labels(["I-creative-work", "B-B-side", "O", "B-creative-work"])
    assert tagger.types == ("O", "creative-work", "B-side")
    plain = LabelScheme.from_labels(["O", "E-mail", "S-Bahn"], name="plain")
    assert plain.types == ("O", "E-mail", "S-Bahn")


@pytest.mark.parametrize(
    ("labels", "reread"),
    [
        (["O", "B-X"], [(0, 1), (1, 2), (2, 3)]),  # only entities of one word
        (["O", "I-X"], [(0, 3)]),
        (["O", "S-X"], [(0, 1), (1, 2), (2, 3)]),
        (["O", "B-X", "I-X", "S-Y"], [(0, 3)]),
        (["O", "B-X", "L-X"], [(0, 1), (1, 3)]),
    ],
)
def test_partial_inventories_keep_the_types(labels, reread):
    tagger = LabelScheme.from_labels(labels)
    tags = tagger.spans_to_tags([(0, 3, "X")], 4)
    assert [(start, end) for start, end, _ in tagger.tags_to_spans(tags)] == reread
    assert tagger.encode(torch.tensor(tags))[0].tolist() == [1, 1, 1, 0]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([], "got an empty list"),
        ({}, "got an empty list"),
        ("O", "expected a list of labels"),
        (["O"], "at least one entity type"),
        (["B-PER", "I-PER"], "a label 'O'"),
        (["PER", "LOC"], "a label 'O'"),
        (["LABEL_0", "LABEL_1"], r"pass labels=\['O'"),
        (["O", "B-X", "B-X"], r"\['B-X'\] repeated"),
        (["O", "B-X", "LOC"], "got 'LOC'"),
        (["O", "B-X", "M-X"], "got 'M-X'"),
        (["O", "B-X", "B-"], "got 'B-'"),
        (["O", "B-X", "E-X", "L-X"], "got both"),
        (["O", "B-O"], "not named 'O'"),
        (["O", None], "got None"),
        ({0: "O", 2: "B-X"}, "without gaps"),
    ],
)
def test_label_lists_that_no_scheme_allows(labels, message):
    with pytest.raises(ValueError, match=message):
        LabelScheme.from_labels(labels)


def test_a_named_scheme_must_fit():
    with pytest.raises(ValueError, match="expected IOB2 tags .B-, I- .*got 'E-X'"):
        LabelScheme.from_labels(["O", "B-X", "E-X"], name="IOB2")
    with pytest.raises(ValueError, match="expected label_scheme as one of .*got 'BIO'"):
        LabelScheme.from_labels(["O", "B-X"], name="BIO")


@pytest.mark.parametrize("tag", ["B-LOC", 9, -1])
def test_a_tag_outside_the_scheme(tag):
    with pytest.raises(ValueError, match=f"tag {tag!r} is not in the label list"):
        scheme("IOB2").tags_to_spans(["O", tag])


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ([(0, 0, "PER")], "non-empty spans"),
        ([(2, 4, "PER")], r"in \[0, 3\), got \[2, 4\) PER"),
        ([(-1, 1, "PER")], "got"),
        ([(0, 2, "PER"), (1, 3, "PER")], "do not overlap"),
        ([(0, 1, "LOC")], "entity type among"),
        ([(0, 1, "O")], "entity type among"),
    ],
)
def test_spans_that_are_no_segmentation(spans, message):
    with pytest.raises(ValueError, match=message):
        scheme("IOB2").spans_to_tags(spans, 3)


@pytest.mark.parametrize("max_length", [1, 2, 3, 7])
def test_split_long_segments(max_length):
    """Against a plain loop, with unknown words at the end and several rows at once."""
    cases = list(segmentations(6, 3))
    tensors = [as_tensors(case, 6) for case in cases]
    labels = torch.nn.functional.pad(torch.stack([t[0] for t in tensors]), (0, 2), value=-1)
    starts = torch.nn.functional.pad(torch.stack([t[1] for t in tensors]), (0, 2), value=False)
    pieces = split_long_segments(labels, starts, max_length)
    for case, row in zip(cases, pieces.tolist(), strict=True):
        expected = {i for s, e, _ in case for i in range(s, e, max_length)}
        assert {i for i, start in enumerate(row) if start} == expected


def test_split_after_an_unknown_word_in_the_middle():
    tagger = scheme("IOB2")
    labels, starts = tagger.encode(torch.tensor(tagger.spans_to_tags([(0, 8, "PER")], 8)))
    labels[3], starts[3], starts[4] = -1, False, True
    pieces = split_long_segments(labels, starts, 3)
    assert pieces.tolist() == [True, False, False, False, True, False, False, True]
    with pytest.raises(ValueError, match="got 0"):
        split_long_segments(labels, starts, 0)
