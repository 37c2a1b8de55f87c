"""Custom ops over potentials with a tail: the scan, its gradient, decoding; as in `factored`.

The arguments start with the nine fields of the body, then `enter`, `stay` and the order.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from hf_semicrf.ops.host import tail_scan, tail_viterbi
from hf_semicrf.ops.host.magnitude import LARGEST, centred
from hf_semicrf.ops.host.tail_expectations import TailCounts, expectations, running_sum
from hf_semicrf.ops.host.tail_scan import TailState
from hf_semicrf.ops.potentials import Potentials
from hf_semicrf.ops.registry import kernels, operation, split_potentials
from hf_semicrf.ops.segmentations import segment_bounds
from hf_semicrf.ops.tails import TailedPotentials, beyond

TAIL = ("Tensor enter", "Tensor stay", "int order")


def log_partition(p: TailedPotentials, backend: str) -> Tensor:
    """Compute log Z in nats, float64 [B]; differentiable once in every potential."""
    return _scan(p, backend)[0]


def negative_log_likelihood(
    p: TailedPotentials, labels: Tensor, starts: Tensor, backend: str
) -> Tensor:
    """Subtract a segmentation's score from log Z, in nats, float64 [B]; differentiable once."""
    p = p._replace(body=centred(p.body)[0])
    return loss_of(log_partition(p, backend), segmentation_score(p, labels, starts))


def loss_of(log_z: Tensor, score: Tensor) -> Tensor:
    """Subtract the log-sum of some segmentations from that of all [B]; inf where it is -inf."""
    impossible = (score == -torch.inf) & ~log_z.isnan()
    return torch.where(impossible, torch.inf, log_z - score)


def state_of(p: TailedPotentials, backend: str) -> tuple[Tensor, TailState]:
    """Scan in both directions: log Z, float64 [B], and the state."""
    log_z, *state = _scan(p.map(Tensor.detach), backend)
    return log_z, TailState(*state)


def counts_of(p: TailedPotentials, backend: str) -> tuple[Tensor, TailCounts]:
    """Compute log Z and the expected counts of positions, starts and ends; no gradient."""
    log_z, state = state_of(p, backend)
    return log_z, expectations(p.map(Tensor.detach), state, None, shared=False)


def best(p: TailedPotentials, backend: str) -> tuple[Tensor, Tensor]:
    """Find the labels [B, N] and starts [B, N] of the segmentation with the highest score."""
    p = p.map(Tensor.detach)
    return tail_best(*p.body, p.enter, p.stay, p.order, backend)


def segmentation_score(p: TailedPotentials, labels: Tensor, starts: Tensor) -> Tensor:
    """Score a segmentation in nats, float64 [B]; differentiable.

    What sentences share is counted first, so that no gradient is a sum of colliding additions.
    """
    p = p.map(Tensor.double)
    body = p.body
    batch, positions, longest, types = p.sizes
    inside, begin, ends = segment_bounds(starts, p.lengths)
    labels, opens = torch.where(inside, labels, 0).long(), starts & inside
    length = torch.arange(1, positions + 1, device=labels.device) - begin
    score = p.enter.new_zeros(batch)
    for x, where in ((body.emission, inside), (body.start, opens), (body.end, ends)):
        if x is not None:
            score = score + torch.where(where, x.gather(2, labels[..., None])[..., 0], 0).sum(1)
    before = torch.nn.functional.pad(labels, (1, 0))[:, :-1]
    inner = opens & (torch.arange(positions, device=labels.device) > 0)
    last = p.lengths[:, None] - 1 == torch.arange(positions, device=labels.device)
    clipped = length.clamp(max=longest) - 1
    more = ends & (length > longest)
    for x, index, where in (
        (body.duration, clipped * types + labels, ends & ~more),
        (body.transition, before * types + labels, inner),
        (body.initial, labels, opens & ~inner),
        (body.final, labels, last & inside),
        (p.enter, labels, more),
    ):
        score = score + _counted(x, index, where.double())
    score = score + _counted(p.stay, labels, torch.where(more, length - longest - 1, 0).double())
    excess = (length - longest).clamp(min=1)
    none = score.new_zeros(1)
    ways = beyond(TailedPotentials(body, none, none, p.order), excess)[..., 0]
    return score + torch.where(more, ways, 0).sum(1)


