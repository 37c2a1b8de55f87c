"""The scores of `hf_semicrf.evaluation.metrics` as an `evaluate.Metric`; needs no download.

By class, ``SeqevalMetric()``, or by path,
``evaluate.load(hf_semicrf.evaluation.seqeval_metric.__file__)``.
(One import a line: evaluate reads the imports of a metric file line by line.)
"""

from __future__ import annotations

import datasets
import evaluate

from hf_semicrf.evaluation.metrics import entity_scores
from hf_semicrf.labels import LabelScheme

_DESCRIPTION = (
    "Strict entity-level precision, recall and F1 for tags of IOB2, IOB1, IOBES, BILOU and others."
)

_INPUTS = """
Args:
    predictions: Tag names of each sentence.
    references: The same, the truth.
    labels: All tag names of the task; by default those that occur.
    label_scheme: Their scheme, such as "plain"; by default it is recognised from the names.

Returns:
    The scores of `hf_semicrf.evaluation.metrics.entity_scores`.
"""

_CITATION = """
@misc{seqeval,
  title = {{seqeval}: A Python framework for sequence labeling evaluation},
  author = {Nakayama, Hiroki},
  url = {https://github.com/chakki-works/seqeval},
  year = {2018},
}
"""


class SeqevalMetric(evaluate.Metric):
    """Entity scores with the same numbers as `hf_semicrf.evaluation.metrics.seqeval_metrics`."""

    def _info(self) -> evaluate.MetricInfo:
        tags = datasets.Sequence(datasets.Value("string"))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": tags, "references": tags}),
        )

    def _compute(
        self,
        predictions: list[list[str]],
        references: list[list[str]],
        labels: list[str] | None = None,
        label_scheme: str | None = None,
    ) -> dict[str, float]:
        if labels is None:
            seen = {tag for rows in (predictions, references) for row in rows for tag in row}
            labels = ["O", *sorted(seen - {"O"} or {"B-ENTITY"})]
        return entity_scores(predictions, references, LabelScheme.from_labels(labels, label_scheme))
