"""What commands write is there as a whole, or the old file is: full disks, kills, other runs."""

from __future__ import annotations

import errno
import io
import os
import signal
import stat
from contextlib import contextmanager, redirect_stdout

import pytest
from tiny import error_of, save_tiny_bert, sentences, write_jsonl

from hf_semicrf.cli import common, evaluate, predict, suggest, train
from hf_semicrf.saving import filling, only_writer, replacing

resource = pytest.importorskip("resource")  # POSIX


@contextmanager
def full_disk(most):
    """No file takes more than so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))  # Python ignores the signal
    try:
        with redirect_stdout(io.StringIO()):  # which pytest keeps in a file
            yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def names(folder):
    return sorted(path.name for path in folder.rglob("*"))


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    file = tmp_path / "page.html"
    file.write_text("old")
    file.chmod(0o640)
    link = tmp_path / "link.html"
    link.symlink_to(file)
    with pytest.raises(KeyError), replacing(link) as path:
        path.write_text("new")
        raise KeyError
    assert file.read_text() == "old"
    with replacing(link) as path:
        path.write_text("new")
        assert path.suffix == ".html" and file.read_text() == "old"
    assert file.read_text() == "new" and link.is_symlink()
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert names(tmp_path) == ["link.html", "page.html"]


def test_a_new_file_has_the_usual_permissions(tmp_path):
    (tmp_path / "stock").touch()
    with replacing(tmp_path / "ours") as path:
        path.touch()
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "stock").stat().st_mode


def test_a_device_stays_one():
    with replacing("/dev/null") as path:
        path.write_text("nothing")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    with pytest.raises(OSError, match="'/dev/full'"), replacing("/dev/full") as path:
        path.write_text("nothing")


def test_an_error_names_the_file_that_was_asked_for(tmp_path):
    (tmp_path / "big").write_text("old")
    with full_disk(100), pytest.raises(OSError, match=f"'{tmp_path}/big'") as caught:
        with replacing(tmp_path / "big") as path:
            path.write_text("x" * 1000)
    assert caught.value.errno == errno.EFBIG and (tmp_path / "big").read_text() == "old"
    with pytest.raises(OSError, match=f"'{tmp_path}/none'"), filling(tmp_path) as folder:
        (folder / "none").read_text()
    with pytest.raises(FileNotFoundError, match="'elsewhere'"), filling(tmp_path) as folder:
        open("elsewhere")
    with pytest.raises(FileNotFoundError, match=f"'{tmp_path}/no/big'"):
        with replacing(tmp_path / "no" / "big"):
            pass
    assert names(tmp_path) == ["big"]


def test_a_file_that_may_not_be_written_stays(tmp_path, monkeypatch):
    (tmp_path / "old").write_text("old")
    monkeypatch.setattr(os, "access", lambda path, how: False)
    with pytest.raises(PermissionError, match="old"), replacing(tmp_path / "old") as path:
        path.write_text("new")
    assert (tmp_path / "old").read_text() == "old" and names(tmp_path) == ["old"]
    said = error_of(predict.main, "model", "text", "--output", tmp_path / "old")
    assert "expected a file that may be written, got" in said


def test_a_folder_is_filled_file_by_file(tmp_path):
    (tmp_path / "a").write_text("old")
    (tmp_path / "kept").write_text("old")
    with filling(tmp_path) as folder:
        for name in ("a", "sub/b"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text("new")
    assert names(tmp_path) == ["a", "b", "kept", "sub"]
    assert [(tmp_path / n).read_text() for n in ("a", "sub/b", "kept")] == ["new", "new", "old"]


# One run at a time


def test_a_second_run_is_told_and_a_killed_one_blocks_nobody(tmp_path):
    folder = tmp_path / "out.shards"
    read, write = os.pipe()
    child = os.fork()
    if not child:
        with only_writer(folder, "out"):
            os.write(write, b"!")
            signal.pause()
        os._exit(0)
    os.read(read, 1)
    with pytest.raises(ValueError, match="expected one run that writes out, got another one"):
        with only_writer(folder, "out"):
            pass
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with only_writer(folder, "out"):
        assert names(tmp_path) == [".lock", "out.shards"]
    assert not folder.exists()


def test_what_lies_in_the_folder_stays(tmp_path):
    with pytest.raises(KeyError), only_writer(tmp_path / "s", "out"):
        (tmp_path / "s" / "0").touch()
        raise KeyError
    assert names(tmp_path) == ["0", "s"]


def test_only_one_of_many_runs_writes_at_a_time(tmp_path):
    """They take turns, each with a folder that the one before may be removing."""
    children = []
    for _ in range(4):
        children.append(os.fork())
        if not children[-1]:
            code = 1
            try:
                done = 0
                while done < 50:
                    try:
                        with only_writer(tmp_path / "s", "out"):
                            (tmp_path / "s" / "mine").touch(exist_ok=False)
                            (tmp_path / "s" / "mine").unlink()
                            done += 1
                    except ValueError:
                        pass
                code = 0
            finally:
                os._exit(code)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    assert not (tmp_path / "s").exists()


def test_a_second_predict_is_told(tiny_tagger, tmp_path):
    file = write_jsonl(tmp_path / "in.jsonl", sentences(3))
    arguments = [tiny_tagger, "--file", file, "--output", tmp_path / "out", "--device", "cpu"]
    with only_writer(tmp_path / "out.shards", "out"):
        said = error_of(predict.main, *arguments)
    assert said.endswith(
        f"expected one run that writes {tmp_path / 'out'}, got another one at work"
    )
    predict.main([str(argument) for argument in arguments])
    assert len((tmp_path / "out").read_text().splitlines()) == 3


# The commands on a full disk


def commands(model, file, folder):
    """Commands that write files, and the files."""
    for kind in ("jsonl", "conll", "label_studio", "html"):
        out = folder / f"out.{kind}"
        yield predict, [model, "--file", file, "--format", kind, "--output", out], [out]
    out = folder / "suggest.html"
    yield suggest, [model, "--file", file, "--format", "html", "--output", out], [out]
    reports = [folder / f"evaluation.{end}" for end in ("json", "md", "png")]
    yield evaluate, [model, "--file", file, "--output_dir", folder], reports


def test_the_old_file_stays_where_the_disk_is_full(tiny_tagger, tmp_path, monkeypatch):
    loaded = common.load(tiny_tagger, "cpu")
    for module in (predict, suggest, evaluate):
        monkeypatch.setattr(module, "load", lambda *_: loaded)
    file = write_jsonl(tmp_path / "in.jsonl", sentences(12))
    folder = tmp_path / "out"
    folder.mkdir()
    for module, arguments, files in commands(tiny_tagger, file, folder):
        for old in files:
            old.write_text("old")
        with full_disk(300):
            said = error_of(module.main, *arguments)
        assert "File too large: " in said and str(folder) in said
        assert [old.read_text() for old in files] == ["old"] * len(files)
    left = [path for path in folder.rglob("*") if path.suffix not in (".shards", ".jsonl")]
    listed = [file for *_, files in commands("", "", folder) for file in files]
    assert {*left} == {file for file in listed if file.suffix != ".jsonl"}


def test_a_trained_model_stays_where_the_disk_is_full(tmp_path):
    file = write_jsonl(tmp_path / "train.jsonl", sentences(8))
    arguments = ["--model_name_or_path", save_tiny_bert(tmp_path / "bert"), "--train_file", file]
    arguments += ["--output_dir", str(tmp_path / "out"), "--max_steps", "1", "--report_to", "none"]
    arguments += ["--use_cpu", "--disable_tqdm", "True"]
    train.main(arguments)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with only_writer(tmp_path / "out", "out"):
        said = error_of(train.main, *arguments)
    assert f"expected one run that writes {tmp_path / 'out'}, got another" in said
    with full_disk(1000):
        said = error_of(train.main, *arguments, "--seed", "1")
    assert said.startswith("hf-semicrf train: ") and str(tmp_path / "out") in said
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    train.main([*arguments, "--seed", "1"])
    after = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert {name for name in before if before[name] != after[name]} >= {"model.safetensors"}
    assert before.keys() == after.keys()
