"""Tokenise words: every word of a sentence gets its sub-words, whatever the tokenizer.

Nothing here imports transformers; a tokenizer is one of its fast tokenizers.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer, normalizers, pre_tokenizers

from hf_semicrf.options import check

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Inputs = dict[str, list[int]]
WordIds = list[int | None]

_PROBE = "to be's"
MOST_KNOWN = 100_000  # words that are kept


def prepare_tokenizer(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Make a tokenizer treat each word of split input as it stands in running text.

    Byte-level tokenizers (GPT-2, RoBERTa, Llama 3, Qwen, ...) write the space before a word into
    its first token, and given split words leave it out. Here the space comes back, by the
    pre-tokenizer's own ``add_prefix_space`` where that is the whole pre-tokenizer, else by a
    normalizer (inside a sequence the flag would put a space before every part of a word). Other
    tokenizers stay as they are; those in Python are given one word after the other. A tokenizer
    without a padding token pads with its end token.

    Args:
        tokenizer: A tokenizer of transformers; changed in place. To be prepared again after each
            load.

    Returns:
        The same tokenizer.

    Raises:
        ValueError: The tokenizer loses the spaces whatever is set, or cannot pad.
    """
    if tokenizer.pad_token is None and tokenizer.eos_token is not None:
        tokenizer.pad_token = tokenizer.eos_token
    if not getattr(tokenizer, "is_fast", False):
        return tokenizer
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
    return tokenizer


