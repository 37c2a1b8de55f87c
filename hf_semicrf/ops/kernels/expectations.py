"""Expected counts, and the gradient of the loss, from both directions' scans: nothing sequential.

With the prefixes `pre` and the suffixes `post`, the probability of a segment is

    p(s, e, c) = exp(pre[s, c] + seg(s, e, c) + post[e, c] - log Z)

One program takes a tile of positions and sums p three times: over the segments that cover its
first position, over those that start in it and over those that end in it. So no two programs add
to one number, and a run's result does not depend on their order. The token marginals follow by
adding starts and subtracting ends, from the first position on.

The probabilities of the segments that cover one position add up to 1, so the first of the sums is Z
as it is seen from the tile. Dividing by it removes the rounding errors that the two scans gathered
on their way, which grow with the length of the text.

The loss is log Z - score(gold): its gradient is the expected counts less the gold segmentation's.

Memory traffic: 4 N C reads (and twice N L C with segment scores), 3 N C writes, and N L C more
where the segments' gradient is asked for; 3 N L C exponentials, and N C^2 for the transitions.
Source: Sarawagi and Cohen (2004), equation 4.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from hf_semicrf.ops.forward_backward import Expectations, State
from hf_semicrf.ops.kernels.common import (
    LOG2E,
    centred,
    contiguous,
    power_of_two,
    state_in,
    usable,
)
from hf_semicrf.ops.potentials import Potentials

FINER = tl.constexpr(8)  # tiles in float64, whose exponentials are long code, than in float32


@triton.jit
def _weighed(total, b, w):
    """Log Z of a sentence in base 2, and its weight: 0 where nothing is possible."""
    z = tl.load(total + 2 * b)
    possible = z != -float("inf")
    return tl.where(possible, z, 0.0), tl.where(possible, w, 0.0)


@triton.jit
def _rows(pointer, index, count, c, types, zeros):
    """Rows of a tensor [N, C] in base 2; 0 where the tensor is absent or the index is outside."""
    rows = zeros
    if pointer is not None:
        inside = ((index >= 0) & (index < count))[:, None] & (c < types)[None, :]
        x = tl.load(pointer + (index[:, None] * types + c[None, :]), mask=inside, other=0.0)
        rows += usable(x.to(zeros.dtype)) * LOG2E
    return rows


@triton.jit
def _emissions(pointer, index, count, c, types, zeros):
    """Rows of the emissions in base 2, centred in float64; as :func:`_rows`."""
    rows = zeros
    if pointer is not None:
        inside = ((index >= 0) & (index < count))[:, None] & (c < types)[None, :]
        x = tl.load(pointer + (index[:, None] * types + c[None, :]), mask=inside, other=0.0)
        rows += usable(centred(x.to(zeros.dtype), inside)) * LOG2E
    return rows


@triton.jit
def _durations(duration, d, c, types, dtype):
    """A row of the durations in base 2."""
    x = tl.load(duration + d * types + c, mask=c < types, other=0.0)
    return usable(x.to(dtype)) * LOG2E


@triton.jit
def _state(pointer, index, count, c, types):
    """Rows of the scan's state; -inf outside."""
    inside = ((index >= 0) & (index < count))[:, None] & (c < types)[None, :]
    at = index[:, None] * types + c[None, :]
    return tl.load(pointer + at, mask=inside, other=-float("inf"))


@triton.jit
def _segment(pointer, begin, length_minus_one, length, longest, c, types, zeros):
    """Scores of the segments that begin at rows ``begin`` with lengths less one; 0 outside."""
    scores = zeros
    if pointer is not None:
        inside = (begin >= 0) & (begin + length_minus_one < length) & (length_minus_one < longest)
        at = (begin.to(tl.int64) * longest + length_minus_one) * types
        inside = inside[:, None] & (c < types)[None, :]
        x = tl.load(pointer + (at[:, None] + c[None, :]), mask=inside, other=0.0)
        scores += usable(x.to(zeros.dtype)) * LOG2E
    return scores


