"""docs/hugging_face.md and its like: every row names a test that exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))
BACKED = [ROOT / "docs" / name for name in ("hugging_face.md", "onnx.md", "endpoints.md")]


def functions_of(file: str) -> set[str]:
    """The names of a file's test functions."""
    tree = ast.parse((ROOT / file).read_text())
    functions = (node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))
    return {name for name in functions if name.startswith("test_")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_test_that_a_page_names_exists(page):
    references = re.findall(r"`(tests/[\w/]+\.py)::(\w+)", page.read_text())
    missing = [f"{file}::{name}" for file, name in references if name not in functions_of(file)]
    assert not missing


@pytest.mark.parametrize("page", BACKED, ids=lambda page: page.name)
def test_every_row_is_backed_by_a_test(page):
    claims = re.sub("<!-- table.*?<!-- end -->", "", page.read_text(), flags=re.S)  # measured
    rows = re.findall(r"^\| (?!---|what \|)(.*) \|$", claims, re.M)
    assert len(rows) > 2
    for row in rows:
        cell = row.split(" | ")[-1]
        assert re.fullmatch(r"(`tests/[\w/]+\.py::test_\w+`(, )?)+", cell), row


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target
