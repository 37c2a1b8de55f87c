"""The dense recurrence on Triton: which kernels run, in which order. Counterpart of scan.py.

All take contiguous `edge` [B, T-1, K, C, C] in nats and `lengths` [B] in 1..T on its device.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from hf_semicrf.ops.kernels import dense_cut, dense_gradient, dense_path, dense_states
from hf_semicrf.ops.kernels.dense_states import Plan


class States(NamedTuple):
    """What the forward pass knows: O(B·T·C).

    Args:
        beta: States of the left side [B, T, C], float64; up to the middle after the forward pass.
        gamma: States of the right side [B, T, C], float64; from the middle on.
        anchors: The last finite maximum of each side [B, 2], float64.
        precise: Whether a sequence was taken in float64 [B] bool.
        nearest: Where the best path crosses the middle [B], int64; [0] in the log semiring.
    """

    beta: Tensor
    gamma: Tensor
    anchors: Tensor
    precise: Tensor
    nearest: Tensor

    @classmethod
    def empty(cls, edge: Tensor, semiring: str) -> States:
        """Room for the states; float32 is where all sequences but those of float64 begin."""
        batch, rows, _, types, _ = edge.shape
        beta = edge.new_empty((batch, rows + 1, types), dtype=torch.float64)
        return cls(
            beta,
            torch.empty_like(beta),
            beta.new_empty((batch, 2)),
            torch.full((batch,), edge.dtype == torch.float64, device=edge.device),
            beta.new_empty(batch if semiring == "max" else 0, dtype=torch.int64),
        )


def plan(edge: Tensor) -> Plan:
    """Choose how edge is cut up on its device."""
    processors = 1
    if edge.is_cuda:
        processors = torch.cuda.get_device_properties(edge.device).multi_processor_count
    batch, rows, size, types, _ = edge.shape
    return dense_states.plan(batch, rows, size, types, processors)


def _passes(edge: Tensor, layout: Plan) -> list[tuple[tl.dtype, Plan]]:
    """The dtypes that sequences are taken in, one after the other; few of them a second time."""
    if edge.dtype == torch.float64:
        return [(tl.float64, layout)]
    few = Plan(edge.shape[1] // 2 + 1, False, 1, layout.outs, layout.wide)
    return [(tl.float32, layout), (tl.float64, few)]


def forward(edge: Tensor, lengths: Tensor, semiring: str, layout: Plan) -> tuple[Tensor, States]:
    """Compute the score [B], float64, and the states up to the middle from both sides.

    The score is NaN where float64 does not tell tilings apart.
    """
    states = States.empty(edge, semiring)
    score = states.beta.new_empty(edge.shape[0])
    with torch.cuda.device_of(edge):
        for acc, cut_up in _passes(edge, layout):
            dense_states.advance(edge, lengths, *states[:4], semiring, 0, cut_up, acc)
            dense_cut.score(
                edge, lengths, *states[:4], semiring, cut_up, acc, score, states.nearest
            )
    return score, states


def gradient(
    edge: Tensor, lengths: Tensor, score: Tensor, states: States, grad_score: Tensor, layout: Plan
) -> Tensor:
    """Multiply grad_score [B] with the edge marginals, after a forward pass in the log semiring.

    Where the score [B] is NaN, so is the gradient.
    """
    beta, gamma, anchors = (x.clone() for x in states[:3])
    passes = _passes(edge, layout)
    with torch.cuda.device_of(edge):
        for acc, cut_up in passes:
            dense_states.advance(
                edge, lengths, beta, gamma, anchors, states.precise, "log", 1, cut_up, acc
            )
        accs = tuple(acc for acc, _ in passes)
        return dense_gradient.marginals(
            edge, lengths, beta, gamma, states.precise, score, grad_score, accs
        )


def path(edge: Tensor, lengths: Tensor, score: Tensor, states: States) -> Tensor:
    """Trace the best path [B, T-1], as of `scan.trace`, after a forward pass in the max semiring.

    Where the score [B] is NaN there is none: -1.
    """
    with torch.cuda.device_of(edge):
        return dense_path.trace(edge, lengths, score, states.beta, states.gamma, states.nearest)