@triton.jit(do_not_specialize=["batch", "positions", "longest", "types", "tiles"])
def counts_kernel(
    # potentials
    emission, segment, start, end, duration, lengths,
    # the scan's state, each sentence's weight and the gold segmentation
    pre, offset, total, weight, gold_labels, gold_lengths,
    # results
    emission_out, segment_out, start_out, end_out, shared_out, scale_out,
    # sizes
    batch, positions, longest, types, tiles,
    ROWS: tl.constexpr, TYPES: tl.constexpr,
):  # fmt: skip
    """Everything but the transitions; see the head of this file."""
    b = tl.program_id(0).to(tl.int64)
    scale_out += (b * tl.num_programs(1) + tl.program_id(1)) * tiles * FINER
    precise = duration.dtype.element_ty == tl.float64
    if duration.dtype.element_ty != tl.float64:
        precise = tl.load(total + 2 * b + 1) > 0.0
        if not precise:
            _counts_as(
                # potentials
                emission, segment, start, end, duration, lengths,
                # the scan's state, each sentence's weight and the gold segmentation
                pre, offset, total, weight, gold_labels, gold_lengths,
                # results
                emission_out, segment_out, start_out, end_out, shared_out, scale_out,
                # sizes
                batch, positions, longest, types, tiles,
                ROWS, TYPES, duration.dtype.element_ty,
            )  # fmt: skip
    if precise:
        _counts_apart(
            # potentials
            emission, segment, start, end, duration, lengths,
            # the scan's state, each sentence's weight and the gold segmentation
            pre, offset, total, weight, gold_labels, gold_lengths,
            # results
            emission_out, segment_out, start_out, end_out, shared_out, scale_out,
            # sizes
            batch, positions, longest, types, tiles * FINER,
            ROWS // FINER, TYPES,
        )  # fmt: skip


@triton.jit(noinline=True)
def _counts_apart(
    # potentials
    emission, segment, start, end, duration, lengths,
    # the scan's state, each sentence's weight and the gold segmentation
    pre, offset, total, weight, gold_labels, gold_lengths,
    # results
    emission_out, segment_out, start_out, end_out, shared_out, scale_out,
    # sizes
    batch, positions, longest, types, tiles,
    ROWS: tl.constexpr, TYPES: tl.constexpr,
):  # fmt: skip
    """The counts in float64, as a call: the compiler takes the square of a function's size."""
    _counts_as(
        emission, segment, start, end, duration, lengths,
        pre, offset, total, weight, gold_labels, gold_lengths,
        emission_out, segment_out, start_out, end_out, shared_out, scale_out,
        batch, positions, longest, types, tiles,
        ROWS, TYPES, tl.float64,
    )  # fmt: skip


