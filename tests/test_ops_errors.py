"""Mistakes are refused in words that name what was expected and what came."""

from __future__ import annotations

import pytest
import torch
from cases import OPTIONAL, REQUIRED, random_potentials

from hf_semicrf import ops

LABELS = torch.tensor([[1, 1, 0, 2, 2], [0, 1, 2, -1, -1], [2, 2, 2, 1, -1]])
STARTS = torch.tensor([[1, 0, 1, 1, 0], [1, 1, 1, 0, 0], [1, 0, 0, 1, 0]]).bool()

FUNCTIONS = {
    "log_partition": ops.log_partition,
    "viterbi": ops.viterbi,
    "marginals": ops.marginals,
    "entropy": ops.entropy,
    "to_edge": ops.to_edge,
    "kl_divergence": lambda p: ops.kl_divergence(p, p),
    "k_best": lambda p: ops.k_best(p, 2),
    "sample": lambda p: ops.sample(p, 2),
    "max_marginals": ops.max_marginals,
    "segment_marginals": lambda p: ops.segment_marginals(p, torch.zeros(3, 1, 2).long()),
    "segmentation_score": lambda p: ops.segmentation_score(p, LABELS, STARTS),
    "negative_log_likelihood": lambda p: ops.negative_log_likelihood(p, LABELS, STARTS),
}


@pytest.fixture(params=FUNCTIONS)
def function(request):
    return FUNCTIONS[request.param]


@pytest.fixture
def p():
    return random_potentials([5, 3, 4], 3, 3)


def test_the_case_itself_is_accepted(function, p):
    function(p)


@pytest.mark.parametrize("name", [*REQUIRED, "lengths"])
def test_a_required_potential_is_none(function, p, name):
    with pytest.raises(ValueError, match=rf"expected potentials {name}; got None"):
        function(p._replace(**{name: None}))


def test_all_scores_are_none(function, p):
    with pytest.raises(ValueError, match="at least one of emission, segment, start and end"):
        function(p._replace(**dict.fromkeys(OPTIONAL)))


@pytest.mark.parametrize("name", [*OPTIONAL, *REQUIRED, "lengths"])
@pytest.mark.parametrize("change", ["longer", "shorter", "more dimensions", "fewer dimensions"])
def test_a_wrong_shape(function, p, name, change):
    x = getattr(p, name)
    wrong = {
        "longer": torch.cat([x, x[..., :1]], -1),
        "shorter": x[..., :-1],
        "more dimensions": x[None],
        "fewer dimensions": x[0],
    }[change]
    with pytest.raises(ValueError, match=r"expected \w+ of shape \[.*\].*got \["):
        function(p._replace(**{name: wrong}))


@pytest.mark.parametrize("name", OPTIONAL)
@pytest.mark.parametrize("dimensions", [0, 1])
def test_a_lone_score_of_too_few_dimensions(function, p, name, dimensions):
    alone = p._replace(**dict.fromkeys(OPTIONAL))
    with pytest.raises(ValueError, match=rf"expected {name} of shape \[.*got \["):
        function(alone._replace(**{name: torch.zeros([3] * dimensions)}))


EMPTY = {
    "sentence": lambda p: p._replace(**{k: getattr(p, k)[:0] for k in (*OPTIONAL, "lengths")}),
    "position": lambda p: p._replace(**{k: getattr(p, k)[:, :0] for k in OPTIONAL}),
    "segment length": lambda p: p._replace(duration=p.duration[:0], segment=p.segment[:, :, :0]),
    "type": lambda p: p.map(lambda x: x[..., :0])._replace(transition=torch.zeros(0, 0)),
}


@pytest.mark.parametrize("name", EMPTY)
def test_a_dimension_of_size_zero(function, p, name):
    with pytest.raises(ValueError, match=rf"at least one .*{name}.*got \[B, N, L, C\] = \[.*\b0\b"):
        function(EMPTY[name](p))


