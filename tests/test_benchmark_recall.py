"""The benchmark of promised recalls: softmax's candidates, and what a split is told of."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from tiny import benchmark

from hf_semicrf.inference import Candidates


@pytest.fixture(scope="module")
def recall():
    return benchmark("recall")


def test_spans_of_independent_tags_have_the_probability_of_their_taggings(recall):
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(5), 4)  # O, B-X, I-X, B-Y, I-Y of four words
    expected: dict[tuple[int, int, int], float] = {}
    for tags in product(range(5), repeat=4):
        chance = float(np.prod([probabilities[n, tag] for n, tag in enumerate(tags)]))
        for first in range(4):
            if tags[first] in (1, 3):
                end = first + 1
                while end < 4 and tags[end] == tags[first] + 1:
                    end += 1
                span = first, end, (tags[first] + 1) // 2
                expected[span] = expected.get(span, 0.0) + chance
    found = recall.span_candidates(probabilities, 4)
    spans = zip(*(x.tolist() for x in found), strict=True)
    assert {span[:3]: pytest.approx(span[3]) for span in spans} == expected
    longest = recall.span_candidates(probabilities, 2)
    assert (longest.end - longest.first).max() == 2
    assert recall.word_candidates(probabilities).coverage(4) == pytest.approx(
        1 - probabilities[:, 0]
    )


def dump_of(recall, count: int, rng: np.random.Generator):
    """Documents of three words with an entity on the first two, or without one."""
    documents = []
    for number in range(count):
        posterior = rng.random(2)
        found = Candidates(np.array([0, 2]), np.array([2, 3]), np.array([1, 1]), posterior)
        documents.append((found, found, 3, [(0, 2, "X")] if number % 2 else []))
    return recall.Dump.of(documents, ["O", "X"])


def test_a_split_is_told_of_its_other_half(recall):
    rng = np.random.default_rng(1)
    dump = dump_of(recall, 400, rng)
    half = rng.permutation(400) < 200
    row = recall.one_split(dump, half, "exact", 0.8, None)
    rest = dump.of_documents(~half)
    lost = rest.entity_exact < row["threshold"]
    assert (row["missed"], row["entities"]) == (lost.sum(), len(lost))
    assert row["kept"] == (lost.mean() <= 0.2)
    # two words of a candidate beside an entity where there is none, and the third word everywhere
    beside = (rest.word_cover >= row["threshold"]) & ~rest.word_inside
    assert row["extra_words"] == beside.sum() / (2 * len(lost)) > 1
    assert recall.one_split(dump, half, "words", 0.999, None) is None


def test_cells_keep_their_promise_where_documents_are_exchangeable(recall):
    rng = np.random.default_rng(2)
    dump = dump_of(recall, 400, rng)
    for confidence in (None, 0.9):
        halves = [rng.permutation(400) < 200 for _ in range(60)]
        rows = [recall.one_split(dump, half, "words", 0.8, confidence) for half in halves]
        cell = recall.cell(rows, 0.8)
        assert cell["keeps"] and cell["refused"] == 0 and 0.05 < cell["miss"] < 0.23
        assert confidence is None or cell["kept_within_error"] >= 0.9
    assert recall.cell([None, None], 0.8) == {"splits": 2, "refused": 2}
