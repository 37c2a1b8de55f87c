"""From texts to entities, and to all else that the distribution says of them.

Lives here: prediction over texts of any length, posteriors and n-best lists, candidates above the
threshold of a promised recall, redaction, work on long streams in shards. A model comes as an
argument: nothing here imports one.
"""

from hf_semicrf.inference.candidates import Candidates
from hf_semicrf.inference.distribution import Distribution
from hf_semicrf.inference.prediction import (
    analyze,
    conditions,
    kind_of,
    longest_input,
    predict,
    predict_stream,
    read_candidates,
)
from hf_semicrf.inference.promises import sealed
from hf_semicrf.inference.redaction import redact, restore
from hf_semicrf.inference.shards import fingerprint, merge_shards, write_shards

__all__ = [
    "Candidates",
    "Distribution",
    "analyze",
    "conditions",
    "fingerprint",
    "kind_of",
    "longest_input",
    "merge_shards",
    "predict",
    "predict_stream",
    "read_candidates",
    "redact",
    "restore",
    "sealed",
    "write_shards",
]
