"""Folders of models and adapters, checked before anything in them is loaded.

A folder must be complete, hold weights as safetensors and never as pickles, and name no file outside of itself.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from visage_mlflow.text.errors import Mistake, one_line
from visage_mlflow.text.folders import caller_folder, place_of

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_BASE = "base_model_name_or_path"
USUAL = (
    "adapters", "checkpoints", "ckpt", "data", "experiments", "model", "models", "out", "output", "outputs", "results",
    "runs", "saved", "tmp", "weights",
)  # fmt: skip
"""Folders in which models are kept; no organisation of the hub is meant by these."""


def exists(path: str) -> bool:
    """Whether there is such a file or folder; False for a text that cannot be a path.

    >>> exists("a" * 5000)
    False
    """
    try:
        return place_of(path).exists()
    except (OSError, ValueError):  # Too long, a zero byte.
        return False


def is_path(text: str) -> bool:
    """Whether a text that leads to no file or folder was meant as a path, and not as a hub id (`org/name`).

    >>> is_path("./aligned"), is_path("models/aligned"), is_path("C:\\\\aligned"), is_path("org/name")
    (True, True, True, False)
    """
    parts = text.split("/")
    if text.startswith((".", "/", "~")) or text.endswith("/") or "\\" in text:
        return True
    return ":" not in text and (len(parts) > 2 or (len(parts) == 2 and (parts[0] in USUAL or exists(parts[0]))))


def counted_from(path: str) -> str:
    """For a message on a path that leads nowhere: what it counts from, if it is relative."""
    return "" if path.startswith(("/", "~")) else f" (relative paths count from {str(caller_folder())!r})"


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
    for path in folder.rglob("*"):
        if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
            raise Mistake(
                f"`{setting}` is {uri!r}, in which {path.name!r} is a link to a file outside of it. Log the model "
                "again with the file itself."
            )


def check_folder(folder: Path, setting: str = "model") -> None:
    """Refuse a folder that is no model or adapter in safetensors, or that names weights outside of itself."""
    if not folder.is_dir():
        raise Mistake(f"`{setting}` must be a folder, got the file {str(folder)!r}. Give the folder around it.")
    needed = ["adapter_model.safetensors"] if is_adapter(folder) else ["config.json", "*.safetensors"]
    if not all(any(folder.glob(name)) for name in needed):
        lacking = [name for name in needed if not any(folder.glob(name))]
        others = sorted({path.suffix for path in folder.iterdir()} & {".bin", ".gguf", ".pt", ".pth"})
        has = f" and has {', '.join(others)}" if others else ""
        raise Mistake(
            f"`{setting}` is {str(folder)!r}, which lacks {' and '.join(lacking)}{has}: only safetensors are read, "
            "never pickles or GGUF. Save the model there with `model.save_pretrained(folder)`."
        )
    if not is_adapter(folder):
        check_weights(folder, setting)


def check_weights(folder: Path, setting: str) -> None:
    """Refuse config or index files that name weights outside of the folder, which transformers would read."""
    own = read_object(folder / "config.json", setting).get("transformers_weights")
    named = [] if own is None else [("config.json", own)]
    for index in sorted(folder.glob("*.safetensors.index*.json")):
        weights = read_object(index, setting).get("weight_map")
        named += [(index.name, name) for name in (weights.values() if isinstance(weights, dict) else [weights])]
    for source, name in named:
        if not (isinstance(name, str) and re.fullmatch(r"[\w.,=+-]+\.safetensors(\.index\.json)?", name)):
            raise Mistake(
                f"`{setting}` is {str(folder)!r}, whose {source} names {name!r} for weights: only .safetensors files "
                "in the folder itself are read. Save the model again with `model.save_pretrained(folder)`."
            )


def is_adapter(folder: Path) -> bool:
    """Whether the folder holds a PEFT adapter."""
    return (folder / ADAPTER_CONFIG).is_file()


def read_object(path: Path, setting: str = "model") -> dict[str, Any]:
    """The object in a JSON file of the folder that `setting` names; Mistake where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("It must hold a JSON object.")
        return content
    except (OSError, ValueError, RecursionError) as error:
        raise Mistake(
            f"`{setting}` is {str(path.parent)!r}, whose {path.name} cannot be read: {one_line(error)} Save or "
            "download it again."
        ) from error


def adapter_base(folder: Path, setting: str = "model") -> str:
    """The URI of the model that an adapter was trained on; Mistake where there is none, or it has `..` in it."""
    base = read_object(folder / ADAPTER_CONFIG, setting).get(ADAPTER_BASE)
    if not base or not isinstance(base, str):
        problem = "names no base model"
    elif ".." in re.split(r"[/\\]", base):
        problem = f"names the base {base!r}: with `..` it may lead anywhere"
    else:
        return base
    raise Mistake(
        f"`{setting}` is the adapter {str(folder)!r}, whose {ADAPTER_CONFIG} {problem}. Give the base as "
        f"`base=<URI>`, or write its whole path, or another URI, there as `{ADAPTER_BASE}`."
    )


def point_adapter_at(folder: Path, base_uri: str) -> None:
    """Write the base's URI into an adapter's config, where PEFT wrote a folder that other machines do not have.

    A relative path is made absolute, as it would lead elsewhere from another working folder.
    """
    if is_adapter(folder):
        is_relative = exists(base_uri) and not Path(base_uri).is_absolute()
        whole = str(place_of(base_uri).resolve()) if is_relative else base_uri
        text = json.dumps({**read_object(folder / ADAPTER_CONFIG), ADAPTER_BASE: whole}, indent=2, sort_keys=True)
        (folder / ADAPTER_CONFIG).write_text(text, encoding="utf-8")
