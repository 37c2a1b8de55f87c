"""Push a saved model to the Hub, with its shim and its card.

A shim names the model's classes, so that the Auto classes find this package. A card is written
where an upload collects its files: the stock paths overwrite one that was there before.
"""

from __future__ import annotations

import os
from pathlib import Path

from huggingface_hub import CommitInfo, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError
from transformers import AutoConfig, PreTrainedModel

from hf_semicrf.hub.model_card import CARD_NAME, PLOT_NAME, find_card, render_card
from hf_semicrf.saving import replacing

SHIM_NAME = "modeling_semicrf.py"
SHIM = '''"""This model's classes are in the package hf_semicrf: pip install hf_semicrf."""
from hf_semicrf import SemiCRFConfig, SemiCRFForTokenClassification  # noqa: F401
'''
# the error of the HTTP client that huggingface_hub uses, whichever it is
_CLIENT_ERROR: type[Exception] = HfHubHTTPError.__bases__[0]
# of what a training run leaves in its folder, all that no user of the model needs
LEFT_BEHIND = ["checkpoint-*", "runs/*", "_*", "training_args.bin", "*.pt", "*.pth"]
AUTO_MAP = {
    "AutoConfig": "modeling_semicrf.SemiCRFConfig",
    "AutoModel": "modeling_semicrf.SemiCRFForTokenClassification",
    "AutoModelForTokenClassification": "modeling_semicrf.SemiCRFForTokenClassification",
}


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
    paths = (Path(str(folder), name) for name in (CARD_NAME, PLOT_NAME))
    return {path.name: path.read_bytes() for path in paths if path.is_file()}


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
    return card_files(model.name_or_path) or {CARD_NAME: generated}


def push_folder(
    folder: str | os.PathLike,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    token: str | None = None,
    message: str = "Upload model",
) -> CommitInfo:
    """Push a saved model, or a saved adapter, with its tokenizer, shim and card.

    What is missing of shim and card is written into the folder first. Checkpoints, optimizer states
    and pickled arguments stay behind.

    Args:
        folder: Where the model was saved.
        repo_id: Name on the Hub, "user/name"; made where there is none.
        private: Whether a new repository is private; the account's default where None.
        revision: Branch to push to, made where there is none; the main one where None.
        token: Token with the right to write; the one that is logged in where None.
        message: Message of the commit.

    Returns:
        What the Hub says of the commit.

    Raises:
        ValueError: The folder holds no saved model of this library, or an adapter without a card.
        PermissionError: There is no token.
        ConnectionError: The Hub can't be reached.
        HfHubHTTPError: The Hub refuses: a wrong token, or a name that is not yours.
    """
    folder = Path(folder)
    if not any(folder.glob("*.safetensors")):
        raise ValueError(f"expected a folder with a saved model, found no weights in '{folder}'")
    if token is None and get_token() is None:
        raise PermissionError(
            "no token: run `hf auth login`, or set HF_TOKEN to one that may write"
        )
    _complete(folder, repo_id)
    api = HfApi(token=token)
    try:
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        return api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            revision=revision,
            commit_message=message,
            ignore_patterns=LEFT_BEHIND,
        )
    except HfHubHTTPError:
        raise
    except _CLIENT_ERROR as error:
        raise ConnectionError(f"can't reach {api.endpoint}: {error}") from error


def _complete(folder: Path, repo_id: str) -> None:
    """Write what a saved folder lacks of shim and card."""
    card = folder / CARD_NAME
    if not (folder / "config.json").exists():
        if not card.exists():
            raise ValueError(
                f"expected config.json or, beside an adapter, {CARD_NAME} in '{folder}': "
                "SemiCRFTrainer.create_model_card writes it"
            )
        return
    config = AutoConfig.from_pretrained(folder)
    if config.model_type != "semicrf":
        raise ValueError(
            f"expected a semi-CRF model in '{folder}', got the model type {config.model_type!r}"
        )
    if not (folder / SHIM_NAME).exists():
        config.save_pretrained(folder)
    if not card.exists():
        with replacing(card) as path:
            path.write_text(render_card(config, model_id=repo_id), encoding="utf-8")
