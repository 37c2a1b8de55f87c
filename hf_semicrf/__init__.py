"""Semi-Markov CRF token classification on top of any transformers encoder.

Names are imported when they are first used. The Auto classes and `pipeline` know the model as soon
as transformers' own auto classes and pipelines are imported.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hf_semicrf.registration import register_with_transformers

if TYPE_CHECKING:
    from hf_semicrf.data import (
        SemiCRFDataCollator,
        SemiCRFFrameCollator,
        TokenizeAndAlign,
        choose_max_segment_length,
    )
    from hf_semicrf.evaluation import seqeval_metrics
    from hf_semicrf.head import HeadSettings, SemiCRF
    from hf_semicrf.labels import LabelScheme
    from hf_semicrf.model import (
        SemiCRFConfig,
        SemiCRFForFrameClassification,
        SemiCRFForTokenClassification,
        SemiCRFFrameConfig,
    )
    from hf_semicrf.pipeline import SemiCRFPipeline
    from hf_semicrf.text import prepare_tokenizer
    from hf_semicrf.trainer import SemiCRFTrainer, SemiCRFTrainingArguments

__version__ = "0.1.0"

_ROOM_OF = {
    "HeadSettings": "head",
    "LabelScheme": "labels",
    "SemiCRF": "head",
    "SemiCRFConfig": "model",
    "SemiCRFDataCollator": "data",
    "SemiCRFForFrameClassification": "model",
    "SemiCRFForTokenClassification": "model",
    "SemiCRFFrameCollator": "data",
    "SemiCRFFrameConfig": "model",
    "SemiCRFPipeline": "pipeline",
    "SemiCRFTrainer": "trainer",
    "SemiCRFTrainingArguments": "trainer",
    "TokenizeAndAlign": "data",
    "choose_max_segment_length": "data",
    "prepare_tokenizer": "text",
    "seqeval_metrics": "evaluation",
}
_ROOMS = {"ops", "results", "export", "hub", "inference", "reporting", "torchcrf"}
_ROOMS |= {*_ROOM_OF.values()}

__all__ = [
    "HeadSettings",
    "LabelScheme",
    "SemiCRF",
    "SemiCRFConfig",
    "SemiCRFDataCollator",
    "SemiCRFForFrameClassification",
    "SemiCRFForTokenClassification",
    "SemiCRFFrameCollator",
    "SemiCRFFrameConfig",
    "SemiCRFPipeline",
    "SemiCRFTrainer",
    "SemiCRFTrainingArguments",
    "TokenizeAndAlign",
    "choose_max_segment_length",
    "prepare_tokenizer",
    "seqeval_metrics",
]


def __getattr__(name: str) -> Any:
    """A public name or a room, imported at its first use."""
    if name in _ROOM_OF:
        value = getattr(import_module(f"hf_semicrf.{_ROOM_OF[name]}"), name)
        globals()[name] = value
        return value
    if name in _ROOMS:
        return import_module(f"hf_semicrf.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """All names, imported or not."""
    return sorted({*globals(), *__all__, *_ROOMS})


register_with_transformers()
