"""Push a saved model to the Hub, with its shim and its card.

A shim names the model's classes, so that the Auto classes find this package. A card is written
where an upload collects its files: the stock paths overwrite one that was there before. What goes
is what `leaving` lists.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError
from transformers import AutoConfig, PreTrainedModel
from transformers.utils import logging

from hf_semicrf.hub.allowed import (
    CARD_NAME,
    PLOT_NAME,
    SHIM,
    SHIM_NAME,
    additions,
    endpoint_additions,
    is_weights,
    leaving,
)
from hf_semicrf.hub.model_card import find_card, render_card
from hf_semicrf.saving import replacing
from hf_semicrf.text import one_line

logger = logging.get_logger(__name__)

# the error of the HTTP client that huggingface_hub uses, whichever it is
_CLIENT_ERROR: type[Exception] = HfHubHTTPError.__bases__[0]


def write_shim(folder: str | os.PathLike) -> None:
    """Write the module that `AUTO_MAP` names: it imports this package, or says what to install.

    Args:
        folder: Where a model or a configuration is saved; made where there is none.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    with replacing(Path(folder, SHIM_NAME)) as path:
        path.write_text(SHIM, encoding="utf-8")


def card_files(folder: str | os.PathLike | None) -> dict[str, bytes]:
    """The card in a folder and its plot, by name; empty where it holds no card of this library.

    Args:
        folder: Where to look.
    """
    if find_card(folder) is None:
        return {}
    goes = leaving(str(folder)).goes
    names = [name for name in (CARD_NAME, PLOT_NAME) if name in goes]
    return {name: Path(str(folder), name).read_bytes() for name in names if CARD_NAME in goes}


def card_for_push(
    model: PreTrainedModel, repo_id: str, token: str | bool | None
) -> dict[str, bytes]:
    """The files of the card that a model's push writes.

    A card on the Hub stays. Else it is the one beside the files that the model was loaded from, or
    one that knows the configuration alone.

    Args:
        model: The model.
        repo_id: Its name on the Hub.
        token: The push's token.
    """
    if HfApi().file_exists(repo_id, CARD_NAME, token=token):
        return {}
    generated = render_card(model.config, model_id=repo_id).encode()
    return card_files(model.config.name_or_path) or {CARD_NAME: generated}


class ListedUploads:
    """What transformers pushes, kept to the list: a class in front of one with `push_to_hub`."""

    def _get_files_timestamps(self, working_dir: str | os.PathLike) -> dict[str, float]:
        """When each entry of a folder was changed; of a link, the link."""
        return {n: os.lstat(Path(working_dir, n)).st_mtime for n in os.listdir(working_dir)}

    def _upload_modified_files(
        self,
        working_dir: str | os.PathLike,
        repo_id: str,
        files_timestamps: Mapping[str, float],
        commit_message: str | None = None,
        token: str | bool | None = None,
        create_pr: bool = False,
        revision: str | None = None,
        commit_description: str | None = None,
    ) -> Any:
        """The stock upload of what has changed in a folder.

        Raises:
            ValueError: As in `upload`.
        """
        now = self._get_files_timestamps(working_dir)
        changed = {n for n, time in now.items() if time > files_timestamps.get(n, -math.inf)}
        goes = [name for name in files_to_push(working_dir) if name in changed]
        operations = additions(working_dir, goes, token)
        api = HfApi(token=token)
        if revision is not None and not revision.startswith("refs/pr"):
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        return api.create_commit(
            repo_id,
            operations,
            commit_message=commit_message or f"Upload {type(self).__name__}",
            commit_description=commit_description,
            create_pr=create_pr,
            revision=revision,
        )


def files_to_push(folder: str | os.PathLike) -> list[str]:
    """The files of a folder that go; the log says which stay.

    Args:
        folder: As `leaving` takes it.
    """
    goes, stays = leaving(folder)
    if stays:
        logger.info("Left here: %s.", listed(stays))
    return goes


