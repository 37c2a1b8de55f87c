"""From texts to entities, and to all else that the distribution says of them.

Lives here: prediction over texts of any length, posteriors and n-best lists, work on long streams
in shards. A model comes as an argument: nothing here imports one.
"""

from hf_semicrf.inference.distribution import Distribution
from hf_semicrf.inference.prediction import analyze, longest_input, predict, predict_stream
from hf_semicrf.inference.shards import fingerprint, merge_shards, write_shards

__all__ = [
    "Distribution",
    "analyze",
    "fingerprint",
    "longest_input",
    "merge_shards",
    "predict",
    "predict_stream",
    "write_shards",
]
