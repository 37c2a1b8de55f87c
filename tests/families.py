"""Families of tests: each draws a batch from a source of random numbers and checks all of it.

A family is a function of a `random.Random`; it returns how many sentences it has checked. The tests
run each a few times, `fuzz.py` for as long as it is told to. `FAMILIES` lists them all.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from functools import cached_property
from random import Random
from unittest import mock

import numpy as np
import torch
from cases import OPTIONAL, given, leaves, random_potentials
from enumeration import Enumerated
from torch import Tensor

from hf_semicrf import ops
from hf_semicrf.ops import Potentials

LARGEST = 2e9  # of finite scores that may not be refused
LOWEST = torch.finfo(torch.float32).min
OWN = set(OPTIONAL)


@contextmanager
def compiled():
    """The way that torch.compile takes through the library, without its cost."""
    with mock.patch.object(torch.compiler, "is_compiling", lambda: True):
        yield


def shape(random: Random) -> dict:
    """Sizes and fields of a small batch."""
    types = random.randint(1, 3)
    longest = random.randint(1, 4)
    most = {1: 7, 2: 5, 3: 4}[types]
    lengths = [random.randint(1, most) for _ in range(random.randint(1, 3))]
    fields = [name for name in OPTIONAL if random.random() < 0.5]
    return {
        "lengths": lengths,
        "longest": longest,
        "types": types,
        "positions": max(lengths) + random.randint(0, 2),
        "given": fields or [random.choice(OPTIONAL)],
        "seed": random.getrandbits(40),
    }


def potentials(random: Random, **changes) -> Potentials:
    """A small batch in float32 or float64, with -inf in one of three."""
    p = random_potentials(**{**shape(random), **changes})
    if random.random() < 1 / 3:
        p = with_holes(p, random)
    return p.map(Tensor.float) if random.random() < 0.5 else p


def with_holes(p: Potentials, random: Random) -> Potentials:
    """-inf for a few scores of any field."""
    generator = torch.Generator().manual_seed(random.getrandbits(40))
    share = random.choice((0.05, 0.2))
    return p.map(
        lambda x: x.masked_fill(torch.rand(x.shape, generator=generator) < share, -torch.inf)
    )


def is_large(p: Potentials) -> bool:
    """Whether a finite score may be too large to be told apart."""
    return any(bool((x.isfinite() & (x.abs() > LARGEST)).any()) for x in given(p).values())


class Checked:
    """Results of one batch beside those of the enumeration."""

    def __init__(self, p: Potentials, backend: str = "torch"):
        self.p, self.backend = p, backend
        self.sentences = [Enumerated(p, b) for b in range(len(p.lengths))]
        sizes = [float(torch.where(x.isfinite(), x.abs(), 0).max()) for x in given(p).values()]
        # sums of up to forty scores, in float64 or what float32 holds of the result
        self.rounding = 40 * max(sizes) * 2**-50
        self.slack = self.rounding if max(sizes) <= LARGEST else 1e-4
        self.double = p.duration.dtype == torch.float64

    def near(self, name: str, found, expected, floor: float = 1e-9) -> None:
        """Compare numbers; infinities must be the same."""
        found = np.asarray(
            found.detach().double().cpu() if isinstance(found, Tensor) else found, float
        )
        expected = np.asarray(expected, float)
        assert found.shape == expected.shape, f"{name}: {found.shape}, expected {expected.shape}"
        relative = 1e-10 if self.double else 1e-6
        with np.errstate(invalid="ignore"):
            limit = self.slack + floor + relative * (1 + np.abs(np.nan_to_num(expected)))
            right = (found == expected) | (np.abs(found - expected) <= limit)
            right |= np.isnan(found) & np.isnan(expected)
        assert right.all(), f"{name}: {found[~right][:4]}, expected {expected[~right][:4]}"

    def run(self) -> int:
        """Check everything; a refusal counts as right where a score is large."""
        p = self.p
        self.refused = []
        for check in (
            self.partition, self.marginals, self.decoding, self.ranking, self.information,
            self.loss, self.dense,
        ):  # fmt: skip
            try:
                check(p)
            except ValueError as error:
                assert is_large(p) and "expected scores that float64 can tell apart" in str(
                    error
                ), f"{check.__name__}: {error}"
                assert any(f" {name}," in str(error) for name in (*given(p), "edge")), str(error)
                self.refused.append(check.__name__)
        return len(p.lengths)

    def added(self, sentences: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """Numbers of every score, summed over the batch where they are shared."""
        sums = {name: np.zeros(x.shape) for name, x in given(self.p).items()}
        for b, numbers in enumerate(sentences):
            for name, x in numbers.items():
                if name in OWN and name in sums:
                    sums[name][b, : len(x)] = x
                elif name in sums:
                    sums[name] += x
        return sums

    @cached_property
    def counts(self) -> dict[str, np.ndarray]:
        """Expected counts of every score, and those of a position's types and of segments."""
        counts = [s.counts() for s in self.sentences]
        batch, positions, longest, types = self.p.sizes
        sums = self.added(counts)
        sums |= {name: np.zeros((batch, positions, types)) for name in ("token", "first", "last")}
        sums["segments"] = np.zeros((batch, positions, longest, types))
        for b, x in enumerate(counts):
            n = len(x["emission"])
            sums["token"][b, :n], sums["segments"][b, :n] = x["emission"], x["segment"]
            sums["first"][b, :n], sums["last"][b, :n] = x["start"], x["end"]
        return sums

    def partition(self, p: Potentials) -> None:
        leaf = leaves(p)
        log_z = ops.log_partition(leaf, backend=self.backend)
        self.near("log Z", log_z, [s.log_z for s in self.sentences])
        with torch.no_grad():
            same = ops.log_partition(p, backend=self.backend)
        self.near("log Z without a gradient", same, [s.log_z for s in self.sentences])
        scores = given(leaf)
        counts = self.counts
        for (name, _), x in zip(
            scores.items(), torch.autograd.grad(log_z.sum(), list(scores.values())), strict=True
        ):
            self.near(f"gradient of {name}", x, counts[name], 1e-6)

    def marginals(self, p: Potentials) -> None:
        counts = self.counts
        found = ops.marginals(p, segment=True, backend=self.backend)
        for name, x, y in zip(
            ("token", "start", "end", "segment"),
            found,
            ("token", "first", "last", "segments"),
            strict=True,
        ):
            self.near(f"marginals.{name}", x, counts[y], 1e-6)
            assert bool(((x >= 0) & (x <= 1)).all()), f"marginals.{name} outside 0..1"
        total = found.token.double().sum(-1)
        for b, sentence in enumerate(self.sentences):
            self.near(
                "sum",
                total[b, : sentence.positions],
                np.full(sentence.positions, sentence.possible),
                1e-5,
            )
        stops = torch.cartesian_prod(torch.arange(p.sizes[1]), torch.arange(p.sizes[1] + 1))
        stops = stops[stops[:, 0] < stops[:, 1]]
        spans = stops.expand(len(p.lengths), -1, 2)
        chances = ops.segment_marginals(p, spans, backend=self.backend)
        expected = np.zeros(chances.shape)
        for i, (begin, stop) in enumerate(stops.tolist()):
            if stop - begin <= p.sizes[2]:
                expected[:, i] = counts["segments"][:, begin, stop - begin - 1]
        self.near("segment_marginals", chances, expected, 1e-6)

    def decoding(self, p: Potentials) -> None:
        score, labels, starts = ops.viterbi(p, backend=self.backend)
        self.near("best score", score, [s.best_score for s in self.sentences])
        drawn, opened = ops.sample(p, 5, torch.Generator().manual_seed(0), backend=self.backend)
        for b, sentence in enumerate(self.sentences):
            n = sentence.positions
            assert (labels[b, n:] == -1).all() and not starts[b, n:].any()
            if sentence.possible:
                self.near("best path", sentence.below[sentence.index_of(labels[b], starts[b])], 0.0)
                for y, s in zip(drawn[:, b], opened[:, b], strict=True):
                    assert sentence.below[sentence.index_of(y, s)] > -60, "an unlikely sample"
            else:
                assert (drawn[:, b] == -1).all() and not opened[:, b].any()

    def held(self, scores: np.ndarray) -> np.ndarray:
        """Scores as the batch's dtype can hold them."""
        lowest = np.where(scores == -np.inf, scores, scores.clip(LOWEST))
        return scores if self.double else lowest

    def ranking(self, p: Potentials) -> None:
        score, labels, starts = ops.k_best(p, 3, backend=self.backend)
        token = ops.max_marginals(p, backend=self.backend).token
        for b, sentence in enumerate(self.sentences):
            ranks = np.sort(sentence.below)[::-1][:3]
            ranks = np.concatenate([ranks, np.full(3 - len(ranks), -np.inf)])
            ranks = self.held(ranks + sentence.best_score)
            # what is far below the best is as exact as the best is
            self.near("k best", score[b], ranks, self.rounding)
            n = sentence.positions
            through = self.held(sentence.best_through("emission") + sentence.best_score)
            self.near("max_marginals", token[b, :n], through, self.rounding)

    def information(self, p: Potentials) -> None:
        leaf = leaves(p)
        entropy = ops.entropy(leaf, backend=self.backend)
        expected = [s.entropy if s.possible else math.nan for s in self.sentences]
        self.near("entropy", entropy, expected, 1e-6)
        divergence = ops.kl_divergence(p, p, backend=self.backend)
        self.near(
            "divergence",
            divergence,
            [0.0 if s.possible else math.nan for s in self.sentences],
            1e-6,
        )
        if all(s.possible for s in self.sentences):
            slopes = torch.autograd.grad(entropy.sum(), list(given(leaf).values()))
            expected = self.added([s.entropy_slopes() for s in self.sentences])
            for name, x in zip(given(leaf), slopes, strict=True):
                self.near(f"gradient of the entropy, {name}", x, expected[name], 1e-6)

    def loss(self, p: Potentials) -> None:
        """The loss of a random segmentation, one a sentence, and its gradient."""
        batch, positions, _, types = p.sizes
        random = Random(repr(self.p.lengths.tolist()))
        labels = torch.full((batch, positions), -1)
        starts = torch.zeros(batch, positions, dtype=torch.bool)
        chosen = []
        for b, sentence in enumerate(self.sentences):
            index = random.randrange(len(sentence.below))
            for begin, length, kind in sentence.tilings.segmentations[index]:
                labels[b, begin : begin + length] = kind
                starts[b, begin] = True
            chosen.append(index)
        terms = [s.scores[s.tilings.places[y]] for s, y in zip(self.sentences, chosen, strict=True)]
        with np.errstate(invalid="ignore"):
            score = [math.fsum(x) if (x > -np.inf).all() else -math.inf for x in terms]
        loss = [
            s.log_total - s.below[y] if s.legal[y] else math.inf
            for s, y in zip(self.sentences, chosen, strict=True)
        ]
        self.near("score", ops.segmentation_score(p, labels, starts), score)
        leaf = leaves(p)
        found = ops.negative_log_likelihood(leaf, labels, starts, backend=self.backend)
        self.near("loss", found, loss)
        with torch.no_grad():
            same = ops.negative_log_likelihood(p, labels, starts, backend=self.backend)
        self.near("loss without a gradient", same, loss)
        expected = {name: x.copy() for name, x in self.counts.items()}
        for s, y, b in zip(self.sentences, chosen, range(batch), strict=True):
            flat = np.bincount(s.tilings.places[y], minlength=s.tilings.zero + 1).astype(float)
            for name, place in s.tilings.slices.items():
                if name in given(p):
                    observed = flat[place].reshape(s.tilings.shapes[name])
                    if name in OWN:
                        expected[name][b, : s.positions] -= observed
                    else:
                        expected[name] -= observed
        slopes = torch.autograd.grad(found.sum(), list(given(leaf).values()))
        for name, x in zip(given(leaf), slopes, strict=True):
            self.near(f"gradient of the loss, {name}", x, expected[name], 1e-6)

    def dense(self, p: Potentials) -> None:
        boundaries = p.lengths + 1
        with torch.no_grad():
            edge = ops.to_edge(p.map(Tensor.double))
        trained = edge.clone().requires_grad_()
        log_z = [s.log_z for s in self.sentences]
        best = [s.best_score for s in self.sentences]
        for options in ({}, {"use_compile": False}, {"validate": True}):
            found = ops.semi_crf_triton_forward(trained, boundaries, **options)
            self.near(f"dense {options}", found, log_z)
            slope = torch.autograd.grad(found.sum(), trained)[0]
            chances = slope[:, :, 1:].sum(-1)
            self.near("dense gradient", chances, self.counts["segments"], 1e-6)
            found = ops.semi_crf_triton_forward(edge, boundaries, semiring="max", **options)
            self.near(f"dense best {options}", found, best)
        self.near("streaming", ops.linear_scan_streaming(edge, boundaries), log_z)
        score, labels, starts = ops.edge_viterbi(edge, boundaries)
        self.near("dense best path's score", score, best)
        chances = ops.edge_marginals(edge, boundaries)[:, :, 1:].sum(-1)
        self.near("edge_marginals", chances, self.counts["segments"], 1e-6)
        for b, sentence in enumerate(self.sentences):
            if sentence.possible:
                self.near(
                    "dense path", sentence.below[sentence.index_of(labels[b], starts[b])], 0.0
                )


