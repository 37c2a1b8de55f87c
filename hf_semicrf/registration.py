"""Make the model and its pipeline known to transformers, without importing transformers first.

transformers keeps the classes of configurations and the tasks of pipelines in two tables. Each gets
an entry that names ours and imports it when somebody looks it up. The entries are written at once
where transformers has made the tables, else right after it makes them: a finder on `sys.meta_path`
watches for the two modules.

No room of this package is imported while transformers imports its own. So an entry holds no import
lock for which another thread waits, meets no module that is half done, and a room that can't be
imported is the error of those alone who ask for it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from threading import local
from types import ModuleType
from typing import Any

MODEL_TYPES = {"semicrf": "SemiCRFConfig", "semicrf_frames": "SemiCRFFrameConfig"}
TASK = "semicrf-ner"


class ConfigEntries(dict[str, Any]):
    """The configurations registered from outside transformers, ours imported at their first use.

    Args:
        entries: Those that are there already.
    """

    def __init__(self, entries: dict[str, Any]):
        super().__init__(dict.fromkeys(MODEL_TYPES) | entries)

    def __getitem__(self, key: str) -> Any:
        """The class of a configuration."""
        return self._imported()[key] if key in MODEL_TYPES else super().__getitem__(key)

    def values(self) -> Any:
        """All classes."""
        return self._imported().values()

    def items(self) -> Any:
        """All types of models, and their classes."""
        return self._imported().items()

    def _imported(self) -> dict[str, Any]:
        """The entries without a gap."""
        found = dict(self)
        for kind, name in MODEL_TYPES.items():
            if found.get(kind) is None:
                found[kind] = self[kind] = getattr(import_module("hf_semicrf.model"), name)
        return found


class TaskEntry(dict[str, Any]):
    """The task of our pipeline, whose class is imported at its first use."""

    def __init__(self) -> None:
        super().__init__(type="text")

    def __missing__(self, key: str) -> Any:
        """The pipeline's class ("impl"), or those of its models ("pt")."""
        if key not in ("impl", "pt"):
            raise KeyError(key)
        self["impl"] = import_module("hf_semicrf.pipeline").SemiCRFPipeline
        self["pt"] = (import_module("transformers").AutoModelForTokenClassification,)
        return self[key]


def _add_config(module: ModuleType) -> None:
    """Put our configuration into the table of a module that has one."""
    table = getattr(module, "CONFIG_MAPPING", None)
    entries = getattr(table, "_extra_content", None)
    if table is not None and not isinstance(entries, ConfigEntries):
        table._extra_content = ConfigEntries(entries or {})


def _add_task(module: ModuleType) -> None:
    """Put our task into the table of a module that has one."""
    table = getattr(module, "PIPELINE_REGISTRY", None)
    if table is not None:
        table.supported_tasks.setdefault(TASK, TaskEntry())


# a module of transformers -> what puts our entry into its table
TABLES: dict[str, Callable[[ModuleType], None]] = {
    "transformers.models.auto.configuration_auto": _add_config,
    "transformers.pipelines": _add_task,
}


def register_with_transformers() -> None:
    """Write the entries into the tables that are there, and into others when they are made."""
    if not any(isinstance(finder, TableFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, TableFinder())
    for name, add in TABLES.items():
        if sys.modules.get(name) is not None:
            add(import_module(name))  # waits for another thread that is importing it


class TableFinder:
    """A finder that finds nothing itself, and has our entry written after an import of a table.

    It stays for good, as a table may be made again by `importlib.reload`.
    """

    def __init__(self) -> None:
        self._asking = local()

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec that the other finders give, with a loader that writes the entry.

        Args:
            name: Full name of the module.
            path: Where its package lies.
            target: The module that is loaded again, if any.
        """
        if name not in TABLES or getattr(self._asking, "now", False):
            return None
        self._asking.now = True  # another finder of this kind may ask us in turn
        try:
            for finder in list(sys.meta_path):
                find = getattr(finder, "find_spec", None)
                spec = None if find is None or finder is self else find(name, path, target)
                if spec is not None:
                    if hasattr(spec.loader, "exec_module"):
                        spec.loader = TableLoader(spec.loader, TABLES[name])
                    return spec
        finally:
            self._asking.now = False
        return None


class TableLoader:
    """A module's own loader, and what is to be done once it is done.

    Args:
        loader: The module's own.
        add: What takes the module then.
    """

    def __init__(self, loader: Any, add: Callable[[ModuleType], None]):
        self._loader = loader
        self._add = add

    def __getattr__(self, name: str) -> Any:
        """Whatever else the module's own loader can do."""
        if name.startswith("__") or name == "_loader":
            raise AttributeError(name)
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """As the module's own loader does.

        Args:
            spec: The module's.
        """
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """As the module's own loader does, which is put back in its place; then the entry.

        Args:
            module: The module.
        """
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        self._add(module)
