"""Every architecture that transformers classifies audio with, tiny and with random weights.

A model of the architecture is saved, so that the encoder's weights stand under a prefix and beside
another head; the encoder is loaded out of it, trained, saved, loaded again.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from test_sweep import different, tiny
from transformers import (
    CONFIG_MAPPING,
    AutoModel,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2FeatureExtractor,
)
from transformers.models.auto import modeling_auto as auto

from hf_semicrf import SemiCRFForFrameClassification, SemiCRFFrameCollator, SemiCRFFrameConfig

SETTINGS = {
    "conv_dim": (16, 16),
    "conv_kernel": (10, 4),
    "conv_stride": (5, 4),
    "feat_extract_norm": "layer",
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "conv_pos_kernel_size": 3,
    "conv_depthwise_kernel_size": 3,
    "feature_projection_input_dim": 160,
    "num_feat_extract_layers": 2,
    "mask_time_prob": 0.0,
    "layerdrop": 0.0,
}
UNSUPPORTED = {
    "audio-spectrogram-transformer",  # patches of a spectrogram are no frames
    "whisper",  # an encoder-decoder
    *(
        "granite_speech5_ctc",
        "lasr_ctc",
        "nemotron3_diarization",
        "parakeet_ctc",
    ),  # no plain encoder
}
# convolutions of theirs read what stands in padding
READS_PADDING = {"data2vec-audio", "wav2vec2-conformer"}
TASKS = ("AUDIO_FRAME_CLASSIFICATION", "CTC", "AUDIO_CLASSIFICATION")
NAMES = [getattr(auto, f"MODEL_FOR_{task}_MAPPING_NAMES") for task in TASKS]
KINDS = sorted({kind for names in NAMES for kind in names})
if transformers.__version__.startswith("5.0."):
    KINDS.remove("sew-d")  # transformers 5.0 finds no encoder in its checkpoints either


def save(kind: str, folder: Path) -> transformers.PreTrainedModel:
    """A model of the architecture with another head, saved with a feature extractor."""
    torch.manual_seed(0)
    config = tiny(CONFIG_MAPPING[kind])
    for name, value in SETTINGS.items():
        if hasattr(config, name):
            setattr(config, name, value)
    name = next(names[kind] for names in NAMES if kind in names)
    model = getattr(transformers, name)(config)
    model.save_pretrained(folder)
    if model.main_input_name == "input_features":
        extractor = SeamlessM4TFeatureExtractor()
    else:
        extractor = Wav2Vec2FeatureExtractor(sampling_rate=1000, return_attention_mask=True)
    extractor.save_pretrained(folder)
    return model


def recordings(rate: int) -> list[dict]:
    """Noise of different lengths, a tone in each."""
    random = np.random.default_rng(0)
    rows = []
    for length in (0.9, 1.3, 1.1):
        audio = 0.1 * random.standard_normal(round(length * rate)).astype(np.float32)
        audio[rate // 4 : rate // 2] += np.sin(np.arange(rate // 2 - rate // 4))
        rows.append({"audio": audio, "segments": [{"label": "tone", "start": 0.25, "end": 0.5}]})
    return rows


def round_trip(kind: str, folder: Path) -> None:
    stored = save(kind, folder / "other")
    model = SemiCRFForFrameClassification.from_pretrained(
        folder / "other", types=["tone"], max_segment_length=4
    )
    loaded = {name: x.clone() for name, x in model.frame_encoder.state_dict().items()}
    assert not different(loaded, stored.base_model.state_dict())

    rows = recordings(model.config.sampling_rate)
    audio = [row["audio"] for row in rows]
    collate = SemiCRFFrameCollator(model.feature_extractor, model.config)
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    model.train()
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        losses.append(model(**collate(rows)).loss)
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    untouched = {name for name, p in model.named_parameters() if p.grad is None}
    assert not any(name.startswith("classifier") for name in untouched)
    changed = different(loaded, model.frame_encoder.state_dict())
    assert next(iter(loaded)) in changed or len(changed) > len(loaded) / 2, untouched

    model.eval().save_pretrained(folder / "saved")
    again = SemiCRFForFrameClassification.from_pretrained(folder / "saved")
    assert not different(model.state_dict(), again.state_dict())
    assert not different(again.state_dict(), model.state_dict())
    rate, step = model.config.sampling_rate, model.config.position_seconds
    found = model.predict(audio, rate)
    assert again.predict(audio, rate) == found
    batch = collate(rows)
    with torch.no_grad():
        assert torch.equal(again(**batch).logits, model(**batch).logits)
    durations = [len(samples) / rate for samples in audio]
    for segments, duration in zip(found, durations, strict=True):
        assert all(0 <= x["start"] < x["end"] <= duration for x in segments)

    with torch.no_grad():
        batch = model(**collate(rows), output_head=True)
        alone = [model(**collate([row]), output_head=True) for row in rows]
    lengths = batch.lengths.tolist()
    assert lengths == [int(x.lengths) for x in alone]
    for length, duration in zip(lengths, durations, strict=True):
        assert duration - 2 * step <= length * step <= duration
    if kind not in READS_PADDING:
        nll = torch.cat([x.head.nll for x in alone])
        torch.testing.assert_close(batch.head.nll, nll, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in UNSUPPORTED])
def test_load_train_save_and_reload(kind, tmp_path):
    round_trip(kind, tmp_path)


@pytest.mark.parametrize("kind", sorted(READS_PADDING))
def test_what_is_listed_to_read_padding_does(kind, tmp_path):
    """transformers' own encoder gives other vectors for a recording beside a longer one."""
    save(kind, tmp_path)
    encoder = AutoModel.from_pretrained(tmp_path).eval()
    extractor = Wav2Vec2FeatureExtractor.from_pretrained(tmp_path)
    audio = [row["audio"] for row in recordings(1000)]
    with torch.no_grad():
        both = encoder(**extractor(audio, sampling_rate=1000, padding=True, return_tensors="pt"))[0]
        one = encoder(**extractor(audio[:1], sampling_rate=1000, return_tensors="pt"))[0]
    assert (both[0, : one.shape[1]] - one[0]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", sorted(UNSUPPORTED & set(KINDS)))
def test_what_is_unsupported_is_refused_before_weights_are_read(kind, tmp_path):
    CONFIG_MAPPING[kind]().save_pretrained(tmp_path)
    if kind == "audio-spectrogram-transformer":
        config = SemiCRFFrameConfig(CONFIG_MAPPING[kind](), ["tone"])
        with pytest.raises(ValueError, match="expected frame_seconds"):
            config.positions(1000)
        return
    with pytest.raises(ValueError, match="expected the configuration of an encoder with a hidden"):
        SemiCRFForFrameClassification.from_pretrained(tmp_path, types=["tone"])


def test_the_page_lists_every_architecture():
    page = (Path(__file__).parent.parent / "docs" / "frames.md").read_text()
    for kind in KINDS:
        assert f"`{kind}`" in page, kind
    assert len(set(KINDS) - UNSUPPORTED) >= 9


@pytest.mark.parametrize("kind", ["wav2vec2", "hubert", "wavlm", "wav2vec2-bert"])
def test_it_is_pushed_and_comes_back(kind, tmp_path, hub):
    save(kind, tmp_path / "other")
    model = SemiCRFForFrameClassification.from_pretrained(tmp_path / "other", types=["tone"])
    rate = model.config.sampling_rate
    audio = [row["audio"] for row in recordings(rate)]
    model.push_to_hub("someone/frames")
    wanted = {"config.json", "model.safetensors", "preprocessor_config.json"}
    assert wanted <= set(hub.files["someone/frames"]["main"])
    fetched = SemiCRFForFrameClassification.from_pretrained("someone/frames")
    assert fetched.predict(audio, rate) == model.predict(audio, rate)
