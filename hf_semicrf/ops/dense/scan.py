"""The dense recurrence in PyTorch: any device, any strides, no autograd graph of T steps.

With N = lengths - 1, D = max(K - 1, 1) durations, and the sum ⊕ of the semiring (logsumexp or max):

    beta[0, c]   = 0          beta[n, c]   = ⊕_{d, c'} beta[n-d, c'] + edge[n-d, d, c, c']
    gamma[N, c]  = 0          gamma[s, c'] = ⊕_{d, c}  edge[s, d, c, c'] + gamma[s+d, c]
    score = ⊕_c beta[N, c]    d score / d edge = exp(beta[s, c'] + edge + gamma[s+d, c] - score)

beta is computed in push form: once beta[s] is final, row s of `edge` (one slice, whatever its
strides) is added to a window of the next D boundaries. States are float64; the rows are added in
the tile's dtype relative to the largest state near them, so that rounding does not grow with T.

Source: Sarawagi and Cohen (2004), "Semi-Markov Conditional Random Fields for Information
Extraction", section 3; the gradient is the forward-backward product.
"""

from __future__ import annotations

import torch
from torch import Tensor

_CHUNK_ELEMENTS = 1 << 22  # of a gradient's temporaries

_reduce = {"log": torch.logsumexp, "max": torch.amax}
_join = {"log": torch.logaddexp, "max": torch.maximum}


def tile_dtype(dtype: torch.dtype, validate: bool = False) -> torch.dtype:
    """The dtype in which rows are summed: float64 where asked for, and never below float32."""
    return torch.float64 if validate or dtype == torch.float64 else torch.float32


def durations(edge: Tensor) -> tuple[int, int]:
    """Number of durations D, and the index of duration 1 on the axis K."""
    k = edge.shape[2]
    return (1, 0) if k == 1 else (k - 1, 1)


def _finite(x: Tensor) -> Tensor:
    return torch.where(x.isfinite(), x, torch.zeros_like(x))


def _steps(edge: Tensor, lengths: Tensor) -> int:
    """Rows that any sequence uses; on the GPU all rows, since asking would synchronise."""
    return int(lengths.max()) - 1 if lengths.device.type == "cpu" else edge.shape[1]


def scan(
    edge: Tensor, lengths: Tensor, semiring: str, dtype: torch.dtype, keep_states: bool
) -> tuple[Tensor, Tensor]:
    """Sum over all tilings.

    Args:
        edge: Potentials [B, T-1, K, C, C], nats.
        lengths: Boundaries of each sequence [B], 1..T.
        semiring: `"log"` or `"max"`.
        dtype: Of the sums within a row.
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
    for s in range(_steps(edge, lengths)):
        reference = _finite(beta.amax(-1))[:, None]
        row = edge[:, s, first:].to(dtype) + (beta - reference).to(dtype)[:, None, None, :]
        pushed = reduce(row, -1).double() + reference[:, None]  # [B, D, C]
        used = s + ahead <= last[:, None]
        window = join(window, torch.where(used[..., None], pushed, -torch.inf))
        beta = window[:, 0]
        window = torch.cat([window[:, 1:], empty], dim=1)
        if keep_states:
            states[:, s + 1] = beta
        score = torch.where(last == s + 1, reduce(beta, -1), score)
    return score, states


def reverse_scan(edge: Tensor, lengths: Tensor, dtype: torch.dtype) -> Tensor:
    """States gamma [B, T + D, C], float64, log semiring; -inf past each sequence's end."""
    batch, rows, _, _, types = edge.shape
    count, first = durations(edge)
    last = lengths - 1
    boundary = torch.arange(rows + 1 + count, device=edge.device)
    gamma = torch.where(boundary == last[:, None], 0.0, -torch.inf).double()
    gamma = gamma[..., None].repeat(1, 1, types)
    for s in reversed(range(_steps(edge, lengths))):
        ahead = gamma[:, s + 1 : s + 1 + count]  # [B, D, C]
        reference = _finite(ahead.amax((1, 2)))[:, None]
        row = edge[:, s, first:].to(dtype) + (ahead - reference[..., None]).to(dtype)[..., None]
        pulled = torch.logsumexp(row, 2)  # [B, D, C']
        used = boundary[s + 1 : s + 1 + count] <= last[:, None]
        pulled = torch.logsumexp(torch.where(used[..., None], pulled, -torch.inf), 1)
        gamma[:, s] = torch.where(s < last[:, None], pulled.double() + reference, gamma[:, s])
    return gamma


def scan_gradient(
    edge: Tensor, lengths: Tensor, beta: Tensor, dtype: torch.dtype, grad_score: Tensor
) -> Tensor:
    """Multiply grad_score with the marginal of every edge: the gradient in the log semiring.

    Args:
        edge: Potentials [B, T-1, K, C, C], nats.
        lengths: Boundaries of each sequence [B].
        beta: From `scan` with `keep_states` [B, T, C].
        dtype: Of the exponentials.
        grad_score: Gradient of each score [B].

    Returns:
        Tensor [B, T-1, K, C, C] of edge's dtype; exact zeros where no tiling goes.
    """
    batch, rows, size, types, _ = edge.shape
    count, first = durations(edge)
    gamma = reverse_scan(edge, lengths, dtype)
    total = gamma[:, 0].logsumexp(-1)
    feasible = total.isfinite()
    total = _finite(total)
    ahead = gamma[:, 1:].unfold(1, count, 1).transpose(2, 3)  # [B, T, D, C]: gamma[s+d]
    gradient = torch.zeros(edge.shape, dtype=edge.dtype, device=edge.device)
    duration = torch.arange(1, count + 1, device=edge.device)
    chunk = max(1, _CHUNK_ELEMENTS // max(1, batch * size * types * types))
    for begin in range(0, rows, chunk):
        end = min(begin + chunk, rows)
        behind = beta[:, begin:end]
        reference = _finite(behind.amax(-1, keepdim=True))  # [B, S, 1]
        rest = ahead[:, begin:end] + (reference - total[:, None, None])[..., None]
        exponent = edge[:, begin:end, first:].to(dtype) + rest.to(dtype)[..., None]
        exponent += (behind - reference).to(dtype)[:, :, None, None, :]
        boundary = torch.arange(begin, end, device=edge.device)[:, None] + duration  # [S, D]
        used = (boundary <= lengths[:, None, None] - 1) & feasible[:, None, None]
        marginal = exponent.exp_().mul_(grad_score.to(dtype)[:, None, None, None, None])
        marginal.masked_fill_(~used[..., None, None], 0.0)
        gradient[:, begin:end, first:] = marginal
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
