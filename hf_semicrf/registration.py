"""Make the model and its pipeline known to transformers, without importing transformers first.

Importing `hf_semicrf.model` registers the Auto classes, importing `hf_semicrf.pipeline` the
pipeline. Here is decided when: at once where transformers has imported its auto classes and
pipelines, else right after somebody imports them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from threading import local
from types import ModuleType
from typing import Any

# a module of transformers -> the room that registers with it
ROOMS = {
    "transformers.models.auto.modeling_auto": "hf_semicrf.model",
    "transformers.models.auto.configuration_auto": "hf_semicrf.model",
    "transformers.pipelines": "hf_semicrf.pipeline",
}


def register_with_transformers() -> None:
    """Register what can be registered now, and the rest when transformers imports its part."""
    _import_rooms()
    if not _all_imported() and not any(isinstance(f, _Watcher) for f in sys.meta_path):
        sys.meta_path.insert(0, _Watcher())


def _import_rooms() -> None:
    for module, room in ROOMS.items():
        if module in sys.modules:
            import_module(room)


def _all_imported() -> bool:
    return all(room in sys.modules for room in ROOMS.values())


class _Watcher:
    """A finder that finds nothing itself, but sees when an import of transformers is done.

    Modules of transformers import each other. A room is imported after the outermost of them,
    when none is half done.
    """

    def __init__(self) -> None:
        self.importing = local()

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec that the other finders give, whose loader tells the watcher of its work."""
        if name.partition(".")[0] != "transformers":
            return None
        for finder in sys.meta_path:
            if finder is not self and hasattr(finder, "find_spec"):
                spec = finder.find_spec(name, path, target)
                if spec is not None:
                    if spec.loader is not None:
                        self._watch(spec.loader)
                    return spec
        return None

    def _watch(self, loader: Any) -> None:
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            depth = getattr(self.importing, "depth", 0)
            self.importing.depth = depth + 1
            try:
                execute(module)
            finally:
                self.importing.depth = depth
            if depth == 0:
                self._settle()

        loader.exec_module = exec_module

    def _settle(self) -> None:
        _import_rooms()
        if _all_imported() and self in sys.meta_path:
            sys.meta_path.remove(self)
