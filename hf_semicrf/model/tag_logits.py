"""Write what the head decoded as log posteriors of tags at every sub-word."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_semicrf.head import SemiCRFOutput
from hf_semicrf.labels import LabelScheme
from hf_semicrf.ops import kernels_for
from hf_semicrf.text import Lattice


def tag_logits(scheme: LabelScheme, head: SemiCRFOutput, lattice: Lattice) -> Tensor:
    """Log posteriors of the tags [B, T, number of tags], whose argmax is the decoded tagging.

    Args:
        scheme: How segmentations are written as tags.
        head: What was decoded, with marginals (with those of segments, if the scheme marks ends).
        lattice: Where the words stand among the sub-words. A word's other sub-words lie inside its
            segment; a sub-word of no word is outside for certain.
    """
    marginals = head.marginals
    assert marginals is not None and head.labels is not None and head.starts is not None
    kernels = kernels_for("tags", lattice.mask.device)
    if kernels is not None and lattice.mask.shape == head.labels.shape:
        return kernels.tag_logits(
            *marginals[:3],
            marginals.segment if scheme.marks_ends else None,
            head.labels,
            head.starts,
            lattice.mask,
            lattice.word_of_token,
            *scheme.writing(lattice.mask.device),
            scheme.labels.index("O"),
        )
    # of words' first sub-words, then of others: nothing starts or ends there
    token = torch.stack([marginals.token, marginals.token])
    start, end = (torch.stack([x, torch.zeros_like(x)]) for x in (marginals.start, marginals.end))
    single = None
    if marginals.segment is not None:
        single = marginals.segment[:, :, 0]
        single = torch.stack([single, torch.zeros_like(single)])
    posteriors = scheme.tag_posteriors(token, start, end, single)
    starts = torch.stack([head.starts, torch.zeros_like(head.starts)])
    posteriors = _raise_decoded(posteriors, scheme.decode(head.labels.expand_as(starts), starts))

    word = lattice.word_of_token
    rows = torch.arange(len(word), device=word.device)[:, None]
    logits = posteriors[(~lattice.mask).long(), rows, word]
    outside = logits.new_full(logits.shape[-1:], torch.finfo(logits.dtype).min)
    outside[scheme.labels.index("O")] = 0
    return torch.where((word < 0)[..., None], outside, logits)


def _raise_decoded(posteriors: Tensor, tags: Tensor) -> Tensor:
    """Log posteriors [..., N, K] in which the decoded tag [..., N] has the maximum."""
    logits = posteriors.clamp(min=torch.finfo(posteriors.dtype).tiny).log()
    at = tags.clamp(min=0)[..., None]
    # a log posterior of the best of K tags is at least -log K: the margin survives rounding
    margin = logits.amax(-1, keepdim=True) + 1e-5
    return logits.scatter(-1, at, torch.where(tags[..., None] >= 0, margin, logits.gather(-1, at)))
