"""Time what the distribution can tell on a GPU: samples, entropy, marginals of spans, the k best.

    python benchmarks/distribution.py --out FILE --commit "$(git describe --always)"

A run first compares everything with float64 PyTorch and stops where it is wrong. A line of the
output is one measurement, as those of bench.py.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from factored import gradient, potentials, record, table, time_ms, with_gradient
from torch import Tensor

from hf_semicrf import LabelScheme, ops
from hf_semicrf.labels.partial import Known
from hf_semicrf.ops import Potentials

SHAPES = [(32, 512, 16, 9), (64, 1000, 100, 24)]
SAMPLES, SPANS, K = 16, 64, 8


def spans_of(p: Potentials) -> Tensor:
    """Spans of 1 to L positions all over each sentence [B, S, 2]."""
    batch, positions, longest, _ = p.sizes
    index = torch.arange(SPANS, device=p.lengths.device)
    length = index % longest + 1
    begin = (index * 7919) % (positions - longest)
    return torch.stack([begin, begin + length], -1).expand(batch, -1, 2)


def partly_known(p: Potentials) -> Known:
    """IOB2 tags of a drawn segmentation, three in ten of them hidden."""
    types = [f"T{index}" for index in range(1, p.sizes[3])]
    scheme = LabelScheme.from_labels(["O", *(f"{x}-{name}" for name in types for x in "BI")])
    labels, starts = ops.sample(p, 1, torch.Generator().manual_seed(0))
    tags = scheme.decode(labels[0], starts[0])
    hidden = torch.rand(tags.shape, generator=torch.Generator().manual_seed(0)) < 0.3
    return Known.of_tags(scheme, tags.masked_fill(hidden.to(tags.device), -100), p.sizes[2])


def partial_loss(p: Potentials, known: Known, backend: str) -> Tensor:
    """The loss of partly known labels [B], nats."""
    return ops.log_partition_difference(p, known.apply(p), backend=backend)


def calls(p: Potentials, backend: str) -> dict[str, Callable[[], object]]:
    """What is timed, by mode."""
    leaves, spans = with_gradient(p), spans_of(p)
    other, known = p.map(torch.sin), partly_known(p)

    def entropy_and_gradient() -> object:
        return gradient(leaves, ops.entropy(leaves, backend=backend).sum())

    return {
        f"sample, n={SAMPLES}": lambda: ops.sample(p, SAMPLES, backend=backend),
        "entropy": lambda: ops.entropy(p, backend=backend),
        "entropy + gradient": entropy_and_gradient,
        "partly known labels + gradient": lambda: gradient(
            leaves, partial_loss(leaves, known, backend).sum()
        ),
        "KL divergence": lambda: ops.kl_divergence(p, other, backend=backend),
        f"marginals of {SPANS} spans": lambda: ops.segment_marginals(p, spans, backend=backend),
        "marginals": lambda: ops.marginals(p, backend=backend),
        f"k best, k={K}": lambda: ops.k_best(p, K, backend=backend),
        "max-marginals": lambda: ops.max_marginals(p, backend=backend),
    }


def measured(backend: str) -> Iterator[dict]:
    """Every shape, back end and mode; PyTorch by a single call."""
    for shape in SHAPES:
        p = potentials(shape)
        for mode, function in calls(p, backend).items():
            yield {"backend": backend, "mode": mode, "shape": shape} | time_ms(function)
    p = potentials(SHAPES[0])
    for mode, function in calls(p, "torch").items():
        yield {"backend": "torch", "mode": mode, "shape": SHAPES[0]} | time_ms(function, once=True)


def check(p: Potentials, backend: str) -> None:
    """Stop unless the back end agrees with float64 PyTorch on these potentials.

    Raises:
        RuntimeError: It does not.
    """
    exact = p.map(Tensor.double)

    def worst(x: Tensor, y: Tensor) -> float:
        return ((x - y).abs().max() / y.abs().max()).item()

    def with_entropy(p: Potentials, backend: str) -> tuple[Tensor, dict[str, Tensor]]:
        leaves = with_gradient(p)
        entropy = ops.entropy(leaves, backend=backend)
        return entropy.detach(), gradient(leaves, entropy.sum())

    entropy, slopes = with_entropy(p, backend)
    exact_entropy, exact_slopes = with_entropy(exact, "torch")
    spans = spans_of(p)
    known = partly_known(exact)
    of_spans = ops.segment_marginals(exact, spans, backend="torch")
    errors = {
        "entropy": worst(entropy, exact_entropy),
        "partly known labels": worst(
            partial_loss(p, known, backend), partial_loss(exact, known, "torch")
        ),
        "gradient of entropy": max(worst(slopes[k], exact_slopes[k]) for k in slopes),
        "KL divergence": worst(
            ops.kl_divergence(p, p.map(torch.sin), backend=backend),
            ops.kl_divergence(exact, exact.map(torch.sin), backend="torch"),
        ),
        "marginals of spans": worst(ops.segment_marginals(p, spans, backend=backend), of_spans),
    }
    same = all(
        torch.equal(x, y)
        for x, y in zip(
            *(
                ops.sample(exact, 4, torch.Generator().manual_seed(0), backend=name)
                for name in (backend, "torch")
            ),
            strict=True,
        )
    )
    labels, starts = ops.sample(p, 400, torch.Generator().manual_seed(0), backend)
    probability = ops.marginals(exact, backend="torch").start
    types = torch.arange(p.sizes[3], device=labels.device)
    frequency = ((labels[..., None] == types) & starts[..., None]).double().mean(0)
    deviation = (probability * (1 - probability) / len(labels)).sqrt()
    usual = deviation > 0.01
    z = ((frequency - probability)[usual] / deviation[usual]).square().mean().item()
    score, labels, starts = ops.k_best(p, K, backend=backend)
    own = torch.stack(
        [ops.segmentation_score(exact, labels[:, i], starts[:, i]) for i in range(K)], 1
    )
    errors["scores of the k best"] = worst(score, own)
    errors["Viterbi and the best"] = worst(score[:, 0], ops.viterbi(exact, backend="torch")[0])
    found, again, reference = (
        (*ops.k_best(x, K, backend=name), *ops.max_marginals(x, segment=True, backend=name))
        for x, name in ((p, backend), (p, backend), (exact, "torch"))
    )
    errors["max-marginals"] = max(
        worst(x[y.isfinite()], y[y.isfinite()])
        for x, y in zip(found[3:], reference[3:], strict=True)
    )
    same &= all(torch.equal(x, y) for x, y in zip(found[1:3], reference[1:3], strict=True))
    same &= all(torch.equal(x, y) for x, y in zip(found, again, strict=True))
    _, slopes_again = with_entropy(p, backend)
    same &= all(torch.equal(slopes[k], slopes_again[k]) for k in slopes)
    print(f"check {p.sizes}: {', '.join(f'{k} {v:.1e}' for k, v in errors.items())}, "
          f"all that must be equal is: {same}, squared z {z:.3f}", flush=True)  # fmt: skip
    if not (max(errors.values()) < 1e-4 and same and 0.75 < z < 1.25):
        raise RuntimeError(f"wrong at {p.sizes}: nothing was timed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, help="file of JSON lines to append to")
    parser.add_argument("--commit", default="unknown", help="what was measured")
    arguments = parser.parse_args()
    for batch, positions, longest, types in SHAPES:
        p = potentials((min(batch, 4), positions // 2, longest, types), seed=1)
        p.lengths[-1] = positions // 4 + 1
        check(p, "triton")
    print(table(record({"distribution": measured("triton")}, arguments.commit, arguments.out)))


if __name__ == "__main__":
    main()
