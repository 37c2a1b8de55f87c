"""Words among sub-words: where they stand, what is read at their places, what their tags say.

One program a sentence finds the words by a running count, so nothing is sorted. The sub-words that
start no word follow the words in their order: every sub-word is read once, and the gradient of what
was read is a scatter without atomics and without zeros to fill in.

Tags are read as `LabelScheme.encode` does, by a small table; a running maximum says where a
position's segment began, and each multiple of the longest length from there starts another one.

Memory traffic: one read and a few writes a sub-word; states are read once and written once.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024


@triton.jit
def _kind(table, tokens, ids, attention, at, inside):
    """What a token is: special (0), starts a word (1), goes on with one (2); padding is special."""
    token = tl.load(ids + at, mask=inside, other=0)
    kind = tl.load(table + token, mask=(token >= 0) & (token < tokens), other=0).to(tl.int32)
    kind = tl.where(inside, kind, 0)
    if attention is not None:
        kind = tl.where(tl.load(attention + at, mask=inside, other=0) != 0, kind, 0)
    return kind


@triton.jit
def _starts_word(marks, none, table, tokens, ids, attention, at, n, count):
    """Whether a word starts at each place; by the marks, or by the tokens where there are none."""
    inside = n < count
    if marks is not None:
        return (tl.load(marks + at, mask=inside, other=0) != none) & inside
    else:
        kind = _kind(table, tokens, ids, attention, at, inside)
        before = _kind(table, tokens, ids, attention, at - 1, inside & (n > 0))
        return ((kind == 1) | ((kind == 2) & (before == 0))) & inside


@triton.jit(do_not_specialize=["none", "tokens", "count"])
def lattice_kernel(
    # marks of words, or tokens and what they are
    marks, none, table, tokens, ids, attention,
    # results
    mask_out, token_out, word_out, inside_out, lengths_out, positions_out,
    # sizes
    count, BLOCK: tl.constexpr,
):  # fmt: skip
    """One sentence; see the head of this file."""
    b = tl.program_id(0).to(tl.int64)
    row = b * count
    r = tl.arange(0, BLOCK)
    words = tl.full([], 0, tl.int64)
    for n0 in range(0, count, BLOCK):
        n = n0 + r
        starts = _starts_word(marks, none, table, tokens, ids, attention, row + n, n, count)
        words += tl.sum(starts.to(tl.int64), 0)
    before = 0
    for n0 in range(0, count, BLOCK):
        n = n0 + r
        inside = n < count
        starts = _starts_word(marks, none, table, tokens, ids, attention, row + n, n, count)
        through = before + tl.cumsum(starts.to(tl.int32), 0)  # words up to this place, with it
        tl.store(mask_out + row + n, starts, mask=inside)
        tl.store(word_out + row + n, (through - 1).to(tl.int64), mask=inside)
        place = tl.where(starts, through - 1, words + n - through)
        tl.store(token_out + row + place, n.to(tl.int64), mask=inside)
        tl.store(inside_out + row + n, n < words, mask=inside)
        before = tl.max(tl.where(inside, through, 0), 0)
    tl.store(lengths_out + b, words)
    tl.store(positions_out + b, tl.maximum(words, 1))


def lattice(
    marks: Tensor | None,
    none: int,
    table: Tensor | None,
    ids: Tensor | None,
    attention: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Where words stand: the fields of a lattice over sub-words [B, T].

    Args:
        marks: What is ``none`` on all sub-words but the first of each word [B, T]; or None.
        none: That mark.
        table: What each token is [V] int8, where there are no marks.
        ids: The tokens [B, T].
        attention: 0 on padding [B, T], or None.
    """
    marks, ids, attention = (None if x is None else x.contiguous() for x in (marks, ids, attention))
    given = marks if marks is not None else ids
    assert given is not None
    batch, count = given.shape
    mask, inside = (torch.empty_like(given, dtype=torch.bool) for _ in range(2))
    token, word = (torch.empty_like(given, dtype=torch.long) for _ in range(2))
    # not two rows of one: an address that is no multiple of 16 would have kernels compiled again
    lengths, positions = token.new_empty(batch), token.new_empty(batch)
    lattice_kernel[(batch,)](
        # marks of words, or tokens and what they are
        marks, none, table, 0 if table is None else len(table), ids, attention,
        # results
        mask, token, word, inside, lengths, positions,
        # sizes
        count, BLOCK=BLOCK, num_warps=4,
    )  # fmt: skip
    return mask, token, word, inside, lengths, positions


@triton.jit(do_not_specialize=["count", "width"])
def rows_kernel(source, places, out, count, width, BACK: tl.constexpr, COLUMNS: tl.constexpr):
    """Read rows at places of their sentence, or write them there (BACK)."""
    row = tl.program_id(0).to(tl.int64)
    place = row // count * count + tl.load(places + row)
    if BACK:
        read, write = row, place
    else:
        read, write = place, row
    for c0 in range(0, width, COLUMNS):
        c = c0 + tl.arange(0, COLUMNS)
        x = tl.load(source + read * width + c, mask=c < width, other=0.0)
        tl.store(out + write * width + c, x.to(out.dtype.element_ty), mask=c < width)


