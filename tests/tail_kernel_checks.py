"""What the kernel of potentials with a tail must do, on any device: run by kernel_checks."""

from __future__ import annotations

import torch
from cases import random_potentials, to_device
from tolerances import FLOAT64, LOG_Z_FLOAT32
from torch import Tensor
from torch.library import opcheck
from torch.testing import assert_close

from hf_semicrf import ops
from hf_semicrf.ops import TailedPotentials
from hf_semicrf.ops.host import tailed

# lengths, where the tail begins, its order, given scores, and what all scores are multiplied by
SHAPES = {
    "geometric": ([7, 3], 2, 1, ("emission", "start", "end"), 1),
    "third order": ([6, 4], 3, 3, ("emission", "end"), 1),
    "begins at one": ([5], 1, 2, ("start",), 1),
    "longer than the text": ([3], 5, 1, ("emission",), 1),
    "large scores": ([7, 3], 2, 2, ("emission", "start", "end"), 200),
}


def potentials(name: str, device: str) -> TailedPotentials:
    lengths, longest, order, given, scale = SHAPES[name]
    body = random_potentials(lengths, longest, 3, max(lengths) + 1, given, seed=order)
    enter, stay = torch.tensor([[-1.0, -torch.inf, 0.5], [-0.1, 0.2, -2.0]], dtype=torch.float64)
    body.duration[0, 2] = body.transition[1, 0] = -torch.inf
    p = TailedPotentials(body, enter, stay, order).map(lambda x: x * scale)
    return TailedPotentials(to_device(p.body, device), *(x.to(device) for x in p[1:3]), order)


def results(p: TailedPotentials, backend: str) -> dict[str, Tensor]:
    """Everything that a back end computes, by name."""
    p = p.map(lambda x: x.detach().clone().requires_grad_())
    labels, starts = ops.best_segmentation(p, backend)
    nll = ops.negative_log_likelihood(p, labels.clamp(min=0), starts, backend)
    weight = -torch.arange(1.0, len(nll) + 1, device=nll.device, dtype=nll.dtype)
    names, scores = zip(*p.scores().items(), strict=True)
    gradient = torch.autograd.grad(nll @ weight, scores)
    found = {f"gradient of {name}": x for name, x in zip(names, gradient, strict=True)}
    with torch.no_grad():
        token, start, end, _ = ops.marginals(p, backend=backend)
        posterior = ops.decoded_posteriors(p, labels, starts, backend)
    return found | {
        "nll": nll.detach(), "labels": labels, "starts": starts, "token": token, "start": start,
        "end": end, "posterior": posterior,
    }  # fmt: skip


def agrees(name: str, device: str) -> None:
    """In float64 everything is PyTorch's."""
    p = potentials(name, device)
    found = results(p, "triton")
    for key, x in results(p, "torch").items():
        assert_close(found[key], x, **FLOAT64, msg=lambda m, key=key: f"{key}: {m}")


def scans_again_where_weights_run_out(device: str) -> None:
    """A state that falls below what float64 holds and is the only one in the end."""
    body = random_potentials([12], 1, 2, given=("emission", "start"), seed=3, scale=0.1)
    body.emission[0, :, 1] -= 90.0
    body.emission[0, 11, 0] = -torch.inf  # the last position lies in type 1,
    body.start[0, 1:, 1] = -torch.inf  # which begins at the first
    tail = torch.tensor([[-torch.inf, -1.0], [-torch.inf, -0.1]], dtype=torch.float64)
    p = TailedPotentials(to_device(body, device), *tail.to(device))
    expected, found = (ops.log_partition(p, backend=x) for x in ("torch", "triton"))
    assert expected.isfinite().all()
    assert_close(found, expected, **FLOAT64)
    narrow = p.map(Tensor.float)
    assert_close(ops.log_partition(narrow, backend="triton").double(), expected, **LOG_Z_FLOAT32)


def knows_no_number(device: str) -> None:
    """NaN and +inf in one sentence are NaN for it alone."""
    for value in (torch.nan, torch.inf):
        p = potentials("geometric", device)
        p.body.emission[0, 1, 1] = value
        log_z = tailed.log_partition(p, "triton")
        assert log_z[0].isnan() and log_z[1].isfinite()
        labels, starts = tailed.best(p, "triton")
        assert (labels[0] == -1).all() and not starts[0].any() and (labels[1, :3] >= 0).all()


def traces(device: str) -> None:
    """The custom ops are opaque to torch.compile."""
    p = potentials("longer than the text", device)
    inputs = (*p.body, p.enter, p.stay, p.order, "triton")
    utilities = ("test_schema", "test_faketensor")
    opcheck(tailed.tail_scanned, inputs, test_utils=utilities)
    opcheck(tailed.tail_best, inputs, test_utils=utilities)


CHECKS = {f"tails agree: {name}": (agrees, name) for name in SHAPES}
CHECKS |= {
    f"tail {f.__name__}": (f,) for f in (scans_again_where_weights_run_out, knows_no_number, traces)
}
