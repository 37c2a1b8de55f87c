"""Which path a call of the dense contract takes: one pure function."""

from __future__ import annotations

import importlib.util
from typing import Literal

HAS_TRITON = importlib.util.find_spec("triton") is not None

Route = Literal["float64", "kernel", "compiled", "checkpoint", "scan"]


def dense_route(
    device_type: str,
    training: bool,
    *,
    use_triton: bool = True,
    validate: bool = False,
    use_compile: bool = True,
    has_triton: bool = HAS_TRITON,
) -> Route:
    """Name the path that `semi_crf_triton_forward` takes for these arguments.

    - `float64` (`validate`): PyTorch in float64; lengths are checked on every device.
    - `compiled` (training, `use_compile`): operators that torch.compile keeps whole, with their own
      gradient; Triton on CUDA with `use_triton`, else PyTorch.
    - `checkpoint` (training, not `use_compile`): PyTorch; nothing that grows with T is kept for the
      backward pass, which computes it again.
    - `kernel` (no gradient, CUDA, `use_triton`): Triton.
    - `scan` (no gradient otherwise): PyTorch.

    Args:
        device_type: `tensor.device.type` of the potentials.
        training: Whether a gradient with respect to the potentials may be asked for.
        use_triton: Whether Triton may run; it can only on CUDA, PyTorch serves other devices.
        validate: Whether to trade speed for float64.
        use_compile: Whether training takes the operators made for torch.compile.
        has_triton: Whether the `triton` package is installed.

    Returns:
        The route's name.

    Raises:
        RuntimeError: If the route needs Triton on CUDA and `triton` is not installed.
    """
    if validate:
        return "float64"
    if training and not use_compile:
        return "checkpoint"
    on_triton = use_triton and device_type == "cuda"
    if on_triton and not has_triton:
        raise RuntimeError(
            "use_triton=True on a CUDA tensor needs the package triton, which is not installed; "
            "install it or pass use_triton=False"
        )
    if training:
        return "compiled"
    return "kernel" if on_triton else "scan"
