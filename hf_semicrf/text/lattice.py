"""Find the words of a batch among its sub-words.

An encoder gives one hidden state a sub-word; the semi-Markov CRF runs over words, each standing at
its first sub-word. Nothing here waits for the device; on a GPU each step is one kernel.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hf_semicrf.ops import kernels_for

SPECIAL, STARTS_WORD, INSIDE_WORD = 0, 1, 2


class Lattice(NamedTuple):
    """Where the words of a batch stand among its sub-words.

    Args:
        mask: True on the first sub-word of every word [B, T].
        token_of_word: The first sub-word of word n [B, N]; past a sentence's words, the sub-words
            left over, so that each sub-word stands here once. N is T.
        word_of_token: The word that each sub-word belongs to [B, T]; -1 before the first.
        inside: Whether a sentence has a word n [B, N].
        lengths: Words of each sentence [B].
        positions: The same, 1 for a sentence without words [B].
    """

    mask: Tensor
    token_of_word: Tensor
    word_of_token: Tensor
    inside: Tensor
    lengths: Tensor
    positions: Tensor

    @classmethod
    def of(cls, marks: Tensor, none: int = 0) -> Lattice:
        """The lattice of marks on the first sub-words; padding may be on either side.

        Args:
            marks: What is ``none`` on all sub-words but the first of each word [B, T].
            none: That mark.
        """
        kernels = kernels_for("lattice", marks.device)
        if kernels is not None:
            return cls(*kernels.lattice(marks, none, None, None, None))
        return cls._of_mask(marks.bool() if none == 0 else marks != none)

    @classmethod
    def of_tokens(cls, table: Tensor, input_ids: Tensor, attention_mask: Tensor | None) -> Lattice:
        """The lattice of token ids [B, T], read off a table of the vocabulary."""
        kernels = kernels_for("lattice", input_ids.device)
        if kernels is not None:
            if attention_mask is not None:
                attention_mask = attention_mask.expand_as(input_ids)
            return cls(*kernels.lattice(None, 0, table, input_ids, attention_mask))
        return cls._of_mask(word_starts(table, input_ids, attention_mask))

    @classmethod
    def _of_mask(cls, mask: Tensor) -> Lattice:
        """The lattice of a mask [B, T] of first sub-words."""
        token_of_word = (~mask).to(torch.uint8).argsort(dim=1, stable=True)
        lengths = mask.sum(1)
        inside = torch.arange(mask.shape[1], device=mask.device) < lengths[:, None]
        word_of_token = mask.long().cumsum(1) - 1
        return cls(mask, token_of_word, word_of_token, inside, lengths, lengths.clamp(min=1))

    def gather(self, tokens: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """From sub-words [B, T, ...] to words [B, N, ...], in a dtype."""
        batch, length = tokens.shape[:2]
        if tokens.ndim == 2:
            return tokens.gather(1, self.token_of_word)
        kernels = kernels_for("lattice", tokens.device)
        if kernels is not None and tokens.ndim == 3 and self.mask.shape == tokens.shape[:2]:
            inputs = (tokens, self.token_of_word, dtype or tokens.dtype)
            if not torch.is_grad_enabled():
                return kernels.rows(*inputs, back=False)
            return _Rows.apply(*inputs, kernels.rows)
        rows = self.token_of_word + length * torch.arange(batch, device=tokens.device)[:, None]
        words = tokens.flatten(0, 1).index_select(0, rows.flatten()).unflatten(0, rows.shape)
        return words if dtype is None else words.to(dtype)

    def scatter(self, words: Tensor) -> Tensor:
        """From words [B, N] to their first sub-words [B, T]; 0 elsewhere."""
        kernels = kernels_for("lattice", words.device)
        if kernels is not None:
            return kernels.at_tokens(words, self.mask, self.word_of_token)
        return torch.where(self.mask, words.gather(1, self.word_of_token.clamp(min=0)), 0)


class _Rows(torch.autograd.Function):
    """Rows in another order; each is read once, so that the gradient is a copy too."""

    @staticmethod
    def forward(ctx, tokens, places, dtype, function):
        ctx.save_for_backward(places)
        ctx.dtype, ctx.function = tokens.dtype, function
        return function(tokens, places, dtype, back=False)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        (places,) = ctx.saved_tensors
        return ctx.function(gradient, places, ctx.dtype, back=True), None, None, None


def word_start_table(tokenizer: Any, size: int) -> Tensor:
    """Tell for each token of a vocabulary whether it starts a word.

    WordPiece marks what goes on with ``##``; byte-level and Metaspace tokenizers mark what starts
    (and a token that begins with punctuation starts a word of its own).

    Args:
        tokenizer: The tokenizer of the vocabulary.
        size: Rows of the encoder's embedding; rows without a token count as special.

    Returns:
        SPECIAL, STARTS_WORD or INSIDE_WORD for each token [size] int8.
    """
    vocabulary = {i: token for token, i in tokenizer.get_vocab().items() if i < size}
    pieces = any(token.startswith("##") and len(token) > 2 for token in vocabulary.values())
    marks = tuple(m for m in ("Ġ", "▁") if any(t.startswith(m) for t in vocabulary.values()))

    def starts_word(token: str) -> bool:
        if pieces:
            return not token.startswith("##")
        return not marks or token.startswith(marks) or not token[:1].isalnum()

    table = torch.full((size,), SPECIAL, dtype=torch.int8)
    for index, token in vocabulary.items():
        table[index] = STARTS_WORD if starts_word(token) else INSIDE_WORD
    special = [i for i in tokenizer.all_special_ids if i < size and i != tokenizer.unk_token_id]
    table[special] = SPECIAL
    return table


def word_starts(table: Tensor, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
    """The first sub-word of each word [B, T], read off a table of the vocabulary.

    What goes on with a word right after a special token or at the very start begins one.
    """
    kind, before = _kinds(table, input_ids, attention_mask)
    return (kind == STARTS_WORD) | ((kind == INSIDE_WORD) & (before == SPECIAL))


def word_pieces(table: Tensor, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
    """The sub-words that go on with a word [B, T], read off a table of the vocabulary."""
    kind, before = _kinds(table, input_ids, attention_mask)
    return (kind == INSIDE_WORD) & (before != SPECIAL)


def _kinds(
    table: Tensor, input_ids: Tensor, attention_mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """What each sub-word is and what the one before is [B, T]; padding is special."""
    kind = table[input_ids]
    if attention_mask is not None:
        kind = kind * attention_mask.bool()
    before = torch.nn.functional.pad(kind, (1, 0), value=SPECIAL)[:, :-1]
    return kind, before
