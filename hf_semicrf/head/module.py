"""The semi-Markov CRF as a PyTorch module: hidden states in, loss and segmentations out."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from hf_semicrf import ops
from hf_semicrf.head.context import CONTEXTS
from hf_semicrf.head.scorers import ScorerSettings, build_scorer, check_scorer
from hf_semicrf.labels import Known, Rules

INIT_STD = 0.02
POTENTIALS = ("factored", "edge")


def check_settings(
    scorer: str,
    threshold: float | None,
    potentials: str,
    temperature: float = 1.0,
    context: str | None = None,
    width: int = 192,
    mix_layers: int = 0,
    label_smoothing: float = 0.0,
    token_loss: float = 0.0,
) -> None:
    """Refuse settings of a head that are out of range.

    Raises:
        ValueError: A name is unknown, or a number out of range.
    """
    check_scorer(scorer)
    if not 0 < temperature < float("inf"):
        raise ValueError(f"expected a temperature above 0, got {temperature}")
    if context is not None and context not in CONTEXTS:
        raise ValueError(f"expected a context among {sorted(CONTEXTS)} or None, got {context!r}")
    for name, number, least in (("width", width, 2), ("mix_layers", mix_layers, 0)):
        if isinstance(number, bool) or not isinstance(number, int) or number < least:
            raise ValueError(f"expected {name} as an int of at least {least}, got {number!r}")
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"expected label_smoothing in 0..1, below 1, got {label_smoothing}")
    if token_loss < 0:
        raise ValueError(f"expected a token_loss of at least 0, got {token_loss}")
    if threshold is not None and not 0 <= threshold <= 1:
        raise ValueError(f"expected a threshold in 0..1 or None, got {threshold}")
    if potentials not in POTENTIALS:
        raise ValueError(f"expected potentials among {POTENTIALS}, got {potentials!r}")


class SemiCRFOutput(NamedTuple):
    """What the head computes.

    Args:
        nll: Negative log-likelihood of the given segmentation [B], nats; None without one. In
            training, plus what ``label_smoothing`` and ``token_loss`` add.
        labels: Types of the decoded segmentation [B, N]; None if not decoded, as all that follows.
        starts: Segment starts of the decoded segmentation [B, N].
        segment_posteriors: Probability of the decoded segment that covers each position [B, N].
        marginals: Posterior probabilities of types, starts, ends and segments.
        potentials: What all this was computed from, before the temperature.
    """

    nll: Tensor | None = None
    labels: Tensor | None = None
    starts: Tensor | None = None
    segment_posteriors: Tensor | None = None
    marginals: ops.Marginals | None = None
    potentials: ops.Potentials | None = None


class SemiCRF(nn.Module):
    """A semi-Markov CRF on hidden states of any encoder.

    Type 0 is the outside type, whose segments have length 1, so that every tagging has exactly one
    derivation. Scores are computed without autocast, and the dynamic programs in float32 at least.

    Args:
        hidden_size: Width H of the hidden states.
        num_types: Segment types C, the outside type included.
        max_segment_length: Longest segment L, in positions.
        scorer: How hidden states score segments: a name of ``scorers.SCORERS``, or several joined
            by "+", which are added.
        dropout: Probability of dropping a hidden unit before scoring.
        threshold: Posterior that a segment has to exceed to be decoded (``ops.minimum_risk``: it
            trades recall for precision); None to decode the most probable segmentation as a whole.
        temperature: What all potentials are divided by in decoding and posteriors; above 1 the
            model is less sure. Source: Guo et al. (2017).
        context: A mixer of neighbouring states before the scorer: "convolution", "lstm" or None.
        width: Units of the hidden layers of scorer and context.
        mix_layers: States that a position comes with, whose learned mix is scored; 0 for one state.
        label_smoothing: Share of the training target that is spread evenly: a one-position segment
            of any type everywhere. Like ``token_loss``, not for partly known segmentations.
        token_loss: Weight in training of a cross-entropy between the emissions and each position's
            type, in nats.
        potentials: "factored", or "edge" to run on the dense [B, N, L + 1, C, C] tensor: the same
            distribution at O(N L C^2) time and memory.
        backend: Implementation of the dynamic programs on factored potentials, and of scores of
            whole segments.
        rules: What is allowed in every sentence; None for everything.

    Raises:
        ValueError: A size or name is out of range.
    """

    def __init__(
        self,
        hidden_size: int,
        num_types: int,
        max_segment_length: int,
        scorer: str = "span",
        dropout: float = 0.1,
        threshold: float | None = 0.4,
        potentials: str = "factored",
        backend: ops.Backend = "auto",
        temperature: float = 1.0,
        context: str | None = None,
        width: int = 192,
        mix_layers: int = 0,
        label_smoothing: float = 0.0,
        token_loss: float = 0.0,
        rules: Rules | None = None,
    ):
        super().__init__()
        for name, value in (("hidden_size", hidden_size), ("num_types", num_types)):
            if value < 1:
                raise ValueError(f"expected {name} of at least 1, got {value}")
        if max_segment_length < 1:
            raise ValueError(
                f"expected max_segment_length of at least 1 position, got {max_segment_length}"
            )
        check_settings(
            scorer,
            threshold,
            potentials,
            temperature,
            context,
            width,
            mix_layers,
            label_smoothing,
            token_loss,
        )
        self.threshold = threshold
        self.temperature = temperature
        self.label_smoothing = label_smoothing
        self.token_loss = token_loss
        self.dense = potentials == "edge"
        self.backend = backend
        settings = ScorerSettings(
            hidden_size, num_types, max_segment_length, dropout, width, backend
        )
        self.context = None if context is None else CONTEXTS[context](settings)
        self.scorer = build_scorer(scorer, settings)
        # logarithms of the layers' weights, times their number
        self.mix_bias = nn.Parameter(torch.empty(mix_layers)) if mix_layers else None
        if rules is not None and label_smoothing:
            raise ValueError(
                f"expected no label_smoothing beside constraints, got {label_smoothing}: it would "
                "spread the target over what they forbid"
            )
        self.rules = rules
        # 'bias' in the name keeps weight decay away from them
        self.duration_bias = nn.Parameter(torch.empty(max_segment_length, num_types))
        self.transition_bias = nn.Parameter(torch.empty(num_types, num_types))
        self.initial_bias = nn.Parameter(torch.empty(num_types))
        self.final_bias = nn.Parameter(torch.empty(num_types))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the head's own parameters anew; the scorer's layers have their own way."""
        for parameter in self.parameters(recurse=False):
            nn.init.normal_(parameter, std=INIT_STD)

    def potentials(self, hidden: Tensor, lengths: Tensor) -> ops.Potentials:
        """The potentials of a batch, float32 at least.

        Args:
            hidden: Hidden states [B, N, H], or [B, N, K H] of ``mix_layers`` K layers side by side.
            lengths: Positions of each sentence [B].
        """
        with torch.autocast(hidden.device.type, enabled=False):
            hidden = hidden.to(self.duration_bias.dtype)
            if self.mix_bias is not None:
                layers = hidden.unflatten(-1, (len(self.mix_bias), -1))
                hidden = torch.einsum("bnkh,k->bnh", layers, self.mix_bias.exp() / layers.shape[2])
            if self.context is not None:
                hidden = self.context(hidden, lengths)
        scores = self.scorer(hidden)
        duration = self.duration_bias.clone()
        duration[1:, 0] = -torch.inf  # the outside type has length 1 only
        p = ops.Potentials(
            emission=scores.emission,
            segment=scores.segment,
            start=scores.start,
            end=scores.end,
            duration=duration,
            transition=self.transition_bias,
            initial=self.initial_bias,
            final=self.final_bias,
            lengths=lengths,
        )
        if self.rules is not None:
            p = self.rules.apply(p)
        return p.map(lambda x: x.to(torch.promote_types(x.dtype, torch.float32)))

    def forward(
        self,
        hidden: Tensor,
        lengths: Tensor,
        labels: Tensor | None = None,
        starts: Tensor | None = None,
        decode: bool | Literal["viterbi"] | None = None,
        segment_marginals: bool = False,
        threshold: float | None = None,
        known: Known | None = None,
        allowed: Tensor | None = None,
    ) -> SemiCRFOutput:
        """Score a segmentation, find the best one, or both.

        Args:
            hidden: Hidden states [B, N, H], or [B, N, K H] with ``mix_layers`` K.
            lengths: Positions of each sentence [B], 1..N.
            labels: Type of each position [B, N] of the segmentation to score, or None.
            starts: Its segment starts [B, N] bool.
            decode: Whether to decode and compute marginals; by default, when not training.
                "viterbi" decodes the most probable segmentation as a whole, whatever the threshold.
            segment_marginals: Whether decoding also gives the probability of each decoded segment.
            threshold: Posterior that a segment has to exceed, instead of the head's own.
            known: What is known of the segmentation to score, instead of all of it: the loss is
                the negative log-probability of all that agree.
            allowed: Which segments may occur [B, N, L, C] bool, by start and length less one; all
                where None.

        Raises:
            ValueError: Shapes or values do not fit, or both a threshold and "viterbi" are given.
        """
        if decode == "viterbi" and threshold is not None:
            raise ValueError(f'expected decode="viterbi" or a threshold, got both ({threshold})')
        p = self.potentials(hidden, lengths)
        if allowed is not None:
            segment = p.duration.new_zeros(()) if p.segment is None else p.segment
            p = p._replace(segment=torch.where(allowed, segment, -torch.inf))
        edge = ops.to_edge(p) if self.dense else None
        nll = None
        if known is not None:
            nll = self._partial_nll(p, edge, known)
        elif labels is not None and starts is not None:
            nll = self._nll(p, edge, labels, starts)
            if self.training:
                nll = nll + self._regularizer(p, labels, starts)
        if decode is None:
            decode = not self.training
        if not decode:
            return SemiCRFOutput(nll, potentials=p)
        with torch.no_grad():
            if decode != "viterbi" and threshold is None:
                threshold = self.threshold
            constrained = allowed is not None or self.rules is not None
            found, found_starts, marginals = self._decode(
                p, edge, segment_marginals, threshold, constrained
            )
            posteriors = None
            if segment_marginals and marginals.segment is not None:
                posteriors = ops.at_segments(marginals.segment, found, found_starts, lengths)
        return SemiCRFOutput(nll, found, found_starts, posteriors, marginals, p)

    def _nll(
        self, p: ops.Potentials, edge: Tensor | None, labels: Tensor, starts: Tensor
    ) -> Tensor:
        """Negative log-likelihood of a segmentation [B], nats."""
        if edge is None:
            return ops.negative_log_likelihood(p, labels, starts, backend=self.backend)
        log_z = ops.semi_crf_triton_forward(edge, p.lengths + 1)
        return log_z - ops.segmentation_score(p, labels, starts)

    def _regularizer(self, p: ops.Potentials, labels: Tensor, starts: Tensor) -> Tensor | float:
        """What training adds to the negative log-likelihood [B], nats."""
        added: Tensor | float = 0.0
        if self.label_smoothing:
            # the cross-entropy with a target e*uniform + (1 - e)*gold is
            # nll + e * (score of the gold - expected score of the uniform)
            surplus = ops.segmentation_score(p, labels, starts) - expected_word_score(p)
            added = added + self.label_smoothing * surplus
        if self.token_loss and p.emission is not None:
            inside = torch.arange(labels.shape[1], device=labels.device) < p.lengths[:, None]
            types = torch.where(inside, labels, -100)
            loss = cross_entropy(p.emission.transpose(1, 2), types, reduction="none")
            added = added + self.token_loss * loss.sum(1)
        return added

    def _partial_nll(self, p: ops.Potentials, edge: Tensor | None, known: Known) -> Tensor:
        """Negative log-probability of the segmentations that agree with what is known [B], nats."""
        agreeing = known.apply(p)
        if edge is None:
            return ops.log_partition_difference(p, agreeing, backend=self.backend)
        log_z = ops.semi_crf_triton_forward(edge, p.lengths + 1)
        return log_z - ops.log_partition(agreeing, backend=self.backend)

    def _decode(
        self,
        p: ops.Potentials,
        edge: Tensor | None,
        segment: bool,
        threshold: float | None,
        constrained: bool,
    ) -> tuple[Tensor, Tensor, ops.Marginals]:
        """Labels and starts [B, N] of the decoded segmentation, and posteriors."""
        segment = segment or threshold is not None
        if self.temperature != 1:
            p = p.map(lambda x: x / self.temperature)
            edge = None if edge is None else edge / self.temperature
        p = p.map(Tensor.detach)
        if edge is None:
            marginals = ops.marginals(p, segment=segment, backend=self.backend)
        else:
            of_edges = ops.edge_marginals(edge, p.lengths + 1)
            marginals = ops.segment_sums(of_edges[:, :, 1:].sum(-1))
        if threshold is not None and marginals.segment is not None:
            found = ops.minimum_risk(
                marginals.segment, p.lengths, threshold, self.backend, p if constrained else None
            )
        elif edge is None:
            found = ops.viterbi(p, backend=self.backend)[1:]
        else:
            found = ops.edge_viterbi(edge, p.lengths + 1)[1:]
        return *found, marginals


def expected_word_score(p: ops.Potentials) -> Tensor:
    """Mean score [B] of segmentations into single positions, each of any type independently.

    Args:
        p: Potentials; finite for segments of length 1.
    """
    words = p.duration[0].mean()
    for part in (p.emission, p.start, p.end, None if p.segment is None else p.segment[:, :, 0]):
        if part is not None:
            words = words + part.mean(-1)
    inside = torch.arange(p.sizes[1], device=p.lengths.device) < p.lengths[:, None]
    total = torch.where(inside, words, 0).sum(1) + (p.lengths - 1) * p.transition.mean()
    return total + p.initial.mean() + p.final.mean()
