"""What other libraries offer of the same operations, as callables to time; for factored.py.

Their packages come from PyPI: flash-semicrf, pytorch-crf and torch-struct.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable

import torch
from torch import Tensor, nn

from hf_semicrf import ops
from hf_semicrf.ops import Potentials

PEERS = ("flash-semicrf", "pytorch-crf", "torch-struct")


def installed(package: str) -> bool:
    """Whether a distribution is there."""
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def flash_semicrf(p: Potentials) -> dict[str, Callable[[], object]]:
    """Its log-partition, that with its gradient, and its Viterbi score (no walk back)."""
    from flash_semicrf import semi_crf_streaming_forward

    longest = p.duration.shape[0]
    sums = torch.nn.functional.pad(p.emission.double().cumsum(1), (0, 0, 1, 0))
    inputs = [sums, p.transition, p.duration, p.start, p.end]
    leaves = [x.detach().clone().requires_grad_() for x in inputs]

    def forward(tensors, semiring) -> Tensor:
        sums, transition, duration, start, end = tensors
        return semi_crf_streaming_forward(
            sums, transition, duration, p.lengths, longest, semiring=semiring,
            proj_start=start, proj_end=end,
        )  # fmt: skip

    return {
        "loss": lambda: forward(inputs, "log"),
        "loss + gradient": lambda: torch.autograd.grad(forward(leaves, "log").sum(), leaves),
        "decode": lambda: forward(inputs, "max"),
    }


def pytorch_crf(p: Potentials, crf_class: type[nn.Module]) -> dict[str, Callable[[], object]]:
    """The linear chain, by pytorch-crf's `CRF` or by ours; its decoding returns lists."""
    crf = crf_class(p.transition.shape[0], batch_first=True).to(p.emission.device)
    tags = torch.zeros(p.emission.shape[:2], dtype=torch.long, device=p.emission.device)
    leaf = p.emission.detach().clone().requires_grad_()
    wanted = [leaf, *crf.parameters()]
    return {
        "loss": lambda: crf(p.emission, tags),
        "loss + gradient": lambda: torch.autograd.grad(crf(leaf, tags), wanted),
        "decode": lambda: crf.decode(p.emission),
    }


def torch_struct(p: Potentials) -> dict[str, Callable[[], object]]:
    """The dense semi-Markov model; memory keeps it to the small shapes."""
    from torch_struct import SemiMarkovCRF

    edge = torch.nn.functional.pad(ops.to_edge(p), (0, 0, 0, 0, 0, 0)).clamp(min=-1e9)
    leaf = edge.detach().clone().requires_grad_()

    def loss(x: Tensor) -> Tensor:
        return SemiMarkovCRF(x, lengths=p.lengths + 1).partition

    return {
        "loss": lambda: loss(edge),
        "loss + gradient": lambda: torch.autograd.grad(loss(leaf).sum(), leaf),
    }
