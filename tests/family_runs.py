"""A family of tests: a prediction that is killed, an input that changes, the command run again.

What comes out is what one run over the last inputs writes, and nothing else is left.
"""

from __future__ import annotations

import copy
import io
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from pathlib import Path
from random import Random
from unittest import mock

import torch
from family_files import tagger
from tiny import sentences
from tokenizers import normalizers

from hf_semicrf import saving
from hf_semicrf.cli import predict


class Killed(BaseException):
    """Ends a run where a signal would, and no block of code cleans up behind it."""


class State:
    """What a prediction depends on.

    Args:
        folder: Where its files are.
    """

    def __init__(self, folder: Path):
        _, model, tokenizer = tagger()
        self.model, self.tokenizer = copy.deepcopy(model), copy.deepcopy(tokenizer)
        self.lines = [json.dumps({"tokens": row["tokens"]}) for row in sentences(7)]
        self.file = folder / "in.jsonl"
        self.options = {"--shard_size": "2", "--threshold": "0.01"}

    def weights(self) -> None:
        """One number of all weights."""
        with torch.no_grad():
            list(self.model.parameters())[-1].view(-1)[0] += 1

    def configuration(self) -> None:
        """What the model was configured with."""
        self.model.set_constraints({"lengths": {"PER": [1, 1]}})

    def normalizer(self) -> None:
        """What the tokenizer makes of words."""
        self.tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()

    def threshold(self) -> None:
        """An option of decoding."""
        self.options["--threshold"] = "0.2"

    def shard_size(self) -> None:
        """An option that the result does not depend on."""
        self.options["--shard_size"] = "3"

    def text(self) -> None:
        """One letter, which leaves the size of the file."""
        self.lines[2] = self.lines[2].replace("saw", "was")

    def damage(self) -> None:
        """A line that is no row."""
        self.lines[-3] = '{"text": '

    def order(self) -> None:
        """Two lines that change places."""
        self.lines[0], self.lines[-1] = self.lines[-1], self.lines[0]

    def longer(self) -> None:
        """A line more."""
        self.lines.append('{"text": "Ada"}')

    def shorter(self) -> None:
        """A line less."""
        del self.lines[3]

    def name(self) -> None:
        """The same texts in another file."""
        self.file = self.file.with_name("other.jsonl")

    def nothing(self) -> None:
        """The same again."""

    def run(self, output: Path) -> int:
        """Predict; returns how many texts the model read."""
        self.file.write_text("\n".join(self.lines) + "\n")
        read = 0
        stock = self.model.predict_stream

        def counted(*rest: object, **options: object) -> Iterator[list]:
            nonlocal read
            for found in stock(*rest, **options):
                read += 1
                yield found

        flags = [part for pair in self.options.items() for part in pair]
        arguments = ["m", "--file", str(self.file), "--output", str(output), *flags]
        with (
            mock.patch.object(predict, "load", lambda *_: (self.model, self.tokenizer)),
            mock.patch.object(self.model, "predict_stream", counted),
            redirect_stderr(io.StringIO()),
        ):
            predict.main([*arguments, "--device", "cpu"])
        return read


CHANGES = [name for name, value in vars(State).items() if callable(value) and name[0] != "_"]
CHANGES.remove("run")


def killed(act: Callable[[], object], at: int, after: bool) -> bool:
    """Do something until a file is about to get its name, or just has; whether it came so far."""
    stock, count = saving.os.replace, 0

    def replace(*paths: object) -> None:
        nonlocal count
        count += 1
        if count == at and not after:
            raise Killed
        stock(*paths)
        if count == at:
            raise Killed

    with (
        mock.patch.object(saving.os, "replace", replace),
        mock.patch.object(saving.shutil, "rmtree", lambda *_, **__: None),
        mock.patch.object(Path, "rmdir", lambda _: None),
    ):
        try:
            act()
        except Killed:
            return True
    return False


def interrupt(folder: Path, random: Random) -> None:
    """One prediction, killed up to three times."""
    state, output = State(folder), folder / "out.jsonl"
    if random.random() < 0.5:
        output.write_text("old\n")
    if random.random() < 0.3:
        state.damage()
    changes = []
    for _ in range(random.randint(1, 3)):
        killed(lambda: state.run(output), random.randint(1, 6), random.random() < 0.5)
        changes.append(random.choice(CHANGES))
        getattr(state, changes[-1])()
    again = state.run(output)
    (folder / "alone").mkdir()
    whole = state.run(folder / "alone" / "out.jsonl")
    assert output.read_bytes() == (folder / "alone" / "out.jsonl").read_bytes(), changes
    assert again <= whole, changes
    shutil.rmtree(folder / "alone")
    left = {path.name for path in folder.iterdir()} - {"other.jsonl"}
    assert left == {"in.jsonl", "out.jsonl"}, (changes, left)


def interrupted_runs(random: Random, deadline: float | None = None) -> int:
    """Kill predictions and run them again.

    Args:
        random: Draws when they are killed and what changes.
        deadline: When to end, by `time.monotonic`; after one prediction where None.

    Returns:
        How many predictions were killed.
    """
    done = 0
    while not done or (deadline is not None and time.monotonic() < deadline):
        with tempfile.TemporaryDirectory() as folder:
            interrupt(Path(folder), random)
        done += 1
    return done