@triton.jit
def _counts_as(
    # potentials
    emission, segment, start, end, duration, lengths,
    # the scan's state, each sentence's weight and the gold segmentation
    pre, offset, total, weight, gold_labels, gold_lengths,
    # results
    emission_out, segment_out, start_out, end_out, shared_out, scale_out,
    # sizes
    batch, positions, longest, types, tiles,
    ROWS: tl.constexpr, TYPES: tl.constexpr, dtype: tl.constexpr,
):  # fmt: skip
    """The counts in a dtype."""
    b, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    length = tl.load(lengths + b).to(tl.int32)
    w = tl.full([], 1.0, dtype) if weight is None else tl.load(weight + b).to(dtype)
    z, expected_w = _weighed(total, b, w)
    r, c = tl.arange(0, ROWS), tl.arange(0, TYPES)
    real = c < types
    zeros = tl.zeros([ROWS, TYPES], dtype)

    # this sentence's rows; prefixes by their boundary, suffixes by theirs
    row = b * positions * types
    if emission is not None:
        emission += row
    if start is not None:
        start += row
    if end is not None:
        end += row
    if segment is not None:
        segment += row * longest
    post = state_in(pre + (batch + b) * (positions + 1) * types, dtype)
    pre = state_in(pre + b * (positions + 1) * types, dtype)
    suffix_offset = offset + (batch + b) * (positions + 1)
    offset += b * (positions + 1)
    shared_out += (b * tl.num_programs(1) + chunk) * ((longest + types + 2) * types)

    duration_out = shared_out
    first_types = tl.zeros([TYPES], dtype)
    last_types = tl.zeros([TYPES], dtype)
    there = tl.cdiv(positions - chunk * tiles * ROWS, ROWS)
    for tile in range(tl.maximum(1, tl.minimum(tiles, there))):
        n0 = (chunk * tiles + tile) * ROWS
        n = n0 + r
        span = tl.minimum(longest, length - n0)  # lengths to look at from the tile's first position

        # segments [n0 - back, n0 + d + 1): they cover the first position
        local = tl.zeros([TYPES], dtype)
        opened_before = tl.zeros([TYPES], dtype)
        passed = tl.zeros([TYPES], dtype)
        for r0 in range(0, tl.where(span > 0, tl.minimum(longest, n0 + 1), 0), ROWS):
            back = r0 + r
            s = n0 - back
            before = tl.where(
                (back > 0)[:, None], _emissions(emission, s, length, c, types, zeros), 0.0
            )
            left = _state(pre, s, length, c, types) + _rows(start, s, length, c, types, zeros)
            left += passed[None, :] + tl.cumsum(before, 0)
            passed += tl.sum(before, 0)
            shift = tl.load(offset + s, mask=s >= 0, other=0.0) - z
            covering = zeros
            for d in range(tl.minimum(span, longest - r0)):
                m = n0 + d + r * 0
                left += _emissions(emission, m, length, c, types, zeros)
                right = _state(post, m + 1, length + 1, c, types)
                right += _rows(end, m, length, c, types, zeros)
                right += _rows(duration, back + d, longest, c, types, zeros)
                right += _segment(segment, s, back + d, length, longest, c, types, zeros)
                exponent = (shift + tl.load(suffix_offset + n0 + d + 1)).to(dtype)
                mass = tl.exp2(left + right + exponent[:, None])
                covering += tl.where((back + d < longest)[:, None], mass, 0.0)
            local += tl.sum(covering, 0)
            opened_before += tl.sum(tl.where((back > 0)[:, None], covering, 0.0), 0)
        local_z = tl.sum(local, 0)
        scale = tl.where(local_z > 0.0, expected_w / tl.where(local_z > 0.0, local_z, 1.0), 0.0)
        scale = tl.where(z == z, scale, float("nan"))  # NaN for NaN
        tl.store(scale_out + tile, scale)

        if gold_labels is not None:
            gold = tl.load(gold_labels + b * positions + n, mask=n < length, other=-1).to(tl.int32)
            gold_type = gold[:, None] == c[None, :]

        # segments [n, n + d + 1)
        left = _state(pre, n, length, c, types) + _rows(start, n, length, c, types, zeros)
        shift = tl.load(offset + n, mask=n < length, other=0.0) - z
        started = zeros
        for d in range(span):
            m = n + d
            left += _emissions(emission, m, length, c, types, zeros)
            right = _state(post, m + 1, length + 1, c, types)
            right += _rows(end, m, length, c, types, zeros)
            right += _durations(duration, d, c, types, dtype)[None, :]
            right += _segment(segment, n, d + r * 0, length, longest, c, types, zeros)
            exponent = shift + tl.load(suffix_offset + m + 1, mask=m < length, other=0.0)
            mass = tl.exp2(left + right + exponent.to(dtype)[:, None]) * scale
            started += mass
            if segment_out is not None:
                mass = tl.where(expected_w == 0.0, 0.0, mass)
                if gold_lengths is not None:
                    ends = tl.load(gold_lengths + b * positions + m, mask=m < length, other=0)
                    mass -= tl.where((ends == d + 1)[:, None] & gold_type, w, 0.0)
                at = ((b * positions + n) * longest + d) * types
                tl.store(segment_out + at[:, None] + c[None, :], mass,
                         mask=(m < length)[:, None] & real[None, :])  # fmt: skip

        # segments [n - d, n + 1)
        right = _state(post, n + 1, length + 1, c, types) + _rows(end, n, length, c, types, zeros)
        shift = tl.load(suffix_offset + n + 1, mask=n < length, other=0.0) - z
        if gold_lengths is not None:
            ends = tl.load(gold_lengths + b * positions + n, mask=n < length, other=0)
        ended = zeros
        for d in range(longest):
            s = n - d
            right += _emissions(emission, s, length, c, types, zeros)
            left = _state(pre, s, length, c, types)
            left += _rows(start, s, length, c, types, zeros)
            left += _durations(duration, d, c, types, dtype)[None, :]
            left += _segment(segment, s, d + r * 0, length, longest, c, types, zeros)
            exponent = shift + tl.load(offset + s, mask=(s >= 0) & (n < length), other=0.0)
            mass = tl.exp2(left + right + exponent.to(dtype)[:, None]) * scale
            ended += mass
            if gold_lengths is not None:
                mass -= tl.where((ends == d + 1)[:, None] & gold_type, w, 0.0)
            count = tl.where(w == 0.0, 0.0, tl.sum(mass, 0))
            if tile > 0:
                count += tl.load(duration_out + d * types + c, mask=real, other=0.0)
            tl.store(duration_out + d * types + c, count, mask=real)

        token = opened_before[None, :] * scale + tl.cumsum(started, 0)
        token -= tl.cumsum(ended, 0) - ended
        # starts less ends need not cancel to the last bit; the weight has its own sign
        forbidden = _emissions(emission, n, length, c, types, zeros) == -float("inf")
        token = tl.where(w < 0.0, tl.minimum(token, 0.0), tl.maximum(token, 0.0))
        token = tl.where(z == z, token, float("nan"))
        token = tl.where(expected_w == 0.0, 0.0, token)
        started = tl.where(expected_w == 0.0, 0.0, started)
        ended = tl.where(expected_w == 0.0, 0.0, ended)
        token = tl.where((n < length)[:, None] & ~forbidden, token, 0.0)
        if gold_labels is not None:
            token -= tl.where(gold_type, w, 0.0)
            closed = tl.load(gold_lengths + b * positions + n - 1,
                             mask=(n > 0) & (n < length), other=0)  # fmt: skip
            opens = (closed > 0) | (n == 0)
            started -= tl.where(opens[:, None] & gold_type, w, 0.0)
            ended -= tl.where((ends > 0)[:, None] & gold_type, w, 0.0)
        at = row + n[:, None] * types + c[None, :]
        inside = (n < positions)[:, None] & real[None, :]
        tl.store(emission_out + at, token, mask=inside)
        tl.store(start_out + at, started, mask=inside)
        tl.store(end_out + at, ended, mask=inside)
        first_types += tl.sum(tl.where((n == 0)[:, None], started, 0.0), 0)
        last_types += tl.sum(tl.where((n == length - 1)[:, None], ended, 0.0), 0)
    boundary_out = duration_out + (longest + types) * types
    tl.store(boundary_out + c, first_types, mask=real)
    tl.store(boundary_out + types + c, last_types, mask=real)


