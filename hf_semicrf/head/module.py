"""The semi-Markov CRF as a PyTorch module: hidden states in, loss and segmentations out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from hf_semicrf import ops
from hf_semicrf.head.lengths import SHAPED, fitted, shaped
from hf_semicrf.head.scorers import SCORERS, Scores
from hf_semicrf.head.settings import HeadSettings
from hf_semicrf.labels import Known, Rules
from hf_semicrf.options import check, check_decoding

INIT_STD = 0.02


class SemiCRFOutput(NamedTuple):
    """What the head computes.

    Args:
        nll: Negative log-likelihood of the given segmentation [B], nats; None without one.
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
    potentials: ops.Potentials | ops.TailedPotentials | None = None


class SemiCRF(nn.Module):
    """A semi-Markov CRF on hidden states of any encoder.

    Type 0 is the outside type, whose segments have length 1, so that every tagging has exactly one
    derivation. Scores are computed without autocast, and the dynamic programs in float32 at least.

    Args:
        hidden_size: Width H of the hidden states.
        num_types: Segment types C, the outside type included.
        settings: How it scores and decodes; the defaults where None.
        rules: What is allowed in every sentence; None for everything.
        backend: Implementation of the dynamic programs on factored potentials, and of scores of
            whole segments.

    Raises:
        ValueError: A size is below 1, or the back end is unknown.
    """

    def __init__(
        self,
        hidden_size: int,
        num_types: int,
        settings: HeadSettings | None = None,
        *,
        rules: Rules | None = None,
        backend: ops.Backend = "auto",
    ):
        super().__init__()
        check(hidden_size=hidden_size, num_types=num_types, backend=backend)
        settings = settings or HeadSettings()
        self.threshold = settings.threshold
        self.threshold_factor = settings.threshold_factor
        self.temperature = settings.head_temperature
        self.dense = settings.potentials == "edge"
        self.backend = backend
        self.rules = rules
        self.scorer = SCORERS[settings.scorer](hidden_size, num_types, settings, backend)
        layers, longest = settings.mix_layers, settings.max_segment_length
        self.longest, self.shortest = longest, settings.min_segment_length
        self.length_prior = settings.length_prior
        self.tail_order = settings.tail_order if self.length_prior == "negative_binomial" else 1
        # logarithms of the layers' weights, times their number
        self.mix_bias = nn.Parameter(torch.empty(layers)) if layers else None
        # 'bias' in the name keeps weight decay away from them
        shape = SHAPED.get(self.length_prior)
        self.duration_bias = nn.Parameter(torch.empty(shape or longest, num_types))
        tail = 0 if not settings.has_tail else 1 if shape else 2  # enter and stay, or stay alone
        self.tail_bias = nn.Parameter(torch.empty(tail, num_types)) if tail else None
        self.transition_bias = nn.Parameter(torch.empty(num_types, num_types))
        self.initial_bias = nn.Parameter(torch.empty(num_types))
        self.final_bias = nn.Parameter(torch.empty(num_types))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the head's own parameters anew; the scorer's layers have their own way."""
        for parameter in self.parameters(recurse=False):
            nn.init.normal_(parameter, std=INIT_STD)

    @torch.no_grad()
    def fit_lengths(self, lengths: Sequence[Sequence[int]]) -> None:
        """Set what lengths score, and the tail, from the segments of training data.

        Args:
            lengths: Lengths of the segments of each type, in positions, the outside type first;
                types without any stay as they are.

        Raises:
            ValueError: They are not of as many types, or a length is below 1.
        """
        types = self.duration_bias.shape[1]
        if len(lengths) != types or any(n < 1 for row in lengths for n in row):
            raise ValueError(f"expected lengths of at least 1 for each of {types} types")
        for kind, row in enumerate(lengths):
            if kind and len(row):
                scores, tail = fitted(row, self.length_prior, self.longest, self.tail_order)
                self.duration_bias[:, kind] = scores.to(self.duration_bias)
                if self.tail_bias is not None and tail is not None:
                    self.tail_bias[:, kind] = tail.to(self.tail_bias)

    def potentials(self, hidden: Tensor, lengths: Tensor) -> ops.Potentials | ops.TailedPotentials:
        """The potentials of a batch, float32 at least; with a tail where the lengths have one.

        Args:
            hidden: Hidden states [B, N, H], or [B, N, K H] of ``mix_layers`` K layers side by side.
            lengths: Positions of each sentence [B].
        """
        return self.with_lengths(self.scores(hidden), lengths)

    def scores(self, hidden: Tensor) -> Scores:
        """What the scorer reads from hidden states [B, N, H].

        With "sum" and "boundary" each position has its own, so that windows of a long sequence can
        be scored one by one.
        """
        with torch.autocast(hidden.device.type, enabled=False):
            hidden = hidden.to(self.transition_bias.dtype)
            if self.mix_bias is not None:
                layers = hidden.unflatten(-1, (len(self.mix_bias), -1))
                hidden = torch.einsum("bnkh,k->bnh", layers, self.mix_bias.exp() / layers.shape[2])
        return self.scorer(hidden)

    def with_lengths(
        self, scores: Scores, lengths: Tensor
    ) -> ops.Potentials | ops.TailedPotentials:
        """Potentials of scores, with what all sentences share.

        Args:
            scores: Of positions and segments.
            lengths: Positions of each sentence [B].
        """
        duration: Tensor = self.duration_bias
        if self.length_prior in SHAPED:
            duration = shaped(self.length_prior, duration, self.longest)
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
        forbidden = None
        if torch.compiler.is_compiling():  # a graph keeps no tensor of an earlier call
            duration = p.duration.clone()
            duration[1:, 0] = duration[: self.shortest - 1, 1:] = -torch.inf
            p = p._replace(duration=duration)
            p = p if self.rules is None else self.rules.apply(p)
        else:
            sizes = (self.longest, self.duration_bias.shape[1], self.shortest)
            forbidden = _forbidden(self.rules, *sizes, lengths.device)
        p = ops.packed(p, forbidden=forbidden, backend=self.backend)
        return p if self.tail_bias is None else self._with_tail(p, duration[-1], self.tail_bias)

    def _with_tail(self, p: ops.Potentials, last: Tensor, tail: Tensor) -> ops.TailedPotentials:
        """Potentials with their tail, for types that may have length L and more."""
        enter, stay = tail.to(p.duration.dtype)[[0, -1]]
        enter = enter if len(tail) == 2 else last.to(stay) + stay
        never = torch.zeros(len(enter), dtype=torch.bool)
        never[0] = True  # the outside type
        if self.rules is not None:
            never |= ~torch.tensor(self.rules.duration[-1])
        never = never.to(enter.device, non_blocking=True)
        return ops.TailedPotentials(p, enter.masked_fill(never, -torch.inf), stay, self.tail_order)

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
            threshold: Posterior that a segment of one word has to exceed, instead of the head's
                own; the factor for longer ones stays.
            known: What is known of the segmentation to score, instead of all of it: the loss is
                the negative log-probability of all that agree.
            allowed: Which segments may occur [B, N, L, C] bool, by start and length less one; all
                where None.

        Raises:
            ValueError: Shapes or values do not fit, or both a threshold and "viterbi" are given.
        """
        threshold = check_decoding(threshold, None if isinstance(decode, bool) else decode)
        return self._of_potentials(
            self.potentials(hidden, lengths),
            labels,
            starts,
            decode,
            segment_marginals,
            threshold,
            known,
            allowed,
        )

    @torch.no_grad()
    def decode(self, p: ops.Potentials | ops.TailedPotentials) -> SemiCRFOutput:
        """Find the segmentation of potentials, with each segment's probability.

        Args:
            p: From `potentials` or `with_lengths`.
        """
        return self._of_potentials(p, decode=True, segment_marginals=True)

    def _of_potentials(
        self,
        p: ops.Potentials | ops.TailedPotentials,
        labels: Tensor | None = None,
        starts: Tensor | None = None,
        decode: bool | Literal["viterbi"] | None = None,
        segment_marginals: bool = False,
        threshold: float | None = None,
        known: Known | None = None,
        allowed: Tensor | None = None,
    ) -> SemiCRFOutput:
        """As `forward`, of potentials."""
        if isinstance(p, ops.TailedPotentials):
            if allowed is not None or threshold is not None:
                raise ValueError(
                    "expected neither allowed segments nor a threshold with a tail, whose segments "
                    "have no longest length: known takes what is known of positions"
                )
            return self._with_tail_scored(p, labels, starts, decode, segment_marginals, known)
        if allowed is not None:
            segment = p.duration.new_zeros(()) if p.segment is None else p.segment
            p = p._replace(segment=torch.where(allowed, segment, -torch.inf))
        edge = ops.to_edge(p) if self.dense else None
        nll = None
        if known is not None:
            nll = self._partial_nll(p, edge, known)
        elif labels is not None and starts is not None:
            nll = self._nll(p, edge, labels, starts)
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
                posteriors = ops.at_segments(
                    marginals.segment, found, found_starts, p.lengths, self.backend
                )
        return SemiCRFOutput(nll, found, found_starts, posteriors, marginals, p)

    def _with_tail_scored(
        self,
        p: ops.TailedPotentials,
        labels: Tensor | None,
        starts: Tensor | None,
        decode: bool | Literal["viterbi"] | None,
        segment_marginals: bool,
        known: Known | None,
    ) -> SemiCRFOutput:
        """As `_of_potentials`, with a tail."""
        nll = None
        if known is not None:
            agreeing = known.apply_with_tail(p)
            nll = ops.log_partition_difference(p, agreeing, self.backend)
        elif labels is not None and starts is not None:
            nll = ops.negative_log_likelihood(p, labels, starts, self.backend)
        if not (not self.training if decode is None else decode):
            return SemiCRFOutput(nll, potentials=p)
        with torch.no_grad():
            tempered = p.map(lambda x: x.detach() / self.temperature)
            found = ops.best_segmentation(tempered, self.backend)
            marginals = ops.marginals(tempered, backend=self.backend)
            posteriors = None
            if segment_marginals:
                posteriors = ops.decoded_posteriors(tempered, *found, self.backend)
        return SemiCRFOutput(nll, *found, posteriors, marginals, p)

    def _nll(
        self, p: ops.Potentials, edge: Tensor | None, labels: Tensor, starts: Tensor
    ) -> Tensor:
        """Negative log-likelihood of a segmentation [B], nats."""
        if edge is None:
            return ops.negative_log_likelihood(p, labels, starts, backend=self.backend)
        log_z = ops.semi_crf_triton_forward(edge, p.lengths + 1)
        return _difference(log_z, ops.segmentation_score(p, labels, starts))

    def _partial_nll(self, p: ops.Potentials, edge: Tensor | None, known: Known) -> Tensor:
        """Negative log-probability of the segmentations that agree with what is known [B], nats."""
        agreeing = known.apply(p)
        if edge is None:
            return ops.log_partition_difference(p, agreeing, backend=self.backend)
        log_z = ops.semi_crf_triton_forward(edge, p.lengths + 1)
        return _difference(log_z, ops.log_partition(agreeing, backend=self.backend))

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
        p = p.map(Tensor.detach)
        if self.temperature != 1:
            p = ops.packed(p, self.temperature, backend=self.backend)
            edge = None if edge is None else edge / self.temperature
        if edge is None:
            marginals = ops.marginals(p, segment=segment, backend=self.backend)
        else:
            of_edges = ops.edge_marginals(edge, p.lengths + 1)
            marginals = ops.segment_sums(of_edges[:, :, 1:].sum(-1))
        if threshold is None and edge is not None:
            found = ops.edge_viterbi(edge, p.lengths + 1)[1:]
        else:
            found = self._found(p, marginals.segment, threshold, constrained)
        return *found, marginals

    def _found(
        self,
        p: ops.Potentials,
        posterior: Tensor | None,
        threshold: float | None,
        constrained: bool,
    ) -> tuple[Tensor, Tensor]:
        """Labels and starts [B, N] of the decoded segmentation.

        Args:
            p: The potentials.
            posterior: Of each segment [B, N, L, C].
            threshold: What it has to exceed; None for the most probable segmentation as a whole.
            constrained: Whether potentials forbid anything.
        """
        if threshold is None or posterior is None:
            return ops.best_segmentation(p, self.backend)
        limit: float | Tensor = threshold
        if self.threshold_factor != 1:
            sizes = (*self.duration_bias.shape, p.lengths.device)
            limit = thresholds(threshold, self.threshold_factor, *sizes)
        legal = p if constrained else None
        return ops.minimum_risk(posterior, p.lengths, limit, self.backend, legal)

    def decoding_calls(
        self, threshold: float | None, constrained: bool = False
    ) -> list[Callable[[], object]]:
        """What decoding launches on a GPU, as calls that do not wait for each other.

        Each is of a sentence of one position, so that threads can have the kernels compiled side by
        side. None where no such kernel runs: elsewhere, with a tail and with dense potentials.

        Args:
            threshold: As decoding will take it; None for the most probable segmentation.
            constrained: Whether some segments will not be allowed.

        Raises:
            ValueError: The threshold is not among its values.
        """
        threshold = check(threshold=threshold)["threshold"]
        weight = self.transition_bias.detach()
        if self.dense or self.tail_bias is not None:
            return []
        if ops.resolve_backend(self.backend, weight.device) != "triton":
            return []
        dtype = torch.promote_types(weight.dtype, torch.float32)
        types, longest = len(weight), self.longest
        zeros = partial(torch.zeros, dtype=dtype, device=weight.device)
        segment = zeros(1, 1, longest, types)
        row = zeros(1, 1, types)
        lengths = torch.ones(1, dtype=torch.long, device=weight.device)
        labels = lengths[:, None] - 1
        gives: Any = self.scorer.gives
        given = {name: segment if name == "segment" else row for name in gives}
        if constrained:
            given["segment"] = segment
        p = ops.Potentials(
            **given,
            duration=zeros(longest, types),
            transition=zeros(types, types),
            initial=zeros(types),
            final=zeros(types),
            lengths=lengths,
        )
        constrained = constrained or self.rules is not None
        return [
            *ops.marginals_calls(p),
            lambda: self._found(p, segment, threshold, constrained),
            lambda: ops.at_segments(segment, labels, labels == 0, lengths, self.backend),
        ]


