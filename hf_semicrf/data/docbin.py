"""Rows of spaCy's DocBin files; spaCy is imported when one is read."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from hf_semicrf.data.files import read_bytes
from hf_semicrf.data.records import Damage, Options, Row, Rows


def docbin_rows(path: Path, options: Options) -> Rows:
    """Read the documents of a file; words are spaCy's tokens.

    Raises:
        ValueError: spaCy is missing, or the file is no DocBin.
    """
    try:
        spacy, tokens = import_module("spacy"), import_module("spacy.tokens")
    except ImportError:
        raise ValueError(
            f"{path}: spaCy reads .spacy files and is not installed; pip install spacy"
        ) from None
    content = read_bytes(path)
    try:
        documents = list(tokens.DocBin().from_bytes(content).get_docs(spacy.blank("xx").vocab))
    except Exception as error:  # zlib's, msgpack's, spaCy's own
        kind = type(error).__name__
        raise ValueError(f"{path}: expected a DocBin file of spaCy ({kind}: {error})") from None
    for number, document in enumerate(documents, start=1):
        place = f"{path}, document {number}"
        if not options.tagged:
            yield Row(place, {options.text_column: document.text})
            continue
        if not document.has_annotation("ENT_IOB"):
            yield Damage(place, "expected a document with entities annotated, got none")
            continue
        words = [token for token in document if not token.is_space]
        yield Row(
            place,
            {
                options.tokens_column: [token.text for token in words],
                options.tags_column: [_tag(token) for token in words],
                options.text_column: document.text,
                "offsets": [[t.idx, t.idx + len(t.text)] for t in words],
            },
        )


def _tag(token) -> str | None:
    """The IOB2 tag of a token; None where it is not known."""
    if not token.ent_iob_:
        return None
    if token.ent_iob_ == "O":
        return "O"
    first = token.i  # an entity may begin with white space, which is no word
    while first and token.doc[first].ent_iob_ == "I" and token.doc[first - 1].is_space:
        first -= 1
    return f"{token.doc[first].ent_iob_}-{token.ent_type_}"
