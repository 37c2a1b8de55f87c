"""The PyTorch back end's two recurrences, with and without logarithms, agree wherever both run."""

from __future__ import annotations

import pytest
import torch
from cases import random_potentials
from tolerances import FLOAT64
from torch.testing import assert_close

from hf_semicrf.ops.host import scan, viterbi
from hf_semicrf.ops.potentials import reverse


def scans(p, monkeypatch, allowed):
    """The scan with its logarithms, and as the scores allow; how many steps went in products."""
    steps = []

    def observed(*arguments, safe_steps=scan._safe_steps):
        steps.append(safe_steps(*arguments))
        return steps[-1] if allowed else 0

    with monkeypatch.context() as patch:
        patch.setattr(scan, "_safe_steps", observed)
        return scan._scan([p, reverse(p)]), steps


@pytest.mark.parametrize("scale", [0.1, 2.0, 10.0, 40.0, 300.0])
@pytest.mark.parametrize("longest", [1, 4, 30])
def test_products_keep_every_digit(scale, longest, monkeypatch):
    p = random_potentials([70, 64], longest, 3, given=("emission", "start"), seed=5, scale=scale)
    p.duration[1:, 0] = -torch.inf  # the outside type
    expected, steps = scans(p, monkeypatch, allowed=False)
    found, _ = scans(p, monkeypatch, allowed=True)
    for x, y in zip(found, expected, strict=True):
        assert_close(x, y, **FLOAT64)
    assert (steps[0] >= 4) == (scale <= 2 or (scale, longest) == (10, 1))


def test_products_wait_for_no_forbidden_step(monkeypatch):
    """A path that is far behind and then the only one: products would have lost it."""
    p = random_potentials([400], 1, 2, given=("emission",), seed=6, scale=0.1)
    p.transition[0, 1] = p.transition[1, 0] = -torch.inf
    p.emission[0, :, 1] -= 5.0
    p.emission[0, -1, 0] = -torch.inf
    expected, steps = scans(p, monkeypatch, allowed=True)
    assert steps[0] < 4
    only = p.emission[0, :, 1].sum() + 400 * p.duration[0, 1] + 399 * p.transition[1, 1]
    log_z = scan.log_partition(p)
    assert_close(log_z[0], only + p.initial[1] + p.final[1], **FLOAT64)


def test_blocks_of_scores_change_nothing(monkeypatch):
    p = random_potentials([23, 9], 4, 3, seed=7)
    expected = scan.scan(p), viterbi.best(p)
    for module in (scan, viterbi):
        monkeypatch.setattr(module, "BLOCK_ELEMENTS", 1)
    found = scan.scan(p), viterbi.best(p)
    assert_close(found[0][0], expected[0][0], **FLOAT64)
    for x, y in zip(found[1], expected[1], strict=True):
        assert torch.equal(x, y)