def thresholds(
    threshold: float, factor: float, longest: int, types: int, device: torch.device
) -> Tensor:
    """What the posterior of a segment has to exceed, by length less one and type [L, C] float32.

    Args:
        threshold: That of segments of one position.
        factor: What each further position multiplies it by.
        longest: Longest segment L.
        types: Types C.
        device: Where they are wanted.
    """
    function = _thresholds.__wrapped__ if torch.compiler.is_compiling() else _thresholds
    return function(threshold, factor, longest, types, device)


@lru_cache(maxsize=64)
def _thresholds(
    threshold: float, factor: float, longest: int, types: int, device: torch.device
) -> Tensor:
    """The same, kept for the next call."""
    with torch.inference_mode(False):
        powers = torch.tensor([[threshold * factor**d] for d in range(longest)])
        return powers.expand(-1, types).contiguous().to(device, non_blocking=True)


@lru_cache(maxsize=64)
def _forbidden(
    rules: Rules | None, longest: int, types: int, shortest: int, device: torch.device
) -> Tensor:
    """What no sentence may have, of durations, transitions, first and last types, side by side.

    [(L + C + 2) C] bool on a device, kept for the next call.
    """
    duration = torch.zeros(longest, types, dtype=torch.bool)
    duration[1:, 0] = True  # the outside type has length 1 only
    duration[: shortest - 1, 1:] = True
    flags = [duration, *(torch.zeros(n, dtype=torch.bool) for n in (types**2, types, types))]
    if rules is not None:
        flags = [
            x.flatten() | ~torch.tensor(y).flatten() for x, y in zip(flags, rules, strict=True)
        ]
    with torch.inference_mode(False):
        # non-blocking, so that a GPU is not waited for
        return torch.cat([x.flatten() for x in flags]).to(device, non_blocking=True)


def _difference(log_z: Tensor, score: Tensor) -> Tensor:
    """Log Z less the log-sum of some segmentations [B]; inf where none of them is possible."""
    impossible = (score == -torch.inf) & ~log_z.isnan()
    return torch.where(impossible, torch.inf, log_z - score)
