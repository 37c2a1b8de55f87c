"""Work on a long stream in shards, in processes that may be killed and run again.

A shard is a run of items; it is written to a file of its own, in one step, when it is done. Its
name says what it was made of, so a later run keeps those that it would make itself, whatever its
number of processes, and makes all others.
"""

from __future__ import annotations

import json
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import torch

from hf_semicrf.options import check
from hf_semicrf.saving import LOCK, move, replacing

Item = TypeVar("Item")


def fingerprint(model: Any, tokenizer: Any) -> str:
    """A digest of all of a model that its predictions depend on: weights, settings, tokenizer.

    It reads every weight once, about a second for 10^9 bytes.

    Args:
        model: The model; where it was loaded from and where it runs do not count.
        tokenizer: Its fast tokenizer.
    """
    digest = blake2b(digest_size=16)
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy())
    written = (model.config.to_dict(), tokenizer.padding_side, tokenizer.model_max_length)
    digest.update(json.dumps(_content(written), sort_keys=True, default=str).encode())
    digest.update(tokenizer.backend_tokenizer.to_str().encode())
    return digest.hexdigest()


def write_shards(
    folder: Path,
    items: Iterable[Item],
    work: Callable[[Iterator[list[Item]]], Iterable[Iterable[str]]],
    settings: Mapping[str, Any],
    size: int = 1000,
    rank: int = 0,
    processes: int = 1,
) -> list[str]:
    """Do one process's share of the shards that are not there yet.

    Every process reads all items (they should come from a stream) and works on every
    ``processes``-th shard.

    Args:
        folder: Where the shards are; made where missing.
        items: All items, the same ones in the same order in each process; as JSON can hold them.
        work: From the items of shards to the lines of each, in their order; it may read some
            shards ahead.
        settings: What the result depends on beside the items, as JSON can hold it.
        size: Items in a shard.
        rank: Number of this process, from 0.
        processes: Number of processes.

    Returns:
        The names of all shards, in order.

    Raises:
        ValueError: A number is out of range.
    """
    check(size=size, rank=rank, processes=processes)
    folder.mkdir(parents=True, exist_ok=True)
    names: list[str] = []
    missing: deque[str] = deque()

    def shards() -> Iterator[list[Item]]:
        for shard in _batches(items, size):
            content = json.dumps([settings, shard], default=str)
            digest = blake2b(content.encode(), digest_size=16).hexdigest()
            names.append(f"{len(names):08d}-{digest}.jsonl")
            if (len(names) - 1) % processes == rank and not (folder / names[-1]).exists():
                missing.append(names[-1])
                yield shard

    for lines in work(shards()):
        text = "".join(f"{line}\n" for line in lines)
        with replacing(folder / missing.popleft()) as path:
            path.write_text(text, encoding="utf-8")
    return names


def merge_shards(folder: Path, names: Sequence[str], target: Path) -> int:
    """Write all shards in order to one file, and remove them.

    Args:
        folder: As `write_shards` left it, after all processes.
        names: What it returned.
        target: The file, on the same disk.

    Returns:
        How many shards there were of other items or settings, which are removed too.

    Raises:
        RuntimeError: A shard is missing.
    """
    missing = [name for name in names if not (folder / name).exists()]
    if missing:
        raise RuntimeError(
            f"{len(missing)} of {len(names)} shards are not done, the first {missing[0]}"
        )
    merged = folder / "merged"
    with merged.open("wb") as file:
        for name in names:
            with (folder / name).open("rb") as shard:
                shutil.copyfileobj(shard, file)
    move(merged, target)
    others = {path.name for path in folder.glob("*.jsonl")} - {*names}
    for path in folder.iterdir():
        if path.is_dir():  # what a killed run was writing
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()
    return len(others)


def _batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def _content(value: Any) -> Any:
    """A configuration without what says where it comes from."""
    if isinstance(value, Mapping):
        origin = ("_name_or_path", "transformers_version")
        return {str(k): _content(v) for k, v in value.items() if k not in origin}
    return [_content(item) for item in value] if isinstance(value, list | tuple) else value
