"""The semi-Markov CRF as functions of its potentials: the public operations, in nats.

Every function takes :class:`Potentials` and ``backend="auto" | "torch" | "triton"``. This is the
only room that checks tensors and picks a back end. Shapes: B sentences, N positions, segments of
at most L positions, C types. A segmentation is the pair (labels [B, N], starts [B, N]); positions
past a sentence's length hold label -1, start False and marginals 0.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import psutil
import torch
from torch import Tensor

from hf_semicrf.ops import factored
from hf_semicrf.ops.dense import (
    edge_marginals,
    edge_viterbi,
    linear_scan_streaming,
    semi_crf_triton_forward,
)
from hf_semicrf.ops.potentials import Potentials, segment_scores
from hf_semicrf.ops.reference import bounds
from hf_semicrf.ops.routing import dense_route

try:
    import triton
except ImportError:  # CPU builds of PyTorch come without it
    triton = None

__all__ = [
    "Marginals",
    "Potentials",
    "at_segments",
    "dense_route",
    "edge_marginals",
    "edge_viterbi",
    "entropy",
    "linear_scan_streaming",
    "log_partition",
    "marginals",
    "minimum_risk",
    "negative_log_likelihood",
    "resolve_backend",
    "segment_sums",
    "segmentation_score",
    "semi_crf_triton_forward",
    "to_edge",
    "viterbi",
]

Backend = Literal["auto", "torch", "triton"]

_AXES = {
    "emission": "BNC",
    "segment": "BNLC",
    "start": "BNC",
    "end": "BNC",
    "duration": "LC",
    "transition": "CC",
    "initial": "C",
    "final": "C",
    "lengths": "B",
}


class Marginals(NamedTuple):
    """Posterior probabilities.

    Args:
        token: That position n lies in a segment of type c [B, N, C].
        start: That a segment of type c starts at n [B, N, C].
        end: That n is the last position of a segment of type c [B, N, C].
        segment: Of each segment, by start and length less one [B, N, L, C]; None unless asked for.
    """

    token: Tensor
    start: Tensor
    end: Tensor
    segment: Tensor | None = None


def resolve_backend(backend: Backend, device: torch.device) -> str:
    """The back end that runs for tensors on ``device``.

    Raises:
        ValueError: The name is unknown.
        RuntimeError: An explicit request cannot be met.
    """
    if backend not in ("auto", "torch", "triton"):
        raise ValueError(f'expected backend "auto", "torch" or "triton", got {backend!r}')
    if backend == "auto":
        return "triton" if device.type == "cuda" and triton is not None else "torch"
    if backend == "triton":
        if triton is None:
            raise RuntimeError('expected triton to be installed for backend="triton"; it is not')
        if device.type != "cuda" and not triton.knobs.runtime.interpret:
            raise RuntimeError(
                'expected tensors on a CUDA device for backend="triton", or TRITON_INTERPRET=1 in '
                f"the environment before triton is imported; got tensors on {device}"
            )
    return backend


def log_partition(p: Potentials, backend: Backend = "auto") -> Tensor:
    """Log-sum of the scores of all segmentations: log Z, in nats.

    Differentiable once in every potential; the gradient is the expected counts. ``-inf`` where no
    segmentation is legal. O(N (L C + C^2)) time; O(N C) memory with a gradient.

    Args:
        p: Potentials.
        backend: Which implementation runs.

    Returns:
        Log Z [B], in the potentials' dtype, float32 at least.

    Raises:
        ValueError: Shapes, dtypes, devices or lengths do not fit.
        RuntimeError: The back end is not available.

    Source: Sarawagi and Cohen (2004), equation 5, with the source type reduced once a boundary.
    """
    p = _checked(p)
    log_z = factored.log_partition(p, resolve_backend(backend, p.lengths.device))
    return log_z.to(p.duration.dtype)


def segmentation_score(p: Potentials, labels: Tensor, starts: Tensor) -> Tensor:
    """Score of one segmentation a sentence, in nats; ``-inf`` where a segment is longer than L.

    Differentiable in every potential. O(N) time.

    Args:
        p: Potentials.
        labels: Type of each position [B, N]; past the length anything.
        starts: Whether a segment starts at the position [B, N] bool.

    Returns:
        Score [B], in the potentials' dtype, float32 at least.

    Raises:
        ValueError: Shapes do not fit; on the CPU also where a label is out of range, position 0
            starts no segment, or the type changes inside a segment.
    """
    p = _checked(p)
    labels = _checked_labels(p, labels, starts)
    back_end = resolve_backend("auto", p.lengths.device)
    return factored.segmentation_score(p, labels, starts, back_end).to(p.duration.dtype)


def negative_log_likelihood(
    p: Potentials, labels: Tensor, starts: Tensor, backend: Backend = "auto"
) -> Tensor:
    """``log Z - score(labels, starts)`` in nats [B]; the difference is taken in float64.

    Args:
        p: Potentials.
        labels: Type of each position [B, N].
        starts: Whether a segment starts at the position [B, N] bool.
        backend: Which implementation runs.

    Raises:
        ValueError: As :func:`segmentation_score`.
        RuntimeError: The back end is not available.
    """
    p = _checked(p)
    labels = _checked_labels(p, labels, starts)
    back_end = resolve_backend(backend, p.lengths.device)
    return factored.negative_log_likelihood(p, labels, starts, back_end).to(p.duration.dtype)


def viterbi(p: Potentials, backend: Backend = "auto") -> tuple[Tensor, Tensor, Tensor]:
    """The segmentation with the highest score.

    O(N (L C + C^2)) time, O(N C) memory. Not differentiable in the path; the score is.

    Args:
        p: Potentials.
        backend: Which implementation runs.

    Returns:
        Score [B] in nats, labels [B, N] and starts [B, N].

    Raises:
        ValueError: Shapes, dtypes, devices or lengths do not fit.
        RuntimeError: The back end is not available.
    """
    p = _checked(p)
    back_end = resolve_backend(backend, p.lengths.device)
    labels, starts = factored.best(p, back_end)
    score = factored.segmentation_score(p, labels, starts, back_end)
    return score.to(p.duration.dtype), labels, starts


def marginals(p: Potentials, segment: bool = False, backend: Backend = "auto") -> Marginals:
    """Posterior probabilities of types, starts and ends at each position, and of segments.

    O(N (L C + C^2)) time; O(N C) memory, and B N L C more for ``segment``.

    Args:
        p: Potentials.
        segment: Whether to return the [B, N, L, C] posterior of every segment too.
        backend: Which implementation runs.

    Raises:
        ValueError: Shapes, dtypes, devices or lengths do not fit.
        RuntimeError: The back end is not available.
    """
    p = _checked(p)
    _, counts = factored.expectations(p, segment, resolve_backend(backend, p.lengths.device))
    token, start, end, of_segments = (
        x.clamp(0, 1)  # rounding leaves a certain event a little beside 1
        for x in (counts.emission, counts.start, counts.end, counts.segment)
    )
    return Marginals(token, start, end, of_segments if segment else None)


def minimum_risk(
    segment: Tensor, lengths: Tensor, threshold: float = 0.5, backend: Backend = "auto"
) -> tuple[Tensor, Tensor]:
    """The segmentation with the most expected correct segments, less ``threshold`` for each.

    Type 0 is the outside, which counts nothing and has segments of length 1: of all tilings, the
    one with the highest sum of ``segment - threshold`` over its segments of other types. The F1 of
    a corpus is highest at a threshold of half its value (Lipton et al., 2014), so below 0.5.
    O(N L C) time.

    Args:
        segment: Posterior of each segment, by start and length less one [B, N, L, C], as
            :func:`marginals` returns it.
        lengths: Positions of each sentence [B].
        threshold: What a segment's posterior has to exceed, in 0..1.
        backend: Which implementation runs.

    Returns:
        Labels [B, N] and starts [B, N].

    Raises:
        ValueError: The threshold is out of range, or shapes do not fit.
        RuntimeError: The back end is not available.

    Source: Goodman (1996), "Parsing Algorithms and Metrics", for segments instead of constituents.
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"expected a threshold in 0..1, got {threshold}")
    if segment.ndim != 4:
        raise ValueError(f"expected segment of shape [B, N, L, C], got {list(segment.shape)}")
    longest, types = segment.shape[2:]
    gain = segment - threshold
    gain[..., 0] = -torch.inf
    gain[:, :, 0, 0] = 0
    nothing = segment.new_zeros(types)
    p = Potentials(
        segment=gain,
        duration=segment.new_zeros(longest, types),
        transition=segment.new_zeros(types, types),
        initial=nothing,
        final=nothing,
        lengths=lengths,
    )
    p = _checked(p)
    return factored.best(p, resolve_backend(backend, p.lengths.device))


