"""The entropy and its gradient: a scan that carries an entropy with every log-sum, all in float64.

Of the prefixes that reach a state, `alpha` and `pre` are the log-sums and H the entropy:

    alpha[e, c]   = logsumexp_d pre[e-d, c] + seg(e-d, e, c)
    H_alpha[e, c] = sum_d p(d | e, c) (H_pre[e-d, c] - log p(d | e, c))
    pre[s, c]     = logsumexp_{c'} alpha[s, c'] + transition[c', c]
    H_pre[s, c]   = sum_{c'} p(c' | s, c) (H_alpha[s, c'] - log p(c' | s, c))

and likewise of suffixes, with `post`, `beta`. What is left of a segment does not depend on what is
right of it, so the mean surprise of the segmentations through it, and with it the gradient, is

    E[-log p(y) | s, e, c] = H_pre[s, c] - log p(s, e, c) + H_post[e, c]
    d H / d seg(s, e, c)   = p(s, e, c) (E[-log p(y) | s, e, c] - H)

No term is larger than the entropy, however large the scores. One program scans a sentence in a
direction; the gradient is parallel over positions, by starts and by ends, as in expectations.py.

Memory traffic: a step reads 4 L C + C^2, in the cache, and writes 4 C; the gradient reads up to
14 N L C, in the cache, and writes 2 N C, and N L C more with segment scores.
Source: Hernando, Crespi and Cybenko (2005), "Efficient Computation of the Hidden Markov Model
Entropy for a Given Observation Sequence"; Li and Eisner (2009), "First- and Second-Order
Expectation Semirings", section 4, for the gradient.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from hf_semicrf.ops.kernels.common import contiguous, finite, in_float64, power_of_two
from hf_semicrf.ops.kernels.lengths import read_position, score_ending
from hf_semicrf.ops.potentials import Potentials

MAX_ELEMENTS = 4096  # of a tile


@triton.jit
def _absorb(score, entropy, top, total, surprise):
    """Add ways of these log-weights and entropies [rows, columns] to sums that are relative to top.

    ``total`` sums weights, ``surprise`` weights times entropy less logarithm of the weight.
    """
    new_top = tl.maximum(top, tl.max(score, 0))
    score -= finite(new_top)[None, :]
    weight = tl.exp(score)
    fall = finite(new_top) - finite(top)
    scale = tl.exp(top - finite(new_top))
    added = weight * tl.where(weight > 0.0, entropy - score, 0.0)
    surprise = scale * (surprise + total * fall) + tl.sum(added, 0)
    return new_top, scale * total + tl.sum(weight, 0), surprise


@triton.jit
def _finish(top, total, surprise):
    """Log-sum and entropy; 0 is the entropy of nothing."""
    some = total > 0.0
    log_total = tl.log(tl.where(some, total, 1.0))
    entropy = surprise / tl.where(some, total, 1.0) + log_total
    return tl.where(some, top + log_total, -float("inf")), tl.where(some, entropy, 0.0)


@triton.jit(do_not_specialize=["batch", "positions", "longest", "types", "places"])
def entropy_kernel(
    # potentials
    emission, segment, start, end, duration, transition, initial, final, lengths,
    # scratch
    gathered,
    # results
    entropy_out, log_z_out, pre_out, alpha_out, entropy_pre, entropy_alpha,
    # sizes
    batch, positions, longest, types, places,
    ROWS: tl.constexpr, SOURCES: tl.constexpr, TYPES: tl.constexpr,
):  # fmt: skip
    """One sentence, one direction; see the head of this file."""
    b, reverse = tl.program_id(0).to(tl.int64), tl.program_id(1)
    program = reverse * batch + b
    length = tl.load(lengths + b).to(tl.int32)
    c, r, source = tl.arange(0, TYPES), tl.arange(0, ROWS), tl.arange(0, SOURCES)
    real = c < types
    zeros = tl.zeros([TYPES], duration.dtype.element_ty)
    nothing = tl.zeros([TYPES], tl.float64)
    minus_inf = -float("inf")
    first_row = b * positions  # of this sentence in an input
    state = program * (positions + 1) * types  # boundary 0 of this direction
    gathered += program * places * types
    pre_out += state
    alpha_out += state
    entropy_pre += state
    entropy_alpha += state
    # transition[source, c]; its transpose when reading from right to left
    stride_source = tl.where(reverse == 1, 1, types)
    stride_c = tl.where(reverse == 1, types, 1)

    if reverse == 1:
        first = tl.load(final + c, mask=real, other=minus_inf)
    else:
        first = tl.load(initial + c, mask=real, other=minus_inf)
    tl.store(pre_out + c, first.to(tl.float64), mask=real)
    tl.store(entropy_pre + c, nothing, mask=real)
    tl.store(alpha_out + c, nothing + minus_inf, mask=real)
    tl.store(entropy_alpha + c, nothing, mask=real)
    tl.debug_barrier()
    alpha, alpha_entropy = nothing + minus_inf, nothing
    em, enter, leave = read_position(
        emission, start, end, reverse, first_row, 0, length, types, c, zeros
    )
    for t in range(length):
        # loaded a step ahead
        em1, enter1, leave1 = read_position(
            emission, start, end, reverse, first_row, t + 1, length, types, c, zeros
        )
        top, total, surprise = nothing + minus_inf, nothing, nothing
        for r0 in range(0, tl.minimum(longest, t + 1), ROWS):
            d = r0 + r
            score, inside = score_ending(
                segment, duration, gathered, em, enter, leave,
                d, t, first_row, length, reverse, longest, types, c,
            )  # fmt: skip
            at = c[None, :] - d[:, None] * types
            score += tl.load(pre_out + at, mask=inside, other=minus_inf)
            before = tl.load(entropy_pre + at, mask=inside, other=0.0)
            score = tl.where(inside, score, minus_inf)
            top, total, surprise = _absorb(score, before, top, total, surprise)
        alpha, alpha_entropy = _finish(top, total, surprise)
        pre_out, alpha_out = pre_out + types, alpha_out + types
        entropy_pre, entropy_alpha = entropy_pre + types, entropy_alpha + types
        tl.store(alpha_out + c, alpha, mask=real)
        tl.store(entropy_alpha + c, alpha_entropy, mask=real)
        tl.debug_barrier()
        top, total, surprise = nothing + minus_inf, nothing, nothing
        for s0 in range(0, types, SOURCES):
            s = s0 + source
            at = s[:, None] * stride_source + c[None, :] * stride_c
            inside = (s < types)[:, None] & real[None, :]
            score = tl.load(transition + at, mask=inside, other=minus_inf).to(tl.float64)
            score += tl.load(alpha_out + s, mask=s < types, other=minus_inf)[:, None]
            before = tl.load(entropy_alpha + s, mask=s < types, other=0.0)[:, None]
            top, total, surprise = _absorb(score, before, top, total, surprise)
        pre, pre_entropy = _finish(top, total, surprise)
        tl.store(pre_out + c, pre, mask=real)
        tl.store(entropy_pre + c, pre_entropy, mask=real)
        tl.debug_barrier()
        em, enter, leave = em1, enter1, leave1
    if reverse == 0:
        one = tl.arange(0, 1)
        score = alpha + tl.load(final + c, mask=real, other=minus_inf)
        empty = tl.zeros([1], tl.float64)
        top, total, surprise = _absorb(
            score[:, None], alpha_entropy[:, None], empty + minus_inf, empty, empty
        )
        log_z, entropy = _finish(top, total, surprise)
        tl.store(log_z_out + b + one, log_z)
        tl.store(entropy_out + b + one, tl.where(log_z > minus_inf, entropy, float("nan")))


@triton.jit
def _slope(log_p, entropy_beside):
    """An event's gradient, p (E[-log p(y)] - H), of its log p and the rest of the parenthesis."""
    p = tl.exp(tl.minimum(log_p, 0.0))
    return p * tl.where(p > 0.0, entropy_beside - log_p, 0.0)


