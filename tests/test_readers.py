"""Files with one word a line, tables, rows that are damaged or empty, and texts to predict."""

from __future__ import annotations

import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest
from datasets import ClassLabel, Dataset, Features, Sequence, Value

from hf_semicrf.data import (
    ReadReport,
    entity_spans,
    label_names,
    read_corpus,
    read_dataset,
    read_texts,
    scheme_of,
    stream_rows,
    stream_texts,
    text_of,
)

WORDS = [["Ада", "Лавлейс", "пишет"], ["東京", "から", "#1"]]
TAGS = [["B-PER", "I-PER", "O"], ["B-LOC", "O", "O"]]


def blocks(make, ends="\n", between="\n\n"):
    """A block a sentence, a line a word: what `make` makes of number, word and tag."""
    sentences = []
    for s, (words, tags) in enumerate(zip(WORDS, TAGS, strict=True)):
        rows = zip(range(len(words)), words, tags, strict=True)
        sentences.append("\n".join(make(s, n, word, tag) for n, word, tag in rows))
    return (between.join(sentences) + "\n").replace("\n", ends)


def table(delimiter, header, make):
    rows = [
        delimiter.join(make(s, n, word, TAGS[s][n]))
        for s, words in enumerate(WORDS)
        for n, word in enumerate(words)
    ]
    return "\n".join([delimiter.join(header), *rows])


