"""A recognizer for Presidio's analyzer, whose scores are the probabilities of exact spans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from presidio_analyzer import AnalysisExplanation, LocalRecognizer, RecognizerResult

from hf_semicrf.integrations.tagger import load_tagger


class SemiCRFRecognizer(LocalRecognizer):
    """Finds the entities of a tagger.

    A score is the probability that the text has an entity of exactly this type and span. No word of
    context raises it.

    Args:
        model: Hub name or folder of the tagger.
        labels: Presidio's name for types of the tagger, such as ``{"PER": "PERSON"}``; types that
            are not in it keep their own.
        supported_language: Language of the texts, two letters.
        name: What results say found them.
        device: Where the tagger runs, as PyTorch calls it.
        **options: What `SemiCRFForTokenClassification.predict` takes, such as ``threshold``.

    Raises:
        ValueError: The model is no semi-CRF or has no such type, or an option is out of range.
        TypeError: An option is unknown.
    """

    def __init__(
        self,
        model: str,
        labels: Mapping[str, str] | None = None,
        supported_language: str = "en",
        name: str = "SemiCRFRecognizer",
        device: str = "cpu",
        **options: Any,
    ):
        self.tagger = load_tagger(model, device, **options)
        types = self.tagger.model.config.scheme.types[1:]
        unknown = sorted(set(labels or {}) - set(types))
        if unknown:
            raise ValueError(f"expected labels for types of {model} ({types}), got {unknown}")
        self.entity_of = {kind: (labels or {}).get(kind, kind) for kind in types}
        super().__init__(
            supported_entities=sorted(set(self.entity_of.values())),
            supported_language=supported_language,
            name=name,
        )

    def load(self) -> None:
        """Nothing: the tagger is there already."""

    def analyze(
        self, text: str, entities: Sequence[str] | None, nlp_artifacts: Any = None
    ) -> list[RecognizerResult]:
        """Find the entities of a text.

        Args:
            text: The text.
            entities: Presidio's names of those that are wanted; all where None.
            nlp_artifacts: Not read: the tagger splits the text into its own words.
        """
        results = []
        for found in self.tagger(text):
            entity, score = self.entity_of[found["label"]], found["score"]
            if entities is None or entity in entities:
                explanation = AnalysisExplanation(
                    recognizer=self.name,
                    original_score=score,
                    textual_explanation=f"posterior of exactly this {found['label']}",
                )
                metadata = {
                    RecognizerResult.RECOGNIZER_NAME_KEY: self.name,
                    RecognizerResult.RECOGNIZER_IDENTIFIER_KEY: self.id,
                }
                results.append(
                    RecognizerResult(
                        entity, found["start"], found["end"], score, explanation, metadata
                    )
                )
        return results
