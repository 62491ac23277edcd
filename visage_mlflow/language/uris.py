"""What a model URI leads to: adapters and the model below them, in folders here or on the hub. Only this file reads
model URIs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from huggingface_hub import snapshot_download
from transformers.utils.hub import cached_file
from transformers.utils.peft_utils import find_adapter_config_file

from visage_mlflow.language import adapters, builtin, folders, stored
from visage_mlflow.text.errors import Mistake, is_out_of_memory
from visage_mlflow.text.folders import place_of
from visage_mlflow.text.names import check_decodable

Fetch = Callable[[str], Path]
"""Downloads the files behind a ``runs:/`` or ``models:/`` URI and returns their local folder; the Mistake of one that
is not there begins with "which" (`tracking` has such a function)."""

BUILTIN = {"builtin:smollm2": builtin.smollm2}
TRACKED = ("runs:/", "models:/")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
OTHER_KIND = re.compile(r"Unrecognized configuration class <class '[\w.]*?(\w+)Config'>")
"""How transformers says that a model is no language model, or one with more than text."""
NO_ADAPTER = ["*/*", "*.bin", "*.pt", "*.pth"]
"""Files beside an adapter on the hub that are none of it: checkpoints of its training, and pickles."""
MOST_ADAPTERS = 8
"""How many adapters may stand on top of each other."""
FORMS = "a hub id (`org/name`), a folder, `runs:/<run id>/<path>`, `models:/<name>@<alias>` or `builtin:smollm2`"


def check_uri(uri: str, setting: str = "model") -> None:
    """Refuse, without loading anything, a URI that cannot be a chat model.

    Raises:
        Mistake: The form is unknown, or leads out of a run, or the folder is missing or holds no safetensors.
    """
    check_decodable(f"`{setting}`", uri)
    if uri in BUILTIN:
        return
    if uri.startswith(TRACKED):
        folders.check_tracked(uri, setting)
        return
    if uri and folders.exists(uri):  # The empty path is the working folder; that is never meant.
        check_folder(place_of(uri), setting)
    elif uri and folders.is_path(uri):
        raise Mistake(
            f"`{setting}` is {uri!r}, a folder that does not exist{folders.counted_from(uri)}. Check the spelling: it "
            f"must be {FORMS}."
        )
    elif not HUB_ID.fullmatch(uri) or uri.startswith(".") or ".." in uri:
        raise Mistake(f"`{setting}` must be {FORMS}, got {uri!r}, which is none of these. Check the spelling.")


def check_folder(folder: Path, setting: str = "model") -> None:
    """Refuse a folder that is no model, or an adapter that cannot be merged, by what its files say of themselves."""
    folders.check_folder(folder, setting)
    if folders.is_adapter(folder):
        adapters.check_adapter(folder, setting)
    else:
        stored.check_stored(folder, setting)


def locate(uri: str, fetch: Fetch | None = None, setting: str = "model") -> str:
    """The local folder, or the hub id, behind a model URI."""
    check_uri(uri, setting)
    if uri in BUILTIN:
        return str(BUILTIN[uri]())
    if uri.startswith(TRACKED):
        if fetch is None:
            raise Mistake(f"`{setting}` is {uri!r}: pass a `fetch` that downloads it, such as that of `tracking`.")
        try:
            folder = fetch(uri)
        except Mistake as mistake:
            if not str(mistake).startswith(("which", "whose")):  # It is of the server, whatever is asked for.
                raise
            raise Mistake(f"`{setting}` is {uri!r}, {mistake}") from mistake
        check_folder(folder, setting)
        folders.check_links(folder, uri, setting)
        return str(folder)
    if folders.exists(uri):
        return str(place_of(uri))
    with loading(uri, setting):
        adapter = _hub_adapter(uri)
    if adapter:
        check_folder(Path(adapter), setting)
    return adapter or uri


@cache  # Where the hub is away, each question takes half a minute.
def _hub_adapter(uri: str) -> str:
    """The folder of an adapter that the hub has, brought here; empty where what it has is no adapter."""
    if not find_adapter_config_file(uri):
        cached_file(uri, "config.json")  # Raises where there is no such model, or no way to the hub.
        return ""
    return snapshot_download(uri, ignore_patterns=NO_ADAPTER)


def adapters_and_base(
    uri: str, fetch: Fetch | None = None, setting: str = "model", base: str = ""
) -> tuple[list[Path], str, str]:
    """What a URI leads to when each adapter is followed to its base.

    Args:
        uri: Of a model or an adapter.
        fetch: Brings tracked models into a local folder.
        setting: What named the URI.
        base: The URI that adapters stand on in place of the one that they name, such as a folder that was moved;
            an adapter that is named as a base, and is there, is followed first.

    Returns:
        The folders of the adapters, the topmost first; the URI of the model below them; and its folder or hub id.

    Raises:
        Mistake: A URI leads to no model or adapter, more than `MOST_ADAPTERS` adapters stand on each other, or one
            does not fit the model below it.
    """
    if base:
        check_uri(base, "base")  # Be it used or not: one of several models may be no adapter.
    found: list[Path] = []
    place = locate(uri, fetch, setting)
    while folders.is_adapter(folder := Path(place)):
        if len(found) == MOST_ADAPTERS:
            raise Mistake(
                f"`{setting}` is an adapter on more than {MOST_ADAPTERS} others: they may name each other as their "
                f"base. Write the right `{folders.ADAPTER_BASE}` into {str(folder / folders.ADAPTER_CONFIG)!r}."
            )
        found.append(folder)
        if base and not _names_adapter(folder, fetch, setting):
            uri, base = base, ""
            place = locate(uri, fetch, "base")
        else:
            uri = folders.adapter_base(folder, setting)
            with naming_adapter(folder, setting):
                place = locate(uri, fetch, setting)
    if found and Path(place).is_dir():
        below = stored.shapes(stored.weight_files(Path(place), setting), setting)
        for folder in found:
            adapters.check_fits(folder, below, uri, setting)
    return found, uri, place


def _names_adapter(folder: Path, fetch: Fetch | None, setting: str) -> bool:
    """Whether what an adapter names as its base is an adapter that is there."""
    try:
        return folders.is_adapter(Path(locate(folders.adapter_base(folder, setting), fetch, setting)))
    except Mistake:
        return False


@contextmanager
def naming_adapter(folder: Path, setting: str) -> Iterator[None]:
    """Inside, a Mistake in the base of an adapter names the adapter, and the setting that replaces the base."""
    try:
        yield
    except Mistake as mistake:
        told = str(mistake).removeprefix(f"`{setting}` ")
        raise Mistake(
            f"`{setting}` is the adapter {str(folder)!r}, whose base {told} `base=<URI>` puts another in its place."
        ) from mistake


@contextmanager
def loading(uri: str, setting: str) -> Iterator[None]:
    """Inside, where a library cannot load what a URI leads to, Mistake gives its reason in one line."""
    try:
        with adapters.quietly():
            yield
    except Mistake:
        raise
    except Exception as error:  # Each library raises its own types for a damaged file.
        if is_out_of_memory(error):
            raise
        if kind := OTHER_KIND.search(str(error)):
            raise Mistake(
                f"`{setting}` is {uri!r}, of the kind {kind[1]}, which transformers does not load as a language "
                "model. Save its text model by itself (often `model.language_model` with the head), and give that."
            ) from error
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".:")
        nowhere = f"No folder has this name{folders.counted_from(uri)}"
        cure = f"{nowhere}. Check the network and the spelling: it must be {FORMS}"
        cure = "Save or download it again" if folders.exists(uri) else cure
        raise Mistake(f"`{setting}` is {uri!r}, which could not be loaded: {reason}. {cure}.") from error
