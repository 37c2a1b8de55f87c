"""Tag texts by onnxruntime, tokenizers and NumPy alone: text in, entities out.

python tag.py "Amelia Earhart flew to Paris."
cat letters.txt | python tag.py > entities.jsonl

Each line of the output is a text and its entities as JSON, as `hf-semicrf predict` writes them.
In Python, `from tag import OnnxTagger`. The files that read texts lie in `semicrf_text`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

from hf_semicrf.export.numpy_decoder import Decoder, word_index
from hf_semicrf.results import Entity, Segment
from hf_semicrf.text import AS_WRITTEN, KnownWords, Splitter, Window, attached, sections, windows_of


class OnnxTagger:
    """An exported model.

    Args:
        folder: Where `hf-semicrf export` wrote it.
        splitter: The function that cuts texts into words, of a model that was trained with one.
    """

    def __init__(self, folder: str | Path, splitter: Any = None):
        folder = Path(folder)
        settings = json.loads((folder / "decoder.json").read_text(encoding="utf-8"))
        self.decoder = Decoder.load(folder / "decoder.json")
        self.splitter = Splitter.of(splitter or settings["splitter"])
        self.joins_words = settings["splitter"] in AS_WRITTEN
        self.limits = (settings["max_length"], None, settings["max_segment_length"])
        self.tokenizer = _Tokenizer(folder / "tokenizer.json", settings["stand_in"])
        self.known = KnownWords(self.tokenizer)  # type: ignore[arg-type]
        options = onnxruntime.SessionOptions()
        # its threads wait without turning: a third of the start, half of the time of a text
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(folder / "model.onnx", options)
        self.outputs = [output.name for output in self.session.get_outputs()]
        self.inputs = {given.name for given in self.session.get_inputs()} - {"word_index"}

    def __call__(self, texts: Iterable[str | Sequence[str]]) -> list[list[Entity]]:
        """The entities of each text, as ``model.predict`` gives them.

        Windows are run one by one: what is found in a text does not depend on the others.

        Args:
            texts: Strings, or lists of words.
        """
        return [self._entities(text) for text in texts]

    def _entities(self, text: str | Sequence[str]) -> list[Entity]:
        if isinstance(text, str):
            spans = self.splitter.spans(text)
            words = [text[start:end] for start, end in spans]
            ends = [-1, *(end for _, end in spans)]
            joins = [start == end for (start, _), end in zip(spans, ends, strict=False)]
        else:
            spans, words, joins = [(n, n + 1) for n in range(len(text))], list(text), attached(text)
        joined = [joins] if self.joins_words else None
        [windows] = windows_of([words], self.tokenizer, *self.limits, joined, self.known)
        found = [self._segments(words, window) for window in windows]
        entities: list[Entity] = []
        for segments, (first, end) in zip(found, sections(windows, found), strict=True):
            for segment in segments:
                if first <= segment.first and segment.end <= end:
                    start, stop = spans[segment.first][0], spans[segment.end - 1][1]
                    entities.append(
                        {
                            "label": segment.type,
                            "score": segment.posterior,
                            "start": start,
                            "end": stop,
                            "text": text[start:stop]
                            if isinstance(text, str)
                            else " ".join(text[start:stop]),
                        }
                    )
        return entities

    def _segments(self, words: Sequence[str], window: Window) -> list[Segment]:
        """The entities of a window, in words of the text."""
        first = window.first
        owners = [None if word is None else word - first for word in window.words]
        inputs = {name: np.array([window.inputs[name]]) for name in self.inputs}
        inputs["word_index"] = word_index([owners], [words[first : window.end]])
        potentials = dict(zip(self.outputs, self.session.run(self.outputs, inputs), strict=True))
        [entities] = self.decoder.entities(potentials, np.array([window.end - first]))
        return [
            Segment(first + e["start"], first + e["end"], e["label"], e["score"]) for e in entities
        ]


class _Tokenizer:
    """What the reading of texts asks of a tokenizer of transformers, from its file alone."""

    is_fast = True
    mask_token = eos_token = None

    def __init__(self, file: Path, stand_in: str | None):
        self.backend_tokenizer = Tokenizer.from_file(str(file))
        self.backend_tokenizer.no_truncation()
        self.backend_tokenizer.no_padding()
        self.unk_token = stand_in

    def num_special_tokens_to_add(self) -> int:
        return self.backend_tokenizer.num_special_tokens_to_add(False)

    def __call__(
        self, sentences: Sequence[Sequence[str]], add_special_tokens: bool = True, **_: Any
    ) -> _Encoded:
        rows = self.backend_tokenizer.encode_batch(sentences, True, add_special_tokens)
        return _Encoded(rows)


class _Encoded(dict[str, list[list[int]]]):
    """The columns of a batch, and the word of each sub-word."""

    def __init__(self, rows: Sequence[Any]):
        names = {"input_ids": "ids", "attention_mask": "attention_mask"}
        names["token_type_ids"] = "type_ids"
        super().__init__((k, [getattr(row, name) for row in rows]) for k, name in names.items())
        self.word_ids = [row.word_ids for row in rows].__getitem__


def main() -> None:
    """Tag the texts of the command line, or the lines of standard input."""
    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    sys.stdin.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    texts: Iterable[str] = sys.argv[1:] or (line.removesuffix("\n") for line in sys.stdin)
    try:
        tagger = OnnxTagger(Path(__file__).parent)
        for text in texts:
            row = {"text": text, "entities": tagger([text])[0]}
            print(json.dumps(row, ensure_ascii=False), flush=True)
    except (OSError, ValueError) as error:
        sys.exit(f"tag.py: {error}")


if __name__ == "__main__":
    main()