def _counted(scores: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """Sum the entries [B] of shared scores at flat places [B, N], times a weight [B, N]."""
    counts = weight.new_zeros(len(index), scores.numel()).scatter_add(1, index, weight)
    flat = scores.flatten()
    # what does not occur may be -inf
    return torch.where(counts > 0, counts * torch.where(counts > 0, flat, 0), 0).sum(1)


def _scan(p: TailedPotentials, backend: str) -> Any:
    return tail_scanned(*p.body, p.enter, p.stay, p.order, backend)


def _split(inputs: Any) -> tuple[TailedPotentials, Any]:
    body, (enter, stay, order, *rest) = split_potentials(inputs)
    return TailedPotentials(body, enter, stay, order), rest


@operation(6, *TAIL, "str backend")
def _tail_scanned(*inputs):
    p, (backend,) = _split(inputs)
    p = p.map(Tensor.contiguous)
    log_z, state = (kernels("tail") if backend == "triton" else tail_scan).scan(p)
    if backend == "triton":
        wrong = unusable(p)
        log_z = log_z.masked_fill(wrong, torch.nan)
        state = state._replace(total=state.total.masked_fill(wrong, torch.nan))
    return log_z, *state


tail_scanned = _tail_scanned


def unusable(p: TailedPotentials) -> Tensor:
    """Which sentences have NaN, +inf, or a finite score beyond `LARGEST` in magnitude [B] bool."""
    inside = (torch.arange(p.sizes[1], device=p.lengths.device) < p.lengths[:, None])[..., None]
    wrong = torch.zeros_like(p.lengths, dtype=torch.bool)
    for name, x in p.scores().items():
        bad = ~(x <= LARGEST) | ((x < -LARGEST) & (x > -torch.inf))
        own = name in ("emission", "start", "end")
        wrong = wrong | ((bad & inside).flatten(1).any(1) if own else bad.any())
    return wrong


@_tail_scanned.register_fake
def _(*args):
    p, _ = _split(args)
    batch, positions, _, types = p.sizes
    boundaries = (2, batch, positions + 1)
    shapes = ((batch,), *[(*boundaries, types)] * 3, boundaries, (2, batch))
    return tuple(p.enter.new_empty(shape, dtype=torch.float64) for shape in shapes)


@operation(9, *TAIL, *(f"Tensor state{i}" for i in range(5)), "Tensor weight")
def _tail_gradient(*inputs):
    p, (*state, weight) = _split(inputs)
    counts = expectations(p, TailState(*state), weight, shared=True)
    return tuple(x.to(p.enter.dtype) for x in counts)


@_tail_gradient.register_fake
def _(*args):
    p, _ = _split(args)
    batch, positions, _, types = p.sizes
    new = p.enter.new_empty
    own = (new(batch, positions, types) for _ in range(3))
    body = p.body
    shared = (p.duration, body.transition, body.initial, body.final, p.enter, p.stay)
    return *own, *(new(x.shape) for x in shared)


def _save_for_backward(ctx, inputs, output) -> None:
    *tensors, ctx.order, _ = inputs
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)
    ctx.is_present = [x is not None for x in tensors]
    ctx.save_for_backward(*(x for x in tensors if x is not None), *output[1:])


def _backward(ctx, weight: Tensor | None, *_):
    if weight is None:
        return (None,) * 13
    saved = iter(ctx.saved_tensors)
    tensors = [next(saved) if present else None for present in ctx.is_present]
    gradient = _tail_gradient(*tensors, ctx.order, *saved, weight)
    emission, start, end, *shared, enter, stay = gradient
    fields = Potentials(emission, None, start, end, *shared)
    every = (*fields, enter, stay)
    wanted = (
        g if needed and present else None
        for g, needed, present in zip(every, ctx.needs_input_grad, ctx.is_present, strict=False)
    )
    return *wanted, None, None


def _refuse_backward(ctx, *_):
    raise RuntimeError(
        "expected a first derivative of the log-partition function: the second is not available"
    )


_tail_scanned.register_autograd(_backward, setup_context=_save_for_backward)
_tail_gradient.register_autograd(_refuse_backward)


@operation(2, *TAIL, "str backend")
def _tail_best(*inputs):
    p, (backend,) = _split(inputs)
    p = p.map(Tensor.contiguous)
    if backend == "triton" and p.order == 1:
        labels, starts = kernels("tail").best(p)
        told = ~unusable(p)[:, None]
        return torch.where(told, labels, -1), starts & told
    return tail_viterbi.best(p)


tail_best = _tail_best


@_tail_best.register_fake
def _(*args):
    p, _ = _split(args)
    shape = p.sizes[:2]
    return (
        p.lengths.new_empty(shape, dtype=torch.long),
        p.lengths.new_empty(shape, dtype=torch.bool),
    )


def segment_marginals(p: TailedPotentials, spans: Tensor, backend: str) -> Tensor:
    """Compute the probabilities [B, S, C] that spans [B, S, 2] are segments, float64."""
    p = p.map(lambda x: x.detach().double())
    log_z, state = state_of(p, backend)
    body, _ = centred(p.body)
    types, longest = p.sizes[3], p.sizes[2]
    begin, stop = spans.unbind(-1)
    length = stop - begin
    legal = (begin >= 0) & (length >= 1) & (stop <= p.lengths[:, None])
    legal &= log_z[:, None] != -torch.inf
    begin, stop = torch.where(legal, begin, 0), torch.where(legal, stop, 1)
    length = stop - begin

    def at(x: Tensor, index: Tensor) -> Tensor:
        # [B, n, C] to [B, S, C]
        return x.gather(1, index[..., None].expand(-1, -1, types))

    clipped = length.clamp(max=longest) - 1
    short = p.duration[clipped]
    score = torch.where(
        (length > longest)[..., None], beyond(p, (length - longest).clamp(min=1)), short
    )
    if body.start is not None:
        score = score + at(body.start, begin)
    if body.end is not None:
        score = score + at(body.end, stop - 1)
    if body.emission is not None:
        never = body.emission == -torch.inf

        def between(x: Tensor) -> Tensor:
            sums = torch.nn.functional.pad(running_sum(x), (0, 0, 1, 0))
            return at(sums, stop) - at(sums, begin)

        score = score + between(torch.where(never, 0, body.emission))
        score = torch.where(between(never.double()) > 0.5, -torch.inf, score)
    first, last = state.offset[0].gather(1, begin), state.offset[1].gather(1, stop)
    shift = (first + last - state.total[1][:, None]) * math.log(2) - state.total[0][:, None]
    log_p = at(state.pre[0], begin) + at(state.pre[1], stop) + score + shift[..., None]
    return torch.where(legal[..., None], log_p.exp().clamp(max=1), 0)
