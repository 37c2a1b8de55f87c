"""Semi-Markov CRF token classification on top of any transformers encoder."""

from transformers import AutoConfig, AutoModel, AutoModelForTokenClassification
from transformers.pipelines import PIPELINE_REGISTRY

from hf_semicrf.configuration_semicrf import SemiCRFConfig
from hf_semicrf.data import (
    SemiCRFDataCollator,
    TokenizeAndAlign,
    choose_max_segment_length,
    prepare_tokenizer,
)
from hf_semicrf.head import SemiCRF
from hf_semicrf.metrics import seqeval_metrics
from hf_semicrf.modeling_semicrf import SemiCRFForTokenClassification
from hf_semicrf.pipeline import TASK, SemiCRFPipeline
from hf_semicrf.segments import LabelScheme
from hf_semicrf.trainer import SemiCRFTrainer, SemiCRFTrainingArguments

__version__ = "0.1.0"

__all__ = [
    "LabelScheme",
    "SemiCRF",
    "SemiCRFConfig",
    "SemiCRFDataCollator",
    "SemiCRFForTokenClassification",
    "SemiCRFPipeline",
    "SemiCRFTrainer",
    "SemiCRFTrainingArguments",
    "TokenizeAndAlign",
    "choose_max_segment_length",
    "prepare_tokenizer",
    "seqeval_metrics",
]

AutoConfig.register(SemiCRFConfig.model_type, SemiCRFConfig)
AutoModel.register(SemiCRFConfig, SemiCRFForTokenClassification)
AutoModelForTokenClassification.register(SemiCRFConfig, SemiCRFForTokenClassification)
PIPELINE_REGISTRY.register_pipeline(
    TASK, pipeline_class=SemiCRFPipeline, pt_model=AutoModelForTokenClassification, type="text"
)
