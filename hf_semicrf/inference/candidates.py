"""All segments of a text that are probable enough, overlapping ones included."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from hf_semicrf.head import SemiCRFOutput
from hf_semicrf.text import Window


class Candidates(NamedTuple):
    """Segments of a run of words, in the order of their first and last words, types and posteriors.

    Args:
        first: First word of each [K].
        end: The word after its last [K].
        type: Number of its type, never the outside's 0 [K].
        posterior: Probability of exactly this segment [K].
    """

    first: np.ndarray
    end: np.ndarray
    type: np.ndarray
    posterior: np.ndarray

    def where(self, mask: np.ndarray) -> Candidates:
        """Those of a mask [K]."""
        return Candidates(*(column[mask] for column in self))

    def coverage(self, words: int) -> np.ndarray:
        """The highest posterior of a candidate over each of a run's words [words]; 0 for none."""
        covered = np.zeros(words)
        for d in range(int((self.end - self.first).max(initial=0))):
            longer = self.end - self.first > d
            np.maximum.at(covered, self.first[longer] + d, self.posterior[longer])
        return covered


def candidates_of(head: SemiCRFOutput, threshold: float) -> list[Candidates]:
    """The candidates of each sentence of a batch, counted from its first word.

    Args:
        head: What the head computed for finite scores, with the posteriors of all segments.
        threshold: The least posterior of a candidate.
    """
    assert head.marginals is not None and head.marginals.segment is not None
    segment = head.marginals.segment[..., 1:]  # [B, N, L, C - 1]
    places = (segment >= threshold).nonzero(as_tuple=True)
    posterior = segment[places].clamp(max=1).double().cpu().numpy()
    row, first, length_minus_one, kind = torch.stack(places).cpu().numpy()
    columns = Candidates(first, first + length_minus_one + 1, kind + 1, posterior)
    return [columns.where(row == number) for number in range(len(segment))]


def joined_candidates(windows: Sequence[Window], parts: Sequence[Candidates]) -> Candidates:
    """The candidates of a text from those of its windows, each where it has most context.

    A segment that is no longer than what two windows share lies whole in one of them.

    Args:
        windows: The text's windows in order.
        parts: The candidates of each, counted from its first word.
    """
    if not windows:
        return Candidates(*(np.empty(0, kind) for kind in (int, int, int, float)))
    words = windows[-1].end
    chosen = []
    for number, (window, part) in enumerate(zip(windows, parts, strict=True)):
        moved = part._replace(first=part.first + window.first, end=part.end + window.first)
        near = [n for n, x in enumerate(windows) if x.first < window.end and window.first < x.end]
        context = np.stack([_context(windows[n], words, moved) for n in near])  # [M, K]
        chosen.append(moved.where(context.argmax(0) == near.index(number)))
    joined = Candidates(*(np.concatenate(column) for column in zip(*chosen, strict=True)))
    return joined.where(np.lexsort((joined.type, joined.end, joined.first)))


def _context(window: Window, words: int, segments: Candidates) -> np.ndarray:
    """Words that a window of a text shows on the poorer side of segments [K]; -1 of others'."""
    left, right = segments.first - window.first, window.end - segments.end
    inside = (left >= 0) & (right >= 0)
    # beyond the text there is nothing to see
    left = left if window.first else np.full_like(left, words)
    right = right if window.end < words else np.full_like(right, words)
    return np.where(inside, np.minimum(left, right), -1)
