"""The mode in which a module runs, where several threads run it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from weakref import WeakKeyDictionary

from torch import nn

_LOCK = Lock()
# of modules that are being run: by how many, and which of their parts were in training mode
_RUNS: WeakKeyDictionary[nn.Module, tuple[int, list[nn.Module]]] = WeakKeyDictionary()


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module in evaluation mode for a while; then each of its parts has its mode again.

    Of several threads at once, the first changes the mode and the last brings it back.

    Args:
        module: The module.
    """
    with _LOCK:
        count, training = _RUNS.get(module, (0, []))
        if not count:
            training = [part for part in module.modules() if part.training]
            module.eval()
        _RUNS[module] = (count + 1, training)
    try:
        yield
    finally:
        with _LOCK:
            count, training = _RUNS.pop(module)
            if count > 1:
                _RUNS[module] = (count - 1, training)
            else:
                for part in training:
                    part.training = True
