"""Rules, known spans and partly known tags, each against enumeration of what they allow."""

from __future__ import annotations

import math
import random

import pytest
import torch
from cases import Case, as_tensors, given, leaves, random_potentials, to_device
from oracle import log_sum_exp
from tolerances import FLOAT64, GRADCHECK
from torch.testing import assert_close

from hf_semicrf import LabelScheme, ops
from hf_semicrf.labels.constraints import Rules, allowed_segments
from hf_semicrf.labels.partial import Known, types_as_bits

TYPES = ("O", "PER", "LOC")
LONGEST = 3
SCHEMES = {
    "IOB2": ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"],
    "IOBES": ["O", *(f"{prefix}-{name}" for name in ("PER", "LOC") for prefix in "SBIE")],
    "BILOU": ["O", *(f"{prefix}-{name}" for name in ("PER", "LOC") for prefix in "BILU")],
    "no S": ["O", *(f"{prefix}-{name}" for name in ("PER", "LOC") for prefix in "BIE")],
}
RULES = {
    "types": {"types": ["LOC"]},
    "lengths": {"lengths": {"PER": [2, 3], "LOC": [1, 1]}},
    "transitions": {"transitions": {"PER": ["O"], "O": ["PER", "O"]}},
    "ends": {"initial": ["O", "LOC"], "final": ["PER"]},
    "all": {
        "types": ["PER"],
        "lengths": {"PER": [1, 2], "LOC": [1, 1]},
        "transitions": {"PER": ["O"]},
        "initial": ["PER"],
    },
}
SPANS = {
    "one type": [{"start": 1, "end": 3, "label": "PER"}],
    "one word": [{"start": 0, "end": 1, "label": "LOC"}],
    "neighbours of one type": [
        {"start": 1, "end": 2, "label": "PER"},
        {"start": 2, "end": 4, "label": "PER"},
    ],
    "some types": [{"start": 2, "end": 4, "label": ["PER", "LOC"]}],
    "any type": [{"start": 1, "end": 4, "label": None}],
    "outside": [{"start": 0, "end": 2, "label": "O"}, {"start": 3, "end": 4, "label": "O"}],
    "excluded": [
        {"start": 0, "end": 2, "label": "PER", "exclude": True},
        {"start": 2, "end": 3, "label": None, "exclude": True},
    ],
    "none": [],
}


def potentials(lengths=(4, 3, 1), seed=0, given=("emission", "segment", "start", "end")):
    """Random potentials whose outside type is one position long."""
    p = random_potentials(lengths, LONGEST, len(TYPES), seed=seed, given=given)
    p.duration[1:, 0] = -torch.inf
    return p


def enumerated(case, holds):
    """Log-sum over the segmentations y of each sentence b for which holds(b, y)."""
    sums = []
    for b, sentence in enumerate(case.sentences):
        pairs = zip(sentence.all, sentence.scores, strict=True)
        sums.append(log_sum_exp([score for y, score in pairs if holds(b, y)]))
    return torch.tensor(sums, dtype=torch.float64)


def legal(case, b):
    """The segmentations of a sentence with a probability."""
    pairs = zip(case.sentences[b].all, case.sentences[b].scores, strict=True)
    return [y for y, score in pairs if score > -math.inf]


# partly known tags


def partly_known(case, scheme, share, seed):
    """Tags of random segmentations with a share hidden, and those that agree with them."""
    generator = random.Random(seed)
    drawn = [generator.choice(legal(case, b)) for b in range(len(case.sentences))]
    tags = scheme.decode(*as_tensors(drawn, case.potentials.sizes[1]))
    hidden = torch.tensor([[generator.random() < share for _ in row] for row in tags])
    tags = tags.masked_fill(hidden, -100)

    def agrees(b, y):
        written = scheme.decode(*as_tensors([y], case.potentials.sizes[1]))[0]
        return bool(((tags[b] == -100) | (written == tags[b])).all())

    return tags, drawn, agrees


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("share", [0.3, 0.6])
def test_partly_known_tags_allow_what_agrees_with_them(name, share, device):
    scheme = LabelScheme.from_labels(SCHEMES[name])
    for seed in range(4):
        optional = ("emission", "start") if seed % 2 else ("segment", "end")
        case = Case(potentials(seed=seed, given=optional))
        tags, _, agrees = partly_known(case, scheme, share, seed)
        p, known = to_device(case.potentials, device), Known.of_tags(scheme, tags, LONGEST)
        known = Known(*(x.to(device) for x in known))
        expected = case.log_z - enumerated(case, agrees)
        found = ops.log_partition_difference(p, known.apply(p))
        assert_close(found.cpu(), expected, **FLOAT64)


