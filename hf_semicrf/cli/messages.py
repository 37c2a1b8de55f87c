"""What the commands say: one line each, in which no data can steer a terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def shown(message: str) -> str:
    """A message on one line, with a visible sign for what is not seen.

    Args:
        message: Such as that of an error.
    """
    line = " ".join(message.split())
    if line.isprintable():
        return line
    from hf_semicrf.text import visible  # an import that takes its time

    return visible(line)


def tell(message: str) -> None:
    """Print a message on standard error.

    Args:
        message: What is to be said.
    """
    print(shown(message), file=sys.stderr)


@contextmanager
def opening(name: str) -> Iterator[None]:
    """Name the model whose files can't be read, whatever the library that reads them raises.

    Args:
        name: Hub name or folder.

    Raises:
        ValueError: In place of errors that are of another kind, or of JSON and text.
    """
    try:
        yield
    except Exception as error:
        clear = isinstance(error, ImportError | OSError | ValueError)
        if clear and not isinstance(error, json.JSONDecodeError | UnicodeError):
            raise
        raise ValueError(
            f"expected a model that can be read at {name!r}, got {type(error).__name__}: {error}"
        ) from error
