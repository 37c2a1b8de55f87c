"""pytorch-crf's linear-chain `CRF` on our operations: change the import, keep the rest.

A linear chain is a semi-Markov CRF whose segments have length 1. Same constructor, parameters,
`state_dict`, results and errors as pytorch-crf 0.7.2, with these differences:

- A mask that is switched on again after it was off is refused. There pytorch-crf scores the tags
  with their masked neighbours, sums over sequences without them, and ends at a tag in the middle:
  the difference is no log-likelihood, and can be above 0.
- Tags and emissions that the mask leaves out are not read: tags may be -100 there.
- On the CPU a tag out of range and a score that is not finite raise a `ValueError`; on a GPU they
  give ``-inf`` and NaN.
- The log-likelihood is differentiable once.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hf_semicrf import ops

_REDUCTIONS = ("none", "sum", "mean", "token_mean")


class CRF(nn.Module):
    """A linear-chain CRF with the interface of pytorch-crf. Below, N and B swap if `batch_first`.

    Args:
        num_tags: Number of tags C.
        batch_first: Whether sentences are the first axis, instead of positions.

    Attributes:
        start_transitions: Score of the first tag [C].
        end_transitions: Score of the last tag [C].
        transitions: Score of a tag directly after another [C_from, C_to].

    Raises:
        ValueError: There is no tag.

    Source: Lafferty, McCallum and Pereira (2001), "Conditional Random Fields".
    """

    def __init__(self, num_tags: int, batch_first: bool = False):
        if num_tags <= 0:
            raise ValueError(f"invalid number of tags: {num_tags}; expected at least 1")
        super().__init__()
        self.num_tags = num_tags
        self.batch_first = batch_first
        self.start_transitions = nn.Parameter(torch.empty(num_tags))
        self.end_transitions = nn.Parameter(torch.empty(num_tags))
        self.transitions = nn.Parameter(torch.empty(num_tags, num_tags))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the parameters uniformly from -0.1..0.1."""
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -0.1, 0.1)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(num_tags={self.num_tags})"

    def forward(
        self,
        emissions: Tensor,
        tags: Tensor,
        mask: Tensor | None = None,
        reduction: str = "sum",
    ) -> Tensor:
        """Compute the log-likelihood of tags, in nats; its negative is a loss.

        Computed in float32 at least, and returned in the dtype of emissions and parameters.

        Args:
            emissions: Score of each tag [N, B, C].
            tags: Tags [N, B], in 0..C-1.
            mask: Which positions count [N, B], from the first one to each sentence's last; all
                where None. Looking at it waits for the GPU.
            reduction: "none" for one number a sentence [B], "sum", "mean" over sentences, or
                "token_mean": the sum over the number of positions that count.

        Raises:
            ValueError: Shapes do not fit, or the mask or the reduction is none of these.
        """
        p = self._potentials(emissions, mask, tags)
        if reduction not in _REDUCTIONS:
            raise ValueError(f"invalid reduction: {reduction}; expected one of {_REDUCTIONS}")
        tags = tags if self.batch_first else tags.mT
        # [B]
        llh = -ops.negative_log_likelihood(p, tags, torch.ones_like(tags, dtype=torch.bool))
        dtype = torch.promote_types(emissions.dtype, self.transitions.dtype)
        if reduction == "token_mean":
            dtype = torch.promote_types(dtype, torch.float32)
            llh = llh.sum() / p.lengths.sum()
        elif reduction != "none":
            llh = llh.sum() if reduction == "sum" else llh.mean()
        return llh.to(dtype)

    def decode(self, emissions: Tensor, mask: Tensor | None = None) -> list[list[int]]:
        """Find the most probable tags of each sentence.

        Args:
            emissions: Score of each tag [N, B, C].
            mask: Which positions count [N, B], as in `forward`.

        Returns:
            The tags of each sentence's positions that count.

        Raises:
            ValueError: Shapes do not fit, or the mask has holes.
        """
        p = self._potentials(emissions, mask).map(Tensor.detach)
        # [B, N]
        labels, _ = ops.best_segmentation(p)
        lengths = p.lengths.tolist()
        return [row[:length] for row, length in zip(labels.tolist(), lengths, strict=True)]

    def _potentials(
        self, emissions: Tensor, mask: Tensor | None, tags: Tensor | None = None
    ) -> ops.Potentials:
        """Check the arguments and write them as potentials of segments of length 1."""
        if emissions.dim() != 3:
            raise ValueError(f"emissions must have dimension of 3, got {emissions.dim()}")
        if emissions.shape[2] != self.num_tags:
            raise ValueError(
                f"expected last dimension of emissions is {self.num_tags}, got {emissions.shape[2]}"
            )
        for name, x in (("tags", tags), ("mask", mask)):
            if x is not None and x.shape != emissions.shape[:2]:
                raise ValueError(
                    f"the first two dimensions of emissions and {name} must match, "
                    f"got {tuple(emissions.shape[:2])} and {tuple(x.shape)}"
                )
        if not self.batch_first:
            emissions = emissions.transpose(0, 1)
            mask = None if mask is None else mask.mT
        # [B, N, C]
        batch, positions, types = emissions.shape
        if mask is None:
            lengths = torch.full((batch,), positions, device=emissions.device)
        else:
            lengths = _lengths(mask.bool())
        return ops.Potentials(
            emission=emissions,
            duration=emissions.new_zeros(1, types),
            transition=self.transitions,
            initial=self.start_transitions,
            final=self.end_transitions,
            lengths=lengths,
        )


def _lengths(mask: Tensor) -> Tensor:
    """Positions of each sentence [B] of a mask [B, N]."""
    lengths = mask.sum(1)
    prefix = torch.arange(mask.shape[1], device=mask.device) < lengths[:, None]
    # one wait for both
    starts, whole = torch.stack([mask[:, 0].all(), (mask == prefix).all()]).tolist()
    if not starts:
        raise ValueError("mask of the first timestep must all be on")
    if not whole:
        raise ValueError(
            "mask must be on from the first timestep to each sequence's last one, got a mask with "
            "holes; gather the positions that count first"
        )
    return lengths
