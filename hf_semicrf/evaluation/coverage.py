"""At which threshold each entity is found, and what the candidates there cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hf_semicrf.options import check


def found_at(
    gold: Sequence[tuple[int, int, int]], candidates: Any, words: int, covering: str
) -> np.ndarray:
    """For each entity of a text the highest threshold at which candidates find it; 0 for none.

    Args:
        gold: Entities: first word, word after the last, number of the type (-1 for one that no
            candidate has) [E].
        candidates: `hf_semicrf.inference.Candidates` of the text.
        words: Its words.
        covering: "words" where each word of the entity has to lie in some candidate, "exact" where
            the entity has to be one, of its type.
    """
    if check(covering=covering)["covering"] == "words":
        covered = candidates.coverage(words)
        return np.array([covered[first:end].min(initial=1) if first < end else 0.0
                         for first, end, _ in gold], dtype=float)  # fmt: skip
    exact = dict(zip(zip(*map(np.ndarray.tolist, candidates[:3]), strict=True),
                     candidates.posterior.tolist(), strict=True))  # fmt: skip
    return np.array([exact.get(tuple(entity), 0.0) for entity in gold], dtype=float)