@triton.jit
def _sentence(b, lengths, log_z, entropy, weight):
    """Length, log Z, entropy and weight of a sentence; 0 but for the length where none is legal."""
    z = tl.load(log_z + b)
    possible = z > -float("inf")
    return (
        tl.load(lengths + b).to(tl.int32),
        tl.where(possible, z, 0.0),
        tl.where(possible, tl.load(entropy + b), 0.0),
        tl.where(possible, tl.load(weight + b).to(tl.float64), 0.0),
    )


@triton.jit(do_not_specialize=["batch", "positions", "longest", "types", "tiles"])
def slopes_kernel(
    # potentials
    emission, segment, start, end, duration, lengths,
    # the scan's results and each sentence's weight
    log_z, entropy, weight, pre, entropy_pre,
    # results
    start_out, end_out, segment_out, duration_out,
    # sizes
    batch, positions, longest, types, tiles,
    ROWS: tl.constexpr, TYPES: tl.constexpr,
):  # fmt: skip
    """The gradient of segments, summed up by starts, by ends and by lengths."""
    b, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    length, z, whole, w = _sentence(b, lengths, log_z, entropy, weight)
    r, c = tl.arange(0, ROWS), tl.arange(0, TYPES)
    real = (c < types)[None, :]
    first_row = b * positions
    left_row = b * (positions + 1)  # boundary 0 of the prefixes
    right_row = (batch + b) * (positions + 1) + length  # and of the suffixes, which count down
    duration_out += (b * tl.num_programs(1) + chunk) * longest * types
    for tile in range(tiles):
        n = (chunk * tiles + tile) * ROWS + r
        here = (n < length)[:, None] & real
        at = (first_row + n)[:, None] * types + c[None, :]

        # segments [n, n + d + 1)
        left = (left_row + n)[:, None] * types + c[None, :]
        log_p = in_float64(pre, left, here) + in_float64(start, at, here) - z
        beside = in_float64(entropy_pre, left, here) - whole
        started = tl.zeros([ROWS, TYPES], tl.float64)
        for d in range(longest):
            inside = (n + d < length)[:, None] & real
            last = at + d * types
            right = (right_row - n - d - 1)[:, None] * types + c[None, :]
            log_p += in_float64(emission, last, inside)
            ended = in_float64(end, last, inside) + in_float64(pre, right, inside)
            ended += in_float64(duration, d * types + c[None, :] + r[:, None] * 0, inside)
            by_length = ((first_row + n) * longest + d)[:, None] * types + c[None, :]
            ended += in_float64(segment, by_length, inside)
            slope = _slope(log_p + ended, beside + in_float64(entropy_pre, right, inside)) * w
            slope = tl.where(inside, slope, 0.0)
            started += slope
            if segment_out is not None:
                tl.store(segment_out + by_length, slope, mask=inside)
            total = tl.sum(slope, 0)
            if tile > 0:
                total += tl.load(duration_out + d * types + c, mask=c < types, other=0.0)
            tl.store(duration_out + d * types + c, total, mask=c < types)

        # segments [n - d, n + 1)
        right = (right_row - n - 1)[:, None] * types + c[None, :]
        log_p = in_float64(pre, right, here) + in_float64(end, at, here) - z
        beside = in_float64(entropy_pre, right, here) - whole
        ended = tl.zeros([ROWS, TYPES], tl.float64)
        for d in range(longest):
            inside = (n >= d)[:, None] & here
            first = at - d * types
            left = (left_row + n - d)[:, None] * types + c[None, :]
            log_p += in_float64(emission, first, inside)
            begun = in_float64(start, first, inside) + in_float64(pre, left, inside)
            begun += in_float64(duration, d * types + c[None, :] + r[:, None] * 0, inside)
            by_length = ((first_row + n - d) * longest + d)[:, None] * types + c[None, :]
            begun += in_float64(segment, by_length, inside)
            slope = _slope(log_p + begun, beside + in_float64(entropy_pre, left, inside)) * w
            ended += tl.where(inside, slope, 0.0)
        inside = (n < positions)[:, None] & real
        tl.store(start_out + at, started, mask=inside)
        tl.store(end_out + at, ended, mask=inside)


