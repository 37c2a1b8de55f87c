"""What the kernels around the recurrences must do, on any device: run by test_kernels."""

from __future__ import annotations

import sys
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import product
from unittest import mock

import torch
from cases import random_potentials, to_device
from tolerances import FLOAT64
from torch import Tensor
from torch.testing import assert_close
from transformers import BertConfig, BertModel

from hf_semicrf import SemiCRFConfig, SemiCRFForTokenClassification, ops
from hf_semicrf.head import SemiCRFOutput
from hf_semicrf.labels import LabelScheme
from hf_semicrf.model.tag_logits import tag_logits
from hf_semicrf.ops import packing, posteriors, segmentations
from hf_semicrf.ops.kernels import lattice as lattice_kernels
from hf_semicrf.ops.kernels import pack
from hf_semicrf.text import Lattice, word_starts

ROWS = [[0, 1, 1, 0, 1, 0, 0], [0] * 7, [1] * 7, [1, 0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 1, 0]]
BILOU = ["O", "B-X", "I-X", "L-X", "U-X", "B-Y", "I-Y", "L-Y", "U-Y"]
SCHEMES = [
    ["O", "B-X", "I-X", "B-Y", "I-Y"],
    ["I-X", "O", "B-Y", "I-Y", "B-X", "B-Z"],
    ["O", "I-X", "B-Y", "I-Y"],
    BILOU,
    ["O", "S-X", "B-X", "I-X", "E-X"],
    ["X", "O", "Y"],
]


@contextmanager
def kernels(on: bool):
    """All that chooses by device runs kernels, or PyTorch."""

    def choose(backend, device):
        return "triton" if on else "torch"

    def module(name, device, backend="auto"):
        return ops.registry.kernels(name) if on else None

    with ExitStack() as stack:
        for full_name, room in list(sys.modules.items()):
            if full_name.startswith("hf_semicrf"):
                for name, function in (("resolve_backend", choose), ("kernels_for", module)):
                    if hasattr(room, name):
                        stack.enter_context(mock.patch.object(room, name, function))
        yield


def both(function):
    """A function's result by PyTorch and by kernels."""
    results = []
    for on in (False, True):
        with kernels(on):
            results.append(function())
    return results


def marks(device: str) -> Tensor:
    return torch.tensor(ROWS, dtype=torch.bool, device=device)


def words_are_found(device: str) -> None:
    """By masks of any dtype, by labels and by tokens, in one block or several."""
    mask = marks(device)
    labels = torch.where(mask, torch.arange(7, device=device), -100)
    table = torch.tensor([0, 1, 2, 2, 1], dtype=torch.int8, device=device)
    ids = torch.randint(0, 5, (5, 7), generator=torch.Generator().manual_seed(0)).to(device)
    attention = torch.ones_like(ids)
    attention[1, 4:] = attention[2, :3] = 0
    for block in (16, 4):
        with mock.patch.object(lattice_kernels, "BLOCK", block):
            for given in (mask, mask.long(), mask.float(), mask.t().contiguous().t()):
                expected, found = both(lambda given=given: Lattice.of(given))
                for x, y in zip(expected, found, strict=True):
                    assert torch.equal(x, y) and x.dtype == y.dtype
            expected, found = both(lambda: Lattice.of(labels, -100))
            assert all(torch.equal(x, y) for x, y in zip(expected, found, strict=True))
            for given in (None, attention, attention.bool()):
                expected, found = both(lambda given=given: Lattice.of_tokens(table, ids, given))
                assert torch.equal(expected.mask, word_starts(table, ids, given))
                assert all(torch.equal(x, y) for x, y in zip(expected, found, strict=True))


def words_are_read(device: str) -> None:
    """States of words and back, in another dtype too."""
    lattice = Lattice.of(marks(device))
    states = torch.randn(5, 7, 3, generator=torch.Generator().manual_seed(1)).to(device)

    def run(dtype, target):
        given = states.to(dtype).requires_grad_()
        out = lattice.gather(given, target)
        weight = torch.arange(out.numel(), device=device).reshape(out.shape)
        return out.detach(), *torch.autograd.grad((out * weight).sum(), given)

    for dtype, target in product((torch.bfloat16, torch.float64), (None, torch.float32)):
        expected, found = both(lambda dtype=dtype, target=target: run(dtype, target))
        for x, y in zip(expected, found, strict=True):
            assert torch.equal(x, y) and x.dtype == y.dtype
    expected, found = both(lambda: lattice.scatter(states[..., 0]))
    assert torch.equal(expected, found)