@triton.jit(do_not_specialize=["batch", "positions", "longest", "types", "rows", "tiles"])
def transitions_kernel(
    # potentials
    transition, lengths,
    # the scan's state, each sentence's weight, the tiles' scale and the gold segmentation
    alpha, offset, total, weight, scale, gold_labels, gold_lengths,
    # results
    shared_out,
    # sizes
    batch, positions, longest, types, rows, tiles,
    STEPS: tl.constexpr, SOURCES: tl.constexpr, TYPES: tl.constexpr,
):  # fmt: skip
    """Neighbouring types: exp(alpha + transition + beta - log Z), summed over boundaries."""
    b = tl.program_id(0).to(tl.int64)
    scale += (b * tl.num_programs(1) + tl.program_id(1)) * tiles * FINER
    precise = transition.dtype.element_ty == tl.float64
    if transition.dtype.element_ty != tl.float64:
        precise = tl.load(total + 2 * b + 1) > 0.0
        if not precise:
            _transitions_as(
                transition, lengths,
                # the scan's state, each sentence's weight, the scale and the gold segmentation
                alpha, offset, total, weight, scale, gold_labels, gold_lengths,
                # results
                shared_out,
                # sizes
                batch, positions, longest, types, rows, tiles,
                STEPS, SOURCES, TYPES, transition.dtype.element_ty,
            )  # fmt: skip
    if precise:
        _transitions_as(
            transition, lengths,
            # the scan's state, each sentence's weight, the scale and the gold segmentation
            alpha, offset, total, weight, scale, gold_labels, gold_lengths,
            # results
            shared_out,
            # sizes
            batch, positions, longest, types, rows // FINER, tiles * FINER,
            max(1, STEPS // FINER), SOURCES, TYPES, tl.float64,
        )  # fmt: skip


@triton.jit
def _transitions_as(
    transition, lengths,
    # the scan's state, each sentence's weight, the scale and the gold segmentation
    alpha, offset, total, weight, scale, gold_labels, gold_lengths,
    # results
    shared_out,
    # sizes
    batch, positions, longest, types, rows, tiles,
    STEPS: tl.constexpr, SOURCES: tl.constexpr, TYPES: tl.constexpr, dtype: tl.constexpr,
):  # fmt: skip
    """The neighbouring types in a dtype."""
    b, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    blocks = tl.cdiv(types, SOURCES)
    source = (tl.program_id(2) // blocks) * SOURCES + tl.arange(0, SOURCES)
    target = (tl.program_id(2) % blocks) * TYPES + tl.arange(0, TYPES)
    length = tl.load(lengths + b).to(tl.int32)
    w = tl.full([], 1.0, dtype) if weight is None else tl.load(weight + b).to(dtype)
    z, _ = _weighed(total, b, w)
    at = source[:, None] * types + target[None, :]
    real = (source < types)[:, None] & (target < types)[None, :]
    score = tl.load(transition + at, mask=real, other=-float("inf"))
    score = usable(score.to(dtype)) * LOG2E

    beta = state_in(alpha + (batch + b) * (positions + 1) * types, dtype)
    alpha = state_in(alpha + b * (positions + 1) * types, dtype)
    suffix_offset = offset + (batch + b) * (positions + 1)
    offset += b * (positions + 1)
    begin = chunk * tiles * rows
    counts = tl.zeros([SOURCES, TYPES], dtype)
    for n0 in range(tl.maximum(begin, 1), tl.minimum(begin + tiles * rows, length), STEPS):
        n = n0 + tl.arange(0, STEPS)  # boundaries
        inner = n < tl.minimum(begin + tiles * rows, length)
        exponent = tl.load(offset + n, mask=inner, other=0.0) - z
        exponent += tl.load(suffix_offset + n, mask=inner, other=0.0)
        before = tl.load(alpha + n[:, None] * types + source[None, :],
                         mask=inner[:, None] & (source < types)[None, :],
                         other=-float("inf"))  # fmt: skip
        after = tl.load(beta + n[:, None] * types + target[None, :],
                        mask=inner[:, None] & (target < types)[None, :],
                        other=-float("inf"))  # fmt: skip
        before += exponent.to(dtype)[:, None]
        mass = tl.exp2(before[:, :, None] + (after[:, None, :] + score[None, :, :]))
        factor = tl.load(scale + (n - begin) // rows, mask=inner, other=0.0)
        mass = mass * factor[:, None, None]
        if gold_labels is not None:
            label = tl.load(gold_labels + b * positions + n, mask=inner, other=-1).to(tl.int32)
            last = tl.load(gold_labels + b * positions + n - 1, mask=inner, other=-1).to(tl.int32)
            closed = tl.load(gold_lengths + b * positions + n - 1, mask=inner, other=0) > 0
            leaves = closed[:, None] & (last[:, None] == source[None, :])
            step = leaves[:, :, None] & (label[:, None] == target[None, :])[:, None, :]
            mass -= tl.where(step, w, 0.0)
        counts += tl.sum(mass, 0)
    shared_out += (b * tl.num_programs(1) + chunk) * ((longest + types + 2) * types)
    counts = tl.where(w == 0.0, 0.0, counts)  # be it NaN
    tl.store(shared_out + longest * types + at, counts, mask=real)


def expectations(
    p: Potentials,
    log_z: Tensor,
    state: State,
    weight: Tensor | None,
    gold: tuple[Tensor, Tensor] | None,
    with_segment: bool,
    add_up: bool | None,
) -> Expectations:
    """Expected counts times ``weight`` [B], less those of a gold segmentation where one is given.

    The weight is 1 where it is None, and nothing shared is counted where ``add_up`` is None.

    As :func:`hf_semicrf.ops.host.expectations.expectations`, from the state of :func:`scan.scan`.
    """
    batch, positions, longest, types = p.sizes
    emission, segment, start, end, duration, transition, _, _, lengths = contiguous(p)
    tile = max(2, power_of_two(types))
    rows = max(16, min(64, 2048 // tile))
    # parts are as many as keep their memory within that of the state
    tiles = -(-max(rows, longest, types) // rows)
    parts = -(-positions // (tiles * rows))
    weight, labels, ends = contiguous((weight, *(gold or (None, None))))

    emission_out, start_out, end_out = (
        duration.new_empty(batch, positions, types) for _ in range(3)
    )
    segment_out = duration.new_zeros((batch, positions, longest, types) if with_segment else (0,))
    shared = duration.new_empty(batch, parts, (longest + types + 2) * types)
    scale = duration.new_empty(batch, parts * tiles * FINER.value)
    counts_kernel[(batch, parts)](
        # potentials
        emission, segment, start, end, duration, lengths,
        # the scan's state, each sentence's weight and the gold segmentation
        state.pre, state.offset, state.total, weight, labels, ends,
        # results
        emission_out, segment_out if with_segment else None, start_out, end_out, shared, scale,
        # sizes
        batch, positions, longest, types, tiles,
        ROWS=rows, TYPES=tile, num_warps=8 if rows * tile > 1024 else 4,
    )  # fmt: skip
    if add_up is None:
        return Expectations(emission_out, segment_out, start_out, end_out, shared)
    block = min(32, tile)
    transitions_kernel[(batch, parts, (-(-types // block)) ** 2)](
        # potentials
        transition, lengths,
        # the scan's state, each sentence's weight, the tiles' scale and the gold segmentation
        state.alpha, state.offset, state.total, weight, scale, labels, ends,
        # results
        shared,
        # sizes
        batch, positions, longest, types, rows, tiles,
        STEPS=max(1, 2048 // (block * block)), SOURCES=block, TYPES=block, num_warps=4,
    )  # fmt: skip
    total = shared.sum((0, 1))[None] if add_up else shared.sum(1)
    return Expectations(emission_out, segment_out, start_out, end_out, total)