def entropy(p: Potentials, backend: Backend = "auto") -> Tensor:
    """Entropy of the distribution over segmentations, in nats [B]: log Z less the expected score.

    Computed in float64, since the two terms nearly cancel. NaN where no segmentation is legal.

    Args:
        p: Potentials.
        backend: Which implementation runs.

    Raises:
        ValueError: Shapes, dtypes, devices or lengths do not fit.
        RuntimeError: The back end is not available.
    """
    p = _checked(p)
    dtype, p = p.duration.dtype, p.map(Tensor.double)
    with_segment = p.segment is not None
    log_z, counts = factored.expectations(
        p, with_segment, resolve_backend(backend, p.lengths.device)
    )
    expected = torch.zeros_like(log_z)
    every = (*counts[:4], *counts.split(p.duration.shape[0]))
    for potential, count in zip(p[:-1], every, strict=True):
        if potential is not None:
            # an impossible event contributes nothing: 0 * -inf is 0 here
            expected += torch.where(potential.isfinite(), count * potential, 0).flatten(1).sum(1)
    return torch.where(log_z > -torch.inf, log_z - expected, torch.nan).to(dtype)


def to_edge(p: Potentials) -> Tensor:
    """The dense tensor of the same distribution: ``edge[b, start, duration, c_dst, c_src]``, nats.

    ``initial`` stands in the first segment's entries with source type 0 (``-inf`` for the other
    sources, so that the free source adds nothing), ``final`` in the entries that end a sentence.
    Then ``semi_crf_triton_forward(to_edge(p), p.lengths + 1)`` equals ``log_partition(p)``.
    Differentiable. B N (L+1) C^2 numbers: for tests and small inputs.

    Args:
        p: Potentials.

    Returns:
        Edge potentials [B, N, L + 1, C, C]; index 0 of the durations is unused and ``-inf``, as is
        what no segmentation uses.

    Raises:
        ValueError: Shapes, dtypes, devices or lengths do not fit.
        MemoryError: The tensor is larger than the memory that is free.
    """
    p = _checked(p)
    batch, positions, longest, types = p.sizes
    device = p.lengths.device
    _check_memory((batch, positions, longest + 1, types, types), p.duration)
    first = torch.full_like(p.transition, -torch.inf)
    first[:, 0] = p.initial
    source = p.transition.T.expand(positions - 1, types, types)
    source = torch.cat([first[None], source])  # [N, C_dst, C_src]
    n = torch.arange(positions, device=device)
    slices = [p.duration.new_full((batch, positions, types, types), -torch.inf)]
    for extra, (lo, score) in enumerate(segment_scores(p, 0, positions)):
        stops = n[: positions - lo] + extra + 1
        score = torch.where((stops == p.lengths[:, None])[..., None], score + p.final, score)
        score = torch.where((stops <= p.lengths[:, None])[..., None], score, -torch.inf)
        dense = score[..., None] + source[: positions - lo]
        slices.append(torch.nn.functional.pad(dense, (0, 0, 0, 0, 0, lo), value=-torch.inf))
    slices += slices[:1] * (longest + 1 - len(slices))
    return torch.stack(slices, 2)


