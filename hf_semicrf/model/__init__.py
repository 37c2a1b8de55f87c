"""The transformers model: configuration, weights, forward pass.

Lives here: `SemiCRFConfig`, `SemiCRFForTokenClassification`, loading, the posteriors of tags, and
the same over frames: `SemiCRFFrameConfig`, `SemiCRFForFrameClassification`.
Importing this room makes the model known to the Auto classes.
"""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForAudioFrameClassification,
    AutoModelForTokenClassification,
)

from hf_semicrf.model.configuration_frames import SemiCRFFrameConfig
from hf_semicrf.model.configuration_semicrf import SemiCRFConfig
from hf_semicrf.model.continuing import continued_settings
from hf_semicrf.model.modeling_frames import SemiCRFForFrameClassification, SemiCRFFrameOutput
from hf_semicrf.model.modeling_semicrf import (
    SemiCRFForTokenClassification,
    SemiCRFTokenClassifierOutput,
)

__all__ = [
    "SemiCRFConfig",
    "SemiCRFForFrameClassification",
    "SemiCRFForTokenClassification",
    "SemiCRFFrameConfig",
    "SemiCRFFrameOutput",
    "SemiCRFTokenClassifierOutput",
    "continued_settings",
]

AutoConfig.register(SemiCRFConfig.model_type, SemiCRFConfig)
AutoModel.register(SemiCRFConfig, SemiCRFForTokenClassification)
AutoModelForTokenClassification.register(SemiCRFConfig, SemiCRFForTokenClassification)
AutoConfig.register(SemiCRFFrameConfig.model_type, SemiCRFFrameConfig)
AutoModel.register(SemiCRFFrameConfig, SemiCRFForFrameClassification)
AutoModelForAudioFrameClassification.register(SemiCRFFrameConfig, SemiCRFForFrameClassification)