def is_prepared(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether there is nothing left for `prepare_tokenizer` to do."""
    pads = tokenizer.pad_token is not None or tokenizer.eos_token is None
    fast = getattr(tokenizer, "is_fast", False)
    return pads and (not fast or _keeps_spaces(tokenizer.backend_tokenizer))


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
    attached: Sequence[Sequence[bool]] | None = None,
    known: KnownWords | None = None,
) -> Iterator[tuple[Inputs, WordIds]]:
    """Tokenise split sentences so that every word has a sub-word.

    A word that the tokenizer drops, such as a lone variation selector, becomes the unknown token
    (the mask or end token for want of one) and keeps its place. A sentence of more than
    `max_length` sub-words is cut after the last word that fits as a whole; a first word that alone
    does not fit keeps its first sub-words.

    Args:
        tokenizer: As `prepare_tokenizer` returns it.
        sentences: Words of each sentence; at least one each.
        max_length: Sub-words in a sentence, special tokens included; None for no limit.
        attached: Whether each word follows the one before without a space, and is tokenised
            without one; none does where None.
        known: Words of earlier calls with this tokenizer.

    Yields:
        Of each sentence, its inputs (``input_ids``, ``attention_mask``, ...) [T] and the word of
        each sub-word [T], None at special tokens.

    Raises:
        ValueError: A word is dropped and there is no token to stand for it, or `max_length` has no
            room beside the special tokens.
    """
    check_room(tokenizer, max_length)
    known = known or KnownWords(tokenizer)
    for number, (inputs, word_ids) in enumerate(known.rows(sentences)):
        if attached is not None and known.marks_spaces and any(attached[number]):
            inputs, word_ids = known.attached.replace(
                inputs, word_ids, sentences[number], attached[number]
            )
        if max_length is not None and len(word_ids) > max_length:
            kept = _fitting_positions(word_ids, max_length)
            inputs = {name: [values[n] for n in kept] for name, values in inputs.items()}
            word_ids = [word_ids[n] for n in kept]
        yield inputs, word_ids


def check_room(tokenizer: PreTrainedTokenizerBase, max_length: int | None) -> None:
    """Refuse a `max_length` that has no room beside the special tokens.

    Args:
        tokenizer: A tokenizer of transformers.
        max_length: Sub-words in a sentence or a window; None for no limit.

    Raises:
        ValueError: It has none.
    """
    check(max_length=max_length)
    special = tokenizer.num_special_tokens_to_add()
    if max_length is not None and max_length <= special:
        raise ValueError(
            f"expected a max_length above the {special} special tokens, got {max_length}"
        )


def first_subwords(word_ids: Sequence[int | None]) -> list[int | None]:
    """The word at each first sub-word, None at other sub-words and at special tokens [T]."""
    before = [None, *word_ids]
    return [word if word != last else None for word, last in zip(word_ids, before, strict=False)]


class KnownWords:
    """The sub-words of the words met so far, so that each is tokenised once.

    A tokenizer of transformers tokenises split words each by itself, and puts its special tokens
    around them: a sentence is put together from what is known of its words, as the tokenizer would.

    Args:
        tokenizer: As `prepare_tokenizer` returns it; not to be changed from now on.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.tokenizer = tokenizer
        self.attached = _AttachedPieces(tokenizer)
        self._ids: dict[str, list[int]] = {}
        self._is_fast = getattr(tokenizer, "is_fast", False)
        self._is_random = False
        if self._is_fast:
            self._before, self._inside, self._after = self._frame()
            # with dropout a word is cut in other ways: anew for each sentence
            self._is_random = bool(getattr(tokenizer.backend_tokenizer.model, "dropout", None))

    @property
    def marks_spaces(self) -> bool:
        """Whether a word that follows its neighbour without a space has other sub-words."""
        return self.attached.model is not None

    def rows(self, sentences: Sequence[Sequence[str]]) -> Iterator[tuple[Inputs, WordIds]]:
        """The inputs and the words of each sentence.

        Args:
            sentences: Words of each.
        """
        if not self._is_random:
            self._learn(chain.from_iterable(sentences))
        known = self._ids
        for words in sentences:
            if self._is_random:
                known.clear()
                self._learn(words)
            pieces = list(map(known.__getitem__, words))
            if not all(pieces):
                pieces = [
                    piece or self._stand_in(w) for piece, w in zip(pieces, words, strict=True)
                ]
            ids = list(chain.from_iterable(pieces))
            owners: WordIds = [n for n, piece in enumerate(pieces) for _ in piece]
            yield self._framed(ids, owners) if self._is_fast else self._slow_row(ids, owners)

    def _learn(self, words: Iterable[str]) -> None:
        """Tokenise the words that are new."""
        distinct = dict.fromkeys(words)
        if len(self._ids) > MOST_KNOWN:
            self._ids.clear()
        new = [word for word in distinct if word not in self._ids]
        if not self._is_fast:
            for word in new:
                self._ids[word] = list(self.tokenizer.encode(word, add_special_tokens=False))
            return
        groups = [new[at : at + 64] for at in range(0, len(new), 64)]
        for group, (inputs, owners) in zip(groups, self._tokenized(groups, False), strict=True):
            found: list[list[int]] = [[] for _ in group]
            for index, owner in zip(inputs["input_ids"], owners, strict=True):
                if owner is not None:
                    found[owner].append(index)
            self._ids.update(zip(group, found, strict=True))

    def _stand_in(self, word: str) -> list[int]:
        """The sub-words of the token for a word that the tokenizer drops."""
        for token in ("unk_token", "mask_token", "eos_token"):
            if (name := getattr(self.tokenizer, token)) is not None:
                self._learn([name])
                return self._ids[name]
        raise ValueError(
            "expected a tokenizer with an unknown, mask or end token, to stand for the word "
            f"{word!r}, which has no sub-word"
        )

    def _tokenized(
        self, sentences: Sequence[Sequence[str]], special: bool = True
    ) -> Iterator[tuple[Inputs, WordIds]]:
        """The inputs and the words of each sentence, by a fast tokenizer itself."""
        words = [list(sentence) for sentence in sentences]
        if not words:
            return
        batch = self.tokenizer(
            words, is_split_into_words=True, add_special_tokens=special, verbose=False
        )
        for row in range(len(words)):
            yield {name: list(values[row]) for name, values in batch.items()}, batch.word_ids(row)

    def _frame(self) -> tuple[Inputs, dict[str, int], Inputs]:
        """Each column before a sentence, at its sub-words (but for their ids) and behind it."""
        [(inputs, owners)] = self._tokenized([_PROBE.split()])
        inside = [n for n, word in enumerate(owners) if word is not None]
        first, end = inside[0], inside[-1] + 1
        return (
            {name: values[:first] for name, values in inputs.items()},
            {name: values[first] for name, values in inputs.items() if name != "input_ids"},
            {name: values[end:] for name, values in inputs.items()},
        )

    def _framed(self, ids: list[int], owners: WordIds) -> tuple[Inputs, WordIds]:
        """A sentence with its special tokens, as a fast tokenizer gives it."""
        inputs = {}
        for name, before in self._before.items():
            own = ids if name == "input_ids" else [self._inside[name]] * len(ids)
            inputs[name] = before + own + self._after[name]
        before, after = self._before["input_ids"], self._after["input_ids"]
        return inputs, [None] * len(before) + owners + [None] * len(after)

    def _slow_row(self, inside: list[int], owners: WordIds) -> tuple[Inputs, WordIds]:
        """A sentence with its special tokens, as a tokenizer in Python gives it."""
        tokenizer = self.tokenizer
        ids = tokenizer.build_inputs_with_special_tokens(inside)
        special = len(ids) - len(inside)
        before = next(n for n in range(special + 1) if ids[n : n + len(inside)] == inside)
        inputs = {"input_ids": list(ids), "attention_mask": [1] * len(ids)}
        if "token_type_ids" in tokenizer.model_input_names:
            inputs["token_type_ids"] = tokenizer.create_token_type_ids_from_sequences(inside)
        return inputs, [None] * before + owners + [None] * (special - before)


class _AttachedPieces:
    """Sub-words of words that follow their neighbour without a space.

    Byte-level and Metaspace tokenizers write the space before a word into its first sub-word. Here
    their normalizer and pre-tokenizer are copied without that space; the vocabulary is shared.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.known: dict[str, list[int]] = {}
        self.model = None
        if getattr(tokenizer, "is_fast", False):
            backend = tokenizer.backend_tokenizer
            if any(
                part and _adds_space(part) for part in (backend.normalizer, backend.pre_tokenizer)
            ):
                self.model = backend.model
                self.normalizer = _without_space(backend.normalizer)
                self.pre_tokenizer = _without_space(backend.pre_tokenizer)

    def ids(self, word: str) -> list[int]:
        """The sub-words of a word; none where the tokenizer drops it."""
        if word not in self.known:
            text = word if self.normalizer is None else self.normalizer.normalize_str(word)
            parts = [text]
            if self.pre_tokenizer is not None:
                parts = [part for part, _ in self.pre_tokenizer.pre_tokenize_str(text)]
            assert self.model is not None
            self.known[word] = [t.id for part in parts for t in self.model.tokenize(part)]
        return self.known[word]

    def replace(
        self, inputs: Inputs, word_ids: WordIds, words: Sequence[str], attached: Sequence[bool]
    ) -> tuple[Inputs, WordIds]:
        """The inputs and the words of a sentence whose attached words have no space before them."""
        if self.model is None:
            return inputs, word_ids
        columns: Inputs = {name: [] for name in inputs}
        owners: WordIds = []
        for n, (word, first) in enumerate(zip(word_ids, first_subwords(word_ids), strict=True)):
            ids = self.ids(words[word]) if word is not None and attached[word] else []
            if not ids:
                ids = [inputs["input_ids"][n]]
            elif first is None:
                continue  # the pieces stand at the word's first sub-word
            for name, values in inputs.items():
                columns[name] += ids if name == "input_ids" else [values[n]] * len(ids)
            owners += [word] * len(ids)
        return columns, owners


def _adds_space(component: Any) -> bool:
    """Whether a normalizer or pre-tokenizer puts a space before its input."""
    return _without_space_in(json.loads(component.__getstate__()))[1]


def _without_space(component: Any) -> Any:
    """A copy of a normalizer or pre-tokenizer that puts no space before its input."""
    if component is None:
        return None
    state, _ = _without_space_in(json.loads(component.__getstate__()))
    if state is None:
        return None
    copied = copy.deepcopy(component)
    copied.__setstate__(json.dumps(state).encode())
    return copied


def _without_space_in(state: dict[str, Any]) -> tuple[dict[str, Any] | None, bool]:
    """A component's state without the space before its input, and whether there was one."""
    kind = state.get("type")
    if kind == "Prepend":
        return None, True
    if kind == "ByteLevel":
        return {**state, "add_prefix_space": False}, bool(state.get("add_prefix_space"))
    if kind == "Metaspace":
        changed = {**state, "prepend_scheme": "never", "add_prefix_space": False}
        changed = {k: v for k, v in changed.items() if k in state or k == "prepend_scheme"}
        return changed, state.get("prepend_scheme") != "never"
    found = False
    for name in ("normalizers", "pretokenizers"):
        if name in state:
            parts = [_without_space_in(part) for part in state[name]]
            found = found or any(was for _, was in parts)
            state = {**state, name: [part for part, _ in parts if part is not None]}
    return state, found


def _fitting_positions(word_ids: WordIds, max_length: int) -> list[int]:
    """The sub-words that are left of a sentence cut to `max_length`: of whole words, or of one."""
    inside = [n for n, word in enumerate(word_ids) if word is not None]
    room = max_length - (len(word_ids) - len(inside))
    fitting = inside[:room]
    if word_ids[inside[room]] == word_ids[fitting[-1]]:  # the cut goes through a word
        whole = [n for n in fitting if word_ids[n] != word_ids[fitting[-1]]]
        fitting = whole or fitting
    return [*range(inside[0]), *fitting, *range(inside[-1] + 1, len(word_ids))]
