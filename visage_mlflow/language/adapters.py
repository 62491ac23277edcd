"""PEFT adapters' folders: which they are, and the base model that they name."""

from __future__ import annotations

import json
from pathlib import Path

CONFIG = "adapter_config.json"
BASE = "base_model_name_or_path"


def is_adapter(folder: Path) -> bool:
    """Whether the folder holds a PEFT adapter."""
    return (folder / CONFIG).is_file()


def adapter_base(folder: Path, setting: str = "model") -> str:
    """The URI of the model that an adapter was trained on.

    Raises:
        ValueError: Its config names none.
    """
    base = json.loads((folder / CONFIG).read_text(encoding="utf-8")).get(BASE)
    if not base:
        raise ValueError(
            f"`{setting}` is the adapter {str(folder)!r}, whose {CONFIG} names no base model. "
            f"Write the base's URI there as `{BASE}`."
        )
    return str(base)


def point_adapter_at(folder: Path, base_uri: str) -> None:
    """Write the base's URI into an adapter's config: PEFT noted a folder, which other machines do not have."""
    if is_adapter(folder):
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        text = json.dumps({**config, BASE: base_uri}, indent=2, sort_keys=True)
        (folder / CONFIG).write_text(text, encoding="utf-8")
