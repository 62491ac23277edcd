"""What the folder of a model must be before anything in it is loaded: whole, without pickles, and closed in itself."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from visage_mlflow.language.adapters import is_adapter, read_object
from visage_mlflow.text.errors import Mistake

SAFETENSORS = ".safetensors"


def exists(path: str) -> bool:
    """Whether there is such a file or folder; a text that can be no path is none.

    >>> exists("a" * 5000)
    False
    """
    try:
        return Path(path).expanduser().exists()
    except (OSError, RuntimeError, ValueError):  # Too long, the home of nobody, a zero byte.
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
    """Refuse files that were fetched and hold a symbolic link that leads out of their folder."""
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
    """Refuse weights that are said to be elsewhere than in safetensors of the folder: transformers would read them."""
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
