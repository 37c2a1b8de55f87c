"""Tokenise words: every word of a sentence gets its sub-words, whatever the tokenizer.

Nothing here imports transformers; a tokenizer is one of its fast tokenizers.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer, normalizers, pre_tokenizers

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedTokenizerBase

_PROBE = "to be's"


def prepare_tokenizer(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Make a tokenizer treat each word of split input as it stands in running text.

    Byte-level tokenizers (GPT-2, RoBERTa, Llama 3, Qwen, ...) write the space before a word into
    its first token, and given split words leave it out. Here the space comes back, by the
    pre-tokenizer's own ``add_prefix_space`` where that is the whole pre-tokenizer, else by a
    normalizer (inside a sequence the flag would put a space before every part of a word). Other
    tokenizers stay as they are. A tokenizer without a padding token pads with its end token.

    Args:
        tokenizer: A fast tokenizer; changed in place. To be prepared again after each load.

    Returns:
        The same tokenizer.

    Raises:
        ValueError: The tokenizer is not a fast one, or loses the spaces whatever is set.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(
            f"expected a fast tokenizer, which knows the word of each token, got "
            f"{type(tokenizer).__name__}; load it with AutoTokenizer or convert its files to a "
            "tokenizer.json"
        )
    backend = tokenizer.backend_tokenizer
    if not _keeps_spaces(backend):
        if isinstance(backend.pre_tokenizer, pre_tokenizers.ByteLevel):
            pre_tokenizer = backend.pre_tokenizer
            pre_tokenizer.add_prefix_space = True
            backend.pre_tokenizer = pre_tokenizer
            tokenizer.add_prefix_space = tokenizer.init_kwargs["add_prefix_space"] = True
        else:
            _prepend_space(backend)
    if not _keeps_spaces(backend):
        raise ValueError(
            f"expected a tokenizer that reads split words as it reads running text, but "
            f"{type(tokenizer).__name__} gives {_pieces(backend, _PROBE)} for {_PROBE!r} and "
            f"{[_pieces(backend, word) for word in _PROBE.split()]} word by word"
        )
    if tokenizer.pad_token is None and tokenizer.eos_token is not None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def is_prepared(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether there is nothing left for `prepare_tokenizer` to do."""
    pads = tokenizer.pad_token is not None or tokenizer.eos_token is None
    return (
        getattr(tokenizer, "is_fast", False) and pads and _keeps_spaces(tokenizer.backend_tokenizer)
    )


def _pieces(backend: Tokenizer, text: str) -> list[str]:
    """What the model of a tokenizer is given, without the pieces that are only a space."""
    if backend.normalizer is not None:
        text = backend.normalizer.normalize_str(text)
    pieces = [text]
    if backend.pre_tokenizer is not None:
        pieces = [piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str(text)]
    return [piece for piece in pieces if piece.strip()]


def _keeps_spaces(backend: Tokenizer) -> bool:
    """Whether words one by one give the same as the running text, each with one space at most."""
    running = "".join(_pieces(backend, _PROBE))
    words = "".join("".join(_pieces(backend, word)) for word in _PROBE.split())
    return running == words and running.count("Ġ") <= len(_PROBE.split())


def _prepend_space(backend: Tokenizer) -> None:
    """Put a space before every input by a normalizer, and not also by a pre-tokenizer."""
    if backend.pre_tokenizer is not None:
        pre_tokenizer = backend.pre_tokenizer
        state = json.loads(pre_tokenizer.__getstate__())
        for part in state.get("pretokenizers", []):
            if part["type"] == "ByteLevel":
                part["add_prefix_space"] = False
        pre_tokenizer.__setstate__(json.dumps(state).encode())
        backend.pre_tokenizer = pre_tokenizer
    existing = [] if backend.normalizer is None else [backend.normalizer]
    backend.normalizer = normalizers.Sequence([normalizers.Prepend(" "), *existing])


def tokenize_words(
    tokenizer: PreTrainedTokenizerBase,
    sentences: Sequence[Sequence[str]],
    max_length: int | None = None,
) -> Iterator[tuple[dict[str, list[int]], list[int | None]]]:
    """Tokenise split sentences so that every word has a sub-word.

    A word that the tokenizer drops, such as a lone variation selector, becomes the unknown token
    (the mask or end token for want of one) and keeps its place. A sentence of more than
    `max_length` sub-words is cut after the last word that fits as a whole; a first word that alone
    does not fit keeps its first sub-words.

    Args:
        tokenizer: As `prepare_tokenizer` returns it.
        sentences: Words of each sentence; at least one each.
        max_length: Sub-words in a sentence, special tokens included; None for no limit.

    Yields:
        Of each sentence, its inputs (``input_ids``, ``attention_mask``, ...) [T] and the word of
        each sub-word [T], None at special tokens.

    Raises:
        ValueError: A word is dropped and there is no token to stand for it, or `max_length` has no
            room beside the special tokens.
    """
    special_tokens = tokenizer.num_special_tokens_to_add()
    if max_length is not None and max_length <= special_tokens:
        raise ValueError(
            f"expected a max_length above the {special_tokens} special tokens, got {max_length}"
        )
    encoded = _encode(tokenizer, sentences)
    for row, words in enumerate(sentences):
        batch, index = encoded, row
        missing = set(range(len(words))).difference(batch.word_ids(index))
        if missing:
            words = [_stand_in(tokenizer, w) if i in missing else w for i, w in enumerate(words)]
            batch, index = _encode(tokenizer, [words]), 0
        word_ids = batch.word_ids(index)
        if max_length is not None and len(word_ids) > max_length:
            fitting = _fitting_words(word_ids, max_length)
            limit = {"truncation": True, "max_length": max_length}
            batch, index = _encode(tokenizer, [words[:fitting]], **limit), 0
            word_ids = batch.word_ids(index)
        yield {name: list(values[index]) for name, values in batch.items()}, word_ids


def first_subwords(word_ids: Sequence[int | None]) -> list[int | None]:
    """The word at each first sub-word, None at other sub-words and at special tokens [T]."""
    before = [None, *word_ids]
    return [word if word != last else None for word, last in zip(word_ids, before, strict=False)]


def _encode(
    tokenizer: PreTrainedTokenizerBase, sentences: Sequence[Sequence[str]], **limit: Any
) -> BatchEncoding:
    words = [list(sentence) for sentence in sentences]
    return tokenizer(words, is_split_into_words=True, verbose=False, **limit)


def _stand_in(tokenizer: PreTrainedTokenizerBase, word: str) -> str:
    """The token for a word that the tokenizer drops."""
    for token in (tokenizer.unk_token, tokenizer.mask_token, tokenizer.eos_token):
        if token is not None:
            return token
    raise ValueError(
        "expected a tokenizer with an unknown, mask or end token, to stand for the word "
        f"{word!r}, which has no sub-word"
    )


def _fitting_words(word_ids: Sequence[int | None], max_length: int) -> int:
    """How many words fit as a whole into `max_length` sub-words, at least 1."""
    sizes = Counter(word_ids)
    room = max_length - sizes.pop(None, 0)
    fitting = 0
    while sizes[fitting] <= room:
        room -= sizes[fitting]
        fitting += 1
    return max(fitting, 1)