def listed(names: Iterable[str]) -> str:
    """Names of files as text of one line.

    Args:
        names: Such as those of `Leaving`.
    """
    return ", ".join(map(one_line, names))


def push_folder(
    folder: str | os.PathLike,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    token: str | None = None,
    message: str = "Upload model",
    endpoint: str | os.PathLike | None = None,
) -> CommitInfo:
    """Push a saved model, or a saved adapter, with its tokenizer, shim and card.

    What is missing of shim and card is written into the folder first. All that is not on the list
    of `leaving` stays behind: checkpoints, pickles, logs, data, sub-folders, links.

    Args:
        folder: Where the model was saved.
        repo_id: Name on the Hub, "user/name"; made where there is none.
        private: Whether a new repository is private; the account's default where None.
        revision: Branch to push to, made where there is none; the main one where None.
        token: Token with the right to write; the one that is logged in where None.
        message: Message of the commit.
        endpoint: A wheel of this package, with which an Inference Endpoint can run the model; it
            goes with ``handler.py`` and ``requirements.txt``. None where no endpoint is meant.

    Returns:
        What the Hub says of the commit.

    Raises:
        ValueError: The folder holds no saved model of this library, or an adapter without a card;
            or a file that would go holds a token or a path of this machine; or `endpoint` is no
            wheel of this package.
        PermissionError: There is no token.
        ConnectionError: The Hub can't be reached.
        HfHubHTTPError: The Hub refuses: a wrong token, or a name that is not yours.
    """
    folder = Path(folder)
    goes = files_to_push(folder)
    for name in ("config.json", SHIM_NAME, CARD_NAME):
        if name not in goes and os.path.lexists(folder / name):
            raise ValueError(f"expected a file at '{folder / name}', got a link or a folder")
    if not any(map(is_weights, goes)):
        raise ValueError(f"expected a folder with a saved model, found no weights in '{folder}'")
    if token is None and get_token() is None:
        raise PermissionError(
            "no token: run `hf auth login`, or set HF_TOKEN to one that may write"
        )
    served = [] if endpoint is None else endpoint_additions(endpoint, token)
    _complete(folder, repo_id, goes)
    operations = [*additions(folder, leaving(folder).goes, token), *served]
    api = HfApi(token=token)
    try:
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        return api.create_commit(repo_id, operations, commit_message=message, revision=revision)
    except HfHubHTTPError:
        raise
    except _CLIENT_ERROR as error:
        raise ConnectionError(f"can't reach {api.endpoint}: {error}") from error


def read_config(name: Any, **options: Any) -> Any:
    """The configuration of a model or an encoder.

    Args:
        name: Hub name or folder.
        **options: Of `AutoConfig.from_pretrained`.

    Raises:
        ValueError: It is none that can be read.
        OSError: There is none.
    """
    try:
        return AutoConfig.from_pretrained(name, **options)
    except (OSError, ValueError):
        raise
    except Exception as error:  # JSON that is no configuration fails in many ways
        raise ValueError(
            f"expected a configuration that can be read at '{name}', got {type(error).__name__}: "
            f"{error}"
        ) from error


def _complete(folder: Path, repo_id: str, goes: list[str]) -> None:
    """Write what a saved folder lacks of shim and card."""
    if "config.json" not in goes:
        if CARD_NAME not in goes:
            raise ValueError(
                f"expected config.json or, beside an adapter, {CARD_NAME} in '{folder}': "
                "SemiCRFTrainer.create_model_card writes it"
            )
        return
    config = read_config(folder)
    if config.model_type != "semicrf":
        raise ValueError(
            f"expected a semi-CRF model in '{folder}', got the model type {config.model_type!r}"
        )
    if SHIM_NAME not in goes:
        config.save_pretrained(folder)
    if CARD_NAME not in goes:
        with replacing(folder / CARD_NAME) as path:
            path.write_text(render_card(config, model_id=repo_id), encoding="utf-8")
