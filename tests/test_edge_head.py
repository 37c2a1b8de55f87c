"""The head on dense edge potentials is the head on factored ones."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tolerances import FLOAT64

from hf_semicrf import HeadSettings, SemiCRF, ops


@pytest.fixture
def heads():
    torch.manual_seed(0)
    settings = HeadSettings(max_segment_length=3, head_dropout=0.0)
    factored = SemiCRF(16, 4, settings)
    for parameter in factored.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    dense = SemiCRF(16, 4, replace(settings, potentials="edge"))
    dense.load_state_dict(factored.state_dict())
    return factored.double(), dense.double()


def test_loss_gradients_decoding_and_marginals_are_equal(heads):
    hidden, lengths = torch.randn(3, 7, 16, dtype=torch.float64), torch.tensor([7, 4, 1])
    labels = torch.tensor([[0, 2, 2, 2, 1, 0, 3], [1, 1, 0, 3, -1, -1, -1], [2] + [-1] * 6])
    starts = torch.tensor([[1, 1, 0, 0, 1, 1, 1], [1, 0, 1, 1, 0, 0, 0], [1] + [0] * 6]).bool()
    results = []
    for head in heads:
        output = head(hidden, lengths, labels, starts, decode=True, segment_marginals=True)
        output.nll.sum().backward()
        results.append(output)
    factored, dense = results
    torch.testing.assert_close(dense.nll, factored.nll, **FLOAT64)
    assert torch.equal(dense.labels, factored.labels)
    assert torch.equal(dense.starts, factored.starts)
    torch.testing.assert_close(dense.segment_posteriors, factored.segment_posteriors, **FLOAT64)
    for one, other in zip(dense.marginals, factored.marginals, strict=True):
        torch.testing.assert_close(one, other, **FLOAT64)
    for (name, one), other in zip(heads[1].named_parameters(), heads[0].parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, **FLOAT64, msg=name)


def test_a_tensor_that_cannot_fit_is_refused_with_its_size(heads):
    hidden = torch.zeros(1, 1, 16).expand(1 << 20, 4000, 16)
    p = ops.Potentials(
        emission=hidden[..., :4],
        duration=torch.zeros(3, 4),
        transition=torch.zeros(4, 4),
        initial=torch.zeros(4),
        final=torch.zeros(4),
        lengths=torch.ones(1 << 20, dtype=torch.long),
    )
    needed = (1 << 20) * 4000 * 4 * 4 * 4 * 4
    with pytest.raises(MemoryError, match=f"needs {needed:,} bytes, and cpu has"):
        ops.to_edge(p)
