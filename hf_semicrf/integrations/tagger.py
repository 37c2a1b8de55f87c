"""A saved tagger, loaded for another library."""

from __future__ import annotations

from os import PathLike
from typing import Any


def load_tagger(name: str | PathLike, device: str, **options: Any) -> Any:
    """A pipeline with a model and its tokenizer.

    Args:
        name: Hub name or folder.
        device: Where the model is to run, as PyTorch calls it.
        **options: What `SemiCRFForTokenClassification.predict` takes.

    Raises:
        ValueError: The model is no semi-CRF, or an option is out of range.
        TypeError: An option is unknown.
    """
    from transformers import pipeline

    from hf_semicrf.pipeline import TASK

    make: Any = pipeline  # whose signatures list the stock tasks alone
    return make(TASK, model=str(name), device=device, **options)
