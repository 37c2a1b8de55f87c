"""Answer Label Studio's requests for predictions, on this machine.

hf-semicrf backend out/final --port 9090

In Label Studio: Settings, Model, Connect Model, http://localhost:9090. docs/label.md goes through
it from the export of a project to a better model.
"""

from __future__ import annotations

from collections.abc import Sequence

from hf_semicrf.cli.common import (
    Parser,
    add_decoding,
    add_running,
    decoding,
    load,
    one_line_errors,
)
from hf_semicrf.cli.messages import tell


def parser() -> Parser:
    """The parser of the command."""
    made = Parser("backend", str(__doc__))
    made.add_argument("model", help="Hub name or folder of the model")
    made.add_argument("--port", default=9090, help="of this machine's own address; 9090")
    add_decoding(made)
    add_running(made)
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Load and serve, until interrupted.

    Args:
        arguments: The command line, `sys.argv` by default.
    """
    made = parser()
    args = made.parse_args(arguments)
    with one_line_errors(made):
        from hf_semicrf.integrations import HOST, Backend, server

        options = {"batch_size": args.batch_size, **decoding(args)}
        backend = Backend(*load(args.model, args.device), args.model, **options)
        with server(backend, args.port) as answering:
            tell(f"hf-semicrf backend: http://{HOST}:{answering.server_port}")
            answering.serve_forever()
