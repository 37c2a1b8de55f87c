"""The families of `families.py`, a few cases each; `make fuzz` runs them for half an hour."""

from __future__ import annotations

import pytest
import torch
from families import FAMILIES, LOWEST, Checked, compiled
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_semicrf import ops
from hf_semicrf.ops import Potentials


@pytest.mark.parametrize("name", FAMILIES)
@settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(random=st.randoms(use_true_random=False))
def test_a_family(name, random):
    FAMILIES[name](random)


def five_words(seed: int = 0) -> Potentials:
    """Normal scores of five words, segments of up to three and three types."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*size):
        return torch.randn(*size, generator=generator)

    return Potentials(
        emission=normal(2, 5, 3),
        start=normal(2, 5, 3),
        end=normal(2, 5, 3),
        duration=normal(3, 3),
        transition=normal(3, 3),
        initial=normal(3),
        final=normal(3),
        lengths=torch.tensor([5, 4]),
    )


# what is done to a score, and whether it may be refused
LARGE = {
    "a mask at one word": ("emission", lambda x: x[:, 2].fill_(-1e9), False),
    "the lowest float32 at one word": ("emission", lambda x: x[:, 2].fill_(LOWEST), False),
    "the lowest float32 for one type": ("emission", lambda x: x[..., 1].fill_(LOWEST), False),
    "a constant everywhere": ("emission", lambda x: x.add_(1e6), False),
    "a large constant everywhere": ("emission", lambda x: x.add_(1e12), False),
    "wide scores": ("emission", lambda x: x.mul_(4e3), False),
    "long durations": ("duration", lambda x: x.mul_(1e6), False),
    "no end at one word": ("end", lambda x: x[:, 1].fill_(-1e9), False),
    "no end at one word, at all": ("end", lambda x: x[:, 1].fill_(LOWEST), False),
    "a mask on transitions": ("transition", lambda x: x[0, 1].fill_(LOWEST), False),
    "the first type": ("initial", lambda x: x.sub_(1e30), False),
    "two that cancel": ("start", lambda x: x[:, 0].fill_(1e30), True),
    "all durations": ("duration", lambda x: x.sub_(1e12), True),
}


@pytest.mark.parametrize("name", LARGE)
def test_large_scores_give_the_numbers_of_an_enumeration(name):
    field, change, refused = LARGE[name]
    p = five_words()
    change(getattr(p, field))
    checked = Checked(p)
    checked.run()
    # an edge adds up several scores, and float32 does not hold the loss of every segmentation
    assert bool(set(checked.refused) - {"dense", "loss"}) == refused
    if refused:
        with pytest.raises(ops.ScoreError, match=rf"can tell apart, .* in {field}, of sentences"):
            ops.log_partition(p)
        with compiled():
            assert ops.log_partition(p).isnan().all()
            labels = ops.viterbi(p)[1]
        assert (labels == -1).all()


def test_a_sum_that_float32_cannot_hold_is_refused():
    p = five_words()
    p.emission[:] = LOWEST
    with pytest.raises(ops.ScoreError, match="in emission, of sentences"):
        ops.log_partition(p)
    assert ops.marginals(p).token.sum(-1)[0].allclose(torch.ones(5))


def test_gradients_of_a_sentence_that_is_left_out_stay_finite():
    """NaN in one sentence does not reach what the others share, where its weight is 0."""
    p = five_words()
    p.emission[0, 1, 1] = torch.nan
    p.transition.requires_grad_()
    with compiled():
        log_z = ops.log_partition(p)
        assert log_z.isnan().tolist() == [True, False]
        log_z[1].backward()
    assert p.transition.grad.isfinite().all()


@pytest.mark.parametrize("edge", [False, True])
def test_a_sentence_with_nan_is_nan_in_compiled_code(edge):
    def log_z(p):
        if edge:
            return ops.semi_crf_triton_forward(ops.to_edge(p), p.lengths + 1)
        return ops.log_partition(p)

    p = five_words()
    torch.compiler.reset()
    function = torch.compile(log_z, backend="eager", fullgraph=True)
    assert torch.equal(function(p), log_z(p))
    p.start[1, 3, 2] = torch.inf
    assert function(p).isnan().tolist() == [False, True]
    torch.compiler.reset()
