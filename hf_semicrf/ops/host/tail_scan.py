"""The scan over boundaries where lengths beyond L follow a tail, on the host.

With X[t, c], the score of the segment of type c that covers [t-L, t) and goes on, a tail of order r
is r states a type, open beyond L:

    open_1[t+1, c] = emission[t, c] + log(exp(X[t, c] + enter[c]) + exp(open_1[t, c] + stay[c]))
    open_j[t+1, c] = log(exp(emission[t, c] + open_j[t, c] + stay[c]) + exp(open_{j-1}[t+1, c]))
    alpha[t+1, c]  = log(exp(alpha of lengths up to L) + exp(open_r[t+1, c] + end[t, c]))

and all else is `scan`. Both directions run as rows of one loop. What the state is of need not be
repeated: the posterior of any segment, however long, is

    p(s, e, c) = exp(pre[s, c] + seg(s, e, c) + post[e, c] - log Z)

Source: Guedon (2003), section 4, for the state; Sarawagi and Cohen (2004), equations 4 and 5.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hf_semicrf.ops.host.boundaries import log_sums
from hf_semicrf.ops.host.magnitude import LARGEST, centred, prepare_for
from hf_semicrf.ops.host.scan import BLOCK_ELEMENTS, log_sum
from hf_semicrf.ops.potentials import reverse, segment_scores
from hf_semicrf.ops.tails import TailedPotentials, expanded

LIMIT = 500.0  # of the 700 nats where float64's exponentials end


class TailState(NamedTuple):
    """What the scan leaves at every boundary, in nats and float64; index 0 prefixes, 1 suffixes.

    The true value is ``tensor[d, b, n, c] + offset[d, b, n] log 2``, of potentials less what every
    segmentation has; offsets are whole numbers. -inf past a sentence's length.

    Args:
        pre: Log-sum of the prefixes that tile [0, n), entering a type there, and of the suffixes
            that tile [n, length), leaving one there [2, B, N+1, C].
        alpha: Log-sum of the prefixes that end in a type at n, and of the suffixes that begin with
            one there [2, B, N+1, C].
        beyond: The same where that segment is longer than L [2, B, N+1, C].
        offset: Shift of the three [2, B, N+1].
        total: Log-sum of all segmentations, and its offset [2, B].
    """

    pre: Tensor
    alpha: Tensor
    beyond: Tensor
    offset: Tensor
    total: Tensor


def scan(p: TailedPotentials) -> tuple[Tensor, TailState]:
    """Sum over all segmentations: log Z in nats, float64 [B], and both directions' state."""
    body, level = centred(p.body)
    q = TailedPotentials(body, p.enter.double(), p.stay.double(), p.order)
    if not small(q):
        return _expanded_scan(p)
    batch, positions, _, types = p.sizes
    directions = [q, q._replace(body=reverse(body))]
    # [N + 1, 2 B, C] each
    rows = _scan(directions)
    # boundary n of a sentence is boundary length - n of the reversed one [N + 1, B]
    mirrored = p.lengths - torch.arange(positions + 1, device=p.lengths.device)[:, None]
    index = mirrored.clamp(min=0)[..., None].expand(positions + 1, batch, types)

    def by_boundary(x: Tensor) -> Tensor:
        both = torch.stack([x[:, :batch], x[:, batch:].gather(0, index)])
        both.masked_fill_(mirrored[..., None] < 0, -torch.inf)
        return both.transpose(1, 2).contiguous()

    pre, alpha, beyond = map(by_boundary, rows)
    last = alpha[0][torch.arange(batch, device=level.device), p.lengths] + body.final
    total = torch.logsumexp(last, -1)
    offset = total.new_zeros(2, batch, positions + 1)
    state = TailState(pre, alpha, beyond, offset, torch.stack([total, torch.zeros_like(total)]))
    return total + level, state


def small(p: TailedPotentials) -> bool:
    """Say whether all scores are finite and at most `LARGEST`, or -inf."""
    low, high = 0.0, 0.0
    for x in p.scores().values():
        x = x.detach()
        low = min(low, float(torch.where(x == -torch.inf, 0, x).amin()))
        high = max(high, float(x.amax()))
        if x.isnan().any():
            return False
    return -LARGEST <= low and high <= LARGEST