def tags_are_read(device: str) -> None:
    """Every scheme's tags, unknown ones and long segments among them."""
    generator = torch.Generator().manual_seed(2)
    mask = torch.rand(8, 9, generator=generator).to(device) < 0.8
    mask[0] = False
    lattice = Lattice.of(mask)
    for labels, longest, block in product(SCHEMES, (1, 2, 8), (16, 4)):
        scheme = LabelScheme.from_labels(labels)
        config = SemiCRFConfig(BertConfig(), labels=labels, max_segment_length=longest)
        few = torch.randint(0, 3, (8, 9), generator=generator)
        tags = torch.randint(-1, len(labels), (8, 9), generator=generator)
        tags[::2] = few[::2]
        tags = tags.to(device)
        model = mock.Mock(config=config)
        targets = SemiCRFForTokenClassification._targets
        with mock.patch.object(lattice_kernels, "BLOCK", block):
            read = partial(targets, model, tags, None, lattice, False)
            expected, found = both(lambda read=read: read()[:2])
        assert scheme == config.scheme
        for x, y in zip(expected, found, strict=True):
            assert torch.equal(x, y) and x.dtype == y.dtype


def potentials_are_packed(device: str) -> None:
    """Values and gradients of views in any dtype, with a temperature and what is forbidden."""
    base = to_device(random_potentials([6, 4], 3, 3, 6, ("emission", "segment", "start", "end")),
                     device)  # fmt: skip
    flags = torch.zeros((3 + 3 + 2) * 3, dtype=torch.bool, device=device)
    flags[[3, 6, 10, 20]] = True
    sides = torch.cat([base.emission, base.start, base.end], -1)
    for dtype, temperature, forbidden in product(
        (torch.bfloat16, torch.float32, torch.float64), (1.0, 1.3), (None, flags)
    ):
        leaves = [x.to(dtype).requires_grad_() for x in (sides, *base[4:8])]
        leaves.append(base.segment.float().requires_grad_())

        def run(leaves=leaves, temperature=temperature, forbidden=forbidden):
            sides, *shared, segment = leaves
            emission, start, end = sides.chunk(3, -1)
            p = ops.Potentials(emission, segment, start, end, *shared, base.lengths)
            out = ops.packed(p, temperature, forbidden)
            total = sum((x.masked_fill(x == -torch.inf, 0) * (x.detach() + 1).nan_to_num()).sum()
                        for x in out[:-1])  # fmt: skip
            return [x.detach() for x in out[:-1]] + list(torch.autograd.grad(total, leaves))

        expected, found = both(run)
        for n, (x, y) in enumerate(zip(expected, found, strict=True)):
            assert x.dtype == y.dtype and (n > 7 or y.is_contiguous())
            rtol = (
                1e-2 if x.dtype == torch.bfloat16 else 1e-6 if x.dtype == torch.float32 else 1e-14
            )
            assert_close(y, x, rtol=rtol, atol=rtol)


def posteriors_are_read(device: str) -> None:
    """Marginals within 0..1, and those of one segmentation's segments."""
    p = to_device(random_potentials([6, 4, 1], 3, 3, 8, ("emission", "start")), device)
    _, labels, starts = ops.viterbi(p, backend="torch")
    expected, found = both(lambda: posteriors.marginals(p, segment=True))
    for x, y in zip(expected, found, strict=True):
        assert_close(y, x, **FLOAT64)
    values = expected.segment
    for length_labels, length_starts in ((labels, starts), (labels.clamp(max=0), starts | True)):
        inside = torch.arange(8, device=device) < p.lengths[:, None]
        pair = length_labels, length_starts & inside
        expected, found = both(
            lambda pair=pair: segmentations.at_segments(values, *pair, p.lengths)
        )
        assert torch.equal(expected, found)
    x = torch.tensor([[[-0.1, 0.5, 1.1, torch.nan]]], device=device)
    copies = [x.clone() for _ in range(3)]
    pack.clamp_(*copies, x[:, :, None].clone())
    assert all(torch.equal(y.nan_to_num(9), x.clamp(0, 1).nan_to_num(9)) for y in copies)


