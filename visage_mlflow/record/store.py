"""Points already computed, on disk: one SQLite file that many runs, and many processes at once, read and add to."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock

from visage_mlflow.folders import cache_folder

APPLICATION = 0x56495341
"""Written into the file's header, so that no other program's database is taken for a store."""
HEADER = b"SQLite format 3\0"
APPLICATION_AT = 68
"""Where in the header SQLite keeps the application's number, as 4 bytes."""
PATIENCE = 60.0
"""Seconds to wait for another process that writes."""
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
    return (Path(chosen).expanduser() if chosen else cache_folder() / "points.db").absolute()


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
    return Store(path)


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

    A file of ours that is damaged is set aside, with a line on stderr, and a new one is begun.

    Args:
        path: The file, made if missing, its folder too.

    Raises:
        ValueError: There can be no such file, or it is another program's.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._check_owner()
            with self._alone():
                self._connection = self._connect()
        except (OSError, sqlite3.Error) as error:
            raise ValueError(
                f"`store` is {str(path)!r}, where no file can be read and written: {_reason(error)}. Choose another "
                "file (VISAGE_STORE names the default one), or store=off, which keeps nothing."
            ) from error

    def get(self, key: str) -> Any | None:
        """What was kept under a key, a SHA-256 of all that decides it; None if nothing was, or if it is damaged."""
        rows = self._do(lambda db: db.execute("SELECT content, digest, used FROM points WHERE key = ?", (key,)))
        if not rows:
            return None
        content, digest, used = rows[0]
        if hashlib.sha256(content).hexdigest() != digest:
            return None  # A disk's error. It is computed and written again.
        if time.time() - used > DAY:  # Not at each look, which would make readers wait for writers.
            self._do(lambda db: db.execute("UPDATE points SET used = ? WHERE key = ?", (time.time(), key)))
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
        packed = zlib.compress(json.dumps(content, ensure_ascii=False).encode())
        now = time.time()
        values = (key, kind, model, now, now, hashlib.sha256(packed).hexdigest(), packed)
        self._do(lambda db: db.execute("INSERT OR REPLACE INTO points VALUES (?, ?, ?, ?, ?, ?, ?)", values))

    def entries(self) -> list[Entry]:
        """All points, the longest unused first."""
        names = "key, kind, model, created, used, length(content)"
        return [
            Entry(*row) for row in self._do(lambda db: db.execute(f"SELECT {names} FROM points ORDER BY used, key"))
        ]

    def remove(self, keys: list[str]) -> None:
        """Forget points, and give their room back to the disk."""

        def forget(db: sqlite3.Connection) -> sqlite3.Cursor:
            db.executemany("DELETE FROM points WHERE key = ?", [(key,) for key in keys])
            db.execute("VACUUM")
            return db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

        self._do(forget)

    def size(self) -> int:
        """Bytes on disk."""
        return sum(path.stat().st_size for path in self._files() if path.exists())

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def _files(self) -> list[Path]:
        return [self.path.with_name(self.path.name + end) for end in ("", "-wal", "-shm")]

    def _check_owner(self) -> None:
        """Refuse a file that is there and is not ours. One too short to tell, but begun so, counts as cut off."""
        start = self.path.open("rb").read(APPLICATION_AT + 4) if self.path.exists() else b""
        number = int.from_bytes(start[APPLICATION_AT:], "big")
        whole = len(start) == APPLICATION_AT + 4
        # Another process may just be making it: SQLite writes the first page before it has the number.
        if not HEADER.startswith(start[: len(HEADER)]) or (whole and number not in (0, APPLICATION)):
            raise ValueError(
                f"`store` is {str(self.path)!r}, which is no store of points but another program's file. Name another "
                "file, which will be made."
            )

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Inside, no other process opens the file or sets it aside."""
        with FileLock(f"{self.path}.lock", timeout=PATIENCE):
            yield

    def _connect(self) -> sqlite3.Connection:
        """Open the file; one that is damaged is set aside before. Only inside `_alone`."""
        try:
            return self._open()
        except sqlite3.OperationalError:
            raise  # Locked, full or not writable, which is no damage.
        except sqlite3.DatabaseError as error:
            aside = self.path.with_name(f"{self.path.name}.damaged-{time.strftime('%Y%m%dT%H%M%S')}")
            print(
                f"`store` {str(self.path)!r} is damaged ({_reason(error)}): kept as {aside.name}; a new one is begun, "
                "so its points are computed again.",
                file=sys.stderr,
            )
            self.path.replace(aside)
            for path in self._files()[1:]:
                path.unlink(missing_ok=True)
            return self._open()

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=PATIENCE, isolation_level=None, check_same_thread=False)
        try:
            if connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
                raise sqlite3.DatabaseError("its pages do not fit together")
            number = connection.execute("PRAGMA application_id").fetchone()[0]
            if number != APPLICATION:
                if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                    raise ValueError(
                        f"`store` is {str(self.path)!r}, which is no store of points but another program's database. "
                        "Name another file, which will be made."
                    )
                connection.execute(f"PRAGMA application_id = {APPLICATION}")
            connection.execute("PRAGMA journal_mode = WAL")  # Readers and one writer do not wait for each other.
            connection.execute("PRAGMA synchronous = FULL")  # A point that took minutes survives a power cut, too.
            connection.execute(SCHEMA)
        except BaseException:
            connection.close()
            raise
        return connection

    def _do(self, work: Callable[[sqlite3.Connection], sqlite3.Cursor]) -> list[Any]:
        """Rows of a statement; where the file turns out to be damaged, of the same one in a new file."""
        with self._lock:
            try:
                return work(self._connection).fetchall()
            except sqlite3.OperationalError as error:
                raise ValueError(
                    f"`store` is {str(self.path)!r}, which cannot be used any more: {_reason(error)}. Free some space "
                    "if the disk is full; the same command then goes on where it was. store=off keeps nothing."
                ) from error
            except sqlite3.DatabaseError:
                self._connection.close()
                with self._alone():
                    self._connection = self._connect()
                return work(self._connection).fetchall()


def _reason(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__).rstrip(".")
