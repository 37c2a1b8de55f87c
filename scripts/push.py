"""Push a saved model to the Hub, with its tokenizer, shim and card.

python scripts/push.py out/final someone/tagger --private
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import hf_semicrf  # noqa: F401  (makes the configuration known to AutoConfig)
from hf_semicrf.hub.push import push_folder


def main(arguments: Sequence[str] | None = None) -> None:
    """Check, complete and push."""
    parser = argparse.ArgumentParser(description="Push a saved semi-CRF model to the Hub.")
    parser.add_argument("folder", help="where the model was saved")
    parser.add_argument("repo_id", help="its name on the Hub: user/name")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--revision", help="branch to push to; the main one by default")
    parser.add_argument("--message", default="Upload model", help="message of the commit")
    args = parser.parse_args(arguments)
    try:
        commit = push_folder(
            args.folder,
            args.repo_id,
            private=args.private or None,  # a public account's default stays as it is
            revision=args.revision,
            message=args.message,
        )
    except (OSError, ValueError) as error:
        sys.exit(f"push.py: {error}")
    print(f"pushed to {commit.commit_url}")


if __name__ == "__main__":
    main()
