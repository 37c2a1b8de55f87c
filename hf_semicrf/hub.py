"""What a saved model carries for the Hub: a shim that names its classes."""

from __future__ import annotations

import os
from pathlib import Path

SHIM_NAME = "modeling_semicrf.py"
SHIM = '''"""This model's classes are in the package hf_semicrf: pip install hf_semicrf."""
from hf_semicrf import SemiCRFConfig, SemiCRFForTokenClassification  # noqa: F401
'''
AUTO_MAP = {
    "AutoConfig": "modeling_semicrf.SemiCRFConfig",
    "AutoModel": "modeling_semicrf.SemiCRFForTokenClassification",
    "AutoModelForTokenClassification": "modeling_semicrf.SemiCRFForTokenClassification",
}


def write_shim(folder: str | os.PathLike) -> None:
    """Write the module that `AUTO_MAP` names: it imports this package, or says what to install.

    Args:
        folder: Where a model or a configuration is saved; made where there is none.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    Path(folder, SHIM_NAME).write_text(SHIM, encoding="utf-8")
