"""What may leave this machine: the names of the files that a push uploads, and what is in them.

Every upload of this library is made of `additions`, and on request of `endpoint_additions`.
"""

from __future__ import annotations

import email.message
import json
import math
import mmap
import os
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import CommitOperationAdd, ModelCard, get_token

SHIM_NAME = "modeling_semicrf.py"
SHIM = '''"""This model's classes are in the package hf_semicrf: pip install hf_semicrf."""
from hf_semicrf import SemiCRFConfig, SemiCRFForTokenClassification  # noqa: F401
'''
AUTO_MAP = {
    "AutoConfig": "modeling_semicrf.SemiCRFConfig",
    "AutoModel": "modeling_semicrf.SemiCRFForTokenClassification",
    "AutoModelForTokenClassification": "modeling_semicrf.SemiCRFForTokenClassification",
}
CARD_NAME, PLOT_NAME, HANDLER_NAME = "README.md", "scores.png", "handler.py"
# the list: what no line of it names stays here
_WEIGHTS = re.compile(
    r"(adapter_)?model(\.[a-z0-9]+)?(-[0-9]{5}-of-[0-9]{5})?\.safetensors", re.ASCII
)
_WHEEL = re.compile(r"hf_semicrf-[0-9][0-9a-z.]*-py3-none-any\.whl", re.ASCII)
_INDEX = re.compile(r"(adapter_)?model\.safetensors\.index(\.[a-z0-9]+)?\.json", re.ASCII)
_SETTINGS = {
    *("config.json", "adapter_config.json", "tokenizer_config.json", "decoder.json"),
    "preprocessor_config.json",  # of a feature extractor
}
_TOKENIZER = {
    *("tokenizer.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja"),
    *("vocab.txt", "vocab.json", "merges.txt", "spiece.model", "spm.model", "spm_char.model"),
    *("tokenizer.model", "sentencepiece.model", "sentencepiece.bpe.model", "bpe.codes"),
    *("dict.txt", "entity_vocab.json", "emoji.json", "byte_maps.json", "prophetnet.tokenizer"),
}
_NAMES = _SETTINGS | _TOKENIZER | {CARD_NAME, PLOT_NAME, SHIM_NAME}
_PATH = re.compile(r"[/\\.~]|[A-Za-z]:|file:")
# keys of the settings whose values say where a file was read
_PLACES = re.compile(r".*(_path|_file|_dir|_folder|base_model)", re.DOTALL)


class Leaving(NamedTuple):
    """The entries of a folder, sorted.

    Args:
        goes: Names of the files that a push uploads.
        stays: Names of all others; those of folders end in "/".
    """

    goes: list[str]
    stays: list[str]


def leaving(folder: str | os.PathLike) -> Leaving:
    """Which files of a folder a push uploads.

    Those are plain files, not links, whose names are on the list: weights in safetensors, the
    settings of model, adapter, tokenizer and decoder, vocabularies, card, plot and shim.

    Args:
        folder: Where to look; sub-folders stay here as they are.
    """
    goes: list[str] = []
    stays: list[str] = []
    for name in sorted(os.listdir(folder)):
        path = Path(folder, name)
        listed = name in _NAMES or is_weights(name) or _INDEX.fullmatch(name)
        if listed and path.is_file() and not path.is_symlink():
            goes.append(name)
        else:
            stays.append(name + "/" * path.is_dir())
    return Leaving(goes, stays)


def is_weights(name: str) -> bool:
    """Whether a file of this name holds weights of a model or an adapter.

    Args:
        name: The file's.
    """
    return _WEIGHTS.fullmatch(name) is not None


def is_local(name: str) -> bool:
    """Whether a name is a path of some machine, and no name on the Hub.

    Args:
        name: Of a model or a data set.
    """
    return bool(_PATH.match(name)) or os.path.exists(name)


def additions(
    folder: str | os.PathLike,
    names: Iterable[str],
    token: str | bool | None = None,
    place: str = "",
) -> list[CommitOperationAdd]:
    """What a commit adds: files of a folder, without what is this machine's own.

    From settings, and from what a card says of its base model and data, paths are taken out; the
    shim is written anew.

    Args:
        folder: Where the files lie.
        names: Those to add, of `Leaving.goes`.
        token: The push's token.
        place: Folder of the repository, such as "last-checkpoint/"; its top by default.

    Raises:
        ValueError: A file holds a token in use, or a path of this machine that is no setting; or
            settings are no JSON, or a card's are no YAML.
    """
    secrets = [t.encode() for t in {token, get_token()} if isinstance(t, str) and t]
    paths = _paths([Path.home(), Path(folder).resolve()])
    found = []
    for name in names:
        path = Path(folder, name)
        content: str | bytes = str(path)
        if name == SHIM_NAME:
            content = SHIM.encode()
        elif name in _SETTINGS:
            content = _settings(path)
        elif name == CARD_NAME:
            content = _card(path)
        _check(path, content, secrets, paths)
        found.append(CommitOperationAdd(f"{place}{name}", content))
    return found


