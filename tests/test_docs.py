"""The documentation's examples run as they stand, and its claims hold."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from hf_semicrf import ops

PAGE = (Path(__file__).parent.parent / "docs" / "distribution.md").read_text()


def functions_of_potentials() -> str:
    """The section of that name."""
    return re.search(r"^## Functions of potentials\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)[1]


@pytest.fixture(scope="module")
def names():
    """What the examples define, run one after the other."""
    space: dict = {}
    blocks = re.findall(r"^```python\n(.*?)^```", functions_of_potentials(), re.M | re.S)
    assert len(blocks) >= 7
    for block in blocks:
        exec(compile(block, "distribution.md", "exec"), space)
    return space


def test_every_function_of_the_table_is_public():
    table = re.findall(r"^\| [^|]+\? \| ([^|]+) \|", functions_of_potentials(), re.M)
    wanted = {name for cell in table for name in re.findall(r"`(\w+)`", cell)}
    assert len(wanted) >= 12 and wanted <= set(ops.__all__)


def test_the_examples_say_what_is_true(names):
    p = names["p"]
    assert (names["lead"] > 0).all() and (names["share"] < 1).all() and (names["share"] > 0).all()
    outside = p.map(lambda x: x.clone())
    outside.emission[..., 1:] = -torch.inf
    chance = (ops.log_partition(outside) - ops.log_partition(p)).exp()
    assert_close(names["none"].float(), chance, rtol=0, atol=0.05)
    segment, probability = names["segment"], names["probability"]
    for b, i, (s, e) in ((0, 0, (0, 2)), (0, 1, (3, 4)), (1, 0, (1, 4))):
        assert_close(probability[b, i], segment[b, s, e - s - 1])
    assert not probability[1, 1].any()
    assert names["loss"].amin(-1)[0].abs().max() < 1e-5
    assert names["q"].emission.grad.shape == (2, 6, 3)
    assert names["by_segments"][0].shape == names["by_tokens"][0].shape == (2, 6)


def test_the_head_on_its_own():
    page = (Path(__file__).parent.parent / "docs" / "extend.md").read_text()
    (block,) = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    space: dict = {}
    exec(compile(block, "extend.md", "exec"), space)
    assert space["loss"] > 0
    assert space["output"].labels.shape == space["output"].starts.shape == (2, 6)


def test_the_files_that_contributing_names_exist():
    root = Path(__file__).parent.parent
    for name in re.findall(r"`((?:hf_semicrf|tests|benchmarks)/[\w./]*)`",
                           (root / "CONTRIBUTING.md").read_text()):  # fmt: skip
        assert (root / name).exists(), name
