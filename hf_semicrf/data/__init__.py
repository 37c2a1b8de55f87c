"""From people's files to model inputs.

Lives here: the readers of corpora and texts, the alignment of tags with sub-words, the padding of
batches. Nothing here runs a model.
"""

from hf_semicrf.data.alignment import (
    AlignmentCounts,
    TokenizeAndAlign,
    choose_max_segment_length,
    longest_entity,
)
from hf_semicrf.data.collator import SemiCRFDataCollator
from hf_semicrf.data.files import undecoded
from hf_semicrf.data.frames import SemiCRFFrameCollator, frame_labels
from hf_semicrf.data.labels import (
    count_entities,
    entity_spans,
    label_names,
    named_tags,
    scheme_of,
)
from hf_semicrf.data.neighbours import choose_neighbours, documents_of, with_neighbours
from hf_semicrf.data.readers import (
    FORMATS,
    Text,
    read_corpus,
    read_dataset,
    read_hub,
    read_texts,
    stream_rows,
    stream_texts,
    text_of,
)
from hf_semicrf.data.records import ReadReport
from hf_semicrf.data.segment_files import read_segments, write_segments
from hf_semicrf.data.splitting import SplitterChoice, choose_splitter
from hf_semicrf.data.writers import WRITERS, label_studio_prediction, write_rows

__all__ = [
    "SplitterChoice",
    "choose_splitter",
    "AlignmentCounts",
    "FORMATS",
    "ReadReport",
    "SemiCRFDataCollator",
    "SemiCRFFrameCollator",
    "Text",
    "TokenizeAndAlign",
    "WRITERS",
    "choose_neighbours",
    "documents_of",
    "with_neighbours",
    "choose_max_segment_length",
    "count_entities",
    "entity_spans",
    "frame_labels",
    "label_names",
    "label_studio_prediction",
    "longest_entity",
    "named_tags",
    "read_corpus",
    "read_dataset",
    "read_hub",
    "read_segments",
    "read_texts",
    "scheme_of",
    "stream_rows",
    "stream_texts",
    "text_of",
    "undecoded",
    "write_rows",
    "write_segments",
]
