"""Read segments, posteriors, entropy and n-best lists off what the head computed for a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy
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


def segment_columns(head: SemiCRFOutput) -> Tensor:
    """What `read_segments` reads, in one tensor [4, B, N] on the head's device.

    Args:
        head: What the head computed, decoded, with the posteriors of segments.
    """
    assert head.labels is not None and head.starts is not None
    assert head.marginals is not None and head.segment_posteriors is not None
    # the types of a word have probability 1 in all, or 0 where every segmentation is forbidden
    possible = head.marginals.token.sum(-1)
    columns = (head.labels, head.starts, head.segment_posteriors, possible)
    return torch.stack([column.float() for column in columns])


def read_segments(columns: Tensor, types: Sequence[str]) -> list[list[Segment] | None]:
    """The decoded entities of each sentence.

    Args:
        columns: As `segment_columns` returns them, on the CPU.
        types: Names of the types; the first is the outside.

    Returns:
        For each sentence its segments of all types but the outside, by word; None where no
        segmentation is allowed.

    Raises:
        ScoreError: Scores of a sentence are not finite.
    """
    labels, starts, posteriors, possible = columns.numpy()
    broken = numpy.isnan(possible).any(-1).nonzero()[0].tolist()
    if broken:
        raise ops.ScoreError(f"expected finite scores, got others in sentences {broken}", broken)
    lengths = (labels >= 0).sum(-1)
    inside = numpy.arange(labels.shape[1]) < lengths[:, None]
    found: list[list[Segment] | None] = [
        [] if legal else None for legal in ((possible > 0.5) | ~inside).all(-1).tolist()
    ]
    rows, firsts = ((starts > 0) & inside).nonzero()
    # a segment ends where the next of its row begins
    ends = numpy.append(firsts[1:], 0)
    ends = numpy.where(numpy.append(rows[1:], -1) == rows, ends, lengths[rows])
    kinds = labels[rows, firsts].astype(int)
    entities = kinds > 0
    scores = posteriors[rows, firsts].clip(max=1)
    for row, first, end, kind, score in zip(
        *(x[entities].tolist() for x in (rows, firsts, ends, kinds, scores)), strict=True
    ):
        if (segments := found[row]) is not None:
            segments.append(Segment(first, end, types[kind], score))
    return found


def decoded_segments(head: SemiCRFOutput, types: Sequence[str]) -> list[list[Segment] | None]:
    """What `read_segments` reads of what the head computed, in one transfer."""
    return read_segments(segment_columns(head).cpu(), types)


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