def any_potentials(random: Random) -> int:
    """Family 1: potentials of all shapes, usual scores."""
    p = potentials(random)
    with compiled() if random.random() < 0.25 else nullcontext():
        return Checked(p).run()


LARGE = ("mask", "constant", "scale", "single")


def large_scores(random: Random) -> int:
    """Family 2: finite scores of any size, in any field."""
    p = potentials(random)
    for _ in range(random.randint(1, 2)):
        name = random.choice(list(given(p)))
        p = p._replace(**{name: enlarged(getattr(p, name), random)})
    return Checked(p).run()


def enlarged(x: Tensor, random: Random) -> Tensor:
    """Scores with some that are large: masks, constants, all, or a single one."""
    generator = torch.Generator().manual_seed(random.getrandbits(40))
    size = random.choice((1e3, 1e4, 1e6, 1e9, 1e12, 1e30, -LOWEST))
    sign = random.choice((-1, -1, 1))
    kind = random.choice(LARGE)
    if kind == "scale":
        return (x * min(size, 1e30) / 4).clamp(LOWEST, -LOWEST)
    if kind == "constant":
        return (x + sign * size).clamp(LOWEST, -LOWEST)
    if kind == "mask":
        where = torch.rand(x.shape, generator=generator) < random.choice((0.1, 0.4))
        if x.ndim > 1 and random.random() < 0.5:  # all types of a place
            where = where.any(-1, keepdim=True).expand_as(x)
    else:
        where = torch.zeros(x.shape, dtype=torch.bool)
        where.view(-1)[random.randrange(x.numel())] = True
    return torch.where(where & x.isfinite(), sign * size, x)


