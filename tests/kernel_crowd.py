"""Crowds of sentences through the kernels, beside all their segmentations, on the device itself.

The enumeration of `enumeration.py` for a whole batch of one length at once: 10^5 sentences take a
GPU seconds. Besides, what a GPU can do to a right kernel: other bits the next time, another stream
beside it, memory that holds anything.
"""

from __future__ import annotations

from random import Random

import torch
from cases import given, leaves, random_potentials, to_device
from enumeration import Tilings
from families import LARGEST, compiled, enlarged
from torch import Tensor

from hf_semicrf import ops
from hf_semicrf.ops import Potentials

SIZES = [(5, 3, 2), (4, 4, 3), (7, 2, 2), (6, 1, 3)]  # positions, longest segment, types
SENTENCES = {"cpu": 2, "cuda": 1 << 13}  # in a batch; the interpreter is slow
BATCHES = {"cpu": 1, "cuda": 4}  # for each of SIZES: 131,072 sentences in all


def two_sums(terms: Tensor) -> Tensor:
    """Sums along the last axis in twice float64's precision [..., 2]: high part, low part."""
    high, low = terms[..., 0], torch.zeros_like(terms[..., 0])
    for n in range(1, terms.shape[-1]):
        term = terms[..., n]
        total = high + term
        part = total - high
        low = low + ((high - (total - part)) + (term - part))
        high = total
    total = high + low
    return torch.stack([total, low - (total - high)], -1)


class Crowd:
    """Sentences of one length, and what follows from all of their segmentations."""

    def __init__(self, p: Potentials):
        batch, positions, longest, types = p.sizes
        self.p, self.tilings = p, Tilings(positions, longest, types)
        device = p.lengths.device
        scores = torch.zeros(batch, self.tilings.zero + 1, dtype=torch.float64, device=device)
        for name, x in given(p).items():
            scores[:, self.tilings.slices[name]] = (
                x.double().reshape(batch, -1)
                if len(x) == batch and x.ndim > 2
                else x.double().ravel()
            )
        self.places = torch.from_numpy(self.tilings.places).to(device)
        self.sums = two_sums(scores[:, self.places])  # [B, Y, 2]
        best = self.sums[..., 0].argmax(1, keepdim=True)
        self.best = self.sums.gather(1, best[..., None].expand(-1, -1, 2))
        difference = self.sums - self.best
        self.below = difference[..., 0] + difference[..., 1]  # the best score [B, Y]
        self.log_total = self.below.logsumexp(1)
        self.log_z = self.best[:, 0, 0] + self.log_total
        self.chances = self.below.softmax(1)

    def counts(self, weights: Tensor) -> dict[str, Tensor]:
        """Sums over segmentations, weighed [B, Y], of how often each score is used [B, ...]."""
        used = weights.new_zeros(len(weights), self.tilings.zero + 1)
        for m in range(self.places.shape[1]):
            used.index_add_(1, self.places[:, m], weights)
        return {
            name: used[:, place].unflatten(1, self.tilings.shapes[name])
            for name, place in self.tilings.slices.items()
        }

    def tags(self) -> tuple[Tensor, Tensor]:
        """Every segmentation as labels and starts [Y, N]."""
        count, positions = len(self.places), self.p.sizes[1]
        labels = torch.zeros(count, positions, dtype=torch.long)
        starts = torch.zeros(count, positions, dtype=torch.bool)
        for y, segments in enumerate(self.tilings.segmentations):
            for begin, length, kind in segments:
                labels[y, begin : begin + length], starts[y, begin] = kind, True
        return labels.to(self.places.device), starts.to(self.places.device)


def crowd(random: Random, device: str, sizes: tuple[int, int, int], large: bool) -> Potentials:
    """A batch in float32, with holes or scores of any size in its own tensors or the shared."""
    positions, longest, types = sizes
    batch = SENTENCES[device]
    fields = [name for name in ("emission", "segment", "start", "end") if random.random() < 0.6]
    p = random_potentials(
        [positions] * batch, longest, types, positions, fields or ["emission"],
        seed=random.getrandbits(40),
    ).map(Tensor.float)  # fmt: skip
    if large:
        name = random.choice(list(given(p)))
        p = p._replace(**{name: enlarged(getattr(p, name), random)})
    return to_device(p, device)


def near(name: str, found: Tensor, expected: Tensor, limit: float | Tensor) -> None:
    """Compare; infinities must be the same."""
    found = found.double()
    right = (found == expected) | ((found - expected).abs() <= limit + 1e-6 * expected.abs())
    assert bool(right.all()), f"{name}: {found[~right][:4]}, expected {expected[~right][:4]}"


