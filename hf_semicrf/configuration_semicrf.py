"""Configuration of a semi-Markov CRF model for token classification."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_TEXT_ENCODING_MAPPING,
    AutoConfig,
    PretrainedConfig,
)

from hf_semicrf.constraints import Rules
from hf_semicrf.head import check_settings
from hf_semicrf.hub import AUTO_MAP, write_shim
from hf_semicrf.segments import LabelScheme

WORD_POOLINGS = ("first", "mean")
UNKNOWN = ("error", "marginalize")


@cache
def _scheme(id2label: tuple[tuple[int, str], ...], name: str | None) -> LabelScheme:
    """The scheme of a label list, read once: every forward pass asks for it."""
    return LabelScheme.from_labels(dict(id2label), name)


class SemiCRFConfig(PretrainedConfig):
    """Configuration of :class:`SemiCRFForTokenClassification`.

    Args:
        encoder_config: Configuration of the encoder, or its dictionary; BERT's by default.
        labels: Tag names in the order of their ids, such as ``["O", "B-PER", "I-PER"]``; another
            way to give ``id2label``.
        max_segment_length: Longest segment L, in words.
        scorer: How hidden states score segments: "sum", "boundary", "mlp", "entity", "length",
            "biaffine", "pointer", or "span" (see ``hf_semicrf.scorers``), or several
            joined by "+", which are added.
        head_dropout: Probability of dropping a hidden unit before scoring.
        head_width: Units of the head's own hidden layers.
        mix_layers: How many of the encoder's last layers the head reads, in a learned mix; 0 for
            the last one alone. Its embeddings count as one.
        context: A mixer of neighbouring words before scoring: "convolution", "lstm" or None.
        label_smoothing: Share of the training target that is spread over all types.
        token_loss: Weight in training of a cross-entropy on each word's type.
        word_dropout: Probability in training of hiding a word from the encoder (its sub-words
            become the mask token); its label stays.
        head_temperature: What all scores are divided by in decoding; above 1 it is less sure.
        threshold: Posterior that a segment has to exceed to be predicted; lower means more recall
            and less precision. None predicts the most probable segmentation as a whole (Viterbi).
        word_pooling: What a word's hidden state is: its "first" sub-word's, or the "mean" of all.
        potentials: "factored", or "edge" to train and decode on the dense edge tensor.
        label_scheme: "IOB2", "IOB1", "IOBES", "BILOU" or "plain"; recognised from the labels where
            None.
        constraints: What is allowed in every sentence, in training and in decoding alike: any of
            ``types``, ``lengths``, ``transitions``, ``initial`` and ``final``, as
            ``{"lengths": {"PER": [1, 4]}, "transitions": {"PER": ["O", "LOC"]}}``; see
            ``hf_semicrf.constraints.Rules.read``.
        unknown: What a word of ``word_mask`` whose label is -100 does in training: "error", or
            "marginalize" to train by the log-probability of all segmentations that agree with the
            labels that are known.
        base_model: Public name of the pretrained encoder, for the model card.
        has_word_starts: Whether the model knows which tokens start a word.
        dropped_token_id: The token that ``word_dropout`` puts in a word's place.
        **kwargs: What every configuration takes, such as ``id2label``.

    Raises:
        ValueError: A size or name is out of range, or the labels follow no scheme.
    """

    model_type = "semicrf"
    sub_configs = {"encoder_config": AutoConfig}

    def __init__(
        self,
        encoder_config: PretrainedConfig | dict[str, Any] | None = None,
        labels: Sequence[str] | None = None,
        max_segment_length: int = 8,
        scorer: str = "span",
        head_dropout: float = 0.1,
        head_width: int = 192,
        mix_layers: int = 0,
        context: str | None = None,
        label_smoothing: float = 0.0,
        token_loss: float = 0.0,
        word_dropout: float = 0.0,
        head_temperature: float = 1.0,
        threshold: float | None = 0.4,
        word_pooling: str = "first",
        potentials: str = "factored",
        label_scheme: str | None = None,
        constraints: Mapping[str, Any] | None = None,
        unknown: str = "error",
        base_model: str | None = None,
        has_word_starts: bool = False,
        dropped_token_id: int | None = None,
        **kwargs: Any,
    ):
        if isinstance(max_segment_length, bool) or not isinstance(max_segment_length, int):
            raise ValueError(f"expected max_segment_length as an int, got {max_segment_length!r}")
        if max_segment_length < 1:
            raise ValueError(
                f"expected max_segment_length of at least 1 word, got {max_segment_length}"
            )
        check_settings(
            scorer,
            threshold,
            potentials,
            head_temperature,
            context,
            head_width,
            mix_layers,
            label_smoothing,
            token_loss,
        )
        if not 0 <= word_dropout < 1:
            raise ValueError(f"expected word_dropout in 0..1, below 1, got {word_dropout}")
        if word_pooling not in WORD_POOLINGS:
            raise ValueError(f"expected a word_pooling among {WORD_POOLINGS}, got {word_pooling!r}")
        if unknown not in UNKNOWN:
            raise ValueError(f"expected unknown among {UNKNOWN}, got {unknown!r}")
        if encoder_config is None:
            encoder_config = {"model_type": "bert"}
        if isinstance(encoder_config, dict):
            values = dict(encoder_config)
            encoder_config = CONFIG_MAPPING[values.pop("model_type", "bert")](**values)
        encoder_config._name_or_path = ""  # a local path would end up in config.json
        if type(encoder_config) in MODEL_FOR_TEXT_ENCODING_MAPPING:
            encoder_config.is_encoder_decoder = False  # the text encoder alone is built
        # the base class sets the encoder's to these, None included
        kwargs.setdefault("attn_implementation", encoder_config._attn_implementation)
        experts = {"encoder_config": encoder_config._experts_implementation}
        kwargs.setdefault("experts_implementation", experts)
        text_config = encoder_config.get_text_config()
        states = getattr(text_config, "num_hidden_layers", mix_layers) + 1
        if mix_layers > states:
            raise ValueError(
                f"expected mix_layers of at most {states}, the encoder's layers and its "
                f"embeddings, got {mix_layers}"
            )
        if labels is not None:
            LabelScheme.from_labels(labels, label_scheme)  # refuse what follows no scheme
            kwargs["id2label"] = dict(enumerate(labels))
        if kwargs.get("id2label") is not None:
            kwargs["label2id"] = {tag: int(index) for index, tag in kwargs["id2label"].items()}
        self.encoder_config = encoder_config
        self.max_segment_length = max_segment_length
        self.scorer = scorer
        self.head_dropout = head_dropout
        self.head_width = head_width
        self.mix_layers = mix_layers
        self.context = context
        self.label_smoothing = label_smoothing
        self.token_loss = token_loss
        self.word_dropout = word_dropout
        self.dropped_token_id = dropped_token_id
        self.head_temperature = head_temperature
        self.threshold = threshold
        self.word_pooling = word_pooling
        self.potentials = potentials
        self.label_scheme = label_scheme
        self.constraints = constraints and dict(constraints)
        self.unknown = unknown
        self.has_word_starts = has_word_starts
        self.base_model = None if base_model and os.path.isdir(base_model) else base_model
        super().__init__(**kwargs)
        self.rules  # noqa: B018  (refuse constraints that cannot be met)

    @property
    def rules(self) -> Rules | None:
        """The constraints read for the types of the labels; None without any."""
        if not self.constraints:
            return None
        return Rules.read(self.constraints, self.scheme.types, self.max_segment_length)

    @property
    def scheme(self) -> LabelScheme:
        """The labels read as a tagging scheme."""
        return _scheme(tuple(self.id2label.items()), self.label_scheme)

    @property
    def labels(self) -> list[str]:
        """Tag names in the order of their ids."""
        return [self.id2label[index] for index in range(len(self.id2label))]

    def get_text_config(self, *args: Any, **kwargs: Any) -> PretrainedConfig:
        """The encoder's text configuration: its vocabulary, width and positions."""
        return self.encoder_config.get_text_config(*args, **kwargs)

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoConfig") -> None:
        """Nothing to remember: every save names the Auto classes; the stock way copies files."""

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Write config.json, and the shim through which the Auto classes find this package.

        Args:
            save_directory: The folder.
            **kwargs: What every configuration takes, such as ``push_to_hub``.
        """
        self.auto_map = dict(AUTO_MAP)  # one that was loaded from the Hub names its repository
        if not os.path.isfile(save_directory):  # which the base class refuses
            write_shim(save_directory)
        super().save_pretrained(os.fspath(save_directory), **kwargs)

    def _upload_modified_files(self, working_dir: str, *args: Any, **kwargs: Any) -> Any:
        write_shim(working_dir)  # anew, so that it counts as modified
        return super()._upload_modified_files(working_dir, *args, **kwargs)
