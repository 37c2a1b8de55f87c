"""Export encoder and scorer as one graph, by `torch.export` or as ONNX.

The graph goes from tokens to potentials. Its last input says where the words stand, so that scores
are of words only; sentences, sub-words and words are all dynamic axes. What follows, the dynamic
programs, is `hf_semicrf.export.numpy_decoder`, a file that needs NumPy alone.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from hf_semicrf.export.folder import (
    GRAPH_NAME,
    METRICS_NAME,
    WEIGHTS_NAME,
    Evaluate,
    measure,
    quantize,
    strip_traces,
    write_readme,
    write_tagger,
)
from hf_semicrf.head import evaluating
from hf_semicrf.saving import filling
from hf_semicrf.text import Lattice

TOKEN_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class EncoderAndScorer(nn.Module):
    """A model as far as its potentials.

    Args:
        model: A `SemiCRFForTokenClassification`.
    """

    def __init__(self, model: Any):
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        word_index: Tensor,
        token_type_ids: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The potentials of a batch by name, in nats, without those that the scorer does not give.

        Args:
            input_ids: Token ids [B, T] int64.
            attention_mask: 0 on padding [B, T] int64.
            word_index: Sub-word of each word [B, N] int64, -1 past a sentence's words.
            token_type_ids: For encoders that take them [B, T] int64.
        """
        inside = word_index >= 0
        index = word_index.clamp(min=0)
        mask = torch.zeros_like(input_ids).scatter_add(1, index, inside.long()) > 0
        lengths = inside.sum(1)
        lattice = Lattice(mask, index, mask.long().cumsum(1) - 1, inside, lengths, lengths)
        tokens = (input_ids, attention_mask, token_type_ids)
        encoded = self.model._encode(
            dict(zip(TOKEN_INPUTS, tokens, strict=True)),
            output_hidden_states=self.model.config.mix_layers > 0,
        )
        words = lattice.gather(self.model._states(encoded))
        scores = self.model.classifier.potentials(words, lattice.lengths)._asdict()
        del scores["lengths"]
        return {name: score.clone() for name, score in scores.items() if score is not None}


def export_program(
    model: Any, token_inputs: Sequence[str] = TOKEN_INPUTS[:2]
) -> tuple[ExportedProgram, dict[str, Tensor]]:
    """Trace encoder and scorer by `torch.export`, with dynamic axes.

    Args:
        model: A `SemiCRFForTokenClassification`.
        token_inputs: Those of `TOKEN_INPUTS` that its tokenizer gives.

    Returns:
        The program, of the keyword arguments of `EncoderAndScorer.forward`, and the arguments that
        it was traced with.

    Raises:
        ValueError: An input is unknown, input_ids or attention_mask is missing, or the model's
            graph depends on the sizes of its inputs.
    """
    if not set(TOKEN_INPUTS[:2]) <= set(token_inputs) <= set(TOKEN_INPUTS):
        raise ValueError(
            f"expected input_ids, attention_mask and perhaps token_type_ids, got {token_inputs}"
        )
    # no two axes of a kind alike, so that none are taken for one
    example = _ones(model, token_inputs, 7, [[1, 2, 3, 5, 6], [1, 4, 5, -1, -1]])
    shapes = {name: {0: Dim.DYNAMIC, 1: Dim.DYNAMIC} for name in example}
    try:
        with evaluating(model), torch.no_grad():
            module = EncoderAndScorer(model).eval()
            program = torch.export.export(module, (), example, dynamic_shapes=shapes)
            program.module()(**_ones(model, token_inputs, 9, [[1, 3, 4]]))
    except (torch._dynamo.exc.UserError, AssertionError) as error:
        raise ValueError(
            "expected a graph that takes inputs of all sizes, got one that does not from a "
            f"{type(model.text_encoder).__name__} with the scorer {model.config.scorer!r}: {error}"
        ) from error
    return program, example


def _ones(
    model: Any, token_inputs: Sequence[str], sub_words: int, index: list[list[int]]
) -> dict[str, Tensor]:
    """Inputs of the graph: one token everywhere, and where the words stand."""
    shape = (len(index), sub_words)
    inputs = {name: torch.ones(shape, dtype=torch.long) for name in TOKEN_INPUTS[:2]}
    if "token_type_ids" in token_inputs:
        inputs["token_type_ids"] = torch.zeros(shape, dtype=torch.long)
    inputs["word_index"] = torch.tensor(index)
    return {name: value.to(model.device) for name, value in inputs.items()}


def export_onnx(
    model: Any,
    tokenizer: Any,
    folder: str | Path,
    *,
    quantized: bool = False,
    evaluate: Evaluate | None = None,
) -> Path:
    """Write all that tagging without PyTorch needs.

    That is ``model.onnx`` (encoder and scorer), ``decoder.json`` (labels, threshold, temperature),
    ``tag.py`` and what it imports, the tokenizer's files, and a README with what was measured.

    Args:
        model: A `SemiCRFForTokenClassification`.
        tokenizer: Its tokenizer, as `prepare_tokenizer` returns it.
        folder: Where to write; made where there is none.
        quantized: Whether the weights are written as int8, a quarter of the bytes.
        evaluate: From what predicts like the model to its "precision", "recall" and "f1" in 0..1,
            the name of the "data" and its number of "sentences". Called with the exported model,
            and before with the one in float32; None where nothing is to be measured.

    Returns:
        The path of the graph.

    Raises:
        RuntimeError: onnx, onnxruntime or onnxscript is not installed.
        ValueError: The tokenizer gives inputs that the graph has no place for, or is one in Python.
    """
    needed = ("onnx", "onnxruntime", "onnxscript")
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise RuntimeError(
            f"expected the packages {', '.join(needed)}, {' and '.join(missing)} not installed: "
            "pip install 'hf_semicrf[onnx]'"
        )
    program, example = export_program(model, tokenizer.model_input_names)
    folder = Path(folder)
    with filling(folder) as unfinished:
        write_tagger(model, tokenizer, unfinished)
        torch.onnx.export(
            program,
            kwargs=example,
            f=unfinished / GRAPH_NAME,
            output_names=list(program.module()(**example)),
            dynamo=True,
            verbose=False,
        )
        strip_traces(unfinished / GRAPH_NAME)
        metrics = {"fp32": measure(model, unfinished, evaluate)}
        if quantized:
            quantize(unfinished / GRAPH_NAME)
            metrics["int8"] = measure(model, unfinished, evaluate)
        write_readme(model, unfinished, metrics)
        written = {path.name for path in unfinished.iterdir()}
    for name in {WEIGHTS_NAME, METRICS_NAME} - written:
        (folder / name).unlink(missing_ok=True)  # of an earlier export
    return folder / GRAPH_NAME
