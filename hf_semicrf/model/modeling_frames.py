"""An encoder of audio, or any module that gives vectors, with a semi-Markov CRF over its frames."""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, PreTrainedModel
from transformers.utils import ModelOutput, logging

from hf_semicrf.head import Scores, SemiCRF, SemiCRFOutput, evaluating
from hf_semicrf.hub import ListedUploads
from hf_semicrf.labels import OUTSIDE, UNKNOWN_TAG, Known
from hf_semicrf.model.configuration_frames import SETTINGS, SemiCRFFrameConfig
from hf_semicrf.model.loading import LOADER_ARGUMENTS, encoder_class, hub_arguments
from hf_semicrf.ops import mean_loss
from hf_semicrf.options import OPTIONS, check
from hf_semicrf.results import TimedSegment

logger = logging.get_logger(__name__)


@dataclass
class SemiCRFFrameOutput(ModelOutput):
    """Output of :class:`SemiCRFForFrameClassification`.

    Args:
        loss: Negative log-likelihood in nats a position (or over ``num_items_in_batch``).
        logits: Log posterior of each type at each position [B, N, C], float32; None in training.
        segments: Decoded segmentation [B, N]: twice the type, and 1 where a segment starts; -100
            past a length. None in training.
        segment_posteriors: Probability of the decoded segment that covers each position [B, N].
        lengths: Positions of each sequence [B].
        head: All that the head computed, on request.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    segments: Tensor | None = None
    segment_posteriors: Tensor | None = None
    lengths: Tensor | None = None
    head: SemiCRFOutput | None = None


class SemiCRFForFrameClassification(ListedUploads, PreTrainedModel):
    """Any encoder of audio, or any module, with a semi-Markov CRF over its frames.

    Args:
        config: Configuration of the model.
        encoder: What gives the vectors [B, N, H], or an output with ``last_hidden_state``: built
            from the configuration where None; without one there, ``inputs_embeds`` are the vectors.
    """

    config: SemiCRFFrameConfig
    config_class = SemiCRFFrameConfig
    base_model_prefix = "frame_encoder"
    main_input_name = "input_values"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = True  # the loss is divided by num_items_in_batch in forward
    _no_split_modules = ["SemiCRF"]

    def __init__(self, config: SemiCRFFrameConfig, encoder: nn.Module | None = None):
        built: Any = type(encoder)
        if encoder is None and config.encoder_config is not None:
            built = encoder_class(config.encoder_config)
        for flag in ("_supports_sdpa", "_supports_flash_attn", "_supports_flex_attn"):
            setattr(self, flag, getattr(built, flag, False))
        super().__init__(config)
        if encoder is None and config.encoder_config is not None:
            encoder = built._from_config(config.encoder_config)
        self.frame_encoder = encoder
        self.classifier = SemiCRF(
            config.hidden_size, len(config.types), config.head_settings, rules=config.rules
        )
        self.feature_extractor: Any = None
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, SemiCRF):
            module.reset_parameters()
        else:
            super()._init_weights(module)

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, name: str | os.PathLike, *args: Any, types: Sequence[str] | None = None, **kwargs: Any
    ) -> SemiCRFForFrameClassification:
        """Load a saved model, or put a new head on a pretrained encoder of audio.

        Args:
            name: Hub name or folder of either.
            *args: What every model takes.
            types: Names of the segment types, for a new head.
            **kwargs: Settings of `SemiCRFFrameConfig`, and what ``from_pretrained`` takes anywhere.

        Raises:
            ValueError: A new head was given no types, a saved one other types, or a setting is out
                of range.
            TypeError: An argument is unknown.
        """
        kwargs = {"use_safetensors": True} | kwargs  # no pickles
        check(**{key: value for key, value in kwargs.items() if key in OPTIONS})
        hub: dict[str, Any] = hub_arguments(kwargs)
        stored: Any = AutoConfig.from_pretrained(name, **hub)
        extractor = _feature_extractor(name, hub)
        if isinstance(stored, SemiCRFFrameConfig):
            if types is not None and [OUTSIDE, *types] != stored.types:
                raise ValueError(f"expected the types {stored.types[1:]} of {name!r}, got {types}")
            model: Any = super().from_pretrained(name, *args, **kwargs)
        else:
            if types is None:
                raise ValueError(
                    f"{name!r} is an encoder: expected types=[...] for a head, got None"
                )
            settings = {key: kwargs.pop(key) for key in SETTINGS if key in kwargs}
            unknown = [*args, *(key for key in kwargs if key not in LOADER_ARGUMENTS)]
            if unknown:
                raise TypeError(
                    f"from_pretrained got unknown arguments {unknown}: no settings "
                    f"({', '.join(SETTINGS)}) and not of loading"
                )
            if extractor is not None:
                settings.setdefault("sampling_rate", extractor.sampling_rate)
            SemiCRFFrameConfig(stored, types, **settings)  # refuse before weights are read
            encoder = AutoModel.from_pretrained(name, **kwargs)
            config = SemiCRFFrameConfig(encoder.config, types, **settings)
            model = cls(config, encoder).to(encoder.device, encoder.dtype).eval()
        model.feature_extractor = extractor
        return model

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """Write weights, configuration and the feature extractor.

        Args:
            save_directory: The folder.
            *args: What every model takes.
            **kwargs: The same, such as ``push_to_hub``.
        """
        if self.feature_extractor is not None:
            self.feature_extractor.save_pretrained(save_directory)
        super().save_pretrained(os.fspath(save_directory), *args, **kwargs)

    def forward(
        self,
        input_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        input_features: Tensor | None = None,
        input_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        output_head: bool = False,
        return_dict: bool | None = None,
    ) -> SemiCRFFrameOutput | tuple[Any, ...]:
        """Segment a batch, and score its labels where they are given.

        Args:
            input_values: Audio [B, samples], as the feature extractor gives it.
            attention_mask: 0 on padding: of samples, of features or of frames.
            input_features: Features of audio, such as spectrograms.
            input_ids: What an encoder of one's own takes in their place.
            inputs_embeds: Vectors [B, N, H]; the encoder's inputs where it takes them, else its
                outputs.
            labels: Twice the type, and 1 where a segment starts [B, N] (`frame_labels`); -100 where
                unknown and past a length. N is counted in positions of the lattice.
            num_items_in_batch: What the summed loss is divided by; the number of positions where
                None.
            output_head: Whether to return all that the head computed.
            return_dict: Whether to return an output object instead of a tuple.

        Raises:
            ValueError: There is not one kind of input, labels do not fit the lattice, or, on the
                CPU, a label inside a sequence is -100 without ``unknown="marginalize"``.
        """
        inputs = {
            "input_values": input_values,
            "input_features": input_features,
            "input_ids": input_ids,
            "inputs_embeds": inputs_embeds,
        }
        states, lengths = self.states(inputs, attention_mask)
        targets = self._targets(labels, states, lengths)
        head = self.classifier(states, lengths, segment_marginals=True, **targets)
        loss = None
        if head.nll is not None:
            loss = mean_loss(head.nll, lengths, num_items_in_batch)
        logits = segments = None
        if head.labels is not None:
            segments = 2 * head.labels + head.starts.long()
            segments = segments.masked_fill(head.labels < 0, UNKNOWN_TAG)
            tiny = torch.finfo(torch.float32).tiny
            logits = head.marginals.token.float().clamp(min=tiny).log()
        output = SemiCRFFrameOutput(
            loss=loss,
            logits=logits,
            segments=segments,
            segment_posteriors=head.segment_posteriors,
            lengths=lengths,
            head=head if output_head else None,
        )
        return_dict = self.config.return_dict if return_dict is None else return_dict
        return output if return_dict else output.to_tuple()

    def states(
        self, inputs: dict[str, Tensor | None], attention_mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The vectors of the lattice's positions [B, N, H], and how many each sequence has [B].

        Args:
            inputs: By name, as `forward` takes them; one of them.
            attention_mask: 0 on padding, or None.
        """
        given: dict[str, Any] = {name: x for name, x in inputs.items() if x is not None}
        if len(given) != 1:
            raise ValueError(
                f"expected one of {', '.join(inputs)}, got {', '.join(given) or 'none'}"
            )
        encoder, (name,) = self.frame_encoder, given
        if given[name].is_floating_point():
            given[name] = given[name].to(self.dtype)
        if encoder is None:
            if name != "inputs_embeds":
                raise ValueError(f"expected inputs_embeds of a model without encoder, got {name}")
            states = given[name]
        else:
            known = inspect.signature(encoder.forward).parameters
            if name == "inputs_embeds" and name not in known:
                states = given[name]
            else:
                if name not in known:
                    raise ValueError(
                        f"expected inputs that {type(encoder).__name__} takes, got {name}"
                    )
                # encoders that normalise over all samples were trained without a mask
                if self._encoder_takes_mask(known):
                    given["attention_mask"] = attention_mask
                encoded = encoder(**given)
                states = getattr(encoded, "last_hidden_state", encoded)
        lengths = self._lengths(states, attention_mask, given[name].shape[1])
        step = self.config.downsample
        if step > 1:
            n = torch.arange(states.shape[1], device=states.device)
            inside = (n < lengths[:, None])[..., None].to(states.dtype)
            padded = nn.functional.pad(states * inside, (0, 0, 0, -states.shape[1] % step))
            count = nn.functional.pad(inside, (0, 0, 0, -states.shape[1] % step))
            sums = padded.unflatten(1, (-1, step)).sum(2)
            states = sums / count.unflatten(1, (-1, step)).sum(2).clamp(min=1)
            lengths = (lengths + step - 1) // step
        return states, lengths

    def _encoder_takes_mask(self, parameters: Any) -> bool:
        """Whether the encoder is to see the mask of its inputs."""
        norm = getattr(self.config.encoder_config, "feat_extract_norm", None)
        return "attention_mask" in parameters and norm != "group"

    def _lengths(self, states: Tensor, attention_mask: Tensor | None, width: int) -> Tensor:
        """Frames of each sequence [B], at least one, of inputs of a width."""
        batch, frames = states.shape[:2]
        if attention_mask is None:
            return torch.full((batch,), frames, device=states.device)
        mask = attention_mask.long()
        lengths = mask.sum(1)
        if mask.shape[1] != frames:
            count = getattr(self.frame_encoder, "_get_feat_extract_output_lengths", None)
            if count is None or mask.shape[1] != width:
                raise ValueError(
                    f"expected an attention_mask of the {frames} frames, or of the {width} inputs "
                    f"of an encoder that tells frames from them, got one of {mask.shape[1]}"
                )
            lengths = count(lengths)
        if mask.device.type == "cpu" and (
            bool((lengths < 1).any()) or bool((mask[:, 1:] > mask[:, :-1]).any())
        ):
            raise ValueError("expected an attention_mask of ones for a frame or more, then zeros")
        return lengths.to(states.device).clamp(1, frames)

    def _targets(self, labels: Tensor | None, states: Tensor, lengths: Tensor) -> dict[str, Any]:
        """What the head is told of the segmentation."""
        if labels is None:
            if self.training:
                raise ValueError("expected labels in training mode, got none")
            return {}
        batch, positions = states.shape[:2]
        if labels.shape[0] != batch or labels.shape[1] < int(positions):
            raise ValueError(f"expected labels [{batch}, {positions}], got {list(labels.shape)}")
        labels = labels[:, :positions]
        n = torch.arange(positions, device=labels.device)
        inside = n < lengths[:, None]
        known = labels != UNKNOWN_TAG
        if labels.device.type == "cpu":
            count = 2 * len(self.config.types)
            wrong = labels[inside & known & ((labels < 0) | (labels >= count))]
            if len(wrong):
                raise ValueError(f"expected labels in 0..{count - 1}, got {int(wrong[0])}")
            if self.config.unknown == "error" and bool((inside & ~known).any()):
                raise ValueError(
                    "expected a label at every position, got -100: unknown='marginalize' trains on "
                    "labels that are known in part"
                )
        types, starts = labels.clamp(min=0) // 2, (labels % 2 == 1) & known
        if self.config.unknown == "error":
            return {"labels": types, "starts": starts}
        kinds = torch.arange(len(self.config.types), device=labels.device)
        allowed = (types[..., None] == kinds) | ~known[..., None]
        return {"known": Known(allowed, starts | ~known, starts)}

    @torch.no_grad()
    def predict(
        self,
        audio: Sequence[Any],
        sampling_rate: int,
        *,
        batch_size: int = 1,
        window_seconds: float | None = None,
        overlap_seconds: float = 2.0,
    ) -> list[list[TimedSegment]]:
        """Find the segments of recordings, in their order.

        Args:
            audio: Recordings, one-dimensional arrays of samples.
            sampling_rate: Their samples a second.
            batch_size: Recordings, or windows of one, that are encoded together.
            window_seconds: What the encoder reads at once of a recording; all of it where None.
                The lattice is one over the whole recording, so that a segment may be longer than
                any window.
            overlap_seconds: What neighbouring windows share; each frame is read where it has more
                context.

        Returns:
            For each recording a list of segments, dictionaries: ``label``, ``score`` (the
            probability of exactly this segment), ``start`` and ``end`` in seconds.

        Raises:
            ValueError: An option is out of range, a recording is shorter than a frame, not finite
                or not one-dimensional, the sampling rate is not the feature extractor's, or the
                model has none.
        """
        check(batch_size=batch_size, sampling_rate=sampling_rate, window_seconds=window_seconds)
        check(overlap_seconds=overlap_seconds)
        extractor = self.feature_extractor
        if extractor is None:
            raise ValueError(
                "expected a model with a feature extractor: set model.feature_extractor"
            )
        if sampling_rate != extractor.sampling_rate:
            raise ValueError(
                f"expected audio of {extractor.sampling_rate} samples a second, got "
                f"{sampling_rate}: resample it"
            )
        recordings = [np.asarray(x, dtype=np.float32) for x in audio]
        for n, samples in enumerate(recordings):
            if samples.ndim != 1 or not len(samples):
                raise ValueError(
                    f"expected one-dimensional audio, got shape {list(samples.shape)} in "
                    f"recording {n}"
                )
            if not np.isfinite(samples).all():
                raise ValueError(f"expected finite audio, got NaN or infinity in recording {n}")
            self.config.positions(len(samples))  # refuses what is too short
        seconds = self.config.position_seconds
        found = []
        with evaluating(self):
            for begin in range(0, len(recordings), 1 if window_seconds else batch_size):
                if window_seconds:
                    window = (window_seconds, overlap_seconds, batch_size)
                    scores, lengths = self._window_scores(recordings[begin], *window)
                else:
                    inputs = self._features(recordings[begin : begin + batch_size])
                    mask = inputs.pop("attention_mask", None)
                    states, lengths = self.states(inputs, mask)
                    scores = self.classifier.scores(states)
                found += self._segments(scores, lengths, seconds)
        return found

    def _features(self, recordings: Sequence[np.ndarray]) -> dict[str, Any]:
        """What the feature extractor makes of recordings, on the model's device."""
        features = self.feature_extractor(
            list(recordings),
            sampling_rate=self.feature_extractor.sampling_rate,
            padding=True,
            return_attention_mask=True,
            return_tensors="pt",
        )
        return {name: x.to(self.device) for name, x in features.items()}

    def _window_scores(
        self, samples: np.ndarray, window: float, overlap: float, batch_size: int
    ) -> tuple[Scores, Tensor]:
        """Scores of a recording's positions, read in windows [1, N, C] each, and its length [1]."""
        rate = self.feature_extractor.sampling_rate
        step = round(self.config.position_seconds * rate)  # samples a position
        size, shared = (max(1, round(x * rate / step)) * step for x in (window, overlap))
        if size <= shared:
            raise ValueError(
                f"expected window_seconds above overlap_seconds, got {window} and {overlap}"
            )
        begins = list(range(0, max(1, len(samples) - shared), size - shared))
        parts: list[list[Tensor]] = [[], [], []]
        half = shared // step // 2
        for first in range(0, len(begins), batch_size):
            here = begins[first : first + batch_size]
            inputs = self._features([samples[n : n + size] for n in here])
            mask = inputs.pop("attention_mask", None)
            states, lengths = self.states(inputs, mask)
            scores = self.classifier.scores(states)
            for row, begin in enumerate(here):
                last = begin == begins[-1]
                low = 0 if begin == 0 else half
                high = int(lengths[row]) if last else (size - shared) // step + half
                if high > int(lengths[row]):
                    raise ValueError(
                        f"expected overlap_seconds above {overlap}: the frames of a window end "
                        "before those of the next one begin"
                    )
                for part, x in zip(parts, (scores.emission, scores.start, scores.end), strict=True):
                    if x is not None:
                        part.append(x[row, low:high])
        joined = [torch.cat(part)[None] if part else None for part in parts]
        emission, start, end = joined
        count = next(x.shape[1] for x in joined if x is not None)
        lengths = torch.tensor([count], device=self.device)
        return Scores(emission=emission, start=start, end=end), lengths

    def _segments(
        self, scores: Scores, lengths: Tensor, seconds: float
    ) -> list[list[TimedSegment]]:
        """The decoded segments of a batch."""
        potentials = self.classifier.with_lengths(scores, lengths)
        head = self.classifier.decode(potentials)
        arrays = (head.labels, head.starts, head.segment_posteriors)
        labels, starts, posteriors = (x.cpu() for x in arrays if x is not None)
        found: list[list[TimedSegment]] = []
        for row, length in enumerate(lengths.tolist()):
            begins = starts[row, :length].nonzero().flatten().tolist()
            found.append(
                [
                    {
                        "label": self.config.types[int(labels[row, first])],
                        "score": float(posteriors[row, first]),
                        "start": first * seconds,
                        "end": end * seconds,
                    }
                    for first, end in zip(begins, [*begins[1:], length], strict=True)
                    if labels[row, first] > 0
                ]
            )
        return found


def _feature_extractor(name: Any, hub: dict[str, Any]) -> Any:
    """The feature extractor beside a model; None where there is none."""
    try:
        return AutoFeatureExtractor.from_pretrained(name, **hub)
    except (OSError, ValueError) as error:
        logger.info(f"No feature extractor was read from {name}: {error}")
        return None