LAYOUTS = {
    "two.conll": (blocks(lambda s, n, w, t: f"{w} {t}"), None),
    "cr.iob2": (blocks(lambda s, n, w, t: f"{w}\t{t}", ends="\r"), None),
    "crlf.bio": (blocks(lambda s, n, w, t: f"{w}\t{t}", ends="\r\n"), None),
    "tag_first.conll": (blocks(lambda s, n, w, t: f"{t}\t{w}"), None),
    "conll2003.txt": (
        "-DOCSTART- -X- O O\n\n" + blocks(lambda s, n, w, t: f"{w} NN {'BI'[n > 0]}-NP {t}"),
        None,
    ),
    "tag_second.conll": (blocks(lambda s, n, w, t: f"{w} {t} NN {n + 1}"), None),
    "numbered.tsv": (
        "# a comment\n" + blocks(lambda s, n, w, t: f"{n + 1}\t{w}\t{t}\t-\t-"),
        None,
    ),
    "outer_inner.tsv": (blocks(lambda s, n, w, t: f"{n + 1}\t{w}\t{t}\tO"), (2, 3)),
    "from_the_end.conll": (blocks(lambda s, n, w, t: f"{n} {w} {t} O B-X"), (2, -3)),
    "dummies.conll": (
        "# id 5-b domain=x y\n" + blocks(lambda s, n, w, t: f"{w} _ _ {t}"),
        None,
    ),
    "misc.conllu": (
        "# sent_id = 7\n# text = 1 2 3 4 5 6 7\n1-2\tzum" + "\t_" * 8 + "\n"
        + blocks(lambda s, n, w, t: f"{n + 1}\t{w}" + "\t_" * 7 + f"\tSpaceAfter=No|NE={t}"),
        None,
    ),
    "sparse.conllu": (
        blocks(lambda s, n, w, t: f"{n + 1}\t{w}" + "\t_" * 7 + "\tA=1" + f"|N={t}" * (t != "O")),
        (2, "N"),
    ),
    "tags.conll.gz": (blocks(lambda s, n, w, t: f"{w} {t}"), None),
    "long.csv": (
        table(",", ["sentence_id", "pos", "token", "NER"], lambda s, n, w, t: [str(s), "x", w, t]),
        None,
    ),
    "kaggle.csv": (
        table(",", ["Sentence #", "Word", "POS", "Tag"],
              lambda s, n, w, t: ["" if n else f"Sentence: {s}", w, "x", t]),
        None,
    ),
    "semicolons.csv": (
        table(";", ["Satz", "Wort", "Typ"], lambda s, n, w, t: [str(s), f'"{w}"', t]),
        ("Wort", "Typ", "Satz"),
    ),
    "header.tsv": (table("\t", ["word", "tag", "doc_id", "sent_id"],
                         lambda s, n, w, t: [w, t, "d", str(s)]), None),
    "no_header.csv": (
        "\n".join(blocks(lambda s, n, w, t: f"{s},{w},{t}").replace("\n\n", "\n").splitlines()),
        (2, 3, 1),
    ),
    "empty_lines.csv": ("word,tag\n" + blocks(lambda s, n, w, t: f"{w},{t}"), None),
    "lists.csv": (
        'tokens,ner_tags\n"' + '"\n"'.join(
            json.dumps(w).replace('"', '""') + '","' + str(t)
            for w, t in zip(WORDS, TAGS, strict=True)
        ) + '"\n',
        None,
    ),
    "spread.json": (
        json.dumps([{"tokens": w, "ner_tags": t} for w, t in zip(WORDS, TAGS, strict=True)],
                   indent=2),
        None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_each_layout_gives_the_same_sentences(tmp_path, name, encoding):
    text, columns = LAYOUTS[name]
    content = text.encode(encoding)
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    read = read_corpus(tmp_path / name, columns=columns)
    assert read["tokens"][:] == WORDS
    assert read["ner_tags"][:] == TAGS
    if not name.endswith(("txt", "outer_inner.tsv")):
        rows = list(stream_rows(tmp_path / name, columns=columns))
        assert [row["tokens"] for row in rows] == WORDS


@pytest.mark.parametrize(
    ("name", "text", "asked"),
    [
        ("a.tsv", "1\tAda\tB-PER\tO\n2\tmet\tO\tB-X\n", r"3, 4.*pass columns=.*columns=\(2, 3\)"),
        ("a.conll", "Ada PER NN\nmet X NN\n", r"pass columns=\(word, tag\), counted from 1"),
        ("a.conllu", "1\tAda\tA=O|B=O\n2\tmet\tA=O|B=B-X\n", r"pass columns="),
        ("a.csv", "wort,typ\nAda,O\n", "line 1: expected a header.*pass columns="),
        ("a.csv", "word,tag\nAda,O\nmet,O\n", "where a sentence ends; pass columns="),
        ("a.dat", "Ada O\n", "or format= with one of json, csv, columns"),
        ("a.csv", "tokens,ner_tags\n\"['Ada' 'met']\",\"['O' 'O']\"\n", "line 2: .*with commas"),
    ],
)
def test_what_cannot_be_told_is_asked_for(tmp_path, name, text, asked):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=f"{name}.*{asked}"):
        read_corpus(tmp_path / name)


def test_choices_that_do_not_fit_are_refused(tmp_path):
    path = tmp_path / "a.conll"
    path.write_text("Ada NN B-PER\nmet VB O\n")
    for how, message in (
        ({"columns": (1, 4)}, "among the 3 of the file"),
        ({"columns": (1,)}, r"expected columns=\(word, tag\)"),
        ({"columns": (0, 1)}, "counted from 1"),
        ({"columns": (1, "NER")}, "one column with NER=..., got none"),
        ({"columns": ("word", "tag")}, "no column"),
        ({"format": "xml"}, "expected a format among json"),
        ({"format": "text"}, "a format with tags"),
        ({"encoding": "klingon"}, "the name of an encoding, got 'klingon'"),
    ):
        with pytest.raises(ValueError, match=message):
            read_corpus(path, **how)
    assert read_corpus(path, columns=(1, 3), separator=" ")["ner_tags"][0] == ["B-PER", "O"]
    with pytest.raises(ValueError, match="BRAT"):
        read_corpus(tmp_path)


def test_other_separators_and_names(tmp_path):
    path = tmp_path / "a.words"
    path.write_text("Ada|B-PER\nmet|O\n")
    read = read_corpus(path, "words", "tags", format="columns", separator="|")
    assert read[:] == {"words": [["Ada", "met"]], "tags": [["B-PER", "O"]]}
    path.write_bytes("Zoë B-PER\n".encode("latin-1"))
    assert read_corpus(path, format="columns", encoding="latin-1")["tokens"][0] == ["Zoë"]
    with pytest.raises(ValueError, match="a.words, line 1: .*0xEB.*pass encoding"):
        read_corpus(path, format="columns")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("nothing", "a JSON object"),
        ("null", "a JSON object, got None"),
        ("[" * 200_000, "a JSON object"),
        ('{"tokens": null, "ner_tags": ["O"]}', "lists 'tokens' and 'ner_tags'"),
        ('{"tokens": ["Ada"], "ner_tags": "O"}', "lists 'tokens' and 'ner_tags'"),
        ('{"tokens": [null], "ner_tags": ["O"]}', "expected words, got None"),
        ('{"tokens": ["Ada"], "ner_tags": [3]}', "tags that are names, as before it, got 3"),
        ('{"tokens": ["a", "b"], "ner_tags": ["B-PER", 3]}', "tags that are names.*got 3"),
        ('{"tokens": ["Ada"], "ner_tags": [' + "1" * 31 + "]}", "tags that are names"),
        ('{"tokens": ["Ada"], "ner_tags": [' + "1" * 9999 + "]}", "a JSON object"),
        ('{"tokens": ["Ada"], "ner_tags": [true]}', "names or class ids, got True"),
        ('{"tokens": ["Ada"], "ner_tags": [0.0]}', "names or class ids, got 0.0"),
        ('{"tokens": ["Ada"], "ner_tags": [""]}', "names or class ids, got ''"),
        ('{"tokens": ["Ada"], "ner_tags": [["O"]]}', "names or class ids"),
    ],
)
def test_damaged_rows_are_refused_in_training_and_skipped_in_prediction(tmp_path, row, message):
    path = tmp_path / "a.jsonl"
    good = '{"tokens": ["Ada"], "ner_tags": ["O"]}'
    path.write_text(f"{good}\n\n{row}\n{good}")
    with pytest.raises(ValueError, match=f"a.jsonl, line 3: (expected .*)?{message}") as caught:
        read_corpus(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    report = ReadReport()
    rows = list(stream_rows(path, report=report))
    assert len(rows) + len(report.damaged) == 3
    assert all(f"{path}, line 3: " in said for said in report.damaged)


def test_numbers_without_names(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"tokens": ["Ada", "met"], "ner_tags": [1, -100]}')
    assert read_corpus(path)["ner_tags"][0] == [1, -100]
    path.write_text('{"tokens": ["Ada"], "ner_tags": [' + "1" * 31 + "]}")
    with pytest.raises(ValueError, match="line 1: expected tags that are 64 bits"):
        read_corpus(path)


def test_rows_without_words_are_left_out_and_named(tmp_path):
    path = tmp_path / "a.jsonl"
    good, none = '{"tokens": ["Ada"], "ner_tags": ["B-X"]}', '{"tokens": [], "ner_tags": []}'
    path.write_text("\n".join([good] * 1207 + [none, good]))
    report = ReadReport()
    assert len(read_corpus(path, report=report)) == 1208
    assert report.lines() == [f"1 rows without words, left out: {path}, line 1208"]
    with pytest.warns(UserWarning, match="line 1208"):
        read_corpus(path)
    path.write_text(none)
    with pytest.raises(ValueError, match="at least one sentence"):
        read_corpus(path)
    path.write_text('{"text": " "}\n{"text": "Ada"}\n{"tokens": []}')
    report = ReadReport()
    assert [text_of(row) for row in stream_rows(path, report=report)] == ["Ada"]
    assert report.empty == [f"{path}, line 1", f"{path}, line 3"]
    assert read_texts(path) == [" ", "Ada", []]


def test_lone_surrogates_are_replaced(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"tokens": ["A\\ud83d", "\\ud83d\\ude00"], "ner_tags": ["O", "B-\\udc00"]}')
    report = ReadReport()
    row = read_corpus(path, report=report)[0]
    assert row == {"tokens": ["A\ufffd", "😀"], "ner_tags": ["O", "B-\ufffd"]}
    assert report.replaced == [f"{path}, line 1"]
    path.write_text('{"text": "A\\ud83d", "n": [{"\\udc00": 1}]}')
    with pytest.warns(UserWarning, match="lone surrogates, replaced by U.FFFD: .*line 1"):
        assert list(stream_rows(path)) == [{"text": "A\ufffd", "n": [{"\ufffd": 1}]}]


def test_files_cut_short(tmp_path):
    whole = gzip.compress("\n".join(f"word{n} O" for n in range(5000)).encode())
    for name in ("a.conll.gz", "a.parquet.gz", "a.tsv.gz"):
        (tmp_path / name).write_bytes(whole[:-300])
        with pytest.raises(ValueError, match=f"{name}.*the compressed file is damaged"):
            read_corpus(tmp_path / name)
    (tmp_path / "a.txt.gz").write_bytes(b"no gzip")
    with pytest.raises(ValueError, match="a.txt.gz, line 1: the compressed file is damaged"):
        read_texts(tmp_path / "a.txt.gz")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(ValueError, match="a.parquet: expected a parquet file"):
        read_corpus(tmp_path / "a.parquet")


def test_parquet_names_rows(tmp_path):
    path = tmp_path / "a.parquet"

    def write(tokens, tags, **more):
        pyarrow.parquet.write_table(
            pyarrow.table({"tokens": tokens, "ner_tags": tags} | more), path
        )

    write([["Ada"], None], [["O"], ["O"]])
    with pytest.raises(ValueError, match="a.parquet, row 2: expected lists"):
        read_corpus(path)
    write([["Ada"], ["met"]], [["O"], None], text=["Ada", "met"])
    with pytest.raises(ValueError, match="a.parquet, row 2: expected lists"):
        read_corpus(path)
    assert [row["text"] for row in stream_rows(path)] == ["Ada", "met"]
    write([["Ada"], [], ["met"]], [["O"], [], ["B-X"]])
    report = ReadReport()
    assert read_corpus(path, report=report)["tokens"][:] == [["Ada"], ["met"]]
    assert report.empty == [f"{path}, row 2"] and report.places[1] == f"{path}, row 3"
    spans = [[{"start": 0, "end": 3, "label": "PER"}]]
    pyarrow.parquet.write_table(pyarrow.table({"text": ["Ada met"], "entities": spans}), path)
    assert read_corpus(path)["ner_tags"][0] == ["B-PER", "O"]


def test_data_sets_are_checked_with_the_name_of_their_split():
    names = ["O", "B-PER", "I-PER"]
    features = Features(
        {"tokens": Sequence(Value("string")), "ner_tags": Sequence(ClassLabel(names=names)),
         "id": Value("string")}
    )  # fmt: skip
    rows = {"tokens": [["Ada"], [], ["met"]], "ner_tags": [[1], [], [-100]], "id": list("abc")}
    data = Dataset.from_dict(rows, features=features)
    report = ReadReport()
    read = read_dataset(data, "names, split 'dev'", report=report)
    assert read["id"][:] == ["a", "c"] and label_names(read) == names
    assert report.empty == ["names, split 'dev', row 2"]
    bad = pyarrow.table(data.data.table.set_column(1, "ner_tags", [[[1], [], [7]]]))
    bad = Dataset(bad.cast(features.arrow_schema))
    with pytest.raises(ValueError, match="names, split 'dev', row 3: expected .*3 classes, got 7"):
        read_dataset(bad, "names, split 'dev'")
    with pytest.raises(ValueError, match="names: no column .'tags'., got "):
        read_dataset(data, "names", tags_column="tags")


def test_unknown_tags_are_named_with_their_line(tmp_path):
    path = tmp_path / "a.conll"
    path.write_text("Ada B-PER\nmet O\n\nhere O\nEve B-ORG\n")
    report = ReadReport()
    read = read_corpus(path, report=report)
    scheme = scheme_of(["O", "B-PER", "I-PER"])
    with pytest.raises(ValueError, match="a.conll, line 5: tag 'B-ORG' is not in the label list"):
        list(entity_spans(read, scheme, report=report))
    path.write_text("Ada O\nmet O\n")
    read = read_corpus(path, report=report)
    with pytest.raises(ValueError, match="a.conll: expected labels of at least one entity type"):
        scheme_of(label_names(read), report)


def test_texts_and_their_other_fields(tmp_path):
    texts = ["Ada saw it.", "東京から"]
    for ends in ("\n", "\r\n", "\r"):
        (tmp_path / "a.txt").write_bytes(ends.join(texts).encode() + ends.encode())
        assert read_texts(tmp_path / "a.txt") == texts
    (tmp_path / "a.csv").write_text('id;body\n4;"Ada ""saw"" it;\nhere."\n5;\n6;b;c\n')
    report = ReadReport()
    rows = list(stream_rows(tmp_path / "a.csv", text_column="body", separator=";", report=report))
    assert rows == [{"text": 'Ada "saw" it;\nhere.', "id": "4"}]
    assert report.empty == [f"{tmp_path / 'a.csv'}, line 4"]
    assert report.damaged[0].startswith(f"{tmp_path / 'a.csv'}, line 5: expected 2 cells")
    with pytest.raises(ValueError, match="line 1: expected a header.*pass text_column"):
        list(stream_rows(tmp_path / "a.csv"))
    (tmp_path / "b.conll").write_text("# id = s4\nAda NN\n# NN\n\nmet VB\n")
    rows = list(stream_rows(tmp_path / "b.conll"))
    assert rows == [{"tokens": ["Ada", "#"], "id": "s4"}, {"tokens": ["met"]}]
    (tmp_path / "notes.md").write_text("Ada\n")
    with pytest.raises(ValueError, match="or format= with one of .*text"):
        list(stream_rows(tmp_path / "notes.md"))
    assert read_texts(tmp_path / "notes.md", format="text") == ["Ada"]
    (tmp_path / "c.jsonl").write_text("x\ny\n")
    with pytest.raises(ValueError, match="c.jsonl, line 1"):
        list(stream_rows(tmp_path / "c.jsonl"))
    stream = stream_texts(tmp_path / "c.jsonl")
    with pytest.raises(ValueError, match="c.jsonl, line 1: expected a JSON object"):
        next(stream)
