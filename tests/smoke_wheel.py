"""Try an installed hf_semicrf: the import, the command, a tiny model saved, loaded, predicted with.

python smoke_wheel.py    (what `make release` runs, in a folder of its own)
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from transformers import AutoTokenizer, BertConfig, BertTokenizerFast

import hf_semicrf
from hf_semicrf import SemiCRFConfig, SemiCRFForTokenClassification, prepare_tokenizer

WORDS = ["Ada", "Lovelace", "saw", "Oslo", "."]


def main() -> None:
    """Run every step; the first that fails ends it."""
    assert Path(sys.prefix) in Path(hf_semicrf.__file__).parents, hf_semicrf.__file__
    command = Path(sys.executable).parent / "hf-semicrf"
    shown = subprocess.run([command, "--help"], capture_output=True, text=True, check=True).stdout
    assert "predict" in shown, shown

    encoder = BertConfig(
        vocab_size=20,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    config = SemiCRFConfig(encoder, labels=["O", "B-PER", "I-PER"], max_segment_length=2)
    with TemporaryDirectory() as folder:
        vocabulary = Path(folder, "vocab.txt")
        vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
        SemiCRFForTokenClassification(config).save_pretrained(folder)
        tokenizer = BertTokenizerFast(vocab=str(vocabulary), do_lower_case=False)
        prepare_tokenizer(tokenizer).save_pretrained(folder)
        model = SemiCRFForTokenClassification.from_pretrained(folder)
        (entities,) = model.predict([" ".join(WORDS)], AutoTokenizer.from_pretrained(folder))
    for entity in entities:
        assert {"label", "score", "start", "end", "text"} <= entity.keys(), entity
    print(f"hf_semicrf {hf_semicrf.__version__}: installed, and works")


if __name__ == "__main__":
    main()
