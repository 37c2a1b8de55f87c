"""Marginals of listed spans: a gather from the scan's state, with no tensor over all segments."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_semicrf.ops.host.boundaries import log_sums
from hf_semicrf.ops.host.magnitude import prepare_for
from hf_semicrf.ops.potentials import Potentials, segment_scores
from hf_semicrf.ops.registry import operation, split_potentials


def segment_marginals(p: Potentials, spans: Tensor, backend: str) -> Tensor:
    """Compute the probabilities [B, S, C] that spans [B, S, 2] are segments of each type."""
    return _segment_marginals(*p, spans, backend)


@operation(1, "Tensor spans", "str backend")
def _segment_marginals(*inputs):
    p, (spans, backend) = split_potentials(inputs)
    dtype = p.duration.dtype
    prepared = prepare_for(backend, p)
    p = prepared.potentials
    _, positions, longest, types = p.sizes
    sums = log_sums(p, backend)
    log_z = prepared.told(sums.log_z)
    # [B, S] each
    begin, stop = spans.unbind(-1)
    length = stop - begin
    legal = (begin >= 0) & (length >= 1) & (length <= longest) & (stop <= p.lengths[:, None])
    legal &= log_z[:, None] != -torch.inf

    def at(x: Tensor, index: Tensor) -> Tensor:
        # [B, N + 1, C] to [B, S, C]
        return x.gather(1, index[..., None].expand(-1, -1, types))

    begin, stop = torch.where(legal, begin, 0), torch.where(legal, stop, 0)
    # [B, S, C]
    log_p = at(sums.pre, begin) + at(sums.post, stop) - log_z[:, None, None]
    for d, (_, score) in enumerate(segment_scores(p, 0, positions)):
        # [B, S]
        is_length = legal & (length == d + 1)
        span_score = at(score, torch.where(is_length, begin, 0))
        log_p += torch.where(is_length[..., None], span_score, 0)
    probability = torch.where(legal[..., None], log_p.exp().clamp(max=1), 0)
    return torch.where(log_z.isnan()[:, None, None], torch.nan, probability).to(dtype)


@_segment_marginals.register_fake
def _(*args):
    p, (spans, _) = split_potentials(args)
    return p.duration.new_empty(*spans.shape[:2], p.sizes[3])


def _refuse_backward(ctx, *_):
    raise RuntimeError(
        "expected no derivative of the marginals of given spans; those of ops.marginals have one"
    )


_segment_marginals.register_autograd(_refuse_backward)