@pytest.mark.parametrize("name", [*OPTIONAL, *REQUIRED])
@pytest.mark.parametrize("dtype", [torch.long, torch.bool, torch.complex64])
def test_scores_of_a_wrong_dtype(function, p, name, dtype):
    with pytest.raises(ValueError, match=rf"expected {name} of a floating dtype, got {dtype}"):
        function(p._replace(**{name: getattr(p, name).to(dtype)}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bool, torch.complex64])
def test_lengths_of_a_wrong_dtype(function, p, dtype):
    with pytest.raises(ValueError, match=f"expected integer lengths, got {dtype}"):
        function(p._replace(lengths=p.lengths.to(dtype)))


@pytest.mark.parametrize("name", [*OPTIONAL, *REQUIRED])
def test_scores_on_another_device(function, p, name):
    with pytest.raises(ValueError, match=f"expected {name} on cpu, got meta"):
        function(p._replace(**{name: getattr(p, name).to("meta")}))


@pytest.mark.parametrize("lengths", [[5, 0, 4], [5, 3, 6], [-1, 3, 4]])
def test_lengths_out_of_range(function, p, lengths):
    with pytest.raises(
        ValueError, match=rf"lengths in 1\.\.5, got {min(lengths)}\.\.{max(lengths)}"
    ):
        function(p._replace(lengths=torch.tensor(lengths)))


def test_an_unknown_back_end(p):
    for function in (ops.log_partition, ops.viterbi, ops.marginals, ops.entropy, ops.max_marginals):
        with pytest.raises(ValueError, match="'cuda'"):
            function(p, backend="cuda")
    with pytest.raises(ValueError, match="'Torch'"):
        ops.negative_log_likelihood(p, LABELS, STARTS, backend="Torch")


GOLD = {"score": ops.segmentation_score, "loss": ops.negative_log_likelihood}


@pytest.mark.parametrize("gold", GOLD.values(), ids=GOLD)
class TestSegmentation:
    @pytest.mark.parametrize("label", [3, -1, -100])
    def test_a_label_out_of_range(self, p, gold, label):
        wrong = LABELS.clone()
        wrong[0, 2] = label
        with pytest.raises(ValueError, match=rf"expected labels in 0\.\.2, got {label}"):
            gold(p, wrong, STARTS)

    def test_a_first_position_that_starts_nothing(self, p, gold):
        wrong = STARTS.clone()
        wrong[1, 0] = False
        with pytest.raises(ValueError, match="start at position 0"):
            gold(p, LABELS, wrong)

    def test_a_change_of_type_without_a_start(self, p, gold):
        wrong = LABELS.clone()
        wrong[0, 1] = 2
        with pytest.raises(ValueError, match="change of label without a start"):
            gold(p, wrong, STARTS)

    @pytest.mark.parametrize("dtype", [torch.long, torch.uint8, torch.float32])
    def test_starts_that_are_not_bool(self, p, gold, dtype):
        with pytest.raises(ValueError, match=f"starts of dtype bool, got {dtype}"):
            gold(p, LABELS, STARTS.to(dtype))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bool, torch.complex64])
    def test_labels_that_are_not_integers(self, p, gold, dtype):
        with pytest.raises(ValueError, match=f"expected integer labels, got {dtype}"):
            gold(p, LABELS.to(dtype), STARTS)

    def test_a_wrong_shape(self, p, gold):
        for labels, starts in (
            (LABELS[:, :4], STARTS[:, :4]),
            (LABELS[:2], STARTS[:2]),
            (LABELS, STARTS[:, :4]),
            (LABELS[0], STARTS[0]),
        ):
            with pytest.raises(ValueError, match=r"labels and starts of shape \[3, 5\], got \["):
                gold(p, labels, starts)

    def test_another_device(self, p, gold):
        for labels, starts in ((LABELS.to("meta"), STARTS), (LABELS, STARTS.to("meta"))):
            with pytest.raises(ValueError, match="expected labels and starts on cpu, got"):
                gold(p, labels, starts)
