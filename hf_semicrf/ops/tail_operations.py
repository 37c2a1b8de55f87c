"""The public operations on potentials with a tail that have scans of their own."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_semicrf.ops.checks import (
    Backend,
    check_scores,
    checked,
    checked_labels,
    checked_spans,
    refuse_untold,
    resolve_backend,
    values_are_checked,
)
from hf_semicrf.ops.host import tailed
from hf_semicrf.ops.host.magnitude import centred, narrowed
from hf_semicrf.ops.potentials import Potentials, only_read
from hf_semicrf.ops.segmentations import segment_bounds
from hf_semicrf.ops.tails import TailedPotentials
from hf_semicrf.options import check


def checked_tail(p: TailedPotentials) -> TailedPotentials:
    """Check potentials with a tail and return them in float32 or float64.

    Raises:
        TypeError: They are none.
        ValueError: Shapes, dtypes, devices or lengths do not fit, there are segment scores, or a
            score is NaN or ``+inf``.
    """
    order = check(optional=False, tail_order=p.order)["tail_order"]
    if isinstance(p.body, Potentials) and p.body.segment is not None:
        raise ValueError("expected no segment scores with a tail: they end at the longest segment")
    body = checked(p.body)
    types = body.sizes[3]
    for name, x in (("enter", p.enter), ("stay", p.stay)):
        if not isinstance(x, Tensor):
            raise TypeError(f"expected {name} as a tensor, got {type(x).__name__}")
        if x.shape != (types,) or not x.is_floating_point() or x.device != body.lengths.device:
            raise ValueError(
                f"expected {name} of shape [{types}] and a floating dtype on "
                f"{body.lengths.device}, got {list(x.shape)}, {x.dtype} on {x.device}"
            )
    if values_are_checked(body.lengths.device):
        check_scores({"enter": p.enter, "stay": p.stay})
    dtype = torch.promote_types(body.duration.dtype, p.enter.dtype)
    dtype = torch.promote_types(dtype, p.stay.dtype)
    return TailedPotentials(body, p.enter, p.stay, order).map(lambda x: x.to(dtype))


def told(p: TailedPotentials, result: Tensor) -> Tensor:
    """The result [B, ...]; an error where one is NaN, as `checks.told` has it."""
    if values_are_checked(result.device) and bool(result.isnan().any()):
        refuse_untold(result, p._replace(body=only_read(p.body)).scores())
    return result


def log_partition(p: TailedPotentials, backend: Backend) -> Tensor:
    """Log Z [B]."""
    p = checked_tail(p)
    log_z = tailed.log_partition(p, resolve_backend(backend, p.lengths.device))
    return told(p, narrowed(log_z, p.enter.dtype))


def log_partition_difference(p: TailedPotentials, q: TailedPotentials, backend: Backend) -> Tensor:
    """Log Z of p less that of q [B]."""
    p, q = checked_tail(p), checked_tail(q)
    if len(p.lengths) != len(q.lengths):
        raise ValueError(f"expected {len(p.lengths)} sentences in both, got {len(q.lengths)}")
    back_end = resolve_backend(backend, p.lengths.device)
    (of_p, more), (of_q, less) = centred(p.body), centred(q.body)
    log_z, other = (
        tailed.log_partition(x._replace(body=body), back_end) for x, body in ((p, of_p), (q, of_q))
    )
    return told(p, narrowed(tailed.loss_of(log_z, other) + (more - less), p.enter.dtype))


def segmentation_score(p: TailedPotentials, labels: Tensor, starts: Tensor) -> Tensor:
    """The score of a segmentation [B]."""
    p = checked_tail(p)
    labels = checked_labels(p.body, labels, starts)
    score = tailed.segmentation_score(p, labels, starts)
    return told(p, narrowed(score, p.enter.dtype))


def negative_log_likelihood(
    p: TailedPotentials, labels: Tensor, starts: Tensor, backend: Backend
) -> Tensor:
    """Log Z less the score of a segmentation [B]."""
    p = checked_tail(p)
    labels = checked_labels(p.body, labels, starts)
    back_end = resolve_backend(backend, p.lengths.device)
    loss = tailed.negative_log_likelihood(p, labels, starts, back_end)
    return told(p, narrowed(loss, p.enter.dtype))


def best_segmentation(p: TailedPotentials, backend: Backend) -> tuple[Tensor, Tensor]:
    """Labels [B, N] and starts [B, N] of the best segmentation."""
    p = checked_tail(p)
    return tailed.best(p, resolve_backend(backend, p.lengths.device))


def viterbi(p: TailedPotentials, backend: Backend) -> tuple[Tensor, Tensor, Tensor]:
    """Score [B], labels [B, N] and starts [B, N] of the best segmentation."""
    p = checked_tail(p)
    labels, starts = tailed.best(p, resolve_backend(backend, p.lengths.device))
    score = tailed.segmentation_score(p, labels.clamp(min=0), starts)
    score = torch.where(labels[:, 0] < 0, torch.nan, score)
    return told(p, narrowed(score, p.enter.dtype)), labels, starts


def segment_marginals(p: TailedPotentials, spans: Tensor, backend: Backend) -> Tensor:
    """The probability [B, S, C] that each of some spans [B, S, 2] is a segment, of any length."""
    p = checked_tail(p)
    spans = checked_spans(p.body, spans)
    back_end = resolve_backend(backend, p.lengths.device)
    return told(p, tailed.segment_marginals(p, spans, back_end)).to(p.enter.dtype)


def decoded_posteriors(
    p: TailedPotentials, labels: Tensor, starts: Tensor, backend: Backend = "auto"
) -> Tensor:
    """Compute the probability of the segment that covers each position, of one segmentation.

    O(N) beside the scan: from its states, with no tensor over all segments.

    Args:
        p: Potentials with a tail.
        labels: Type of each position [B, N]; past the length anything.
        starts: Whether a segment starts at the position [B, N] bool.
        backend: Which implementation runs.

    Returns:
        Probabilities [B, N]; 0 past a length.

    Raises:
        ValueError: Shapes, dtypes, devices or lengths do not fit.
        RuntimeError: The back end is not available.
    """
    p = checked_tail(p)
    positions = p.sizes[1]
    inside, begin, ends = segment_bounds(starts, p.lengths)
    n = torch.arange(positions, device=labels.device)
    stop = torch.where(ends, n + 1, positions).flip(1).cummin(1).values.flip(1)
    spans = torch.where(inside[..., None], torch.stack([begin, stop], -1), 0)
    found = segment_marginals(p, spans, backend)
    return torch.where(inside, found.gather(2, labels.clamp(min=0)[..., None])[..., 0], 0)
