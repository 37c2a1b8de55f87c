"""Fixtures of the tests, and which tests run where."""

from __future__ import annotations

import os

import pytest
import torch
from cases import CASES, to_device

# tensors are small, and threads would only wait for each other; here and in other processes
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")


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


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A stand-in for the Hub, with a token that may write."""
    import huggingface_hub
    import transformers
    from hub_stand_in import TOKEN, StandIn

    server = StandIn()
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    url = server.address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", server.address)
    monkeypatch.setattr(transformers.utils.hub, "_hf_api", None, raising=False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield server
    server.close()


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
