"""Push a saved model to the Hub, with its tokenizer, shim and card.

hf-semicrf push out/final someone/tagger --private

What goes is on a list: weights in safetensors, settings, tokenizer, card, plot and shim. All else
in the folder stays here and is named. With --endpoint a handler for Inference Endpoints goes too.
"""

from __future__ import annotations

from collections.abc import Sequence

from hf_semicrf.cli.common import Parser, existing_file, existing_folder, one_line_errors


def parser() -> Parser:
    """The parser of the command."""
    made = Parser("push", str(__doc__))
    made.add_argument("folder", type=existing_folder, help="where the model was saved")
    made.add_argument("repo_id", help="its name on the Hub: user/name")
    made.add_argument("--private", action="store_true", help="make a new repository private")
    made.add_argument("--revision", help="branch to push to; the main one by default")
    made.add_argument(
        "--dry_run",
        action="store_true",
        help="say what would go, and end",
    )
    made.add_argument(
        "--endpoint",
        type=existing_file,
        metavar="WHEEL",
        help="also push handler.py and requirements.txt for Inference Endpoints, and the wheel of "
        "this package that `make release` writes to dist",
    )
    made.add_argument("--message", default="Upload model", help="message of the commit")
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Check, complete and push.

    Args:
        arguments: The command line, `sys.argv` by default.
    """
    made = parser()
    args = made.parse_args(arguments)
    with one_line_errors(made):
        from hf_semicrf.hub import endpoint_additions, leaving, listed, push_folder

        goes, stays = leaving(args.folder)
        if args.endpoint:
            goes += [file.path_in_repo for file in endpoint_additions(args.endpoint)]
        if args.dry_run:
            print(f"would push: {listed(goes)}")
        if stays:
            print(f"left here: {listed(stays)}")
        if args.dry_run:
            return
        commit = push_folder(
            args.folder,
            args.repo_id,
            private=args.private or None,  # a public account's default stays as it is
            revision=args.revision,
            message=args.message,
            endpoint=args.endpoint,
        )
        print(f"pushed to {commit.commit_url}")
