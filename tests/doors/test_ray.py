"""`Tagger` on Ray's local cluster: 100,000 sentences, one worker and two."""

from __future__ import annotations

import re

import pyarrow as pa
import pytest
from tiny import ROOT, sentences
from transformers import AutoTokenizer

from hf_semicrf import SemiCRFForTokenClassification
from hf_semicrf.integrations.batches import ENTITIES, Tagger

ray = pytest.importorskip("ray")
SENTENCES, DISTINCT = 100_000, 240


@pytest.fixture(scope="module", autouse=True)
def cluster():
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_hundred_thousand_sentences(tiny_tagger, workers):
    texts = [" ".join(row["tokens"]) for row in sentences(DISTINCT)]
    model = SemiCRFForTokenClassification.from_pretrained(tiny_tagger)
    expected = model.predict(texts, AutoTokenizer.from_pretrained(tiny_tagger))
    table = pa.table({"id": range(SENTENCES), "text": (texts * SENTENCES)[:SENTENCES]})
    # in blocks from the start: with all CPUs in workers' hands, none is left to cut a table
    blocks = [table.slice(start, SENTENCES // 8) for start in range(0, SENTENCES, SENTENCES // 8)]
    tagged = (
        ray.data.from_arrow(blocks)
        .map_batches(
            Tagger,
            fn_constructor_args=(tiny_tagger,),
            batch_format="pyarrow",
            batch_size=1000,
            compute=ray.data.ActorPoolStrategy(size=workers),
        )
        .materialize()
    )
    found = pa.concat_tables(ray.get(tagged.to_arrow_refs())).sort_by("id")
    assert found["id"].to_pylist() == list(range(SENTENCES))
    assert found.schema.field("entities").type == ENTITIES
    spans = [[(e["start"], e["end"], e["label"]) for e in row] for row in expected]
    for at, row in enumerate(found["entities"].to_pylist()):
        assert [(e["start"], e["end"], e["label"]) for e in row] == spans[at % DISTINCT]


def test_the_lines_of_the_page_run(tiny_tagger, tmp_path, monkeypatch, capsys):
    page = (ROOT / "docs" / "batches.md").read_text()
    [block] = [b for b in re.findall(r"^```python\n(.*?)^```", page, re.M | re.S) if "ray" in b]
    code = block.replace("out/final", tiny_tagger)  # workers have a folder of their own
    exec(compile(code, "batches.md", "exec"), {"Tagger": Tagger})
    assert "'text': 'Ada Lovelace'" in capsys.readouterr().out