@triton.jit(do_not_specialize=["batch", "positions", "types", "count"])
def transition_slopes_kernel(
    transition, lengths,
    # the scan's results and each sentence's weight
    log_z, entropy, weight, alpha, entropy_alpha,
    # results
    transition_out,
    # sizes
    batch, positions, types, count,
    STEPS: tl.constexpr, SOURCES: tl.constexpr, TYPES: tl.constexpr,
):  # fmt: skip
    """The gradient of the steps between types, summed up over ``count`` boundaries."""
    b, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    blocks = tl.cdiv(types, SOURCES)
    source = (tl.program_id(2) // blocks) * SOURCES + tl.arange(0, SOURCES)
    target = (tl.program_id(2) % blocks) * TYPES + tl.arange(0, TYPES)
    length, z, whole, w = _sentence(b, lengths, log_z, entropy, weight)
    at = source[:, None] * types + target[None, :]
    real = (source < types)[:, None] & (target < types)[None, :]
    score = tl.load(transition + at, mask=real, other=-float("inf")).to(tl.float64) - z
    left_row = b * (positions + 1)
    right_row = (batch + b) * (positions + 1) + length
    slopes = tl.zeros([SOURCES, TYPES], tl.float64)
    beyond = tl.minimum((chunk + 1) * count, length)
    for n0 in range(tl.maximum(chunk * count, 1), beyond, STEPS):
        n = n0 + tl.arange(0, STEPS)  # boundaries
        before = (n < beyond)[:, None] & (source < types)[None, :]
        after = (n < beyond)[:, None] & (target < types)[None, :]
        left = (left_row + n)[:, None] * types + source[None, :]
        right = (right_row - n)[:, None] * types + target[None, :]
        log_p = tl.load(alpha + left, mask=before, other=-float("inf"))[:, :, None]
        log_p = log_p + tl.load(alpha + right, mask=after, other=-float("inf"))[:, None, :]
        log_p += score[None, :, :]
        beside = in_float64(entropy_alpha, left, before)[:, :, None] - whole
        beside = beside + in_float64(entropy_alpha, right, after)[:, None, :]
        slopes += tl.sum(_slope(log_p, beside), 0)
    transition_out += (b * tl.num_programs(1) + chunk) * types * types
    tl.store(transition_out + at, slopes * w, mask=real)


def entropy(p: Potentials, directions: int) -> tuple[Tensor, ...]:
    """Entropy in nats, float64 [B], NaN where nothing is legal, and the state for its gradient.

    That is log Z [B]; pre, alpha, and their entropies [directions, B, N+1, C], each direction's
    boundaries counted from where it begins. Two directions are needed for the gradient.
    """
    batch, positions, longest, types = p.sizes
    tile = power_of_two(max(types, 2))
    places = min(longest, positions)
    rows = min(power_of_two(places), max(1, MAX_ELEMENTS // tile))
    sources = min(tile, max(1, MAX_ELEMENTS // tile))

    def new(*shape: int) -> Tensor:
        return p.duration.new_empty(shape, dtype=torch.float64)

    results = (
        *(new(batch) for _ in range(2)),
        *(new(directions, batch, positions + 1, types) for _ in range(4)),
    )
    entropy_kernel[(batch, directions)](
        # potentials
        *contiguous(p),
        # scratch
        new(directions * batch, places, types),
        *results,
        # sizes
        batch, positions, longest, types, places,
        ROWS=rows, SOURCES=sources, TYPES=tile,
        num_warps=max(1, min(8, max(rows, sources) * tile // 256)), num_stages=1,
    )  # fmt: skip
    return results


def gradient(p: Potentials, state: tuple[Tensor, ...], weight: Tensor) -> tuple[Tensor, ...]:
    """The gradient of the entropies times ``weight`` [B], from all that :func:`entropy` returns.

    Of emission, segment, start, end, duration, transition, initial and final, in float64 but for
    segment, which is empty where there are no segment scores.
    """
    batch, positions, longest, types = p.sizes
    value, log_z, pre, alpha, entropy_pre, entropy_alpha = state
    emission, segment, start, end, duration, transition, _, _, lengths = contiguous(p)
    weight = weight.contiguous()
    tile = power_of_two(max(types, 2))
    rows = max(8, min(64, 512 // tile))
    # parts are as many as keep their memory within that of the state
    tiles = -(-max(rows, longest) // rows)
    parts = -(-positions // (tiles * rows))
    start_out, end_out = (pre.new_empty(batch, positions, types) for _ in range(2))
    segment_out = duration.new_zeros(0 if segment is None else segment.shape)
    duration_out = pre.new_empty(batch, parts, longest, types)
    slopes_kernel[(batch, parts)](
        # potentials
        emission, segment, start, end, duration, lengths,
        # the scan's results and each sentence's weight
        log_z, value, weight, pre, entropy_pre,
        # results
        start_out, end_out, None if segment is None else segment_out, duration_out,
        # sizes
        batch, positions, longest, types, tiles,
        ROWS=rows, TYPES=tile, num_warps=4,
    )  # fmt: skip
    block = min(32, tile)
    count = max(64, types)
    parts = -(-positions // count)
    transition_out = pre.new_empty(batch, parts, types, types)
    transition_slopes_kernel[(batch, parts, (-(-types // block)) ** 2)](
        transition, lengths,
        # the scan's results and each sentence's weight
        log_z, value, weight, alpha, entropy_alpha,
        # results
        transition_out,
        # sizes
        batch, positions, types, count,
        STEPS=max(1, 1024 // (block * block)), SOURCES=block, TYPES=block, num_warps=4,
    )  # fmt: skip
    opened = start_out.clone()
    opened[:, 1:] -= end_out[:, :-1]
    n = torch.arange(positions, device=lengths.device)
    emission_out = opened.cumsum(1).masked_fill_((n >= lengths[:, None])[..., None], 0)
    if emission is not None:  # starts less ends need not cancel to the last bit
        emission_out.masked_fill_(emission == -torch.inf, 0)
    last = (lengths - 1)[:, None, None].expand(batch, 1, types)
    return (
        emission_out,
        segment_out,
        start_out,
        end_out,
        duration_out.sum((0, 1)),
        transition_out.sum((0, 1)),
        start_out[:, 0].sum(0),
        end_out.gather(1, last).sum((0, 1)),
    )
