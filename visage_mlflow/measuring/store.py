"""Points already computed, on disk: a folder with one checksummed file for each, which many processes share.

A file is written beside its place and renamed into it, so it is there whole or not at all; one that a disk damaged
does not fit its checksum, and its point is computed again. No file is ever changed, so nothing needs a lock.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
import time
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visage_mlflow.text.errors import Mistake
from visage_mlflow.text.folders import cache_folder, place_of
from visage_mlflow.text.printing import tell

DAY = 86400.0
OFF = "off"
LABEL = "visage_points.txt"
"""The file that marks a folder as a store."""
ABOUT = (
    "Points that visage_mlflow computed, one file each, named by a hash of all that decides it: see `visage store`.\n"
)
CHECKSUM_BYTES = 32


@dataclass(frozen=True)
class Entry:
    """A kept point, as it is listed: Unix time of its last use, size in bytes."""

    key: str
    kind: str
    model: str
    used: float
    size: int


def store_folder(setting: str) -> Path | None:
    """The folder that the setting `store` names; None for ``off``.

    Without a setting, ``VISAGE_STORE`` decides, and else it is ``points`` in the cache folder.
    """
    chosen = setting or os.environ.get("VISAGE_STORE", "")
    if chosen == OFF:
        return None
    return (place_of(chosen) if chosen else cache_folder() / "points").absolute()


def open_store(setting: str) -> Store | None:
    """The store that the setting `store` names, made if missing; None for ``off``.

    Raises:
        Mistake: There can be no such folder, or it holds something else.
    """
    folder = store_folder(setting)
    return None if folder is None else Store(folder)


class Store:
    """A folder of points.

    Args:
        folder: Made if missing.

    Raises:
        Mistake: There can be no such folder, or it holds something else.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not os.path.exists(folder / LABEL):
            self._make()

    def get(self, key: str) -> Any | None:
        """What was kept under a key, a SHA-256 of all that decides it; None if nothing was, or if it is damaged."""
        path = self._path(key)
        try:
            content = _unpacked(path.read_bytes())
            if time.time() - path.stat().st_mtime > DAY:
                os.utime(path)  # When it was last used, to a day.
        except OSError:
            return None  # A store that cannot be written any more can still be read.
        return None if content is None else content["content"]

    def put(self, key: str, content: Any, *, kind: str, model: str) -> None:
        """Keep plain JSON under a key, in place of what was there.

        Args:
            key: A SHA-256 of all that decides the content.
            content: What to keep.
            kind: What sort of content it is, for lists.
            model: URI that the model had, for lists.

        Raises:
            Mistake: The disk is full, or the folder cannot be written any more.
        """
        body = zlib.compress(json.dumps({"kind": kind, "model": model, "content": content}).encode())
        try:
            _write_whole(self._path(key), hashlib.sha256(body).digest() + body)
        except OSError as error:
            raise Mistake(
                f"`store` is {str(self.folder)!r}, which cannot be used any more: {error.strerror or error}. Free "
                "some space if the disk is full; the same command then goes on where it was. store=off keeps nothing."
            ) from error

    def entries(self) -> list[Entry]:
        """All points, the longest unused first; damaged ones are of the kind and model "damaged"."""
        return sorted(self._entries(), key=lambda entry: (entry.used, entry.key))

    def remove(self, keys: Iterable[str]) -> None:
        """Forget points, and what killed processes left of points that they were writing."""
        for path in self.folder.glob("??/.*.part"):
            if time.time() - path.stat().st_mtime > DAY:
                path.unlink(missing_ok=True)
        for key in keys:
            self._path(key).unlink(missing_ok=True)

    def _entries(self) -> Iterator[Entry]:
        for path in self.folder.glob("??/" + "?" * 64):
            try:
                about, data = path.stat(), path.read_bytes()
            except FileNotFoundError:
                continue  # Another process has just forgotten it.
            content = _unpacked(data) or {"kind": "damaged", "model": "damaged"}
            yield Entry(path.name, content["kind"], content["model"], about.st_mtime, about.st_size)

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / key

    def _make(self) -> None:
        """Label an empty folder as a store."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            others = sorted(path.name for path in self.folder.iterdir() if path.name != LABEL)
            if not others:
                (self.folder / LABEL).write_text(ABOUT, encoding="utf-8")
        except FileExistsError:
            raise Mistake(
                f"`store` is {str(self.folder)!r}, which is a file, not a folder of points; earlier versions kept "
                "points in a file, which this one does not read. Name another place, which will be made."
            ) from None
        except (OSError, ValueError) as error:
            raise Mistake(
                f"`store` is {str(self.folder)!r}, where no file can be written: "
                f"{getattr(error, 'strerror', None) or error}. Choose another folder (VISAGE_STORE names the default "
                "one), or store=off, which keeps nothing."
            ) from error
        if not os.path.exists(self.folder / LABEL):  # Else another process has just made it.
            raise Mistake(
                f"`store` is {str(self.folder)!r}, which holds other things than points ({others[0]}). Name another "
                "folder, which will be made."
            )
        if (earlier := self.folder.with_name("points.db")).is_file():
            tell(f"{earlier} holds points of an earlier version, which are not read: delete it.", sys.stderr)


def _unpacked(data: bytes) -> dict[str, Any] | None:
    """What a file holds; None if it is not what was written."""
    checksum, body = data[:CHECKSUM_BYTES], data[CHECKSUM_BYTES:]
    if hashlib.sha256(body).digest() != checksum:
        return None
    content: dict[str, Any] = json.loads(zlib.decompress(body))
    return content


def _write_whole(path: Path, data: bytes) -> None:
    """Write a file that is there whole or not at all, also after a power cut."""
    path.parent.mkdir(exist_ok=True)
    handle, part = tempfile.mkstemp(prefix=".", suffix=".part", dir=path.parent)
    try:
        with open(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
