"""The window of open segments that scan, Viterbi and least risk share, and its layout.

With U[s, c] = pre[s, c] + start[s, c] + the emissions since s, the scores of the open segments, a
step over position t ends segments and opens one:

    ended[t+1, c] = end[t, c] + reduce_{t-L < s <= t} U[s, c] + duration[t-s, c]
    U[t+1, c]     = pre[t+1, c] + start[t+1, c]

U stays in registers as a tile [WINDOW, TYPES], a row a start, and new starts replace the rows of
expired ones: the start s has row s % WINDOW. What a step reads is loaded two steps ahead, so that
no step waits for memory.

Segments longer than the window (LONG): time is cut into blocks of WINDOW steps. Row j of a block
then starts out as the reduction over all segments that began before the block and end at its
position j. A start inside the block takes the row over once that position has passed.

Memory traffic: 3 C reads a step, and L C more with segment scores.
Source: Sarawagi and Cohen (2004), section 3, with the source type reduced once a boundary.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from hf_semicrf.ops.kernels.common import (
    centred,
    power_of_two,
    usable,
)

MAX_WINDOW_ELEMENTS = 8192  # of the window's tile: more would not fit in registers
PRECISE_ELEMENTS = 64  # a warp, of the tiles in float64: its logarithms are long code
MAX_RESIDENT_TYPES = 128  # up to which the transitions stay in registers


@triton.jit
def read_row(forward, backward, reverse, offset, c, count, zeros):
    """A row's first ``count`` entries in nats; of the second tensor when reading leftwards."""
    x = zeros
    if forward is None:
        if backward is not None:
            inside = c < tl.where(reverse == 1, count, 0)
            x = usable(tl.load(backward + offset + c, mask=inside, other=0.0).to(zeros.dtype))
    elif backward is None:
        inside = c < tl.where(reverse == 1, 0, count)
        x = usable(tl.load(forward + offset + c, mask=inside, other=0.0).to(zeros.dtype))
    else:
        pointer = tl.where(reverse == 1, backward, forward)
        x = usable(tl.load(pointer + offset + c, mask=c < count, other=0.0).to(zeros.dtype))
    return x


@triton.jit
def read_emission(emission, offset, c, count, zeros):
    """The first ``count`` emissions of a position, in nats; centred in float64."""
    if emission is None:
        return zeros
    else:
        x = tl.load(emission + offset + c, mask=c < count, other=0.0).to(zeros.dtype)
        return usable(centred(x, c < count))


@triton.jit
def read_step(
    emission, segment, start, end, reverse, first_row, t, length, longest, types, c, zeros
):
    """What step t reads: emissions, start and end scores, and segments of length 1.

    In nats: a multiplication here would wait for memory.
    """
    n = tl.where(reverse == 1, length - 1 - t, t)
    at = (first_row + n) * types
    count = tl.where(t < length, types, 0)
    return (
        read_emission(emission, at, c, count, zeros),
        read_row(start, end, reverse, at, c, count, zeros),
        read_row(end, start, reverse, at, c, count, zeros),
        read_row(segment, segment, reverse, at * longest, c, count, zeros),
    )


@triton.jit
def read_first_steps(
    emission, segment, start, end, reverse, first_row, length, longest, types, c, zeros,
    shortest, SCALE: tl.constexpr,
):  # fmt: skip
    """What steps 0 and 1 read: the first scaled and with the shortest duration, as it is used."""
    em, enter, leave, unit = read_step(
        emission, segment, start, end, reverse, first_row, 0, length, longest, types, c, zeros
    )
    em, enter, leave, unit = em * SCALE, enter * SCALE, leave * SCALE, shortest + unit * SCALE
    em2, enter2, leave2, unit2 = read_step(
        emission, segment, start, end, reverse, first_row, 1, length, longest, types, c, zeros
    )
    return em, enter, leave, unit, em2, enter2, leave2, unit2