def values(p: Potentials, backend: str) -> dict[str, Tensor]:
    """What the operations say of each sentence [B, ...]."""
    _, labels, starts = ops.viterbi(
        p.map(lambda x: torch.where(x < torch.inf, x, 0)), backend=backend
    )
    zeros, opens = torch.zeros_like(labels), torch.ones_like(starts)
    spans = torch.tensor([[[0, 1]]]).expand(len(labels), 1, 2)
    score, ranked, _ = ops.k_best(p, 2, backend=backend)
    found = {
        "log Z": ops.log_partition(p, backend=backend),
        "loss": ops.negative_log_likelihood(p, zeros, opens, backend=backend),
        "difference": ops.log_partition_difference(p, p, backend=backend),
        "best score": ops.viterbi(p, backend=backend)[0],
        "entropy": ops.entropy(p, backend=backend),
        "divergence": ops.kl_divergence(p, p, backend=backend),
        "segment_marginals": ops.segment_marginals(p, spans, backend=backend),
        "k best": score[:, :1],
        "dense": ops.semi_crf_triton_forward(ops.to_edge(p), p.lengths + 1),
        "streaming": ops.linear_scan_streaming(ops.to_edge(p), p.lengths + 1, "max"),
    }
    posteriors = ops.marginals(p, segment=True, backend=backend)
    found |= {f"marginals.{k}": x for k, x in posteriors._asdict().items() if x is not None}
    found |= {"max_marginals": ops.max_marginals(p, backend=backend).token}
    return found