def _expanded_scan(p: TailedPotentials) -> tuple[Tensor, TailState]:
    """The same by the scan of `expanded` potentials, which takes scores of any size."""
    types = p.sizes[3]
    prepared = prepare_for("torch", expanded(p))
    sums = log_sums(prepared.potentials, "torch")
    total = prepared.told(sums.log_z)

    def kind(x: Tensor, n: int) -> Tensor:
        return x.unflatten(-1, (-1, types))[..., n, :]

    pre = torch.stack([kind(sums.pre, 0), kind(sums.post, -1)])
    beyond = torch.stack([kind(sums.alpha, -1), kind(sums.beta, 1)])
    whole = torch.stack([kind(sums.alpha, 0), kind(sums.beta, 0)])
    alpha = torch.logaddexp(whole, beyond)
    n = torch.arange(p.sizes[1] + 1, device=p.lengths.device)
    alpha[1] = torch.where((n < p.lengths[:, None])[..., None], alpha[1], -torch.inf)
    offset = total.new_zeros(pre.shape[:3])
    state = TailState(pre, alpha, beyond, offset, torch.stack([total, torch.zeros_like(total)]))
    return total + prepared.level, state


class Steps(NamedTuple):
    """What the steps of a block of T boundaries read; R rows are D directions of B sentences.

    Args:
        place: The block's places in `pre` with L places before boundary 0, L + T + 1 of them.
        scores: By end, the longest first [T, L + 1, R, C]: first those of the first L + 1
            positions of a longer segment, without its end, then those of whole segments.
        stay: What goes on adds [T, R, C].
        end: What a segment beyond L adds as it ends [T, R, C].
        single: Lowest score of a whole segment of length 1 inside a sentence.
    """

    place: slice
    scores: Tensor
    stay: Tensor
    end: Tensor
    single: float


def steps_of(directions: list[TailedPotentials], first: int, last: int) -> Steps:
    """Score the steps over positions [first, last); -inf past a sentence's length."""
    batch, _, longest, types = directions[0].sizes
    rows, lengths = len(directions) * batch, directions[0].lengths
    shape = (last - first, longest + 1, rows, types)
    scores = lengths.new_full(shape, -torch.inf, dtype=torch.double)
    stay, end = (lengths.new_zeros((shape[0], *shape[2:]), dtype=torch.double) for _ in range(2))
    for direction, p in enumerate(directions):
        columns = slice(direction * batch, (direction + 1) * batch)
        for d, (lo, score) in enumerate(segment_scores(p.body, first, last)):
            # [B, last - lo, C] to [last - lo, B, C]
            scores[lo - first :, longest - d, columns] = score.transpose(0, 1)
        lo = max(first, longest)
        if lo < last:
            scores[lo - first :, 0, columns] = _longer(p, lo, last).transpose(0, 1)
        stay[:, columns] = p.stay
        if p.body.emission is not None:
            stay[:, columns] += p.body.emission[:, first:last].transpose(0, 1)
        if p.body.end is not None:
            end[:, columns] = p.body.end[:, first:last].transpose(0, 1)
    # [T, R]
    inside = torch.arange(first, last, device=lengths.device)[:, None] < lengths
    inside = inside.repeat(1, len(directions))[..., None]
    single = float(torch.where(inside, scores[:, -1], 0).min())
    scores.masked_fill_(~inside[:, None], -torch.inf)
    place = slice(first, last + longest + 1)
    stay, end = (torch.where(inside, x, -torch.inf).cpu() for x in (stay, end))
    return Steps(place, scores.cpu(), stay, end, single)


def _longer(p: TailedPotentials, first: int, last: int) -> Tensor:
    """Score the first L + 1 positions of segments that go beyond L, by the last of them.

    Without the segments' ends [B, last - first, C], for positions [first, last), L at least.
    """
    longest = p.sizes[2]
    body, begins = p.body, slice(first - longest, last - longest)
    score = p.enter.expand(len(p.lengths), last - first, -1)
    if body.start is not None:
        score = score + body.start[:, begins]
    if body.emission is not None:
        for n in range(longest + 1):
            score = score + body.emission[:, begins.start + n : begins.stop + n]
    return score


