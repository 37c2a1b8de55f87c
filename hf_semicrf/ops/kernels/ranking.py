"""The k best segmentations: a scan that keeps k prefixes a state, then a walk back for each.

A state (boundary, type) has a list of its k best prefixes, best first:

    alpha[e, c, :] = best k of pre[e-d, c, r] + seg(e-d, e, c)     over lengths d and ranks r
    pre[s, c, :]   = best k of alpha[s, c', r] + transition[c', c] over types c' and ranks r

Lists that are sorted need not be looked through: of each only its head, the best entry not yet
taken, can be next. The heads are a tile [L, C], or [C, C]; k times the best of them is taken, and
the entry behind it read. Ties go to the shorter segment or the lower type, then to the better rank.
A key, d or c' shifted left plus the rank, says where an entry came from; the walk back reads two
keys a segment. All in float64.

Where not all lengths, or types, fit in a tile, a list is merged of tile after tile.

Memory traffic: k (L C + C^2) at most a step, in the cache; 8 k N C bytes of scores and 2 to 8 of
keys a sentence.
Source: Huang and Chiang (2005), "Better k-best Parsing", algorithm 1, for segments.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from hf_semicrf.ops.kernels.common import contiguous, index_dtype, power_of_two
from hf_semicrf.ops.kernels.lengths import read_position, score_ending
from hf_semicrf.ops.potentials import Potentials

MAX_ELEMENTS = 4096  # of a tile of heads
NOWHERE = tl.constexpr(1 << 30)


@triton.jit
def _merge(
    # of each list in a tile: its head, what is added to its entries, and its head's key
    head, gain, key,
    # entry r of the list of a key lies at (key >> shift) stride + r types + column
    lists, stride, column,
    # what was merged before, of two lists in turn
    tile, merged, merged_key,
    # results, a rank each so many entries
    score_out, key_out, entries,
    # sizes
    k, shift, types, c, real,
    MORE: tl.constexpr,
):  # fmt: skip
    """Write the k best of the lists, and of what was merged before, with their keys."""
    if MORE:
        tl.debug_barrier()  # what was merged before was written by other threads
        now = (tile % 2) * k * types
        before = k * types - now
        known = real & (tile > 0)
        other = tl.load(merged + before + c, mask=known, other=-float("inf"))
        other_key = tl.load(merged_key + before + c, mask=known, other=NOWHERE)
        taken = c * 0
    for rank in range(k):
        top = tl.max(head, 0)
        if MORE:
            top = tl.maximum(top, other)
        best = tl.min(tl.where(head == top[None, :], key, NOWHERE), 0)
        if MORE:
            best = tl.minimum(best, tl.where(other == top, other_key, NOWHERE))
        best = tl.where(best == NOWHERE, 0, best)  # nothing equals NaN: any entry will do
        tl.store(score_out + rank * entries + c, top, mask=real)
        tl.store(key_out + rank * entries + c, best, mask=real)
        if MORE:
            tl.store(merged + now + rank * types + c, top, mask=real)
            tl.store(merged_key + now + rank * types + c, best, mask=real)
        if rank + 1 < k:
            entry = (best & ((1 << shift) - 1)) + 1
            at = (best >> shift) * stride + entry * types + column
            behind = tl.load(lists + at, mask=real & (entry < k), other=-float("inf"))
            hit = key == best[None, :]
            head = tl.where(hit, behind[None, :] + gain, head)
            key = tl.where(hit, key + 1, key)
            if MORE:
                hit_other = other_key == best
                taken = tl.where(hit_other, taken + 1, taken)
                at = before + taken * types + c
                behind = tl.load(merged + at, mask=known & hit_other, other=0.0)
                behind_key = tl.load(merged_key + at, mask=known & hit_other, other=0)
                other = tl.where(hit_other, behind, other)
                other_key = tl.where(hit_other, behind_key, other_key)


@triton.jit
def _change_types(
    alpha, step, stride_source, stride_c, merged, merged_key, score_out, key_out, entries,
    k, shift, types, c, real, SOURCES: tl.constexpr, MORE: tl.constexpr,
):  # fmt: skip
    """Merge the lists of all types before, each with the score of the step from it to c."""
    source = tl.arange(0, SOURCES)
    for s0 in range(0, types, SOURCES):
        s = s0 + source
        at = s[:, None] * stride_source + c[None, :] * stride_c
        inside = (s < types)[:, None] & real[None, :]
        gain = tl.load(step + at, mask=inside, other=-float("inf")).to(tl.float64)
        head = tl.load(alpha + s, mask=s < types, other=-float("inf"))[:, None] + gain
        key = tl.where(s < types, s << shift, NOWHERE)[:, None] + c[None, :] * 0
        _merge(
            head, gain, key, alpha, 1, c * 0, s0 // SOURCES, merged, merged_key,
            score_out, key_out, entries, k, shift, types, c, real, MORE,
        )  # fmt: skip


@triton.jit(do_not_specialize=["batch", "positions", "longest", "types", "k", "shift", "places"])
def ranks_kernel(
    # potentials
    emission, segment, start, end, duration, transition, initial, final, lengths,
    # scratch
    gathered, alpha, merged, merged_key,
    # results, the last four for the walk back
    pre_out, last_out, source_out, score_out, chosen_out,
    # sizes
    batch, positions, longest, types, k, shift, places,
    ROWS: tl.constexpr, SOURCES: tl.constexpr, TYPES: tl.constexpr,
    MORE_ROWS: tl.constexpr, MORE_SOURCES: tl.constexpr,
):  # fmt: skip
    """One sentence, one direction; see the head of this file."""
    b, reverse = tl.program_id(0).to(tl.int64), tl.program_id(1)
    program = reverse * batch + b
    length = tl.load(lengths + b).to(tl.int32)
    c = tl.arange(0, TYPES)
    r = tl.arange(0, ROWS)
    real = c < types
    zeros = tl.zeros([TYPES], duration.dtype.element_ty)
    minus_inf = -float("inf")
    size = k * types  # of the lists of a boundary
    first_row = b * positions  # of this sentence in an input
    gathered += program * places * types
    alpha += program * size
    merged += program * 2 * size
    merged_key += program * 2 * size
    pre_out += program * (positions + 1) * size
    last_out += program * positions * size
    source_out += program * positions * size
    # transition[source, c]; its transpose when reading from right to left
    stride_source = tl.where(reverse == 1, 1, types)
    stride_c = tl.where(reverse == 1, types, 1)

    if reverse == 1:
        entered = tl.load(final + c, mask=real, other=minus_inf)
    else:
        entered = tl.load(initial + c, mask=real, other=minus_inf)
    for rank in range(k):
        tl.store(pre_out + rank * types + c, entered.to(tl.float64), mask=real)
        entered = zeros + minus_inf
    tl.debug_barrier()
    em, enter, leave = read_position(
        emission, start, end, reverse, first_row, 0, length, types, c, zeros
    )
    for t in range(length):
        # loaded a step ahead
        em1, enter1, leave1 = read_position(
            emission, start, end, reverse, first_row, t + 1, length, types, c, zeros
        )
        for r0 in range(0, tl.minimum(longest, t + 1), ROWS):
            d = r0 + r
            gain, inside = score_ending(
                segment, duration, gathered, em, enter, leave,
                d, t, first_row, length, reverse, longest, types, c,
            )  # fmt: skip
            at = c[None, :] - d[:, None] * size
            head = tl.load(pre_out + at, mask=inside, other=minus_inf) + gain
            key = tl.where(inside, d[:, None] << shift, NOWHERE)
            _merge(
                head, gain, key, pre_out, -size, c, r0 // ROWS, merged, merged_key,
                alpha, last_out, types, k, shift, types, c, real, MORE_ROWS,
            )  # fmt: skip
        tl.debug_barrier()
        _change_types(
            alpha, transition, stride_source, stride_c, merged, merged_key,
            pre_out + size, source_out, types, k, shift, types, c, real, SOURCES, MORE_SOURCES,
        )  # fmt: skip
        tl.debug_barrier()
        pre_out, last_out, source_out = pre_out + size, last_out + size, source_out + size
        em, enter, leave = em1, enter1, leave1
    if score_out is not None:
        _change_types(
            alpha, final, 1, 0, merged, merged_key, score_out + b * k, chosen_out + b * k, 1,
            k, shift, types, c, c < 1, SOURCES, MORE_SOURCES,
        )  # fmt: skip


@triton.jit(do_not_specialize=["positions", "types", "k", "shift"])
def walk_kernel(
    score, chosen, last, source, lengths, labels, starts, positions, types, k, shift,
    STEP: tl.constexpr = 32,
):  # fmt: skip
    """One rank of one sentence: follow the keys; -1 and no start where there is no segment."""
    b, i = tl.program_id(0).to(tl.int64), tl.program_id(1)
    n = tl.arange(0, STEP)
    possible = tl.load(score + b * k + i) > -float("inf")
    length = tl.where(possible, tl.load(lengths + b), 0).to(tl.int32)
    key = tl.load(chosen + b * k + i).to(tl.int32)
    first_row = b * positions
    out = (b * k + i) * positions
    ranks = (1 << shift) - 1
    stop = length
    while stop > 0:
        label = key >> shift
        at = ((first_row + stop - 1) * k + (key & ranks)) * types + label
        key = tl.load(last + at).to(tl.int32)
        begin = tl.maximum(stop - 1 - (key >> shift), 0)
        for n0 in range(begin, stop, STEP):
            inside = n0 + n < stop
            tl.store(labels + out + n0 + n, (label + n * 0).to(tl.int64), mask=inside)
            tl.store(starts + out + n0 + n, n0 + n == begin, mask=inside)
        at = ((first_row + begin - 1) * k + (key & ranks)) * types + label
        key = tl.load(source + at, mask=begin > 0, other=0).to(tl.int32)
        stop = begin
    for n0 in range(length, positions, STEP):
        inside = n0 + n < positions
        tl.store(labels + out + n0 + n, (n * 0 - 1).to(tl.int64), mask=inside)
        tl.store(starts + out + n0 + n, n < 0, mask=inside)


def best_prefixes(p: Potentials, k: int, directions: int) -> tuple[Tensor, list[Any], int]:
    """Scan for the k best prefixes, and with two directions the k best suffixes.

    Returns:
        Scores at each boundary, counted from where a direction begins [directions, B, N+1, k, C];
        score and key of the best segmentations [B, k], and the keys of the last segments and of the
        types before [B, N, k, C], all four None with two directions; the bits of a key's rank.
    """
    batch, positions, longest, types = p.sizes
    tile = power_of_two(max(types, 2))
    places = min(longest, positions)
    rows = min(power_of_two(places), max(1, MAX_ELEMENTS // tile))
    sources = min(tile, max(1, MAX_ELEMENTS // tile))
    shift = (k - 1).bit_length()
    programs = directions * batch
    new = p.duration.new_empty
    float64, keys = torch.float64, index_dtype(max(longest, types) << shift)
    pre = new((directions, batch, positions + 1, k, types), dtype=float64)
    last, source = (new((programs, positions, k, types), dtype=keys) for _ in range(2))
    score, chosen = new((batch, k), dtype=float64), new((batch, k), dtype=keys)
    found = [score, chosen] if directions == 1 else [None, None]
    ranks_kernel[(batch, directions)](
        # potentials
        *contiguous(p),
        # scratch
        new((programs, places, types), dtype=float64),
        new((programs, k, types), dtype=float64),
        new((programs, 2, k, types), dtype=float64),
        new((programs, 2, k, types), dtype=torch.int32),
        # results
        pre, last, source, *found,
        # sizes
        batch, positions, longest, types, k, shift, places,
        ROWS=rows, SOURCES=sources, TYPES=tile,
        MORE_ROWS=rows < places, MORE_SOURCES=sources < types,
        num_warps=max(1, min(8, max(rows, sources) * tile // 512)), num_stages=1,
    )  # fmt: skip
    return pre, [*found, last, source], shift


def k_best(p: Potentials, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """The k best segmentations: scores, float64 [B, k], labels and starts [B, k, N]."""
    batch, positions, _, types = p.sizes
    _, found, shift = best_prefixes(p, k, directions=1)
    labels = p.lengths.new_empty((batch, k, positions), dtype=torch.long)
    starts = p.lengths.new_empty((batch, k, positions), dtype=torch.bool)
    walk_kernel[(batch, k)](
        *found, p.lengths, labels, starts, positions, types, k, shift, num_warps=1
    )
    return found[0], labels, starts
