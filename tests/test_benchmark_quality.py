"""The quality benchmark: heads by name, one run of each kind, and the table."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from tiny import BENCHMARKS, benchmark, save_tiny_bert, sentences, write_jsonl

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(BENCHMARKS)
    quality = benchmark("quality")
TRAINING = ("use_cpu=true", "num_train_epochs=12", "per_device_train_batch_size=8")
RATES = "+learning_rate=1e-2+head_learning_rate=1e-1"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quality")
    encoder = save_tiny_bert(folder / "bert")
    for name, count in (("train", 48), ("validation", 12), ("test", 12)):
        write_jsonl(folder / f"{name}.jsonl", sentences(count))
    return encoder, str(folder)


@pytest.mark.parametrize("head", ["softmax", "crf", "default", "boundary+mix_layers=2"])
def test_each_kind_of_head_trains_and_is_scored(folders, head, tmp_path):
    encoder, corpus = folders
    split = "validation" if head == "crf" else "test"
    ways = ("none/viterbi", "segment/best_f1/0.9", "sentence/half_f1")
    run = quality.Run(
        encoder, "tiny", corpus, head + RATES, 1, TRAINING, split, ways, "", 1, str(tmp_path)
    )
    line = json.loads(json.dumps(quality.train_and_score(run)))
    assert line["validation_f1"] > 0.9 and line[f"{split}_f1"] > 0.9
    assert ("test_f1" in line) == (split == "test")  # test is not read to choose on validation
    assert line["steps"] == 72 and line["steps_per_second"] > 0 and line["decode_seconds"] > 0
    assert 0 <= line["calibration_error"] == min(line["calibration_errors"].values()) < 0.5
    assert line["lengths"]["2"]["number"] == 8 and set(line["types"]) == {"PER", "LOC"}
    if head == "softmax":
        assert set(line["calibration_errors"]) == {"mean", "product"} and line["threshold"] is None
    elif head == "crf":
        assert (line["temperature"], line["threshold"], line["max_segment_length"]) == (1, None, 1)
    else:
        # few sentences, all told right: they carry a threshold and no temperature
        assert line["temperature"] == 1 and line["threshold"] == pytest.approx(0.5, abs=0.05)
        assert line["max_segment_length"] == 2
        viterbi, _, same = (line["decodings"][way] for way in ways)
        assert (viterbi["temperature"], viterbi["threshold"]) == (1, None)
        names = ("temperature", "threshold", "calibration_error")
        assert [same[name] for name in names] == [line[name] for name in names]
        assert same["f1"] == line["test_f1"]


def test_heads_are_read_from_their_names():
    assert quality.parse_head("softmax+weight_decay=0.1") == (None, {"weight_decay": 0.1}, {})
    assert quality.parse_head("default+threshold=null") == ({"threshold": None}, {}, {})
    settings, training, _ = quality.parse_head("span+mix_layers=4+head_learning_rate=3e-3")
    assert (settings, training) == (
        {"scorer": "span", "mix_layers": 4},
        {"head_learning_rate": 3e-3},
    )
    assert quality.parse_head("crf")[0]["max_segment_length"] == 1
    gone = ("span+biaffine", "span+word_dropout=0.1", "span+layer_decay=0.85")
    for wrong in ("spam", "crf+span", "mix_layers=1", "softmax+mix_layers=1", *gone):
        with pytest.raises(ValueError, match="expected"):
            quality.parse_head(wrong)


def test_entities_of_a_softmax_are_scored_by_their_words():
    scheme = quality.LabelScheme.from_labels(["O", "B-PER", "I-PER"])
    found = [{"tags": [0, 1, 2, 1], "scores": [0.9, 0.8, 0.5, 0.25], "labels": [0] * 4}]
    assert quality.entities(found, scheme, "mean") == [[(1, 3, "PER", 0.65), (3, 4, "PER", 0.25)]]
    assert quality.entities(found, scheme, "product")[0][0] == (1, 3, "PER", pytest.approx(0.4))
    assert quality.entities(found, scheme, "segment")[0][0] == (1, 3, "PER", 0.8)


def test_finished_runs_are_left_out_and_the_table_has_means_and_deviations(tmp_path, capsys):
    out, rows = tmp_path / "results.jsonl", []
    for corpus in ("a", "b"):
        for seed, f1 in ((1, 0.5), (2, 0.6)):
            rows.append(
                {"corpus": corpus, "head": "crf", "seed": seed, "split": "test", "training": []}
                | {"test_f1": f1, "lengths": {"5+": {"recall": 0.25}}}
                | {"calibration_error": 0.1, "steps_per_second": 8.0}
                | {"decodings": {"none/viterbi": {"f1": f1, "calibration_error": 0.3}}}
            )
    write_jsonl(out, rows)
    command = ["--encoder", "nowhere", "--corpora", "x/a", "x/b", "--heads", "crf"]
    command += ["--seeds", "1", "2", "--split", "test", "--out", str(out)]
    assert quality.main([*command, "--scratch", str(tmp_path / "scratch")]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert "| none/viterbi | 55.00 | 30.00 | 4 |" in quality.decoding_table(rows)
    cell = "55.00 ± 7.07 (2)"
    assert last == f"| crf | {cell} | {cell} | 55.00 | 25.00 | 10.00 | 8.00 |"


@pytest.mark.parametrize(
    "heads", [["default", "default+teachers=1"], ["default+sure=0.9+neighbours=file+alone=0.5"]]
)
def test_recipes_are_trained_and_scored(heads, folders, tmp_path):
    encoder, corpus = folders
    for head, seed in zip(heads, (11, 1), strict=False):
        run = quality.Run(
            encoder, "tiny", corpus, head + RATES, seed, TRAINING, "test", (), "", 1,
            str(tmp_path), str(tmp_path), str(tmp_path), 24 if "sure" in head else 0,
        )  # fmt: skip
        if head == "default":  # whose folder a teacher is looked for in
            run = run._replace(head="default", training=(*TRAINING, *RATES.strip("+").split("+")))
        line = quality.train_and_score(run)
        assert line["test_f1"] > 0.8 and line["sentences"] == run.sentences
        segments = np.load(run.file("test", "npz"))
        gold, posterior = segments["gold"], segments["posterior"]
        assert gold.sum() == 16 and (gold | (posterior >= 0.02)).all()
        spans = json.loads(run.file("test", "json").read_text())
        assert sum(map(len, spans["gold"])) == 16 and len(spans["found"]) == 12
        assert all(0 < score <= 1.0001 for row in spans["found"] for *_, score in row)


def test_thresholds_are_fitted_to_the_segments_of_a_run(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        thresholds = benchmark("quality_thresholds")
    draw = torch.Generator().manual_seed(3)
    lengths = torch.tensor([7, 5])
    posterior = torch.rand(2, 7, 3, 3, generator=draw)
    posterior[..., 1:, 0] = 0  # the outside has one word
    limit = torch.rand(3, 3, generator=draw)
    labels, starts = quality.ops.minimum_risk(posterior, lengths, limit)
    inside = torch.arange(7)[:, None] + torch.arange(1, 4) <= lengths[:, None, None]
    at = (inside[..., None] & torch.tensor([False, True, True])).nonzero()
    columns = {"sentence": at[:, 0], "start": at[:, 1], "size": at[:, 2] + 1, "type": at[:, 3]}
    columns |= {"posterior": posterior[tuple(at.T)], "gold": at[:, 1] == 0}
    path = tmp_path / "a-default-1-test.npz"
    for split in ("test", "validation"):
        np.savez(path.with_name(f"a-default-1-{split}.npz"), **columns)
    segments = thresholds.read(path)
    kept = thresholds.decode(segments, limit.numpy()[segments.size - 1, segments.type])
    found = {tuple(map(int, row)) for row in np.stack(segments[:4], 1)[kept]}
    expected = {
        (row, first, end - first, int(labels[row, first]))
        for row, length in enumerate(lengths.tolist())
        for places in [[*starts[row, :length].nonzero()[:, 0].tolist(), length]]
        for first, end in zip(places, places[1:], strict=False)
        if labels[row, first]
    }
    assert found == expected and len(found) > 3
    rows = thresholds.rows_of(path)
    assert [row["way"] for row in rows] == list(thresholds.WAYS)
    assert rows[2]["factor"] <= rows[0]["factor"] == 1.0
    assert rows[1]["validation_f1"] >= rows[0]["validation_f1"] == rows[0]["test_f1"] > 0
