"""The recurrence of conditional means, in PyTorch.

    mean_alpha[t+1, c] = gain[t, c] + sum_j chance[t, j, c] mean_pre[t+1-L+j, c]
    mean_pre[t+1, c]   = step_gain[t, c] + sum_{c'} mean_alpha[t+1, c'] step[t, c', c]

Source: Li and Eisner (2009), "First- and Second-Order Expectation Semirings", section 4.
"""

from __future__ import annotations

from torch import Tensor


def recurrence(
    chance: Tensor, gain: Tensor, step: Tensor, step_gain: Tensor, pre: Tensor, alpha: Tensor
) -> None:
    """Write the means of a block's T boundaries.

    Args:
        chance: Probability of a segment given its end and type [T, L, R, C], the longest first.
        gain: The mean value of that segment [T, R, C].
        step: Probability of the type before, given the type entered [T, R, C, C].
        step_gain: The mean value of that transition [T, R, C].
        pre: Means on entering a type [L + T, R, C], the first L of them known.
        alpha: Means on leaving one [T, R, C].
    """
    longest = chance.shape[1]
    for t in range(len(chance)):
        # [L, R, C] to [R, C]
        alpha[t] = (chance[t] * pre[t : t + longest]).sum(0) + gain[t]
        # [R, 1, C] times [R, C_src, C_dst] to [R, C_dst]
        pre[t + longest] = (alpha[t, :, None] @ step[t])[:, 0] + step_gain[t]
