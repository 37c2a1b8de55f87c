"""Work on a long stream in shards, in processes that may be killed and run again.

A shard is a run of items; it is written to a file of its own, in one step, when it is done. What a
killed run has left is kept by the next one, whatever its number of processes.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from hf_semicrf.options import check

Item = TypeVar("Item")

SETTINGS = "settings.json"


def write_shards(
    folder: Path,
    items: Iterable[Item],
    work: Callable[[Sequence[Item]], Iterable[str]],
    settings: Mapping[str, Any],
    size: int = 1000,
    rank: int = 0,
    processes: int = 1,
) -> int:
    """Do one process's share of the shards that are not there yet.

    Every process reads all items (they should come from a stream) and works on every
    ``processes``-th shard.

    Args:
        folder: Where the shards are; made where missing.
        items: All items, the same ones in the same order in each process and each run.
        work: From the items of a shard to as many lines.
        settings: What the result depends on, as JSON can hold it.
        size: Items in a shard.
        rank: Number of this process, from 0.
        processes: Number of processes.

    Returns:
        The number of shards in all.

    Raises:
        ValueError: A number is out of range, or the folder was begun with other settings.
    """
    check(size=size, rank=rank, processes=processes)
    folder.mkdir(parents=True, exist_ok=True)
    _check_settings(folder, {**settings, "shard_size": size}, rank)
    count = 0
    for shard in _batches(items, size):
        path = _path(folder, count)
        if count % processes == rank and not path.exists():
            _write(path, "".join(f"{line}\n" for line in work(shard)), rank)
        count += 1
    return count


def merge_shards(folder: Path, count: int, target: Path) -> None:
    """Write all shards in order to one file, and remove them.

    Args:
        folder: As `write_shards` left it, after all processes.
        count: The number of shards, as it returned.
        target: The file.

    Raises:
        RuntimeError: A shard is missing.
    """
    paths = [_path(folder, index) for index in range(count)]
    missing = [path.name for path in paths if not path.exists()]
    if missing:
        raise RuntimeError(f"{len(missing)} of {count} shards are not done, the first {missing[0]}")
    unfinished = target.with_name(target.name + ".tmp")
    with unfinished.open("wb") as merged:
        for path in paths:
            with path.open("rb") as shard:
                shutil.copyfileobj(shard, merged)
    os.replace(unfinished, target)
    shutil.rmtree(folder)


def _batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def _path(folder: Path, index: int) -> Path:
    return folder / f"{index:08d}.jsonl"


def _write(path: Path, text: str, rank: int) -> None:
    """Write a file so that it is there as a whole or not at all."""
    unfinished = path.with_suffix(f".{rank}.tmp")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)


def _check_settings(folder: Path, settings: Mapping[str, Any], rank: int) -> None:
    """Refuse to mix shards of two kinds; the first process to come writes the settings."""
    path = folder / SETTINGS
    if not path.exists():
        _write(path, json.dumps(settings, indent=1), rank)
    begun = json.loads(path.read_text(encoding="utf-8"))
    if begun != json.loads(json.dumps(settings)):
        changed = sorted(
            name for name in {*begun, *settings} if begun.get(name) != settings.get(name)
        )
        raise ValueError(
            f"{folder} holds the shards of an earlier run with another {', '.join(changed)}: "
            "expected the same, or the folder to be removed"
        )
