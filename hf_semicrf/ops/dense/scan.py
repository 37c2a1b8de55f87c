"""The dense recurrence in PyTorch: any device, any strides, no autograd graph of T steps.

With N = lengths - 1, D = max(K - 1, 1) durations, and the sum ⊕ of the semiring (logsumexp or max):

    beta[0, c]   = 0          beta[n, c]   = ⊕_{d, c'} beta[n-d, c'] + edge[n-d, d, c, c']
    gamma[N, c]  = 0          gamma[s, c'] = ⊕_{d, c}  edge[s, d, c, c'] + gamma[s+d, c]
    score = ⊕_c beta[N, c]    d score / d edge = exp(beta[s, c'] + edge + gamma[s+d, c] - score)

beta is computed in push form: once beta[s] is final, row s of `edge` (one slice, whatever its
strides) is added to a window of the next D boundaries. All in float64: scores up to 2e10 are told
apart. Larger ones are forbidden where they are negative and what is left is so much better that no
digit depends on them; a sequence with others, with NaN or with +inf has NaN for every result.

Source: Sarawagi and Cohen (2004), "Semi-Markov Conditional Random Fields for Information
Extraction", section 3; the gradient is the forward-backward product.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_CHUNK_ELEMENTS = 1 << 22  # of a gradient's temporaries

LARGEST = 2e10  # in nats: ten scores of 2e9
CERTAIN = 1e3  # nats between what is forbidden and what is left: exp(-1e3) is 0

_reduce = {"log": torch.logsumexp, "max": torch.amax}
_join = {"log": torch.logaddexp, "max": torch.maximum}


def durations(edge: Tensor) -> tuple[int, int]:
    """Number of durations D, and the index of duration 1 on the axis K."""
    k = edge.shape[2]
    return (1, 0) if k == 1 else (k - 1, 1)


def is_large(edge: Tensor) -> bool:
    """Whether some score may not be told apart; on the GPU yes, since asking would synchronise."""
    if edge.device.type != "cpu" or not edge.numel():
        return True
    low, high = (float(x) for x in torch.where(edge == -torch.inf, 0, edge).aminmax())
    return not -LARGEST <= low <= high <= LARGEST


def _usable(edge: Tensor) -> Tensor:
    """Scores in float64: -inf for those below `-LARGEST`, NaN for those above."""
    edge = edge.double()
    edge = torch.where(edge > LARGEST, torch.nan, edge)
    return torch.where(edge < -LARGEST, -torch.inf, edge)


def _steps(edge: Tensor, lengths: Tensor) -> int:
    """Rows that any sequence uses; on the GPU all rows, since asking would synchronise."""
    return int(lengths.max()) - 1 if lengths.device.type == "cpu" else edge.shape[1]


def scan(edge: Tensor, lengths: Tensor, semiring: str, keep_states: bool) -> tuple[Tensor, Tensor]:
    """Sum over all tilings.

    Args:
        edge: Potentials [B, T-1, K, C, C], nats.
        lengths: Boundaries of each sequence [B], 1..T.
        semiring: `"log"` or `"max"`.
        keep_states: Whether to keep beta; without it the memory of the recurrence is O(B·K·C).

    Returns:
        score [B] and beta [B, T, C] (or [B, 0, C]), float64.
    """
    reduce, join = _reduce[semiring], _join[semiring]
    batch, rows, _, _, types = edge.shape
    count, first = durations(edge)
    last = lengths - 1
    beta = edge.new_zeros((batch, types), dtype=torch.float64)
    states = beta.new_full((batch, (rows + 1) * keep_states, types), -torch.inf)
    states[:, :1] = beta[:, None]
    window = beta.new_full((batch, count, types), -torch.inf)  # boundaries s+1, ..., s+D
    empty = window[:, :1].clone()
    ahead = torch.arange(1, count + 1, device=edge.device)
    score = reduce(beta, -1)
    large = is_large(edge)
    forbidden, gain = beta.new_full((batch,), -torch.inf), beta.new_zeros(batch)
    for s in range(_steps(edge, lengths)):
        row = edge[:, s, first:].double()
        used = s + ahead <= last[:, None]  # [B, D]
        if large:
            read = torch.where(used[..., None, None], row, -torch.inf)
            row = _usable(read)
            lost = torch.where(row == -torch.inf, read, -torch.inf)
            forbidden = forbidden.maximum(lost.amax((1, 2, 3)))
            gain = gain + row.amax((1, 2, 3)).clamp(min=0)  # at most, of the segment that starts
        pushed = reduce(row + beta[:, None, None, :], -1)  # [B, D, C]
        window = join(window, torch.where(used[..., None], pushed, -torch.inf))
        beta = window[:, 0]
        window = torch.cat([window[:, 1:], empty], dim=1)
        if keep_states:
            states[:, s + 1] = beta
        score = torch.where(last == s + 1, reduce(beta, -1), score)
    if large:
        least = forbidden + gain + CERTAIN + last * math.log(2 * types)
        told = (score > least) | ((forbidden == -torch.inf) & (score < torch.inf))
        score = torch.where(told, score, torch.nan)
        states = torch.where(told[:, None, None], states, torch.nan)
    return score, states


def reverse_scan(edge: Tensor, lengths: Tensor) -> Tensor:
    """States gamma [B, T + D, C], float64, log semiring; -inf past each sequence's end."""
    batch, rows, _, _, types = edge.shape
    count, first = durations(edge)
    last = lengths - 1
    boundary = torch.arange(rows + 1 + count, device=edge.device)
    gamma = torch.where(boundary == last[:, None], 0.0, -torch.inf).double()
    gamma = gamma[..., None].repeat(1, 1, types)
    for s in reversed(range(_steps(edge, lengths))):
        ahead = gamma[:, s + 1 : s + 1 + count]  # [B, D, C]
        row = _usable(edge[:, s, first:]) + ahead[..., None]
        pulled = torch.logsumexp(row, 2)  # [B, D, C']
        used = boundary[s + 1 : s + 1 + count] <= last[:, None]
        pulled = torch.logsumexp(torch.where(used[..., None], pulled, -torch.inf), 1)
        gamma[:, s] = torch.where(s < last[:, None], pulled, gamma[:, s])
    return gamma


