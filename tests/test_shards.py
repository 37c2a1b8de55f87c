"""A file tagged by two processes, one of them killed: nothing lost, nothing twice, in order."""

from __future__ import annotations

import json
import os
import signal
import socket

import pytest
import torch
from accelerate import PartialState
from tiny import sentences, write_jsonl

from hf_semicrf import SemiCRFForTokenClassification
from hf_semicrf.cli import predict
from hf_semicrf.inference.shards import merge_shards, write_shards
from hf_semicrf.saving import only_writer


def upper(items):
    return [item.upper() for item in items]


def each(work):
    """What `write_shards` asks for, of what takes one shard."""
    return lambda shards: map(work, shards)


def letters(count=26):
    return [chr(97 + n) for n in range(count)]


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 4, 26, 100])
def test_shards_of_all_processes_make_the_whole(tmp_path, processes, size):
    folder, target = tmp_path / "shards", tmp_path / "out"
    names = {
        tuple(write_shards(folder, iter(letters()), each(upper), {}, size, rank, processes))
        for rank in range(processes)
    }
    assert [len(all_of_them) for all_of_them in names] == [-(-26 // size)]
    merge_shards(folder, names.pop(), target)
    assert target.read_text().split() == upper(letters())
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["out", "shards"]


def test_what_is_done_is_not_done_again_even_by_another_number_of_processes(tmp_path):
    done = []

    def work(items):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(list(items))
        return upper(items)

    for rank in (0, 1):
        with pytest.raises(KeyboardInterrupt):
            write_shards(tmp_path / "s", letters(), each(work), {"model": "m"}, 2, rank, 2)
        if rank == 0:
            assert done == [["a", "b"], ["e", "f"], ["i", "j"]]
    with pytest.raises(RuntimeError, match="10 of 13 shards are not done, the first 00000001"):
        names = write_shards(tmp_path / "s", letters(), each(upper), {"model": "m"}, 2, 99, 100)
        merge_shards(tmp_path / "s", names, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    again = []
    names = write_shards(
        tmp_path / "s", letters(), each(lambda x: again.extend(x) or upper(x)), {"model": "m"}, 2
    )
    assert merge_shards(tmp_path / "s", names, tmp_path / "out") == 0
    assert sorted(again + [item for items in done for item in items]) == letters()
    assert (tmp_path / "out").read_text().split() == upper(letters())


@pytest.mark.parametrize(
    ("changed", "kept"),
    [
        ({}, 5),
        ({"settings": {"model": "n", "threshold": None}}, 0),
        ({"settings": {"model": "m", "threshold": 0.5}}, 0),
        ({"items": ["A", *letters(10)[1:]]}, 4),
        ({"items": ["new", *letters(10)]}, 0),
        ({"items": [*letters(10), "new"]}, 5),
        ({"size": 6}, 0),
    ],
)
def test_a_shard_is_kept_where_it_would_be_made_again(tmp_path, changed, kept):
    first = {"items": letters(10), "settings": {"model": "m", "threshold": None}, "size": 2}
    folder, done = tmp_path / "s", []

    def write(items, settings, size):
        done.clear()
        return write_shards(
            folder, items, each(lambda x: done.append(x) or upper(x)), settings, size
        )

    write(**first)
    (folder / ".unfinished-killed").mkdir()
    then = first | changed
    names = write(**then)
    assert len(names) - len(done) == kept
    assert merge_shards(folder, names, tmp_path / "out") == 5 - kept
    assert (tmp_path / "out").read_text().split() == upper(then["items"])
    assert not any(folder.iterdir())


def test_a_shard_has_items(tmp_path):
    with pytest.raises(ValueError, match="expected size as an int of at least 1, got 0"):
        write_shards(tmp_path, letters(), each(upper), {}, 0)


def test_an_empty_file(tmp_path):
    assert write_shards(tmp_path / "s", [], each(upper), {}) == []
    merge_shards(tmp_path / "s", [], tmp_path / "out")
    assert (tmp_path / "out").read_text() == ""


# The command, as accelerate launches it


def free_port():
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return str(listener.getsockname()[1])


def launch(arguments, environment, die_after=None):
    """A process of the command, as it is at a launch; it may kill itself after some texts."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        torch.set_num_threads(1)
        os.environ.update(environment)
        PartialState._reset_state()  # other tests of this process have made one
        stock = SemiCRFForTokenClassification.predict_stream

        def spy(self, *rest, **options):
            for number, found in enumerate(stock(self, *rest, **options)):
                if number == die_after:
                    os.kill(os.getpid(), signal.SIGKILL)
                yield found

        SemiCRFForTokenClassification.predict_stream = spy
        predict.main(arguments)
        code = 0
    finally:
        os._exit(code)


def launch_two(arguments, deaths=(None, None)):
    """How both processes end, 0 or the signal. Where the second dies, the first is ended too."""
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "ACCELERATE_USE_CPU": "true"}
    common |= {"MASTER_ADDR": "localhost", "MASTER_PORT": free_port()}
    running = [
        launch(arguments, common | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, death)
        for rank, death in enumerate(deaths)
    ]
    second = os.waitpid(running[1], 0)[1]
    if second:
        os.kill(running[0], signal.SIGKILL)
    return [os.waitpid(running[0], 0)[1], second]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks, to spare two imports of torch")
@pytest.mark.skipif(torch.cuda.is_initialized(), reason="CUDA does not survive a fork")
def test_two_processes_one_killed_and_the_command_run_again(tiny_tagger, tmp_path):
    model = tiny_tagger
    rows = [{"tokens": [*row["tokens"], f"number{n}"]} for n, row in enumerate(sentences(50))]
    file, output = write_jsonl(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    arguments = [model, "--file", file, "--output", str(output), "--shard_size", "3"]
    arguments += ["--device", "cpu"]

    with only_writer(tmp_path / "out.jsonl.shards", "out"):
        assert launch_two(arguments)[1] == 256  # both are told that they are not alone
    waiting, killed = launch_two(arguments, (None, 9))
    # the process that waits may see that the other is gone before it is killed itself
    assert killed == signal.SIGKILL and waiting != 0
    assert not output.exists()
    left = {path.name[:8] for path in (tmp_path / "out.jsonl.shards").glob("*.jsonl")}
    assert {"00000001", "00000003", "00000005"} <= left and "00000007" not in left

    assert launch_two(arguments) == [0, 0]
    assert not (tmp_path / "out.jsonl.shards").exists()
    written = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["tokens"] for row in written] == [row["tokens"] for row in rows]
    predict.main([*arguments[:3], "--output", str(tmp_path / "alone.jsonl")])
    alone = [json.loads(line) for line in (tmp_path / "alone.jsonl").read_text().splitlines()]
    for one, other in zip(written, alone, strict=True):
        for entity in one["entities"] + other["entities"]:
            entity["score"] = round(entity["score"], 4)
        assert one == other
    assert sum(len(row["entities"]) for row in written) > 30
