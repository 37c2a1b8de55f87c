"""Train on from a saved model: match its labels with new ones by name, and keep what it knows.

A head has scores for each type and for each length. Types are matched by name, so another order of
the labels is the same model. A new type starts as in a new head, but rare, so that it does not
take the entities of the types that the model has learnt. A length beyond the saved ones starts as
the longest saved one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hf_semicrf.labels import PREFIXES, LabelScheme
from hf_semicrf.options import check

TYPES, LENGTHS, OTHER = "types", "lengths", "other"
THREE_BLOCKS = "three blocks of types"  # of emissions, of starts, of ends

# What the first dimensions of a head's parameters stand for. Parameters that are not listed know
# neither types nor lengths.
DIMENSIONS: dict[str, tuple[str, ...]] = {
    "duration_bias": (LENGTHS, TYPES),
    "transition_bias": (TYPES, TYPES),
    "initial_bias": (TYPES,),
    "final_bias": (TYPES,),
    "scorer.emission.weight": (TYPES,),
    "scorer.emission.bias": (TYPES,),
    "scorer.boundary.projection.weight": (THREE_BLOCKS,),
    "scorer.boundary.projection.bias": (THREE_BLOCKS,),
    "scorer.width.weight": (LENGTHS,),
    "scorer.output.weight": (TYPES,),
    "scorer.output.bias": (TYPES,),
}
# of the boundary scorer, which is a part of the span scorer; that has a projection of its own
BOUNDARY_DIMENSIONS = {
    "scorer.projection.weight": (THREE_BLOCKS,),
    "scorer.projection.bias": (THREE_BLOCKS,),
}
# the biases whose first block scores each position of a segment
EMISSION_BIASES = (
    "scorer.emission.bias",
    "scorer.projection.bias",
    "scorer.boundary.projection.bias",
)
# What a new type starts with: a prior probability of 1 %, which keeps training stable beside
# classes that are already well told apart. Source: Lin et al. (2017), Focal Loss, section 3.3.
NEW_TYPE_BIAS = math.log(0.01)


class Continuation(NamedTuple):
    """The sizes of a model that trains on, as settings of its configuration.

    Args:
        labels: Tag names in the order of their ids.
        label_scheme: Their scheme.
        max_segment_length: Longest segment, in words.
    """

    labels: list[str]
    label_scheme: str | None
    max_segment_length: int


def continued_settings(
    scheme: LabelScheme,
    max_segment_length: int,
    labels: Sequence[str] | Mapping[int, str] | None = None,
    label_scheme: str | None = None,
    longest: int | None = None,
) -> Continuation:
    """The labels and the longest segment of a saved model that trains on with other labels.

    - Labels that name all of the model's types, and perhaps more, are taken in their own order.
    - Labels that lack some of the model's types keep the model's own labels and order. Types that
      the model lacks stand behind them.
    - Tags of another scheme with prefixes, or spelled otherwise, are taken. The types that they
      lack are spelled like them and stand behind them.

    Args:
        scheme: The saved model's, ``config.scheme``.
        max_segment_length: The saved model's.
        labels: The new labels; None for the model's own.
        label_scheme: The scheme of the new labels. None for the model's own where they follow it,
            else to recognise it.
        longest: The longest segment that is needed; None for the model's own. A model's longest
            segment grows and never shrinks.

    Raises:
        ValueError: The new labels follow no scheme, or one that does not go with the model's: with
            prefixes where the model's have none or the other way round, or without types. A length
            or the scheme is not among its values.
    """
    given = check(max_segment_length=max_segment_length, label_scheme=label_scheme)
    label_scheme, known = given["label_scheme"], given["max_segment_length"]
    longest = known if longest is None else max(known, check(longest=longest)["longest"])
    if labels is None:
        return Continuation(list(scheme.labels), scheme.setting, longest)
    new = _read(scheme, labels, label_scheme)
    missing = [name for name in scheme.types if name not in new.types]
    one_type = not new.spelling.separator  # its tags name no type: others cannot stand beside it
    if (scheme.name == "plain") != (new.name == "plain") or (missing and one_type):
        raise ValueError(
            f"expected labels of the saved model's scheme {scheme.name} and its types "
            f"{list(scheme.types[1:])}, got labels of the scheme {new.name} and the types "
            f"{list(new.types[1:])}; pass label_scheme={scheme.setting!r} if they follow it"
        )
    if not missing:
        return Continuation(list(new.labels), new.setting, longest)
    if _alike(scheme, new):
        known = set(scheme.labels)
        more = [tag for tag in new.labels if tag not in known]
        return Continuation([*scheme.labels, *more], scheme.setting, longest)
    more = [tag for name in missing for tag in new.tags_of(name)]
    return Continuation([*new.labels, *more], new.setting, longest)


def continued_state(
    saved: Mapping[str, Tensor],
    fresh: Mapping[str, Tensor],
    saved_types: Sequence[str],
    types: Sequence[str],
    prefix: str = "",
) -> dict[str, Tensor]:
    """The state of a head that has the saved one's scores for what both know.

    Args:
        saved: State of the saved head, or of a model that holds it.
        fresh: State of a new head of the new sizes: what new types start from, with a bias that
            makes them rare.
        saved_types: The saved head's types, ``scheme.types``.
        types: The new head's.
        prefix: What the names of the head's parameters begin with, such as "classifier.".

    Returns:
        The saved state, whatever its other parameters are, with the head's in the new sizes.

    Raises:
        ValueError: A parameter is missing, or has other sizes than the types say.
    """
    state = dict(saved)
    dimensions = dict(DIMENSIONS)
    if f"{prefix}scorer.boundary.projection.weight" not in fresh:
        dimensions |= BOUNDARY_DIMENSIONS
    for name, new in fresh.items():
        if not name.startswith(prefix):
            continue
        if name not in saved:
            raise ValueError(f"expected {name} among the saved head's parameters, got none")
        kinds = dimensions.get(name.removeprefix(prefix), ())
        try:
            state[name] = _carried(saved[name], new, kinds, saved_types, types)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        if name.removeprefix(prefix) in EMISSION_BIASES:
            added = [index for index, kind in enumerate(types) if kind not in saved_types]
            state[name][added] += NEW_TYPE_BIAS
    return state


def _carried(
    saved: Tensor,
    fresh: Tensor,
    kinds: Sequence[str],
    saved_types: Sequence[str],
    types: Sequence[str],
) -> Tensor:
    """A parameter in its new sizes: the saved values for what both know, else fresh ones.

    Args:
        saved: The saved parameter.
        fresh: The new head's.
        kinds: What the first dimensions stand for; the others are the same in both.
        saved_types: The saved head's types.
        types: The new head's.

    Raises:
        ValueError: Sizes are others than the types say.
    """
    from_rows, to_rows = [], []  # for each dimension, which saved rows become which new ones
    kinds = [*kinds, *[OTHER] * (saved.ndim - len(kinds))]
    for kind, old_size, new_size in zip(kinds, saved.shape, fresh.shape, strict=True):
        rows = [(row, row) for row in range(old_size)]
        expected = (old_size, old_size)
        if kind == LENGTHS:
            rows = [(min(row, old_size - 1), row) for row in range(new_size)]
            expected = (old_size, new_size)
        elif kind != OTHER:
            blocks = 3 if kind == THREE_BLOCKS else 1
            rows = _matched(saved_types, types, blocks)
            expected = (blocks * len(saved_types), blocks * len(types))
        if (old_size, new_size) != expected:
            raise ValueError(
                f"expected sizes {expected[0]} (saved) and {expected[1]} (new) for the saved types "
                f"{list(saved_types)} and the new ones {list(types)}, got {old_size} and "
                f"{new_size}; where saved labels are read as other types than the head was trained "
                "on, pass their label_scheme"
            )
        from_rows.append(torch.tensor([row for row, _ in rows]))
        to_rows.append(torch.tensor([row for _, row in rows]))
    carried = fresh.detach().to(saved.device, saved.dtype, copy=True)
    chosen = saved.detach()[torch.meshgrid(*from_rows, indexing="ij")]
    carried[torch.meshgrid(*to_rows, indexing="ij")] = chosen
    return carried


def _matched(saved: Sequence[str], new: Sequence[str], blocks: int) -> list[tuple[int, int]]:
    """The saved and the new row of each type that both know, in each block of all types."""
    places = {name: index for index, name in enumerate(saved)}
    return [
        (block * len(saved) + places[name], block * len(new) + index)
        for block in range(blocks)
        for index, name in enumerate(new)
        if name in places
    ]


def _read(
    scheme: LabelScheme, labels: Sequence[str] | Mapping[int, str], name: str | None
) -> LabelScheme:
    """New labels under their own scheme, else under the saved model's where they follow it."""
    values = labels.values() if isinstance(labels, Mapping) else labels
    if name is None and all(scheme.knows(tag) for tag in values):
        name = scheme.setting
    return LabelScheme.from_labels(labels, name)


def _alike(scheme: LabelScheme, new: LabelScheme) -> bool:
    """Whether new tags are spelled as the saved ones, and the saved scheme has their prefixes."""
    return scheme.spelling == new.spelling and set(PREFIXES[new.name]) <= set(PREFIXES[scheme.name])
