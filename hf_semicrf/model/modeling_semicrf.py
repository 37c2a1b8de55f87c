"""A transformers encoder with a semi-Markov CRF head, over the words of a sentence."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput, logging

from hf_semicrf.head import Scored, SemiCRF, SemiCRFOutput
from hf_semicrf.hub import ListedUploads, card_files, card_for_push, is_local
from hf_semicrf.inference import analyze, predict, predict_stream, redact
from hf_semicrf.labels import UNKNOWN_TAG, Known, Rules, split_long_segments
from hf_semicrf.model.configuration_semicrf import SemiCRFConfig
from hf_semicrf.model.continuing import continued_state
from hf_semicrf.model.loading import (
    Request,
    accepted,
    encoder_class,
    head_arguments,
    hub_arguments,
    tokenizer_of,
    vocabulary_size,
)
from hf_semicrf.model.tag_logits import tag_logits
from hf_semicrf.ops import Potentials, TailedPotentials, kernels_for, mean_loss, preload
from hf_semicrf.options import check_decoding
from hf_semicrf.results import Entity, Prediction, Redaction
from hf_semicrf.text import Lattice, word_pieces, word_start_table, word_starts

logger = logging.get_logger(__name__)


@dataclass
class SemiCRFTokenClassifierOutput(ModelOutput):
    """Output of :class:`SemiCRFForTokenClassification`.

    Args:
        loss: Negative log-likelihood in nats a word (or over ``num_items_in_batch``).
        logits: Log posterior of each tag at each sub-word [B, T, len(id2label)], float32; its
            argmax is the decoded tagging. Sub-words after a word's first repeat it, inside. None
            while training, or where they are not asked for.
        segment_posteriors: Probability of the decoded segment that covers each word's first
            sub-word [B, T], on request.
        potentials: Scores of all segmentations, before the temperature, and the labels' one, on
            request.
        head: All that the head computed, over words, on request.
        hidden_states: The encoder's, on request.
        attentions: The encoder's, on request.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    segment_posteriors: Tensor | None = None
    potentials: Scored | None = None
    head: SemiCRFOutput | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class SemiCRFForTokenClassification(ListedUploads, PreTrainedModel):
    """Any transformers encoder with a semi-Markov CRF over words.

    Args:
        config: Configuration of the model.
        encoder: A loaded encoder to put the head on; built from the configuration where None.
    """

    config: SemiCRFConfig
    text_encoder: PreTrainedModel
    classifier: SemiCRF
    word_starts: Tensor
    hf_device_map: dict[str, Any]
    config_class = SemiCRFConfig
    base_model_prefix = "text_encoder"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = True  # the loss is divided by num_items_in_batch in forward
    _no_split_modules = ["SemiCRF"]

    def __init__(self, config: SemiCRFConfig, encoder: PreTrainedModel | None = None):
        built = encoder_class(config.encoder_config) if encoder is None else type(encoder)
        for flag in ("_supports_sdpa", "_supports_flash_attn", "_supports_flex_attn"):
            setattr(self, flag, getattr(built, flag, False))
        super().__init__(config)
        preload()
        if is_local(self.name_or_path or ""):
            self.name_or_path = ""  # peft writes this beside an adapter; the configuration knows it
        scheme = config.scheme
        if encoder is None:
            extra = accepted(built.__init__, add_pooling_layer=False)
            encoder = built._from_config(config.encoder_config, **extra)
        self.text_encoder = encoder
        self.encoder_inputs = frozenset(inspect.signature(encoder.forward).parameters)
        self.classifier = SemiCRF(
            hidden_size=config.encoder_config.get_text_config().hidden_size,
            num_types=len(scheme.types),
            settings=config.head_settings,
            rules=config.rules,
        )
        # whether a token is special (0), starts a word (1) or goes on with one (2)
        table = torch.empty(vocabulary_size(encoder), dtype=torch.int8)
        self.register_buffer("word_starts", table)
        self._looked_at_labels = False
        self._on_every_piece: Tensor | None = None  # whether labels stood there, on the host
        self.post_init()

    def _init_weights(self, module: torch.nn.Module) -> None:
        if isinstance(module, SemiCRF):
            module.reset_parameters()
        elif module is self:
            torch.nn.init.ones_(self.word_starts)
        else:
            super()._init_weights(module)

    def get_input_embeddings(self) -> torch.nn.Module:
        """The encoder's token embeddings."""
        return self.text_encoder.get_input_embeddings()

    def set_input_embeddings(self, value: torch.nn.Module) -> None:
        """Replace the encoder's token embeddings."""
        self.text_encoder.set_input_embeddings(value)

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path: str | None,
        *,
        config: PretrainedConfig | str | None = None,
        labels: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> SemiCRFForTokenClassification:
        """Load a saved model, or put a new head on a pretrained encoder.

        Args:
            pretrained_model_name_or_path: Hub name or folder of either.
            config: Configuration of the model or of its encoder, to use in place of the stored one.
            labels: Tag names in the order of their ids, for a new head; ``id2label``, ``label2id``
                or the names in ``config`` do too.
            **kwargs: Settings of the head (``max_segment_length``, ``scorer`` and all that
                `SemiCRFConfig` takes); overrides of the encoder's configuration; and what
                ``from_pretrained`` takes anywhere (dtype, attn_implementation, revision, ...).

        Returns:
            The model in evaluation mode; with ``output_loading_info=True`` also what was found in
            the checkpoint.

        Raises:
            ValueError: A new head was given no labels, or a setting is out of range; nothing has
                been loaded then.
            TypeError: An argument is unknown; likewise.
        """
        name = pretrained_model_name_or_path
        asked, saved, loader, before = Request.read(name, config, labels, kwargs)
        if before is not None and _resized(before, asked):
            return cls._continued(name, before, asked, loader)
        if saved:
            return super().from_pretrained(name, config=asked, **loader)
        with_info = loader.pop("output_loading_info", False)
        built: Any = encoder_class(asked.encoder_config)
        extra = accepted(built.__init__, add_pooling_layer=False)
        encoder, info = built.from_pretrained(
            name, config=asked.encoder_config, output_loading_info=True, **extra, **loader
        )
        # the encoder's loader has settled its attention, and noted where it comes from
        settled = SemiCRFConfig(encoder.config, labels=asked.labels, **head_arguments(asked))
        model = cls(settled, encoder=encoder)
        if len(model.word_starts) and (tokenizer := tokenizer_of(name, hub_arguments(kwargs))):
            model.use_tokenizer(tokenizer)
        model.classifier.to(dtype=encoder.dtype, device=encoder.device)
        model.word_starts = model.word_starts.to(encoder.device)
        if (device_map := getattr(encoder, "hf_device_map", None)) is not None:
            parts = {
                f"text_encoder.{part}".rstrip("."): place for part, place in device_map.items()
            }
            model.hf_device_map = {**parts, "classifier": encoder.device}
        model.eval()
        logger.warning(
            "The head of %s is newly initialized on %s: classifier.*. You should probably TRAIN "
            "this model on a down-stream task.", cls.__name__, name
        )  # fmt: skip
        if with_info:
            head = {f"classifier.{part}" for part in model.classifier.state_dict()}
            info["missing_keys"] = set(info["missing_keys"]) | head
            return model, info  # type: ignore[return-value]
        return model

    @classmethod
    def _continued(
        cls, name: Any, before: SemiCRFConfig, config: SemiCRFConfig, loader: dict[str, Any]
    ) -> Any:
        """A saved model with other types or lengths; what both know is the saved model's.

        Args:
            name: Hub name or folder.
            before: The saved configuration.
            config: The new one.
            loader: For the loader of the weights.
        """
        loaded: Any = super().from_pretrained(name, config=before, **loader)
        saved, *info = loaded if isinstance(loaded, tuple) else (loaded,)
        model = cls(config, encoder=saved.text_encoder)
        model.classifier.to(dtype=saved.classifier.duration_bias.dtype, device=saved.device)
        state = continued_state(
            saved.classifier.state_dict(),
            model.classifier.state_dict(),
            before.scheme.types,
            config.scheme.types,
        )
        model.classifier.load_state_dict(state)
        model.word_starts = saved.word_starts
        model.eval()
        added = [kind for kind in config.scheme.types if kind not in before.scheme.types]
        if added:
            logger.warning("The types %s are newly initialized.", ", ".join(added))
        return (model, *info) if info else model

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoModel") -> None:
        """Nothing to remember: every save names the Auto classes; the stock way copies files."""

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """Write weights, config.json and the shim through which the Auto classes find this package.

        Args:
            save_directory: The folder.
            *args: What every model takes.
            **kwargs: The same, such as ``push_to_hub`` and ``max_shard_size``.
        """
        # a push from this folder would overwrite the card that lies in it
        self._card_files = card_files(save_directory) if kwargs.get("push_to_hub") else {}
        super().save_pretrained(os.fspath(save_directory), *args, **kwargs)

    def _upload_modified_files(  # type: ignore[override]
        self, working_dir: str, repo_id: str, *args: Any, **kwargs: Any
    ) -> Any:
        files = self._card_files or card_for_push(self, repo_id, kwargs.get("token"))
        for name, content in files.items():  # over the stock card, which has just been written
            Path(working_dir, name).write_bytes(content)
        return super()._upload_modified_files(working_dir, repo_id, *args, **kwargs)

    def use_tokenizer(self, tokenizer: Any) -> None:
        """Remember which tokens start a word.

        Args:
            tokenizer: The encoder's tokenizer.
        """
        table = word_start_table(tokenizer, len(self.word_starts))
        self.word_starts.copy_(table)
        self.config.has_word_starts = True

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        word_mask: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        threshold: float | None = None,
        decode: Literal["viterbi"] | None = None,
        allowed_types: Tensor | None = None,
        allowed_segments: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        output_logits: bool = True,
        output_segment_posteriors: bool = False,
        output_potentials: bool = False,
        output_head: bool = False,
        return_dict: bool | None = None,
    ) -> SemiCRFTokenClassifierOutput | tuple[Tensor, ...]:
        """Tag a batch, and score its labels where they are given.

        Args:
            input_ids: Token ids [B, T].
            attention_mask: 0 on padding [B, T].
            token_type_ids: For encoders that take them [B, T].
            position_ids: For encoders that take them [B, T].
            inputs_embeds: Embeddings instead of ids [B, T, H].
            word_mask: True on the first sub-word of every word [B, T]; where None, the positions
                with labels other than -100, and without labels the tokens that start a word.
            labels: Tag ids on the words' first sub-words [B, T], -100 elsewhere.
            num_items_in_batch: What the summed loss is divided by; the number of words where None.
            threshold: Posterior that a segment has to exceed, instead of the model's own (see
                `set_threshold`).
            decode: "viterbi" for the most probable segmentation as a whole, whatever the model's
                threshold.
            allowed_types: With ``unknown="marginalize"``, the segment types that a word whose label
                is -100 may have, as the bits of an integer [B, T] (``types_as_bits``); -1 allows
                all.
            allowed_segments: Which segments may occur [B, N, L, C] bool, by word, length less one
                and type; N is T.
            output_attentions: Whether to return the encoder's attentions.
            output_hidden_states: Whether to return the encoder's hidden states.
            output_logits: Whether to return the tags' log posteriors.
            output_segment_posteriors: Whether to return the decoded segments' probabilities.
            output_potentials: Whether to return the scores of all segmentations and the one that
                the labels say, instead of decoding.
            output_head: Whether to return all that the head computed, with the posteriors of the
                decoded segments.
            return_dict: Whether to return an output object instead of a tuple.

        Raises:
            ValueError: An option is out of range, ``output_potentials`` or training mode without
                labels, or there is no way to tell the words. On the CPU also a word's label is -100
                (unless ``unknown="marginalize"``) or out of range, or labels break constraints.
        """
        threshold = check_decoding(threshold, decode)
        if output_potentials and labels is None:
            raise ValueError("expected labels together with output_potentials, got none")
        lattice = self._lattice(input_ids, attention_mask, word_mask, labels)
        if self.training and labels is None:
            raise ValueError(
                "expected labels in training mode, got none: call model.eval() to predict; a "
                "Trainer's label_smoothing_factor takes the labels away"
            )
        inputs = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
            "position_ids": position_ids,
            "inputs_embeds": inputs_embeds,
        }
        mixed = self.config.mix_layers > 0
        encoded = self._encode(
            inputs,
            output_attentions=output_attentions,
            output_hidden_states=True if mixed else output_hidden_states,
        )
        types, starts, known = self._targets(labels, allowed_types, lattice, output_potentials)
        head = self.classifier(
            lattice.gather(self._states(encoded), self.classifier.duration_bias.dtype),
            lattice.positions,
            types,
            starts,
            decode=False if self.training or output_potentials else decode or True,
            segment_marginals=output_segment_posteriors
            or output_head
            or (output_logits and self.config.scheme.marks_ends),
            threshold=threshold,
            known=known,
            allowed=allowed_segments,
        )
        loss = None
        if head.nll is not None:
            self._check_possible(head.nll, lattice.lengths)
            loss = mean_loss(head.nll, lattice.lengths, num_items_in_batch)
        logits = posteriors = None
        if head.marginals is not None and output_logits:
            logits = tag_logits(self.config.scheme, head, lattice)
        if head.segment_posteriors is not None and output_segment_posteriors:
            posteriors = lattice.scatter(head.segment_posteriors)
        states = None if mixed and not output_hidden_states else encoded.get("hidden_states")
        scored = None
        if output_potentials and types is not None and starts is not None:
            scored = Scored(head.potentials, types, starts)
        output = SemiCRFTokenClassifierOutput(
            loss=loss,
            logits=logits,
            segment_posteriors=posteriors,
            potentials=scored,
            head=head if output_head else None,
            hidden_states=states,
            attentions=encoded.get("attentions"),
        )
        return_dict = self.config.return_dict if return_dict is None else return_dict
        return output if return_dict else output.to_tuple()

    def set_threshold(self, threshold: float | None, threshold_factor: float | None = None) -> None:
        """Change what decoding asks of a segment's posterior, here and in the configuration.

        Args:
            threshold: A probability; None for the most probable segmentation as a whole. The F1 of
                a corpus is highest at about half its value.
            threshold_factor: What each word after a segment's first multiplies it by; None for
                what it was.

        Raises:
            ValueError: It is no probability, or the factor is not above 0 and at most 1.
        """
        settings = replace(self.config.head_settings, threshold=threshold)
        if threshold_factor is not None:
            settings = replace(settings, threshold_factor=threshold_factor)
        for name in ("threshold", "threshold_factor"):
            setattr(self.config, name, getattr(settings, name))
            self._set_on_heads(name, getattr(settings, name))

    def set_constraints(self, constraints: Mapping[str, Any] | None) -> None:
        """Change what is allowed in every sentence, here and in the configuration.

        Args:
            constraints: As `SemiCRFConfig` takes them; None for none.

        Raises:
            ValueError: They cannot be met, or name what there is not; nothing has changed then.
        """
        types, longest = self.config.scheme.types, self.config.max_segment_length
        rules = Rules.read(constraints, types, longest) if constraints else None
        self.config.constraints = dict(constraints) if constraints else None
        self._set_on_heads("rules", rules)

    def set_temperature(self, temperature: float) -> None:
        """Change how sure decoding and posteriors are, here and in the configuration.

        Args:
            temperature: What all scores are divided by; 1 leaves them as they were trained.

        Raises:
            ValueError: It is no number above 0.
        """
        settings = replace(self.config.head_settings, head_temperature=temperature)
        temperature = settings.head_temperature
        self.config.head_temperature = temperature
        self._set_on_heads("temperature", temperature)

    def _set_on_heads(self, name: str, value: Any) -> None:
        """Change a setting of the head; PEFT keeps two of them, the frozen and the trained one."""
        for module in self.modules():
            if isinstance(module, SemiCRF):
                setattr(module, name, value)

    def predict(
        self,
        texts: Sequence[str | Sequence[str] | Sequence[Sequence[str]] | Mapping[str, Any]],
        tokenizer: Any,
        batch_size: int = 32,
        *,
        threshold: float | None = None,
        decode: Literal["viterbi"] | None = None,
        recall: float | None = None,
        max_length: int | None = None,
        overlap: int | None = None,
        constraints: Sequence[Sequence[Mapping[str, Any]] | None] | None = None,
        splitter: str | Callable[[str], Any] | None = None,
        cuda_graphs: bool = False,
    ) -> list[list[Entity]]:
        """Find the entities of texts, in their order.

        A text of more sub-words than the encoder takes is read in overlapping windows, each word in
        the one where it has most context. The seams go through no entity of either window, unless
        the two contradict each other throughout; then the less probable entities are given up.

        Args:
            texts: Raw strings, split into words here, lists of words, mappings of a "text" and
                the "offsets" of its words, (first character, character after the last) of each; or
                documents, lists of sentences that are lists of words. Texts are independent; a
                sentence of a document is read with those around it if the model was trained to.
            tokenizer: The encoder's tokenizer.
            batch_size: Windows that are encoded together.
            threshold: Posterior that an entity of one word has to exceed: lower means more recall
                and less precision. None takes the model's own. For longer ones the model's
                ``threshold_factor`` counts in either case.
            decode: "viterbi" for the entities of the most probable segmentation as a whole,
                whatever the model's threshold.
            recall: A recall that the model was calibrated for: every segment is returned whose
                posterior is at least the threshold that was found then, overlapping ones too.
            max_length: Sub-words in a window, special tokens included; the encoder's limit by
                default. Long windows can be worse than short ones where the encoder was fine-tuned
                on short texts.
            overlap: Words that neighbouring windows share, at most half of a window's; by default a
                quarter of a window, and at least ``max_segment_length``. The last window begins as
                early as it fits.
            constraints: For each text None or a list of what is known of its spans: mappings with
                "start" and "end" (of whole words, in the units of the entities) and "label", the
                type of the entity that is exactly this span (so that an entity found before can be
                given back), a list of types or None for any; or "O" where no word of the span lies
                in an entity. With "exclude" true, exactly this span is no such entity. What they
                forbid has probability 0; they take a mask [B, N, L, C] of each batch.
            splitter: Cuts strings into words, instead of the model's own: a name or a pattern of
                `hf_semicrf.text.Splitter`, or a function from a text to (start, end) pairs. A model
                that was made with a function needs it here.
            cuda_graphs: Whether to capture, for each size of a batch, what the model launches on a
                GPU, and replay it in one launch: for small encoders, whose launches take longer
                than their kernels. Sizes are few: lengths are padded to four from one power of two
                to the next, rows to powers of two. A size met first takes three runs of the model,
                and the graphs keep the memory of the largest. They stay with the model until its
                weights move or its settings change.

        Returns:
            For each text a list of entities, dictionaries: ``label``, ``score`` (the probability of
            exactly this segment), ``start`` and ``end`` (half-open; characters of a string, words
            of a list, counted through all sentences of a document) and ``text``.

        Raises:
            ValueError: An option is out of range, ``texts`` is no list (but a string, a set or a
                stream, say: see `predict_stream`), a text is none of these, the tokenizer is none,
                scores are not finite, no segmentation meets the constraints, or ``cuda_graphs`` is
                asked for and the model is not on one CUDA device. Of a recall also: the model was
                not calibrated for it, or something differs on which its promise depends.
            RuntimeError: With ``cuda_graphs``, the encoder cannot be captured.
        """
        return predict(
            self,
            texts,
            tokenizer,
            batch_size,
            threshold=threshold,
            decode=decode,
            recall=recall,
            max_length=max_length,
            overlap=overlap,
            constraints=constraints,
            splitter=splitter,
            cuda_graphs=cuda_graphs,
        )

    def predict_stream(
        self,
        texts: Iterable[str | Sequence[str] | Mapping[str, Any]],
        tokenizer: Any,
        batch_size: int = 32,
        *,
        constraints: Iterable[Sequence[Mapping[str, Any]] | None] | None = None,
        texts_at_once: int | None = None,
        **options: Any,
    ) -> Iterator[list[Entity]]:
        """Find the entities of a stream of texts, in constant memory.

        The texts are read in the caller's thread, and cut into words and sub-words in another one,
        which ends with the iterator.

        Args:
            texts: As `predict` takes them, in any iterable.
            tokenizer: The encoder's tokenizer.
            batch_size: Windows that are encoded together.
            constraints: For each text what is known of its spans, or None; any iterable.
            texts_at_once: Texts of which batches of like lengths are made; up to three times as
                many are read ahead of their entities. By default eight batches, and at least 1024.
            **options: All others of `predict`.

        Yields:
            What `predict` returns for each text.

        Raises:
            ValueError: As `predict`; of a text, when it is its turn.
        """
        return predict_stream(
            self,
            texts,
            tokenizer,
            batch_size,
            constraints=constraints,
            texts_at_once=texts_at_once,
            **options,
        )

    def redact(
        self,
        texts: Sequence[str | Sequence[str]],
        tokenizer: Any,
        batch_size: int = 32,
        *,
        recall: float,
        replace: Literal["label", "mask", "mapping"] = "label",
        max_length: int | None = None,
        overlap: int | None = None,
        splitter: str | None = None,
    ) -> list[Redaction]:
        """Cover what may be an entity, so that a promised share of all entities can't be read.

        Args:
            texts: Raw strings, or lists of words; what the recall was calibrated on.
            tokenizer: The encoder's tokenizer.
            batch_size: Windows that are encoded together.
            recall: As `predict` takes it. All its candidates are covered; those that overlap
                together, under the label of the most probable one.
            replace: What stands in the place of a covered run: its "label" in brackets, a "mask" of
                as many blocks as it had characters, or a numbered label of a "mapping", the same
                one wherever the same run stands in a text.
            max_length: As `predict` takes it, like all that follow.
            overlap: Words that neighbouring windows share.
            splitter: Cuts strings into words.

        Returns:
            For each text the new one, what was covered, and the mapping: keep that apart.

        Raises:
            ValueError: As `predict`.
        """
        return redact(
            self,
            texts,
            tokenizer,
            batch_size,
            recall=recall,
            replace=replace,
            max_length=max_length,
            overlap=overlap,
            splitter=splitter,
        )

    def analyze(
        self,
        texts: Sequence[str | Sequence[str] | Sequence[Sequence[str]] | Mapping[str, Any]],
        tokenizer: Any,
        batch_size: int = 32,
        *,
        n_best: int = 0,
        threshold: float | None = None,
        decode: Literal["viterbi"] | None = None,
        max_length: int | None = None,
        overlap: int | None = None,
        constraints: Sequence[Sequence[Mapping[str, Any]] | None] | None = None,
        splitter: str | Callable[[str], Any] | None = None,
    ) -> list[Prediction]:
        """Find the entities of texts, and how sure the model is of them.

        Args:
            texts: As `predict` takes them.
            tokenizer: The encoder's tokenizer.
            batch_size: Windows that are encoded together.
            n_best: How many of the most probable segmentations to list; the texts have to fit the
                encoder whole.
            threshold: As `predict` takes it, like all that follow.
            decode: "viterbi", or None.
            max_length: Sub-words in a window.
            overlap: Words that neighbouring windows share.
            constraints: For each text None or a list of what is known of its spans.
            splitter: Cuts strings into words.

        Returns:
            For each text its entities, the posteriors of types and boundaries at each word, the
            entropy in nats and the ``n_best`` segmentations.

        Raises:
            ValueError: As `predict`, or ``n_best`` is negative or asked of a text in several
                windows.
        """
        return analyze(
            self,
            texts,
            tokenizer,
            batch_size,
            n_best=n_best,
            threshold=threshold,
            decode=decode,
            max_length=max_length,
            overlap=overlap,
            constraints=constraints,
            splitter=splitter,
        )

    def _encode(self, inputs: dict[str, Any], **outputs: bool | None) -> ModelOutput:
        """Run the encoder on those of the inputs that it knows."""
        known = {
            name: value
            for name, value in ({"use_cache": False} | inputs).items()
            if value is not None and name in self.encoder_inputs
        }
        wanted = {name: value for name, value in outputs.items() if value is not None}
        return self.text_encoder(**known, **wanted, return_dict=True)

    def _states(self, encoded: Any) -> Tensor:
        """The states that the head reads [B, T, H], or those of several layers [B, T, K H]."""
        count = self.config.mix_layers
        return torch.cat(encoded.hidden_states[-count:], -1) if count else encoded.last_hidden_state

    def _potentials(self, word_mask: Tensor, **inputs: Tensor) -> Potentials | TailedPotentials:
        """The scores of all segmentations of a batch, as `forward` makes them."""
        lattice = Lattice.of(word_mask)
        encoded = self._encode(inputs, output_hidden_states=self.config.mix_layers > 0 or None)
        states = lattice.gather(self._states(encoded), self.classifier.duration_bias.dtype)
        return self.classifier.potentials(states, lattice.positions)

    def _lattice(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        word_mask: Tensor | None,
        labels: Tensor | None,
    ) -> Lattice:
        """Where the words stand."""
        if word_mask is not None:
            return Lattice.of(word_mask)
        if labels is not None:
            if input_ids is not None and self.config.has_word_starts:
                self._warn_of_labelled_pieces(input_ids, attention_mask, labels)
            return Lattice.of(labels, UNKNOWN_TAG)
        if input_ids is None or not self.config.has_word_starts:
            raise ValueError(
                "expected word_mask (True on the first sub-word of each word), or labels, or a "
                "model that knows its tokenizer (call model.use_tokenizer once); got none of them"
            )
        return Lattice.of_tokens(self.word_starts, input_ids, attention_mask)

    def _warn_of_labelled_pieces(
        self, input_ids: Tensor, attention_mask: Tensor | None, labels: Tensor
    ) -> None:
        """Say once that labels stand on every piece of words.

        On a GPU only the first batch is looked at, and nothing waits for what it shows: that is
        said with a later batch.
        """
        if torch.compiler.is_compiling() or self._looked_at_labels and self._on_every_piece is None:
            return
        if not self._looked_at_labels:
            inside = word_pieces(self.word_starts, input_ids, attention_mask)
            all_pieces = inside | word_starts(self.word_starts, input_ids, attention_mask)
            everywhere = ((labels != UNKNOWN_TAG) | ~all_pieces).all(1) & inside.any(1)
            seen = everywhere.any()
            self._looked_at_labels = labels.device.type != "cpu"
            if labels.device.type == "cuda":
                arriving = torch.zeros((), dtype=torch.bool, pin_memory=True)
                self._on_every_piece = arriving.copy_(seen, non_blocking=True)
            else:
                self._on_every_piece = seen if seen else None
        if self._on_every_piece is not None and self._on_every_piece:
            self._looked_at_labels, self._on_every_piece = True, None
            logger.warning(
                "Labels stand on every sub-word, also on those that go on with a word: each counts "
                "as a word of its own. Label first sub-words alone, as TokenizeAndAlign does, or "
                "give word_mask."
            )

    def _targets(
        self,
        labels: Tensor | None,
        allowed_types: Tensor | None,
        lattice: Lattice,
        whole: bool,
    ) -> tuple[Tensor | None, Tensor | None, Known | None]:
        """Types and starts [B, N] that the labels [B, T] say, or what is known of them.

        Args:
            labels: Tag ids on the words' first sub-words, or None.
            allowed_types: Types that a word of unknown label may have, as bits [B, T], or None.
            lattice: Where the words stand.
            whole: Whether one segmentation is asked for, even where some labels may be unknown.
        """
        if labels is None:
            return None, None, None
        scheme, longest = self.config.scheme, self.config.max_segment_length
        partly = self.config.unknown == "marginalize" and not whole
        kernels = kernels_for("lattice", labels.device)
        if kernels is not None and not partly and labels.shape == lattice.mask.shape:
            places = (lattice.token_of_word, lattice.lengths)
            return *kernels.read_tags(
                labels, *places, *scheme.reading(labels.device), longest
            ), None
        tags = lattice.gather(labels).masked_fill(~lattice.inside, UNKNOWN_TAG)
        self._check_tags(tags, lattice.inside)
        if partly:
            known = Known.of_tags(scheme, tags, longest)
            if allowed_types is not None:
                sets = lattice.gather(allowed_types).masked_fill(tags != UNKNOWN_TAG, -1)
                known = known.within(sets)
            return None, None, known
        types, starts = scheme.encode(tags)
        starts = split_long_segments(types, starts, longest)
        # a sentence without words runs as one outside word that counts nothing
        empty = lattice.lengths == 0
        types[:, 0] += empty  # from -1
        starts[:, 0] |= empty
        return types, starts, None

    def _check_tags(self, tags: Tensor, inside: Tensor) -> None:
        """Refuse unknown tags inside the lattice; on a GPU this would wait for the device."""
        if tags.device.type != "cpu" or torch.compiler.is_compiling():
            return
        if self.config.unknown == "marginalize":
            inside = inside & (tags != UNKNOWN_TAG)
        count = len(self.config.labels)
        wrong = tags[inside & ((tags < 0) | (tags >= count))]
        if len(wrong):
            raise ValueError(
                f"expected labels in 0..{count - 1} on every word of word_mask, got {int(wrong[0])}"
            )

    def _check_possible(self, nll: Tensor, words: Tensor) -> None:
        """Refuse labels of probability 0 [B]; on a GPU this would wait for the device."""
        if nll.device.type != "cpu" or torch.compiler.is_compiling():
            return
        impossible = (nll.isposinf() & (words > 0)).nonzero().flatten().tolist()
        if impossible:
            raise ValueError(
                f"expected labels that the model's constraints {self.config.constraints} and "
                f"segments of at most {self.config.max_segment_length} words allow, got others in "
                f"rows {impossible} of the batch"
            )


def _resized(before: SemiCRFConfig, after: SemiCRFConfig) -> bool:
    """Whether types stand elsewhere, or segments may be longer."""
    return (
        before.scheme.types != after.scheme.types
        or before.max_segment_length != after.max_segment_length
    )