def blocks(directions: list[TailedPotentials]) -> list[tuple[int, int]]:
    """First position and position after the last of blocks that fit in memory."""
    batch, positions, longest, types = directions[0].sizes
    size = max(longest, BLOCK_ELEMENTS // (len(directions) * batch * (longest + 1) * types))
    return [(n, min(n + size, positions)) for n in range(0, positions, size)]


def empty_rows(directions: list[TailedPotentials]) -> tuple[Tensor, Tensor, Tensor]:
    """Room for pre [L + N + 1, R, C], from L places before boundary 0, alpha and beyond."""
    batch, positions, longest, types = directions[0].sizes
    shape = (longest + positions + 1, len(directions) * batch, types)
    pre = torch.full(shape, -torch.inf, dtype=torch.float64)
    initial = [p.body.initial.expand(batch, types) for p in directions]
    pre[longest] = torch.cat(initial).detach().cpu()
    alpha = torch.full_like(pre[longest:], -torch.inf)
    return pre, alpha, torch.full_like(alpha, -torch.inf)


def _scan(directions: list[TailedPotentials]) -> tuple[Tensor, Tensor, Tensor]:
    """Sum over prefixes: pre, alpha and beyond [N + 1, R, C], the rows of every direction."""
    longest, types = directions[0].duration.shape
    pre, alpha, beyond = empty_rows(directions)
    # [D, C, C], [r, R, C]
    transition = torch.stack([p.body.transition for p in directions]).detach().cpu()
    opened = np.full((directions[0].order, *pre.shape[1:]), -np.inf)
    for first, last in blocks(directions):
        steps = steps_of(directions, first, last)
        here = slice(first, last + 1)
        rows = (pre[steps.place], alpha[here], beyond[here], opened)
        size = _safe_steps(steps, transition, directions[0].order, longest, types)
        if size < 4:
            take_steps(log_sum, np.logaddexp, *rows, steps, transition)
        else:
            _product_steps(*rows, steps, transition, size)
    device = directions[0].lengths.device
    return pre[longest:].to(device), alpha.to(device), beyond.to(device)


def take_steps(
    reduce: Callable[..., object],
    join: Callable[..., np.ndarray],
    pre: Tensor,
    alpha: Tensor,
    beyond: Tensor,
    opened: np.ndarray,
    steps: Steps,
    transition: Tensor,
) -> None:
    """Take the steps of a block as the recurrence stands, with log-sums or maxima.

    Args:
        reduce: :func:`log_sum` or ``np.maximum.reduce``.
        join: The same of two: ``np.logaddexp`` or ``np.maximum``.
        pre: Of the block, from L boundaries before it on [L + T + 1, R, C]; written.
        alpha: Of the block's boundaries [1 + T, R, C]; written from the second on, as ``beyond``.
        beyond: The same of segments longer than L.
        opened: The tail's states [r, R, C]; written.
        steps: What is read.
        transition: Of each direction [D, C, C].
    """
    count, size, rows, types = steps.scores.shape
    shape = (-1, len(transition), rows // len(transition), types)
    window, ended, longer = (x.numpy() for x in (pre, alpha, beyond))
    scores, stay, end = (x.numpy() for x in (steps.scores, steps.stay, steps.end))
    step = transition.numpy()[:, None]  # [D, 1, C, C]
    segments = np.empty((size, rows, types))
    with np.errstate(invalid="ignore"):
        for i in range(count):
            # [L + 1, R, C]
            np.add(window[i : i + size], scores[i], out=segments)
            opened += stay[i]
            opened[0] = join(opened[0], segments[0])
            for stage in range(1, len(opened)):
                opened[stage] = join(opened[stage], opened[stage - 1])
            segments[0] = longer[i + 1] = opened[-1] + end[i]
            reduce(segments, axis=0, out=ended[i + 1])
            # [D, B, C_src, C_dst], reduced to [D, B, C_dst]
            before = ended[i + 1].reshape(shape[1:])[..., None]
            reduce(before + step, axis=-2, out=window[i + size].reshape(shape[1:]))


def _product_steps(
    pre: Tensor,
    alpha: Tensor,
    beyond: Tensor,
    opened: np.ndarray,
    steps: Steps,
    transition: Tensor,
    size: int,
) -> None:
    """Take the steps of a block as products of exponentials; as :func:`take_steps`.

    A new common factor every ``size`` steps keeps the products within float64's range. Overwrites
    the scores.
    """
    count, rows_of_window, rows, types = steps.scores.shape
    shape = (-1, len(transition), rows // len(transition), types)
    window, sums, longer = (x.numpy().reshape(shape) for x in (pre, alpha, beyond))
    weights, stays, ends = (
        np.exp(x.numpy(), out=x.numpy()) for x in (steps.scores, steps.stay, steps.end)
    )
    weights = weights.reshape(count, rows_of_window, *shape[1:])
    stays, ends = stays.reshape(shape), ends.reshape(shape)
    kernel = np.exp(transition.numpy())  # [D, C_src, C_dst]
    product = np.empty((rows_of_window, *shape[1:]))
    in_stage = np.empty((len(opened), *shape[1:]))
    entering, first_stage, last_stage = product[0], in_stage[0], in_stage[-1]
    several = len(in_stage) > 1
    for first in range(0, count, size):
        number = min(size, count - first)
        live = window[first : first + rows_of_window]  # [L + 1, D, B, C]
        in_log = opened.reshape(shape)
        base = np.maximum(live.max((0, 3)), in_log.max((0, 3)))[..., None]  # [D, B, 1]
        base = np.where(np.isfinite(base), base, 0.0)
        entered = np.empty((rows_of_window + number, *shape[1:]))
        ended, over = (np.empty((number, *shape[1:])) for _ in range(2))
        np.exp(live - base, out=entered[:rows_of_window])
        np.exp(in_log - base, out=in_stage)
        # every step's view of its window, made at once
        views = np.lib.stride_tricks.as_strided(
            entered, (number, *product.shape), (entered.strides[0], *entered.strides)
        )
        here = slice(first, first + number)
        read = (views, weights[here], stays[here], ends[here])
        for before, weight, stay, end, at_end, out, new in zip(
            *read, over, ended, entered[rows_of_window:], strict=True
        ):
            np.multiply(before, weight, out=product)
            np.multiply(in_stage, stay, out=in_stage)
            np.add(first_stage, entering, out=first_stage)
            if several:
                np.add.accumulate(in_stage, 0, out=in_stage)
            np.multiply(last_stage, end, out=at_end)
            np.copyto(entering, at_end)
            np.add.reduce(product, 0, out=out)
            np.matmul(out, kernel, out=new)
        with np.errstate(divide="ignore"):
            np.add(np.log(in_stage), base, out=in_log)
            longer[first + 1 : first + 1 + number] = np.log(over) + base
            sums[first + 1 : first + 1 + number] = np.log(ended) + base
            new = slice(first + rows_of_window, first + rows_of_window + number)
            window[new] = np.log(entered[rows_of_window:]) + base


def _safe_steps(steps: Steps, transition: Tensor, order: int, longest: int, types: int) -> int:
    """Count the steps for which products of exponentials keep every digit; below 1 with -inf.

    As `scan` has it. An open segment may also end now: no entry of pre lies further below the open
    ones than an end and a transition say.
    """
    low, high = (float(x) for x in transition.aminmax())
    end = torch.where(steps.stay > -torch.inf, steps.end, 0)  # past a length nothing ends
    least, most = (float(x) for x in end.aminmax())
    fall = max(-low, 0.0) + max(-steps.single, 0.0)
    gap = max(-low, 0.0) + max(-least, 0.0)
    rise = max(high, 0.0) + max(float(steps.scores.max()), 0.0) + max(most, 0.0)
    rise += max(float(steps.stay.max()), 0.0) + math.log((longest + 1) * types * order)
    if not math.isfinite(fall + rise + gap):
        return 0
    limit = LIMIT - gap
    return int(min(limit / fall - longest - 1 if fall else limit, limit / rise))
