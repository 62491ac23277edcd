"""A SQLite file of this project's own, which many processes open; one that is damaged is set aside."""

from __future__ import annotations

import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

from filelock import FileLock

from visage_mlflow.text.errors import Mistake
from visage_mlflow.text.printing import tell

APPLICATION = 0x56495341
"""Written into the file's header, so that no other program's database is taken for a store."""
HEADER = b"SQLite format 3\0"
HEADER_LENGTH = 100
APPLICATION_AT = 68
"""Where in the header SQLite keeps the application's number, as 4 bytes."""
PATIENCE = 60.0
"""Seconds to wait for another process that writes."""


class Database:
    """A file of tables. Threads and processes may share it.

    A file of ours that is damaged is set aside, with a line on stderr, and a new one is begun. Damage shows where it
    is met: looking for it would read the whole file each time that one is opened.

    Args:
        path: The file, made if missing, its folder too.
        schema: A statement that makes the tables where they are missing.

    Raises:
        ValueError: There can be no such file, or it is another program's.
    """

    def __init__(self, path: Path, schema: str) -> None:
        self.path = path
        self.schema = schema
        self._lock = threading.RLock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._check_owner()  # Another program's file gets no lock beside it, either.
            with self._alone():
                self._connect()
        except (OSError, sqlite3.Error) as error:
            raise Mistake(
                f"`store` is {str(path)!r}, where no file can be read and written: {_reason(error)}. Choose another "
                "file (VISAGE_STORE names the default one), or store=off, which keeps nothing."
            ) from error

    def rows(self, statement: str, *values: Any) -> list[Any]:
        """What a statement finds; see `do`."""
        return self.do(lambda connection: connection.execute(statement, values))

    def do(self, work: Callable[[sqlite3.Connection], sqlite3.Cursor]) -> list[Any]:
        """What some statements find; where the file turns out to be damaged, what they find in a new one.

        Raises:
            ValueError: The disk is full, or the file cannot be written any more.
        """
        with self._lock:
            try:
                if self._inode_now() != self._inode:  # Another process set it aside, or somebody deleted it.
                    self._renew()
                try:
                    return work(self._connection).fetchall()
                except sqlite3.DatabaseError as error:
                    if not _is_damage(error):
                        raise
                    self._renew(error)
                return work(self._connection).fetchall()
            except (OSError, sqlite3.OperationalError) as error:
                raise Mistake(
                    f"`store` is {str(self.path)!r}, which cannot be used any more: {_reason(error)}. Free some space "
                    "if the disk is full; the same command then goes on where it was. store=off keeps nothing."
                ) from error

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
        """Refuse what is there and is not ours, without a change to it. A file too short to tell was cut off.

        Raises:
            ValueError: It is no file, no database, or another program's.
        """
        if not self.path.exists():
            return
        if self.path.is_file():
            with self.path.open("rb") as file:
                start = file.read(APPLICATION_AT + 4)
            number = int.from_bytes(start[APPLICATION_AT:], "big")
            if HEADER.startswith(start[: len(HEADER)]) and (
                len(start) < APPLICATION_AT + 4 or number == APPLICATION or (number == 0 and self._is_empty())
            ):
                return
        raise Mistake(
            f"`store` is {str(self.path)!r}, which is no store of points but something else. Name another file, which "
            "will be made."
        )

    def _is_empty(self) -> bool:
        """Whether there is a database without any table: any program's, so nobody loses by our taking it."""
        # Opened like this, nothing is mended or tidied up, as SQLite else does.
        with closing(sqlite3.connect(f"{self.path.as_uri()}?immutable=1", uri=True)) as connection:
            try:
                tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            except sqlite3.DatabaseError:
                return False
        return tables == 0 and not any(path.exists() for path in self._files()[1:])

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Inside, no other process opens the file or sets it aside."""
        lock = self.path.with_name(f"{self.path.name}.lock")
        lock.touch()  # Where it cannot be made, FileLock would go on trying.
        with FileLock(lock, timeout=PATIENCE):
            yield

    def _connect(self) -> None:
        """Open the file; one that is damaged is set aside before. Only inside `_alone`."""
        self._check_owner()
        if self._is_cut():
            self._set_aside("it was cut off")
        try:
            self._open()
        except sqlite3.DatabaseError as error:
            if not _is_damage(error):
                raise  # Locked, full or not writable.
            self._set_aside(_reason(error))
            self._open()

    def _is_cut(self) -> bool:
        """Whether the file is shorter than it says. SQLite would go on with it, and lose what is written then."""
        file, log = [path.stat().st_size if path.exists() else 0 for path in self._files()[:2]]
        if file == 0 or log:  # What the log holds may be the rest of the file.
            return False
        with self.path.open("rb") as opened:
            header = opened.read(HEADER_LENGTH)
        page = int.from_bytes(header[16:18], "big")
        return file < HEADER_LENGTH or file < int.from_bytes(header[28:32], "big") * (65536 if page == 1 else page)

    def _set_aside(self, reason: str) -> None:
        """Make room for a new file. Only inside `_alone`."""
        names = (self.path.with_name(f"{self.path.name}.damaged-{number}") for number in count(1))
        aside = next(path for path in names if not path.exists())
        tell(
            f"`store` {str(self.path)!r} is damaged ({reason}): kept as {aside.name}; a new one is begun, "
            "so its points are computed again.",
            sys.stderr,
        )
        # What was written last may still be in the second of the files, which goes by the name of the first.
        for path, name in zip(self._files(), ("", "-wal", "-shm"), strict=True):
            with suppress(FileNotFoundError):
                path.replace(aside.with_name(aside.name + name))

    def _open(self) -> None:
        connection = sqlite3.connect(self.path, timeout=PATIENCE, isolation_level=None, check_same_thread=False)
        connection.text_factory = _lenient
        try:
            if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION:
                connection.execute(f"PRAGMA application_id = {APPLICATION}")
            connection.execute("PRAGMA journal_mode = WAL")  # Readers and one writer do not wait for each other.
            connection.execute("PRAGMA synchronous = FULL")  # A point that took minutes survives a power cut, too.
            connection.execute(self.schema)
        except BaseException:
            connection.close()
            raise
        self._connection, self._inode = connection, self._inode_now()

    def _inode_now(self) -> int:
        """Which file has our name; 0 if none has."""
        try:
            return self.path.stat().st_ino
        except FileNotFoundError:
            return 0

    def _renew(self, damage: sqlite3.Error | None = None) -> None:
        """Go on with the file that has our name now; where it is still the one that is damaged, with a new one."""
        with self._alone():
            is_same = self._inode_now() == self._inode
            self._connection.close()
            if damage is not None and is_same:
                self._set_aside(_reason(damage))
            self._connect()


def _is_damage(error: sqlite3.Error) -> bool:
    code = getattr(error, "sqlite_errorcode", 0)  # Errors of Python's own have none.
    return code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _lenient(text: bytes) -> str:
    """Text of the file; what a damaged byte made no text of must not stop anybody."""
    return text.decode(errors="replace")


def _reason(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__).rstrip(".")
