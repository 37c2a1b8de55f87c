"""Small steps around the recurrences, each in one launch: nothing here is sequential.

- All scores of a batch as the scans read them: contiguous, in float32 at least, divided by a
  temperature, and -inf where they are forbidden.
- Probabilities kept within 0..1.
- What each segment gains, and -inf where potentials forbid one.
- What is known of every segment, read at the segments of one segmentation.
- The loss of a batch from those of its sentences, and the way back.

Memory traffic: one read and one write of each number.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from hf_semicrf.ops.kernels.common import contiguous
from hf_semicrf.ops.potentials import Potentials

BLOCK = 1024


@triton.jit
def _pack(x, out, forbidden, count, columns, stride, divisor, BLOCK: tl.constexpr):
    """Copy rows of a tensor, or nothing where it is absent."""
    if x is not None:
        i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        inside = i < count
        value = tl.load(x + i // columns * stride + i % columns, mask=inside, other=0.0)
        value = value.to(divisor.dtype) / divisor
        if forbidden is not None:
            never = tl.load(forbidden + i, mask=inside, other=0) != 0
            value = tl.where(never, -float("inf"), value)
        tl.store(out + i, value.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["rows", "longest", "types", "stride0", "stride1", "stride2"])
def pack_kernel(
    # scores
    emission, segment, start, end, duration, transition, initial, final,
    # results
    emission_out, segment_out, start_out, end_out,
    duration_out, transition_out, initial_out, final_out,
    # what is forbidden, and the temperature as a sum of two numbers
    forbidden, high, low,
    # sizes, and from one position to the next in emission, start and end
    rows, longest, types, stride0, stride1, stride2,
    DTYPE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A block of each tensor; see the head of this file."""
    t = tl.zeros([], DTYPE) + high + low
    n = rows * types
    square = types * types
    wide = longest * types
    _pack(emission, emission_out, None, n, types, stride0, t, BLOCK)
    _pack(start, start_out, None, n, types, stride1, t, BLOCK)
    _pack(end, end_out, None, n, types, stride2, t, BLOCK)
    _pack(segment, segment_out, None, n * longest, types, types, t, BLOCK)
    if forbidden is None:
        _pack(duration, duration_out, None, wide, types, types, t, BLOCK)
        _pack(transition, transition_out, None, square, types, types, t, BLOCK)
        _pack(initial, initial_out, None, types, types, types, t, BLOCK)
        _pack(final, final_out, None, types, types, types, t, BLOCK)
    else:
        _pack(duration, duration_out, forbidden, wide, types, types, t, BLOCK)
        forbidden += wide
        _pack(transition, transition_out, forbidden, square, types, types, t, BLOCK)
        forbidden += square
        _pack(initial, initial_out, forbidden, types, types, types, t, BLOCK)
        _pack(final, final_out, forbidden + types, types, types, types, t, BLOCK)


def pack(
    scores: Sequence[Tensor | None],
    dtypes: Sequence[torch.dtype | None],
    temperature: float,
    forbidden: Tensor | None,
) -> list[Tensor | None]:
    """New, contiguous scores, divided by the temperature.

    Args:
        scores: emission, segment, start, end, duration, transition, initial and final, as
            potentials have them, or None; an absent one of the first four may be one of the others.
        dtypes: Of the results.
        temperature: What the scores are divided by.
        forbidden: What becomes -inf of the last four, one after the other [(L + C + 2) C] bool.
    """
    inputs: list[Tensor | None] = []
    strides = []
    for n, x in enumerate(scores):
        if x is not None:
            evenly = (
                x.stride(-1) == 1 and n != 1 and (n > 3 or x.stride(0) == len(x[0]) * x.stride(1))
            )
            x = x if evenly and (n < 4 or x.is_contiguous()) else x.contiguous()
        inputs.append(x)
        if n in (0, 2, 3):
            strides.append(1 if x is None else x.stride(1))
    outputs = [
        None if x is None else torch.empty(x.shape, dtype=dtype, device=x.device)
        for x, dtype in zip(scores, dtypes, strict=True)
    ]
    present = [x for x in inputs if x is not None]
    types = present[0].shape[-1]
    own = [x for x in inputs[:4] if x is not None]
    rows = own[0].shape[0] * own[0].shape[1] if own else 0
    longest = next((x.shape[-2] for x in (inputs[1], inputs[4]) if x is not None), 1)
    wide = any(x.dtype == torch.float64 for x in present)
    high, low = _split(temperature)
    grid = (triton.cdiv(max(x.numel() for x in present), BLOCK),)
    pack_kernel[grid](
        # scores, results
        *inputs, *outputs,
        # what is forbidden, and the temperature
        forbidden, high, low,
        # sizes
        rows, longest, types, *strides,
        DTYPE=tl.float64 if wide else tl.float32, BLOCK=BLOCK, num_warps=4,
    )  # fmt: skip
    return outputs


