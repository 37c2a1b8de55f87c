"""What every public operation asks of its tensors, and which back end runs.

No other room validates potentials or picks a back end.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Literal

import psutil
import torch
from torch import Tensor

from hf_semicrf.ops.potentials import Potentials, only_read
from hf_semicrf.ops.routing import HAS_TRITON
from hf_semicrf.ops.tails import TailedPotentials
from hf_semicrf.options import check

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
_OWN = ("emission", "segment", "start", "end")  # that each sentence has for itself


def resolve_backend(backend: Backend, device: torch.device) -> str:
    """Pick the back end that runs for tensors on ``device``: "torch" or "triton".

    Raises:
        ValueError: The name is unknown.
        RuntimeError: An explicit request cannot be met.
    """
    check(backend=backend)
    if backend == "auto":
        return "triton" if device.type == "cuda" and HAS_TRITON else "torch"
    if backend == "triton":
        if not HAS_TRITON:
            raise RuntimeError('expected triton to be installed for backend="triton"; it is not')
        if device.type != "cuda" and not _triton_interprets():
            raise RuntimeError(
                'expected tensors on a CUDA device for backend="triton", or TRITON_INTERPRET=1 in '
                f"the environment before triton is imported; got tensors on {device}"
            )
    return backend


def _triton_interprets() -> bool:
    """Say whether Triton interprets its kernels on the CPU, as TRITON_INTERPRET asks for."""
    import triton

    return triton.knobs.runtime.interpret


def check_thresholds(each: Tensor, longest: int, types: int, device: torch.device) -> None:
    """Refuse thresholds that are not one probability for each length and type.

    Args:
        each: The thresholds, by length less one and type.
        longest: Longest segment L.
        types: Types C.
        device: Where they have to be; their values are checked on the CPU only.

    Raises:
        ValueError: They are no [L, C] floating-point numbers in 0..1 on this device.
    """
    if list(each.shape) != [longest, types] or not each.is_floating_point():
        raise ValueError(
            f"expected threshold as a number in 0..1 or of shape [L, C] = [{longest}, {types}], "
            f"got {each.dtype} {list(each.shape)}"
        )
    if each.device != device:
        raise ValueError(f"expected threshold on {device}, got {each.device}")
    if values_are_checked(device) and not bool(((each >= 0) & (each <= 1)).all()):
        raise ValueError(
            f"expected thresholds in 0..1, got {float(each.min())} to {float(each.max())}"
        )


def checked(p: Potentials | TailedPotentials, scores_too: bool = True) -> Potentials:
    """Check potentials and return them in float32 or float64.

    Values are checked on the CPU only: on a GPU that would wait for the device.

    Args:
        p: Potentials.
        scores_too: Whether to look for NaN and ``+inf``, which reads all scores.

    Raises:
        TypeError: They are no `Potentials` of tensors.
        ValueError: Shapes, dtypes, devices or lengths do not fit, or a score is NaN or ``+inf``;
            what lies past a sentence's length is not read.
    """
    if not isinstance(p, Potentials):
        also = ": this operation has no tail" if isinstance(p, TailedPotentials) else ""
        raise TypeError(f"expected Potentials, got {type(p).__name__}{also}")
    missing = [k for k in ("duration", "transition", "initial", "final", "lengths")
               if getattr(p, k) is None]  # fmt: skip
    if missing:
        raise ValueError(f"expected potentials {', '.join(missing)}; got None")
    present = {name: x for name, x in p._asdict().items() if x is not None}
    for name, x in present.items():
        check_tensors(**{name: x})
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
    for name, tensor in present.items():
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
    if values_are_checked(p.lengths.device):
        low, high = (int(x) for x in p.lengths.aminmax())
        if low < 1 or high > size["N"]:
            raise ValueError(f"expected lengths in 1..{size['N']}, got {low}..{high}")
    scores = p.map(lambda x: x if x.dtype == dtype else x.to(dtype))
    scores = scores._replace(lengths=p.lengths.long())
    if scores_too and values_are_checked(p.lengths.device):
        most = [x.detach().amax().double() for x in _scores(scores).values()]
        if not all(value < torch.inf for value in torch.stack(most).tolist()):
            check_scores(_scores(only_read(scores)))
    return scores


def values_are_checked(device: torch.device) -> bool:
    """Say whether values on a device are looked at: on a GPU and in a graph that would wait."""
    return device.type == "cpu" and not torch.compiler.is_compiling()


def check_tensors(**arguments: object) -> None:
    """Refuse arguments that are no tensors.

    Raises:
        TypeError: One is not.
    """
    for name, x in arguments.items():
        if not isinstance(x, Tensor):
            raise TypeError(f"expected {name} as a tensor, got {type(x).__name__}")


def check_scores(scores: Mapping[str, Tensor], own: Collection[str] = _OWN) -> None:
    """Refuse NaN and +inf.

    Args:
        scores: By name, those that are read; 0 for the others.
        own: Names of those that a sentence has for itself, by their first axis.

    Raises:
        ScoreError: There is one.
    """
    for name, x in scores.items():
        x = x.detach()
        wrong = (x.isnan() | (x == torch.inf)).nonzero()
        if len(wrong):
            at = wrong[0].tolist()
            sentence = f" of sentence {at[0]}" if name in own else ""
            raise ScoreError(
                f"expected finite scores (or -inf), got {float(x[tuple(at)])} in {name}{sentence}, "
                f"at {at}",
                wrong[:, 0].unique().tolist() if name in own else [],
            )


def told(p: Potentials, result: Tensor) -> Tensor:
    """Refuse potentials whose scores are too large to be told apart.

    Args:
        p: What :func:`checked` returned.
        result: A number of each sentence [B, ...]; NaN where its scores are too large.

    Returns:
        The result.

    Raises:
        ScoreError: One is NaN; looked at on the CPU only.
    """
    if values_are_checked(result.device) and bool(result.isnan().any()):
        refuse_untold(result, _scores(only_read(p)))
    return result


def refuse_untold(
    result: Tensor, scores: Mapping[str, Tensor], own: Collection[str] = _OWN
) -> None:
    """Refuse scores for which a number of each sentence [B, ...] is NaN, naming the largest.

    Raises:
        ScoreError: One is NaN; looked at on the CPU only.
    """
    if not values_are_checked(result.device):
        return
    sentences = result.detach().isnan().reshape(len(result), -1).any(1)
    if not bool(sentences.any()):
        return
    largest = {}
    for name, x in scores.items():
        x = (x[sentences] if name in own else x).detach()
        largest[name] = float(torch.where(x.isfinite(), x.abs(), 0).max())
    name = max(largest, key=largest.__getitem__)
    rows = sentences.nonzero().flatten().tolist()
    raise ScoreError(
        f"expected scores that float64 can tell apart, got some as large as "
        f"{largest[name]:.3g} in {name}, of sentences {rows[:8]}",
        rows,
    )


def _scores(p: Potentials) -> dict[str, Tensor]:
    """The scores that are not None, by name."""
    return {name: x for name, x in p._asdict().items() if x is not None and name != "lengths"}


class ScoreError(ValueError):
    """Scores are not finite, or too large.

    Args:
        message: What is wrong.
        sentences: Rows of the batch; none where all sentences share the scores.
    """

    def __init__(self, message: str, sentences: list[int]):
        super().__init__(message)
        self.sentences = sentences


def checked_labels(p: Potentials, labels: Tensor, starts: Tensor) -> Tensor:
    """Check a segmentation and return its labels as int64; values are checked on the CPU only."""
    check_tensors(labels=labels, starts=starts)
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
    if not values_are_checked(device):
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


def check_same_sizes(p: Potentials, q: Potentials) -> None:
    """Refuse two checked potentials that are not of the same sentences and sizes.

    Raises:
        ValueError: Sizes, devices or, on the CPU, lengths differ.
    """
    if p.sizes != q.sizes:
        raise ValueError(
            f"expected potentials of the same sizes, got [B, N, L, C] = {list(p.sizes)} "
            f"and {list(q.sizes)}"
        )
    if p.lengths.device != q.lengths.device:
        raise ValueError(
            f"expected potentials on one device, got {p.lengths.device} and {q.lengths.device}"
        )
    if values_are_checked(p.lengths.device):
        if not torch.equal(p.lengths, q.lengths):
            raise ValueError(
                f"expected the same lengths, got {p.lengths.tolist()} and {q.lengths.tolist()}"
            )


def check_memory(shape: tuple[int, ...], like: Tensor) -> None:
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


def checked_spans(p: Potentials, spans: Tensor) -> Tensor:
    """Check spans and return them as int64; values are checked on the CPU only.

    Raises:
        ValueError: Shape, dtype or device do not fit, or a span leaves the positions.
    """
    check_tensors(spans=spans)
    batch, positions = p.sizes[:2]
    if spans.ndim != 3 or spans.shape[0] != batch or spans.shape[2] != 2:
        raise ValueError(f"expected spans of shape [{batch}, S, 2], got {list(spans.shape)}")
    if not _is_integer(spans):
        raise ValueError(f"expected integer spans, got {spans.dtype}")
    if spans.device != p.lengths.device:
        raise ValueError(f"expected spans on {p.lengths.device}, got {spans.device}")
    spans = spans.long()
    if values_are_checked(spans.device):
        begin, stop = spans.unbind(-1)
        wrong = spans[(begin < 0) | (stop < begin) | (stop > positions)]
        if len(wrong):
            raise ValueError(
                f"expected spans with 0 <= begin <= stop <= {positions}, got {wrong[0].tolist()}"
            )
    return spans


def _is_integer(x: Tensor) -> bool:
    return not (x.is_floating_point() or x.is_complex() or x.dtype == torch.bool)
