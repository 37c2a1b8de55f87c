"""The semi-Markov CRF as a PyTorch module: hidden states in, loss and segmentations out.

Lives here: the module, the scorers that give segments their potentials, the fit of temperature and
threshold. Needs torch alone: nothing here imports transformers.
"""

from hf_semicrf.head.calibration import Scored, fit_temperature, fit_threshold
from hf_semicrf.head.module import SemiCRF, SemiCRFOutput, check_settings

__all__ = [
    "Scored",
    "SemiCRF",
    "SemiCRFOutput",
    "check_settings",
    "fit_temperature",
    "fit_threshold",
]
