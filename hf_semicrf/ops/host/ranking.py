"""The k best segmentations, and the best through each place: the scan with k maxima a state.

A state (boundary, type) keeps the scores of its k best prefixes, best first. Those of a boundary
are chosen among all pairs of a last segment and a rank of what comes before it, so that no two of
them are one segmentation:

    alpha[e, c, :] = best k of pre[e-d, c, r] + seg(e-d, e, c)     over lengths d and ranks r
    pre[s, c, :]   = best k of alpha[s, c', r] + transition[c', c] over types c' and ranks r

It runs in NumPy, on the host and in float64; for Triton see ``kernels/ranking.py``.

Source: Huang and Chiang (2005), "Better k-best Parsing", algorithm 1, for segments.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hf_semicrf.ops.host.magnitude import (
    centred,
    is_small,
    narrowed_from_below,
    unusable,
)
from hf_semicrf.ops.host.scan import BLOCK_ELEMENTS
from hf_semicrf.ops.potentials import Potentials, only_read, reverse, scores_by_end
from hf_semicrf.ops.registry import kernels, operation, split_potentials
from hf_semicrf.ops.segmentations import spread_labels


class Ranked(NamedTuple):
    """The k best prefixes at every boundary, best first; -inf where there are fewer.

    Args:
        pre: Scores of those that tile [0, n), entering a type there [B, C, N+1, k].
        alpha: Scores of those that tile [0, n) and end in a type [B, C, N+1, k].
        source: Where each of ``pre`` comes from, type times k plus rank [N+1, B, C, k].
        last: The last segment of each of ``alpha``, length less one times k plus rank
            [N+1, B, C, k].
    """

    pre: np.ndarray
    alpha: np.ndarray
    source: np.ndarray
    last: np.ndarray


def k_best(p: Potentials, k: int, backend: str) -> tuple[Tensor, Tensor, Tensor]:
    """Find the k best segmentations: scores, float64 [B, k], labels and starts [B, k, N]."""
    return _k_best(*p, k, backend)


def max_marginals(
    p: Potentials, with_segment: bool, backend: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Find the best scores through each token, start, end [B, N, C] and segment [B, N, L, C].

    The last is empty unless asked for.
    """
    return _max_marginals(*p, with_segment, backend)


@operation(3, "int k", "str backend")
def _k_best(*inputs):
    p, (k, backend) = split_potentials(inputs)
    if backend == "triton":
        wrong = unusable(only_read(p))[:, None]
        score, labels, starts = kernels("ranking").k_best(p, k)
        other = wrong[..., None]
        return score.masked_fill(wrong, torch.nan), labels.masked_fill(other, -1), starts & ~other
    lengths = p.lengths
    p, level, wrong = _on_the_host(p)
    batch, positions, _, types = p.sizes
    ranked = _scan(p, k)
    length, rows = p.lengths.numpy()[:, None], np.arange(batch)[:, None]
    # [B, C, k]
    last = ranked.alpha[rows[:, 0], :, length[:, 0]] + p.final.numpy()[:, None]
    # [B, k] each
    score, chosen = _best_of(last.reshape(batch, types * k), k)
    score[wrong] = np.nan
    kind, rank = np.divmod(chosen, k)
    stop = np.where(score > -np.inf, length, 0)  # not where it is NaN
    score += level[:, None]
    labels = np.full((batch, k, positions), -1)
    starts = np.zeros(labels.shape, dtype=bool)
    while stop.any():
        b, j = np.nonzero(stop)
        c = kind[b, j]
        length_minus_one, before = np.divmod(ranked.last[stop[b, j], b, c, rank[b, j]], k)
        begin = stop[b, j] - 1 - length_minus_one
        labels[b, j, begin], starts[b, j, begin] = c, True
        kind[b, j], rank[b, j] = np.divmod(ranked.source[begin, b, c, before], k)
        stop[b, j] = begin
    scores, types_at_starts, opens = (
        torch.from_numpy(x).to(lengths.device) for x in (score, labels, starts)
    )
    return scores, spread_labels(types_at_starts, opens, lengths[:, None]), opens


@_k_best.register_fake
def _(*args):
    p, (k, _) = split_potentials(args)
    batch, positions, _, _ = p.sizes
    return (
        p.lengths.new_empty(batch, k, dtype=torch.float64),
        p.lengths.new_empty(batch, k, positions, dtype=torch.long),
        p.lengths.new_empty(batch, k, positions, dtype=torch.bool),
    )


@operation(4, "bool with_segment", "str backend")
def _max_marginals(*inputs):
    original, (with_segment, backend) = split_potentials(inputs)
    if backend == "triton":
        found = kernels("max_marginals").max_marginals(original, with_segment)
        wrong = unusable(only_read(original))
        scores = tuple(
            x.masked_fill(wrong.reshape(-1, *[1] * (x.ndim - 1)), torch.nan) if x.numel() else x
            for x in found
        )
    else:
        scores = _max_marginals_on_the_host(original, with_segment)
    token, opening, closing, through = (
        narrowed_from_below(x.to(original.lengths.device), original.duration.dtype) for x in scores
    )
    return token, opening, closing, through