def test_with_everything_known_it_is_the_likelihood_and_with_nothing_it_is_zero(device):
    scheme = LabelScheme.from_labels(SCHEMES["IOB2"])
    case = Case(potentials(seed=3))
    p = to_device(case.potentials, device)
    tags, drawn, _ = partly_known(case, scheme, 0.0, seed=0)
    labels, starts = as_tensors(drawn, p.sizes[1])
    known = Known.of_tags(scheme, tags.to(device), LONGEST)
    nll = ops.negative_log_likelihood(p, labels.to(device), starts.to(device))
    assert_close(ops.log_partition_difference(p, known.apply(p)), nll, **FLOAT64)
    nothing = Known.of_tags(scheme, torch.full_like(tags, -100).to(device), LONGEST)
    difference = ops.log_partition_difference(p, nothing.apply(p))
    assert_close(difference, torch.zeros_like(nll), **FLOAT64)


def test_the_gradient_of_partly_known_tags():
    scheme = LabelScheme.from_labels(SCHEMES["IOB2"])
    p = leaves(potentials([4, 2], seed=5)._replace(duration=torch.zeros(3, 3).double()))
    tags = torch.tensor([[-100, 2, -100, 3], [-100, -100, -100, -100]])
    known = Known.of_tags(scheme, tags, LONGEST)
    names, values = zip(*given(p).items(), strict=True)

    def loss(*scores):
        q = p._replace(**dict(zip(names, scores, strict=True)))
        return ops.log_partition_difference(q, known.apply(q))

    assert torch.autograd.gradcheck(loss, values, **GRADCHECK)
    for gradient in torch.autograd.grad(loss(*values)[1], values, allow_unused=True):
        assert_close(gradient, torch.zeros_like(gradient), **FLOAT64)  # nothing is known there


def test_a_known_segment_of_more_words_than_allowed_is_split():
    scheme = LabelScheme.from_labels(SCHEMES["IOB2"])
    p = potentials([8], seed=6)
    tags = torch.tensor([[0, 1, 2, 2, 2, 2, 2, 2]])
    labels = torch.tensor([[0, 1, 1, 1, 1, 1, 1, 1]])
    starts = torch.tensor([[1, 1, 0, 0, 1, 0, 0, 1]], dtype=torch.bool)
    known = Known.of_tags(scheme, tags, LONGEST)
    expected = ops.negative_log_likelihood(p, labels, starts)
    assert_close(ops.log_partition_difference(p, known.apply(p)), expected, **FLOAT64)
    open_ended = torch.tensor([[-100, 2, 2, 2, 2, 2, -100, -100]])
    known = Known.of_tags(scheme, open_ended, LONGEST)
    assert ops.log_partition_difference(p, known.apply(p)).isfinite().all()


def test_sets_of_types_restrict_unknown_words():
    scheme = LabelScheme.from_labels(SCHEMES["IOB2"])
    case = Case(potentials([4, 3], seed=7))
    tags = torch.tensor([[-100, -100, 0, -100], [-100, 1, -100, -100]])
    bits = [types_as_bits(names, TYPES) for names in (["PER", "LOC"], ["O"], TYPES)]
    sets = torch.tensor([[bits[0], -1, -1, bits[1]], [bits[2], -1, bits[0], -1]])
    known = Known.of_tags(scheme, tags, LONGEST)

    def holds(b, y):
        kinds, _ = as_tensors([y], 4)
        n = case.sentences[b].positions
        inside = all(sets[b, t] < 0 or sets[b, t] >> int(kinds[0, t]) & 1 for t in range(n))
        return inside and known_only(b, y)

    def known_only(b, y):
        written = scheme.decode(*as_tensors([y], 4))[0]
        return bool(((tags[b] == -100) | (written == tags[b])).all())

    p = case.potentials
    assert_close(ops.log_partition(known.within(sets).apply(p)), enumerated(case, holds), **FLOAT64)


def test_plain_tags_leave_boundaries_open_beside_unknown_words():
    scheme = LabelScheme.from_labels(TYPES, "plain")
    known = Known.of_tags(scheme, torch.tensor([[1, -100, 1, 1, 2, 0, -100]]), LONGEST)
    assert known.may_start.tolist() == [[True, True, True, False, True, True, True]]
    assert known.must_start.tolist() == [[True, False, False, False, True, True, True]]


# rules


def follows(rules, y):
    """Whether a segmentation follows rules, by their definition."""
    kinds = [TYPES[kind] for _, _, kind in y]
    lengths = rules.get("lengths", {})
    return (
        all(kind == "O" or kind in rules.get("types", TYPES) for kind in kinds)
        and all(
            lengths[TYPES[kind]][0] <= end - begin <= lengths[TYPES[kind]][1]
            for begin, end, kind in y
            if TYPES[kind] in lengths
        )
        and all(
            b in rules.get("transitions", {}).get(a, TYPES)
            for a, b in zip(kinds, kinds[1:], strict=False)
        )
        and kinds[0] in rules.get("initial", TYPES)
        and kinds[-1] in rules.get("final", TYPES)
    )


