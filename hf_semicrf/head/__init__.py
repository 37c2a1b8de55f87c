"""The semi-Markov CRF as a PyTorch module: hidden states in, loss and segmentations out.

Lives here: the settings, the module, the scorers that give segments their potentials, the fit of
temperature and threshold, the change to evaluation mode and back. Needs torch alone: nothing here
imports transformers.
"""

from hf_semicrf.head.calibration import (
    Scored,
    fit_temperature,
    fit_threshold,
    temperature_doubt,
    threshold_doubt,
)
from hf_semicrf.head.mode import evaluating
from hf_semicrf.head.module import SemiCRF, SemiCRFOutput
from hf_semicrf.head.scorers import Scores
from hf_semicrf.head.settings import DEFAULTS, HeadSettings, RemovedError, without_removed

__all__ = [
    "DEFAULTS",
    "HeadSettings",
    "RemovedError",
    "Scored",
    "Scores",
    "SemiCRF",
    "SemiCRFOutput",
    "evaluating",
    "fit_temperature",
    "fit_threshold",
    "temperature_doubt",
    "threshold_doubt",
    "without_removed",
]
