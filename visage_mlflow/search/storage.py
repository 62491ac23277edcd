"""Where Optuna studies are kept: a file of its journal, or a PostgreSQL database."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from urllib.parse import urlsplit

import optuna
from optuna.storages import BaseStorage
from optuna.storages.journal import JournalFileSymlinkLock

from visage_mlflow.search.heartbeats import BEATS, Database, Journal, Stale
from visage_mlflow.search.sampler import quietly
from visage_mlflow.text.errors import Mistake, one_line
from visage_mlflow.text.printing import masked

TRIES = 5
"""How often, a second apart, a database is opened in which another process makes the tables."""


def open_storage(place: str, *, heartbeat: int, on_stale: Stale, tracking_uri: str = "") -> BaseStorage:
    """Open a file of Optuna's journal, made if missing, or a PostgreSQL database.

    Args:
        place: A path or a URL.
        heartbeat: Seconds between a trial's signs of life.
        on_stale: Told of each dead trial, once, by the process that found it.
        tracking_uri: MLflow's own store, which must be another one.

    Raises:
        ValueError: The place cannot be reached, holds something else, or is MLflow's.
    """
    if "://" not in place:
        return _open_journal(place, heartbeat, on_stale)
    shown = without_password(place)
    if not re.match(r"postgresql(\+psycopg)?://", place):
        raise Mistake(
            f"`storage` must be a file or postgresql://user@host/database, got {shown!r}. For one machine, use a file."
        )
    url = re.sub(r"^postgresql://", "postgresql+psycopg://", place)
    if _database(url) == _database(tracking_uri):
        raise Mistake(f"`storage` is {shown!r}, which is MLflow's own database. Make another one for studies.")
    try:
        return _open_database(url, heartbeat, on_stale, TRIES)
    except Exception as error:  # Optuna, SQLAlchemy and the driver each raise their own types.
        reason = re.split(r" \[SQL:| \(Background on", one_line(error).replace(url, shown))[0]
        raise Mistake(
            f"`storage` is {shown!r}, which cannot be used: {reason} Check that the server runs, the database is "
            f"there, and the name and password (PGPASSWORD) are right."
        ) from error


def without_password(url: str) -> str:
    """A URL as it may be shown and logged.

    >>> without_password("postgresql://ann:secret@host/studies")
    'postgresql://ann:***@host/studies'
    """
    return masked(url)


def _open_database(url: str, heartbeat: int, on_stale: Stale, tries: int) -> Database:
    try:
        with quietly():
            return Database(
                url,
                heartbeat_interval=heartbeat,
                grace_period=BEATS * heartbeat,
                heartbeat_stale_trial_callback=on_stale,
            )
    except Exception as error:
        # Of several processes that find an empty database at once, one makes the tables, and the others fail.
        if tries == 1 or "already exists" not in str(error):
            raise
    time.sleep(1)
    return _open_database(url, heartbeat, on_stale, tries - 1)


def _open_journal(place: str, heartbeat: int, on_stale: Stale) -> Journal:
    path = Path(place).expanduser()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            _check_journal(path, place)
        return Journal(str(path), heartbeat, on_stale)
    except OSError as error:
        raise Mistake(
            f"`storage` is {place!r}, where no file can be read and written: {error.strerror}. Choose another place."
        ) from error
    except (KeyError, TypeError, AttributeError, AssertionError, RuntimeError) as error:
        raise Mistake(
            f"`storage` is {place!r}, which Optuna {optuna.__version__} cannot read ({one_line(error)}). Another "
            "version may have written it: name another file."
        ) from error


def _check_journal(path: Path, place: str) -> None:
    """Raise ValueError for a file that is no whole journal; Optuna would write on behind a line that was cut off."""
    lock = JournalFileSymlinkLock(str(path))
    lock.acquire()
    try:
        *whole, rest = path.read_bytes().split(b"\n")
    finally:
        lock.release()
    for number, line in enumerate(whole, start=1):
        if not _is_entry(line):
            raise Mistake(
                f"`storage` is {place!r}, whose line {number} is no entry of an Optuna journal. Name another file."
            )
    if rest and (whole or rest.startswith(b'{"op_code"')):
        raise Mistake(
            f"`storage` is {place!r}, whose last line, {len(whole) + 1}, is cut off. Delete that line to go on with "
            "what stands before it, or name another file."
        )
    if rest:
        raise Mistake(f"`storage` is {place!r}, whose line 1 is no entry of an Optuna journal. Name another file.")


def _is_entry(line: bytes) -> bool:
    try:
        entry = json.loads(line)
    except ValueError:
        return False
    return isinstance(entry, dict) and "op_code" in entry


def _database(url: str) -> tuple[object, ...]:
    """What two URLs of one database have in common."""
    parts = urlsplit(url)
    try:
        return (parts.scheme.partition("+")[0], parts.hostname or "localhost", parts.port or 5432, parts.path)
    except ValueError:  # The port is no number.
        return (url,)