@pytest.mark.parametrize("name", RULES)
def test_rules_allow_what_they_say(name, device):
    case = Case(potentials(seed=8))
    rules = RULES[name]
    p = to_device(case.potentials, device)
    masked = Rules.read(rules, TYPES, LONGEST).apply(p)
    expected = enumerated(case, lambda _, y: follows(rules, y))
    assert_close(ops.log_partition(masked).cpu(), expected, **FLOAT64)
    segment = ops.marginals(masked, segment=True).segment.cpu()
    seen = torch.zeros_like(segment, dtype=torch.bool)
    for b in range(len(case.sentences)):
        for y in legal(case, b):
            for begin, end, kind in y if follows(rules, y) else ():
                seen[b, begin, end - begin - 1, kind] = True
    assert (segment[~seen] == 0).all() and (segment[seen] > 0).all()


@pytest.mark.parametrize(
    "rules, message",
    [
        ({"length": {}}, "expected constraints among"),
        ({"types": ["ORG"]}, "expected types among"),
        ({"lengths": {"PER": [0, 2]}}, "shortest and the longest length of 'PER'"),
        ({"lengths": {"PER": [4, 9]}}, "from 1 to 3, got"),
        ({"lengths": {"O": [1, 1]}}, "expected lengths among"),
        ({"transitions": {"PER": ["X"]}}, "expected transitions among"),
        ({"initial": ["PER"], "final": ["O"], "transitions": {"PER": ["PER"]}}, "some sentence"),
        ({"types": [], "initial": ["PER"]}, "some sentence satisfies, got {'types'"),
    ],
)
def test_rules_that_cannot_be_are_refused(rules, message):
    with pytest.raises(ValueError, match=message):
        Rules.read(rules, TYPES, LONGEST)


def test_rules_that_only_a_long_path_satisfies_are_accepted():
    path = {"initial": ["O"], "final": ["LOC"], "transitions": {"O": ["PER"], "PER": ["LOC"]}}
    Rules.read({**path, "lengths": {"PER": [3, 3], "LOC": [3, 3]}}, TYPES, LONGEST)


# known spans


def agrees_with(spans, y):
    """Whether a segmentation agrees with spans, by their definition."""
    for span in spans:
        first, end, label = span["start"], span["end"], span["label"]
        names = TYPES[1:] if label is None else [label] if isinstance(label, str) else label
        here = any((s, e) == (first, end) and TYPES[kind] in names for s, e, kind in y)
        if label == "O":
            if any(kind and s < end and e > first for s, e, kind in y):
                return False
        elif here == bool(span.get("exclude")):
            return False
    return True


@pytest.mark.parametrize("name", SPANS)
@pytest.mark.parametrize("threshold", [0.0, 0.4, 1.0])
def test_spans_allow_what_agrees_with_them(name, threshold, device):
    case = Case(potentials([5, 4], seed=9))
    p = to_device(case.potentials, device)
    mask = torch.stack([allowed_segments(SPANS[name], 5, TYPES, LONGEST)] * 2).to(device)
    masked = p._replace(segment=p.segment.masked_fill(~mask, -torch.inf))
    expected = enumerated(case, lambda _, y: agrees_with(SPANS[name], y))
    assert_close(ops.log_partition(masked).cpu(), expected, **FLOAT64)

    posterior = ops.marginals(masked, segment=True).segment
    labels, starts = ops.minimum_risk(posterior, p.lengths, threshold, legal=masked)
    for b, length in enumerate([5, 4]):

        def gain(y, b=b):
            of = [float(posterior[b, s, e - s - 1, c]) - threshold for s, e, c in y if c]
            return math.fsum(of)

        begins = [*starts[b].nonzero()[:, 0].tolist(), length]
        found = tuple(
            (s, e, int(labels[b, s])) for s, e in zip(begins[:-1], begins[1:], strict=True)
        )
        assert agrees_with(SPANS[name], found)
        best = max(gain(y) for y in legal(case, b) if agrees_with(SPANS[name], y))
        assert gain(found) == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize(
    "span, message",
    [
        ({"start": 2, "end": 2, "label": "PER"}, "non-empty spans"),
        ({"start": 2, "end": 6, "label": "PER"}, r"in \[0, 5\)"),
        ({"start": 0, "end": 4, "label": "PER"}, "at most 3 words"),
        ({"start": 0, "end": 1, "label": "ORG"}, "expected label among"),
        ({"start": 0, "end": 1, "label": "O", "exclude": True}, '"O" alone'),
        ({"start": 0, "end": 1, "label": ["O", "PER"]}, '"O" alone'),
    ],
)
def test_spans_that_cannot_be_are_refused(span, message):
    with pytest.raises(ValueError, match=message):
        allowed_segments([span], 5, TYPES, LONGEST)


def test_more_types_than_bits_are_refused():
    with pytest.raises(ValueError, match="at most 63 types"):
        types_as_bits(["O"], [f"T{n}" for n in range(64)])
