"""Promises of recall: what they depend on, and whether it is still so."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any
from weakref import WeakKeyDictionary

import torch

from hf_semicrf.results import Promise, PromisedPart

AGAIN = "calibrate again (trainer.calibrate_recall, hf-semicrf calibrate)"
# what a configuration says that no posterior depends on, or that has a line of its own
_BESIDE = {
    *("threshold", "head_temperature", "splitter", "promises", "unknown", "base_model"),
    *("architectures", "auto_map", "dtype", "torch_dtype", "transformers_version"),
    *("_name_or_path", "has_word_starts", "label2id"),
}
_weights: WeakKeyDictionary[Any, tuple[Any, str]] = WeakKeyDictionary()


def dependencies(
    model: Any,
    tokenizer: Any,
    texts: str,
    splitter: str,
    max_length: int | None,
    overlap: int | None,
) -> dict[str, Any]:
    """What the candidates of a text depend on; digests of what is large.

    Args:
        model: The model.
        tokenizer: Its tokenizer, prepared.
        texts: "strings" or "lists of words".
        splitter: Name of what cuts strings into words.
        max_length: Sub-words in a window; None for no limit.
        overlap: Words that windows share; None for the default.
    """
    config = model.config
    return {
        "weights": weights_digest(model),
        "tokenizer": _tokenizer_digest(tokenizer),
        "settings": _digest(_settings(config.to_diff_dict())),
        "temperature": config.head_temperature,
        "texts": texts,
        "splitter": splitter,
        "max_length": max_length,
        "overlap": overlap,
        "precision": _precision(model),
    }


def sealed(promise: Mapping[str, Any]) -> Promise:
    """A promise with a digest of all else that it says.

    Args:
        promise: All but the digest.
    """
    content = {name: value for name, value in promise.items() if name != "digest"}
    return {**content, "digest": _digest(content)}  # type: ignore[typeddict-item]


def promise_of(promises: Iterable[Promise], recall: float) -> Promise:
    """The promise of a recall.

    Args:
        promises: All that a model has.
        recall: What was promised.

    Raises:
        ValueError: There is none, or it has been changed by hand.
    """
    made = {promise.get("recall"): promise for promise in promises}
    if recall not in made:
        known = ", ".join(str(number) for number in made) or "none"
        raise ValueError(
            f"expected a recall that the model was calibrated for ({known}), got {recall}: "
            "trainer.calibrate_recall or hf-semicrf calibrate makes it a promise"
        )
    promise = made[recall]
    if promise.get("digest") != sealed(promise)["digest"]:
        raise ValueError(
            f"expected the promise of recall {recall} as it was made, got one that has been "
            f"changed: {AGAIN}"
        )
    return promise


def thresholds_of(promise: Promise, types: Sequence[str]) -> list[float]:
    """The least posterior of a candidate of each type but the outside; above 1 for none.

    Args:
        promise: A promise.
        types: Names of the types, the outside's first.
    """
    parts: dict[str | None, PromisedPart] = {part["type"]: part for part in promise["parts"]}
    never: Any = {"threshold": 2.0}
    return [parts.get(name, parts.get(None, never))["threshold"] for name in types[1:]]


def check_kept(promise: Promise, now: Mapping[str, Any]) -> None:
    """Refuse a promise that was made under other conditions.

    Args:
        promise: The promise.
        now: What `dependencies` says.

    Raises:
        ValueError: Something differs; the message names it.
    """
    before = promise["depends_on"]
    for name in {**before, **now}:
        if before.get(name) != now.get(name):
            raise ValueError(
                f"expected {name} {before.get(name)!r}, with which recall {promise['recall']} was "
                f"promised, got {now.get(name)!r}: go back to it, or {AGAIN}"
            )


def weights_digest(model: Any) -> str:
    """A digest of a model's weights, kept until one of them is written to.

    Args:
        model: The model; on which device it is does not count.
    """
    state = sorted(model.state_dict().items())
    key = None
    if not any(value.is_inference() for _, value in state):
        key = [(name, value.data_ptr(), value._version) for name, value in state]
        before, digest = _weights.get(model, (None, ""))
        if before == key:
            return digest
    summed = blake2b(digest_size=16)
    for name, value in state:
        summed.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        summed.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    _weights[model] = key, summed.hexdigest()
    return summed.hexdigest()


def _settings(values: Any) -> Any:
    """A configuration without what no posterior depends on."""
    if isinstance(values, Mapping):
        return {str(k): _settings(v) for k, v in values.items() if k not in _BESIDE}
    return [_settings(item) for item in values] if isinstance(values, list | tuple) else values


def _tokenizer_digest(tokenizer: Any) -> str:
    """A digest of how a tokenizer cuts words; how it pads and truncates for now does not count."""
    if not hasattr(tokenizer, "backend_tokenizer"):
        return _digest([type(tokenizer).__name__, tokenizer.get_vocab()])
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    content |= {"padding": tokenizer.padding_side, "truncation": None}
    return _digest(content)


def _precision(model: Any) -> str:
    """The precision in which a model runs."""
    kind = model.device.type
    if torch.is_autocast_enabled(kind):
        return f"autocast to {torch.get_autocast_dtype(kind)}".replace("torch.", "")
    return str(model.dtype).removeprefix("torch.")


def _digest(content: Any) -> str:
    written = json.dumps(content, sort_keys=True, default=str)
    return blake2b(written.encode(), digest_size=16).hexdigest()
