"""Models that run without PyTorch.

Lives here: the export of encoder and scorer as one graph, and the decoder that needs NumPy alone.
"""

from hf_semicrf.export.onnx import EncoderAndScorer, decoder_of, export_onnx, export_program

__all__ = ["EncoderAndScorer", "decoder_of", "export_onnx", "export_program"]
