"""The PyTorch back end: a factored scan over boundaries, and parallel expectations.

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
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hf_semicrf.ops.potentials import Potentials, reverse, segment_scores

BLOCK_ELEMENTS = 1 << 23  # segment scores held at once by the scan


class State(NamedTuple):
    """What the scan leaves behind at every boundary; index 0 holds prefixes and 1 suffixes.

    The true value is ``tensor[d, b, n, c] + offset[d, b, n]``, in units of the back end; float32
    then holds at any length. Nothing is said of boundaries past a sentence's length.

    Args:
        pre: Log-sum of all prefixes that tile [0, n), entering a type there, and of all suffixes
            that tile [n, length), leaving a type there [2, B, N+1, C].
        alpha: Log-sum of all prefixes that tile [0, n) and end in a type, and of all suffixes that
            tile [n, length) and begin in a type [2, B, N+1, C].
        offset: Shift of both, float64 [2, B, N+1].
    """

    pre: Tensor
    alpha: Tensor
    offset: Tensor


class Expectations(NamedTuple):
    """Expected counts under the distribution, times each sentence's weight: the gradient of log Z.

    R is B, or 1 where the sentences' counts of what they share are added up.

    Args:
        emission: Positions of each type [B, N, C].
        segment: Segments [B, N, L, C], by start and length; empty unless asked for.
        start: Segments that start at n [B, N, C].
        end: Segments whose last position is n [B, N, C].
        shared: Segments of each length [R, L C], then neighbouring types [R, C_src C_dst], first
            types [R, C] and last types [R, C], side by side.
    """

    emission: Tensor
    segment: Tensor
    start: Tensor
    end: Tensor
    shared: Tensor

    def split(self, longest: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Counts of duration [R, L, C], transition [R, C_src, C_dst], initial and final [R, C]."""
        types, rows = self.start.shape[-1], self.shared.shape[0]
        sizes = (longest * types, types * types, types, types)
        duration, transition, initial, final = self.shared.split(sizes, 1)
        return (
            duration.view(rows, longest, types),
            transition.view(rows, types, types),
            initial,
            final,
        )


def log_partition(p: Potentials) -> Tensor:
    """Log-sum over all segmentations, float64 [B]."""
    alpha, _ = _scan([p])
    return _finish(p, alpha)


def scan(p: Potentials) -> tuple[Tensor, State]:
    """Log-sum over all segmentations, float64 [B], and both directions' state."""
    batch, positions, _, types = p.sizes
    alpha, pre = _scan([p, reverse(p)])
    log_z = _finish(p, alpha[:, :batch])
    mirrored = p.lengths - torch.arange(positions + 1, device=p.lengths.device)[:, None]
    index = mirrored.clamp(min=0)[..., None].expand(positions + 1, batch, types)

    def by_boundary(x: Tensor) -> Tensor:
        suffixes = x[:, batch:].gather(0, index).masked_fill(mirrored[..., None] < 0, -torch.inf)
        return torch.stack([x[:, :batch].transpose(0, 1), suffixes.transpose(0, 1)])

    alpha, pre = by_boundary(alpha), by_boundary(pre)
    offset = torch.maximum(alpha, pre).amax(-1)
    offset = torch.where(offset.isfinite(), offset, 0)
    dtype = p.duration.dtype
    return log_z, State(
        (pre - offset[..., None]).to(dtype), (alpha - offset[..., None]).to(dtype), offset
    )


def _finish(p: Potentials, alpha: Tensor) -> Tensor:
    """Log Z from the prefixes that reach each sentence's end."""
    rows = torch.arange(len(p.lengths), device=p.lengths.device)
    return torch.logsumexp(alpha[p.lengths, rows] + p.final, -1)