def agrees_with_all_segmentations(number: int, device: str) -> None:
    """Log Z, its gradient, the loss and the best path of every sentence of some batches."""
    for batch in range(BATCHES[device]):
        random = Random(f"crowd {number} {batch}")
        p = crowd(random, device, SIZES[number], large=batch % 2 == 1 or device == "cpu")
        truth = Crowd(p)
        largest = max(float(torch.where(x.isfinite(), x.abs(), 0).max()) for x in given(p).values())
        slack = 1e-5 + 40 * largest * 2**-50
        leaf = leaves(p)
        with compiled():  # NaN where the CPU would raise
            log_z = ops.log_partition(leaf, backend="triton")
        told = log_z.isfinite()
        assert bool((told | (largest > LARGEST)).all()), "NaN for scores that float64 tells apart"
        near("log Z", log_z[told], truth.log_z[told], slack)
        counts = truth.counts(truth.chances * told[:, None])
        scores = given(leaf)
        total = torch.where(told, log_z, 0).sum()
        for (name, x), slope in zip(
            scores.items(), torch.autograd.grad(total, list(scores.values())), strict=True
        ):
            own = counts[name].shape == x.shape
            expected = counts[name] if own else counts[name].sum(0)
            where = told if own else slice(None)
            near(f"gradient of {name}", slope[where], expected[where], 1e-5)
        labels, starts = truth.tags()
        chosen = torch.randint(len(labels), told.shape, generator=torch.Generator().manual_seed(1))
        chosen = chosen.to(told.device)
        with compiled():
            nll = ops.negative_log_likelihood(p, labels[chosen], starts[chosen], backend="triton")
            score, found, opened = ops.viterbi(p, backend="triton")
        loss = truth.log_total - truth.below.gather(1, chosen[:, None])[:, 0]
        near("loss", nll[told], loss[told], slack)
        told = found[:, 0] >= 0
        assert bool((told | (largest > LARGEST)).all()), "no path for scores that are told apart"
        key = (found[:, None] == labels).all(-1) & (opened[:, None] == starts).all(-1)
        assert bool(key.any(1)[told].all()), "no such segmentation"
        below = truth.below.gather(1, key.int().argmax(1)[:, None])[:, 0]
        near("best path", below[told], torch.zeros_like(below[told]), slack)
        near("best score", score[told], truth.best[told, 0, 0], slack)


def everything(p: Potentials) -> list[Tensor]:
    """What the kernels compute of a batch."""
    leaf = leaves(p)
    score, labels, starts = ops.viterbi(p, backend="triton")
    nll = ops.negative_log_likelihood(leaf, labels, starts, backend="triton")
    gradient = torch.autograd.grad(nll.sum(), list(given(leaf).values()))
    entropy = ops.entropy(leaf, backend="triton")
    slopes = torch.autograd.grad(entropy.sum(), list(given(leaf).values()))
    posteriors = ops.marginals(p, segment=True, backend="triton")
    risk = ops.minimum_risk(posteriors.segment, p.lengths, 0.3, "triton")
    drawn = ops.sample(p, 2, torch.Generator().manual_seed(0), backend="triton")
    ranked = ops.k_best(p, 2, backend="triton")
    through = ops.max_marginals(p, backend="triton").token
    found = [score, labels, starts, nll, *gradient, entropy, *slopes, *posteriors, *risk]
    return [x.detach() for x in (*found, *drawn, *ranked, through) if x is not None]


def _ordinary(device: str, seed: int = 0) -> Potentials:
    """A batch like those of training, one sentence of it with large scores."""
    lengths, longest, types = ([60, 33, 7], 9, 5) if device == "cuda" else ([3, 2], 2, 2)
    p = random_potentials(lengths, longest, types, max(lengths), ("emission", "start"), seed=seed)
    p.emission[-1] *= 1e4
    return to_device(p.map(Tensor.float), device)


def same_bits(found: list[Tensor], expected: list[Tensor]) -> bool:
    """Whether all tensors are equal, NaN being NaN."""
    return all(
        torch.equal(torch.nan_to_num(x, 7.0), torch.nan_to_num(y, 7.0))
        if x.is_floating_point()
        else torch.equal(x, y)
        for x, y in zip(found, expected, strict=True)
    )


def gives_the_same_bits(device: str) -> None:
    """A hundred times."""
    p = _ordinary(device)
    expected = everything(p)
    for _ in range(100):
        assert same_bits(everything(p), expected)


def reads_no_memory_that_nobody_wrote(device: str) -> None:
    """Every new tensor full of NaN, or of the largest integer, changes no bit."""
    p = _ordinary(device)
    expected = everything(p)
    algorithms = torch.are_deterministic_algorithms_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        found = everything(p)
    finally:
        torch.use_deterministic_algorithms(algorithms)
        torch.utils.deterministic.fill_uninitialized_memory = filled
    assert same_bits(found, expected)


def shares_a_gpu(device: str) -> None:
    """Two batches on two streams at once give what they give alone."""
    batches = [_ordinary(device, seed) for seed in (1, 2)]
    expected = [everything(p) for p in batches]
    streams = [torch.cuda.Stream() for _ in batches]
    for stream in streams:
        stream.wait_stream(torch.cuda.current_stream())
    for _ in range(20):
        found = []
        for p, stream in zip(batches, streams, strict=True):
            with torch.cuda.stream(stream):
                found.append(everything(p))
        torch.cuda.synchronize()
        assert all(map(same_bits, found, expected))


IN_THE_INTERPRETER = {
    "agrees_with_all_segmentations": (agrees_with_all_segmentations, 1),
    "reads_no_memory_that_nobody_wrote": (reads_no_memory_that_nobody_wrote,),
}
ON_A_GPU = {
    f"agrees_with_all_segmentations: {sizes}": (agrees_with_all_segmentations, number)
    for number, sizes in enumerate(SIZES)
} | {
    check.__name__: (check,)
    for check in (gives_the_same_bits, reads_no_memory_that_nobody_wrote, shares_a_gpu)
}
