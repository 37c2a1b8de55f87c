"""The Triton back end: the public functions of :mod:`hf_semicrf.ops.reference`, on these kernels.

The state is in base 2.
"""

from __future__ import annotations

from hf_semicrf.ops.kernels.expectations import expectations
from hf_semicrf.ops.kernels.scan import log_partition, scan
from hf_semicrf.ops.kernels.score import segmentation_score
from hf_semicrf.ops.kernels.viterbi import best

__all__ = ["best", "expectations", "log_partition", "scan", "segmentation_score"]