def _split(number: float) -> tuple[float, float]:
    """A number as the sum of two float32, as which numbers reach a kernel."""
    high = float(torch.tensor(number, dtype=torch.float32))
    return high, number - high


@triton.jit
def _never(x, out, count, BLOCK: tl.constexpr):
    """-inf where the tensor is, 0 elsewhere; nothing where it is absent."""
    if x is not None:
        i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        value = tl.load(x + i, mask=i < count, other=0.0)
        tl.store(out + i, tl.where(value == -float("inf"), value, 0.0), mask=i < count)


@triton.jit(do_not_specialize=["rows", "longest", "types"])
def gains_kernel(
    # posteriors, and potentials whose -inf forbids
    posterior, emission, segment, start, end, duration, transition, initial, final,
    # results
    emission_out, gain_out, start_out, end_out,
    duration_out, transition_out, initial_out, final_out,
    # the threshold as a sum of two numbers, and sizes
    high, low, rows, longest, types, BLOCK: tl.constexpr,
):  # fmt: skip
    """A block of each tensor; see the head of this file."""
    n = rows.to(tl.int64) * types
    _never(emission, emission_out, n, BLOCK)
    _never(start, start_out, n, BLOCK)
    _never(end, end_out, n, BLOCK)
    _never(duration, duration_out, longest * types, BLOCK)
    _never(transition, transition_out, types * types, BLOCK)
    _never(initial, initial_out, types, BLOCK)
    _never(final, final_out, types, BLOCK)
    dtype: tl.constexpr = gain_out.dtype.element_ty
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < n * longest
    gain = tl.load(posterior + i, mask=inside, other=0.0) - (tl.zeros([], dtype) + high + low)
    # the outside gains nothing, and has segments of length 1
    nothing = tl.where(i // types % longest == 0, 0.0, -float("inf"))
    gain = tl.where(i % types > 0, gain, nothing)
    if segment is not None:
        legal = tl.load(segment + i, mask=inside, other=0.0) != -float("inf")
        gain = tl.where(legal, gain, -float("inf"))
    tl.store(gain_out + i, gain, mask=inside)


def gains(posterior: Tensor, threshold: float, legal: Potentials) -> Potentials:
    """Potentials of what each segment gains, with -inf where others have it.

    Args:
        posterior: Of each segment, by start and length less one [B, N, L, C].
        threshold: What a segment costs.
        legal: The other potentials.
    """
    batch, positions, longest, types = posterior.shape
    scores = contiguous(legal[:-1])
    out = [None if x is None else torch.empty_like(x, dtype=posterior.dtype) for x in scores]
    out[1] = torch.empty_like(posterior, memory_format=torch.contiguous_format)
    most = max(x.numel() for x in out if x is not None)
    gains_kernel[(triton.cdiv(most, BLOCK),)](
        # posteriors, potentials and results
        posterior.contiguous(), *scores, *out,
        # the threshold, and sizes
        *_split(threshold), batch * positions, longest, types, BLOCK=BLOCK, num_warps=4,
    )  # fmt: skip
    return Potentials._make([*out, legal.lengths])


@triton.jit
def _clamp(x, count, BLOCK: tl.constexpr):
    """Keep a block within 0..1; NaN stays."""
    if x is not None:
        i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        value = tl.load(x + i, mask=i < count, other=0.0)
        value = tl.where(value < 0.0, 0.0, tl.where(value > 1.0, 1.0, value))
        tl.store(x + i, value, mask=i < count)


@triton.jit(do_not_specialize=["count", "longest"])
def clamp_kernel(token, start, end, segment, count, longest, BLOCK: tl.constexpr):
    """A block of each tensor; see the head of this file."""
    _clamp(token, count, BLOCK)
    _clamp(start, count, BLOCK)
    _clamp(end, count, BLOCK)
    _clamp(segment, count * longest, BLOCK)


def clamp_(token: Tensor, start: Tensor, end: Tensor, segment: Tensor | None) -> None:
    """Keep probabilities within 0..1, in place."""
    longest = 1 if segment is None else segment.shape[2]
    count = token.numel()
    clamp_kernel[(triton.cdiv(count * longest, BLOCK),)](
        token, start, end, segment, count, longest, BLOCK=BLOCK, num_warps=4
    )


@triton.jit(do_not_specialize=["positions", "longest", "types"])
def at_segments_kernel(
    values, labels, starts, lengths, out, positions, longest, types, BLOCK: tl.constexpr
):
    """Each position looks for where its segment begins and ends, at most L away."""
    b = tl.program_id(0).to(tl.int64)
    length = tl.load(lengths + b).to(tl.int32)
    row = b * positions
    n = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = n < length
    begin, last = n, n
    left = inside & (tl.load(starts + row + n, mask=inside, other=1) == 0)
    right = n + 1 < length
    right = right & (tl.load(starts + row + n + 1, mask=right, other=1) == 0)
    for d in range(1, longest):
        begin = tl.where(left, n - d, begin)
        left = left & (n - d > 0)
        left = left & (tl.load(starts + row + n - d, mask=left, other=1) == 0)
        last = tl.where(right, n + d, last)
        right = right & (n + d + 1 < length)
        right = right & (tl.load(starts + row + n + d + 1, mask=right, other=1) == 0)
    label = tl.load(labels + row + n, mask=inside, other=0)
    # a sentence for which nothing was found has the label -1, and NaN throughout
    at = ((row + begin) * longest + tl.minimum(last - begin, longest - 1)) * types
    value = tl.load(values + at + tl.maximum(label, 0), mask=inside, other=0.0)
    tl.store(out + row + n, value, mask=n < positions)


def at_segments(values: Tensor, labels: Tensor, starts: Tensor, lengths: Tensor) -> Tensor:
    """As :func:`hf_semicrf.ops.at_segments`."""
    values, labels, starts = (x.contiguous() for x in (values, labels, starts))
    batch, positions, longest, types = values.shape
    out = values.new_empty(batch, positions)
    at_segments_kernel[(batch, triton.cdiv(positions, 128))](
        values, labels, starts, lengths, out, positions, longest, types, BLOCK=128, num_warps=4
    )
    return out


@triton.jit(do_not_specialize=["count", "sentences"])
def loss_kernel(nll, words, given, count, loss, divisor, sentences, BLOCK: tl.constexpr):
    """The sum of the losses of sentences with words, over a count; see the head of this file."""
    total = tl.zeros([BLOCK], tl.float64)
    counted = tl.zeros([BLOCK], tl.int64)
    for b0 in range(0, sentences, BLOCK):
        b = b0 + tl.arange(0, BLOCK)
        length = tl.load(words + b, mask=b < sentences, other=0)
        total += tl.load(nll + b, mask=(b < sentences) & (length > 0), other=0.0).to(tl.float64)
        counted += length
    if given is not None:
        items = tl.load(given).to(tl.float64)
    elif count is not None:
        items = tl.zeros([], tl.float64) + count
    else:
        items = tl.sum(counted, 0).to(tl.float64)
    items = tl.maximum(items, 1.0)
    tl.store(loss, tl.sum(total, 0) / items)
    tl.store(divisor, items)


@triton.jit(do_not_specialize=["sentences"])
def loss_gradient_kernel(gradient, words, divisor, out, sentences, BLOCK: tl.constexpr):
    """The gradient of each sentence's loss."""
    b = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    length = tl.load(words + b, mask=b < sentences, other=0)
    share = tl.load(gradient).to(tl.float64) / tl.load(divisor)
    tl.store(out + b, tl.where(length > 0, share, 0.0), mask=b < sentences)


def mean_loss(nll: Tensor, words: Tensor, count: Tensor | float | None) -> tuple[Tensor, Tensor]:
    """The loss [] of a batch and what its sum was divided by, float64 [].

    Args:
        nll: Of each sentence [B].
        words: Words of each sentence [B]; one without any counts nothing.
        count: What the sum is divided by, at least 1; the number of words where None.
    """
    loss, divisor = nll.new_empty(()), nll.new_empty((), dtype=torch.float64)
    given = count if isinstance(count, Tensor) else None
    loss_kernel[(1,)](
        nll.contiguous(), words, given, None if given is not None else count,
        # results
        loss, divisor,
        # size
        len(nll), BLOCK=256, num_warps=1,
    )  # fmt: skip
    return loss, divisor


def mean_loss_gradient(gradient: Tensor, words: Tensor, divisor: Tensor) -> Tensor:
    """The gradient of each sentence's loss [B], from that of the batch's []."""
    out = gradient.new_empty(len(words))
    loss_gradient_kernel[(triton.cdiv(len(words), 256),)](
        gradient, words, divisor, out, len(words), BLOCK=256, num_warps=1
    )
    return out
