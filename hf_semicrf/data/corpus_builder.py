"""From rows to a data set of words and tags, every row checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from datasets import ClassLabel, Dataset, Features, Value
from datasets import Sequence as Items

from hf_semicrf.data.label_studio import TASK_SPANS
from hf_semicrf.data.neighbours import DOCUMENT, DOCUMENT_NAMES
from hf_semicrf.data.records import Damage, Options, ReadReport, Row, short, without_surrogates
from hf_semicrf.data.shapes import Shape, counts_utf16, flattened, shape_of
from hf_semicrf.data.spans import Span, read_spans, spans_to_tags

_INT64 = 2**63


class CorpusBuilder:
    """Collects the rows of a file: words, tags, and where it is known the text with its offsets.

    Args:
        options: How the file is read.
        report: Is told what is left out.
        names: The classes that the tags are numbers of, if they are.
    """

    def __init__(
        self, options: Options, report: ReadReport, names: Sequence[str] | None = None
    ) -> None:
        """See the class."""
        self.options = options
        self.report = report
        self.names = names
        self.shape: Shape | None = None
        self.rows: list[dict[str, Any]] = []
        self.kept: list[int] = []
        self.predicted: list[bool] = []
        self.kind: type | None = None if names is None else int

    def read(self, rows: Iterable[Row | Damage]) -> CorpusBuilder:
        """Read all rows.

        Raises:
            ValueError: A row is damaged, or spans are misaligned and the rule is "error".
        """
        for number, row in enumerate(flattened(rows, self.options)):
            if isinstance(row, Damage):
                raise ValueError(f"{row.place}: {row.reason}")
            try:
                if self._add(row):
                    self.kept.append(number)
            except ValueError as error:
                raise ValueError(f"{row.place}: {error}") from None
        self._leave_out_predictions()
        self._refuse_misaligned()
        if not self.rows:
            raise ValueError(
                f"{self.report.source}: expected at least one sentence, the file has none"
            )
        return self

    def dataset(self) -> Dataset:
        """The rows as a data set."""
        options = self.options
        tag: Any = Value("int64" if self.kind is int else "string")
        if self.names is not None:
            tag = ClassLabel(names=list(self.names))
        features = {
            options.tokens_column: Items(Value("string")),
            options.tags_column: Items(tag),
        }
        if any("text" in row for row in self.rows) and not features.keys() & {"text", "offsets"}:
            features |= {"text": Value("string"), "offsets": Items(Items(Value("int64")))}
        if any(DOCUMENT in row for row in self.rows) and DOCUMENT not in features:
            features |= {DOCUMENT: Value("string")}
        columns = {name: [row.get(name) for row in self.rows] for name in features}
        return Dataset.from_dict(columns, features=Features(features))

    def _add(self, row: Row) -> bool:
        """Add a row; says whether it is kept."""
        fields = without_surrogates(row.fields)
        if fields is not row.fields:
            self.report.replaced.append(row.place)
        if self.shape is None:
            self.shape = shape_of(fields, self.options)
        if self.shape.answers and fields.get("answer") in ("reject", "ignore"):
            self.report.rejected.append(row.place)
            return False
        if self.shape.spans is None:
            made = self._tagged(fields)
        else:
            made = self._from_spans(row.place, fields, self.shape.spans)
        words, tags = made[self.options.tokens_column], made[self.options.tags_column]
        if not any(word.strip() for word in words):
            self.report.empty.append(row.place)
            return False
        for n, tag in enumerate(tags):
            if isinstance(tag, str):
                self.report.tags.setdefault(tag, row.words[n] if row.words else row.place)
        document = next((fields[n] for n in DOCUMENT_NAMES if fields.get(n) is not None), None)
        if document is not None:
            made.setdefault(DOCUMENT, str(document))
        self.rows.append(made)
        self.report.places.append(row.place)
        self.predicted.append(TASK_SPANS in fields and fields["predicted"])
        return True

    def _tagged(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """A row of words and tags."""
        names = (self.options.tokens_column, self.options.tags_column)
        words, tags = (fields.get(name) for name in names)
        if not (isinstance(words, list) and isinstance(tags, list)):
            raise ValueError(
                f"expected lists {names[0]!r} and {names[1]!r}, or a text and its spans, got "
                f"{short(dict(fields))}"
            )
        _check_words(words)
        if len(words) != len(tags):
            raise ValueError(f"expected a tag for each of the {len(words)} words, got {len(tags)}")
        for tag in tags:
            self._check_tag(tag)
        made: dict[str, Any] = {names[0]: words, names[1]: tags}
        text, offsets = fields.get(self.options.text_column), fields.get("offsets")
        if isinstance(text, str) and isinstance(offsets, list) and len(offsets) == len(words):
            if all(
                isinstance(pair, list)
                and len(pair) == 2
                and all(isinstance(n, int) and 0 <= n <= len(text) for n in pair)
                and text[slice(*pair)] == word
                for pair, word in zip(offsets, words, strict=True)
            ):
                made |= {"text": text, "offsets": offsets}
        return made

    def _check_tag(self, tag: Any) -> None:
        """Refuse what is neither a tag nor a class id, and a mixture of both."""
        if tag is None:
            return
        if isinstance(tag, bool) or not isinstance(tag, str | int) or tag == "":
            raise ValueError(f"expected tags that are names or class ids, got {short(tag)}")
        kind = str if isinstance(tag, str) else int
        if self.kind not in (None, kind):
            wanted = "names" if self.kind is str else "numbers"
            raise ValueError(f"expected tags that are {wanted}, as before it, got {short(tag)}")
        self.kind = kind
        limit = _INT64 if self.names is None else len(self.names)
        if isinstance(tag, int) and not -_INT64 <= tag < limit:
            wanted = "64 bits" if self.names is None else f"ids of {limit} classes"
            raise ValueError(f"expected tags that are {wanted}, got {short(tag)}")

    def _from_spans(self, place: str, fields: Mapping[str, Any], key: str) -> dict[str, Any]:
        """A row of a text or words, and spans of it."""
        options = self.options
        text: Any = fields.get(options.text_column)
        words: Any = fields.get(options.tokens_column)
        if not isinstance(text, str) and not (text is None and isinstance(words, list)):
            raise ValueError(f"expected a text {options.text_column!r}, got {short(dict(fields))}")
        if isinstance(text, str):
            offsets = [(int(w[-2]), int(w[-1])) for w in map(tuple, options.splitter(text))]
            words = [text[start:end] for start, end in offsets]
        else:
            _check_words(words)
            offsets = [(n, n + 1) for n in range(len(words))]
        found = read_spans(
            fields.get(key),
            text if isinstance(text, str) else words,
            lambda item: counts_utf16(item, key, options),
        )

        def told(listed: list[str]) -> Any:
            def tell(span: Span, problem: str) -> None:
                shown = text[span.start : span.end] if isinstance(text, str) else span.label
                listed.append(
                    f"{span.place or place}: {short(shown)} ({span.start} to {span.end}, "
                    f"{span.label}) {problem}"
                )

            return tell

        told_misaligned, told_overlapping = (
            told(self.report.misaligned),
            told(self.report.overlapping),
        )
        tags = spans_to_tags(found, offsets, options.misaligned, told_misaligned, told_overlapping)
        self.kind = str
        made = {options.tokens_column: words, options.tags_column: tags}
        if isinstance(text, str):
            made |= {"text": text, "offsets": [list(pair) for pair in offsets]}
        return made

    def _leave_out_predictions(self) -> None:
        """Leave out a model's predictions where other rows of the file are annotated."""
        if all(self.predicted):
            if self.predicted:
                self.report.notes.append(
                    f"{self.report.source}: no task is annotated, predictions are read instead"
                )
            return
        for n in reversed([n for n, predicted in enumerate(self.predicted) if predicted]):
            place = self.report.places.pop(n)
            self.report.rejected.append(f"{place} (predicted, not annotated)")
            del self.rows[n], self.kept[n]

    def _refuse_misaligned(self) -> None:
        report = self.report
        problems = report.misaligned + report.overlapping
        if problems and self.options.misaligned == "error":
            raise ValueError(
                f"{report.source}: expected spans that end where words do and do not overlap, got "
                f"{len(problems)} others: {'; '.join(problems[:3])}; pass misaligned='drop' to "
                "leave them out, 'expand' to take whole words (of spans that overlap the longest "
                "stays)"
            )


def _check_words(words: Sequence[Any]) -> None:
    for word in words:
        if not isinstance(word, str):
            raise ValueError(f"expected words, got {short(word)}")