def rows(source: Tensor, places: Tensor, dtype: torch.dtype, back: bool) -> Tensor:
    """Rows [B, T, H] of a sentence's places [B, T], each of them once, in a dtype.

    Args:
        source: The rows [B, T, H].
        places: A permutation of 0..T-1 for each sentence [B, T].
        dtype: Of the result.
        back: Whether to write row n at its place, instead of reading it there.
    """
    source = source.contiguous()
    batch, count, width = source.shape
    out = torch.empty_like(source, dtype=dtype)
    columns = min(1024, triton.next_power_of_2(width))
    rows_kernel[(batch * count,)](
        source, places, out, count, width, BACK=back, COLUMNS=columns, num_warps=4
    )
    return out


@triton.jit
def _maximum(a, b):
    return tl.maximum(a, b)


@triton.jit
def _tag_row(tags, token_of_word, row, n, inside, known):
    """The row of each word's tag in the tables; 0 for what is unknown."""
    place = tl.load(token_of_word + row + n, mask=inside, other=0)
    tag = tl.load(tags + row + place, mask=inside, other=-1)
    return tl.where(inside & (tag >= 0) & (tag < known - 1), tag + 1, 0).to(tl.int32)


@triton.jit(do_not_specialize=["count", "known", "longest"])
def tags_kernel(
    # tags and where the words stand
    tags, token_of_word, lengths,
    # how tags are read
    codes,
    # results
    types_out, starts_out,
    # sizes
    count, known, longest, OPENS: tl.constexpr, CLOSES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One sentence; see the head of this file."""
    b = tl.program_id(0).to(tl.int64)
    length = tl.load(lengths + b).to(tl.int32)
    row = b * count
    r = tl.arange(0, BLOCK)
    begun = 0  # where the segment that reaches into the block began
    for n0 in range(0, count, BLOCK):
        n = n0 + r
        inside = n < length
        code = tl.load(codes + _tag_row(tags, token_of_word, row, n, inside, known))
        before = _tag_row(tags, token_of_word, row, n - 1, inside & (n > 0), known)
        before = tl.load(codes + before)
        kind = code >> 2
        changes = (kind != before >> 2) | (((code & OPENS) | (before & CLOSES)) != 0)
        starts = changes & (kind >= 0)
        first = tl.associative_scan(tl.where(starts, n, 0), 0, _maximum)
        first = tl.maximum(first, begun)
        begun = tl.max(first, 0)
        starts = starts | ((kind >= 0) & ((n - first) % longest == 0)) | (kind == 0)
        # a sentence without words runs as one outside word that counts nothing
        empty = (n == 0) & (length == 0)
        tl.store(types_out + row + n, tl.where(empty, 0, kind), mask=n < count)
        tl.store(starts_out + row + n, starts | empty, mask=n < count)


def read_tags(
    tags: Tensor,
    token_of_word: Tensor,
    lengths: Tensor,
    codes: Tensor,
    opens: int,
    closes: int,
    longest: int,
) -> tuple[Tensor, Tensor]:
    """Types and starts [B, N] that tags of sub-words [B, T] say; N is T.

    Args:
        tags: Tag ids [B, T]; what is no tag is unknown.
        token_of_word: The first sub-word of each word [B, N].
        lengths: Words of each sentence [B].
        codes: What each tag says [K + 1], the first for an unknown one: its type times 4, and
            these two.
        opens: Added where it opens a segment.
        closes: Added where it closes one.
        longest: Longest segment, in words.
    """
    tags = tags.contiguous()
    types_out = torch.empty_like(tags, dtype=torch.long)
    starts_out = torch.empty_like(tags, dtype=torch.bool)
    tags_kernel[(len(tags),)](
        # tags and where the words stand
        tags, token_of_word, lengths,
        # how tags are read
        codes,
        # results
        types_out, starts_out,
        # sizes
        tags.shape[1], len(codes), longest, OPENS=opens, CLOSES=closes, BLOCK=BLOCK, num_warps=4,
    )  # fmt: skip
    return types_out, starts_out


@triton.jit(do_not_specialize=["count"])
def at_tokens_kernel(words, mask, word_of_token, out, count, BLOCK: tl.constexpr):
    """Write what words have at their first sub-words, and 0 elsewhere."""
    row = tl.program_id(0).to(tl.int64) * count
    for n0 in range(0, count, BLOCK):
        n = n0 + tl.arange(0, BLOCK)
        first = tl.load(mask + row + n, mask=n < count, other=0) != 0
        word = tl.load(word_of_token + row + n, mask=first, other=0)
        tl.store(out + row + n, tl.load(words + row + word, mask=first, other=0), mask=n < count)


def at_tokens(words: Tensor, mask: Tensor, word_of_token: Tensor) -> Tensor:
    """From words [B, N] to their first sub-words [B, T]; 0 elsewhere; N is T."""
    words = words.contiguous()
    out = torch.empty_like(words)
    count = words.shape[1]
    at_tokens_kernel[(len(words),)](
        words, mask, word_of_token, out, count, BLOCK=BLOCK, num_warps=4
    )
    return out