def not_finite(random: Random) -> int:
    """Family 3: NaN and +inf where a segmentation reads them, and where none does."""
    sizes = shape(random)
    p = random_potentials(**sizes)
    batch, positions, longest, _ = p.sizes
    name = random.choice(list(given(p)))
    x = getattr(p, name).clone()
    index = tuple(random.randrange(size) for size in x.shape)
    x[index] = random.choice((torch.nan, torch.inf))
    bad = p._replace(**{name: x})
    most = int(p.lengths.max())
    if name in OWN:
        stop = index[1] + (index[2] + 1 if name == "segment" else 1)
        affected = [index[0]] if stop <= sizes["lengths"][index[0]] else []
    else:
        needed = {"duration": index[0] + 1, "transition": 2}.get(name, 1)
        affected = [b for b, n in enumerate(sizes["lengths"]) if n >= needed]
    clean = values(p, "torch")
    if not affected:
        for key, y in values(bad, "torch").items():
            assert torch.allclose(y, clean[key], rtol=1e-10, atol=1e-10, equal_nan=True), key
        return batch
    try:
        values(bad, "torch")
    except ValueError as error:
        assert f"in {name}" in str(error), str(error)
        if name in OWN:
            assert f"of sentence {index[0]}" in str(error), str(error)
    else:
        raise AssertionError(f"{name} {index} was taken, {most} positions")
    with compiled():
        found = values(bad, "torch")
        drawn, _ = ops.sample(bad, 2)
    for key, y in found.items():
        for b in range(batch):
            n = sizes["lengths"][b]
            row, other = y[b], clean[key][b]
            if y.ndim > 1 and key != "k best" and key != "segment_marginals":
                row, other = row[:n], other[:n]
            if b in affected:
                used = row if key not in ("marginals.segment",) else row[:1, :1]
                assert used.isnan().all(), f"{key} of a sentence with {x[index]} in {name}: {row}"
            elif name in OWN:
                assert torch.allclose(row, other, rtol=1e-10, atol=1e-10, equal_nan=True), key
    assert all((drawn[:, b] == -1).all() for b in affected), "a sample of NaN"
    return batch


FAMILIES: dict[str, Callable[[Random], int]] = {
    f.__name__: f for f in (any_potentials, large_scores, not_finite)
}
