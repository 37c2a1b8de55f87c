"""A saved tagger, loaded for another library."""

from __future__ import annotations

from os import PathLike
from typing import Any


def load_tagger(name: str | PathLike, device: str) -> tuple[Any, Any]:
    """A model and its tokenizer.

    Args:
        name: Hub name or folder.
        device: Where the model is to run, as PyTorch calls it.

    Raises:
        ValueError: The model is no semi-CRF.
    """
    from transformers import pipeline

    from hf_semicrf.pipeline import TASK

    make: Any = pipeline  # whose signatures list the stock tasks alone
    tagger = make(TASK, model=str(name), device=device)
    return tagger.model, tagger.tokenizer
