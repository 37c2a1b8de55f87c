"""A machine learning backend for Label Studio: it asks over HTTP, a tagger answers.

Answers POST /predict and /setup and GET /health in the documented forms; Label Studio's other
notices, of training and of events, are received and nothing comes of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from xml.etree import ElementTree

from hf_semicrf.data import label_studio_prediction

HOST = "127.0.0.1"


class Labelling(NamedTuple):
    """What a labelling interface says of the labels of a text.

    Args:
        from_name: Name of the tag Labels.
        to_name: Name of the tag Text.
        column: Where a task has its text.
    """

    from_name: str
    to_name: str
    column: str

    @classmethod
    def of(cls, config: str | None, types: Sequence[str]) -> Labelling:
        """Read a labelling interface.

        Args:
            config: Its XML.
            types: The entity types of the model.

        Raises:
            ValueError: It is no XML, has not one tag Labels on a tag Text, or lacks a type.
        """
        try:
            root = ElementTree.fromstring(config or "")
        except ElementTree.ParseError as error:
            raise ValueError(f"expected a labelling interface in XML, got: {error}") from None
        texts = {tag.get("name"): tag for tag in root.iter("Text")}
        found = [tag for tag in root.iter("Labels") if tag.get("toName") in texts]
        if len(found) != 1:
            raise ValueError(
                f"expected one tag Labels whose toName is that of a tag Text, got {len(found)}"
            )
        named = [label.get("value", "") for label in found[0].iter("Label")]
        if missing := [name for name in types if name not in named]:
            raise ValueError(
                f"expected the labels {', '.join(types)} of the model among those of the project, "
                f"got {', '.join(named)} without {', '.join(missing)}"
            )
        to_name = found[0].get("toName", "")
        return cls(found[0].get("name", ""), to_name, texts[to_name].get("value", "").lstrip("$"))


class Backend:
    """What answers.

    Args:
        model: A `SemiCRFForTokenClassification`.
        tokenizer: Its tokenizer.
        version: What Label Studio calls the model.
        **options: Of ``model.predict``.
    """

    def __init__(self, model: Any, tokenizer: Any, version: str, **options: Any):
        self.model, self.tokenizer, self.version, self.options = model, tokenizer, version, options

    def answer(self, path: str, asked: Mapping[str, Any]) -> dict[str, Any] | None:
        """The answer to a request; None where there is nothing at the path.

        Args:
            path: Such as "/predict".
            asked: What came as JSON; nothing with GET.

        Raises:
            ValueError: A task has no text, or the project has other labels than the model.
        """
        if path in ("/", "/health"):
            return {"status": "UP", "model_class": type(self.model).__name__}
        if path == "/setup":
            Labelling.of(asked.get("schema"), self.model.config.scheme.types[1:])
            return {"model_version": self.version}
        if path == "/predict":
            return {"results": self._predictions(asked), "model_version": self.version}
        return {} if path in ("/train", "/webhook") else None

    def _predictions(self, asked: Mapping[str, Any]) -> list[dict[str, Any]]:
        labelling = Labelling.of(asked.get("label_config"), self.model.config.scheme.types[1:])
        texts = []
        for task in asked.get("tasks") or []:
            text = task.get("data", {}).get(labelling.column)
            if not isinstance(text, str):
                raise ValueError(
                    f"expected a text under {labelling.column!r} in each task, got {text!r:.60} in "
                    f"task {task.get('id')}"
                )
            texts.append(text)
        found = self.model.predict(texts, self.tokenizer, **self.options)
        names = labelling.from_name, labelling.to_name
        return [
            label_studio_prediction(text, entities, self.version, *names)
            for text, entities in zip(texts, found, strict=True)
        ]


def server(backend: Backend, port: int) -> ThreadingHTTPServer:
    """A server on this machine's own address, which `serve_forever` starts.

    Args:
        backend: What answers.
        port: 0 for any that is free.

    Raises:
        OSError: The port is taken.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer({})

        def do_POST(self) -> None:
            try:
                asked = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
                if not isinstance(asked, dict):
                    raise ValueError("a JSON value that is no object")
            except ValueError as error:
                self._send(400, {"error": f"expected a JSON object, got {error}"})
            else:
                self._answer(asked)

        def _answer(self, asked: Mapping[str, Any]) -> None:
            path = "/" + self.path.partition("?")[0].strip("/")
            try:
                answer = backend.answer(path, asked)
            except ValueError as error:
                self._send(400, {"error": str(error)})
            else:
                self._send(404 if answer is None else 200, answer or {})

        def _send(self, status: int, content: Mapping[str, Any]) -> None:
            body = json.dumps(content, ensure_ascii=False).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return ThreadingHTTPServer((HOST, port), Handler)
