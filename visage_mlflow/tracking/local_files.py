"""Stores in files of this machine: one process at a time makes the database, and an artifact is there whole or not."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit


@contextmanager
def alone(uri: str) -> Iterator[None]:
    """Inside, no other process that asks is in the same SQLite database's folder; other stores do not wait.

    MLflow makes a store's tables when it is first opened, and of several processes that do so at once, most fail. The
    lock is on the folder itself, so that no file is left over, and it goes with the process.
    """
    folder = _sqlite_folder(uri)
    handle = None
    try:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            handle = _locked(folder)
        yield
    finally:
        if handle is not None:
            os.close(handle)


def put(source: Path, folder: Path, name: str) -> None:
    """Copy a file into a run's artifact folder. It appears whole, or, where this process is killed, not at all."""
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    # Beside the folder, not in it: what a killed process leaves is nobody's artifact.
    part = folder.parent / f".{uuid.uuid4().hex}.part"
    try:
        shutil.copyfile(source, part)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _sqlite_folder(uri: str) -> Path | None:
    scheme, _, rest = uri.partition(":///")
    path = unquote(urlsplit(rest).path) if scheme.partition("+")[0] == "sqlite" else ""
    return Path(path).parent if path and not path.startswith(":memory:") else None


def _locked(folder: Path) -> int | None:
    """A handle on a folder whose lock this process holds; None where the system has no such locks."""
    try:
        import fcntl
    except ImportError:
        return None
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError:  # Some network file systems cannot lock a folder.
        pass
    return handle
