"""Count the kernels that a call launches on a GPU, without one.

The tensors are on the device "meta", where every operation runs but computes nothing. Triton's
kernels are counted where they would be launched. An operation of PyTorch counts as one kernel,
though some launch several; views and allocations count as none. What would wait for a GPU, to read
a value of a tensor, raises an error.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch
import triton
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

NO_KERNEL = {
    *("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"),
    *("_unsafe_view", "_reshape_alias"),
}


class Launches(TorchDispatchMode):
    """The kernels launched inside it, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels: Counter[str] = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        name = function.__name__.split(".")[0]
        returns = function._schema.returns
        is_view = any(x.alias_info is not None and not x.alias_info.is_write for x in returns)
        tensors = [x for x in torch.utils._pytree.tree_leaves(result) if isinstance(x, Tensor)]
        if any(x.device.type == "meta" for x in tensors) and not is_view:
            source = [x for x in torch.utils._pytree.tree_leaves(args) if isinstance(x, Tensor)]
            if name in ("_to_copy", "copy_") and any(x.device.type != "meta" for x in source):
                name = "copy from the host"
            if name not in NO_KERNEL:
                self.kernels[name] += 1
        return result

    def total(self) -> int:
        return sum(self.kernels.values())


def _always_triton(backend: str, device: torch.device) -> str:
    return "triton" if backend == "auto" else backend


@contextmanager
def counted() -> Iterator[Launches]:
    """Count what is launched for tensors on the device "meta", with Triton as the back end."""
    launches = Launches()

    def run(kernel: Any, *args: Any, **kwargs: Any) -> None:
        launches.kernels[f"triton {kernel.fn.__name__}"] += 1

    with ExitStack() as stack:
        for module in list(sys.modules.values()):
            if module.__name__.startswith("hf_semicrf") and hasattr(module, "resolve_backend"):
                stack.enter_context(mock.patch.object(module, "resolve_backend", _always_triton))
        stack.enter_context(mock.patch.object(triton.runtime.jit.JITFunction, "run", run))
        # there is no autocast of this device
        stack.enter_context(mock.patch.object(torch, "autocast", lambda *_, **__: nullcontext()))
        stack.enter_context(launches)
        yield launches
