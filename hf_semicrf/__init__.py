"""Semi-Markov CRF token classification on top of any transformers encoder."""

from transformers import AutoConfig, AutoModel, AutoModelForTokenClassification

from hf_semicrf.configuration_semicrf import SemiCRFConfig
from hf_semicrf.data import (
    SemiCRFDataCollator,
    TokenizeAndAlign,
    choose_max_segment_length,
    prepare_tokenizer,
)
from hf_semicrf.head import SemiCRF
from hf_semicrf.modeling_semicrf import SemiCRFForTokenClassification
from hf_semicrf.segments import LabelScheme

__version__ = "0.1.0"

__all__ = [
    "LabelScheme",
    "SemiCRF",
    "SemiCRFConfig",
    "SemiCRFDataCollator",
    "SemiCRFForTokenClassification",
    "TokenizeAndAlign",
    "choose_max_segment_length",
    "prepare_tokenizer",
]

AutoConfig.register(SemiCRFConfig.model_type, SemiCRFConfig)
AutoModel.register(SemiCRFConfig, SemiCRFForTokenClassification)
AutoModelForTokenClassification.register(SemiCRFConfig, SemiCRFForTokenClassification)
