"""The semi-Markov CRF as functions of its potentials: the public operations, in nats.

Every function takes :class:`Potentials` and ``backend="auto" | "torch" | "triton"``; those that do
not end at a longest segment take :class:`TailedPotentials` as well, whose lengths have a tail.
Shapes: B sentences, N positions, segments of at most L positions, C types. A segmentation is the
pair (labels [B, N], starts [B, N]); positions past a sentence's length hold label -1, start False
and marginals 0.
"""

from __future__ import annotations

from hf_semicrf.ops.checks import Backend, ScoreError, resolve_backend
from hf_semicrf.ops.decoding import (
    best_segmentation,
    k_best,
    minimum_risk,
    minimum_token_risk,
    sample,
    viterbi,
)
from hf_semicrf.ops.dense_contract import (
    edge_marginals,
    edge_viterbi,
    linear_scan_streaming,
    semi_crf_triton_forward,
    to_edge,
)
from hf_semicrf.ops.information import entropy, kl_divergence
from hf_semicrf.ops.likelihood import (
    log_partition,
    log_partition_difference,
    negative_log_likelihood,
    segmentation_score,
)
from hf_semicrf.ops.packing import mean_loss, packed
from hf_semicrf.ops.posteriors import (
    Marginals,
    MaxMarginals,
    marginals,
    marginals_calls,
    max_marginals,
    segment_marginals,
    segment_sums,
)
from hf_semicrf.ops.potentials import Potentials
from hf_semicrf.ops.registry import kernels_for, preload
from hf_semicrf.ops.routing import dense_route
from hf_semicrf.ops.scoring import span_scores
from hf_semicrf.ops.segmentations import at_segments, segment_bounds
from hf_semicrf.ops.tail_operations import decoded_posteriors
from hf_semicrf.ops.tails import TailedPotentials, written_out

__all__ = [
    "Backend",
    "Marginals",
    "MaxMarginals",
    "Potentials",
    "ScoreError",
    "TailedPotentials",
    "at_segments",
    "best_segmentation",
    "decoded_posteriors",
    "dense_route",
    "edge_marginals",
    "edge_viterbi",
    "entropy",
    "k_best",
    "kernels_for",
    "preload",
    "kl_divergence",
    "linear_scan_streaming",
    "log_partition",
    "log_partition_difference",
    "marginals",
    "marginals_calls",
    "max_marginals",
    "mean_loss",
    "minimum_risk",
    "minimum_token_risk",
    "negative_log_likelihood",
    "packed",
    "resolve_backend",
    "sample",
    "segment_bounds",
    "segment_marginals",
    "segment_sums",
    "segmentation_score",
    "semi_crf_triton_forward",
    "span_scores",
    "to_edge",
    "viterbi",
    "written_out",
]
