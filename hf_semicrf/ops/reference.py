"""The PyTorch back end: a factored scan over boundaries, and parallel expectations.

The transition does not depend on the duration, so the source type is reduced once a boundary:

    pre[s, c]   = logsumexp_{c'} alpha[s, c'] + transition[c', c]        (pre[0] = initial)
    alpha[e, c] = logsumexp_{d<=L} pre[e-d, c] + seg(e-d, e, c)

in O(N (L C + C^2)) instead of O(N L C^2). The suffix recurrence (``post``, ``beta``) is the same
one on the reversed sentence, and runs as more rows of the same loop. With both, every marginal is

    p(s, e, c) = exp(pre[s, c] + seg(s, e, c) + post[e, c] - log Z)

and no step of the backward pass waits for another. Every few steps the window that the recurrence
still needs is shifted by its maximum, and the shifts are summed in float64 (``offset``): float32
holds at any length.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from hf_semicrf.ops.potentials import Potentials, reverse, segment_scores

REBASE_EVERY = 16  # steps between shifts of the window
BLOCK_ELEMENTS = 1 << 24  # segment scores held at once by the scan


class State(NamedTuple):
    """What the scan leaves behind at every boundary; index 0 holds prefixes and 1 suffixes.

    The true value is ``tensor[d, b, n, c] + offset[d, b, n]``, in units of the back end. Nothing is
    said of boundaries past a sentence's length.

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
    alpha, _, offset, _ = _scan([p], maximise=False)
    return _finish(p, alpha, offset)


def scan(p: Potentials) -> tuple[Tensor, State]:
    """Log-sum over all segmentations, float64 [B], and both directions' state."""
    batch, positions, _, _ = p.sizes
    alpha, pre, offset, _ = _scan([p, reverse(p)], maximise=False)
    log_z = _finish(p, alpha[:, :batch], offset[:, :batch])
    mirrored = p.lengths - torch.arange(positions + 1, device=p.lengths.device)[:, None]
    beyond, mirrored = mirrored < 0, mirrored.clamp(min=0)

    def by_boundary(x: Tensor) -> Tensor:
        index = mirrored.reshape(mirrored.shape + (1,) * (x.ndim - 2))
        suffixes = x[:, batch:].gather(0, index.expand_as(x[:, batch:]))
        return torch.stack([x[:, :batch].transpose(0, 1), suffixes.transpose(0, 1)])

    beyond = beyond.T[..., None]
    return log_z, State(
        by_boundary(pre).masked_fill(beyond, -torch.inf),
        by_boundary(alpha).masked_fill(beyond, -torch.inf),
        by_boundary(offset),
    )


def _finish(p: Potentials, alpha: Tensor, offset: Tensor) -> Tensor:
    """Log Z from the prefixes that reach each sentence's end."""
    rows = torch.arange(len(p.lengths), device=p.lengths.device)
    return torch.logsumexp(alpha[p.lengths, rows] + p.final, -1) + offset[p.lengths, rows]


def _scan(directions: list[Potentials], maximise: bool) -> tuple[Tensor, Tensor, Tensor, tuple]:
    """Run the recurrence over all boundaries, for the rows of every direction side by side.

    Returns:
        alpha and pre [N+1, R, C], offset float64 [N+1, R], and the choices that were made when
        maximising: the length less one and the source type, each [N+1, R, C].
    """
    batch, positions, longest, types = directions[0].sizes
    transition = torch.stack([p.transition for p in directions])[:, None]  # [D, 1, C, C]
    rows, like = len(directions) * batch, directions[0].duration
    # boundary n is at index n + L - 1 of the window's buffer: what lies before 0 is -inf
    buffer = like.new_full((longest + positions, rows, types), -torch.inf)
    buffer[longest - 1] = torch.cat([p.initial.expand(batch, types) for p in directions])
    pre = buffer[longest - 1 :]
    alpha = like.new_full((positions + 1, rows, types), -torch.inf)
    offset = torch.zeros(positions + 1, rows, dtype=torch.float64, device=like.device)
    lengths = alpha.new_zeros(alpha.shape if maximise else (0,), dtype=torch.long)
    sources = torch.zeros_like(lengths)

    last = int(directions[0].lengths.max())
    size = max(longest, BLOCK_ELEMENTS // (rows * longest * types), 1)
    for first in range(0, last, size):
        scores = _scores_by_end(directions, first, min(first + size, last))
        for n, score in enumerate(scores, start=first + 1):
            window = buffer[n - 1 : n + longest - 1] + score  # [L, R, C]
            if maximise:
                alpha[n], lengths[n] = window.max(0)
            else:
                alpha[n] = torch.logsumexp(window, 0)
            step = alpha[n].view(len(directions), batch, types, 1) + transition
            if maximise:
                best, source = step.max(-2)
                pre[n], sources[n] = best.view(rows, types), source.view(rows, types)
            else:
                pre[n] = torch.logsumexp(step, -2).view(rows, types)
            if n % REBASE_EVERY == 0:
                shift = alpha[n].amax(-1)
                shift = torch.where(shift.isfinite(), shift, 0)
                live = slice(max(0, n - longest + 1), n + 1)
                pre[live] -= shift[:, None]
                alpha[live] -= shift[:, None]
                offset[live] += shift
                offset[n + 1 : n + 1 + REBASE_EVERY] = offset[n]
    return alpha, pre, offset, (longest - 1 - lengths, sources)


def _scores_by_end(directions: list[Potentials], first: int, last: int) -> Tensor:
    """Segment scores [last - first, L, R, C] by end, longest first, as the window is ordered."""
    batch, _, longest, types = directions[0].sizes
    rows = len(directions) * batch
    out = directions[0].duration.new_full((last - first, longest, rows, types), -torch.inf)
    for d, p in enumerate(directions):
        columns = slice(d * batch, (d + 1) * batch)
        for extra, (lo, score) in enumerate(segment_scores(p, first, last)):
            out[lo - first :, longest - 1 - extra, columns] = score.transpose(0, 1)
    return out


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
    emission = (opened.cumsum(1) * inside[..., None]).to(start.dtype)
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
    """The highest-scoring segmentation: labels [B, N] and starts [B, N]."""
    batch, positions, _, types = p.sizes
    alpha, _, _, (lengths, sources) = _scan([p], maximise=True)
    # a state is (boundary, type of the segment that ends there); follow each to the state before
    boundary = torch.arange(positions + 1, device=alpha.device)[:, None, None]
    begins = (boundary - lengths - 1).clamp(min=0)  # [N+1, B, C]
    source = sources.gather(0, begins)
    previous = (begins * types + source).transpose(0, 1).reshape(batch, -1)
    rows = torch.arange(batch, device=alpha.device)
    state = p.lengths * types + (alpha[p.lengths, rows] + p.final).argmax(-1)
    path = [state]
    for _ in range(int(p.lengths.max())):
        state = previous.gather(1, state[:, None])[:, 0]
        path.append(state)
    states = torch.stack(path, 1)
    return _mark(states // types, states % types, positions, p.lengths)


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