def endpoint_additions(
    wheel: str | os.PathLike, token: str | bool | None = None
) -> list[CommitOperationAdd]:
    """What a commit adds for an endpoint: a handler, what to install for it, and this package.

    None of it is taken from the model's folder.

    Args:
        wheel: The package, as `make release` builds it.
        token: The push's token.

    Raises:
        ValueError: It is no wheel of this package, or holds a token in use.
    """
    path = Path(wheel)
    try:
        with zipfile.ZipFile(path) as archive:
            [name] = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
            metadata = email.message_from_bytes(archive.read(name))
    except (OSError, ValueError, zipfile.BadZipFile):
        metadata = email.message.Message()
    if not _WHEEL.fullmatch(path.name) or metadata["Name"] != "hf_semicrf":
        raise ValueError(
            f"expected a wheel of this package, such as `make release` writes to dist, got '{path}'"
        )
    needed = [n for n in metadata.get_all("Requires-Dist", []) if "extra ==" not in n]
    handler = Path(__file__).parent.parent / "integrations" / HANDLER_NAME
    contents: dict[str, bytes] = {
        HANDLER_NAME: handler.read_bytes(),
        "requirements.txt": "".join(f"{line}\n" for line in needed).encode(),
        path.name: path.read_bytes(),
    }
    secrets = [t.encode() for t in {token, get_token()} if isinstance(t, str) and t]
    for name, content in contents.items():
        _check(Path(name), content, secrets, _paths([Path.home()]))
    return [CommitOperationAdd(name, content) for name, content in contents.items()]


def read_card(path: Path) -> ModelCard:
    """A card, whatever its front matter says.

    Args:
        path: The file.

    Raises:
        ValueError: It is not in UTF-8, or its front matter is no YAML.
    """
    try:
        return ModelCard(path.read_text(encoding="utf-8"), ignore_metadata_errors=True)
    except Exception as error:  # of YAML in its own kinds
        raise ValueError(f"expected a card with YAML on top in '{path}', got: {error}") from error


def _card(path: Path) -> str | bytes:
    """A card without paths in its front matter: the file's own name where there are none."""
    card = read_card(path)
    values = card.data.to_dict()
    for key in ("base_model", "datasets", "tags"):
        given = values.get(key) or []
        names = [given] if isinstance(given, str) else given
        # peft's tag "base_model:adapter:/home/..."; any other may have the name of a folder here
        if any(is_local(str(n)) if key != "tags" else _PATH.match(_last(n)) for n in names):
            kept = [n for n in names if key == "tags" and not _PATH.match(_last(n))]
            setattr(card.data, key, kept or None)
    return str(path) if card.data.to_dict() == values else str(card).encode()


def _last(tag: Any) -> str:
    return str(tag).rsplit(":", 1)[-1]


def _settings(path: Path) -> str | bytes:
    """The settings in a file without paths: the file's own name where there are none."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        cleaned = _without_paths(values)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"expected JSON in '{path}', got: {error}") from error
    if isinstance(cleaned, dict) and cleaned.get("model_type") == "semicrf":
        cleaned["auto_map"] = AUTO_MAP  # the only code that goes
    return str(path) if cleaned == values else json.dumps(cleaned, indent=2).encode() + b"\n"


def _without_paths(value: Any) -> Any:
    """A value of settings without the entries that say where a file was read."""
    if isinstance(value, Mapping):
        return {key: _without_paths(v) for key, v in value.items() if not _is_place(key, v)}
    return [_without_paths(v) for v in value] if isinstance(value, list) else value


def _is_place(key: str, value: Any) -> bool:
    return isinstance(value, str) and bool(_PLACES.fullmatch(key)) and is_local(value)


def _paths(folders: Iterable[Path]) -> re.Pattern[bytes]:
    """What finds the paths of folders in a file, however JSON writes them."""
    ways = set()
    for folder in folders:
        if len(folder.parts) > 1:
            way = str(folder) + os.sep * (len(folder.parts) == 2)  # "/root" may be a word
            ways |= {os.fsencode(way), json.dumps(way)[1:-1].encode()}
    return re.compile(rb"(?<![\w.-])(?:%s)" % (b"|".join(map(re.escape, ways)) or b"(?!)"))


def _check(
    path: Path, content: str | bytes, secrets: list[bytes], paths: re.Pattern[bytes]
) -> None:
    """Refuse a file with a secret or a path of this machine; of weights, paths in the header."""
    data: Any = content
    if isinstance(content, str):
        with open(path, "rb") as file:
            empty = not os.fstat(file.fileno()).st_size
            data = b"" if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if any(data.find(secret) >= 0 for secret in secrets):
        raise ValueError(f"expected no token in what is pushed, found the one in use in '{path}'")
    end = 8 + int.from_bytes(data[:8], "little") if is_weights(path.name) else math.inf
    if found := paths.search(data, 0, int(min(end, len(data)))):
        raise ValueError(
            f"expected no path of this machine in what is pushed, found "
            f"{found.group().decode(errors='replace')!r} in '{path}'"
        )
