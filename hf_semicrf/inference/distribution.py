"""What the model knows of a text beside its entities: posteriors word by word, entropy, n-best."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hf_semicrf import ops
from hf_semicrf.head import SemiCRFOutput
from hf_semicrf.labels import LabelScheme

Span = tuple[int, int, str]


class Distribution(NamedTuple):
    """What the distribution over the segmentations of one run of words says.

    Args:
        posteriors: Of types, starts and ends at each word [W, C], on the CPU.
        entropy: In nats.
        alternatives: The most probable segmentations, best first: probability and entities (first
            word, word after the last, type).
    """

    posteriors: ops.Marginals
    entropy: float
    alternatives: list[tuple[float, list[Span]]]


@dataclass(frozen=True)
class Prediction:
    """A text, its entities and how sure they are.

    Attributes:
        text: The text as it was given: a string or a list of words.
        entities: What ``predict`` returns without further options.
        words: Where each of the W words begins and ends, half-open; characters of a string, words
            of a list.
        types: Segment types in the order of the posteriors; the first is "O".
        token: Probability that a word lies in a segment of each type [W, C].
        start: Probability that a segment of each type starts at the word [W, C].
        end: Probability that one ends with the word [W, C].
        entropy: Entropy of the distribution over the text's segmentations, in nats: 0 where the
            model is certain. Of a text in several windows, the sum of theirs, each in the share of
            its words that it answers for.
        alternatives: The ``n_best`` most probable segmentations, best first: mappings with
            "probability" and "entities" (as above, without scores). Empty unless asked for.
    """

    text: str | Sequence[str]
    entities: list[dict[str, Any]]
    words: list[tuple[int, int]]
    types: tuple[str, ...]
    token: Tensor
    start: Tensor
    end: Tensor
    entropy: float
    alternatives: list[dict[str, Any]]


def distributions(
    head: SemiCRFOutput, temperature: float, scheme: LabelScheme, n_best: int
) -> Iterator[Distribution]:
    """The distribution of each sentence of a batch, read in one transfer a tensor.

    O(N (L C + C^2)) time for all but the n best, which take ``n_best`` times L C more.

    Args:
        head: What the head computed, decoded.
        temperature: What the potentials are to be divided by.
        scheme: The labels' scheme.
        n_best: How many segmentations to return; 0 for none.
    """
    p = head.potentials.map(lambda x: x / temperature)
    lengths, entropy = p.lengths.tolist(), ops.entropy(p).tolist()
    posteriors = [x.float().cpu() for x in head.marginals[:3]]
    ranked: list[list[tuple[float, list[Span]]]] = [[] for _ in lengths]
    if n_best:
        score, labels, starts = ops.k_best(p, n_best)
        probability = (score - ops.log_partition(p)[:, None]).exp().clamp(max=1).tolist()
        tags = scheme.decode(labels, starts).cpu()
        ranked = [
            [
                (chance, scheme.tags_to_spans(row[:length].tolist()))
                for chance, row in zip(chances, rows, strict=True)
                if chance > 0
            ]
            for chances, rows, length in zip(probability, tags, lengths, strict=True)
        ]
    for row, length in enumerate(lengths):
        marginals = ops.Marginals(*(x[row, :length] for x in posteriors))
        yield Distribution(marginals, entropy[row], ranked[row])


def joined(
    parts: Sequence[Distribution], sizes: Sequence[int], kept: Sequence[tuple[int, int]], types: int
) -> Distribution:
    """The distribution of a text from those of its windows.

    Args:
        parts: Of each window.
        sizes: Words in each window.
        kept: The words of each window that it answers for, counted from its first; half-open.
        types: Number of types C.
    """
    if len(parts) == 1:
        return parts[0]
    chosen = list(zip(parts, sizes, kept, strict=True))
    columns = (
        torch.cat(
            [part.posteriors[n][a:b] for part, _, (a, b) in chosen] or [torch.empty(0, types)]
        )
        for n in range(3)
    )
    entropy = sum(part.entropy * (b - a) / size for part, size, (a, b) in chosen)
    return Distribution(ops.Marginals(*columns), entropy, [])