def segment_sums(segment: Tensor) -> Marginals:
    """Marginals of types, starts and ends from those of all segments.

    Args:
        segment: Posterior of each segment, by start and length less one [B, N, L, C].
    """
    start = segment.sum(2)
    end = torch.zeros_like(start)
    for extra in range(min(segment.shape[1:3])):
        end[:, extra:] += segment[:, : segment.shape[1] - extra, extra]
    opened = start.to(torch.float64, copy=True)
    opened[:, 1:] -= end[:, :-1]
    return Marginals(opened.cumsum(1).to(start.dtype), start, end, segment)


def at_segments(values: Tensor, labels: Tensor, starts: Tensor, lengths: Tensor) -> Tensor:
    """Read a tensor over all segments at the segments of one segmentation.

    Args:
        values: Any value of each segment, by start and length less one [B, N, L, C].
        labels: Type of each position [B, N], -1 past the length.
        starts: Whether a segment starts at the position [B, N] bool.
        lengths: Positions of each sentence [B].

    Returns:
        For each position the value of the segment that covers it [B, N]; 0 past the length.
    """
    _, positions, longest, types = values.shape
    inside, begin, ends = bounds(starts, lengths)
    n = torch.arange(positions, device=values.device)
    last = torch.where(ends, n, positions - 1).flip(1).cummin(1).values.flip(1)
    index = (begin * longest + last - begin) * types + labels
    read = values.flatten(1).gather(1, torch.where(inside, index, 0))
    return torch.where(inside, read, 0)


