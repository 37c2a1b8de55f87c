"""What the loops with annotators' tools share: letters, training on an export, a server."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable
from http.client import RemoteDisconnected
from itertools import product
from pathlib import Path
from random import Random
from urllib.error import HTTPError, URLError

from tiny import NAMES, PLACES, SURNAMES

from hf_semicrf.cli import evaluate, train
from hf_semicrf.text import detokenize


def letters():
    """Sentences, no two alike, in a random order that is always the same."""
    rows = []
    for n, (name, surname, place) in enumerate(product(NAMES, SURNAMES, PLACES)):
        person, where = (["B-PER", "I-PER"], "B-LOC")
        if n % 2:
            row = ([name, surname, "flew", "Yesterday", place], [*person, "O", "O", where])
        else:
            row = (["Yesterday", place, "saw", name, surname], ["O", where, "O", *person])
        rows.append({"tokens": row[0], "ner_tags": row[1]})
    Random(0).shuffle(rows)
    return rows


def spans_of(row):
    """A text, and the [start, end, label] that an annotator marks in it."""
    text, offsets = detokenize(row["tokens"])
    result = []
    for n, tag in enumerate(row["ner_tags"]):
        if tag.startswith("B-"):
            result.append([offsets[n][0], offsets[n][1], tag[2:]])
        elif tag != "O":
            result[-1][1] = offsets[n][1]
    return text, result


def learn(export, test, bert, folder):
    """Train on an export; F1 on other texts."""
    command = ["--model_name_or_path", bert, "--train_file", str(export), "--output_dir", folder]
    command += ["--num_train_epochs", "40", "--learning_rate", "1e-2", "--head_learning_rate"]
    command += ["1e-2", "--per_device_train_batch_size", "8", "--max_segment_length", "3"]
    train.main([*command, "--threshold", "0.4", "--save_strategy", "no", "--report_to", "none"])
    return evaluate.main([folder, "--file", test, "--device", "cpu"])["overall_f1"]


def free_port():
    """A port of this machine that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def wait_for(process: subprocess.Popen, ask: Callable[[], object], log: Path) -> None:
    """Wait until a server answers; its log, where it does not."""
    for _ in range(300):
        try:
            ask()
            return
        except (HTTPError, URLError, ConnectionError, RemoteDisconnected):
            assert process.poll() is None, log.read_text()[-2000:]
            time.sleep(2)
    raise TimeoutError(log.read_text()[-2000:])
