"""The transformers model: configuration, weights, forward pass.

Lives here: `SemiCRFConfig`, `SemiCRFForTokenClassification`, loading, the posteriors of tags.
Importing this room makes the model known to the Auto classes.
"""

from transformers import AutoConfig, AutoModel, AutoModelForTokenClassification

from hf_semicrf.model.configuration_semicrf import SemiCRFConfig
from hf_semicrf.model.modeling_semicrf import (
    SemiCRFForTokenClassification,
    SemiCRFTokenClassifierOutput,
)

__all__ = ["SemiCRFConfig", "SemiCRFForTokenClassification", "SemiCRFTokenClassifierOutput"]

AutoConfig.register(SemiCRFConfig.model_type, SemiCRFConfig)
AutoModel.register(SemiCRFConfig, SemiCRFForTokenClassification)
AutoModelForTokenClassification.register(SemiCRFConfig, SemiCRFForTokenClassification)
