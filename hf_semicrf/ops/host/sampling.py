"""Exact samples: one scan, then a walk back that draws every segment from its posterior.

Where a segment of type c ends at boundary e, its start is drawn, and then the type before it:

    p(s | e, c)  = exp(pre[s, c] + seg(s, e, c) - alpha[e, c])
    p(c' | s, c) = exp(alpha[s, c'] + transition[c', c] - pre[s, c])

The uniform random numbers are an argument, two a position, so that a generator alone decides what
is drawn, on either back end.

Source: Scott (2002), "Bayesian Methods for Hidden Markov Models", section 2.1, for segments.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hf_semicrf.ops.host.boundaries import log_sums
from hf_semicrf.ops.host.magnitude import prepare_for
from hf_semicrf.ops.host.scan import BLOCK_ELEMENTS
from hf_semicrf.ops.potentials import Potentials, scores_by_end
from hf_semicrf.ops.registry import implementation, operation, split_potentials
from hf_semicrf.ops.segmentations import spread_labels


def sample(p: Potentials, uniform: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    """Draw samples: labels and starts [n, B, N]; -1 and False where none is legal or told apart.

    Args:
        p: Potentials.
        uniform: Numbers in [0, 1), float64 [2, n, B, N]: for the length of a segment by its last
            position, and for its type.
        backend: "torch" or "triton".
    """
    return _sample(*p, uniform, backend)


@operation(2, "Tensor uniform", "str backend")
def _sample(*inputs):
    p, (uniform, backend) = split_potentials(inputs)
    prepared = prepare_for(backend, p)
    p = prepared.potentials
    sums = log_sums(p, backend)
    # nothing is drawn where nothing is possible, or known
    known = (prepared.told(sums.log_z) > -torch.inf)[:, None, None]
    alpha = torch.where(known, sums.alpha, -torch.inf)
    return implementation(backend, "sampling").walk(p, sums.pre, alpha, uniform)


@_sample.register_fake
def _(*args):
    uniform = args[-2]
    shape = uniform.shape[1:]
    return uniform.new_empty(shape, dtype=torch.long), uniform.new_empty(shape, dtype=torch.bool)


def walk(p: Potentials, pre: Tensor, alpha: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Draw segments from the last one to the first, all samples of all sentences side by side.

    O(J (L + C)) a sample of J segments, after O(B N L C) to prepare; in blocks of positions.
    """
    batch, positions, longest, types = p.sizes
    _, samples, _, _ = uniform.shape
    uniform_length, uniform_type = uniform.flatten(1, 2)  # [n B, N]
    walker = torch.arange(samples * batch, device=uniform.device)
    b = walker % batch
    stop = p.lengths[b]
    # [n B, C]
    last = alpha[b, stop] + p.final
    labels = torch.full((samples * batch, positions), -1, device=uniform.device)
    starts = torch.zeros_like(labels, dtype=torch.bool)
    label = _choose(_running_sums(last), uniform_type[walker, stop - 1])
    stop = torch.where((last > -torch.inf).any(-1), stop, 0)
    size = max(1, BLOCK_ELEMENTS // (batch * longest * types))
    for first in reversed(range(0, positions, size)):
        beyond = min(first + size, positions)
        # [B, T, L, C]
        scores = scores_by_end(p, first, beyond)
        for d in range(min(longest, beyond)):
            lo = max(first, d)
            scores[:, lo - first :, d] += pre[:, lo - d : beyond - d]
        sums = _running_sums(scores.transpose(2, 3))  # [B, T, C, L]
        while len(walker := (stop > first).nonzero()[:, 0]):
            # [w] each, for w samples that have segments left in the block
            end, kind, at = stop[walker], label[walker], walker % batch
            # [w, L]
            ways = sums[at, end - 1 - first, kind]
            begin = end - 1 - _choose(ways, uniform_length[walker, end - 1])
            labels[walker, begin] = kind
            starts[walker, begin] = True
            # [w, C]
            before = alpha[at, begin] + p.transition[:, kind].T
            previous = (begin - 1).clamp(min=0)
            label[walker] = _choose(_running_sums(before), uniform_type[walker, previous])
            stop[walker] = begin
    shape = (samples, batch, positions)
    labels, starts = labels.view(shape), starts.view(shape)
    return spread_labels(labels, starts, p.lengths), starts


def _running_sums(scores: Tensor) -> Tensor:
    """Sum the first 1, 2, ... weights along the last axis, up to a common factor."""
    top = scores.amax(-1, keepdim=True)
    return (scores - torch.where(top.isfinite(), top, 0)).exp().cumsum(-1)


def _choose(sums: Tensor, uniform: Tensor) -> Tensor:
    """Choose the first entry whose running sum exceeds a uniform share of the total."""
    total = sums[..., -1:]
    return ((sums <= uniform[..., None] * total) & (sums < total)).sum(-1)
