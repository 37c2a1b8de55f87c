"""Tables of rows to tables of rows: what `datasets.map` and Ray Data call.

Neither is imported here.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow as pa

from hf_semicrf.options import check

_ENTITY = {"label": pa.string(), "score": pa.float64(), "start": pa.int64(), "end": pa.int64()}
_IMPORTED_BY = os.getpid()
ENTITIES = pa.list_(pa.struct({**_ENTITY, "text": pa.string()}))


class Tagger:
    """A function of batches that adds a column "entities".

    It can be pickled: the model stays behind, and each worker loads it once, at its first batch.
    What `datasets` caches by is the name of the model, of a folder also its files with their sizes
    and times, and the options.

    Args:
        model: Hub name or folder of the model.
        column: Column of the texts: strings, or lists of words.
        batch_size: Windows of text that the model reads at once.
        device: Where the model runs; the GPU if there is one by default.
        **options: Of ``model.predict``, such as ``threshold``.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        column: str = "text",
        batch_size: int = 32,
        device: str | None = None,
        **options: Any,
    ):
        check(text_column=column, batch_size=batch_size)
        self.name = str(model)
        self.column = column
        self.device = device
        self.options = {"batch_size": batch_size, **options}
        files = sorted(Path(model).iterdir()) if Path(model).is_dir() else []
        self.files = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files]
        self.tagger: Any = None

    def __getstate__(self) -> dict[str, Any]:
        """All but the model."""
        return {**self.__dict__, "tagger": None}

    def __call__(self, batch: pa.Table) -> pa.Table:
        """The batch with the entities of each row, as ``model.predict`` gives them.

        Args:
            batch: Rows, of which a column has the texts.

        Raises:
            ValueError: It is no table, has no such column, or a value is no string and no words.
        """
        if not isinstance(batch, pa.Table):
            raise ValueError(
                'expected a pyarrow.Table, which dataset.with_format("arrow") and Ray\'s '
                f'batch_format="pyarrow" give, got {type(batch).__name__}'
            )
        if self.column not in batch.column_names:
            got = batch.column_names
            raise ValueError(f"expected a column {self.column!r} of texts, got {got}")
        if self.tagger is None:
            import torch
            from transformers import pipeline

            from hf_semicrf.pipeline import TASK

            if os.getpid() != _IMPORTED_BY:
                torch.set_num_threads(1)  # a fork would wait for its parent's threads for ever
            make: Any = pipeline  # whose signatures list the stock tasks alone
            self.tagger = make(TASK, model=self.name, device=self.device)
        texts = batch[self.column].to_pylist()
        found = self.tagger.model.predict(texts, self.tagger.tokenizer, **self.options)
        # the type is given: in many a batch there is no entity to read it off
        return batch.append_column("entities", pa.array(found, ENTITIES))