def _scan(directions: list[Potentials]) -> tuple[Tensor, Tensor]:
    """Log-sums over prefixes, the rows of every direction side by side: alpha and pre [N+1, R, C].

    In float64, like all that follows it: no value needs an offset.
    """
    transition = torch.stack([p.transition for p in directions]).double().cpu()
    level, centred = zip(*(_centre(p) for p in directions), strict=True)
    alpha, buffer = _empty(directions)
    for block, scores, inside in _blocks(centred):
        steps = _safe_steps(scores, inside, transition)
        if steps < 4:
            _steps(_log_sum, buffer[block], alpha[block], scores, transition)
        else:
            _product_steps(buffer[block], alpha[block], scores, transition, steps)
    above = torch.cat(level, 1)[..., None]
    return alpha.to(above.device) + above, buffer[-len(alpha) :].to(above.device) + above


def _centre(p: Potentials) -> tuple[Tensor, Potentials]:
    """Take the best emission off each position: its sum up to each boundary [N+1, B], and the rest.

    Every segmentation loses the same, so that the numbers that follow stay small.
    """
    batch, positions, _, _ = p.sizes
    if p.emission is None:
        return p.lengths.new_zeros(positions + 1, batch, dtype=torch.float64), p
    top = p.emission.amax(-1, keepdim=True)
    top = torch.where(top.isfinite(), top, 0)
    level = torch.nn.functional.pad(top[..., 0].T.double().cumsum(0), (0, 0, 1, 0))
    return level, p._replace(emission=p.emission - top)


def _empty(directions: list[Potentials]) -> tuple[Tensor, Tensor]:
    """Alpha [N+1, R, C] and pre [L+N, R, C], which starts with what lies before boundary 0."""
    batch, positions, longest, types = directions[0].sizes
    shape = (longest + positions, len(directions) * batch, types)
    buffer = torch.full(shape, -torch.inf, dtype=torch.float64)
    buffer[longest - 1] = torch.cat([p.initial.expand(batch, types) for p in directions])
    return torch.full_like(buffer[longest - 1 :], -torch.inf), buffer


