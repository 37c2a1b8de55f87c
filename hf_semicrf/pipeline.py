"""``pipeline("semicrf-ner")``: texts in, entities with offsets and probabilities out, streamed."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable, Iterator, Mapping, Set, Sized
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset, IterableDataset, Subset
from transformers import AutoModelForTokenClassification, Pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from hf_semicrf.hub import ListedUploads
from hf_semicrf.inference import predict
from hf_semicrf.model import SemiCRFConfig
from hf_semicrf.options import check, check_decoding
from hf_semicrf.text import Splitter, is_prepared, prepare_tokenizer

TASK = "semicrf-ner"
OPTIONS = frozenset(
    name
    for name, parameter in inspect.signature(predict).parameters.items()
    if parameter.kind is parameter.KEYWORD_ONLY and name != "constraints"  # these are of one text
)
RUNNING = ("batch_size", "num_workers")  # None for transformers' own
ANALYZE = ("return_posteriors", "n_best")  # what `SemiCRFForTokenClassification.analyze` answers


class SemiCRFPipeline(ListedUploads, Pipeline):
    """Find entities in texts.

    ``pipeline("semicrf-ner", model=..., tokenizer=..., device=..., batch_size=...)`` makes one,
    after ``import hf_semicrf``. It takes the options of ``SemiCRFForTokenClassification.predict``
    (``threshold``, ``overlap``, ...) for all calls, and each call may overrule them.

    The stock ``pipeline("token-classification", aggregation_strategy="simple")`` gives the same
    entities, without their posteriors, where it splits the text into the same words (WordPiece cuts
    words with hyphens, Metaspace keeps punctuation at the words), the text fits the encoder and the
    labels are IOB2: of IOBES and BILOU tags it runs neighbours of one type together.

    Args:
        **arguments: What every pipeline takes, and the options.

    Raises:
        ValueError: An option is out of range, the model is no semi-CRF, or there is no tokenizer.
        TypeError: An option is unknown.
    """

    _load_processor = False
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = True

    def __init__(self, *args: Any, **arguments: Any):
        _check_running(arguments)
        super().__init__(*args, **arguments)
        if not isinstance(self.model.config, SemiCRFConfig):
            raise ValueError(
                f"expected a semi-CRF model for {TASK!r}, got {type(self.model).__name__}"
            )
        if self.tokenizer is None:
            raise ValueError("expected tokenizer=..., as there is none beside the model")
        if not is_prepared(self.tokenizer):
            self.tokenizer = prepare_tokenizer(copy.deepcopy(self.tokenizer))

    def __call__(
        self, inputs: Any, *args: Any, is_split_into_words: bool = False, **arguments: Any
    ) -> list[dict[str, Any]] | list[list[dict[str, Any]]] | Iterator[list[dict[str, Any]]]:
        """Find the entities of one text or of many.

        Args:
            inputs: A text, or a list, data set, generator or other iterable of texts. A text is a
                string, a list of words, or a row that has one of these as "text" or "tokens", and
                perhaps "offsets" and "constraints" (see ``predict``).
            *args: None that means anything.
            is_split_into_words: Whether a list of strings is one text's words, not several texts.
            **arguments: ``batch_size`` (texts read, and windows encoded, together) and the options.

        Returns:
            As ``SemiCRFForTokenClassification.predict``, the entities of a text; for a list of
            texts a list, for a data set or another iterable an iterator that reads as it is read.

        Raises:
            ValueError: An option is out of range, or a text neither a string nor a list of words.
            TypeError: An option is unknown.
        """
        check(is_split_into_words=is_split_into_words)
        _check_running(arguments)
        self._sanitize_parameters(**{k: v for k, v in arguments.items() if k not in RUNNING})
        alone = isinstance(inputs, str | Mapping) or is_split_into_words
        if alone:
            inputs = [inputs]
        elif isinstance(inputs, list | tuple):
            inputs = list(inputs)
            if not inputs:
                return []
        elif not isinstance(inputs, Dataset):
            inputs = _as_dataset(inputs)
        found = super().__call__(inputs, *args, **arguments)
        return found[0] if alone else found

    def get_iterator(
        self, inputs: Any, num_workers: int, batch_size: int, first: Any, forward: Any, last: Any
    ) -> Any:
        """The stream from texts to entities; windows are encoded in batches of `batch_size` too."""
        forward = {**forward, "batch_size": batch_size}
        return super().get_iterator(inputs, num_workers, batch_size, first, forward, last)

    def _sanitize_parameters(self, **options: Any) -> tuple[dict, dict, dict]:
        unknown = sorted(options.keys() - OPTIONS)
        if moved := [name for name in unknown if name in ANALYZE]:
            raise TypeError(
                f"{TASK} finds entities and has no option {moved}: call "
                "model.analyze(texts, tokenizer, n_best=...), which returns posteriors, entropy "
                "and the n best"
            )
        if unknown:
            raise TypeError(f"{TASK} has no option {unknown}, expected {sorted(OPTIONS)}")
        check(**{name: value for name, value in options.items() if name != "splitter"})
        Splitter.of(options.get("splitter"))
        both = {**getattr(self, "_forward_params", {}), **options}
        check_decoding(*(both.get(name) for name in ("threshold", "decode", "recall")))
        return {}, options, {}

    def preprocess(self, input_: Any) -> dict[str, Any]:
        """The text of a row; words become a tuple, which tells them from a batch of texts."""
        row = input_ if isinstance(input_, Mapping) else {"text": input_}
        text = row.get("text", row.get("tokens"))
        if row.get("offsets") is not None:
            text = {"text": text, "offsets": row["offsets"]}
        return {
            "text": tuple(text) if isinstance(text, list) else text,
            "constraints": row.get("constraints"),
        }

    def _forward(self, input_tensors: dict[str, Any], **options: Any) -> dict[str, Any]:
        texts, constraints = input_tensors["text"], input_tensors["constraints"]
        batched = isinstance(texts, list)
        if not batched:
            texts, constraints = [texts], [constraints]
        found = predict(self.model, texts, self.tokenizer, constraints=constraints, **options)
        return {"entities": found if batched else found[0]}

    def postprocess(self, model_outputs: dict[str, Any]) -> list[dict[str, Any]]:
        """The entities of a text."""
        return model_outputs["entities"]

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Save the model and the tokenizer, from which `pipeline` makes this again.

        The stock method would also copy this file into the folder and name it in the configuration,
        and such a folder loads with ``trust_remote_code`` only.

        Args:
            save_directory: The folder.
            **kwargs: What ``PreTrainedModel.save_pretrained`` takes.
        """
        self.model.save_pretrained(save_directory, **kwargs)
        self.tokenizer.save_pretrained(save_directory, **kwargs)


