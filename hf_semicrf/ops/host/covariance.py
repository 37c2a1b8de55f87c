"""Expected counts as a function that has a derivative: the covariance of the counts.

Give every event of a segmentation a value, and a segmentation the sum over its events. Then the
derivative of the expected value with respect to the potential of an event is the covariance of the
value and the event's count, and for the segment (s, e, c) that is

    p(s, e, c) (E[value | (s, e, c)] - E[value])

whose conditional mean is a sum over what lies left of the segment, itself, and what lies right:
``mean_pre[s, c] + value(s, e, c) + mean_post[e, c]``. The means follow the scan's recurrence with
its sums as weights:

    mean_pre[s, c]   = sum_{c'} p(c' | s, c) (mean_alpha[s, c'] + value(c', c))
    mean_alpha[e, c] = sum_d p(d | e, c) (mean_pre[e-d, c] + value(e-d, e, c))

The derivative is computed in float64, in PyTorch but for the recurrence: O(N (L C + C^2)) time.

Source: Li and Eisner (2009), "First- and Second-Order Expectation Semirings with Applications to
Minimum-Risk Training on Translation Forests", section 4, with the sums taken from the scan.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from hf_semicrf.ops.forward_backward import Expectations
from hf_semicrf.ops.host import factored
from hf_semicrf.ops.host.boundaries import log_sums
from hf_semicrf.ops.host.magnitude import Prepared, prepare_for
from hf_semicrf.ops.host.scan import BLOCK_ELEMENTS
from hf_semicrf.ops.potentials import Potentials, reverse, scores_by_end, segment_scores
from hf_semicrf.ops.registry import empty_gradient, implementation, operation, split_potentials

TINY = torch.finfo(torch.float64).tiny


def expectations(
    p: Potentials, with_segment: bool, backend: str, with_shared: bool = True
) -> tuple[Tensor, Expectations]:
    """Compute log Z, float64 [B], and each sentence's expected counts; differentiable once.

    Without ``with_shared`` nothing may be read of what the sentences share.
    """
    if not factored.wants_gradient(p):
        return factored.expectations(p, with_segment, backend, with_shared)
    log_z, *counts = _counts(*p, with_segment, backend)
    return log_z, Expectations(*counts)


@operation(6, "bool with_segment", "str backend")
def _counts(*inputs):
    p, (with_segment, backend) = split_potentials(inputs)
    log_z, counts = factored.expectations(p, with_segment, backend)
    return log_z, *counts


@_counts.register_fake
def _(*args):
    p, (with_segment, _) = split_potentials(args)
    batch, positions, longest, types = p.sizes
    new = p.duration.new_empty
    emission, start, end = (new(batch, positions, types) for _ in range(3))
    segment = new((batch, positions, longest, types) if with_segment else (0,))
    shared = new(batch, (longest + types + 2) * types)
    return new(batch, dtype=torch.float64), emission, segment, start, end, shared


def _save_for_backward(ctx, inputs, output) -> None:
    *tensors, ctx.with_segment, ctx.backend = inputs
    ctx.is_present = [x is not None for x in tensors]
    ctx.save_for_backward(*(x for x in tensors if x is not None))


def _backward(ctx, grad_log_z: Tensor, *grad_counts: Tensor):
    saved = iter(ctx.saved_tensors)
    tensors = [next(saved) if present else None for present in ctx.is_present]
    gradient = covariances(*tensors, grad_log_z, *grad_counts, ctx.backend)
    wanted = (
        x if needed else None
        for x, needed in zip(gradient, ctx.needs_input_grad, strict=False)
    )  # fmt: skip
    return *wanted, None, None, None


_counts.register_autograd(_backward, setup_context=_save_for_backward)


@operation(
    8, "Tensor grad_log_z", "Tensor grad_emission", "Tensor grad_segment", "Tensor grad_start",
    "Tensor grad_end", "Tensor grad_shared", "str backend",
)  # fmt: skip
def covariances(*inputs):
    """Compute the gradient of every potential from that of log Z and of the counts; an operation.

    The gradient of segment is empty where there are no segment scores.
    """
    p, (grad_log_z, *grad_counts, backend) = split_potentials(inputs)
    counts = Expectations(*grad_counts)
    values = _values(counts, p.lengths, len(p.duration))
    dtype = p.duration.dtype
    gradient = _gradient(prepare_for(backend, p), values, grad_log_z, backend)
    return tuple(x.to(dtype) for x in gradient)


@covariances.register_fake
def _(*args):
    return empty_gradient(split_potentials(args)[0])


def _refuse_backward(ctx, *_):
    raise RuntimeError("expected a first derivative of marginals: the second is not available")


covariances.register_autograd(_refuse_backward)


def _values(counts: Expectations, lengths: Tensor, longest: int) -> Potentials:
    """Write the values of the events as potentials whose shared scores differ between sentences."""
    duration, transition, initial, final = counts.split(longest)
    return Potentials(
        emission=counts.emission,
        segment=counts.segment if counts.segment.numel() else None,
        start=counts.start,
        end=counts.end,
        duration=duration.transpose(0, 1)[:, :, None],
        transition=transition,
        initial=initial,
        final=final,
        lengths=lengths,
    ).map(Tensor.double)


def _gradient(
    prepared: Prepared, values: Potentials, grad_log_z: Tensor, backend: str
) -> tuple[Tensor, ...]:
    """Compute the covariances of the value and every event's count.

    Args:
        prepared: Potentials.
        values: Of the events, as potentials.
        grad_log_z: Gradient of log Z [B].
        backend: What runs the scan and the recurrence of the means.

    Returns:
        Gradients of emission, segment, start, end, duration, transition, initial and final.
    """
    p = prepared.potentials
    sums = log_sums(p, backend)
    batch, positions, _, types = p.sizes
    n = torch.arange(positions + 1, device=p.lengths.device)
    # boundary n of a sentence is boundary length - n of the reversed one [B, N + 1, C]
    mirrored = (p.lengths[:, None] - n).clamp(min=0)[..., None].expand_as(sums.pre)
    post, beta = (x.gather(1, mirrored) for x in (sums.post, sums.beta))
    # [2 B, N + 1, C] each, prefixes first
    pre, alpha = torch.cat([sums.pre, post]), torch.cat([sums.alpha, beta])
    pre, alpha = _means([p, reverse(p)], [values, reverse(values)], pre, alpha, backend)
    # [B, N + 1, C] each
    (mean_pre, mean_post), (mean_alpha, mean_beta) = (
        (x[:batch], x[batch:].gather(1, mirrored)) for x in (pre, alpha)
    )
    possible = sums.log_z != -torch.inf
    log_z = torch.where(possible, prepared.told(sums.log_z), 0)
    rows = torch.arange(batch, device=n.device)
    # probability of the last type [B, C]
    last_type = (sums.alpha[rows, p.lengths] + p.final).softmax(-1)
    # the mean value of a segmentation [B]
    last_type = torch.where(possible[:, None], last_type, 0)
    mean = (last_type * (mean_alpha[rows, p.lengths] + values.final)).sum(-1)
    # the gradient of log Z itself is a count with the value 1
    shift = (grad_log_z - mean)[:, None, None]
    # [B, N, 1]
    counted = (possible[:, None] & (n[:-1] < p.lengths[:, None]))[..., None]

    start, end = torch.zeros_like(mean_pre[:, 1:]), torch.zeros_like(mean_pre[:, 1:])
    duration = torch.zeros_like(p.duration)
    segment = p.duration.new_zeros(0) if p.segment is None else torch.zeros_like(p.segment)
    scored = zip(segment_scores(p, 0, positions), segment_scores(values, 0, positions), strict=True)
    for d, ((lo, score), (_, value)) in enumerate(scored):
        left, right = slice(0, positions - lo), slice(lo + 1, positions + 1)
        # [B, N - lo, C]
        mass = sums.pre[:, left] + score + sums.post[:, right] - log_z[:, None, None]
        mass = mass.clamp_(max=0).exp_()
        mass = mass * (mean_pre[:, left] + value + mean_post[:, right] + shift)
        mass = torch.where(counted[:, lo:], mass, 0)
        start[:, left] += mass
        end[:, lo:] += mass
        duration[d] = mass.sum((0, 1))
        if p.segment is not None:
            segment[:, left, d] = mass
    opened = start.clone()
    opened[:, 1:] -= end[:, :-1]
    emission = torch.where(counted, opened.cumsum(1), 0)
    if p.emission is not None:  # starts less ends need not cancel to the last bit
        emission.masked_fill_(p.emission == -torch.inf, 0)

    transition = torch.zeros_like(p.transition)
    for inner in _blocks(1, positions, batch * types * types):
        # [B, n, C_src, C_dst] for n boundaries
        log_p = sums.alpha[:, inner, :, None] + p.transition + sums.beta[:, inner, None]
        mass = (log_p - log_z[:, None, None, None]).clamp_(max=0).exp_()
        mean = mean_alpha[:, inner, :, None] + mean_beta[:, inner, None]
        mass = mass * (mean + (values.transition + shift)[:, None])
        transition += torch.where(counted[:, inner, :, None], mass, 0).sum((0, 1))
    final = torch.where((n[1:] == p.lengths[:, None])[..., None], end, 0)
    first, last = start[:, 0].sum(0), final.sum((0, 1))
    return emission, segment, start, end, duration, transition, first, last


def _means(
    directions: list[Potentials],
    values: list[Potentials],
    pre: Tensor,
    alpha: Tensor,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """Compute the mean values of the prefixes that ``pre`` and ``alpha`` sum up [R, N + 1, C].

    R counts the sentences of every direction, side by side.
    """
    _, positions, longest, types = directions[0].sizes
    # [N + 1, R, C] each
    pre, alpha = pre.transpose(0, 1), alpha.transpose(0, 1)
    rows = pre.shape[1]
    mean_alpha = alpha.new_zeros(positions + 1, rows, types)
    # both start with what lies before boundary 0
    mean_pre = alpha.new_zeros(longest + positions, rows, types)
    mean_pre[longest - 1] = torch.cat([x.initial for x in values])
    # [L + N, R, C]
    entered = torch.nn.functional.pad(pre, (0, 0, 0, 0, longest - 1, 0), value=-torch.inf)
    # [R, C_src, C_dst] each
    transition, step_value = (
        torch.cat([x.transition.expand(len(x.lengths), types, types) for x in sides])
        for sides in (directions, values)
    )
    recurrence = implementation(backend, "means").recurrence
    for block in _blocks(0, positions, rows * types * max(longest, types)):
        ends = slice(block.start + 1, block.stop + 1)
        # [T, R, C, L] for T boundaries
        window = entered[block.start : block.stop + longest - 1].unfold(0, longest, 1)
        # [T, L, R, C]
        chance = window.movedim(-1, 1) + _ending(directions, block) - _finite(alpha[ends])[:, None]
        chance = chance.clamp_(max=0).exp_()
        chance /= chance.sum(1, keepdim=True).clamp(min=TINY)  # which scores may multiply by 1e9
        # [T, R, C]
        gain = torch.where(chance > 0, chance * _ending(values, block), 0).sum(1)
        # [T, R, C_src, C_dst]
        step = alpha[ends, ..., None] + transition - _finite(pre[ends])[:, :, None]
        step = step.clamp_(max=0).exp_()
        step /= step.sum(2, keepdim=True).clamp(min=TINY)
        step_gain = (step * step_value).sum(2)
        recurrence(chance, gain, step, step_gain, mean_pre[block.start :], mean_alpha[ends])
    return mean_pre[longest - 1 :].transpose(0, 1), mean_alpha.transpose(0, 1)


def _ending(directions: list[Potentials], block: slice) -> Tensor:
    """Score the segments that end in a block [T, L, R, C], the longest first, as in windows."""
    # [R, T, L, C]
    by_end = torch.cat([scores_by_end(x, block.start, block.stop) for x in directions])
    return by_end.permute(1, 2, 0, 3).flip(1)


def _blocks(first: int, last: int, elements: int) -> Iterator[slice]:
    """Cut positions into blocks whose tensors, of so many elements a position, fit in memory."""
    size = max(1, BLOCK_ELEMENTS // elements)
    for begin in range(first, last, size):
        yield slice(begin, min(begin + size, last))


def _finite(x: Tensor) -> Tensor:
    """Read log-sums as shifts: 0 where nothing but -inf was summed up."""
    return torch.where(x > -torch.inf, x, 0)
