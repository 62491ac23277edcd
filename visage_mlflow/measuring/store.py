"""Points already computed, on disk: one SQLite file that many runs, and many processes at once, read and add to."""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import sqlite3
import time
import zlib
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from visage_mlflow.measuring.database import Database
from visage_mlflow.text.folders import cache_folder

DAY = 86400.0
OFF = "off"

SCHEMA = """
CREATE TABLE IF NOT EXISTS points (
    key TEXT PRIMARY KEY, kind TEXT NOT NULL, model TEXT NOT NULL, created REAL NOT NULL, used REAL NOT NULL,
    digest TEXT NOT NULL, content BLOB NOT NULL
) WITHOUT ROWID
"""


def place(setting: str) -> Path | None:
    """The file that the setting `store` names; None for ``off``.

    Without a setting, ``VISAGE_STORE`` decides, and else it is ``points.db`` in the cache folder.
    """
    chosen = setting or os.environ.get("VISAGE_STORE", "")
    if chosen == OFF:
        return None
    return (Path(os.path.expanduser(chosen)) if chosen else cache_folder() / "points.db").absolute()


def open_store(setting: str) -> Store | None:
    """The store that the setting `store` names, made if missing; None for ``off``.

    Raises:
        ValueError: There can be no file, or it is not a store.
    """
    path = place(setting)
    return None if path is None else _opened(path, os.getpid())


@cache
def _opened(path: Path, process: int) -> Store:
    """One connection a process: SQLite's do not survive a fork."""
    store = Store(path)

    def close() -> None:
        if os.getpid() == process:
            store.close()  # What is in the log beside the file goes into it, so that the file may be copied.

    atexit.register(close)
    return store


@dataclass(frozen=True)
class Entry:
    """A kept point, as it is listed: times in seconds since 1970, the size in bytes."""

    key: str
    kind: str
    model: str
    created: float
    used: float
    size: int


class Store:
    """A file of points. Threads and processes may share it; a point is there as a whole or not at all.

    Args:
        path: The file, made if missing, its folder too.

    Raises:
        ValueError: There can be no such file, or it is another program's.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._database = Database(path, SCHEMA)

    def get(self, key: str) -> Any | None:
        """What was kept under a key, a SHA-256 of all that decides it; None if nothing was, or if it is damaged."""
        rows = self._database.rows("SELECT content, digest, used FROM points WHERE key = ?", key)
        if not rows:
            return None
        content, digest, used = rows[0]
        if not isinstance(content, bytes) or hashlib.sha256(content).hexdigest() != digest:
            return None  # A disk's error. It is computed and written again.
        # Not at each look, which would make readers wait for writers.
        if not isinstance(used, float) or time.time() - used > DAY:
            with suppress(ValueError):  # A disk that is full can still be read.
                self._database.rows("UPDATE points SET used = ? WHERE key = ?", time.time(), key)
        return json.loads(zlib.decompress(content))

    def put(self, key: str, content: Any, *, kind: str, model: str) -> None:
        """Keep plain JSON under a key, in place of what was there.

        Args:
            key: A SHA-256 of all that decides the content.
            content: What to keep.
            kind: What sort of content it is, for lists.
            model: URI that the model had, for lists.

        Raises:
            ValueError: The disk is full, or the file cannot be written any more.
        """
        packed = zlib.compress(json.dumps(content).encode())
        now = time.time()
        values = (key, kind, model, now, now, hashlib.sha256(packed).hexdigest(), packed)
        self._database.rows("INSERT OR REPLACE INTO points VALUES (?, ?, ?, ?, ?, ?, ?)", *values)

    def entries(self) -> list[Entry]:
        """All points, the longest unused first."""
        times = "coalesce(CAST(created AS REAL), 0), coalesce(CAST(used AS REAL), 0)"  # Damaged, no number.
        rows = self._database.rows(f"SELECT key, kind, model, {times}, length(content) FROM points ORDER BY 5, key")
        return [Entry(*row) for row in rows]

    def remove(self, keys: list[str]) -> None:
        """Forget points, and give their room back to the disk."""

        def forget(db: sqlite3.Connection) -> sqlite3.Cursor:
            db.execute("BEGIN IMMEDIATE")  # One write to the disk, not one for each point.
            try:
                db.executemany("DELETE FROM points WHERE key = ?", [(key,) for key in keys])
            except BaseException:
                db.rollback()
                raise
            db.commit()
            db.execute("VACUUM")
            return db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

        self._database.do(forget)

    def size(self) -> int:
        """Bytes on disk."""
        return self._database.size()

    def close(self) -> None:
        """Close the file."""
        self._database.close()