def _check_memory(shape: tuple[int, ...], like: Tensor) -> None:
    """Refuse a tensor that cannot fit, before anything is allocated."""
    if torch.compiler.is_compiling():
        return
    needed = math.prod(shape) * like.element_size()
    if like.device.type == "cuda":
        cached = torch.cuda.memory_reserved(like.device) - torch.cuda.memory_allocated(like.device)
        free = torch.cuda.mem_get_info(like.device)[0] + cached
    else:
        free = psutil.virtual_memory().available
    if needed > free:
        raise MemoryError(
            f"the dense edge tensor {list(shape)} in {like.dtype} needs {needed:,} bytes, and "
            f"{like.device} has {free:,} free; factored potentials need none of it"
        )


def _checked(p: Potentials) -> Potentials:
    """The potentials in float32 or float64, once their shapes are known to fit.

    Values of ``lengths`` are checked on the CPU only: on a GPU that would wait for the device.
    """
    missing = [k for k in ("duration", "transition", "initial", "final", "lengths")
               if getattr(p, k) is None]  # fmt: skip
    if missing:
        raise ValueError(f"expected potentials {', '.join(missing)}; got None")
    given = {name: x for name, x in p._asdict().items() if x is not None}
    for name, x in given.items():
        if x.ndim != len(_AXES[name]):
            axes = ", ".join(_AXES[name])
            raise ValueError(f"expected {name} of shape [{axes}], got {list(x.shape)}")
    if min(p.sizes) < 1:
        raise ValueError(
            "expected at least one sentence, position, segment length and type, "
            f"got [B, N, L, C] = {list(p.sizes)}"
        )
    size = dict(zip("BNLC", p.sizes, strict=True))
    dtype = torch.float32
    for name, tensor in given.items():
        shape = [size[axis] for axis in _AXES[name]]
        if list(tensor.shape) != shape:
            raise ValueError(f"expected {name} of shape {shape}, got {list(tensor.shape)}")
        if tensor.device != p.lengths.device:
            raise ValueError(f"expected {name} on {p.lengths.device}, got {tensor.device}")
        if name == "lengths":
            if not _is_integer(tensor):
                raise ValueError(f"expected integer lengths, got {tensor.dtype}")
        elif not tensor.is_floating_point():
            raise ValueError(f"expected {name} of a floating dtype, got {tensor.dtype}")
        else:
            dtype = torch.promote_types(dtype, tensor.dtype)
    if p.lengths.device.type == "cpu" and not torch.compiler.is_compiling():
        low, high = (int(x) for x in p.lengths.aminmax())
        if low < 1 or high > size["N"]:
            raise ValueError(f"expected lengths in 1..{size['N']}, got {low}..{high}")
    return p.map(lambda x: x.to(dtype))._replace(lengths=p.lengths.long())


def _is_integer(x: Tensor) -> bool:
    return not (x.is_floating_point() or x.is_complex() or x.dtype == torch.bool)


def _checked_labels(p: Potentials, labels: Tensor, starts: Tensor) -> Tensor:
    """The labels as int64, once the segmentation is one; values are checked on the CPU only."""
    shape = p.sizes[:2]
    if labels.shape != shape or starts.shape != shape:
        raise ValueError(
            f"expected labels and starts of shape {list(shape)}, "
            f"got {list(labels.shape)} and {list(starts.shape)}"
        )
    if starts.dtype != torch.bool:
        raise ValueError(f"expected starts of dtype bool, got {starts.dtype}")
    if not _is_integer(labels):
        raise ValueError(f"expected integer labels, got {labels.dtype}")
    device = p.lengths.device
    if labels.device != device or starts.device != device:
        raise ValueError(
            f"expected labels and starts on {device}, got {labels.device} and {starts.device}"
        )
    labels = labels.long()
    if labels.device.type != "cpu" or torch.compiler.is_compiling():
        return labels
    inside = torch.arange(shape[1]) < p.lengths[:, None]
    types = p.sizes[3]
    wrong = labels[inside & ((labels < 0) | (labels >= types))]
    if len(wrong):
        raise ValueError(f"expected labels in 0..{types - 1}, got {int(wrong[0])}")
    if not starts[:, 0].all():
        raise ValueError("expected a segment to start at position 0 of every sentence")
    if ((labels[:, 1:] != labels[:, :-1]) & ~starts[:, 1:] & inside[:, 1:]).any():
        raise ValueError("expected one type a segment, got a change of label without a start")
    return labels
