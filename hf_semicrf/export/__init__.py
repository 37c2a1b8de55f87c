"""Models that run without PyTorch.

Lives here: the export of encoder and scorer as one graph, the decoder that needs NumPy alone, and
what tags texts with both.
"""

from hf_semicrf.export.folder import decoder_of
from hf_semicrf.export.onnx import EncoderAndScorer, export_onnx, export_program

__all__ = ["EncoderAndScorer", "decoder_of", "export_onnx", "export_program"]
