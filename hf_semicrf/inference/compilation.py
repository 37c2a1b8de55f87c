"""Have a model's kernels compiled side by side, before a first batch that would wait for each.

Where Triton's cache does not hold a kernel, compiling it takes up to seconds, most of them without
Python's lock.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import torch

from hf_semicrf.head import SemiCRF
from hf_semicrf.inference.feeding import Feed, sent

_compiled: set[tuple[Any, ...]] = set()  # what they were compiled for, in this process


def compile_kernels(
    model: Any,
    feed: Feed,
    threshold: float | None,
    decode: Literal["viterbi"] | None,
    constrained: bool,
) -> None:
    """Compile the kernels that `predict` launches, once a process and layout of the head.

    Args:
        model: The model, on a GPU and in evaluation mode.
        feed: A batch for it, of which the first text is read as far as its potentials.
        threshold: As `predict` takes it.
        decode: As `predict` takes it.
        constrained: Whether some segments will not be allowed.
    """
    head, device = model.classifier, model.device
    if not isinstance(head, SemiCRF):
        return
    if threshold is None and decode is None:
        threshold = head.threshold
    sizes = (*head.transition_bias.shape, head.longest, head.transition_bias.dtype)
    kind = (head.rules is None, threshold is None, head.threshold_factor == 1, constrained)
    layout = (device, type(head.scorer), *sizes, *kind)
    if layout in _compiled:
        return
    inputs = feed.inputs(sent(feed.columns[:, :1], device))

    stream = torch.cuda.current_stream(device)

    def run(call: Callable[[], object]) -> None:
        with torch.no_grad(), torch.cuda.stream(stream):
            call()

    calls = [
        lambda: model._potentials(**inputs),
        *head.decoding_calls(threshold, constrained),  # the longest first
    ]
    # more at once would keep the longest from Python, in which a kernel's compilation begins
    with ThreadPoolExecutor(3, "hf_semicrf") as threads:
        list(threads.map(run, calls))
    _compiled.add(layout)
