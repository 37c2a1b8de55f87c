"""The recurrence of conditional means, a linear one: one program a sentence and direction.

With weights that the scan's sums give, and what each step adds by itself,

    mean_alpha[t+1, c] = gain[t, c] + sum_j chance[t, j, c] mean_pre[t+1-L+j, c]
    mean_pre[t+1, c]   = step_gain[t, c] + sum_{c'} mean_alpha[t+1, c'] step[t, c', c]

The means of the window are read back from memory, so that any L and C run; the two barriers of a
step lie between what a step writes and the next one reads. All in float64.

Memory traffic: N C (2 L + C + 4) reads, 2 N C writes a program.
Source: Li and Eisner (2009), "First- and Second-Order Expectation Semirings", section 4.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from hf_semicrf.ops.kernels.common import contiguous, power_of_two

MAX_ELEMENTS = 2048  # of a tile of weights


@triton.jit(do_not_specialize=["count", "longest", "types"])
def means_kernel(
    # weights and gains
    chance, gain, step, step_gain,
    # results
    mean_pre, mean_alpha,
    # sizes
    count, longest, types,
    ROWS: tl.constexpr, SOURCES: tl.constexpr, TYPES: tl.constexpr,
):  # fmt: skip
    """One sentence, one direction; see the head of this file."""
    p = tl.program_id(0).to(tl.int64)
    c, r, source = tl.arange(0, TYPES), tl.arange(0, ROWS), tl.arange(0, SOURCES)
    real = c < types
    stride = tl.num_programs(0).to(tl.int64) * types  # from one position to the next
    entry = p * types
    for t in range(count):
        mean = tl.load(gain + t * stride + entry + c, mask=real, other=0.0)
        for r0 in range(0, longest, ROWS):
            j = r0 + r
            inside = (j < longest)[:, None] & real[None, :]
            at = ((t * longest + j) * stride + entry)[:, None] + c[None, :]
            weight = tl.load(chance + at, mask=inside, other=0.0)
            at = ((t + j) * stride + entry)[:, None] + c[None, :]
            mean += tl.sum(weight * tl.load(mean_pre + at, mask=inside, other=0.0), 0)
        tl.store(mean_alpha + t * stride + entry + c, mean, mask=real)
        tl.debug_barrier()
        entered = tl.load(step_gain + t * stride + entry + c, mask=real, other=0.0)
        for s0 in range(0, types, SOURCES):
            s = s0 + source
            left = tl.load(mean_alpha + t * stride + entry + s, mask=s < types, other=0.0)
            at = (t * stride + entry + s)[:, None] * types + c[None, :]
            inside = (s < types)[:, None] & real[None, :]
            entered += tl.sum(left[:, None] * tl.load(step + at, mask=inside, other=0.0), 0)
        tl.store(mean_pre + (t + longest) * stride + entry + c, entered, mask=real)
        tl.debug_barrier()


def recurrence(
    chance: Tensor, gain: Tensor, step: Tensor, step_gain: Tensor, pre: Tensor, alpha: Tensor
) -> None:
    """As :func:`hf_semicrf.ops.host.means.recurrence`, on contiguous ``pre`` and ``alpha``."""
    count, longest, programs, types = chance.shape
    tile = max(2, power_of_two(types))
    rows = min(power_of_two(longest), max(1, MAX_ELEMENTS // tile))
    sources = min(tile, max(1, MAX_ELEMENTS // tile))
    means_kernel[(programs,)](
        # weights and gains
        *contiguous((chance, gain, step, step_gain)),
        # results
        pre, alpha,
        # sizes
        count, longest, types,
        ROWS=rows, SOURCES=sources, TYPES=tile, num_warps=4 if rows * tile > 512 else 1,
    )  # fmt: skip
