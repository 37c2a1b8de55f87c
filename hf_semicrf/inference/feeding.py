"""Keep a device fed: texts are prepared in a thread, and results fetched while the next batch runs.

A chunk of texts is cut into words and sub-words in a thread while the model reads the chunk before.
A batch reaches a GPU in one copy from pinned memory, and its results come back in one; nothing
waits for them before the next batch has been launched. There, lengths are rounded up to few sizes:
the first batch of each size costs the GPU's libraries a search for the fastest kernels.
"""

from __future__ import annotations

import gc
import operator
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice, repeat
from threading import Lock
from typing import Any, NamedTuple, TypeVar

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from hf_semicrf.text import Window

Item = TypeVar("Item")
Prepared = TypeVar("Prepared")


def ahead(
    items: Iterable[Item], size: int, prepare: Callable[[list[Item]], Prepared]
) -> Iterator[Prepared]:
    """Prepare chunks of a stream in a thread, two ahead of the one that is worked on.

    The stream is read in the caller's thread. The thread ends with the iterator, also where that is
    closed early. An error, of the stream or in the thread, comes after all that was before it.

    Args:
        items: Any number of items.
        size: Items in a chunk.
        prepare: What the thread does with each chunk.
    """
    iterator = iter(items)
    stopped: list[Exception] = []

    def chunk() -> list[Item]:
        found: list[Item] = []
        try:
            found.extend(islice(iterator, size))
        except Exception as error:
            stopped.append(error)
        return found

    first = chunk()
    if stopped or len(first) < size:  # there is nothing to be ahead of
        if first:
            yield prepare(first)
    else:
        with ThreadPoolExecutor(1, "hf_semicrf") as thread:
            waiting: deque[Future[Prepared]] = deque([thread.submit(prepare, first)])
            try:
                while not stopped and (found := chunk()):
                    waiting.append(thread.submit(prepare, found))
                    if len(waiting) > 2:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                thread.shutdown(wait=True, cancel_futures=True)
    if stopped:
        raise stopped[0]


class _Frozen:
    """Spare what exists the search for cyclic garbage, which goes on among what is new.

    Through all objects of a process with PyTorch it takes tenths of a second, and the
    results of a few thousand texts set it off. The first thread to enter freezes, the last to leave
    thaws. Nothing where somebody has frozen objects already.
    """

    def __init__(self) -> None:
        self._lock, self._inside, self._own = Lock(), 0, False

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._own = gc.get_freeze_count() == 0
                if self._own:
                    gc.freeze()
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0 and self._own:
                gc.unfreeze()


frozen = _Frozen()


class Feed(NamedTuple):
    """The inputs of a batch, in one array.

    Args:
        names: Of the tokenizer's columns.
        columns: The padded columns, then whether a word begins at each sub-word [K + 1, B, T],
            int64.
    """

    names: tuple[str, ...]
    columns: Tensor

    @classmethod
    def of(cls, windows: Sequence[Window], tokenizer: Any, length: int) -> Feed:
        """Pad windows as the tokenizer would.

        Args:
            windows: The windows of a batch.
            tokenizer: Says with what to pad, and on which side.
            length: T, as long as the longest at least.
        """
        padding = {
            "input_ids": tokenizer.pad_token_id,
            "token_type_ids": tokenizer.pad_token_type_id,
            "attention_mask": 0,
        }
        names = tuple(windows[0].inputs)
        sizes = [len(window.words) for window in windows]
        places = numpy.arange(length)
        if tokenizer.padding_side == "left":
            places = places[::-1]
        inside = places < numpy.array(sizes)[:, None]
        columns = numpy.zeros((len(names) + 1, len(windows), length), dtype=numpy.int64)
        for column, name in zip(columns, names, strict=False):
            column[:] = padding[name]
            column[inside] = joined([window.inputs[name] for window in windows], numpy.int64)
        # the first sub-word of each word is of another word than the one before
        words = [window.words for window in windows]
        marks = joined([map(operator.ne, row, [None, *row]) for row in words], bool)
        columns[-1][inside] = marks & joined(
            [map(operator.is_not, row, repeat(None)) for row in words], bool
        )
        return cls(names, torch.from_numpy(columns))

    def inputs(self, columns: Tensor) -> dict[str, Tensor]:
        """The arguments of a model, of the columns where it runs."""
        *values, marks = columns.unbind()
        return {**dict(zip(self.names, values, strict=True)), "word_mask": marks.bool()}


def joined(rows: Iterable[Iterable[Any]], dtype: Any) -> NDArray[Any]:
    """The values of all rows, without a step of Python for each."""
    return numpy.fromiter(chain.from_iterable(rows), dtype)


def padded_length(longest: int, limit: int | None, device: torch.device) -> int:
    """Sub-words in the rows of a batch: on a GPU one of few sizes, elsewhere the longest's.

    Args:
        longest: Sub-words of the longest row.
        limit: Sub-words that the encoder takes; None for no limit.
        device: Where the model runs.
    """
    if device.type != "cuda":
        return longest
    # four sizes from one power of two to the next
    step = max(8, 1 << max((longest - 1).bit_length() - 3, 0))
    rounded = -(-longest // step) * step
    return rounded if limit is None else max(longest, min(rounded, limit))


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on a device; nothing waits for the copy."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


class Arriving:
    """A tensor on its way to the host.

    Args:
        tensor: On any device.
    """

    def __init__(self, tensor: Tensor):
        self._event: Any = None
        self._tensor = tensor
        if tensor.device.type == "cuda":
            self._tensor = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._tensor.copy_(tensor, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(tensor.device))

    def arrived(self) -> Tensor:
        """The tensor on the host, once it is there."""
        if self._event is not None:
            self._event.synchronize()
        return self._tensor.cpu()