def _blocks(directions: Sequence[Potentials]) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Blocks of boundaries: a block's windows, scores [T, L, R, C] by end, and what is inside.

    The longest segment comes first, as in the window. Past a sentence's length all is -inf.
    """
    batch, positions, longest, types = directions[0].sizes
    rows, lengths = len(directions) * batch, directions[0].lengths
    size = max(longest, BLOCK_ELEMENTS // (rows * longest * types))
    for first in range(0, positions, size):
        last = min(first + size, positions)
        out = lengths.new_full((last - first, longest, rows, types), -torch.inf, dtype=torch.double)
        for d, p in enumerate(directions):
            columns = slice(d * batch, (d + 1) * batch)
            for extra, (lo, score) in enumerate(segment_scores(p, first, last)):
                out[lo - first :, longest - 1 - extra, columns] = score.transpose(0, 1)
        inside = torch.arange(first, last, device=lengths.device)[:, None] < lengths
        inside = inside.repeat(1, len(directions))
        out.masked_fill_(~inside[:, None, :, None], -torch.inf)
        yield slice(first, last + longest), out.cpu(), inside.cpu()


def _log_sum(x: np.ndarray, axis: int, out: np.ndarray) -> None:
    """Log-sum-exp that takes -inf alone for what it is."""
    top = x.max(axis, keepdims=True)
    top = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        np.add(np.log(np.exp(x - top).sum(axis)), top.squeeze(axis), out=out)


def _steps(
    reduce: Callable[..., object],
    buffer: Tensor,
    alpha: Tensor,
    scores: Tensor,
    transition: Tensor,
) -> None:
    """The recurrence as it stands, for :func:`_log_sum` or the maximum."""
    count, longest, rows, types = scores.shape
    shape = (-1, len(transition), rows // len(transition), types)
    window, ended, score = (x.numpy().reshape(shape) for x in (buffer, alpha, scores.flatten(0, 1)))
    step = transition.numpy()[:, None]
    for i in range(count):
        segments = window[i : i + longest] + score[i * longest : (i + 1) * longest]
        reduce(segments, axis=0, out=ended[i + 1])
        reduce(ended[i + 1][..., None] + step, axis=-2, out=window[i + longest])


def _product_steps(
    buffer: Tensor, alpha: Tensor, scores: Tensor, transition: Tensor, steps: int
) -> None:
    """The recurrence as matrix products of exponentials, with a new common factor now and then."""
    count, longest, rows, types = scores.shape
    shape = (-1, len(transition), rows // len(transition), types)
    window, sums = buffer.numpy().reshape(shape), alpha.numpy().reshape(shape)
    weights = scores.numpy()
    weights = np.exp(weights, out=weights).reshape(count, longest, *shape[1:])
    kernel = np.exp(transition.numpy())
    product = np.empty((longest, *shape[1:]))
    for first in range(0, count, steps):
        size = min(steps, count - first)
        live = window[first : first + longest]
        base = live.max((0, 3), keepdims=True)
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


def _safe_steps(scores: Tensor, inside: Tensor, transition: Tensor) -> int:
    """For how many steps products of exponentials keep every digit; below 1 where -inf occurs.

    Where each type can follow each other and last one position, a step lets no entry of pre fall
    below the largest of the step before by more than the lowest scores say, nor rise above the
    window by more than the highest do.
    """
    longest, _, types = scores.shape[1:]
    single = torch.where(inside[..., None], scores[:, -1], 0).min()
    low, high = (float(x) for x in transition.aminmax())
    fall = max(0.0, -low) + max(0.0, -float(single))
    rise = max(0.0, high) + max(0.0, float(scores.max())) + math.log(longest * types)
    limit = 500.0  # of 700, where float64's exponentials end
    return int(min(limit / fall - longest if fall else limit, limit / rise if rise else limit))


def expectations(
    p: Potentials,
    log_z: Tensor,
    state: State,
    weight: Tensor,
    gold: tuple[Tensor, Tensor] | None,
    with_segment: bool,
    add_up: bool,
) -> Expectations:
    """Expected counts times ``weight`` [B], less those of a gold segmentation where one is given.

    All positions of all lengths in parallel; memory is O(B N C), and B N L C more for
    ``with_segment``. A sentence that has no legal segmentation (log Z = -inf) expects nothing.

    Args:
        p: Potentials.
        log_z: Log Z, float64 [B].
        state: From :func:`scan`.
        weight: Factor of each sentence [B].
        gold: Labels [B, N], and from :func:`segmentation_score` the ends [B, N].
        with_segment: Whether to count segments by start and length.
        add_up: Whether to add up what the sentences share.
    """
    batch, positions, longest, types = p.sizes
    possible = log_z > -torch.inf
    gold_weight = weight.to(p.duration.dtype)
    weight = torch.where(possible, gold_weight, 0)[:, None]
    log_z = torch.where(possible, log_z, 0)
    start = p.duration.new_zeros(batch, positions, types)
    end = torch.zeros_like(start)
    duration = p.duration.new_zeros(batch, longest, types)
    segment = p.duration.new_zeros((batch, positions, longest, types) if with_segment else (0,))
    inside = torch.arange(positions, device=p.lengths.device) < p.lengths[:, None]
    (pre, post), (prefix_offset, suffix_offset) = state.pre, state.offset

    for extra, (lo, score) in enumerate(segment_scores(p, 0, positions)):
        begins, ends = slice(0, positions - lo), slice(lo, positions)
        shift = prefix_offset[:, begins] + suffix_offset[:, lo + 1 :] - log_z[:, None]
        log_p = pre[:, begins] + score + post[:, lo + 1 :]
        mass = torch.exp(log_p + shift[..., None].to(log_p.dtype)) * weight[..., None]
        mass = torch.where((inside[:, ends] & possible[:, None])[..., None], mass, 0)
        start[:, begins] += mass
        end[:, ends] += mass
        duration[:, extra] = mass.sum(1)
        if with_segment:
            segment[:, begins, extra] = mass

    opened = start.to(torch.float64, copy=True)
    opened[:, 1:] -= end[:, :-1]
    sign = weight[..., None].sign()  # rounding must not change it
    emission = ((opened.cumsum(1) * sign).clamp_(min=0) * sign * inside[..., None]).to(start.dtype)
    if p.emission is not None:  # starts less ends need not cancel to the last bit
        emission.masked_fill_(p.emission == -torch.inf, 0)
    transition = _expected_transitions(p, log_z, state) * weight[..., None]
    if gold is not None:
        counts = (emission, segment, start, end, duration, transition)
        _subtract(counts, gold, inside, gold_weight)
    last = (p.lengths - 1)[:, None, None].expand(batch, 1, types)
    shared = (duration, transition, start[:, 0], end.gather(1, last))
    rows = torch.cat([x.flatten(1) for x in shared], 1)
    return Expectations(
        emission, segment, start, end, rows.sum(0, keepdim=True) if add_up else rows
    )


def _subtract(
    counts: tuple[Tensor, ...], gold: tuple[Tensor, Tensor], inside: Tensor, weight: Tensor
) -> None:
    """Take one segmentation's counts, times a weight [B], off in place."""
    emission, segment, start, end, duration, transition = counts
    labels, ends = gold
    batch, positions, types = start.shape
    longest = duration.shape[1]
    labels = torch.where(inside, labels, 0)
    weight = weight[:, None].expand(batch, positions)
    closes = ends > 0
    opens = torch.nn.functional.pad(closes, (1, 0), value=True)[:, :-1] & inside
    extra = (ends - 1).clamp(0, longest - 1)
    scored = closes & (ends <= longest)

    def take(count: Tensor, index: Tensor, where: Tensor) -> None:
        count.flatten(1).scatter_add_(1, index, -weight[:, : index.shape[1]] * where)

    at = torch.arange(positions, device=labels.device) * types + labels
    take(emission, at, inside)
    take(start, at, opens)
    take(end, at, closes)
    take(duration, extra * types + labels, scored)
    take(transition, labels[:, :-1] * types + labels[:, 1:], opens[:, 1:])
    if segment.numel():
        begin = (torch.arange(positions, device=labels.device) - extra).clamp(min=0)
        take(segment, (begin * longest + extra) * types + labels, scored)


