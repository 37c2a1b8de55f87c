"""Log posteriors of tags at every sub-word, in which the decoded tag has the maximum: one kernel.

A tag's posterior is the sum over the events that it is written for: that a segment of a type

    starts and ends at the word:  single       starts alone:  start - single
    ends alone:                   end - single  neither:       token - start - end + single

where tags mark ends, and else that it starts there, or that it goes on: token - start. A word's
other sub-words lie inside its segment: nothing starts or ends there. A sub-word of no word is
outside for certain.

Memory traffic: up to 4 C reads a sub-word, and one write a tag.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra import libdevice

from hf_semicrf.ops.kernels.common import INTERPRETED, contiguous, power_of_two


@triton.jit
def _log(x):
    """The logarithm to all digits; the language's own is 2^-22 off."""
    if INTERPRETED:
        return tl.log(x)
    else:
        return libdevice.log(x)


@triton.jit
def _event(token, start, end, single, kind, read, alone, inside, opens):
    """Probabilities of events of a kind, for pairs of a sub-word and a type; 0 outside."""
    covered = tl.load(token + read, mask=inside, other=0.0)
    began = tl.load(start + read, mask=opens, other=0.0)
    if single is None:
        return tl.where(inside, tl.where(kind == 0, began, covered - began), 0.0)
    else:
        ended = tl.load(end + read, mask=opens, other=0.0)
        both = tl.load(single + alone, mask=opens, other=0.0)
        value = tl.where(kind == 0, both, covered - began - ended + both)
        value = tl.where(kind == 1, began - both, value)
        value = tl.where(kind == 2, ended - both, value)
        return tl.where(inside, value, 0.0)


@triton.jit(
    do_not_specialize=["rows", "positions", "types", "tags", "most", "kinds", "outside", "stride"]
)
def tag_logits_kernel(
    # posteriors and what was decoded
    token, start, end, single, labels, starts,
    # where the words stand
    mask, word_of_token,
    # how tags are written, and the one of what is no word
    written, events, outside,
    # results
    out,
    # sizes, and from one position to the next in single
    rows, positions, types, tags, most, kinds, stride,
    # the lowest number and the smallest one above 0
    LOWEST: tl.constexpr, SMALLEST: tl.constexpr,
    ROWS: tl.constexpr, TAGS: tl.constexpr,
):  # fmt: skip
    """A block of sub-words; see the head of this file."""
    dtype: tl.constexpr = token.dtype.element_ty
    at = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    real = at < rows
    word = tl.load(word_of_token + at, mask=real, other=-1)
    has_word = word >= 0
    first = tl.load(mask + at, mask=real, other=0) != 0
    word = tl.maximum(word, 0)
    row = at // positions * positions + word  # of the word

    k = tl.arange(0, TAGS)
    is_tag = k < tags
    probability = tl.zeros([ROWS, TAGS], dtype)
    for m in range(most):
        event = tl.load(events + k * most + m, mask=is_tag, other=0).to(tl.int32)
        kind, c = (event // types)[None, :], event % types
        inside = real[:, None] & is_tag[None, :] & (kind < kinds)
        probability += _event(
            token, start, end, single,
            kind,
            # where
            row[:, None] * types + c[None, :], row[:, None] * stride + c[None, :],
            inside, inside & first[:, None],
        )  # fmt: skip
    smallest = tl.full([ROWS, TAGS], SMALLEST, dtype)
    logits = _log(tl.where(probability < smallest, smallest, probability))

    # the decoded tag, as LabelScheme.decode writes it
    label = tl.load(labels + row, mask=real, other=-1)
    before = tl.load(labels + row - 1, mask=real & (word > 0), other=-1)
    follows = real & (word + 1 < positions)
    after = tl.load(labels + row + 1, mask=follows, other=-1)
    starting = first & (tl.load(starts + row, mask=real, other=0) != 0)
    closed = first & (tl.load(starts + row + 1, mask=follows, other=0) != 0)
    closed = closed | (word + 1 == positions) | (label != after)
    key = (starting & (label == before)).to(tl.int32) * 4
    key += starting.to(tl.int32) * 2 + closed.to(tl.int32)
    tag = tl.load(written + tl.maximum(label, 0) * 8 + key, mask=real, other=0)
    # a log posterior of the best of K tags is at least -log K: the margin survives rounding
    margin = tl.max(tl.where(is_tag[None, :], logits, -float("inf")), 1) + 1e-5
    decoded = (label >= 0)[:, None] & (tag[:, None] == k[None, :])
    logits = tl.where(decoded, margin[:, None], logits)
    nowhere = tl.where(k == outside, 0.0, tl.full([TAGS], LOWEST, dtype))
    logits = tl.where(has_word[:, None], logits, nowhere[None, :])
    tl.store(out + at[:, None] * tags + k[None, :], logits, mask=real[:, None] & is_tag[None, :])


def tag_logits(
    token: Tensor,
    start: Tensor,
    end: Tensor,
    segment: Tensor | None,
    labels: Tensor,
    starts: Tensor,
    mask: Tensor,
    word_of_token: Tensor,
    written: Tensor,
    events: Tensor,
    outside: int,
) -> Tensor:
    """Log posteriors of tags [B, T, K].

    Args:
        token: That a word lies in a segment of each type [B, N, C]; N is T.
        start: That one starts there [B, N, C].
        end: That one ends there [B, N, C].
        segment: Of each segment [B, N, L, C] where tags mark ends; else None.
        labels: The decoded types [B, N].
        starts: Whether a decoded segment starts there [B, N].
        mask: Whether a sub-word is a word's first [B, T].
        word_of_token: The word of each sub-word [B, T], -1 before the first.
        written: Tags by type, and by what they are written for [8 C].
        events: Of each tag, the events that it is written for [K, M].
        outside: The tag of what is no word.
    """
    token, start, end, segment, labels, starts = contiguous(
        (token, start, end, segment, labels, starts)
    )
    batch, positions, types = token.shape
    tags, most = events.shape
    out = token.new_empty(batch, positions, tags)
    limits = torch.finfo(token.dtype)
    tile = power_of_two(max(2, tags))
    rows = max(1, min(32, 2048 // tile))
    tag_logits_kernel[(triton.cdiv(batch * positions, rows),)](
        # posteriors and what was decoded
        token, start, end, segment, labels, starts,
        # where the words stand
        mask, word_of_token,
        # how tags are written
        written, events, outside,
        # results
        out,
        # sizes
        batch * positions, positions, types, tags, most, 2 if segment is None else 4,
        0 if segment is None else segment.shape[2] * types,
        LOWEST=limits.min, SMALLEST=limits.tiny, ROWS=rows, TAGS=tile, num_warps=4,
    )  # fmt: skip
    return out
