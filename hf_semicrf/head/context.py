"""Cheap mixers of a word's state with its neighbours', between the encoder and the scorer."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from hf_semicrf.head.scorers import ScorerSettings


class ConvolutionContext(nn.Module):
    """Adds what a position's neighbours say: a convolution over three words, and back."""

    def __init__(self, s: ScorerSettings):
        super().__init__()
        self.dropout = nn.Dropout(s.dropout)
        self.convolution = nn.Conv1d(s.hidden_size, s.width, 3, padding=1)
        self.output = nn.Linear(s.width, s.hidden_size)

    def forward(self, hidden: Tensor, lengths: Tensor) -> Tensor:
        """Hidden states [B, N, H] of sentences of ``lengths`` [B] to such states."""
        n = torch.arange(hidden.shape[1], device=hidden.device)
        words = self.dropout(hidden) * (n < lengths[:, None])[..., None]
        mixed = gelu(self.convolution(words.transpose(1, 2)).transpose(1, 2))
        return hidden + self.output(self.dropout(mixed))


class LSTMContext(nn.Module):
    """Adds what a position's neighbours say: an LSTM over the words in both directions."""

    def __init__(self, s: ScorerSettings):
        super().__init__()
        self.dropout = nn.Dropout(s.dropout)
        self.forwards = nn.LSTM(s.hidden_size, s.width // 2, batch_first=True)
        self.backwards = nn.LSTM(s.hidden_size, s.width // 2, batch_first=True)
        self.output = nn.Linear(2 * (s.width // 2), s.hidden_size)

    def forward(self, hidden: Tensor, lengths: Tensor) -> Tensor:
        """Hidden states [B, N, H] of sentences of ``lengths`` [B] to such states."""
        words = self.dropout(hidden)
        # the words from last to first; the padding keeps its place and is read after them
        n = torch.arange(hidden.shape[1], device=hidden.device)
        mirror = torch.where(n < lengths[:, None], lengths[:, None] - 1 - n, n)[..., None]
        left, _ = self.forwards(words)
        right, _ = self.backwards(words.gather(1, mirror.expand_as(words)))
        right = right.gather(1, mirror.expand_as(right))
        return hidden + self.output(self.dropout(torch.cat([left, right], -1)))


CONTEXTS: dict[str, type[nn.Module]] = {"convolution": ConvolutionContext, "lstm": LSTMContext}