def scan_gradient(edge: Tensor, lengths: Tensor, beta: Tensor, grad_score: Tensor) -> Tensor:
    """Multiply grad_score with the marginal of every edge: the gradient in the log semiring.

    Args:
        edge: Potentials [B, T-1, K, C, C], nats.
        lengths: Boundaries of each sequence [B].
        beta: From `scan` with `keep_states` [B, T, C].
        grad_score: Gradient of each score [B].

    Returns:
        Tensor [B, T-1, K, C, C] of edge's dtype; exact zeros where no tiling goes.
    """
    batch, rows, size, types, _ = edge.shape
    count, first = durations(edge)
    gamma = reverse_scan(edge, lengths)
    total = gamma[:, 0].logsumexp(-1)
    counted = (total != -torch.inf) & (grad_score != 0)
    total = torch.where(total == -torch.inf, 0, total)
    ahead = gamma[:, 1:].unfold(1, count, 1).transpose(2, 3)  # [B, T, D, C]: gamma[s+d]
    # [B, 1, 1, 1, 1]
    elsewhere = torch.where(beta[:, :1, :1].isnan(), torch.nan, 0.0)[..., None, None]
    gradient = elsewhere.to(edge.dtype).expand(edge.shape).contiguous()
    duration = torch.arange(1, count + 1, device=edge.device)
    chunk = max(1, _CHUNK_ELEMENTS // max(1, batch * size * types * types))
    for begin in range(0, rows, chunk):
        end = min(begin + chunk, rows)
        rest = ahead[:, begin:end] - total[:, None, None, None]
        exponent = _usable(edge[:, begin:end, first:]) + rest[..., None]
        exponent += beta[:, begin:end, None, None]
        boundary = torch.arange(begin, end, device=edge.device)[:, None] + duration  # [S, D]
        used = (boundary <= lengths[:, None, None] - 1) & counted[:, None, None]
        marginal = (
            exponent.clamp_(max=0).exp_().mul_(grad_score.double()[:, None, None, None, None])
        )
        gradient[:, begin:end, first:] = torch.where(used[..., None, None], marginal, elsewhere)
    return gradient


def trace(edge: Tensor, lengths: Tensor, beta: Tensor) -> Tensor:
    """Follow the best tiling back from its last boundary.

    Args:
        edge: Potentials [B, T-1, K, C, C], nats.
        lengths: Boundaries of each sequence [B].
        beta: From `scan` with `keep_states` in the max semiring [B, T, C].

    Returns:
        Path [B, T-1], int64: where a segment starts its place in `edge[b, s].flatten()`, else -1.
    """
    batch, rows, size, types, _ = edge.shape
    count, first = durations(edge)
    path = lengths.new_full((batch, rows + 1), -1, dtype=torch.int64)  # the last column: discarded
    boundary = lengths.to(torch.int64) - 1
    sequence = torch.arange(batch, device=edge.device)
    kind = beta[sequence, boundary].argmax(-1)
    for n in range(_steps(edge, lengths), 0, -1):
        here = boundary == n
        start = torch.arange(n - 1, max(n - count, 0) - 1, -1, device=edge.device)
        index = n - start - 1 + first
        step = edge[sequence[:, None], start, index, kind[:, None]].double() + beta[:, start]
        best = step.flatten(1).argmax(-1)  # over [durations, C']
        origin = start[best // types]
        entry = (index[best // types] * types + kind) * types + best % types
        path.scatter_(1, torch.where(here, origin, rows)[:, None], entry[:, None])
        boundary = torch.where(here, origin, boundary)
        kind = torch.where(here, best % types, kind)
    return path[:, :rows].contiguous()