def _max_marginals_on_the_host(original: Potentials, with_segment: bool) -> tuple[Tensor, ...]:
    p, level, wrong = _on_the_host(original)
    positions, longest = p.sizes[1:3]
    # [B, N + 1, C] each
    pre, post = (torch.from_numpy(_scan(q, 1).pre[..., 0]).transpose(1, 2) for q in (p, reverse(p)))
    mirrored = (p.lengths[:, None] - torch.arange(positions + 1)).clamp(min=0)
    post = post.gather(1, mirrored[..., None].expand_as(post))
    inside = (torch.arange(positions) < p.lengths[:, None])[..., None]
    # [B, N, L, C] by the end of a segment, then `through` by its start
    ending = scores_by_end(p, 0, positions) + post[:, 1:, None]
    through = torch.full_like(ending, -torch.inf)
    for d in range(longest):
        # [B, N - d, C]
        score = ending[:, d:, d]
        score += pre[:, : score.shape[1]]
        score.masked_fill_(~inside[:, d:], -torch.inf)
        through[:, : score.shape[1], d] = score
    # what covers a window of positions is as long as it, or covers it and a neighbour
    token = torch.full_like(through[:, :, 0], -torch.inf)
    for d in reversed(range(longest)):
        to_the_left = torch.nn.functional.pad(token, (0, 0, 1, 0), value=-torch.inf)[:, :-1]
        token = torch.maximum(torch.maximum(token, to_the_left), through[:, :, d])
    segment = through if with_segment else through.new_empty(0)
    shift = torch.from_numpy(np.where(wrong, np.nan, level))
    token, opening, closing = (
        x + shift[:, None, None] for x in (token, through.amax(2), ending.amax(2))
    )
    return (
        token,
        opening,
        closing,
        segment + shift[:, None, None, None] if with_segment else segment,
    )


@_max_marginals.register_fake
def _(*args):
    p, (with_segment, _) = split_potentials(args)
    batch, positions, longest, types = p.sizes
    token, start, end = (p.duration.new_empty(batch, positions, types) for _ in range(3))
    segment = p.duration.new_empty((batch, positions, longest, types) if with_segment else (0,))
    return token, start, end, segment


def _refuse_backward(ctx, *_):
    raise RuntimeError(
        "expected no derivative of best scores here; segmentation_score of what k_best or viterbi "
        "return is differentiable"
    )


_k_best.register_autograd(_refuse_backward)
_max_marginals.register_autograd(_refuse_backward)


def _on_the_host(p: Potentials) -> tuple[Potentials, np.ndarray, np.ndarray]:
    """Copy potentials to the CPU, in float64 and less what every segmentation has.

    Returns:
        The potentials, what was taken off [B], and whether a sentence's cannot be used [B] bool.
    """
    p, level = centred(p.map(Tensor.cpu)._replace(lengths=p.lengths.cpu()))
    wrong = torch.zeros_like(p.lengths, dtype=torch.bool)
    if not is_small(p):
        p = only_read(p)
        wrong = unusable(p)
    return p, level.numpy(), wrong.numpy()


def _scan(p: Potentials, k: int) -> Ranked:
    """Find the k best prefixes at every boundary, for potentials on the host."""
    batch, positions, longest, types = p.sizes
    # [C_dst, C_src, 1]
    step = p.transition.T[:, :, None].numpy()
    # pre starts with what lies before boundary 0
    pre = np.full((batch, types, longest + positions, k), -np.inf)
    pre[:, :, longest - 1, 0] = p.initial.numpy()
    alpha = np.full((batch, types, positions + 1, k), -np.inf)
    last = np.zeros((positions + 1, batch, types, k), dtype=np.int64)
    source = np.zeros_like(last)
    size = max(1, BLOCK_ELEMENTS // (batch * longest * types))
    for first in range(0, positions, size):
        beyond = min(first + size, positions)
        # [T, B, C, L, 1]
        scores = scores_by_end(p, first, beyond).permute(1, 0, 3, 2).numpy()[..., None]
        for n in range(first, beyond):
            # [B, C, L, k]
            window = pre[:, :, n : n + longest][:, :, ::-1]  # starts n, n - 1, ...
            segments = (window + scores[n - first]).reshape(batch, types, -1)
            best, last[n + 1] = _best_of(segments, k)
            alpha[:, :, n + 1] = best
            # [B, C_dst, C_src k]
            entering = (best[:, None] + step).reshape(batch, types, -1)
            pre[:, :, longest + n], source[n + 1] = _best_of(entering, k)
    return Ranked(pre[:, :, longest - 1 :], alpha, source, last)


def _best_of(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the k highest along the last axis, the first of equals first, and where they stand.

    Overwrites the scores. -inf where there are fewer than k.
    """
    flat = scores.reshape(-1, scores.shape[-1])
    rows = np.arange(len(flat))
    value = np.empty((len(flat), k))
    index = np.empty((len(flat), k), dtype=np.int64)
    for rank in range(k):
        index[:, rank] = flat.argmax(-1)
        value[:, rank] = flat[rows, index[:, rank]]
        flat[rows, index[:, rank]] = -np.inf
    shape = (*scores.shape[:-1], k)
    return value.reshape(shape), index.reshape(shape)
