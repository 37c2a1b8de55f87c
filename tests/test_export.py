"""The exported graph and the NumPy decoder against enumeration, and against the model."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from cases import CASES, as_tensors, given, random_potentials
from oracle import Sentence
from test_data import KINDS
from tiny import error_of, save_tiny_bert, sentences, write_jsonl
from tolerances import EXPORTED_FLOAT32, FLOAT64
from torch.testing import assert_close
from transformers import AutoTokenizer

from hf_semicrf import (
    SemiCRFConfig,
    SemiCRFForTokenClassification,
    ops,
    prepare_tokenizer,
)
from hf_semicrf.cli import export, predict
from hf_semicrf.export import EncoderAndScorer, decoder_of, export_program, numpy_decoder
from hf_semicrf.text import windows_of

PACKAGE = Path(numpy_decoder.__file__).parent.parent
LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


def arrays(p):
    return {name: score.numpy() for name, score in given(p).items()}


# the decoder


def test_posteriors_of_segments_are_those_of_enumeration(case):
    p = case.potentials
    lengths = p.lengths.numpy()
    scores = numpy_decoder.segment_scores(arrays(p), lengths)
    rest = (getattr(p, name).numpy() for name in ("transition", "initial", "final"))
    found = numpy_decoder.segment_posteriors(scores, *rest, lengths)
    assert_close(torch.from_numpy(found), case.segment_marginals, **FLOAT64)


def test_the_best_segmentation_is_that_of_enumeration(case):
    p = case.potentials
    found = numpy_decoder.decode(arrays(p), p.lengths.numpy(), threshold=None)
    labels, starts = as_tensors([s.best()[1] for s in case.sentences], p.sizes[1])
    assert torch.equal(torch.from_numpy(found.labels), labels)
    assert torch.equal(torch.from_numpy(found.starts), starts)


@pytest.mark.parametrize("forbidden", [False, True])
@pytest.mark.parametrize("threshold", [None, 0.0, 0.3, 0.5, 1.0, "each"])
def test_decoding_is_that_of_the_operations(threshold, forbidden):
    p = random_potentials([9, 4, 1, 7], 3, 4, positions=12, seed=5, scale=1.5)
    if forbidden:
        p.transition[0, 0] = p.initial[0] = p.duration[1, 2] = p.final[1] = -torch.inf
    if threshold == "each":  # one for each length and type
        threshold = torch.rand(3, 4, generator=torch.Generator().manual_seed(3)).double() / 2
    given = threshold.numpy() if isinstance(threshold, torch.Tensor) else threshold
    found = numpy_decoder.decode(arrays(p), p.lengths.numpy(), given)
    segment = ops.marginals(p, segment=True).segment
    if threshold is None:
        _, labels, starts = ops.viterbi(p)
    else:
        labels, starts = ops.minimum_risk(segment, p.lengths, threshold, legal=p)
    assert torch.equal(torch.from_numpy(found.labels), labels)
    assert torch.equal(torch.from_numpy(found.starts), starts)
    posteriors = ops.at_segments(segment, labels, starts, p.lengths)
    assert_close(torch.from_numpy(found.posteriors), posteriors, **FLOAT64)


def test_ties_go_to_the_shorter_segment_and_the_lower_type():
    p = random_potentials([5], 3, 3, seed=1).map(torch.zeros_like)
    found = numpy_decoder.decode(arrays(p), p.lengths.numpy(), None)
    _, labels, starts = ops.viterbi(p)
    assert found.labels.tolist() == labels.tolist() and found.starts.tolist() == starts.tolist()


def test_impossible_scores_stay_exact_and_a_sentence_without_words_is_empty():
    p = random_potentials([4, 3], 3, 3, seed=2)
    p.transition[1, :] = -torch.inf
    p.segment[:, 1, 1, 2] = -torch.inf
    p.initial[0] = -torch.inf
    found = numpy_decoder.segment_posteriors(
        numpy_decoder.segment_scores(arrays(p), p.lengths.numpy()),
        *(getattr(p, name).numpy() for name in ("transition", "initial", "final")),
        p.lengths.numpy(),
    )
    assert_close(torch.from_numpy(found), ops.marginals(p, segment=True).segment, **FLOAT64)
    empty = numpy_decoder.decode(arrays(p), np.array([0, 3]), 0.1)
    assert (empty.labels[0] == -1).all() and not empty.starts[0].any()
    for row, sentence in enumerate([Sentence(p, 0), Sentence(p, 1)]):
        best = numpy_decoder.decode(arrays(p), p.lengths.numpy(), None)
        labels, _ = as_tensors([sentence.best()[1]], 4)
        assert best.labels[row].tolist() == labels[0].tolist()


def test_potentials_without_any_local_score_are_refused():
    only = {k: v for k, v in arrays(CASES["usual"].potentials).items() if k == "duration"}
    with pytest.raises(ValueError, match="expected at least one of emission"):
        numpy_decoder.segment_scores(only, np.array([3]))


def test_word_index_is_where_the_words_stand():
    ids = [[None, 0, 0, 1, None], [None, None, None, None, 0], [None] * 5]
    words = [["ab", "c"], ["d"], []]
    assert numpy_decoder.word_index(ids, words).tolist() == [[1, 3], [4, -1], [-1, -1]]
    assert numpy_decoder.word_index(ids[2:], words[2:]).tolist() == [[-1]]
    for dropped in ([[None, 0, 2, None]], [[None, 0, 1, None]], [[1, 2]]):
        with pytest.raises(ValueError, match=r"none of word \d, '.', of sentence 0"):
            numpy_decoder.word_index(dropped, [["a", "b", "c"]])


def test_more_words_than_positions_are_refused():
    only = {"duration": np.zeros((2, 2))}
    with pytest.raises(ValueError, match="expected at least one of emission"):
        numpy_decoder.decode(only, np.array([1]), None)
    p = CASES["usual"].potentials
    lengths = p.lengths.numpy() + p.sizes[1]
    with pytest.raises(ValueError, match=r"at most the \d+ words that the potentials have, got"):
        numpy_decoder.decode(arrays(p), lengths, None)


@pytest.mark.parametrize(
    "labels",
    [LABELS, ["O", "B-X", "I-X", "E-X", "S-X", "B-Y", "I-Y", "E-Y", "S-Y"], ["O", "I-X", "B-Y"]],
)
def test_tags_are_those_of_the_scheme(labels):
    """Every segmentation of a short sentence, written by the decoder and by the label scheme."""
    from hf_semicrf.labels.schemes import LabelScheme

    scheme = LabelScheme.from_labels(labels)
    written = scheme.written_tags()
    decoder = numpy_decoder.Decoder(scheme.types, None, 1.0, scheme.labels, written)
    p = random_potentials([4], 3, 3, seed=3)
    for _, segmentation in zip(range(200), Sentence(p, 0).all, strict=False):
        if any(kind == 0 and end - begin > 1 for begin, end, kind in segmentation):
            continue
        forced = random_potentials([4], 3, 3, seed=3).map(torch.zeros_like)
        for begin, end, kind in segmentation:
            forced.segment[0, begin, end - begin - 1, kind] = 100.0 * (end - begin)
        written = scheme.decode(*as_tensors([segmentation], 4))[0].tolist()
        (found,) = decoder.tag_names(arrays(forced), np.array([4]))
        assert found == [labels[tag] for tag in written], segmentation


def test_the_file_needs_numpy_alone(tmp_path):
    code = "import sys; import numpy_decoder; print([m for m in sys.modules if m.startswith(('to"
    code += "rch', 'hf_semicrf', 'transformers'))])"
    folder = str(numpy_decoder.__file__).rsplit("/", 1)[0]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {folder!r}); {code}"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={},
    )
    assert done.stdout.strip() == "[]", done.stderr


# the graph


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return save_tiny_bert(tmp_path_factory.mktemp("tiny") / "bert")


@pytest.fixture(scope="module")
def tokenizer(bert):
    return prepare_tokenizer(AutoTokenizer.from_pretrained(bert))


def make_model(bert, **settings):
    """A tiny model with scores that are not all nearly nothing."""
    torch.manual_seed(1)
    model = SemiCRFForTokenClassification.from_pretrained(
        bert, labels=LABELS, max_segment_length=3, **settings
    )
    with torch.no_grad():
        for parameter in model.classifier.parameters():
            parameter.mul_(30)
    return model


def inputs_of(tokenizer, texts):
    """Inputs of the graph as arrays, and the words of each sentence."""
    batch = tokenizer(texts, is_split_into_words=True, padding=True, return_tensors="np")
    word_ids = [batch.word_ids(row) for row in range(len(texts))]
    tokens = {name: batch[name] for name in tokenizer.model_input_names}
    index = numpy_decoder.word_index(word_ids, texts)
    return {**tokens, "word_index": index}, [len(words) for words in texts]


TEXTS = [row["tokens"] for row in sentences(9)] + [["Unheard-of", "Lovelace", ",", "Oslo"], ["Ada"]]
BATCHES = (TEXTS, TEXTS[:1], TEXTS[-1:], TEXTS[3:5])


@pytest.mark.parametrize(
    "settings",
    [
        {"scorer": "sum"},
        {"scorer": "boundary", "mix_layers": 2},
        {
            "scorer": "span",
            "constraints": {"lengths": {"LOC": [1, 2]}, "transitions": {"PER": ["O", "LOC"]}},
        },
    ],
    ids=lambda settings: settings["scorer"],
)
def test_the_exported_program_gives_the_models_potentials(bert, tokenizer, settings):
    model = make_model(bert, **settings)
    program, _ = export_program(model, tokenizer.model_input_names)
    for texts in BATCHES:  # other sizes of the batch, of sub-words and of words than in the trace
        inputs, _ = inputs_of(tokenizer, texts)
        inputs = {name: torch.from_numpy(value) for name, value in inputs.items()}
        with torch.no_grad():
            expected, found = EncoderAndScorer(model)(**inputs), program.module()(**inputs)
        assert found.keys() == expected.keys()
        assert ("segment" in found) == ("span" in settings["scorer"])
        for name, score in expected.items():
            assert_close(found[name], score, **EXPORTED_FLOAT32)


SIZES = {
    "vocab_size": 120,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 37,
    "max_position_embeddings": 70,
}


@pytest.mark.parametrize(
    "encoder",
    [
        transformers.RobertaConfig(**SIZES),  # positions counted from the padding
        transformers.ModernBertConfig(**SIZES, pad_token_id=0, local_attention=8),
    ],
    ids=lambda encoder: encoder.model_type,
)
def test_other_encoders_are_exported_too(encoder):
    config = SemiCRFConfig(encoder, labels=LABELS, max_segment_length=3)
    model = SemiCRFForTokenClassification(config).eval()
    program, _ = export_program(model)
    for rows, sub_words, words in ((3, 40, 30), (1, 5, 2)):
        mask = torch.ones(rows, sub_words, dtype=torch.long)
        mask[1:, sub_words // 2 :] = 0
        inputs = {
            "input_ids": torch.randint(3, 100, mask.shape) * mask + (1 - mask),
            "attention_mask": mask,
            "word_index": torch.arange(1, words + 1).repeat(rows, 1),
        }
        inputs["word_index"][1:, sub_words // 2 - 1 :] = -1
        with torch.no_grad():
            expected, found = EncoderAndScorer(model)(**inputs), program.module()(**inputs)
        for name, score in expected.items():
            assert_close(found[name], score, **EXPORTED_FLOAT32)


@pytest.fixture(scope="module")
def exported(tiny_tagger, tmp_path_factory):
    """A tagger that knows the sentences of tiny.py, and the folder that the script wrote for it."""
    folder = tmp_path_factory.mktemp("onnx")
    export.main([tiny_tagger, str(folder)])
    return SemiCRFForTokenClassification.from_pretrained(tiny_tagger), folder


@pytest.mark.parametrize("threshold", [None, 0.25])
def test_onnx_and_numpy_find_what_the_model_finds(exported, tokenizer, threshold):
    onnxruntime = pytest.importorskip("onnxruntime")
    model, folder = exported
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    names = [output.name for output in session.get_outputs()]
    decoder = numpy_decoder.Decoder.load(folder / "decoder.json")
    model.set_threshold(threshold, 0.8)
    model.set_temperature(1.5)
    decoder = decoder._replace(threshold=threshold, temperature=1.5, threshold_factor=0.8)
    assert decoder == decoder_of(model)
    for texts in BATCHES:
        inputs, lengths = inputs_of(tokenizer, texts)
        inputs = {given.name: inputs[given.name] for given in session.get_inputs()}
        outputs = dict(zip(names, session.run(names, inputs), strict=True))
        found = decoder.entities(outputs, lengths)
        for row, expected in zip(found, model.predict(texts, tokenizer), strict=True):
            assert len(row) == len(expected)
            for one, other in zip(row, expected, strict=True):
                assert [one[k] for k in ("label", "start", "end")] == [
                    other[k] for k in ("label", "start", "end")
                ]
                assert one["score"] == pytest.approx(other["score"], abs=1e-4)
        tags = decoder.tag_names(outputs, lengths)
        for row, entities_of_row, text in zip(tags, found, texts, strict=True):
            assert len(row) == len(text)
            spans = [(e["start"], e["end"], e["label"]) for e in entities_of_row]
            assert model.config.scheme.tags_to_spans(row) == spans
    known = [
        [(e["start"], e["end"], e["label"]) for e in row]
        for row in model.predict(TEXTS[:9], tokenizer)
    ]
    assert known == [model.config.scheme.tags_to_spans(row["ner_tags"]) for row in sentences(9)]


def test_the_folder_holds_all_that_tagging_without_torch_needs(exported):
    _, folder = exported
    names = {path.name for path in folder.iterdir()}
    assert {"model.onnx", "decoder.json", "numpy_decoder.py", "tokenizer.json"} <= names
    for path in folder.rglob("*"):  # nothing says where the model was traced
        assert path.is_dir() or str(PACKAGE).encode() not in path.read_bytes(), path


def test_the_lines_in_the_docs_run_where_the_export_lies(exported, monkeypatch, capsys):
    _, folder = exported
    page = Path(__file__).parent.parent / "docs" / "onnx.md"
    tagging, snippet = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    for name in ("numpy_decoder", "tag"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    exec(compile(tagging, page.name, "exec"), {"__name__": "docs"})
    [[person, place]] = ast.literal_eval(capsys.readouterr().out)
    assert (person["text"], place["text"]) == ("Ada Lovelace", "Oslo")
    exec(compile(snippet, page.name, "exec"), {"__name__": "docs"})
    found = ast.literal_eval(capsys.readouterr().out)
    spans = [(e["start"], e["end"], e["label"]) for e in found[0]]
    assert spans == [(1, 3, "PER"), (4, 5, "LOC")]
    dropped = re.sub("words = .*", r'words = ["Ada", "\\u200b", "saw", "Oslo"]', snippet)
    with pytest.raises(ValueError, match="none of word 1, .*put the unknown token in"):
        exec(compile(dropped, page.name, "exec"), {"__name__": "docs"})


LONG = " ".join(" ".join(row["tokens"]) for row in sentences(30))
RAW = [
    *("Yesterday Ada Lovelace saw Oslo.", "", " \n", "Ada Lovelace \u200b\ufe0f saw,Paris", LONG),
    *(["saw", "Oslo", "."], [], LONG.split()),
]


def test_the_folder_tags_as_predict_does(exported, tokenizer):
    from hf_semicrf.export.tag import OnnxTagger

    model, folder = exported
    tagger = OnnxTagger(folder)
    tagger.decoder = decoder_of(model)  # which the tests above set
    for found, expected in zip(tagger(RAW), model.predict(RAW, tokenizer), strict=True):
        for one, other in zip(found, expected, strict=True):
            assert one == {**other, "score": pytest.approx(other["score"], abs=1e-4)}
    assert len(expected) > 20  # through windows


def test_the_script_needs_no_torch_and_says_what_is_wrong(exported, tiny_tagger, tmp_path, capsys):
    _, folder = exported
    code = (
        "import runpy, sys\nfor name in ('torch', 'transformers', 'hf_semicrf', 'pyarrow'):\n"
        "    sys.modules[name] = None\nsys.argv[0] = sys.path[0] = sys.argv[1]\n"
        "del sys.argv[1]\nrunpy.run_path(sys.path[0] + '/tag.py', run_name='__main__')"
    )

    def run(place, *texts, **options):
        command = [sys.executable, "-c", code, str(place), *texts]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, **options)

    done = run(folder, input=RAW[0] + "\n")
    predict.main([tiny_tagger, RAW[0], "--device", "cpu", "--format", "jsonl"])
    found, expected = json.loads(done.stdout), json.loads(capsys.readouterr().out)
    for entity in expected["entities"]:
        entity["score"] = pytest.approx(entity["score"], abs=1e-4)
    assert found == expected and len(found["entities"]) == 2
    broken = shutil.copytree(folder, tmp_path / "broken")
    (broken / "decoder.json").unlink()
    done = run(broken, "Ada")
    assert done.stderr.startswith("tag.py: ") and done.stderr.count("\n") == 1


def test_the_script_imports_three_packages(exported):
    code = (
        "import runpy, sys\nsys.path.insert(0, sys.argv[1])\n"
        "runpy.run_path(sys.argv[1] + '/tag.py', run_name='__main__')\n"
        "tops = {name.partition('.')[0] for name in sys.modules}\n"
        "print(*sorted(tops - sys.stdlib_module_names), file=sys.stderr)"
    )
    command = [sys.executable, "-S", "-c", code, str(exported[1]), "Ada"]
    packages = os.pathsep.join(path for path in sys.path if path.endswith("-packages"))
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={"PYTHONPATH": packages}
    )
    third = {"numpy", "onnxruntime", "tokenizers"}
    own = {"numpy_decoder", "semicrf_text"}
    assert set(done.stderr.split()) - {"__main__"} == third | own


@pytest.mark.parametrize("kind", KINDS)
def test_the_folder_reads_words_as_the_model_does(kind, tmp_path):
    from hf_semicrf.export.tag import _Tokenizer

    tokenizer = prepare_tokenizer(KINDS[kind]())
    tokenizer(["truncated"], truncation=True, max_length=2, padding="max_length")
    tokenizer.save_pretrained(tmp_path)
    alone = _Tokenizer(tmp_path / "tokenizer.json", tokenizer.unk_token)
    texts = [["Paris", "-", "plane", "\ufe0f", "it's", "!"], ["Amelia"] * 30]
    joins = [[False, True, True, False, False, True], [False] * 30]
    expected = list(windows_of(texts, tokenizer, 20, None, 3, joins))
    found = list(windows_of(texts, alone, 20, None, 3, joins))
    for row, other in zip(found, expected, strict=True):
        for one, window in zip(row, other, strict=True):
            assert one.inputs | window.inputs == one.inputs  # inputs that no model takes may differ
            assert (one.first, one.end, one.words) == (window.first, window.end, window.words)


def test_int8_and_what_it_loses(exported, tiny_tagger, tmp_path, monkeypatch, capsys):
    import onnx

    _, folder = exported

    def traced(*_, f, **__):
        for path in folder.glob("model.onnx*"):
            shutil.copy(path, f.parent)

    program = SimpleNamespace(module=lambda: lambda: ())
    monkeypatch.setattr("hf_semicrf.export.onnx.export_program", lambda *_: (program, {}))
    monkeypatch.setattr("torch.onnx.export", traced)
    (tmp_path / "model.onnx.data").touch()  # of an earlier export
    file = write_jsonl(tmp_path / "rows.jsonl", sentences(20))
    export.main([tiny_tagger, str(tmp_path), "--quantize", "--evaluate_on", file])
    assert "int8, which loses 0.00 points of F1" in capsys.readouterr().out
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    scores = {"precision": 1.0, "recall": 1.0, "f1": 1.0}
    expected = {"data": "rows.jsonl", "sentences": 20, **scores}
    assert metrics == {"fp32": expected, "int8": expected}
    readme = (tmp_path / "README.md").read_text()
    assert "| int8 | 100.00 | 100.00 | 100.00 |" in readme and "pyarrow" not in readme
    assert not (tmp_path / "model.onnx.data").exists()
    weights = onnx.load(tmp_path / "model.onnx").graph.initializer
    sizes = Counter()
    for weight in weights:
        sizes[weight.data_type] += np.prod(weight.dims)
    small = sizes[onnx.TensorProto.INT8] + sizes[onnx.TensorProto.UINT8]
    assert small > 10 * sizes[onnx.TensorProto.FLOAT]
    export.main([tiny_tagger, str(tmp_path), "--quantize"])
    readme = (tmp_path / "README.md").read_text()
    assert "The weights are int8. F1 was not measured" in readme
    assert not (tmp_path / "metrics.json").exists()


def test_errors_of_export_say_what_is_wrong(bert, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="expected input_ids, attention_mask .* got .*pixels"):
        export_program(make_model(bert), ["input_ids", "pixels"])
    model = make_model(bert)
    states = model._states
    # of as many sub-words as it was traced with
    model._states = lambda encoded: states(encoded)[:, : int(states(encoded).shape[1])]
    with pytest.raises(ValueError, match="inputs of all sizes, .* BertModel .* 'span'"):
        export_program(model)
    error = error_of(export.main, tmp_path / "nothing", tmp_path)
    assert error.startswith("hf-semicrf export: ")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    from hf_semicrf.export import export_onnx

    with pytest.raises(RuntimeError, match=r"onnxruntime and onnxscript not .*hf_semicrf\[onnx\]"):
        export_onnx(None, None, tmp_path)
