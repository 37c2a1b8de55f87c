"""spaCy's component "semicrf": ``nlp.add_pipe("semicrf", config={"model": "out/final"})``.

spaCy finds it by an entry point, which imports neither PyTorch nor transformers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import srsly
from spacy.language import Language
from spacy.pipeline import Pipe
from spacy.scorer import get_ner_prf
from spacy.tokens import Doc, Span, SpanGroup
from spacy.util import minibatch

from hf_semicrf.integrations.tagger import load_tagger
from hf_semicrf.options import check, check_decoding


@Language.factory(
    "semicrf",
    assigns=["doc.ents", "doc.spans", "token.ent_iob", "token.ent_type"],
    default_config={
        "device": "cpu",
        "batch_size": 32,
        "threshold": None,
        "decode": None,
        "max_length": None,
        "overlap": None,
    },
    default_score_weights={"ents_f": 1.0, "ents_p": 0.0, "ents_r": 0.0, "ents_per_type": None},
)
class SemiCRFComponent(Pipe):
    """Finds entities in documents whose words are spaCy's tokens, white space left out.

    ``doc.ents`` gets the entities. Those that it has already are kept, and no other one is found in
    their words. ``doc.spans[name]`` gets the found ones alone, with the probability of each in
    ``attrs["scores"]``.

    Args:
        nlp: The pipeline.
        name: The component's name in it.
        model: Hub name or folder of the tagger, which is read at its first use.
        device: Where the tagger runs, as PyTorch calls it.
        batch_size: Windows of text that are encoded together.
        threshold: As `SemiCRFForTokenClassification.predict` takes it, like all that follow.
        decode: "viterbi", or None.
        max_length: Sub-words in a window.
        overlap: Words that neighbouring windows share.

    Raises:
        ValueError: An option is out of range.
    """

    def __init__(
        self,
        nlp: Language,
        name: str,
        model: str,
        device: str,
        batch_size: int,
        threshold: float | None,
        decode: str | None,
        max_length: int | None,
        overlap: int | None,
    ):
        self.name = name
        self.scorer = get_ner_prf
        self.model = model
        self.device = device
        self.options = check(batch_size=batch_size, max_length=max_length, overlap=overlap)
        self.options |= {"threshold": check_decoding(threshold, decode), "decode": decode}
        self._tagger: Any = None

    @property
    def tagger(self) -> Any:
        """A pipeline of transformers with the model and its tokenizer."""
        if self._tagger is None:
            self._tagger = load_tagger(self.model, self.device)
        return self._tagger

    def __call__(self, doc: Doc) -> Doc:
        """Find the entities of a document."""
        self._annotate([doc])
        return doc

    def pipe(self, stream: Iterable[Doc], *, batch_size: int = 128) -> Iterator[Doc]:
        """Find the entities of documents.

        Args:
            stream: The documents.
            batch_size: How many are read together.
        """
        for docs in minibatch(stream, size=batch_size):
            try:
                self._annotate(docs)
            except Exception as error:
                self.get_error_handler()(self.name, self, docs, error)
            else:
                yield from docs

    def _annotate(self, docs: Sequence[Doc]) -> None:
        texts = []
        for doc in docs:
            offsets = [(token.idx, token.idx + len(token)) for token in doc if not token.is_space]
            texts.append({"text": doc.text, "offsets": offsets})
        known = [[_outside(e) for e in doc.ents if not e.text.isspace()] for doc in docs]
        constraints = known if any(known) else None
        tagger, options = self.tagger, self.options
        found = tagger.model.predict(texts, tagger.tokenizer, constraints=constraints, **options)
        for doc, entities in zip(docs, found, strict=True):
            spans = [doc.char_span(e["start"], e["end"], e["label"]) for e in entities]
            scores = np.array([entity["score"] for entity in entities])
            doc.spans[self.name] = SpanGroup(
                doc, name=self.name, spans=spans, attrs={"scores": scores}
            )
            doc.ents = [*doc.ents, *spans]

    def to_disk(self, path: Any, **_: Any) -> None:
        """Write the tagger into a folder.

        Args:
            path: The folder.
        """
        self.tagger.save_pretrained(path)

    def from_disk(self, path: Any, **_: Any) -> SemiCRFComponent:
        """Read the tagger from a folder, instead of the one that the configuration names.

        Args:
            path: The folder.
        """
        self._tagger = load_tagger(path, self.device)
        return self

    def to_bytes(self, **_: Any) -> bytes:
        """The files of `to_disk`."""
        with TemporaryDirectory() as folder:
            self.to_disk(folder)
            return srsly.msgpack_dumps({p.name: p.read_bytes() for p in Path(folder).iterdir()})

    def from_bytes(self, data: bytes, **_: Any) -> SemiCRFComponent:
        """Read the tagger from what `to_bytes` gave.

        Args:
            data: The files.
        """
        with TemporaryDirectory() as folder:
            for name, content in srsly.msgpack_loads(data).items():
                (Path(folder) / Path(name).name).write_bytes(content)
            return self.from_disk(folder)


def _outside(span: Span) -> dict[str, Any]:
    """Say to `predict` that no word of an entity is in another one."""
    words = [token for token in span if not token.is_space]
    return {"start": words[0].idx, "end": words[-1].idx + len(words[-1]), "label": "O"}
