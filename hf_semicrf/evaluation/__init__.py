"""Compare predictions with the truth.

Lives here: scores of entities (by seqeval), scores by length and calibration, scores of segments
with times. Figures only; what they look like is the room `reporting`.
"""

from hf_semicrf.evaluation.breakdowns import as_tagged, breakdown, evaluate_tagger
from hf_semicrf.evaluation.frames import frame_metrics, timed_scores
from hf_semicrf.evaluation.metrics import entity_scores, seqeval_metrics

__all__ = [
    "as_tagged",
    "breakdown",
    "entity_scores",
    "evaluate_tagger",
    "frame_metrics",
    "seqeval_metrics",
    "timed_scores",
]