def losses_are_averaged(device: str) -> None:
    nll = torch.tensor([1.5, torch.inf, 2.0], device=device)
    words = torch.tensor([3, 0, 2], device=device)
    counts = (None, 7, 0, 2.5, torch.tensor(4, device=device), torch.tensor(0), torch.tensor(3.5))
    for count, given in product(counts, (words, words * 0)):

        def run(count=count, given=given):
            leaf = nll.clone().requires_grad_()
            loss = packing.mean_loss(leaf, given, count)
            return loss.detach(), *torch.autograd.grad(loss * 3, leaf)

        expected, found = both(run)
        for x, y in zip(expected, found, strict=True):
            assert_close(y, x, rtol=1e-6, atol=0)


def tags_are_written(device: str) -> None:
    """Log posteriors of every scheme's tags, and of decoded segmentations of any kind."""
    generator = torch.Generator().manual_seed(3)
    mask = torch.rand(6, 9, generator=generator) < 0.6
    mask[0], mask[1] = False, True
    lattice = Lattice.of(mask.to(device))
    for labels in SCHEMES:
        scheme = LabelScheme.from_labels(labels)
        types = len(scheme.types)
        p = random_potentials([1, 9, *lattice.positions[2:].tolist()], 3, types, 9, seed=4)
        p = to_device(p._replace(lengths=lattice.positions.cpu()), device)
        marginals = ops.marginals(p, segment=True, backend="torch")
        _, found_labels, starts = ops.viterbi(p, backend="torch")
        for dtype in (torch.float64, torch.float32):
            head = SemiCRFOutput(
                labels=found_labels,
                starts=starts,
                marginals=ops.Marginals(*(x.to(dtype) for x in marginals)),
            )
            expected, found = both(partial(tag_logits, scheme, head, lattice))
            assert_close(found, expected, rtol=1e-5, atol=1e-5)
            assert found.dtype == dtype and torch.equal(found.argmax(-1), expected.argmax(-1))
            if dtype == torch.float64:
                assert_close(found, expected, rtol=1e-6, atol=1e-9)


def models_are_the_same(device: str) -> None:
    """Loss, gradients, decoding, posteriors and logits of whole models."""
    encoder = BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=8, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    ids = torch.randint(1, 20, (3, 8), generator=torch.Generator().manual_seed(5)).to(device)
    labels = torch.tensor(
        [[-100, 1, 2, -100, 0, 3, -100, -100], [-100] * 8, [0, 3, 4, 4, 4, 4, 1, 0]]
    )
    labels = labels.to(device)
    for settings in (
        {"scorer": "boundary"},
        {"scorer": "sum", "head_temperature": 1.7, "threshold": None},
        {"constraints": {"lengths": {"X": [1, 1]}, "final": ["O", "Y"]}},
    ):
        torch.manual_seed(6)
        options = {"labels": SCHEMES[0], "max_segment_length": 3, "head_dropout": 0.0} | settings
        model = SemiCRFForTokenClassification(SemiCRFConfig(encoder, **options), BertModel(encoder))
        model = model.double().to(device).eval()
        model._looked_at_labels = True
        if "constraints" in settings:
            given = labels.masked_fill(labels == 2, 1)
            given[2] = 0
        else:
            given = labels

        def run(model=model, given=given):
            model.zero_grad()
            out = model(input_ids=ids, labels=given, output_segment_posteriors=True)
            out.loss.backward()
            grads = {n: x.grad for n, x in model.named_parameters() if x.grad is not None}
            # as probabilities: the logarithm of what cancels has no digits
            return out.loss.detach(), out.logits.exp(), out.segment_posteriors, grads

        with mock.patch.object(lattice_kernels, "BLOCK", 16):
            expected, found = both(run)
        for x, y in zip(expected[:3], found[:3], strict=True):
            assert_close(y, x, rtol=1e-8, atol=1e-9)
        assert expected[3].keys() == found[3].keys()
        for name, x in expected[3].items():
            assert_close(found[3][name], x, rtol=1e-8, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


CHECKS = {
    check.__name__.replace("_", " "): check
    for check in (
        words_are_found,
        words_are_read,
        tags_are_read,
        potentials_are_packed,
        posteriors_are_read,
        losses_are_averaged,
        tags_are_written,
        models_are_the_same,
    )
}
