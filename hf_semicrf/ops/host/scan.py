"""The scan over boundaries on the host: log Z, and the state of both directions.

The transition does not depend on the duration, so the source type is reduced once a boundary:

    pre[s, c]   = logsumexp_{c'} alpha[s, c'] + transition[c', c]        (pre[0] = initial)
    alpha[e, c] = logsumexp_{d<=L} pre[e-d, c] + seg(e-d, e, c)

in O(N (L C + C^2)) instead of O(N L C^2). The suffix recurrence (``post``, ``beta``) is the same
one on the reversed sentence, and runs as more rows of the same loop. With both, every marginal is

    p(s, e, c) = exp(pre[s, c] + seg(s, e, c) + post[e, c] - log Z)

and no step of the backward pass waits for another.

A step of the loop costs what its calls cost, not its arithmetic. So it runs in NumPy, on the host,
whose calls cost a quarter of PyTorch's, and without logarithms where the scores allow it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from hf_semicrf.ops.forward_backward import State
from hf_semicrf.ops.host.magnitude import prepare
from hf_semicrf.ops.potentials import Potentials, reverse, segment_scores

BLOCK_ELEMENTS = 1 << 23  # segment scores held at once by the scan


def log_partition(p: Potentials) -> Tensor:
    """Sum over all segmentations: log Z in nats, float64 [B]."""
    prepared = prepare(p)
    # [N + 1, B, C]
    alpha, _ = _scan([prepared.potentials])
    return prepared.told(_log_z(prepared.potentials, alpha)) + prepared.level


def scan(p: Potentials) -> tuple[Tensor, State]:
    """Sum over all segmentations: log Z in nats, float64 [B], and both directions' state.

    The state is that of the potentials as :func:`magnitude.prepare` returns them, in float64.
    """
    prepared = prepare(p)
    p = prepared.potentials
    batch, positions, _, types = p.sizes
    # [N + 1, 2 B, C] each: the prefixes of the sentences, then those of the reversed sentences
    alpha, pre = _scan([p, reverse(p)])
    log_z = prepared.told(_log_z(p, alpha[:, :batch]))
    # boundary n of a sentence is boundary length - n of the reversed one [N + 1, B]
    mirrored = p.lengths - torch.arange(positions + 1, device=p.lengths.device)[:, None]
    # [N + 1, B, C]
    index = mirrored.clamp(min=0)[..., None].expand(positions + 1, batch, types)

    def by_boundary(x: Tensor) -> Tensor:
        suffixes = x[:, batch:].gather(0, index).masked_fill(mirrored[..., None] < 0, -torch.inf)
        # [2, B, N + 1, C]
        return torch.stack([x[:, :batch].transpose(0, 1), suffixes.transpose(0, 1)])

    offset = log_z.new_zeros(2, batch, positions + 1)
    total = torch.stack([log_z, torch.ones_like(log_z)], -1)
    state = State(by_boundary(pre), by_boundary(alpha), offset, total)
    return log_z + prepared.level, state


def _log_z(p: Potentials, alpha: Tensor) -> Tensor:
    """Sum the prefixes alpha [N + 1, B, C] that reach each sentence's end [B]."""
    rows = torch.arange(len(p.lengths), device=p.lengths.device)
    # [B, C] to [B]
    return torch.logsumexp(alpha[p.lengths, rows] + p.final, -1)


def _scan(directions: list[Potentials]) -> tuple[Tensor, Tensor]:
    """Sum over prefixes: alpha and pre [N + 1, R, C], the R rows of every direction side by side.

    In float64, like all that follows it: no value needs an offset.
    """
    # [D, C, C] for D directions
    transition = torch.stack([p.transition for p in directions]).cpu()
    alpha, buffer = empty_state(directions)
    for block, scores, inside in score_blocks(directions):
        steps = _safe_steps(buffer[block][scores.shape[1] - 1], scores, inside, transition)
        if steps < 4:
            take_steps(log_sum, buffer[block], alpha[block], scores, transition)
        else:
            _product_steps(buffer[block], alpha[block], scores, transition, steps)
    device = directions[0].lengths.device
    return alpha.to(device), buffer[-len(alpha) :].to(device)


def empty_state(directions: list[Potentials]) -> tuple[Tensor, Tensor]:
    """Allocate alpha [N + 1, R, C], and pre [L + N, R, C] from L - 1 places before boundary 0."""
    batch, positions, longest, types = directions[0].sizes
    shape = (longest + positions, len(directions) * batch, types)
    buffer = torch.full(shape, -torch.inf, dtype=torch.float64)
    buffer[longest - 1] = torch.cat([p.initial.expand(batch, types) for p in directions])
    return torch.full_like(buffer[longest - 1 :], -torch.inf), buffer


