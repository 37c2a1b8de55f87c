"""Tags, segmentations and what is allowed of them.

Lives here: label schemes (tags to segmentations and back), constraints on segmentations, labels
that are known in part. Nothing here knows an encoder, a tokenizer or a file.
"""

from hf_semicrf.labels.constraints import Rules, allowed_segments, spans_in_window, spans_of_words
from hf_semicrf.labels.partial import Known, types_as_bits
from hf_semicrf.labels.schemes import (
    OUTSIDE,
    PREFIXES,
    UNKNOWN,
    UNKNOWN_TAG,
    LabelScheme,
    split_long_segments,
)

__all__ = [
    "Known",
    "LabelScheme",
    "OUTSIDE",
    "PREFIXES",
    "Rules",
    "UNKNOWN",
    "UNKNOWN_TAG",
    "allowed_segments",
    "spans_in_window",
    "spans_of_words",
    "split_long_segments",
    "types_as_bits",
]
