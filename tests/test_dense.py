"""The dense contract in PyTorch against the enumeration of every tiling."""

from __future__ import annotations

import dense_oracle as oracle
import pytest
import torch

from hf_semicrf.ops import (
    dense_route,
    edge_marginals,
    edge_viterbi,
    linear_scan_streaming,
    semi_crf_triton_forward,
)
from hf_semicrf.ops.dense.operators import dense_path, dense_scan, dense_scan_gradient

SEMIRINGS = ("log", "max")
PATHS = ({}, {"use_compile": False}, {"use_triton": False}, {"validate": True})
# The output is rounded to its dtype once: a few units in the last place of scores up to 32.
TOLERANCE = {
    torch.float64: 1e-12,
    torch.float32: 1e-5,
    torch.float16: 3e-2,
    torch.bfloat16: 3e-1,
}
GRADIENT_TOLERANCE = {
    torch.float64: 1e-12,
    torch.float32: 1e-5,
    torch.float16: 1e-3,
    torch.bfloat16: 1e-2,
}


def case(boundaries, size, types, dtype=torch.float64, seed=0):
    """Edges that are NaN where no tiling uses them, lengths, and which are used."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([boundaries, max(1, boundaries - 1), 1 + boundaries // 2])
    shape = (3, boundaries - 1, size, types, types)
    edge = torch.randn(shape, generator=generator, dtype=torch.float64).mul(2).to(dtype)
    used = oracle.used(edge, lengths)
    return edge.masked_fill(~used, torch.nan), lengths, used


def gradient(function, edge):
    edge = edge.detach().clone().requires_grad_()
    out = function(edge)
    weight = torch.arange(1, len(out) + 1, dtype=out.dtype)
    return out.detach(), torch.autograd.grad((out * weight).sum(), edge)[0]


@pytest.mark.parametrize("semiring", SEMIRINGS)
@pytest.mark.parametrize("size", range(1, 7))
@pytest.mark.parametrize("types", range(1, 4))
def test_every_path_equals_the_enumeration(semiring, size, types):
    for boundaries in range(1, 8):
        edge, lengths, used = case(boundaries, size, types)
        expected = oracle.total(edge, lengths, semiring)
        if boundaries > 1:
            _, slope = gradient(lambda e: oracle.total(e, lengths, semiring), edge)  # noqa: B023
        for path in PATHS:
            got, marginal = gradient(
                lambda e: semi_crf_triton_forward(e, lengths, semiring=semiring, **path),  # noqa: B023
                edge,
            )
            torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
            assert (marginal[~used] == 0).all()
            if boundaries > 1:
                torch.testing.assert_close(marginal[used], slope[used], rtol=0, atol=1e-12)
            duration = torch.arange(size) if size > 1 else torch.ones(1)
            covered = (marginal.sum((1, 3, 4)) * duration).sum(1) / torch.arange(1, 4)
            torch.testing.assert_close(covered, lengths.double() - 1, rtol=0, atol=1e-10)


@pytest.mark.parametrize("semiring", SEMIRINGS)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_every_dtype(semiring, dtype):
    for boundaries in range(1, 8):
        edge, lengths, used = case(boundaries, 4, 3, dtype, seed=boundaries)
        expected = oracle.total(edge, lengths, semiring)
        reference = case(boundaries, 4, 3, torch.float64, seed=boundaries)[0]
        reference = torch.where(used, edge.double(), reference)
        for path in PATHS:

            def run(e, path=path, lengths=lengths):
                return semi_crf_triton_forward(e, lengths, semiring=semiring, **path)

            got, slope = gradient(run, edge)
            assert got.dtype == slope.dtype == dtype
            error = (got.double() - expected).abs().max()
            assert error <= TOLERANCE[dtype]
            _, exact = gradient(run, reference)
            if boundaries > 1:
                error = (slope.double() - exact).abs().max()
                assert error <= 3 * GRADIENT_TOLERANCE[dtype]  # 3: the largest weight
            assert (slope[~used] == 0).all()


@pytest.mark.parametrize("semiring", SEMIRINGS)
def test_forbidden_edges(semiring):
    edge, lengths, used = case(6, 4, 2)
    edge[:, :, 1] = torch.where(used[:, :, 1], -torch.inf, torch.nan)  # no length 1
    edge[:, :, 2, 0, 1] = torch.where(used[:, :, 2, 0, 1], -torch.inf, torch.nan)
    lengths = torch.tensor([6, 5, 3])
    for path in PATHS:
        got, slope = gradient(
            lambda e: semi_crf_triton_forward(e, lengths, semiring=semiring, **path),  # noqa: B023
            edge,
        )
        torch.testing.assert_close(got, oracle.total(edge, lengths, semiring))
        assert slope.isfinite().all()
        assert (slope[edge == -torch.inf] == 0).all()
    impossible, slope = gradient(
        lambda e: semi_crf_triton_forward(e, torch.tensor([2, 2, 3]), semiring=semiring), edge
    )
    assert impossible[0] == impossible[1] == -torch.inf
    assert impossible[2].isfinite()
    assert (slope[:2] == 0).all()
    assert slope.isfinite().all()


def test_the_best_path_scores_the_maximum_and_tiles():
    for boundaries in range(1, 8):
        edge, lengths, _ = case(boundaries, 4, 3, seed=7)
        score, labels, starts = edge_viterbi(edge, lengths)
        torch.testing.assert_close(score, oracle.total(edge, lengths, "max"))
        assert labels.shape == starts.shape == edge.shape[:2]
        for b, n in enumerate(lengths.tolist()):
            assert (labels[b, n - 1 :] == -1).all()
            assert not starts[b, n - 1 :].any()
            if n == 1:
                continue
            begin = starts[b].nonzero().flatten().tolist()
            assert begin[0] == 0
            value, source = edge.new_zeros(()), None
            for s, e in zip(begin, [*begin[1:], n - 1], strict=True):
                kind = labels[b, s].item()
                assert (labels[b, s:e] == kind).all()
                row = edge[b, s, e - s, kind]
                value = value + (row.max() if source is None else row[source])
                source = kind
            torch.testing.assert_close(value, score[b])


def test_marginals_are_the_gradient():
    edge, lengths, _ = case(7, 4, 3)
    edge = edge.detach().requires_grad_()
    (slope,) = torch.autograd.grad(semi_crf_triton_forward(edge, lengths).sum(), edge)
    marginals = edge_marginals(edge, lengths)
    torch.testing.assert_close(marginals, slope, rtol=0, atol=1e-14)
    assert not marginals.requires_grad


@pytest.mark.parametrize("semiring", SEMIRINGS)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e30])
def test_a_sequence_that_is_not_told_apart_is_nan_throughout(semiring, value):
    edge, lengths, used = case(7, 4, 3)
    edges = [torch.where(used, edge, 0.0) for _ in range(2)]
    edges[1][1, 2, 1, 0, 1] = value
    (plain, plain_slope), (score, slope) = (
        gradient(lambda e: dense_scan(e, lengths, semiring, False, True)[0], e) for e in edges
    )
    assert score.isnan().tolist() == [False, True, False]
    assert slope[1].isnan().all()
    assert torch.equal(score[::2], plain[::2])
    assert torch.equal(slope[::2], plain_slope[::2])


def test_padding_and_batch_order_change_nothing():
    edge, lengths, _ = case(7, 4, 3)
    score = linear_scan_streaming(edge, lengths)
    order = torch.tensor([2, 0, 1])
    assert torch.equal(linear_scan_streaming(edge[order], lengths[order]), score[order])
    padded = torch.cat([edge, torch.full_like(edge, torch.nan)], dim=1)
    assert torch.equal(linear_scan_streaming(padded, lengths), score)
    assert torch.equal(linear_scan_streaming(edge, lengths.int()), score)


def test_strides_are_free():
    edge, lengths, _ = case(7, 4, 3)
    strided = edge.permute(4, 2, 0, 3, 1).contiguous().permute(2, 4, 1, 3, 0)
    assert not strided.is_contiguous()
    for semiring in SEMIRINGS:
        for path in PATHS:

            def run(e, semiring=semiring, path=path):
                return semi_crf_triton_forward(e, lengths, semiring=semiring, **path)

            for got, expected in zip(gradient(run, strided), gradient(run, edge), strict=True):
                assert torch.equal(got, expected)


def test_float32_keeps_its_precision_over_long_sequences():
    generator = torch.Generator().manual_seed(0)
    edge = torch.randn((1, 3000, 3, 2, 2), generator=generator) + 5
    lengths = torch.tensor([3001])
    exact, slope = gradient(lambda e: linear_scan_streaming(e, lengths), edge.double())
    got, single = gradient(lambda e: linear_scan_streaming(e, lengths), edge)
    assert abs(got - exact) / exact < 1e-6
    torch.testing.assert_close(single.double(), slope, rtol=0, atol=2e-5)


@pytest.mark.parametrize("bad", [0, -1, 8])
@pytest.mark.parametrize("path", PATHS, ids=str)
def test_impossible_lengths_are_refused(bad, path):
    edge, lengths, _ = case(7, 4, 3)
    lengths[1] = bad
    with pytest.raises(ValueError, match=r"lengths in 1\.\.7"):
        semi_crf_triton_forward(edge, lengths, **path)
    with pytest.raises(ValueError, match=r"lengths in 1\.\.7"):
        edge_viterbi(edge, lengths)
    with pytest.raises(ValueError, match=r"lengths in 1\.\.7"):
        edge_marginals(edge, lengths)


def test_arguments_are_checked():
    edge, lengths, _ = case(4, 3, 2)
    with pytest.raises(ValueError, match="semiring must be 'log' or 'max', got 'sum'"):
        semi_crf_triton_forward(edge, lengths, semiring="sum")
    with pytest.raises(ValueError, match="shape"):
        semi_crf_triton_forward(edge[0], lengths)
    with pytest.raises(ValueError, match="shape"):
        semi_crf_triton_forward(edge[..., :1], lengths)
    with pytest.raises(ValueError, match="floating"):
        semi_crf_triton_forward(edge.long(), lengths)
    with pytest.raises(ValueError, match="lengths of shape"):
        semi_crf_triton_forward(edge, lengths[:2])
    with pytest.raises(ValueError, match="integer"):
        semi_crf_triton_forward(edge, lengths.double())


@pytest.mark.parametrize(
    ("arguments", "route"),
    [
        (("cuda", False), "kernel"),
        (("cuda", True), "compiled"),
        (("cpu", False), "scan"),
        (("cpu", True), "compiled"),
    ],
)
def test_routes(arguments, route):
    assert dense_route(*arguments, has_triton=True) == route
    assert dense_route(*arguments, validate=True, has_triton=False) == "float64"
    if arguments[1]:
        assert dense_route(*arguments, use_compile=False, has_triton=False) == "checkpoint"
        assert dense_route(*arguments, use_triton=False, has_triton=False) == "compiled"
    else:
        assert dense_route(*arguments, use_triton=False, has_triton=False) == "scan"
        assert dense_route(*arguments, use_compile=False, has_triton=True) == route


def test_triton_that_is_missing_is_said():
    for training in (False, True):
        with pytest.raises(RuntimeError, match="triton"):
            dense_route("cuda", training, has_triton=False)
        assert dense_route("cpu", training, has_triton=False) in ("scan", "compiled")


def test_what_each_path_keeps_for_the_backward_pass():
    edge, lengths, _ = case(7, 4, 3)
    edge = edge.detach().requires_grad_()
    with torch.no_grad():
        assert semi_crf_triton_forward(edge, lengths).grad_fn is None
    for path, kept in (({}, 3 * 7 * 3), ({"use_compile": False}, 0)):
        log_z = semi_crf_triton_forward(edge, lengths, **path)
        node = log_z.grad_fn  # whose tensors torch 2.11 frees with log_z
        assert node.saved_tensors[-1].numel() == kept
        assert len([f for f, _ in node.next_functions if f is not None]) == 1


@pytest.mark.parametrize("semiring", SEMIRINGS)
def test_gradcheck_and_double_backward(semiring):
    edge, lengths, used = case(5, 3, 2)
    edge = torch.where(used, edge, 0.0).requires_grad_()

    def run(e):
        return semi_crf_triton_forward(e, lengths, semiring=semiring)

    assert torch.autograd.gradcheck(run, (edge,))
    (slope,) = torch.autograd.grad(run(edge).sum(), edge, create_graph=True)
    with pytest.raises(RuntimeError, match="double backward"):
        slope.square().sum().backward()


@pytest.mark.parametrize("semiring", SEMIRINGS)
def test_operators_are_sound(semiring):
    edge, lengths, used = case(5, 3, 2)
    edge = torch.where(used, edge, 0.0)
    leaf = edge.clone().requires_grad_()
    for keep in (False, True):
        torch.library.opcheck(dense_scan, (leaf, lengths, semiring, False, keep))
        beta = dense_scan(edge, lengths, semiring, False, keep)[1]
        scale = torch.ones(3, dtype=edge.dtype)
        torch.library.opcheck(dense_scan_gradient, (edge, lengths, beta, scale, semiring, False))
    torch.library.opcheck(dense_path, (edge, lengths, False))


@pytest.mark.parametrize("semiring", SEMIRINGS)
@pytest.mark.parametrize("path", PATHS, ids=str)
def test_one_graph_for_every_length(semiring, path):
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")

    def run(e, lengths):
        return semi_crf_triton_forward(e * 2, lengths, semiring=semiring, **path)

    compiled = torch.compile(run, backend=counter, fullgraph=True, dynamic=True)
    for boundaries in (7, 12, 4, 40):
        edge, lengths, used = case(boundaries if boundaries < 8 else 7, 4, 3)
        edge = torch.where(used, edge, 0.0)
        if boundaries > 7:
            edge = torch.nn.functional.pad(edge, (0, 0) * 3 + (0, boundaries - 7))
        edge = edge.repeat(boundaries % 5 + 1, 1, 1, 1, 1)
        lengths = lengths.repeat(boundaries % 5 + 1)
        got = gradient(lambda e: compiled(e, lengths), edge)  # noqa: B023
        expected = gradient(lambda e: run(e, lengths), edge)  # noqa: B023
        for a, b in zip(got, expected, strict=True):
            assert torch.equal(a, b)
        with torch.no_grad():
            torch.testing.assert_close(compiled(edge, lengths), expected[0])
    assert counter.frame_count <= 2  # one with gradients, one without
