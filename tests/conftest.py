"""Fixtures of the tests, and which tests run where."""

from __future__ import annotations

import pytest
import torch
from cases import CASES, to_device


def pytest_collection_modifyitems(config, items):
    if torch.cuda.is_available():
        return
    gpu = [item for item in items if item.get_closest_marker("gpu")]
    config.hook.pytest_deselected(items=gpu)
    items[:] = [item for item in items if not item.get_closest_marker("gpu")]


@pytest.fixture(scope="session")
def tiny_tagger(tmp_path_factory):
    """The folder of a tagger that knows the sentences of tiny.py; for reading alone."""
    from tiny import save_tiny_tagger

    return save_tiny_tagger(tmp_path_factory.mktemp("tagger"))


@pytest.fixture(scope="module")
def one_thread():
    """Tensors are small, and threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    return request.param


@pytest.fixture(params=CASES)
def case(request):
    """A batch with its truth by enumeration, on the CPU."""
    return CASES[request.param]


@pytest.fixture
def potentials(case, device):
    """The potentials of `case` on `device`."""
    return to_device(case.potentials, device)
