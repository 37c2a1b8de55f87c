"""Compare predictions with the truth.

Lives here: scores of entities (by seqeval), scores by length and calibration, the thresholds of a
promised recall, scores of segments with times. Figures only; what they look like is the room
`reporting`.
"""

from hf_semicrf.evaluation.breakdowns import as_tagged, breakdown, evaluate_tagger
from hf_semicrf.evaluation.coverage import found_at
from hf_semicrf.evaluation.frames import diarization_error_rate, frame_metrics, timed_scores
from hf_semicrf.evaluation.metrics import entity_scores, seqeval_metrics
from hf_semicrf.evaluation.recall import calibrate_recall
from hf_semicrf.evaluation.risk import LOWEST, Control, NotCarriedError, control_recall

__all__ = [
    "Control",
    "LOWEST",
    "NotCarriedError",
    "as_tagged",
    "breakdown",
    "calibrate_recall",
    "control_recall",
    "diarization_error_rate",
    "entity_scores",
    "evaluate_tagger",
    "found_at",
    "frame_metrics",
    "seqeval_metrics",
    "timed_scores",
]
