"""Compare predictions with the truth.

Lives here: scores of entities (by seqeval), scores by length and calibration. Figures only; what
they look like is the room `reporting`.
"""

from hf_semicrf.evaluation.breakdowns import as_tagged, breakdown, evaluate_tagger
from hf_semicrf.evaluation.metrics import entity_scores, seqeval_metrics

__all__ = ["as_tagged", "breakdown", "entity_scores", "evaluate_tagger", "seqeval_metrics"]
