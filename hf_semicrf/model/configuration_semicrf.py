"""Configuration of a semi-Markov CRF model for token classification."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_TEXT_ENCODING_MAPPING,
    AutoConfig,
    PretrainedConfig,
)

from hf_semicrf.head import DEFAULTS, HeadSettings, without_removed
from hf_semicrf.hub import AUTO_MAP, ListedUploads, is_local, write_shim
from hf_semicrf.labels import LabelScheme, Rules
from hf_semicrf.options import check
from hf_semicrf.results import Promise
from hf_semicrf.text import BEFORE_SPLITTERS, FUNCTION, WINDOW_LENGTH, Splitter

SETTINGS = (
    *(*DEFAULTS, "label_scheme", "constraints", "splitter", "unknown", "base_model"),
    *("neighbours", "window_length"),
)


# schemes of label lists, read once: every forward pass asks for one. A dictionary and no
# `functools.cache`, through which torch.compile would trace the reading
_SCHEMES: dict[tuple[tuple[tuple[int, str], ...], str | None], LabelScheme] = {}


class SemiCRFConfig(ListedUploads, PretrainedConfig):
    """Configuration of :class:`SemiCRFForTokenClassification`.

    Args:
        encoder_config: Configuration of the encoder, or its dictionary; BERT's by default.
        labels: Tag names in the order of their ids, such as ``["O", "B-PER", "I-PER"]``; another
            way to give ``id2label``.
        label_scheme: "IOB2", "IOB1", "IOBES", "BILOU" or "plain"; recognised from the labels where
            None.
        constraints: What is allowed in every sentence, in training and in decoding alike: any of
            ``types``, ``lengths``, ``transitions``, ``initial`` and ``final``, as
            ``{"lengths": {"PER": [1, 4]}, "transitions": {"PER": ["O", "LOC"]}}``; see
            ``hf_semicrf.labels.constraints.Rules.read``.
        splitter: What a word of raw text is: a name or a pattern of `hf_semicrf.text.Splitter`. Of
            a function, which is not saved, it is recorded that there was one.
        unknown: What a word of ``word_mask`` whose label is -100 does in training: "error", or
            "marginalize" to train by the log-probability of all segmentations that agree with the
            labels that are known.
        neighbours: Which sentences the model was trained to read together with each sentence:
            "none", those of its "document", or those beside it in the "file" where the data know no
            documents. Prediction reads those of a document that is given as a list of sentences.
        window_length: Sub-words, special tokens included, up to which a sentence is read together
            with them.
        base_model: Public name of the pretrained encoder, for the model card.
        has_word_starts: Whether the model knows which tokens start a word.
        promises: The recalls that were calibrated (``SemiCRFTrainer.calibrate_recall``), each as
            `hf_semicrf.results.Promise`.
        **kwargs: The settings of the head, as `hf_semicrf.HeadSettings` lists them, such as
            ``max_segment_length``; and what every configuration takes, such as ``id2label``.

    Raises:
        ValueError: A setting is out of range or has been taken out, or the labels follow no scheme.
    """

    model_type = "semicrf"
    sub_configs = {"encoder_config": AutoConfig}

    def __init__(
        self,
        encoder_config: PretrainedConfig | dict[str, Any] | None = None,
        labels: Sequence[str] | None = None,
        *,
        label_scheme: str | None = None,
        constraints: Mapping[str, Any] | None = None,
        splitter: str | Callable[[str], Any] = "unicode",
        unknown: str = "error",
        neighbours: str = "none",
        window_length: int = WINDOW_LENGTH,
        base_model: str | None = None,
        has_word_starts: bool = False,
        promises: Sequence[Promise] = (),
        **kwargs: Any,
    ):
        kwargs = without_removed(kwargs)
        head = HeadSettings(**{name: kwargs.pop(name) for name in DEFAULTS if name in kwargs})
        if head.has_tail:
            raise ValueError(
                "expected length_prior='free' of a model of words, whose labels are cut at the "
                f"longest segment, got {head.length_prior!r}: SemiCRFForFrameClassification and "
                "the module SemiCRF take a tail"
            )
        if splitter != FUNCTION:
            splitter = Splitter.of(splitter).name
        own = check(
            label_scheme=label_scheme,
            unknown=unknown,
            neighbours=neighbours,
            window_length=window_length,
            base_model=base_model,
            has_word_starts=has_word_starts,
        )
        if encoder_config is None:
            encoder_config = {"model_type": "bert"}
        if isinstance(encoder_config, dict):
            values = dict(encoder_config)
            kind = values.pop("model_type", "bert")
            if kind not in CONFIG_MAPPING:
                raise ValueError(f"expected encoder_config of a known model_type, got {kind!r}")
            encoder_config = CONFIG_MAPPING[kind](**values)
        if not isinstance(encoder_config, PretrainedConfig):
            raise ValueError(
                f"expected encoder_config as a configuration or a dictionary, got "
                f"{encoder_config!r:.80}"
            )
        encoder_config._name_or_path = ""  # a local path would end up in config.json
        if type(encoder_config) in MODEL_FOR_TEXT_ENCODING_MAPPING:
            encoder_config.is_encoder_decoder = False  # the text encoder alone is built
        # the base class sets the encoder's to these, None included
        kwargs.setdefault("attn_implementation", encoder_config._attn_implementation)
        experts = {"encoder_config": encoder_config._experts_implementation}
        kwargs.setdefault("experts_implementation", experts)
        text_config = encoder_config.get_text_config()
        states = getattr(text_config, "num_hidden_layers", head.mix_layers) + 1
        if head.mix_layers > states:
            raise ValueError(
                f"expected mix_layers of at most {states}, the encoder's layers and its "
                f"embeddings, got {head.mix_layers}"
            )
        if labels is not None:
            LabelScheme.from_labels(labels, label_scheme)  # refuse what follows no scheme
            kwargs["id2label"] = dict(enumerate(labels))
        if kwargs.get("id2label") is not None:
            kwargs["label2id"] = {tag: int(index) for index, tag in kwargs["id2label"].items()}
        self.encoder_config = encoder_config
        for name, value in asdict(head).items():
            setattr(self, name, value)
        for name, value in own.items():
            setattr(self, name, value)
        self.constraints = dict(constraints) if isinstance(constraints, Mapping) else constraints
        self.splitter = splitter
        self.promises = list(promises)
        self.base_model = None if base_model and is_local(base_model) else base_model
        super().__init__(**kwargs)
        self.rules  # noqa: B018  (refuse constraints that cannot be met)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """A configuration from its dictionary.

        Args:
            config_dict: As `to_dict` gives it; without a splitter, that of earlier versions counts.
            **kwargs: What every configuration takes.
        """
        own = {name: kwargs.pop(name) for name in SETTINGS if name in kwargs}
        saved = {"splitter": BEFORE_SPLITTERS, **config_dict, **own}
        return super().from_dict(saved, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """All that is saved, here or beside an adapter: not the folder it was loaded from."""
        values = super().to_dict()
        values.pop("_name_or_path", None)
        return values

    def to_diff_dict(self) -> dict[str, Any]:
        """What config.json holds: all that is no default, and the splitter."""
        return {**super().to_diff_dict(), "splitter": self.splitter}

    @property
    def head_settings(self) -> HeadSettings:
        """The settings of the head, which are attributes of the same names here."""
        return HeadSettings(**{name: getattr(self, name) for name in DEFAULTS})

    @property
    def rules(self) -> Rules | None:
        """The constraints read for the types of the labels; None without any."""
        if self.constraints is None or self.constraints == {}:
            return None
        return Rules.read(self.constraints, self.scheme.types, self.max_segment_length)

    @property
    def scheme(self) -> LabelScheme:
        """The labels read as a tagging scheme."""
        names: Any = self.id2label
        key = (tuple(names.items()), self.label_scheme)
        scheme = _SCHEMES.get(key)
        if scheme is None:
            scheme = _SCHEMES[key] = LabelScheme.from_labels(names, self.label_scheme)
        return scheme

    @property
    def labels(self) -> list[str]:
        """Tag names in the order of their ids."""
        names: Any = self.id2label
        return [names[index] for index in range(len(names))]

    def get_text_config(self, *args: Any, **kwargs: Any) -> PretrainedConfig:
        """The encoder's text configuration: its vocabulary, width and positions."""
        return self.encoder_config.get_text_config(*args, **kwargs)

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoConfig") -> None:
        """Nothing to remember: every save names the Auto classes; the stock way copies files."""

    def save_pretrained(  # type: ignore[override]
        self, save_directory: str | os.PathLike, **kwargs: Any
    ) -> None:
        """Write config.json, and the shim through which the Auto classes find this package.

        Args:
            save_directory: The folder.
            **kwargs: What every configuration takes, such as ``push_to_hub``.
        """
        self.auto_map = dict(AUTO_MAP)  # one that was loaded from the Hub names its repository
        if not os.path.isfile(save_directory):  # which the base class refuses
            write_shim(save_directory)
        super().save_pretrained(os.fspath(save_directory), **kwargs)

    def _upload_modified_files(  # type: ignore[override]
        self, working_dir: str, *args: Any, **kwargs: Any
    ) -> Any:
        write_shim(working_dir)  # anew, so that it counts as modified
        return super()._upload_modified_files(working_dir, *args, **kwargs)
