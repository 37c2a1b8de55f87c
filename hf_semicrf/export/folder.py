"""What lies beside an exported graph: the files that tag without PyTorch, the README, figures."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hf_semicrf.export import numpy_decoder
from hf_semicrf.inference import longest_input
from hf_semicrf.reporting import markdown_table, markdown_text

Evaluate = Callable[[Any], dict[str, Any]]

GRAPH_NAME, DECODER_NAME, METRICS_NAME = "model.onnx", "decoder.json", "metrics.json"
WEIGHTS_NAME = f"{GRAPH_NAME}.data"  # beside the graph, in float32
RATIOS = ("precision", "recall", "f1")
PACKAGE = Path(__file__).parent.parent
READING = "semicrf_text"  # the package of the files that read texts
# a file of the package, and its name in the folder
_FILES = {
    "export/numpy_decoder.py": "numpy_decoder.py",
    "export/tag.py": "tag.py",
    "options.py": f"{READING}/options.py",
    "results.py": f"{READING}/results.py",
}
_README = """\
# A semi-Markov CRF that runs without PyTorch

```bash
pip install {packages}
python tag.py "Amelia Earhart flew to Paris."
cat letters.txt | python tag.py > entities.jsonl
```

In Python, with this folder on the path:

```python
from tag import OnnxTagger

tagger = OnnxTagger(".")
print(tagger(["Amelia Earhart flew to Paris."]))  # label, score, start, end, text
```

Types: {types}.

{figures}
"""


def decoder_of(model: Any) -> numpy_decoder.Decoder:
    """The decoder of a model's potentials, with its labels and its threshold.

    Args:
        model: A `SemiCRFForTokenClassification`.
    """
    scheme = model.config.scheme
    return numpy_decoder.Decoder(
        types=list(scheme.types),
        threshold=model.config.threshold,
        temperature=model.config.head_temperature,
        tags=list(scheme.labels),
        written=scheme.written_tags(),
        threshold_factor=model.config.threshold_factor,
    )


def write_tagger(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write what tagging takes beside the graph.

    Args:
        model: A `SemiCRFForTokenClassification`.
        tokenizer: Its tokenizer, as `prepare_tokenizer` returns it.
        folder: Where to write.

    Raises:
        ValueError: The tokenizer is one in Python, which has no tokenizer.json.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(
            "expected a fast tokenizer, whose tokenizer.json is read without transformers, got "
            f"{type(tokenizer).__name__}"
        )
    stand_ins = (tokenizer.unk_token, tokenizer.mask_token, tokenizer.eos_token)
    settings = {
        **decoder_of(model)._asdict(),
        "splitter": model.config.splitter,
        "max_segment_length": model.config.max_segment_length,
        "max_length": longest_input(model, tokenizer),
        "stand_in": next((token for token in stand_ins if token), None),
    }
    written = json.dumps(settings, ensure_ascii=False)
    (folder / DECODER_NAME).write_text(written, encoding="utf-8")
    tokenizer.save_pretrained(folder)
    texts = {f"text/{p.name}": f"{READING}/text/{p.name}" for p in PACKAGE.glob("text/*.py")}
    (folder / READING / "text").mkdir(parents=True)
    for source, target in {**_FILES, **texts}.items():
        code = (PACKAGE / source).read_text(encoding="utf-8")
        code = code.replace("hf_semicrf.export.numpy_decoder", "numpy_decoder")
        for name in ("results", "options", "text"):
            code = code.replace(f"hf_semicrf.{name}", f"{READING}.{name}")
        (folder / target).write_text(code, encoding="utf-8")
    (folder / READING / "__init__.py").write_text(
        '"""The files of hf_semicrf that read texts."""\n', encoding="utf-8"
    )


def strip_traces(graph: Path) -> None:
    """Take out of a graph what says where it was traced: lines of code, with their paths.

    Args:
        graph: The file; its weights may lie beside it.
    """
    import onnx

    model = onnx.load(graph, load_external_data=False)
    inside = model.graph
    for part in (inside, *inside.node, *inside.value_info, *inside.input, *inside.output):
        part.ClearField("metadata_props")
    onnx.save(model, graph)


def quantize(graph: Path) -> None:
    """Write the weights of a graph as int8, in its place; activations are quantised as they come.

    Weights have a scale for each output and 7 bits, with which products do not overflow on
    processors without VNNI.

    Args:
        graph: The file, in float32.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    small = graph.with_name("int8.onnx")
    logging.disable(logging.WARNING)  # it asks for a step that is done
    try:
        quantize_dynamic(
            graph, small, weight_type=QuantType.QInt8, per_channel=True, reduce_range=True
        )
    finally:
        logging.disable(logging.NOTSET)
    graph.with_name(WEIGHTS_NAME).unlink(missing_ok=True)
    small.replace(graph)


def measure(model: Any, folder: Path, evaluate: Evaluate | None) -> dict[str, Any] | None:
    """What an exported model scores.

    Args:
        model: The model that was exported.
        folder: Where its files lie.
        evaluate: As `export_onnx` takes it.
    """
    if evaluate is None:
        return None
    from hf_semicrf.export.tag import OnnxTagger

    tagger = OnnxTagger(folder)
    return evaluate(
        SimpleNamespace(config=model.config, predict=lambda texts, *_, **__: tagger(texts))
    )


def write_readme(model: Any, folder: Path, metrics: Mapping[str, dict[str, Any] | None]) -> None:
    """Write README.md, and metrics.json where there are figures.

    Args:
        model: The model that was exported.
        folder: Where to write.
        metrics: What `measure` returned, by "fp32" and, where the weights are that, "int8".
    """
    full, small = metrics["fp32"], metrics.get("int8")
    if full is None:
        option = " --quantize" if "int8" in metrics else ""
        figures = (
            f"The weights are {[*metrics][-1]}. F1 was not measured: `hf-semicrf export{option} "
            "--evaluate_on FILE` does."
        )
    else:
        (folder / METRICS_NAME).write_text(json.dumps(metrics, indent=1), encoding="utf-8")
        rows = [(k, *(f"{100 * v[n]:.2f}" for n in RATIOS)) for k, v in metrics.items() if v]
        figures = (
            f"On {markdown_text(full['data'])}, {full['sentences']:,} sentences; exact matches in "
            f"percent (`{METRICS_NAME}`):\n\n{markdown_table(('weights', *RATIOS), rows)}\n"
            f"The weights here are {[*metrics][-1]}"
            + (
                f", which loses {100 * (full['f1'] - small['f1']):.2f} points of F1."
                if small
                else "."
            )
        )
    pattern = str(model.config.splitter).startswith("pattern:")
    packages = "numpy tokenizers onnxruntime" + " pyarrow" * pattern  # RE2 is in pyarrow
    types = markdown_text(", ".join(model.config.scheme.types[1:]))
    written = _README.format(packages=packages, types=types, figures=figures)
    (folder / "README.md").write_text(written, encoding="utf-8")
