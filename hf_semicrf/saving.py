"""Files that are there as a whole or not at all, and folders that one run at a time writes into."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextmanager
def filling(folder: str | os.PathLike, name: str | os.PathLike | None = None) -> Iterator[Path]:
    """Write files of a folder so that each is the old one or the whole new one.

    Args:
        folder: Where they belong; made where there is none.
        name: What an error of writing names; the file by default.

    Yields:
        An empty folder to write into. When the block is left, the files in it move to `folder`,
        each with the permissions of the one that it replaces; after an error they are removed.

    Raises:
        OSError: A file can't be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        unfinished = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=folder))
    except OSError as error:
        raise _renamed(error, name or folder) from None
    try:
        yield unfinished
        for path in sorted(unfinished.rglob("*")):
            target = folder / path.relative_to(unfinished)
            if path.is_dir():
                target.mkdir(exist_ok=True)
            else:
                move(path, target)
    except OSError as error:
        place = str(error.filename or unfinished)
        if error.errno is None or not place.startswith(str(unfinished)):
            raise
        raise _renamed(error, name or place.replace(str(unfinished), str(folder))) from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Write a file beside the old one, which it replaces when the block is left without an error.

    Args:
        path: The file, in a folder that exists. Of a link, the file behind it is replaced; what is
            no ordinary file, such as /dev/stdout, is written as it is.

    Yields:
        The path to write to.

    Raises:
        OSError: The file can't be written; the message names it.
    """
    path = Path(path)
    place = path.resolve()
    if path.exists() and not path.is_file():
        try:
            yield path
        except OSError as error:
            if error.errno is None or error.filename:
                raise
            raise _renamed(error, path) from None
    elif not place.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    else:
        with filling(place.parent, path) as folder:
            yield folder / place.name


def move(path: Path, target: Path) -> None:
    """Put a finished file in the place of another, whose permissions it takes.

    Args:
        path: The new file.
        target: The old one, on the same disk; perhaps there is none.

    Raises:
        PermissionError: The old file may not be written.
    """
    if target.exists():
        if not os.access(target, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(target))
        shutil.copymode(target, path)
    with path.open("rb") as file:  # the content is on the disk before the name is
        os.fsync(file.fileno())
    os.replace(path, target)


@contextmanager
def only_writer(folder: Path, what: object) -> Iterator[None]:
    """Be the only run that writes into a folder; a run that is killed leaves it free.

    On Windows and on file systems without locks all runs may.

    Args:
        folder: The folder; made where there is none, and removed in the end if it is empty.
        what: What the message calls it.

    Raises:
        ValueError: Another run is at work there.
    """
    while not (lock := _lock(folder, what)):
        pass
    with lock:
        try:
            yield
        finally:
            if fcntl is not None:
                (folder / LOCK).unlink(missing_ok=True)
            with suppress(OSError):
                folder.rmdir()


def _lock(folder: Path, what: object) -> Any:
    """The open and locked file of a folder; None where it has just been removed by another run."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):  # which another run may be removing
        folder.mkdir()
    if fcntl is None:
        return nullcontext()
    try:
        file = (folder / LOCK).open("ab")
    except FileNotFoundError:
        return None
    try:
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        if os.path.samestat(os.fstat(file.fileno()), os.stat(folder / LOCK)):
            return file
    except BlockingIOError:
        file.close()
        raise ValueError(f"expected one run that writes {what}, got another one at work") from None
    except FileNotFoundError:
        pass
    file.close()
    return None


def _renamed(error: OSError, name: str | os.PathLike) -> OSError:
    """The error of a file, which is asked for under another name than it is written."""
    return OSError(error.errno, error.strerror, os.fspath(name))
