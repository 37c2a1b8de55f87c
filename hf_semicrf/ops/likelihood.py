"""The partition function, the score of a segmentation, and the loss that the two make."""

from __future__ import annotations

from torch import Tensor

from hf_semicrf.ops import tail_operations
from hf_semicrf.ops.checks import Backend, checked, checked_labels, resolve_backend, told
from hf_semicrf.ops.host import factored
from hf_semicrf.ops.host.magnitude import narrowed
from hf_semicrf.ops.potentials import Potentials
from hf_semicrf.ops.tails import TailedPotentials


def log_partition(p: Potentials | TailedPotentials, backend: Backend = "auto") -> Tensor:
    """Sum over all segmentations: log Z, the log-sum of their scores, in nats.

    Differentiable once in every potential; the gradient is the expected counts. ``-inf`` where no
    segmentation is legal. O(N (L C + C^2)) time; O(N C) memory with a gradient.

    Args:
        p: Potentials, with a tail or without one.
        backend: Which implementation runs.

    Returns:
        Log Z [B], in the potentials' dtype, float32 at least.

    Raises:
        ValueError: Shapes, dtypes, devices or lengths do not fit.
        RuntimeError: The back end is not available.

    Source: Sarawagi and Cohen (2004), equation 5, with the source type reduced once a boundary.
    """
    if isinstance(p, TailedPotentials):
        return tail_operations.log_partition(p, backend)
    p = checked(p)
    log_z = factored.log_partition(p, resolve_backend(backend, p.lengths.device))
    return told(p, narrowed(log_z, p.duration.dtype))


def log_partition_difference(
    p: Potentials | TailedPotentials,
    q: Potentials | TailedPotentials,
    backend: Backend = "auto",
) -> Tensor:
    """Subtract log Z of one distribution from that of another, in nats [B].

    The difference is taken in float64. Where the segmentations of ``q`` are some of those of ``p``,
    scored alike, it is the negative log-probability that a segmentation is one of them: the loss of
    partly known labels. Differentiable once in every potential of both.

    Args:
        p: Potentials, with a tail or without one.
        q: Potentials of as many sentences; all else may differ.
        backend: Which implementation runs.

    Returns:
        The difference; ``inf`` where ``q`` has no legal segmentation.

    Raises:
        ValueError: Shapes, dtypes, devices or lengths do not fit.
        RuntimeError: The back end is not available.
    """
    if isinstance(p, TailedPotentials) and isinstance(q, TailedPotentials):
        return tail_operations.log_partition_difference(p, q, backend)
    p, q = checked(p), checked(q)
    if len(p.lengths) != len(q.lengths):
        raise ValueError(f"expected {len(p.lengths)} sentences in both, got {len(q.lengths)}")
    back_end = resolve_backend(backend, p.lengths.device)
    difference = factored.log_partition_difference(p, q, back_end)
    return told(p, narrowed(difference, p.duration.dtype))


def segmentation_score(p: Potentials | TailedPotentials, labels: Tensor, starts: Tensor) -> Tensor:
    """Score one segmentation a sentence, in nats; ``-inf`` where a segment is longer than L.

    Differentiable in every potential. O(N) time.

    Args:
        p: Potentials, with a tail or without one.
        labels: Type of each position [B, N]; past the length anything.
        starts: Whether a segment starts at the position [B, N] bool.

    Returns:
        Score [B], in the potentials' dtype, float32 at least.

    Raises:
        ValueError: Shapes do not fit; on the CPU also where a label is out of range, position 0
            starts no segment, or the type changes inside a segment.
    """
    if isinstance(p, TailedPotentials):
        return tail_operations.segmentation_score(p, labels, starts)
    p = checked(p)
    labels = checked_labels(p, labels, starts)
    back_end = resolve_backend("auto", p.lengths.device)
    score = factored.segmentation_score(p, labels, starts, back_end)
    return told(p, narrowed(score, p.duration.dtype))


def negative_log_likelihood(
    p: Potentials | TailedPotentials,
    labels: Tensor,
    starts: Tensor,
    backend: Backend = "auto",
) -> Tensor:
    """Compute the loss of one segmentation a sentence: log Z less its score, in nats [B].

    The difference is taken in float64. Differentiable once in every potential.

    Args:
        p: Potentials, with a tail or without one.
        labels: Type of each position [B, N].
        starts: Whether a segment starts at the position [B, N] bool.
        backend: Which implementation runs.

    Raises:
        ValueError: As :func:`segmentation_score`.
        RuntimeError: The back end is not available.
    """
    if isinstance(p, TailedPotentials):
        return tail_operations.negative_log_likelihood(p, labels, starts, backend)
    p = checked(p)
    labels = checked_labels(p, labels, starts)
    back_end = resolve_backend(backend, p.lengths.device)
    loss = factored.negative_log_likelihood(p, labels, starts, back_end)
    return told(p, narrowed(loss, p.duration.dtype))