def _check_running(arguments: Mapping[str, Any]) -> None:
    """Refuse sizes that there are not, among what every pipeline takes."""
    check(**{name: arguments[name] for name in RUNNING if arguments.get(name) is not None})


class _Stream(IterableDataset):
    """Texts that can only be read one after the other."""

    def __init__(self, texts: Iterable[Any]):
        self.texts = texts

    def __iter__(self) -> Iterator[Any]:
        return iter(self.texts)


def _as_dataset(inputs: Any) -> Dataset:
    """What a pipeline streams from: a data set of torch's, without reading anything yet.

    Raises:
        ValueError: The input holds no texts.
    """
    no_texts = isinstance(inputs, bytes | bytearray | memoryview | Set)
    if no_texts or getattr(inputs, "ndim", 1) != 1:
        raise ValueError(f"expected a text or texts, got {type(inputs).__name__}")
    if isinstance(inputs, Sized) and hasattr(inputs, "__getitem__"):
        return Subset(inputs, range(len(inputs)))
    if isinstance(inputs, Iterable):
        return _Stream(inputs)
    raise ValueError(f"expected a text or texts, got {type(inputs).__name__}")


PIPELINE_REGISTRY.supported_tasks.pop(TASK, None)  # the entry that imports this file
PIPELINE_REGISTRY.register_pipeline(
    TASK, pipeline_class=SemiCRFPipeline, pt_model=AutoModelForTokenClassification, type="text"
)