def _expected_transitions(p: Potentials, log_z: Tensor, state: State) -> Tensor:
    """Expected neighbouring types [B, C_src, C_dst], in blocks of positions."""
    batch, positions, _, types = p.sizes
    out = p.transition.new_zeros(batch, types, types)
    size = max(1, BLOCK_ELEMENTS // (batch * types * types))
    for first in range(1, positions, size):
        n = slice(first, min(first + size, positions))
        shift = state.offset[:, :, n].sum(0) - log_z[:, None]
        left = state.alpha[0, :, n] + shift[..., None].to(out.dtype)
        log_p = left[..., :, None] + p.transition + state.alpha[1, :, n, None, :]
        inner = torch.arange(positions, device=p.lengths.device)[n] < p.lengths[:, None]
        out += torch.where(inner[..., None, None], log_p.exp(), 0).sum(1)
    return out


def bounds(starts: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What lies inside each sentence, where each position's segment begins, and where one ends."""
    n = torch.arange(starts.shape[1], device=starts.device)
    inside = n < lengths[:, None]
    following = torch.nn.functional.pad(starts, (0, 1))[:, 1:]
    ends = inside & (following | (n + 1 == lengths[:, None]))
    return inside, torch.where(starts & inside, n, 0).cummax(1).values, ends


def segmentation_score(p: Potentials, labels: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
    """Score of a checked segmentation, float64 [B], and the ends [B, N].

    An end is the length of the segment whose last position this is; 0 where none ends.
    """
    _, positions, longest, types = p.sizes
    inside, begin, ends = bounds(starts, p.lengths)
    labels, starts = torch.where(inside, labels, 0).long(), starts & inside
    n = torch.arange(positions, device=labels.device)
    length = n - begin  # less one

    def at(scores: Tensor) -> Tensor:
        return scores.gather(2, labels[..., None])[..., 0]

    short = length < longest
    clipped = length.clamp(max=longest - 1)
    terms = torch.where(ends, torch.where(short, p.duration[clipped, labels], -torch.inf), 0)
    if p.emission is not None:
        terms = terms + torch.where(inside, at(p.emission), 0)
    if p.start is not None:
        terms = terms + torch.where(starts, at(p.start), 0)
    if p.end is not None:
        terms = terms + torch.where(ends, at(p.end), 0)
    if p.segment is not None:
        index = (begin * longest + clipped) * types + labels
        terms = terms + torch.where(ends, p.segment.flatten(1).gather(1, index), 0)
    step = p.transition[labels[:, :-1], labels[:, 1:]]
    edges = torch.where(starts[:, 1:], step, 0).sum(1, dtype=torch.float64)
    last = labels.gather(1, p.lengths[:, None] - 1)[:, 0]
    boundary = p.initial[labels[:, 0]].double() + p.final[last].double()
    score = terms.sum(1, dtype=torch.float64) + edges + boundary
    return score, torch.where(ends, length + 1, 0).int()


def best(p: Potentials) -> tuple[Tensor, Tensor]:
    """The highest-scoring segmentation: labels [B, N] and starts [B, N].

    Ties go to the shorter segment and the lower type.
    """
    batch, positions, longest, types = p.sizes
    transition, lengths = p.transition.double().cpu()[None], p.lengths.cpu()
    alpha, buffer = _empty([p])
    extra = np.zeros(alpha.shape, dtype=np.int64)  # lengths less one
    for block, scores, _ in _blocks([p]):
        _steps(np.maximum.reduce, buffer[block], alpha[block], scores, transition)
        windows = scores.add_(buffer[block][:-1].unfold(0, longest, 1).permute(0, 3, 1, 2))
        extra[block][1 : len(scores) + 1] = windows.numpy()[:, ::-1].argmax(1)
    # a state is (boundary, type of the segment that ends there); follow each to the state before
    begins = np.arange(positions + 1)[:, None, None] - extra - 1
    begins = begins.clip(min=0)  # [N+1, B, C]
    size = max(1, BLOCK_ELEMENTS // (batch * types * types))
    scored = (x[..., None] + transition for x in alpha.split(size))
    source = np.concatenate([x.numpy().argmax(-2) for x in scored])
    previous = begins * types + np.take_along_axis(source, begins, 0)
    final = alpha[lengths, torch.arange(batch)] + p.final.cpu()
    states = (lengths * types + final.argmax(-1)).tolist()
    paths = [_walk(previous[:, b].ravel().tolist(), state, types) for b, state in enumerate(states)]
    longest_path = max(map(len, paths))
    padded = [path + [0] * (longest_path - len(path)) for path in paths]
    path = torch.tensor(padded, device=p.lengths.device)
    return _mark(path // types, path % types, positions, p.lengths)


def _walk(previous: list[int], state: int, types: int) -> list[int]:
    """The states from the last one back to boundary 0, whose states are the first ``types``."""
    path = [state]
    while state >= types:
        state = previous[state]
        path.append(state)
    return path


def _mark(boundaries: Tensor, types: Tensor, positions: int, lengths: Tensor) -> tuple:
    """Labels and starts [B, N] from each sentence's boundaries, last first, down to 0 [B, J]."""
    begins, ends = boundaries[:, 1:], boundaries[:, :-1]
    real = ends > 0
    target = torch.where(real, begins, positions)  # a column past the end takes what is unused
    starts = torch.zeros(len(lengths), positions + 1, dtype=torch.bool, device=lengths.device)
    starts.scatter_(1, target, True)
    labels = torch.zeros_like(starts, dtype=torch.long).scatter_(1, target, types[:, :-1])
    starts, labels = starts[:, :positions].contiguous(), labels[:, :positions]
    n = torch.arange(positions, device=lengths.device)
    labels = labels.gather(1, torch.where(starts, n, 0).cummax(1).values)
    return labels.masked_fill(n >= lengths[:, None], -1), starts
