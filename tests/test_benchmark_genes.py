"""The benchmark of genes: its rule for overlaps, its inputs and scores, and a run on few bases."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest
import torch
from tiny import BENCHMARKS, benchmark


@pytest.fixture
def genes(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return benchmark("genes")


def bases_of(text):
    return torch.tensor(["acgt".index(base) for base in text])


@pytest.mark.parametrize(
    ("kinds", "left", "right"),
    [
        ((1, 1), (0, 20), (20, 40)),  # the stop of the left one lies among the shared bases
        ((2, 2), (0, 15), (15, 40)),  # that of the right one
        ((1, 2), (0, 20), (20, 40)),  # both
        ((2, 1), (0, 20), (20, 40)),  # none
    ],
)
def test_bases_of_two_genes_go_to_the_one_that_stops_there(genes, kinds, left, right):
    pair = [genes.Gene(0, 20, kinds[0]), genes.Gene(15, 40, kinds[1])]
    c = genes.labelled(torch.zeros(50, dtype=torch.long), pair, [])
    kept = [genes.Gene(*left, kinds[0]), genes.Gene(*right, kinds[1])]
    assert genes.segments(c.labels, c.starts) == kept
    assert (c.cut_genes, c.cut_bases) == (1, 5)
    assert genes.reachable(c, (0, 50))["exact"] == pytest.approx(200 / 3)
    assert genes.measured(c, (0, 50), c.labels, c.starts)["exact"] == 50


def test_the_other_strand_has_its_genes_and_inputs_backwards(genes):
    random.seed(5)
    text = "".join(random.choices("acgt", k=200))
    pair = [genes.Gene(20, 80, 1), genes.Gene(100, 160, 2)]
    c = genes.labelled(bases_of(text), pair, [genes.Gene(165, 180, 1)])
    other = genes.complement(c)
    assert other.genes == [genes.Gene(40, 100, 1), genes.Gene(120, 180, 2)]
    assert other.pseudogenes == [genes.Gene(20, 35, 2)]
    assert torch.equal(other.inputs, c.inputs.flip(0, 1))
    again = genes.complement(other)
    assert torch.equal(again.bases, c.bases) and torch.equal(again.labels, c.labels)
    lengths = torch.tensor([len(text)])
    encoder = genes.Dilated(8, 2).eval()
    both = encoder(c.inputs[None], lengths), encoder(other.inputs[None], lengths).flip(1)
    torch.testing.assert_close(both[0], both[1].roll(8, -1))


def test_distances_are_those_to_the_stop_codons_of_each_frame(genes):
    text = "ccatagcctgaccctaacc"
    distances = (genes.stop_distances(bases_of(text)) * 4).expm1().round().long()
    stops = [n for n in range(len(text) - 2) if text[n : n + 3] in ("taa", "tag", "tga")]
    assert stops == [3, 8, 14]
    for n in range(2, len(text)):
        for k in range(3):
            codon = n - k
            same = [stop for stop in stops if stop % 3 == codon % 3]
            following = min([stop for stop in same if stop >= codon], default=len(text))
            last = max([stop for stop in same if stop <= codon], default=-1)
            assert distances[n, 2 * k : 2 * k + 2].tolist() == [following - codon, codon - last]


def test_scores_count_both_ends_and_stops_alone(genes):
    gold = [genes.Gene(0, 30, 1), genes.Gene(40, 70, 2), genes.Gene(80, 99, 1)]
    found = [genes.Gene(0, 30, 1), genes.Gene(40, 61, 2), genes.Gene(81, 90, 1)]
    ignored = [genes.Gene(79, 92, 1)]
    scores = genes.scores(found, gold, ignored)
    assert scores == {"exact": 200 / 5, "stop": 400 / 5, "found": 2}


def test_heads_go_on_from_an_encoder_that_a_softmax_trained(genes, tmp_path, monkeypatch):
    random.seed(1)
    text = "".join(random.choices("acgt", k=2400))
    (tmp_path / "sequence.txt").write_text(text)
    rows = [f"{n}\t{n + 90}\t{'+-'[n % 2]}\tCDS" for n in range(31, 2250, 151)]
    (tmp_path / "genes.tsv").write_text("\n".join(["start\tend\tstrand\tkind", *rows]))
    for name, region in (
        ("TRAIN", (0, 1600)),
        ("VALIDATION", (1600, 2000)),
        ("TEST", (2000, 2400)),
    ):
        monkeypatch.setattr(genes, name, region)
    monkeypatch.setattr(genes, "CROP", 800)
    args = SimpleNamespace(data=tmp_path, longest=60, begins=8, device="cpu", batch=2, rate=1e-2)
    args.first_steps = args.steps = 2
    encoder = genes.trained(args, "softmax", 0)
    assert set(encoder) == set(genes.Dilated().state_dict())
    for head in genes.HEADS:
        rows = genes.trained(args, head, 0, encoder)
        assert [row["split"] for row in rows] == ["train", "validation", "test"]
        assert all(row["head"] == head and 0 <= row["bases"] <= 100 for row in rows)
    c = genes.read(tmp_path)
    assert max(map(max, genes.lengths_of(c.labels, c.starts, 3)[1:])) == 90
    pieces = genes.in_pieces(c, 60)
    assert torch.equal(pieces.labels, c.labels)
    assert max(map(max, genes.lengths_of(pieces.labels, pieces.starts, 3)[1:])) == 60
