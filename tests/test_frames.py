"""Segments of frames: a random Wav2Vec2 trained, saved, pushed; long recordings; other modules."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForAudioFrameClassification,
    EvalPrediction,
    Trainer,
    TrainingArguments,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
)

from hf_semicrf import SemiCRFForFrameClassification, SemiCRFFrameCollator, SemiCRFFrameConfig
from hf_semicrf.data import frame_labels, read_segments, write_segments
from hf_semicrf.evaluation import frame_metrics, timed_scores

RATE, STEP = 1000, 20  # samples a second, samples a frame


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """The folder of a random Wav2Vec2 and its feature extractor."""
    folder = tmp_path_factory.mktemp("wav2vec2")
    torch.manual_seed(0)
    config = Wav2Vec2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        conv_dim=(16, 16), conv_kernel=(10, 4), conv_stride=(5, 4), num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2, feat_extract_norm="layer", do_stable_layer_norm=True,
        hidden_dropout=0.0, attention_dropout=0.0, feat_proj_dropout=0.0, layerdrop=0.0,
        mask_time_prob=0.0,
    )  # fmt: skip
    Wav2Vec2Model(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(sampling_rate=RATE, return_attention_mask=True).save_pretrained(folder)
    return str(folder)


def recordings(count: int, seed: int = 0) -> list[dict]:
    """Noise with loud stretches of up to 1.6 s, which are the segments."""
    random = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        length = int(random.integers(100, 140)) * STEP
        audio = 0.05 * random.standard_normal(length)
        start = int(random.integers(10, 30)) * STEP
        end = start + int(random.integers(20, 60)) * STEP
        audio[start:end] += np.sin(np.arange(end - start))
        segment = {"label": "tone", "start": start / RATE, "end": end / RATE}
        rows.append({"audio": audio.astype(np.float32), "segments": [segment]})
    return rows


@pytest.fixture(scope="module")
def trained(encoder, tmp_path_factory):
    """A model that has been trained by the stock Trainer, its folder and the evaluation."""
    torch.manual_seed(0)
    model = SemiCRFForFrameClassification.from_pretrained(
        encoder, types=["tone"], max_segment_length=4
    )
    folder = tmp_path_factory.mktemp("frames")
    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=30, per_device_train_batch_size=4, learning_rate=2e-2,
        save_strategy="no", report_to=[], remove_unused_columns=False, use_cpu=True,
        lr_scheduler_type="constant",
    )  # fmt: skip
    trainer = Trainer(
        model,
        arguments,
        train_dataset=recordings(16),
        eval_dataset=recordings(4, seed=1),
        data_collator=SemiCRFFrameCollator(model.feature_extractor, model.config),
        compute_metrics=frame_metrics(model.config, tolerance=3 * STEP / RATE),
    )
    trainer.train()
    predictions = trainer.predict(recordings(4, seed=1))
    model.eval().save_pretrained(folder / "model")
    return model, folder / "model", predictions


def test_a_wav2vec2_is_trained_and_finds_segments(trained):
    model, _, predictions = trained
    rows = recordings(4, seed=1)
    found = model.predict([row["audio"] for row in rows], RATE, batch_size=2)
    for row, segments in zip(rows, found, strict=True):
        (segment,), (gold,) = segments, row["segments"]
        assert segment["label"] == "tone" and 0 < segment["score"] <= 1
        for name in ("start", "end"):
            assert segment[name] == pytest.approx(gold[name], abs=3 * STEP / RATE)
    logits, segments, posteriors, lengths = predictions.predictions
    labels = predictions.label_ids
    inside = labels != -100
    assert inside.sum(1).tolist() == lengths.tolist()
    assert (segments[inside] // 2 == labels[inside] // 2).mean() > 0.9
    for name in ("accuracy", "boundary_f1", "segment_f1"):
        assert predictions.metrics[f"test_{name}"] > 0.9
    assert logits.shape == (*segments.shape, 2) and posteriors[inside].min() > 0


def test_it_is_saved_reloaded_and_pushed_to_the_bit(trained, hub):
    model, folder, _ = trained
    audio = [row["audio"] for row in recordings(2, seed=2)]
    before = model.predict(audio, RATE)
    again = SemiCRFForFrameClassification.from_pretrained(str(folder))
    for name, x in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], x), name
    assert again.predict(audio, RATE) == before
    for auto in (AutoModel, AutoModelForAudioFrameClassification):
        assert type(auto.from_pretrained(folder)) is SemiCRFForFrameClassification
    again.push_to_hub("someone/frames")
    pushed = hub.files["someone/frames"]["main"]
    assert {"config.json", "model.safetensors", "preprocessor_config.json"} <= set(pushed)
    fetched = SemiCRFForFrameClassification.from_pretrained("someone/frames")
    assert fetched.predict(audio, RATE) == before


def test_the_lines_in_the_docs_run(encoder, monkeypatch, tmp_path):
    page = (Path(__file__).parent.parent / "docs" / "frames.md").read_text()
    predict, train, files = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    assert len(predict.splitlines()) <= 4 and len(train.splitlines()) <= 16
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    audio = np.random.default_rng(0).standard_normal(2 * RATE)
    audio[400:1500] += np.sin(np.arange(1100))
    space: dict = {"samples": audio}
    exec(train.replace("facebook/wav2vec2-base", encoder), space)
    exec(predict.replace("16_000", str(RATE)), space)
    (segments,) = space["segments"]
    assert all(set(x) == {"label", "score", "start", "end"} for x in segments)
    write_segments([{"id": "call", "segments": space["rows"][0]["segments"]}], "true.rttm")
    exec(files, space)
    assert 0 <= space["scores"]["segment_f1"] <= 1 and Path("found.png").stat().st_size
    (row,) = read_segments("found.rttm") if segments else [{"segments": []}]
    assert row["segments"] == segments


def test_windows_of_the_encoder_share_one_lattice(trained):
    """A tone that no window saw whole is one segment, and its seams are no boundaries."""
    model = trained[0]
    audio = 0.05 * np.random.default_rng(3).standard_normal(8 * RATE)
    audio[RATE : 6 * RATE] += np.sin(np.arange(5 * RATE))
    (found,) = model.predict([audio], RATE, window_seconds=2.0, overlap_seconds=0.4)
    (whole,) = model.predict([audio], RATE)
    assert [x["label"] for x in found] == ["tone"]
    for name, time in (("start", 1.0), ("end", 6.0)):
        assert found[0][name] == pytest.approx(time, abs=0.1)
    assert len(whole) == 1
    (one,) = model.predict([audio[: 2 * RATE]], RATE, window_seconds=3.0)
    assert one == model.predict([audio[: 2 * RATE]], RATE)[0]


def test_padding_changes_nothing(trained):
    model = trained[0]
    rows = recordings(3, seed=4)
    collate = SemiCRFFrameCollator(model.feature_extractor, model.config)
    with torch.no_grad():
        batch = model(**collate(rows), output_head=True)
        alone = [model(**collate([row]), output_head=True) for row in rows]
    nll = torch.cat([x.head.nll for x in alone])
    torch.testing.assert_close(batch.head.nll, nll, rtol=1e-4, atol=1e-3)
    assert batch.lengths.tolist() == [int(x.lengths) for x in alone]


@pytest.mark.parametrize("downsample", [1, 3])
def test_any_module_that_gives_vectors(downsample):
    class Convolution(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.Sequential(
                torch.nn.Embedding(5, 8), torch.nn.Linear(8, 8), torch.nn.GELU()
            )

        def forward(self, input_ids):
            return self.layers(input_ids)

    torch.manual_seed(0)
    config = SemiCRFFrameConfig(
        types=["gene"], hidden_size=8, frame_seconds=1.0, downsample=downsample, head_dropout=0.0
    )
    model = SemiCRFForFrameClassification(config, Convolution())
    ids = torch.randint(0, 5, (2, 10))
    mask = torch.ones(2, 10, dtype=torch.long)
    mask[1, 7:] = 0
    positions = -(-10 // downsample)
    labels = torch.full((2, positions), 1)
    output = model(input_ids=ids, attention_mask=mask, labels=labels)
    output.loss.backward()
    assert all(x.grad is not None for x in model.parameters())
    bare = SemiCRFForFrameClassification(config)
    bare.classifier.load_state_dict(model.classifier.state_dict())
    vectors = model.frame_encoder(ids)
    same = bare(inputs_embeds=vectors, attention_mask=mask, labels=labels)
    torch.testing.assert_close(same.loss, output.loss)
    assert same.lengths.tolist() == [positions, -(-7 // downsample)]


def test_a_model_in_half_precision_predicts_and_comes_back(encoder, tmp_path):
    load = SemiCRFForFrameClassification.from_pretrained
    eager = load(encoder, types=["tone"], attn_implementation="eager")
    assert eager.frame_encoder.config._attn_implementation == "eager"
    model = load(encoder, types=["tone"], dtype="bfloat16")
    assert {x.dtype for x in model.parameters()} == {torch.bfloat16}
    audio = [row["audio"] for row in recordings(2)]
    found = model.predict(audio, RATE)
    model.save_pretrained(tmp_path)
    again = load(tmp_path, types=["tone"])
    assert again.dtype == torch.bfloat16 and again.predict(audio, RATE) == found != [[], []]


def test_metrics_where_labels_are_longer_than_the_lattice():
    """Encoders of features tell no number of frames, and labels may have a position too many."""
    config = SemiCRFFrameConfig(types=["a"], hidden_size=1, frame_seconds=1.0)
    labels = np.array([[1, 3, 2, 1, 1], [3, 2, 1, -100, -100]])
    decoded = np.array([[1, 3, 2, 1], [3, 2, -100, -100]])
    evaluation = EvalPrediction(predictions=(None, decoded), label_ids=labels)
    assert set(frame_metrics(config)(evaluation).values()) == {1.0}
    decoded[0, 2] = 1
    evaluation = EvalPrediction(predictions=(None, decoded), label_ids=labels)
    assert frame_metrics(config)(evaluation)["accuracy"] == 5 / 6


def test_labels_known_in_part(encoder):
    model = SemiCRFForFrameClassification.from_pretrained(
        encoder, types=["tone"], unknown="marginalize", head_dropout=0.0
    )
    collate = SemiCRFFrameCollator(model.feature_extractor, model.config)
    batch = collate(recordings(2))
    with torch.no_grad():
        whole = model(**batch, output_head=True).head.nll
        batch["labels"][:, 20:60] = -100
        part = model(**batch, output_head=True).head.nll
        batch["labels"][:] = -100
        nothing = model(**batch, output_head=True).head.nll
    assert (part < whole).all() and (part > 0).all()
    torch.testing.assert_close(nothing, torch.zeros(2), rtol=0, atol=1e-3)


def test_scores_of_segments_with_times():
    def rows(*spans):
        return [{"label": name, "start": a, "end": b} for name, a, b in spans]

    gold = [rows(("a", 0.0, 1.0), ("b", 1.0, 2.0)), rows(("a", 3.0, 4.0))]
    assert set(timed_scores(gold, gold).values()) == {1.0}
    # 3 of 6 boundaries found are near one of 5; 1 of 4 segments overlaps enough with one of 3
    found = [rows(("a", 0.01, 1.0), ("a", 1.0, 2.5)), rows(("a", 3.0, 3.2), ("a", 3.2, 3.4))]
    scores = timed_scores(found, gold, tolerance=0.02)
    assert scores["boundary_precision"] == 3 / 6 and scores["boundary_recall"] == 3 / 5
    assert scores["boundary_f1"] == pytest.approx(6 / 11)
    over = 6 / 5 - 1
    r_value = 1 - (math.hypot(0.4, over) + abs(-0.4 - over) / math.sqrt(2)) / 2
    assert scores["boundary_r_value"] == pytest.approx(r_value)
    assert scores["segment_precision"] == 1 / 4 and scores["segment_recall"] == 1 / 3
    with pytest.raises(ValueError, match="expected segments of 2 recordings, got 1"):
        timed_scores(gold[:1], gold)
    halves = [rows(("a", 0.0, 0.5), ("a", 0.5, 1.0))]
    assert timed_scores(halves, [rows(("a", 0.0, 1.0))])["segment_precision"] == 0.5


def test_segments_become_labels():
    segments = [
        {"label": "a", "start": 0.0, "end": 0.3},
        {"label": "b", "start": 0.3, "end": 0.5},
    ]
    assert frame_labels(segments, ["O", "a", "b"], 0.1, 7).tolist() == [3, 2, 2, 5, 4, 1, 1]
    for wrong, message in (
        ({"label": "c", "start": 0.6, "end": 0.7}, "expected a label among"),
        ({"label": "a", "start": 0.4, "end": 0.7}, "in order without overlap"),
        ({"label": "a", "start": 0.51, "end": 0.53}, "at least one position"),
        ({"label": "a", "start": 0.7, "end": 0.9}, "at least one position"),
    ):
        with pytest.raises(ValueError, match=message):
            frame_labels([*segments, wrong], ["O", "a", "b"], 0.1, 7)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (
            torch.tensor([[0, 1], [1, 1]]).repeat_interleave(500, 1),
            "ones for a frame or more, then",
        ),
        (torch.tensor([[0], [1]]).expand(2, 1000), "ones for a frame or more, then zeros"),
        (torch.ones(2, 77), "of the 49 frames, or of the 1000 inputs .*, got one of 77"),
    ],
)
def test_masks_that_are_no_lengths_are_refused(trained, mask, message):
    with pytest.raises(ValueError, match=message):
        trained[0](torch.randn(2, 1000), attention_mask=mask)


def test_what_from_pretrained_does_not_know_is_refused(encoder, trained, tmp_path):
    load = SemiCRFForFrameClassification.from_pretrained
    for folder, types in ((encoder, ["tone"]), (trained[1], None)):
        with pytest.raises(TypeError, match="max_segment_lenght"):
            load(folder, types=types, max_segment_lenght=3)
        with pytest.raises(ValueError, match="expected downsample as an int of at least 1, got 0"):
            load(folder, types=types, downsample=0)
    with pytest.raises(TypeError, match="unknown arguments"):
        load(encoder, torch.nn.Linear(1, 1), types=["tone"])
    with pytest.raises(ValueError, match=r"expected the types \['tone'\] of .*, got \['other'\]"):
        load(trained[1], types=["other"])
    assert load(trained[1], downsample=2).config.downsample == 2


def test_pickles_are_read_where_they_are_asked_for_alone(encoder, tmp_path):
    Wav2Vec2Model.from_pretrained(encoder).config.save_pretrained(tmp_path)
    weights = Wav2Vec2Model.from_pretrained(encoder).state_dict()
    torch.save(weights, tmp_path / "pytorch_model.bin")
    load = SemiCRFForFrameClassification.from_pretrained
    with pytest.raises(OSError, match="model.safetensors"):
        load(tmp_path, types=["tone"])
    model = load(tmp_path, types=["tone"], use_safetensors=False)
    assert all(
        torch.equal(x, weights[name]) for name, x in model.frame_encoder.state_dict().items()
    )


def test_windows_whose_frames_do_not_meet_are_refused():
    """A frame of 64 samples every 20: windows that share 20 samples leave positions out."""
    config = SemiCRFFrameConfig(
        types=["a"], hidden_size=4, frame_seconds=STEP / RATE, sampling_rate=RATE
    )

    class Wide(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.filters = torch.nn.Conv1d(1, 4, 64, stride=STEP)

        def forward(self, input_values):
            return self.filters(input_values[:, None]).mT

        def _get_feat_extract_output_lengths(self, lengths):
            return (lengths - 64) // STEP + 1

    torch.manual_seed(0)
    model = SemiCRFForFrameClassification(config, Wide())
    model.feature_extractor = Wav2Vec2FeatureExtractor(sampling_rate=RATE, do_normalize=False)
    audio = np.random.default_rng(0).standard_normal(3000)
    (whole,) = model.predict([audio], RATE)
    (found,) = model.predict([audio], RATE, window_seconds=1.0, overlap_seconds=0.2)
    assert [(x["start"], x["end"]) for x in found] == [(x["start"], x["end"]) for x in whole] != []
    with pytest.raises(ValueError, match="expected overlap_seconds above 0"):
        model.predict([audio], RATE, window_seconds=1.0, overlap_seconds=0.0)


def test_what_is_refused(encoder, trained):
    model = trained[0]
    with pytest.raises(ValueError, match="samples a second, got 8000"):
        model.predict([np.zeros(100)], 8000)
    with pytest.raises(ValueError, match="one-dimensional audio"):
        model.predict([np.zeros((2, 100))], RATE)
    with pytest.raises(ValueError, match="expected types="):
        SemiCRFForFrameClassification.from_pretrained(encoder)
    with pytest.raises(ValueError, match="expected one of input_values"):
        model()
    with pytest.raises(ValueError, match="window_seconds above overlap_seconds"):
        model.predict([np.zeros(4000)], RATE, window_seconds=1.0)
    with pytest.raises(ValueError, match="without 'O'"):
        SemiCRFFrameConfig(types=["O"])
    with pytest.raises(ValueError, match="expected scorer among"):
        SemiCRFFrameConfig(types=["a"], scorer="span")
    with pytest.raises(ValueError, match="mix_layers=0 over frames, got 2"):
        SemiCRFFrameConfig(types=["a"], mix_layers=2)
    for wrong in (np.full(2000, np.nan), np.full(2000, np.inf)):
        with pytest.raises(ValueError, match="finite audio, got NaN or infinity in recording 1"):
            model.predict([np.zeros(2000), wrong], RATE)
    with pytest.raises(ValueError, match="a recording of at least a frame, got 9 samples"):
        model.predict([np.zeros(9)], RATE)
    with pytest.raises(ValueError, match="a recording of at least a frame, got 9 samples"):
        SemiCRFFrameCollator(model.feature_extractor, model.config)(
            [{"audio": np.zeros(9), "segments": []}]
        )
    rows = recordings(2)
    del rows[1]["segments"]
    for mixed, row in ((rows, 1), (rows[::-1], 0)):
        with pytest.raises(ValueError, match=f"in all rows or in none, got none in row {row}"):
            SemiCRFFrameCollator(model.feature_extractor, model.config)(mixed)
    with pytest.raises(ValueError, match="expected a label at every position"):
        batch = SemiCRFFrameCollator(model.feature_extractor, model.config)(recordings(1))
        model(**{**batch, "labels": batch["labels"] * 0 - 100})
