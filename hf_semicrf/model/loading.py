"""What `from_pretrained` is asked for: settings of the head, of the encoder, of the loading."""

from __future__ import annotations

import copy
import inspect
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from transformers import (
    MODEL_FOR_TEXT_ENCODING_MAPPING,
    MODEL_MAPPING,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from hf_semicrf.head import DEFAULTS, HeadSettings, RemovedError, without_removed
from hf_semicrf.hub import read_config
from hf_semicrf.model.configuration_semicrf import SemiCRFConfig
from hf_semicrf.model.continuing import continued_settings

logger = logging.get_logger(__name__)

# what a configuration of the model takes, but for what the checkpoint decides
HEAD_ARGUMENTS = (
    *DEFAULTS,
    *(
        name
        for name, parameter in inspect.signature(SemiCRFConfig.__init__).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and name != "has_word_starts"
    ),
    "return_dict",
)
# where the files of a repository are looked for: configuration, weights and tokenizer alike
HUB_ARGUMENTS = (
    *("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder"),
    *("token", "trust_remote_code"),
)
# what PreTrainedModel.from_pretrained takes out of its **kwargs, in any of the versions supported
LOADER_ARGUMENTS = {
    *HUB_ARGUMENTS,
    *inspect.signature(PreTrainedModel.from_pretrained).parameters,
    *("adapter_kwargs", "adapter_name", "allow_all_kernels", "attn_implementation"),
    *("code_revision", "device_map", "device_mesh", "distributed_config", "dtype"),
    *("experts_implementation", "generation_config", "kernel_config", "key_mapping"),
    *("low_cpu_mem_usage", "max_memory", "offload_buffers", "offload_folder"),
    *("output_loading_info", "quantization_config", "state_dict", "torch_dtype", "tp_plan"),
    *("tp_size", "tqdm_class", "use_kernels", "variant"),
} - {"kwargs", "model_args"}


class Request(NamedTuple):
    """The arguments of `from_pretrained`, checked and sorted.

    Args:
        config: The model's configuration, the overrides of head and encoder applied.
        saved: Whether the checkpoint is a whole model, and not an encoder's.
        loader: What is left for the loader of the weights.
        before: The saved model's own configuration, where its types or lengths may change.
    """

    config: SemiCRFConfig
    saved: bool
    loader: dict[str, Any]
    before: SemiCRFConfig | None = None

    @classmethod
    def read(
        cls,
        name: str | None,
        config: Any,
        labels: Sequence[str] | None,
        arguments: Mapping[str, Any],
    ) -> Request:
        """Sort the arguments; reads the checkpoint's configuration and nothing else.

        Args:
            name: Hub name or folder; None with a ``state_dict``.
            config: Configuration of the model or of the encoder, where to read one, or None.
            labels: Tag names in the order of their ids.
            arguments: All others, by name.

        Raises:
            ValueError: There are no labels, or a value is out of range or contradicts another.
            TypeError: An argument is unknown.
        """
        arguments = {"use_safetensors": True} | without_removed(arguments)  # no pickles
        hub = hub_arguments(arguments)
        if isinstance(config, str | os.PathLike):
            config = read_config(config, **hub)
        stored: Any = _stored_config(name, config, hub)
        saved = isinstance(stored, SemiCRFConfig)
        config = copy.deepcopy(stored if config is None else config)
        encoder = getattr(config, "encoder_config", config)
        found = getattr(stored, "encoder_config", stored)
        if encoder.model_type != found.model_type:
            raise ValueError(
                f"expected the configuration of a {found.model_type} encoder, which {name!r} "
                f"holds, got that of a {encoder.model_type} encoder"
            )
        if saved and encoder is config:
            config = copy.deepcopy(stored)
            config.encoder_config = encoder

        head = {key: arguments.pop(key) for key in HEAD_ARGUMENTS if key in arguments}
        asked = labels is not None or {"id2label", "label2id"} & arguments.keys()
        labels = _labels(labels, config, arguments)
        if labels is None:
            raise ValueError(
                f"{name!r} is a {type(config).__name__} encoder without a semi-CRF head: expected "
                "labels=[...], such as ['O', 'B-PER', 'I-PER'], got None"
            )
        before = None
        longest = head.get("max_segment_length")
        if longest is not None:
            HeadSettings(max_segment_length=longest)  # refuse what is no length
        if saved and (asked or (longest or 0) > stored.max_segment_length):
            before = copy.deepcopy(stored)
            scheme = head.get("label_scheme")
            kept = labels if asked else None
            head |= continued_settings(
                stored.scheme, stored.max_segment_length, kept, scheme, longest
            )._asdict()
            labels = head.pop("labels")
        if isinstance(config, SemiCRFConfig):
            head = head_arguments(config) | head
        if not saved and head.get("base_model") is None:
            head["base_model"] = None if name is None else str(name)
        checked = SemiCRFConfig(encoder, labels=labels, **head)
        if saved:
            for key in (*HEAD_ARGUMENTS, "id2label", "label2id"):
                setattr(config, key, getattr(checked, key))
        for key in list(arguments):
            if key not in LOADER_ARGUMENTS and hasattr(encoder, key):
                setattr(encoder, key, arguments.pop(key))
        unknown = [k for k in arguments if k not in LOADER_ARGUMENTS and not k.startswith("_")]
        if unknown:
            raise TypeError(
                f"from_pretrained got unknown arguments {unknown}: no settings of the head "
                f"({', '.join(HEAD_ARGUMENTS)}), of {type(encoder).__name__} or of loading"
            )
        if saved and isinstance(arguments.get("experts_implementation"), str):
            arguments["experts_implementation"] = {  # the head has no experts
                "encoder_config": arguments["experts_implementation"]
            }
        return cls(config if saved else checked, saved, arguments, before)


def head_arguments(config: SemiCRFConfig) -> dict[str, Any]:
    """What a configuration says of the head, as arguments of another configuration."""
    return {name: getattr(config, name) for name in HEAD_ARGUMENTS}


def hub_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the arguments that say where files are looked for."""
    return {name: arguments[name] for name in HUB_ARGUMENTS if name in arguments}


def encoder_class(config: PretrainedConfig) -> type[PreTrainedModel]:
    """The class that encodes text under a configuration; of an encoder-decoder, its encoder.

    Raises:
        ValueError: transformers has no model for the configuration.
    """
    for mapping in (MODEL_FOR_TEXT_ENCODING_MAPPING, MODEL_MAPPING):
        if type(config) in mapping:
            found: Any = mapping[type(config)]
            return found[0] if isinstance(found, tuple) else found
    raise ValueError(f"expected the configuration of a text encoder, got {type(config).__name__}")


def accepted(function: Any, **arguments: Any) -> dict[str, Any]:
    """Those of the arguments that the function names in its signature."""
    names = inspect.signature(function).parameters
    return {name: value for name, value in arguments.items() if name in names}


def vocabulary_size(encoder: PreTrainedModel) -> int:
    """Rows of the encoder's token embeddings; 0 for one that reads characters without them."""
    try:
        embeddings: Any = encoder.get_input_embeddings()
        return len(embeddings.weight)
    except NotImplementedError:
        return 0


def tokenizer_of(name: str | None, hub: Mapping[str, Any]) -> PreTrainedTokenizerBase | None:
    """The tokenizer beside an encoder; None where there is none that can be read."""
    try:
        return AutoTokenizer.from_pretrained(name, **hub)
    except Exception as error:  # what is missing shows in a way of each tokenizer class's own
        logger.info(f"No tokenizer was read from {name}: {error}")
        return None


def _stored_config(
    name: str | None, config: PretrainedConfig | None, hub: Mapping[str, Any]
) -> PretrainedConfig | None:
    """The configuration beside the weights; the one that was given where there is none."""
    try:
        return read_config(name, **hub) if name is not None else config
    except RemovedError:
        raise
    except (OSError, ValueError):
        if config is None:
            raise
        return config


def _labels(
    labels: Sequence[str] | None, config: PretrainedConfig, arguments: dict[str, Any]
) -> list[str] | None:
    """The tag names in the order of their ids, however they are given; None if they are not.

    Takes ``id2label``, ``label2id`` and ``num_labels`` out of the arguments.
    """
    if isinstance(labels, str) or not isinstance(labels, Iterable | None):
        raise ValueError(f"expected a list of labels, got {labels!r:.80}")
    ways = {"labels": None if labels is None else list(labels)}
    id2label, label2id = arguments.pop("id2label", None), arguments.pop("label2id", None)
    if id2label is not None:
        ways["id2label"] = [id2label[index] for index in sorted(id2label, key=int)]
    if label2id is not None:
        ways["label2id"] = sorted(label2id, key=lambda tag: int(label2id[tag]))
    given = {way: names for way, names in ways.items() if names is not None}
    names = next(iter(given.values()), None)
    if any(other != names for other in given.values()):
        raise ValueError(f"expected {' and '.join(given)} to name the same tags, got {given}")
    if names is None:
        stored: Any = config.id2label
        names = [stored[index] for index in sorted(stored)]
        if all(tag.startswith("LABEL_") for tag in names):  # what stands there by default
            names = None
    count = arguments.pop("num_labels", None)
    if names is not None and count not in (None, len(names)):
        raise ValueError(f"expected num_labels={len(names)} for the labels {names}, got {count}")
    return names