def score_blocks(directions: Sequence[Potentials]) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Score the segments of every direction in blocks of T boundaries, as they fit in memory.

    Yields:
        The places of a block's windows in the state, the scores of segments by their end
        [T, L, R, C] float64, the longest first as in a window, and whether a row's sentence reaches
        the position [T, R] bool; -inf where it does not.
    """
    batch, positions, longest, types = directions[0].sizes
    rows, lengths = len(directions) * batch, directions[0].lengths
    size = max(longest, BLOCK_ELEMENTS // (rows * longest * types))
    for first in range(0, positions, size):
        last = min(first + size, positions)
        shape = (last - first, longest, rows, types)
        scores = lengths.new_full(shape, -torch.inf, dtype=torch.double)
        for direction, p in enumerate(directions):
            columns = slice(direction * batch, (direction + 1) * batch)
            for d, (lo, score) in enumerate(segment_scores(p, first, last)):
                # [B, last - lo, C] to [last - lo, B, C]
                scores[lo - first :, longest - 1 - d, columns] = score.transpose(0, 1)
        # [T, B], then [T, R]
        inside = torch.arange(first, last, device=lengths.device)[:, None] < lengths
        inside = inside.repeat(1, len(directions))
        scores.masked_fill_(~inside[:, None, :, None], -torch.inf)
        yield slice(first, last + longest), scores.cpu(), inside.cpu()


def log_sum(x: np.ndarray, axis: int, out: np.ndarray) -> None:
    """Write log(sum(exp(x))) along an axis; -inf where all of it is -inf."""
    top = x.max(axis, keepdims=True)
    top = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        np.add(np.log(np.exp(x - top).sum(axis)), top.squeeze(axis), out=out)


def take_steps(
    reduce: Callable[..., object],
    buffer: Tensor,
    alpha: Tensor,
    scores: Tensor,
    transition: Tensor,
) -> None:
    """Take the steps of a block as the recurrence stands, with a log-sum or a maximum.

    Args:
        reduce: :func:`log_sum` or ``np.maximum.reduce``.
        buffer: pre of the block, from L - 1 boundaries before it on [L + T, R, C]; written.
        alpha: Of the block's boundaries [1 + T, R, C]; written from the second on.
        scores: Of the segments, by end [T, L, R, C].
        transition: Of each direction [D, C, C].
    """
    count, longest, rows, types = scores.shape
    # R is cut into D directions of B sentences
    shape = (-1, len(transition), rows // len(transition), types)
    window, ended, score = (x.numpy().reshape(shape) for x in (buffer, alpha, scores.flatten(0, 1)))
    step = transition.numpy()[:, None]  # [D, 1, C, C]
    for i in range(count):
        # [L, D, B, C], reduced to [D, B, C]
        segments = window[i : i + longest] + score[i * longest : (i + 1) * longest]
        reduce(segments, axis=0, out=ended[i + 1])
        # [D, B, C_src, C_dst], reduced to [D, B, C_dst]
        reduce(ended[i + 1][..., None] + step, axis=-2, out=window[i + longest])


def _product_steps(
    buffer: Tensor, alpha: Tensor, scores: Tensor, transition: Tensor, steps: int
) -> None:
    """Take the steps of a block as matrix products of exponentials.

    As :func:`take_steps` with a log-sum; a new common factor every ``steps`` steps keeps the
    products within float64's range. Overwrites the scores.
    """
    count, longest, rows, types = scores.shape
    shape = (-1, len(transition), rows // len(transition), types)
    window, sums = buffer.numpy().reshape(shape), alpha.numpy().reshape(shape)
    weights = scores.numpy()
    # [T, L, D, B, C]
    weights = np.exp(weights, out=weights).reshape(count, longest, *shape[1:])
    kernel = np.exp(transition.numpy())  # [D, C_src, C_dst]
    product = np.empty((longest, *shape[1:]))
    for first in range(0, count, steps):
        size = min(steps, count - first)
        live = window[first : first + longest]  # [L, D, B, C]
        base = live.max((0, 3), keepdims=True)  # [1, D, B, 1]
        base = np.where(np.isfinite(base), base, 0.0)
        entered, ended = np.empty((longest + size, *shape[1:])), np.empty((size, *shape[1:]))
        np.exp(live - base, out=entered[:longest])
        for i in range(size):
            np.multiply(entered[i : i + longest], weights[first + i], out=product)
            np.add.reduce(product, 0, out=ended[i])
            np.matmul(ended[i], kernel, out=entered[i + longest])
        with np.errstate(divide="ignore"):
            sums[first + 1 : first + 1 + size] = np.log(ended) + base
            window[first + longest : first + longest + size] = np.log(entered[longest:]) + base


def _safe_steps(pre: Tensor, scores: Tensor, inside: Tensor, transition: Tensor) -> int:
    """Count the steps for which products of exponentials keep every digit; below 1 with -inf.

    Where each type can follow each other and last one position, a step lets no entry of pre fall
    below the largest of the step before by more than the lowest scores say, nor rise above the
    window by more than the highest do. The first pre [R, C] may lie as far apart as it likes.
    """
    longest, _, types = scores.shape[1:]
    single = torch.where(inside[..., None], scores[:, -1], 0).min()
    low, high = (float(x) for x in transition.aminmax())
    # max() keeps a NaN that comes first
    fall = max(-low, 0.0) + max(-float(single), 0.0)
    rise = max(high, 0.0) + max(float(scores.max()), 0.0) + math.log(longest * types)
    if not math.isfinite(fall + rise):
        return 0
    known = pre.isfinite()
    apart = pre.where(known, -torch.inf).amax(-1) - pre.where(known, torch.inf).amin(-1)
    # 700 is where float64's exponentials end
    limit = 500.0 - max(float(apart.max()), 0.0)
    return int(min(limit / fall - longest if fall else limit, limit / rise if rise else limit))
