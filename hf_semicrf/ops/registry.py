"""Custom ops over potentials, and the way from an operation to what implements it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from threading import Thread
from types import ModuleType
from typing import Any

import torch

from hf_semicrf.ops.checks import Backend, resolve_backend
from hf_semicrf.ops.potentials import Potentials
from hf_semicrf.ops.routing import HAS_TRITON

FIELDS = (
    "Tensor? emission, Tensor? segment, Tensor? start, Tensor? end, Tensor duration, "
    "Tensor transition, Tensor initial, Tensor final, Tensor lengths"
)


def operation(
    tensors: int, *arguments: str
) -> Callable[[Callable[..., Any]], torch.library.CustomOpDef]:
    """Make ``hf_semicrf::name`` of a function ``_name`` of the fields and of further arguments.

    Args:
        tensors: How many the function returns; a tuple if more than one.
        *arguments: Type and name of each argument after the fields, as a schema has them.
    """
    result = "Tensor" if tensors == 1 else f"({', '.join(['Tensor'] * tensors)})"
    schema = f"({', '.join((FIELDS, *arguments))}) -> {result}"

    def register(function: Callable[..., Any]) -> torch.library.CustomOpDef:
        name = f"hf_semicrf::{function.__name__.removeprefix('_')}"
        return torch.library.custom_op(name, function, mutates_args=(), schema=schema)

    return register


def split_potentials(inputs: Sequence[Any]) -> tuple[Potentials, Sequence[Any]]:
    """Split an operation's inputs into the potentials and its further arguments."""
    count = len(Potentials._fields)
    return Potentials(*inputs[:count]), inputs[count:]


def empty_gradient(p: Potentials) -> tuple[torch.Tensor, ...]:
    """Room for a gradient of every potential but the lengths; without segment scores none there."""
    batch, positions, _, types = p.sizes
    new = p.duration.new_empty
    emission, start, end = (new(batch, positions, types) for _ in range(3))
    segment = new((0,) if p.segment is None else p.segment.shape)
    shared = (new(x.shape) for x in (p.duration, p.transition, p.initial, p.final))
    return emission, segment, start, end, *shared


def implementation(backend: str, name: str) -> ModuleType:
    """Fetch the module of a back end that implements an operation.

    Both back ends have the modules ``scan``, ``viterbi``, ``expectations``, ``score``,
    ``sampling`` and ``means``, with the same functions.

    Args:
        backend: "torch" or "triton".
        name: The module's name.
    """
    if backend == "torch":
        return importlib.import_module(f"hf_semicrf.ops.host.{name}")
    return kernels(name)


@lru_cache
def kernels(name: str) -> ModuleType:
    """Import a module of Triton kernels on first use: CPU builds of PyTorch lack Triton."""
    if _reading is not None:
        _reading.join()  # rather than to read the same beside it
    return importlib.import_module(f"hf_semicrf.ops.kernels.{name}")


_reading: Thread | None = None


def preload() -> None:
    """Read in threads, once a process, what the first call on a GPU needs beside its kernels.

    The sources of the kernels, Triton's driver, and its digest of itself, which names the files of
    kernels: half a second that passes while weights are loaded. Nothing without a GPU.
    """
    global _reading
    if _reading is None and HAS_TRITON and torch.cuda.is_available():
        _reading = Thread(target=_read, name="kernels", daemon=True)
        _reading.start()


def _read() -> None:
    from triton.runtime import driver
    from triton.runtime.cache import triton_key

    digest = Thread(target=triton_key, name="digest", daemon=True)
    digest.start()
    for name in ("lattice", "pack", "span_scores", "scan", "expectations", "risk"):
        importlib.import_module(f"hf_semicrf.ops.kernels.{name}")
    _ = driver.active  # its extension is compiled where it is not in Triton's cache
    digest.join()


def kernels_for(name: str, device: torch.device, backend: Backend = "auto") -> ModuleType | None:
    """Import a module of kernels that do in one launch what PyTorch does in several.

    Args:
        name: The module's name.
        device: Where the tensors are.
        backend: Which implementation runs.

    Returns:
        None where PyTorch runs instead: on other devices, and in a graph, whose operations the
        compiler fuses and an export has to know.
    """
    if resolve_backend(backend, device) == "torch" or torch.compiler.is_compiling():
        return None
    return kernels(name)
