"""Other libraries' interfaces to a trained tagger: spaCy's, Presidio's and others'.

One file a library, imported by its users alone: each needs its library, an extra of this package.
Label Studio's and the corrections of a text need none, and are imported at their first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hf_semicrf.integrations.annotation import Annotator, corrected
    from hf_semicrf.integrations.label_studio import HOST, Backend, server

__all__ = ["HOST", "Annotator", "Backend", "corrected", "server"]


def __getattr__(name: str) -> Any:
    """A public name, whose file needs more than some library's own interface does."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    file = "annotation" if name in ("Annotator", "corrected") else "label_studio"
    return getattr(import_module(f"{__name__}.{file}"), name)
