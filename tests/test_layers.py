"""The layer rule: the table in CONTRIBUTING.md against the imports that the files really have."""

from __future__ import annotations

import ast
import re
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "hf_semicrf"
HUGGING_FACE = {"transformers", "tokenizers", "huggingface_hub", "datasets", "evaluate"}
HUGGING_FACE |= {"accelerate"}

FILES = sorted(PACKAGE.rglob("*.py"))


def layer_table() -> dict[str, int]:
    """File pattern to layer, as CONTRIBUTING.md states them."""
    rows = re.findall(r"^\| (\d) \| ([^|]+) \|", (ROOT / "CONTRIBUTING.md").read_text(), re.M)
    return {pattern: int(layer) for layer, cell in rows for pattern in re.findall("`(.+?)`", cell)}


def layer_of(path: Path) -> int:
    name = path.relative_to(PACKAGE).as_posix()
    layers = [layer for pattern, layer in layer_table().items() if fnmatch(name, pattern)]
    assert len(layers) == 1, f"{name} stands in {len(layers)} rows of CONTRIBUTING.md's table"
    return layers[0]


def file_of(module: str) -> Path | None:
    """The file of one of this package's modules; None for any other name."""
    root, *parts = module.split(".")
    place = PACKAGE.joinpath(*parts)
    files = [place / "__init__.py", place.parent / f"{place.name}.py"]
    return next((file for file in files if root == "hf_semicrf" and file.is_file()), None)


def imported_modules(path: Path) -> set[str]:
    """Absolute names of all modules that a file imports, wherever the statement stands."""
    package = ["hf_semicrf", *path.relative_to(PACKAGE).parent.parts]
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:  # `from package import name` may name a module
                submodule = f"{module}.{alias.name}"
                names.add(submodule if file_of(submodule) else module)
    return names


def own_rooms(path: Path) -> set[Path]:
    """The files of this package that a file imports."""
    return {file for name in imported_modules(path) if (file := file_of(name))}


def test_every_row_of_the_table_names_a_file():
    names = [file.relative_to(PACKAGE).as_posix() for file in FILES]
    for pattern in layer_table():
        assert any(fnmatch(name, pattern) for name in names), f"no file for the row {pattern}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_point_downwards(path):
    for room in own_rooms(path):
        assert layer_of(room) <= layer_of(path), f"{path} must not import {room}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_layers_1_to_4_know_no_transformers(path):
    roots = {name.split(".")[0] for name in imported_modules(path)}
    if layer_of(path) <= 4:
        assert not roots & HUGGING_FACE


def test_every_imported_package_is_declared():
    project = (ROOT / "pyproject.toml").read_text()
    listed = re.search(r"^dependencies = \[(.*?)^\]", project, re.M | re.S)[1]
    listed += re.search(r"^plots = (.*)", project, re.M)[1]
    declared = {name.lower() for name in re.findall(r'[ \[]"([\w.-]+)', listed)}
    roots = {name.split(".")[0] for path in FILES for name in imported_modules(path)}
    # triton comes with torch or not at all: without it there is no Triton back end
    assert roots - sys.stdlib_module_names - {"hf_semicrf", "triton"} <= declared


def test_no_import_circle():
    graph = {path: own_rooms(path) for path in FILES}
    while graph:
        leaves = [path for path, rooms in graph.items() if not rooms & graph.keys()]
        assert leaves, f"a circle among {sorted(map(str, graph))}"
        for leaf in leaves:
            del graph[leaf]


def test_the_reader_of_imports_sees_every_form(tmp_path, monkeypatch):
    monkeypatch.setattr("test_layers.PACKAGE", tmp_path)
    (tmp_path / "ops").mkdir()
    file = tmp_path / "ops" / "dense.py"
    (tmp_path / "ops" / "reference.py").touch()
    (tmp_path / "head.py").touch()
    file.write_text(
        "from ..head import SemiCRF\n"
        "from hf_semicrf.ops import reference\n"
        "def f():\n    import transformers.utils as u\n"
    )
    names = {"hf_semicrf.head", "hf_semicrf.ops.reference", "transformers.utils"}
    assert imported_modules(file) == names
    assert own_rooms(file) == {tmp_path / "head.py", tmp_path / "ops" / "reference.py"}
