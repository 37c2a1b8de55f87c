"""docs/recall.md: its ten lines run, its commands too, and its tables are those of the results."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
from test_recall import letters_of, loaded
from tiny import BENCHMARKS, benchmark, write_jsonl

from hf_semicrf import cli

PAGE = (Path(__file__).parent.parent / "docs" / "recall.md").read_text()


@pytest.fixture
def workplace(tiny_tagger, tmp_path, monkeypatch):
    """A folder with the files that the page names."""
    shutil.copytree(tiny_tagger, tmp_path / "out" / "final")
    rows = letters_of(200)
    write_jsonl(tmp_path / "calibration.jsonl", rows)
    (tmp_path / "letters.txt").write_text("Ada Lovelace saw Paris .\n\nsaw .\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_ten_lines(workplace):
    (block,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
    assert len(block.splitlines()) == 10
    exec(compile(block, "recall.md", "exec"), {})
    first, empty, last = (workplace / "redacted.txt").read_text().split("\n")
    assert empty == "" and last == "saw ." and first != "Ada Lovelace saw Paris ."
    [promise] = loaded(str(workplace / "out" / "final"))[0].config.promises
    assert (promise["recall"], promise["data"]) == (0.9, "letters")


def test_the_commands(workplace):
    (block,) = re.findall(r"^```bash\n(.*?)^```", PAGE, re.M | re.S)
    for line in block.splitlines():
        cli.main(shlex.split(line)[1:])
    assert len((workplace / "redacted.txt").read_text().splitlines()) == 3


def test_the_tables_are_up_to_date():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        tables = benchmark("recall_tables").TABLES
    found = dict(re.findall(r"<!-- table: (\w+) -->\n(.*?)<!-- end -->", PAGE, re.S))
    assert found.keys() == tables.keys()
    for name, text in found.items():
        assert text == tables[name]()
