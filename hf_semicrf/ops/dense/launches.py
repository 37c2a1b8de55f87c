"""The dense recurrence on Triton: which kernels run, in which order. Counterpart of scan.py.

All take contiguous `edge` [B, T-1, K, C, C] in nats and `lengths` [B] in 1..T on its device.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from hf_semicrf.ops.kernels import dense_cut, dense_gradient, dense_path, dense_states
from hf_semicrf.ops.kernels.dense_states import Plan


class States(NamedTuple):
    """What the forward pass knows: O(B·T·C), float64.

    Args:
        beta: States of the left side [B, T, C]; up to the middle after the forward pass.
        gamma: States of the right side [B, T, C]; from the middle on after the forward pass.
        anchors: The last finite maximum of each side [B, 2].
    """

    beta: Tensor
    gamma: Tensor
    anchors: Tensor


def plan(edge: Tensor) -> Plan:
    """Choose how edge is cut up on its device."""
    processors = 1
    if edge.is_cuda:
        processors = torch.cuda.get_device_properties(edge.device).multi_processor_count
    batch, rows, size, types, _ = edge.shape
    return dense_states.plan(batch, rows, size, types, processors)


def forward(edge: Tensor, lengths: Tensor, semiring: str, layout: Plan) -> tuple[Tensor, States]:
    """Compute the score [B], float64, and the states up to the middle from both sides."""
    batch, rows, _, types, _ = edge.shape
    beta = edge.new_empty((batch, rows + 1, types), dtype=torch.float64)
    states = States(beta, torch.empty_like(beta), beta.new_zeros((batch, 2)))
    with torch.cuda.device_of(edge):
        dense_states.advance(edge, lengths, *states, semiring, 0, layout)
        cuts = dense_cut.cut(edge, lengths, *states, semiring, layout)
    return dense_cut.score(cuts, lengths, types, semiring), states


def gradient(
    edge: Tensor, lengths: Tensor, states: States, grad_score: Tensor, layout: Plan
) -> Tensor:
    """Multiply grad_score [B] with the edge marginals, after a forward pass in the log semiring."""
    states = States(*(x.clone() for x in states))
    with torch.cuda.device_of(edge):
        dense_states.advance(edge, lengths, *states, "log", 1, layout)
        return dense_gradient.marginals(edge, lengths, states.beta, states.gamma, grad_score)


def path(edge: Tensor, lengths: Tensor, states: States, layout: Plan) -> tuple[Tensor, Tensor]:
    """Trace the best path after a max forward pass: score [B], path [B, T-1] as of `scan.trace`."""
    with torch.cuda.device_of(edge):
        cuts = dense_cut.cut(edge, lengths, *states, "max", layout)
        best_path = dense_path.trace(edge, lengths, states.beta, states.gamma, cuts)
    return dense_cut.score(cuts, lengths, edge.shape[-1], "max"), best_path
