"""What Inference Endpoints call: texts in, entities out.

`hf-semicrf push --endpoint` puts this file beside a model, where it runs as it stands: the wheel
that lies there too is all Python and is imported as it is.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

for wheel in Path(__file__).parent.glob("hf_semicrf-*.whl"):
    sys.path.insert(0, str(wheel))


class EndpointHandler:
    """A tagger that answers requests.

    Args:
        path: The folder with the model.
    """

    def __init__(self, path: str = ""):
        from transformers import pipeline

        from hf_semicrf.pipeline import TASK

        make: Any = pipeline  # whose signatures list the stock tasks alone
        self.tagger = make(TASK, model=path or str(Path(__file__).parent))

    def __call__(self, data: dict[str, Any]) -> list[Any]:
        """The entities of each text: ``label``, ``score``, ``start``, ``end`` and ``text``.

        Args:
            data: "inputs", a text or a list of texts, and perhaps "parameters", options of
                ``model.predict`` such as ``threshold``.

        Raises:
            ValueError: There are no "inputs", or an option is out of range.
            TypeError: An option is unknown.
        """
        if "inputs" not in data:
            raise ValueError(f'expected a request with "inputs", got {sorted(data)}')
        return self.tagger(data["inputs"], **(data.get("parameters") or {}))
