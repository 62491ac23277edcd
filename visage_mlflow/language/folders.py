"""Folders of models and adapters, checked before anything in them is loaded.

A folder must be complete, hold weights as safetensors and never as pickles, and name no file outside of itself.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from visage_mlflow.text.errors import Mistake

SAFETENSORS = ".safetensors"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_BASE = "base_model_name_or_path"


def exists(path: str) -> bool:
    """Whether there is such a file or folder; False for a text that cannot be a path.

    >>> exists("a" * 5000)
    False
    """
    try:
        return Path(path).expanduser().exists()
    except (OSError, RuntimeError, ValueError):  # Too long, the home of an unknown user, a zero byte.
        return False


def check_tracked(uri: str, setting: str = "model") -> None:
    """Refuse a ``runs:/`` or ``models:/`` URI that could lead to other files than those of its run or model."""
    rest, decoded = uri.partition(":/")[2], ""
    while rest != decoded:
        rest, decoded = unquote(rest), rest
    parts = decoded.removesuffix("/").split("/")
    is_plain = re.fullmatch(r"[^\x00-\x1f\x7f\\?#]*", decoded) and not {"", ".", ".."} & set(parts)
    if not is_plain:
        raise Mistake(
            f"`{setting}` is {uri!r}, whose path may lead to other files than those of its run or model. Give "
            "`runs:/<run id>/<path>` or `models:/<name>@<alias>` without empty or `..` parts, backslashes and `?`."
        )


def check_links(folder: Path, uri: str, setting: str = "model") -> None:
    """Refuse a fetched folder with a symbolic link that leads out of it."""
    home = folder.resolve()
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(place) / name
            if path.is_symlink() and not path.resolve().is_relative_to(home):
                raise Mistake(
                    f"`{setting}` is {uri!r}, in which {name!r} is a link to a file outside of it. Log the model "
                    "again with the file itself."
                )


def check_folder(folder: Path, setting: str = "model") -> None:
    """Refuse a folder that is not a safetensors model or adapter with a chat template."""
    if not folder.is_dir():
        raise Mistake(f"`{setting}` must be a folder, got the file {str(folder)!r}. Give the folder around it.")
    if is_adapter(folder):
        if not (folder / "adapter_model.safetensors").is_file():
            raise Mistake(
                f"`{setting}` is {str(folder)!r}, an adapter without adapter_model.safetensors: only safetensors are "
                f"read, never pickles. Save it again with `model.save_pretrained(folder)`."
            )
        return
    if not (folder / "config.json").is_file() or not any(folder.glob(f"*{SAFETENSORS}")):
        raise Mistake(
            f"`{setting}` is {str(folder)!r}, which lacks config.json or *.safetensors: only safetensors are read, "
            f"never pickles. Save the model there with `model.save_pretrained(folder)`."
        )
    check_weights(folder, setting)
    if not has_template(folder, setting):
        raise Mistake(
            f"`{setting}` is {str(folder)!r}, whose tokenizer has no chat template, so there is no way to ask it "
            f"anything as a chat. Give a chat (instruct) model, or set `tokenizer.chat_template` and save it."
        )


def check_weights(folder: Path, setting: str = "model") -> None:
    """Refuse config or index files that name weights outside of the folder, which transformers would read."""
    named = {"config.json": [read_object(folder / "config.json", setting).get("transformers_weights")]}
    for index in sorted(folder.glob(f"*{SAFETENSORS}.index*.json")):
        map_of_weights = read_object(index, setting).get("weight_map")
        named[index.name] = list(map_of_weights.values()) if isinstance(map_of_weights, dict) else [map_of_weights]
    for source, names in named.items():
        for name in names:
            if not _is_weights(name) and not (name is None and source == "config.json"):
                raise Mistake(
                    f"`{setting}` is {str(folder)!r}, whose {source} names {name!r} for weights: only {SAFETENSORS} "
                    "files in the folder itself are read. Save the model again with `model.save_pretrained(folder)`."
                )


def _is_weights(name: Any) -> bool:
    return isinstance(name, str) and bool(re.fullmatch(r"[\w.,=+-]+\.safetensors(\.index\.json)?", name))


def has_template(folder: Path, setting: str = "model") -> bool:
    """Whether the tokenizer saved in the folder brings a chat template."""
    if (folder / "chat_template.jinja").is_file() or (folder / "chat_template.json").is_file():
        return True
    config = folder / "tokenizer_config.json"
    return config.is_file() and bool(read_object(config, setting).get("chat_template"))


def is_adapter(folder: Path) -> bool:
    """Whether the folder holds a PEFT adapter."""
    return (folder / ADAPTER_CONFIG).is_file()


def read_object(path: Path, setting: str = "model") -> dict[str, Any]:
    """The object in a JSON file of a model's folder.

    Raises:
        Mistake: The file holds none; `setting` named the folder.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise Mistake(
            f"`{setting}` is {str(path.parent)!r}, whose {path.name} cannot be read: {reason}. Save or download it "
            "again."
        ) from error
    if not isinstance(content, dict):
        raise Mistake(
            f"`{setting}` is {str(path.parent)!r}, whose {path.name} must hold a JSON object. Save or download it "
            "again."
        )
    return content


def adapter_base(folder: Path, setting: str = "model") -> str:
    """The URI of the model that an adapter was trained on.

    Raises:
        Mistake: The adapter's config names none, or a path with `..`; `setting` named the folder.
    """
    base = read_object(folder / ADAPTER_CONFIG, setting).get(ADAPTER_BASE)
    if not base or not isinstance(base, str):
        raise Mistake(
            f"`{setting}` is the adapter {str(folder)!r}, whose {ADAPTER_CONFIG} names no base model. "
            f"Write the base's URI there as `{ADAPTER_BASE}`."
        )
    if ".." in re.split(r"[/\\]", base):
        raise Mistake(
            f"`{setting}` is the adapter {str(folder)!r}, whose {ADAPTER_CONFIG} names the base {base!r}: with `..` "
            f"it may lead anywhere. Write the base's whole path, or another URI, there as `{ADAPTER_BASE}`."
        )
    return base


def point_adapter_at(folder: Path, base_uri: str) -> None:
    """Write the base's URI into an adapter's config, where PEFT wrote a folder that other machines do not have.

    A local path with `..` is made absolute, as it would lead elsewhere from another working folder.
    """
    if is_adapter(folder):
        local = Path(base_uri).expanduser()
        whole = str(local.resolve()) if ".." in local.parts and local.is_dir() else base_uri
        text = json.dumps({**read_object(folder / ADAPTER_CONFIG), ADAPTER_BASE: whole}, indent=2, sort_keys=True)
        draft = folder / "adapter_config.draft"  # Renamed, so that a kill leaves no half of the file.
        draft.write_text(text, encoding="utf-8")
        draft.replace(folder / ADAPTER_CONFIG)
