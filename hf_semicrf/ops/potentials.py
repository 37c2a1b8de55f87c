"""The potentials of a semi-Markov CRF, and the one definition of a segment's score.

A segmentation tiles the ``N`` positions of a sentence with segments ``(s, e, c)``: half-open, of
length ``1..L`` and of type ``c``. Its score, in nats, is

    score(y) = initial[c_1] + sum_j seg(s_j, e_j, c_j) + sum_{j>1} transition[c_{j-1}, c_j] + final[c_J]
    seg(s, e, c) = segment[s, e-s-1, c] + sum_{s<=t<e} emission[t, c] + start[s, c] + end[e-1, c]
                   + duration[e-s-1, c]

Source: Sarawagi and Cohen (2004), "Semi-Markov Conditional Random Fields for Information
Extraction", equations 1 to 3; the transition here does not depend on the duration.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Potentials(NamedTuple):
    """Scores of a batch of sentences, in nats; ``-inf`` forbids what it scores.

    Args:
        emission: Score of each position [B, N, C], or None for zeros.
        segment: Score [B, N, L, C] of the segment that starts at n with length l + 1, or None.
        start: Score of starting a segment at n [B, N, C], or None.
        end: Score of a segment whose last position is n [B, N, C], or None.
        duration: Score of each length [L, C]; its first dimension is the longest segment, L.
        transition: Score of type ``dst`` directly after type ``src`` [C_src, C_dst].
        initial: Score of the first segment's type [C].
        final: Score of the last segment's type [C].
        lengths: Positions of each sentence [B], 1..N.
    """

    emission: Tensor | None
    segment: Tensor | None
    start: Tensor | None
    end: Tensor | None
    duration: Tensor
    transition: Tensor
    initial: Tensor
    final: Tensor
    lengths: Tensor

    @property
    def per_position(self) -> Tensor:
        """Any one of the tensors that begin [B, N, ...]."""
        for tensor in (self.emission, self.segment, self.start, self.end):
            if tensor is not None:
                return tensor
        raise ValueError("expected at least one of emission, segment, start and end; all are None")
