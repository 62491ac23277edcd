"""PEFT adapters' folders: which they are, and the base model that they name."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from visage_mlflow.text.errors import Mistake

CONFIG = "adapter_config.json"
BASE = "base_model_name_or_path"
MOST_ADAPTERS = 8
"""How many may stand on top of each other."""


def is_adapter(folder: Path) -> bool:
    """Whether the folder holds a PEFT adapter."""
    return (folder / CONFIG).is_file()


def read_object(path: Path, setting: str = "model") -> dict[str, Any]:
    """The object in a JSON file of a model's folder.

    Raises:
        ValueError: It holds none; `setting` named the folder.
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


def adapter_base(folder: Path, setting: str = "model", depth: int = 0) -> str:
    """The URI of the model that an adapter was trained on.

    Args:
        folder: The adapter's.
        setting: Its name in error messages.
        depth: How many adapters stand on top of this one.

    Raises:
        ValueError: Its config names none, or a way up that leads elsewhere from each working folder, or the adapters
            name each other.
    """
    base = read_object(folder / CONFIG, setting).get(BASE)
    if not base or not isinstance(base, str):
        raise Mistake(
            f"`{setting}` is the adapter {str(folder)!r}, whose {CONFIG} names no base model. "
            f"Write the base's URI there as `{BASE}`."
        )
    if ".." in re.split(r"[/\\]", base):
        raise Mistake(
            f"`{setting}` is the adapter {str(folder)!r}, whose {CONFIG} names the base {base!r}: with `..` it may "
            f"lead anywhere. Write the base's whole path, or another URI, there as `{BASE}`."
        )
    if depth >= MOST_ADAPTERS:
        raise Mistake(
            f"`{setting}` is an adapter on more than {MOST_ADAPTERS} others, {str(folder)!r} among them: they may "
            f"name each other as their base. Write the right `{BASE}` into its {CONFIG}."
        )
    return base


def point_adapter_at(folder: Path, base_uri: str) -> None:
    """Write the base's URI into an adapter's config: PEFT noted a folder, which other machines do not have.

    The path of a local folder is written whole, as it would lead elsewhere from another working folder.
    """
    if is_adapter(folder):
        local = Path(base_uri).expanduser()
        whole = str(local.resolve()) if ".." in local.parts and local.is_dir() else base_uri
        config = read_object(folder / CONFIG)
        text = json.dumps({**config, BASE: whole}, indent=2, sort_keys=True)
        (folder / CONFIG).write_text(text, encoding="utf-8")
