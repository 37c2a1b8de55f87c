"""Configuration of a semi-Markov CRF over the frames of audio, or of any sequence of vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig, PretrainedConfig

from hf_semicrf.head import DEFAULTS, HeadSettings
from hf_semicrf.hub import ListedUploads
from hf_semicrf.labels import OUTSIDE, Rules
from hf_semicrf.options import check

# settings of the head that differ from those of a model of words: no segment is too long
FRAME_DEFAULTS: dict[str, Any] = {
    "max_segment_length": 16,
    "scorer": "boundary",
    "threshold": None,
    "length_prior": "geometric",
}
# of a configuration of the model, by which a new head is made
SETTINGS = (
    *DEFAULTS,
    *("frame_seconds", "sampling_rate", "downsample", "unknown", "constraints", "return_dict"),
)


class SemiCRFFrameConfig(ListedUploads, PretrainedConfig):
    """Configuration of :class:`SemiCRFForFrameClassification`.

    Args:
        encoder_config: Configuration of the encoder, or its dictionary; None where vectors come
            from a module of one's own, or as ``inputs_embeds``.
        types: Names of the segment types, without the outside; ids count from 1. Positions of no
            segment are outside, "O", with id 0.
        hidden_size: Width of the vectors; the encoder's where it has a configuration.
        frame_seconds: Seconds from one frame to the next; read off encoders of raw audio.
        sampling_rate: Samples a second of the audio.
        downsample: Frames that are averaged to one position of the lattice.
        unknown: What a position whose label is -100 does in training: "error", or "marginalize" to
            train by the log-probability of all segmentations that agree with what is known.
        constraints: What is allowed in every sequence, as `SemiCRFConfig` takes it.
        **kwargs: The settings of the head, as `hf_semicrf.HeadSettings` lists them. Their defaults
            here: a geometric tail from 16 positions on, the scorer "boundary", Viterbi.

    Raises:
        ValueError: A setting is out of range, or segment types are missing or named twice.
    """

    model_type = "semicrf_frames"
    sub_configs = {"encoder_config": AutoConfig}

    def __init__(
        self,
        encoder_config: PretrainedConfig | dict[str, Any] | None = None,
        types: Sequence[str] | None = None,
        *,
        hidden_size: int | None = None,
        frame_seconds: float | None = None,
        sampling_rate: int = 16_000,
        downsample: int = 1,
        unknown: str = "error",
        constraints: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ):
        given = {name: kwargs.pop(name) for name in DEFAULTS if name in kwargs}
        head = HeadSettings(**{**FRAME_DEFAULTS, **given})
        if head.mix_layers:
            raise ValueError(f"expected mix_layers=0 over frames, got {head.mix_layers}")
        own = check(
            frame_seconds=frame_seconds,
            sampling_rate=sampling_rate,
            downsample=downsample,
            unknown=unknown,
        )
        if isinstance(encoder_config, dict):
            values = dict(encoder_config)
            encoder_config = CONFIG_MAPPING[values.pop("model_type")](**values)
        if encoder_config is not None:
            encoder_config._name_or_path = ""  # a local path would end up in config.json
            kwargs.setdefault("attn_implementation", encoder_config._attn_implementation)
            hidden_size = getattr(encoder_config, "hidden_size", None)
            if hidden_size is None or encoder_config.is_encoder_decoder:
                raise ValueError(
                    "expected the configuration of an encoder with a hidden_size, got "
                    f"{type(encoder_config).__name__}: give the encoder alone, as a module"
                )
        if types is not None:
            names = list(types)
            if OUTSIDE in names or len(set(names)) < len(names) or not names:
                raise ValueError(f"expected names of segment types without 'O', got {names}")
            kwargs["id2label"] = dict(enumerate([OUTSIDE, *names]))
            kwargs["label2id"] = {name: n for n, name in kwargs["id2label"].items()}
        self.encoder_config = encoder_config
        self.hidden_size = check(hidden_size=1 if hidden_size is None else hidden_size)[
            "hidden_size"
        ]
        for name, value in {**asdict(head), **own}.items():
            setattr(self, name, value)
        self.constraints = dict(constraints) if constraints else None
        super().__init__(**kwargs)
        self.rules  # noqa: B018  (refuse constraints that cannot be met)

    def to_dict(self) -> dict[str, Any]:
        """All that is saved: not the folder it was loaded from."""
        values = super().to_dict()
        values.pop("_name_or_path", None)
        return values

    @property
    def types(self) -> list[str]:
        """Names of the types in the order of their ids, the outside first."""
        names: Any = self.id2label
        return [names[index] for index in range(len(names))]

    @property
    def head_settings(self) -> HeadSettings:
        """The settings of the head, which are attributes of the same names here."""
        return HeadSettings(**{name: getattr(self, name) for name in DEFAULTS})

    @property
    def rules(self) -> Rules | None:
        """The constraints read for the types; None without any."""
        if not self.constraints:
            return None
        return Rules.read(self.constraints, self.types, self.max_segment_length)

    def positions(self, samples: int) -> int:
        """Positions of the lattice that a recording has.

        Args:
            samples: Its length.

        Raises:
            ValueError: They are too few for the encoder's first frame, or it does not say how long
                frames are and ``frame_seconds`` is not set.
        """
        encoder: Any = self.encoder_config
        kernels, strides = (getattr(encoder, f"conv_{x}", None) for x in ("kernel", "stride"))
        if kernels is None or strides is None or self.frame_seconds is not None:
            frames = round(samples / self.sampling_rate / self.position_seconds * self.downsample)
        else:
            frames = samples
            for kernel, stride in zip(kernels, strides, strict=True):
                frames = (frames - kernel) // stride + 1
                if frames < 1:
                    raise ValueError(
                        f"expected a recording of at least a frame, got {samples} samples"
                    )
        return -(-max(1, frames) // self.downsample)

    @property
    def position_seconds(self) -> float:
        """Seconds from one position of the lattice to the next.

        Raises:
            ValueError: The encoder does not say, and ``frame_seconds`` is not set.
        """
        seconds = self.frame_seconds
        if seconds is None:
            ratio = getattr(self.encoder_config, "inputs_to_logits_ratio", None)
            if ratio is None:
                raise ValueError(
                    "expected frame_seconds, seconds from one frame to the next, in the "
                    "configuration: the encoder does not say"
                )
            seconds = ratio / self.sampling_rate
        return float(seconds) * self.downsample