@triton.jit
def write_durations(
    table, duration, longest, types,
    WINDOW: tl.constexpr, TYPES: tl.constexpr, LONG: tl.constexpr, SCALE: tl.constexpr,
    DTYPE: tl.constexpr,
):  # fmt: skip
    """Write the durations as a window reads them: at row j - r + WINDOW for position j and row r.

    So its rows lie at fixed distances from the place where a step reads. -inf where the segment of
    a row cannot end; with time in blocks, 0 for the row of what began before the block.
    """
    r = tl.arange(0, 2 * WINDOW)[:, None]
    c = tl.arange(0, TYPES)[None, :]
    length_minus_one = r - WINDOW
    if not LONG:
        length_minus_one = length_minus_one & (WINDOW - 1)
    legal = (length_minus_one > 0) & (length_minus_one < longest) & (c < types)
    score = tl.load(duration + length_minus_one * types + c, mask=legal, other=-float("inf"))
    score = usable(score.to(DTYPE)) * SCALE
    if LONG:
        score = tl.where((length_minus_one == 0) & (c < types), 0.0, score)
    tl.store(table + r * TYPES + c, score)


@triton.jit
def read_segments(
    segment, first_row, t, length, reverse, longest, types,
    WINDOW: tl.constexpr, TYPES: tl.constexpr, LONG: tl.constexpr,
    SHORTEST: tl.constexpr = 1, other=0.0,
):  # fmt: skip
    """Segment scores of the window's rows that may end at position t, in nats; else ``other``.

    The length less one is at least SHORTEST. The scores are as they were read: what is computed
    with them waits for memory, so it should come a step later.
    """
    c = tl.arange(0, TYPES)[None, :]
    length_minus_one = t % WINDOW - tl.arange(0, WINDOW)[:, None]
    if not LONG:
        length_minus_one = length_minus_one & (WINDOW - 1)
    # the segment [t - length_minus_one, t + 1); its mirror image begins at length - 1 - t
    begin = tl.where(reverse == 1, length - 1 - t, t)
    stride = tl.where(reverse == 1, types, types - longest * types)
    oldest = tl.minimum(longest - 1, tl.where(t < length, t, -1))
    inside = (length_minus_one >= SHORTEST) & (length_minus_one <= oldest) & (c < types)
    segment += (first_row + begin) * longest * types
    return tl.load(segment + (length_minus_one * stride + c), mask=inside, other=other)


@triton.jit
def advance_window(
    table, open_segments, newest, emission, t, WINDOW: tl.constexpr, TYPES: tl.constexpr
):
    """The open segments after step t, and the durations of those that end in step t + 1.

    Args:
        table: From :func:`write_durations`.
        open_segments: Scores up to position t [WINDOW, TYPES].
        newest: Score of the segment that starts at t, position t included [TYPES].
        emission: What position t adds to the others [TYPES].
        t: The step.
        WINDOW: Rows of the window.
        TYPES: Its columns.
    """
    row = tl.arange(0, WINDOW)[:, None]
    c = tl.arange(0, TYPES)[None, :]
    open_segments = tl.where(row == t % WINDOW, newest[None, :], open_segments + emission[None, :])
    slot = (t + 1) % WINDOW
    durations = tl.load(table + (slot + WINDOW) * TYPES + (c - row * TYPES))
    return open_segments, durations


