"""`hf_semicrf.torchcrf.CRF` against enumeration, and beside pytorch-crf."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from hf_semicrf.torchcrf import CRF

REDUCTIONS = ("none", "sum", "mean", "token_mean")
LENGTHS = torch.tensor([4, 1, 3])
WEIGHT = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)


def batch(crf, seed=0, device="cpu", dtype=torch.float64, scores=torch.randn):
    """Emissions, tags and mask in the layout of `crf`, whose parameters are drawn anew."""
    torch.manual_seed(seed)
    for parameter in crf.parameters():
        parameter.data = scores(parameter.shape).to(device, dtype)
    emissions = scores(3, 4, crf.num_tags)
    tags = torch.randint(crf.num_tags, (3, 4))
    mask = torch.arange(4) < LENGTHS[:, None]
    if not crf.batch_first:
        emissions, tags, mask = (x.transpose(0, 1) for x in (emissions, tags, mask))
    emissions = emissions.to(device, dtype).detach().requires_grad_()
    return emissions, tags.to(device), mask.to(device)


def integers(*shape):
    """Scores with many ties."""
    return torch.randint(3, shape[0] if isinstance(shape[0], tuple) else shape).float()


def sequences(crf, emission):
    """Every tag sequence of a sentence [Y, N] and its score [Y], float64."""
    positions, types = emission.shape
    every = torch.cartesian_prod(*[torch.arange(types)] * positions).reshape(-1, positions)
    start, end, step = (x.double() for x in crf.parameters())
    score = start[every[:, 0]] + end[every[:, -1]]
    score = score + emission.double()[torch.arange(positions), every].sum(1)
    return every, score + step[every[:, :-1], every[:, 1:]].sum(1)


def by_enumeration(crf, emissions, tags):
    """Log-likelihood [B] and best tags of the sentences of `batch`."""
    llh, best = [], []
    if not crf.batch_first:
        emissions, tags = emissions.transpose(0, 1), tags.mT
    for emission, gold, n in zip(emissions, tags, LENGTHS, strict=True):
        every, score = sequences(crf, emission[:n])
        is_gold = (every == gold[:n]).all(1)
        llh.append(score[is_gold].squeeze(0) - score.logsumexp(0))
        best.append(every[score.argmax()].tolist())
    return torch.stack(llh), best


def gradients(crf, emissions, loss):
    return torch.autograd.grad(loss, [emissions, *crf.parameters()])


@pytest.mark.parametrize("batch_first", [False, True])
def test_values_gradients_and_paths_are_those_of_an_enumeration(batch_first, device):
    crf = CRF(3, batch_first)
    emissions, tags, mask = batch(crf)
    llh, best = by_enumeration(crf, emissions, tags)
    expected = gradients(crf, emissions, llh @ WEIGHT)
    crf = crf.to(device)
    emissions, tags, mask = batch(crf, device=device)
    found = crf(emissions, tags, mask, reduction="none")
    assert_close(found.cpu(), llh)
    for x, y in zip(gradients(crf, emissions, found @ WEIGHT.to(device)), expected, strict=True):
        assert_close(x.cpu(), y)
    assert crf.decode(emissions, mask) == best


def test_reductions():
    crf = CRF(3)
    emissions, tags, mask = batch(crf)
    llh = crf(emissions, tags, mask, reduction="none")
    assert_close(crf(emissions, tags, mask), llh.sum())
    assert_close(crf(emissions, tags, mask, "mean"), llh.sum() / 3)
    assert_close(crf(emissions, tags, mask, "token_mean"), llh.sum() / 8)


def test_no_mask_means_all():
    crf = CRF(3)
    emissions, tags, _ = batch(crf)
    everything = torch.ones_like(tags)
    for dtype in (torch.bool, torch.uint8, torch.long):
        assert_close(crf(emissions, tags), crf(emissions, tags, everything.to(dtype)))
    assert crf.decode(emissions) == crf.decode(emissions, everything)


def test_what_the_mask_leaves_out_is_not_read(device):
    crf = CRF(3, batch_first=True).to(device)
    emissions, tags, mask = batch(crf, device=device)
    llh, best = crf(emissions, tags, mask), crf.decode(emissions, mask)
    with torch.no_grad():
        emissions[~mask] = torch.nan
    tags[~mask] = -100
    assert_close(crf(emissions, tags, mask), llh)
    assert crf.decode(emissions, mask) == best


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_result_is_rounded_once(dtype, device):
    crf = CRF(3).to(device)
    emissions, tags, mask = batch(crf, device=device, dtype=dtype)
    exact, _ = by_enumeration(crf.cpu(), emissions.cpu(), tags.cpu())
    found = crf.to(device)(emissions, tags, mask, reduction="none")
    assert found.dtype == dtype
    error = (found.cpu().double() - exact).abs()
    assert (error <= torch.finfo(dtype).eps * (exact.abs() + 10)).all()


def test_errors(device):
    crf = CRF(3, batch_first=True).to(device)
    emissions, tags, mask = batch(crf, device=device)
    holes, late = mask.clone(), mask.clone()
    holes[0, 1], late[2, 0] = False, False
    refused = {
        r"emissions must have dimension of 3, got 2": (emissions[0], tags, mask),
        r"last dimension of emissions is 3, got 2": (emissions[..., :2], tags, mask),
        r"emissions and tags must match, got \(3, 4\) and \(3, 2\)": (emissions, tags[:, :2], mask),
        r"emissions and mask must match, got \(3, 4\) and \(1, 4\)": (emissions, tags, mask[:1]),
        r"mask of the first timestep must all be on": (emissions, tags, late),
        r"got a mask with holes": (emissions, tags, holes),
        r"invalid reduction: median": (emissions, tags, mask, "median"),
    }
    for message, (scores, *others) in refused.items():
        with pytest.raises(ValueError, match=message):
            crf(scores, *others)
        if "tags" not in message and "reduction" not in message:
            with pytest.raises(ValueError, match=message):
                crf.decode(scores, others[1])
    with pytest.raises(ValueError, match="invalid number of tags: 0"):
        CRF(0)


@pytest.mark.gpu
def test_long_sentences_on_the_gpu_without_waiting():
    torch.manual_seed(0)
    crf = CRF(9, batch_first=True)
    emissions, tags = torch.randn(32, 512, 9), torch.randint(9, (32, 512))
    mask = torch.arange(512) < torch.randint(1, 513, (32, 1))
    results = []
    for device, dtype in (("cpu", torch.float64), ("cuda", torch.float32)):
        crf = crf.to(device, dtype)
        scores = emissions.to(device, dtype).requires_grad_()
        gold, on = tags.to(device), mask.to(device)
        llh = crf(scores, gold, on, "none")
        found = llh, *gradients(crf, scores, llh.sum())
        results.append(([x.double().cpu() for x in found], crf.decode(scores, on)))
    (exact, path), (found, path_found) = results
    assert path == path_found
    for x, y in zip(found, exact, strict=True):
        assert_close(x, y, rtol=1e-5, atol=1e-5 * y.abs().max().item())
    torch.cuda.set_sync_debug_mode("error")
    try:
        gradients(crf, scores, crf(scores, gold, reduction="token_mean"))
    finally:
        torch.cuda.set_sync_debug_mode("default")


class TestBesidePytorchCRF:
    """The package itself: values, gradients, paths, ties, dtypes, weights."""

    @pytest.fixture
    def theirs(self):
        return pytest.importorskip("torchcrf").CRF

    @pytest.mark.filterwarnings("ignore:where received a uint8 condition")
    @pytest.mark.parametrize("reduction", REDUCTIONS)
    @pytest.mark.parametrize("batch_first", [False, True])
    def test_values_and_gradients(self, theirs, batch_first, reduction):
        pair = theirs(4, batch_first), CRF(4, batch_first)
        for seed, masked in ((0, True), (1, False)):
            results = []
            for crf in pair:
                emissions, tags, mask = batch(crf, seed)
                llh = crf(emissions, tags, mask if masked else None, reduction)
                total = llh.sum()
                results.append((llh, *gradients(crf, emissions, total)))
            assert_close(*results)

    @pytest.mark.parametrize("scores", [torch.randn, integers])
    def test_paths(self, theirs, scores):
        pair = theirs(4), CRF(4)
        for seed in range(20):
            first, second = (
                crf.decode(emissions, mask)
                for crf in pair
                for emissions, _, mask in [batch(crf, seed, scores=scores)]
            )
            assert first == second

    @pytest.mark.parametrize("narrow", [torch.float16, torch.bfloat16, torch.float64])
    def test_dtypes(self, theirs, narrow):
        for dtype in (narrow, torch.float32):  # of the parameters, then of the emissions alone
            for reduction in REDUCTIONS:
                results = []
                for crf in (theirs(4), CRF(4)):
                    emissions, tags, mask = batch(crf, dtype=dtype)
                    results.append(crf(emissions.to(narrow), tags, mask, reduction))
                assert results[0].dtype == results[1].dtype
                assert_close(*results, rtol=0.02, atol=0.02)

    def test_weights_and_their_first_values(self, theirs):
        pair = []
        for crf_class in (theirs, CRF):
            torch.manual_seed(5)
            pair.append(crf_class(4))
        assert repr(pair[0]) == repr(pair[1])
        assert_close(pair[0].state_dict(), pair[1].state_dict(), rtol=0, atol=0)
        pair[0].load_state_dict(pair[1].state_dict())


def test_the_page():
    page = (Path(__file__).parent.parent / "docs" / "pytorch_crf.md").read_text()
    (block,) = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    space: dict = {}
    exec(compile(block, "pytorch_crf.md", "exec"), space)
    assert space["loss"] > 0 and [len(path) for path in space["paths"]] == [7, 4]
