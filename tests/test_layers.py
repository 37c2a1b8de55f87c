"""The layer rule: the table of folders against the imports that the files really have."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "hf_semicrf"
HUGGING_FACE = {"transformers", "tokenizers", "huggingface_hub", "datasets", "evaluate"}
HUGGING_FACE |= {"accelerate"}

FILES = sorted(PACKAGE.rglob("*.py"))


# A folder imports from those above it in this table, or beside it on its line where neither imports
# the other in a circle.
FOLDERS = [
    ["options", "results", "saving"],
    ["ops", "text"],
    ["labels"],
    ["head", "torchcrf"],
    ["data"],
    ["inference", "evaluation"],
    ["reporting"],
    ["hub", "export"],
    ["model"],
    ["trainer", "pipeline"],
    ["integrations"],
    ["registration"],
    ["__init__"],
    ["cli"],  # calls the library as its users do
    ["__main__"],
]
WITHOUT_TRANSFORMERS = {"options", "results", "saving", "ops", "labels", "head", "registration"}
WITHOUT_TRANSFORMERS |= {"torchcrf"}


def folder_of(path: Path) -> str:
    """The folder of a file, or the file's own name at the top."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def layer_of(path: Path) -> int:
    return next(n for n, names in enumerate(FOLDERS) if folder_of(path) in names)


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


def test_every_folder_stands_in_the_table_once():
    listed = [name for names in FOLDERS for name in names]
    assert sorted(listed) == sorted({folder_of(path) for path in FILES})


def test_every_folder_says_what_lives_in_it():
    for path in PACKAGE.rglob("*/__init__.py"):
        assert ast.get_docstring(ast.parse(path.read_text())), path


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_point_downwards(path):
    for room in own_rooms(path):
        assert layer_of(room) <= layer_of(path), f"{path} must not import {room}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_other_folders_are_imported_as_folders(path):
    for room in own_rooms(path):
        if folder_of(room) != folder_of(path) and room.parent != PACKAGE:
            assert room.name == "__init__.py", f"{path} imports {room}, not its folder"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_the_head_and_all_below_know_no_transformers(path):
    roots = {name.split(".")[0] for name in imported_modules(path)}
    if folder_of(path) in WITHOUT_TRANSFORMERS:
        assert not roots & HUGGING_FACE


def test_every_imported_package_is_declared():
    project = (ROOT / "pyproject.toml").read_text()
    listed = re.search(r"^dependencies = \[(.*?)^\]", project, re.M | re.S)[1]
    for extra in ("plots", "demo", "spacy", "presidio", "onnx", "audio", "genes", "serve"):
        listed += re.search(rf"^{extra} = (.*)", project, re.M)[1]
    declared = {name.lower().replace("-", "_") for name in re.findall(r'[ \[]"([\w.-]+)', listed)}
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