@triton.jit
def read_earlier_segments(
    emission, segment, start, end, duration, pre_out, offset_out,
    # where
    first_row, t0, back, length, reverse, longest, types,
    # sums so far
    content, offset, zeros,
    WINDOW: tl.constexpr, TYPES: tl.constexpr, SCALE: tl.constexpr,
):  # fmt: skip
    """Scores of the segments that start at t0 - back, before a block, and end at each t0 + j in it.

    Without the emissions from t0 on, which the steps add, and without the end score.

    ``content`` holds the emissions from t0 - back + 1 to t0 - 1 [TYPES], ``offset`` is what the
    scores are relative to. Returns the emissions from t0 - back on [TYPES], the scores
    [WINDOW, TYPES] and the lengths less one [WINDOW].
    """
    c = tl.arange(0, TYPES)
    j = tl.arange(0, WINDOW)
    s = t0 - back
    n = tl.where(reverse == 1, length - 1 - s, s)
    boundary = tl.where(reverse == 1, length - s, s)
    row = (first_row + n) * types
    content += read_emission(emission, row, c, types, zeros) * SCALE
    offset_change = (tl.load(offset_out + boundary) - offset).to(zeros.dtype)
    score = tl.load(pre_out + boundary * types + c, mask=c < types, other=-float("inf"))
    score += content + offset_change
    score += read_row(start, end, reverse, row, c, types, zeros) * SCALE
    length_minus_one = back + j
    inside = (length_minus_one < longest)[:, None] & (c < types)[None, :]
    at = length_minus_one[:, None] * types + c[None, :]
    scores = tl.load(duration + at, mask=inside, other=-float("inf"))
    scores = usable(scores.to(zeros.dtype)) * SCALE
    if segment is not None:
        begin = tl.where(reverse == 1, length - 1 - t0 - j, s)
        at = ((first_row + begin) * longest + length_minus_one)[:, None] * types + c[None, :]
        inside = inside & (t0 + j < length)[:, None]
        x = tl.load(segment + at, mask=inside, other=0.0)
        scores += usable(x.to(zeros.dtype)) * SCALE
    scores += score[None, :]
    return content, scores, length_minus_one


class Plan(NamedTuple):
    """How a window is laid out for a longest segment and a number of types.

    Args:
        window: Rows of the window's tile, one a start.
        types: Its columns.
        sources: Source types that are read at a time; all of them where they stay in registers.
        long: Whether segments outgrow the window, so that time is cut into blocks.
        warps: One warp needs no barrier; more where a thread would hold too many registers.
        precise_window: Rows where scores are large: few, since float64 takes the most instructions
            and registers of a program, and so of all its sentences.
        precise_sources: Source types at a time there.
        precise_long: Whether segments outgrow that window.
    """

    window: int
    types: int
    sources: int
    long: bool
    warps: int
    precise_window: int
    precise_sources: int
    precise_long: bool

    @classmethod
    def of(cls, longest: int, types: int) -> Plan:
        """The layout for segments of at most ``longest`` positions."""
        tile = power_of_two(max(types, 2))
        window = min(power_of_two(longest), max(2, MAX_WINDOW_ELEMENTS // tile))
        sources = tile if tile <= MAX_RESIDENT_TYPES else min(tile // 2, 32)
        elements = max(window * tile, sources * tile)
        warps = max(1, min(16, elements // 1024))
        few = max(2, PRECISE_ELEMENTS * warps // tile)
        precise = min(power_of_two(longest), few)
        return cls(
            window, tile, sources, longest > window, warps,
            precise, min(tile, few), longest > precise,
        )  # fmt: skip

    def tables(self, programs: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Room for each program's durations, :func:`write_durations`, and its transitions.

        In the potentials' dtype, and in float64 for where the other one is too narrow.
        """
        return like.new_empty(programs, 2 * self.window + self.sources, self.types), like.new_empty(
            (programs, 2 * self.precise_window + self.precise_sources, self.types),
            dtype=torch.float64,
        )

    def options(self) -> dict[str, int | bool]:
        """The kernels' compile-time arguments."""
        taken = (self.window, self.sources, self.precise_window, self.precise_sources)
        return {
            "WINDOW": self.window,
            "TYPES": self.types,
            "SOURCES": self.sources,
            "LONG": self.long,
            "PRECISE_WINDOW": self.precise_window,
            "PRECISE_SOURCES": self.precise_sources,
            "PRECISE_LONG": self.precise_long,
            # of a tile unlike the window's: tiles of one shape get one layout, and the window has
            # its own reasons
            "ROWS": next(n for n in (8, 16, 32, 4, 64) if n not in taken),
            "num_warps": self.warps,
        }
