"""Read segments, posteriors, entropy and n-best lists off what the head computed for a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hf_semicrf import ops
from hf_semicrf.head import SemiCRFOutput
from hf_semicrf.results import Segment


class Distribution(NamedTuple):
    """The distribution over the segmentations of one run of words.

    Args:
        posteriors: Of types, starts and ends at each word [W, C], on the CPU.
        entropy: In nats.
        alternatives: The most probable segmentations, best first, each with its probability. The
            segments of one have the posterior 1: they are given.
    """

    posteriors: ops.Marginals
    entropy: float
    alternatives: list[tuple[float, list[Segment]]]


def decoded_segments(head: SemiCRFOutput, types: Sequence[str]) -> list[list[Segment] | None]:
    """The decoded entities of each sentence, read in one transfer.

    Args:
        head: What the head computed, decoded, with the posteriors of segments.
        types: Names of the types; the first is the outside.

    Returns:
        For each sentence its segments of all types but the outside, by word; None where no
        segmentation is allowed.

    Raises:
        ScoreError: Scores of a sentence are not finite.
    """
    assert head.labels is not None and head.starts is not None
    assert head.marginals is not None and head.segment_posteriors is not None
    # the types of a word have probability 1 in all, or 0 where every segmentation is forbidden
    possible = head.marginals.token.sum(-1)
    columns = (head.labels, head.starts, head.segment_posteriors, possible)
    packed = torch.stack([column.float() for column in columns]).cpu()  # [4, B, N]
    labels, starts, posteriors, possible = packed
    broken = possible.isnan().any(-1).nonzero().flatten().tolist()
    if broken:
        raise ops.ScoreError(f"expected finite scores, got others in sentences {broken}", broken)
    found: list[list[Segment] | None] = []
    for row, length in enumerate((labels >= 0).sum(-1).tolist()):
        if not bool((possible[row, :length] > 0.5).all()):
            found.append(None)
            continue
        spans = _spans(labels[row, :length], starts[row, :length])
        scores = posteriors[row, :length].clamp(max=1).tolist()
        found.append(
            [Segment(first, end, types[kind], scores[first]) for first, end, kind in spans if kind]
        )
    return found


def distributions(
    head: SemiCRFOutput, temperature: float, types: Sequence[str], n_best: int
) -> list[Distribution]:
    """The distribution of each sentence of a batch, read in one transfer a tensor.

    O(N (L C + C^2)) time for all but the n best, which take ``n_best`` times L C more.

    Args:
        head: What the head computed, decoded.
        temperature: What the potentials are to be divided by.
        types: Names of the types; the first is the outside.
        n_best: How many segmentations to return; 0 for none.
    """
    assert head.potentials is not None and head.marginals is not None
    p = head.potentials.map(lambda x: x / temperature)
    lengths, entropy = p.lengths.tolist(), ops.entropy(p).tolist()
    posteriors = [x.float().cpu() for x in head.marginals[:3]]
    ranked: list[list[tuple[float, list[Segment]]]] = [[] for _ in lengths]
    if n_best:
        score, labels, starts = ops.k_best(p, n_best)
        probability = (score - ops.log_partition(p)[:, None]).exp().clamp(max=1).tolist()
        labels, starts = labels.cpu(), starts.cpu()  # [B, k, N]
        for row, length in enumerate(lengths):
            for rank, chance in enumerate(probability[row]):
                if chance > 0:
                    spans = _spans(labels[row, rank, :length], starts[row, rank, :length])
                    segments = [Segment(a, b, types[kind], 1.0) for a, b, kind in spans if kind]
                    ranked[row].append((chance, segments))
    return [
        Distribution(
            ops.Marginals(*(x[row, :length] for x in posteriors)), entropy[row], ranked[row]
        )
        for row, length in enumerate(lengths)
    ]


def joined(
    parts: Sequence[Distribution],
    sizes: Sequence[int],
    sections: Sequence[tuple[int, int]],
    types: int,
) -> Distribution:
    """The distribution of a text from those of its windows.

    Args:
        parts: Of each window.
        sizes: Words in each window.
        sections: The words of each window that it answers for, counted from its first; half-open.
        types: Number of types C.
    """
    if len(parts) == 1:
        return parts[0]
    chosen = list(zip(parts, sizes, sections, strict=True))
    columns = (
        torch.cat([_columns(part)[n][a:b] for part, _, (a, b) in chosen] or [torch.empty(0, types)])
        for n in range(3)
    )
    entropy = sum(part.entropy * (b - a) / size for part, size, (a, b) in chosen)
    return Distribution(ops.Marginals(*columns), entropy, [])


def _spans(labels: Tensor, starts: Tensor) -> list[tuple[int, int, int]]:
    """First word, word after the last and type of each segment of a sentence [N], on the CPU."""
    begins = starts.nonzero().flatten().tolist()
    kinds = labels.tolist()
    return [
        (begin, end, int(kinds[begin]))
        for begin, end in zip(begins, [*begins[1:], len(kinds)], strict=True)
    ]


def _columns(part: Distribution) -> tuple[Tensor, Tensor, Tensor]:
    """Posteriors of types, starts and ends."""
    return part.posteriors.token, part.posteriors.start, part.posteriors.end
