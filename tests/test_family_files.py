"""A few damaged files of `family_files`, the same ones each time."""

from __future__ import annotations

import shutil
from random import Random

import pytest
from family_files import corrupt_files, tagger
from tiny import error_of, write_jsonl

from hf_semicrf.cli import evaluate, export, predict, suggest, train
from hf_semicrf.data import read_corpus, stream_rows

GOOD = {"tokens": ["Ada", "met"], "ner_tags": ["B-PER", "O"]}


@pytest.mark.parametrize("part", range(2))
def test_damaged_files_are_refused_in_one_line_or_read(part):
    assert sum(corrupt_files(Random(f"{part} {n}")) for n in range(8)) == 40


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig"])
def test_a_byte_order_mark_tells_the_encoding(tmp_path, encoding):
    (tmp_path / "a.conll").write_text("Ада B-PER\nmet O\n", encoding=encoding)
    assert read_corpus(tmp_path / "a.conll")["tokens"] == [["Ада", "met"]]
    (tmp_path / "n.txt").write_text("Ада met", encoding=encoding)
    if encoding != "utf-8-sig":  # in BRAT's offsets it is a character
        (tmp_path / "n.ann").write_text("T1\tPER 0 3\tАда\n", encoding=encoding)
        assert read_corpus(tmp_path / "n.ann")["ner_tags"] == [["B-PER", "O"]]


@pytest.mark.parametrize("name", ["a.conll", "a.txt", "a.csv", "n.txt"])
def test_a_zero_byte_is_no_text(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"text,x\nAda,\0\n" if name == "a.csv" else b"Ada B-PER\n\0\0 O\n")
    if name == "n.txt":
        path = tmp_path / "n.ann"
        path.touch()
    with pytest.raises(ValueError, match=f"{tmp_path}/{name}, line .*expected text in .* 0x00"):
        list(stream_rows(path, damaged="error"))


def test_deep_brackets_are_refused_where_they_stand(tmp_path):
    file = write_jsonl(tmp_path / "a.jsonl", [GOOD])
    with open(file, "a") as more:
        more.write('{"tokens": ["a"], "ner_tags": ["O"], "x": ' + "[" * 900 + "]" * 900 + "}\n")
        more.write('{"tokens": ["b"], "ner_tags": ["O"]}\n')
    for read in (read_corpus, lambda path: list(stream_rows(path, damaged="error"))):
        with pytest.raises(ValueError, match="a.jsonl, line 2: expected") as caught:
            read(file)
        assert len(str(caught.value)) < 500
    with pytest.warns(UserWarning, match="1 damaged rows, left out: .*a.jsonl, line 2"):
        assert [row["tokens"] for row in stream_rows(file)] == [GOOD["tokens"], ["b"]]


def test_a_word_that_fits_in_no_column_is_named_with_its_line(tiny_tagger, tmp_path):
    file = write_jsonl(tmp_path / "a.jsonl", [GOOD, {"tokens": ["a", "b\nc"]}])
    out = tmp_path / "out"
    said = error_of(predict.main, tiny_tagger, "--file", file, "--format", "conll", "--output", out)
    assert f"{file}, line 2: expected words that fit in a column, got 'b\\nc'" in said
    assert not out.exists()


def test_labels_in_messages_are_short(tiny_tagger, tmp_path):
    rows = [{"tokens": ["a"], "ner_tags": [f"B-{'x' * 9000}{n}"]} for n in range(50)]
    file = write_jsonl(tmp_path / "a.jsonl", rows)
    said = error_of(evaluate.main, tiny_tagger, "--file", file)
    assert f"{file}: expected a label 'O'" in said and len(said) < 3000


@pytest.mark.parametrize("command", [predict, evaluate, train, export])
@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("tokenizer.json", b'"version"', b'"revision"'),
        ("tokenizer.json", b'"added_tokens"', b'"addled_tokens"'),
        ("tokenizer_config.json", b"{", b'["a", '),
        ("config.json", b'"id2label": {', b'"id2label": 3, "x": {'),
        ("config.json", b"}", b""),
        ("model.safetensors", b"F32", b"F33"),
        ("model.safetensors", b"data_offsets", b"data_offsats"),
    ],
)
def test_a_damaged_model_is_named(command, name, old, new, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(tagger()[0], model)
    content = (model / name).read_bytes()
    assert old in content
    (model / name).write_bytes(content.replace(old, new))
    file = write_jsonl(tmp_path / "a.jsonl", [GOOD, {"tokens": ["a"], "ner_tags": ["O"]}])
    arguments = {
        predict: [model, "a"],
        evaluate: [model, "--file", file],
        export: [model, tmp_path / "onnx"],
        train: [*("--model_name_or_path", model, "--train_file", file, "--use_cpu")],
    }[command]
    if command is train:
        arguments += ["--output_dir", tmp_path / "out", "--report_to", "none"]
    assert str(model) in error_of(command.main, *arguments)
    assert not (tmp_path / "out").exists() and not (tmp_path / "onnx").exists()


@pytest.mark.parametrize("command", [predict, suggest, evaluate, train])
@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "loop", "file/below"])
def test_a_path_that_the_system_refuses(command, name, tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").touch()
    if command is train:
        arguments = ["--model_name_or_path", "m", "--train_file", tmp_path / name]
    else:
        arguments = ["m", "--file", tmp_path / name]
    assert "expected a file, found none at" in error_of(command.main, *arguments)


@pytest.mark.parametrize("command", [predict, suggest, evaluate])
@pytest.mark.parametrize("device", ["meta", "xpu", "cuda:99", "gpu", ""])
def test_a_device_that_is_not_there(command, device, tiny_tagger, tmp_path):
    file = write_jsonl(tmp_path / "a.jsonl", [GOOD])
    said = error_of(command.main, tiny_tagger, "--file", file, "--device", device)
    assert "argument --device: " in said and repr(device) in said
