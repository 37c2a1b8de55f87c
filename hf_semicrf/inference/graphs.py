"""Replay what a model launches on a GPU: one CUDA graph for each size of a batch.

A graph is captured when its size is met first: three runs of the model, and memory for what the
largest of them needs, which all graphs of a model share. From then on a batch takes one launch.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from threading import Lock
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from hf_semicrf.inference.feeding import Arriving, Feed, sent

Run = Callable[[Tensor, Tensor | None], Tensor]

_ADAPTERS = {"_active_adapter", "_disable_adapters"}  # of peft's layers
_LOCK = Lock()
_GRAPHS: WeakKeyDictionary[nn.Module, Graphs] = WeakKeyDictionary()


class _Captured(NamedTuple):
    """A graph, and the tensors that it reads and writes."""

    graph: torch.cuda.CUDAGraph
    columns: Tensor
    allowed: Tensor | None
    result: Tensor


class Graphs:
    """The graphs of a model as it stands.

    Args:
        state: What a graph depends on beside its inputs.
    """

    def __init__(self, state: Hashable):
        self.state = state
        self._captured: dict[Hashable, _Captured] = {}
        self._pool: Any = None

    @classmethod
    def of(cls, model: Any) -> Graphs:
        """The graphs of a model; new ones where it has changed since they were captured.

        Args:
            model: The model. New values of its weights are no change, new tensors are.

        Raises:
            ValueError: It does not run on one CUDA device.
        """
        devices = {str(parameter.device) for parameter in model.parameters()}
        if len(devices) > 1 or model.device.type != "cuda":
            raise ValueError(
                "expected a model on one CUDA device for cuda_graphs=True, got one on "
                f"{', '.join(sorted(devices))}"
            )
        state = _state(model)
        with _LOCK:
            graphs = _GRAPHS.get(model)
            if graphs is None or graphs.state != state:
                graphs = _GRAPHS[model] = cls(state)
            return graphs

    def run(
        self, run: Run, feed: Feed, allowed: Tensor | None, rows: int, options: Hashable
    ) -> Arriving:
        """The result of a batch [..., rows, N], on its way to the host.

        Args:
            run: From the columns of a batch, and what is allowed in it, to the result.
            feed: The batch.
            allowed: Which segments may occur [B, N, L, C], or None.
            rows: Rows of the graph; those beyond the batch repeat its last one.
            options: What else the result of ``run`` depends on.

        Raises:
            RuntimeError: The encoder waits for the GPU, or copies from the host, as it runs.
        """
        columns = _repeated(feed.columns, rows, 1)
        allowed = None if allowed is None else _repeated(allowed, rows, 0)
        key = (feed.names, columns.shape, None if allowed is None else allowed.shape, options)
        with _LOCK:
            found = self._captured.get(key)
            if found is None:
                found = self._captured[key] = self._capture(run, feed.names, columns, allowed)
            found.columns.copy_(columns.pin_memory(), non_blocking=True)
            if found.allowed is not None and allowed is not None:
                found.allowed.copy_(allowed.pin_memory(), non_blocking=True)
            found.graph.replay()
            return Arriving(found.result)

    def _capture(
        self, run: Run, names: tuple[str, ...], columns: Tensor, allowed: Tensor | None
    ) -> _Captured:
        """Run a batch until all kernels are there, then capture it."""
        device = torch.device("cuda", torch.cuda.current_device())
        inputs = sent(columns, device)
        if "attention_mask" in names and columns.shape[-1] > 1:
            # a batch without padding may take another way through the encoder
            inputs[names.index("attention_mask"), 0, -1] = 0
        limits = None if allowed is None else sent(allowed, device)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                run(inputs, limits)
        torch.cuda.current_stream().wait_stream(stream)
        # weights that autocast has narrowed for this block alone are narrowed inside the graph
        torch.clear_autocast_cache()
        graph = torch.cuda.CUDAGraph()
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        try:
            with torch.cuda.graph(graph, self._pool, capture_error_mode="thread_local"):
                result = run(inputs, limits)
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise RuntimeError(
                "expected an encoder that runs without waiting for the GPU, for "
                f"cuda_graphs=True, got one that cannot be captured: {reason}"
            ) from error
        finally:
            torch.clear_autocast_cache()
        return _Captured(graph, inputs, limits, result)


def _repeated(tensor: Tensor, rows: int, axis: int) -> Tensor:
    """A tensor with its last row repeated up to so many rows."""
    missing = rows - tensor.shape[axis]
    if not missing:
        return tensor
    last = tensor.narrow(axis, tensor.shape[axis] - 1, 1)
    return torch.cat([tensor, *[last] * missing], axis)


def _state(model: nn.Module) -> Hashable:
    """All of a model that a graph keeps: where its tensors lie, and its plain settings."""
    tensors = (*model.parameters(), *model.buffers())
    settings = (
        (name, _plain(value))
        for module in model.modules()
        for name, value in vars(module).items()
        if name != "training" and (name[0] != "_" or name in _ADAPTERS)
    )
    return (
        tuple((x.data_ptr(), x.dtype) for x in tensors),
        tuple((name, value) for name, value in settings if value is not None),
        (torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")),
        (torch.get_float32_matmul_precision(), torch.backends.cuda.matmul.allow_tf32),
        torch.is_inference_mode_enabled(),
    )


def _plain(value: Any) -> str | None:
    """A setting of a module as text; None for all that is no number, word or row of these."""
    if hasattr(value, "_attn_implementation"):  # an encoder's configuration
        return str(value._attn_implementation)
    if isinstance(value, tuple | list) and all(_plain(item) is not None for item in value):
        return repr(value)
    return repr(value) if isinstance(value, bool | int | float | str) else None
