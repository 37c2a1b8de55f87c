"""Predictions that are killed at each write, with one input changed before the next run."""

from __future__ import annotations

from random import Random

import pytest
from family_runs import CHANGES, State, interrupted_runs, killed

FREE = {"nothing", "name"}  # what the result does not depend on


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What one run writes after each change."""
    made = {}
    for change in CHANGES:
        folder = tmp_path_factory.mktemp(change)
        state = State(folder)
        getattr(state, change)()
        state.run(folder / "out")
        made[change] = (folder / "out").read_bytes()
    return made


def test_each_change_shows_in_the_result(whole):
    same = {change for change in CHANGES if whole[change] == whole["nothing"]}
    assert same == {*FREE, "shard_size"}


@pytest.mark.parametrize("change", CHANGES)
def test_a_killed_run_goes_on_and_is_not_mixed_with_another(change, whole, tmp_path):
    state, output = State(tmp_path), tmp_path / "out"
    assert killed(lambda: state.run(output), 3, after=True)
    assert not output.exists()
    getattr(state, change)()
    read = state.run(output)
    assert output.read_bytes() == whole[change]
    again = {"nothing": 1, "name": 1, "longer": 2, "damage": 2, "order": 3, "text": 3}
    assert read == again.get(change, read)  # of four shards three were done
    assert not (tmp_path / "out.shards").exists()


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("at", range(1, 6))
def test_a_kill_at_each_write(at, after, whole, tmp_path):
    state, output = State(tmp_path), tmp_path / "out"
    output.write_text("old")
    assert killed(lambda: state.run(output), at, after)
    assert output.read_bytes() == (whole["nothing"] if (at, after) == (5, True) else b"old")
    state.run(output)
    assert output.read_bytes() == whole["nothing"]
    assert {path.name for path in tmp_path.iterdir()} == {"in.jsonl", "out"}


def test_drawn_kills_and_changes():
    assert sum(interrupted_runs(Random(f"{n}")) for n in range(4)) == 4
