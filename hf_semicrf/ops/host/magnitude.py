"""Potentials as float64 can add them up: small where they can be, -inf where they decide nothing.

All arithmetic is in float64, so scores up to `LARGEST` are told apart to 1e-6. Larger ones are

- taken off where every segmentation has one: the best emission of each position, the best first
  and the best last type. The sum that is taken off goes back onto log Z;
- forbidden where they are negative, provided that what is left is so much better that no digit of
  a result can depend on them;
- not told apart otherwise. Such a sentence, and one with NaN or +inf, has NaN for every result.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

import torch
from torch import Tensor

from hf_semicrf.ops.potentials import Potentials, only_read

LARGEST = 2e9  # in nats
LOWEST = 2 * LARGEST  # below 0, of a score that the best of its place was taken off
CERTAIN = 1e3  # nats between what is forbidden and what is left: exp(-1e3) is 0


class Prepared(NamedTuple):
    """Potentials of the same distribution, and what their log Z is short of.

    Args:
        potentials: In float64.
        level: What every segmentation lost [B].
        least: What their log Z has to exceed for the forbidden not to matter [B]; None where
            nothing was forbidden or found wrong.
    """

    potentials: Potentials
    level: Tensor
    least: Tensor | None

    def told(self, log_z: Tensor) -> Tensor:
        """Log Z, or the best score, of the potentials [B]; NaN where it does not say enough."""
        if self.least is None:
            return log_z
        enough = (log_z > self.least) | (self.least == -torch.inf)
        return torch.where(enough, log_z, torch.nan)


def centred(p: Potentials) -> tuple[Potentials, Tensor]:
    """Take off what every segmentation has, in float64.

    Returns:
        The potentials of the same distribution, and what was taken off [B].
    """
    p = p.map(Tensor.double)
    first, last, tops = bests = _bests(p)
    return _without(p, *bests), first + last + _inside(tops, p.lengths).sum(1)


def _bests(p: Potentials) -> tuple[Tensor, Tensor, Tensor]:
    """The best first and last type, and the best emission of each position [B, N]."""
    emission = p.duration.new_zeros(len(p.lengths), 0, 1) if p.emission is None else p.emission
    return _best(p.initial), _best(p.final), _best(emission)


def _without(p: Potentials, first: Tensor, last: Tensor, tops: Tensor) -> Potentials:
    """Take the best scores off."""
    emission = None if p.emission is None else p.emission - tops[..., None]
    return p._replace(emission=emission, initial=p.initial - first, final=p.final - last)


def _inside(tops: Tensor, lengths: Tensor) -> Tensor:
    """The best emissions [B, N], 0 past each length."""
    inside = torch.arange(tops.shape[1], device=tops.device) < lengths[:, None]
    return torch.where(inside, tops, 0)


def _added(first: Tensor, last: Tensor, tops: Tensor) -> Tensor:
    """Add the best scores of each sentence [B]; to the last digit where large ones may cancel."""
    level = first + last + tops.sum(1)
    sizes = torch.cat([tops.abs(), (first.abs() + last.abs()).expand(len(tops), 1)], 1)
    for b in (sizes.amax(1) > LARGEST).nonzero().flatten().tolist():
        with suppress(OverflowError):
            level[b] = math.fsum([float(first), float(last), *tops[b].tolist()])
    return level


def _best(scores: Tensor) -> Tensor:
    """The best of the last axis, 0 where it is not finite."""
    top = scores.detach().amax(-1)
    return torch.where(top.isfinite(), top, 0)


def prepare(p: Potentials) -> Prepared:
    """Centre potentials, forbid what decides nothing, and write NaN where they cannot be used.

    Looks at values: on a GPU this waits.
    """
    p = p.map(Tensor.double)
    bests = _bests(p)
    level = _added(*bests[:2], _inside(bests[2], p.lengths))
    p = _without(p, *bests)
    if is_small(p):
        return Prepared(p, level, None)
    p = only_read(p)
    wrong, far, gain = unusable(p), torch.full_like(level, -torch.inf), torch.zeros_like(level)
    scores: dict[str, Tensor] = {}
    for name, x, view in _views(p):
        removed = (x < -LOWEST) & (x > -torch.inf)
        far = far.maximum(torch.where(removed, x, -torch.inf).reshape(view.shape).amax((1, 2)))
        # what positive scores can add, at most
        count = p.sizes[1] // view.shape[1]
        gain = gain + view.amax(-1).clamp(min=0).sum(1) * count
        scores[name] = torch.where(x <= LARGEST, x.masked_fill(removed, -torch.inf), torch.nan)
    name = next(iter(scores))  # one of those that a sentence has for itself
    rows = wrong.reshape(-1, *[1] * (scores[name].ndim - 1))
    scores[name] = torch.where(rows, torch.nan, scores[name])
    least = far + gain + CERTAIN + p.sizes[1] * math.log(2 * p.sizes[3])
    return Prepared(p._replace(**scores), level, torch.where(wrong, torch.inf, least))


def prepare_for(backend: str, p: Potentials) -> Prepared:
    """Prepare potentials for one of the two; Triton's scan does it where it reads them."""
    if backend == "torch":
        return prepare(p)
    return Prepared(*centred(p), None)


def unusable(p: Potentials) -> Tensor:
    """Say which sentences have NaN, or a score above `LARGEST` [B] bool, of :func:`only_read`."""
    wrong = torch.zeros_like(p.lengths, dtype=torch.bool)
    for _, _, view in _views(p):
        wrong = wrong | ~(view <= LARGEST).all(-1).all(-1)
    return wrong


def _views(p: Potentials) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Name, scores and a view of them, [B, N, ...] or [1, 1, ...] where sentences share them."""
    batch, positions, _, _ = p.sizes
    for name, x in p._asdict().items():
        if x is not None and name != "lengths":
            own = name in ("emission", "segment", "start", "end")
            yield name, x, x.reshape(*((batch, positions) if own else (1, 1)), -1)


def is_small(p: Potentials) -> bool:
    """Say whether all scores lie from -`LOWEST` to `LARGEST`, or are -inf."""
    present = [x.detach() for x in p[:-1] if x is not None]
    ends = torch.stack([end.double() for x in present for end in x.aminmax()]).tolist()
    for x, low, high in zip(present, ends[::2], ends[1::2], strict=True):
        if low == -math.inf:
            low = float(torch.where(x == -torch.inf, 0, x).amin())
        if not -LOWEST <= low <= high <= LARGEST:
            return False
    return True


def narrowed(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Cast what is finite; NaN where it leaves the range of the dtype."""
    if x.dtype == dtype:
        return x
    y = x.to(dtype)
    return torch.where(y.isinf() & x.isfinite(), torch.nan, y)


def narrowed_from_below(x: Tensor, dtype: torch.dtype) -> Tensor:
    """As :func:`narrowed`, but the lowest number for scores below it: the best is what matters."""
    return narrowed(torch.where(x == -torch.inf, x, x.clamp(min=torch.finfo(dtype).min)), dtype)
