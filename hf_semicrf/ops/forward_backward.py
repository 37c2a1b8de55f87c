"""What a scan in both directions leaves, and the expected counts that follow from it.

The tuples that the PyTorch and the Triton implementations share.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class State(NamedTuple):
    """What the scan leaves behind at every boundary, float64; index 0 holds prefixes, 1 suffixes.

    It is that of potentials less what every segmentation has: ``total`` is log Z without it.

    The true value is ``tensor[d, b, n, c] + offset[d, b, n]``, in units of the back end. Nothing is
    said of boundaries past a sentence's length. The kernels' state holds float32 in the memory of
    the sentences for which that is enough: `ops.kernels.scan.in_float64`.

    Args:
        pre: Log-sum of all prefixes that tile [0, n), entering a type there, and of all suffixes
            that tile [n, length), leaving a type there [2, B, N+1, C].
        alpha: Log-sum of all prefixes that tile [0, n) and end in a type, and of all suffixes that
            tile [n, length) and begin in a type [2, B, N+1, C].
        offset: Shift of both [2, B, N+1].
        total: Log-sum of all segmentations, and whether it takes float64 arithmetic [B, 2].
    """

    pre: Tensor
    alpha: Tensor
    offset: Tensor
    total: Tensor


class Expectations(NamedTuple):
    """Expected counts under the distribution, times each sentence's weight: the gradient of log Z.

    R is B, or 1 where the sentences' counts of what they share are added up.

    Args:
        emission: Positions of each type [B, N, C].
        segment: Segments [B, N, L, C], by start and length; empty unless asked for.
        start: Segments that start at n [B, N, C].
        end: Segments whose last position is n [B, N, C].
        shared: Segments of each length [R, L C], then neighbouring types [R, C_src C_dst], first
            types [R, C] and last types [R, C], side by side.
    """

    emission: Tensor
    segment: Tensor
    start: Tensor
    end: Tensor
    shared: Tensor

    def split(self, longest: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Counts of duration [R, L, C], transition [R, C_src, C_dst], initial and final [R, C]."""
        types, rows = self.start.shape[-1], self.shared.shape[0]
        sizes = (longest * types, types * types, types, types)
        duration, transition, initial, final = self.shared.split(sizes, 1)
        return (
            duration.view(rows, longest, types),
            transition.view(rows, types, types),
            initial,
            final,
        )
