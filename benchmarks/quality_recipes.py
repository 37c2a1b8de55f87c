"""Recipes that `quality.py` measures beside the plain training of a head.

`Student` learns from the labels and from a teacher, the mean of several models' potentials.
`with_sure_labels` labels text by a trained model, as far as it is sure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from hf_semicrf import SemiCRFForTokenClassification, ops
from hf_semicrf.trainer import SemiCRFTrainer

ROW = "row"  # column: the number of a training sentence
OF_WORDS = ("emission", "segment", "start", "end")
Rows = Sequence[Mapping[str, Any]]


class Student(SemiCRFTrainer):
    """A trainer whose loss is partly the divergence from a teacher's distribution.

    Args:
        *args: As `SemiCRFTrainer` takes them; rows have their number in the column ``row``.
        taught: The teacher's potentials of each row, as `potentials_of` returns them.
        share: Weight of the divergence; that of the labels is the rest.
        **kwargs: As `SemiCRFTrainer` takes them.

    Source: Hinton et al. (2015), "Distilling the Knowledge in a Neural Network".
    """

    def __init__(self, *args: Any, taught: Sequence[ops.Potentials], share: float, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.taught, self.share = taught, share
        collate = self.data_collator

        def numbered(rows: Rows) -> dict[str, Tensor]:
            numbers = {ROW: torch.tensor([row[ROW] for row in rows])} if ROW in rows[0] else {}
            return {**collate(rows), **numbers}

        self.data_collator = numbered

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], *_: Any, num_items_in_batch: Any = None, **__: Any
    ) -> Tensor:
        """Cross-entropy with the labels, and divergence from the teacher, in nats a word.

        Args:
            model: The student.
            inputs: A batch.
            *_: As the stock Trainer takes them.
            num_items_in_batch: Words of the whole step.
            **__: As the stock Trainer takes them.
        """
        taught = [self.taught[row] for row in inputs.pop(ROW).tolist()]
        output = model(**inputs, num_items_in_batch=num_items_in_batch, output_head=True)
        own = output.head.potentials
        divergence = ops.kl_divergence(_batched(taught, own), own)
        loss = ops.mean_loss(divergence, own.lengths, num_items_in_batch)
        return (1 - self.share) * output.loss + self.share * loss.to(output.loss.dtype)


def teacher_of(
    folders: Sequence[Path], trainer: SemiCRFTrainer, rows: Rows
) -> list[ops.Potentials]:
    """The mean of several models' potentials, each divided by its temperature, of each row.

    Args:
        folders: Of saved models.
        trainer: Gives the batches and the device.
        rows: Tokenised sentences.
    """
    each = []
    for folder in folders:
        model: Any = SemiCRFForTokenClassification.from_pretrained(folder).to(trainer.args.device)
        each.append(potentials_of(model, trainer, rows))
    return [reduce(_plus, row).map(lambda x: x / len(folders)) for row in zip(*each, strict=True)]


@torch.no_grad()
def potentials_of(model: Any, trainer: SemiCRFTrainer, rows: Rows) -> list[ops.Potentials]:
    """The potentials of each row over the model's temperature, on the CPU, without padding."""
    found = []
    loader = DataLoader(
        rows, trainer.args.per_device_eval_batch_size, collate_fn=trainer.data_collator
    )
    for batch in loader:
        scored = model(**trainer._prepare_inputs(batch), output_potentials=True).potentials
        p = scored.tempered(model.config.head_temperature).map(Tensor.cpu)
        lengths = p.lengths.tolist()
        for row, length in enumerate(lengths):
            own = {n: getattr(p, n)[row, :length] for n in OF_WORDS if getattr(p, n) is not None}
            found.append(p._replace(**own, lengths=torch.tensor(length)))
    return found


def _plus(p: ops.Potentials, q: ops.Potentials) -> ops.Potentials:
    scores = (None if x is None else x + y for x, y in zip(p[:-1], q[:-1], strict=True))
    return ops.Potentials._make([*scores, p.lengths])


def _batched(rows: Sequence[ops.Potentials], like: ops.Potentials) -> ops.Potentials:
    """The potentials of single sentences as those of a batch of the sizes of others."""
    made = {}
    for name in OF_WORDS:
        wanted = getattr(like, name)
        if wanted is not None:
            made[name] = torch.zeros(wanted.shape)
            for n, row in enumerate(rows):
                scores = getattr(row, name)
                made[name][n, : len(scores)] = scores
    shared = {n: getattr(rows[0], n) for n in ("duration", "transition", "initial", "final")}
    placed = {n: x.to(like.duration.device) for n, x in {**made, **shared}.items()}
    return ops.Potentials(**placed, lengths=like.lengths)


@torch.no_grad()
def with_sure_labels(trainer: SemiCRFTrainer, rows: Rows, sure: float) -> list[dict[str, Any]]:
    """Rows with the tags that a model gives, and -100 at words of which it is less sure.

    Args:
        trainer: Of a trained and calibrated model.
        rows: Tokenised sentences; their labels are not read.
        sure: Probability that a word's tag has to have.

    Source: Yarowsky (1995), "Unsupervised Word Sense Disambiguation Rivaling Supervised Methods".
    """
    model, labelled = trainer.model.eval(), []
    for at in range(0, len(rows), 64):
        part = rows[at : at + 64]
        batch = trainer.data_collator(part)
        batch.pop("labels")
        score, tag = model(**trainer._prepare_inputs(batch)).logits.max(-1)
        tags = torch.where(score.exp() >= sure, tag, -100).cpu().tolist()
        for row, found in zip(part, tags, strict=True):
            kept = zip(found, row["word_mask"], strict=False)
            labelled.append({**row, "labels": [t if inside else -100 for t, inside in kept]})
    return labelled
