"""Where Optuna studies are kept: an SQLite file, or a PostgreSQL database."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import sqlalchemy
from optuna import Study
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial

from visage_mlflow.search.sampler import quietly
from visage_mlflow.text.errors import Mistake, one_line
from visage_mlflow.text.folders import place_of
from visage_mlflow.text.printing import masked

MISSED = 4
"""A trial is dead when as many signs of life in a row are missing."""
MOST_RETRIES = 2
"""How often a trial whose process died is tried again: what kills each process may be the trial."""
TRIES = 5
"""How often, a second apart, a database is opened in which another process makes the tables."""
PATIENCE = 60.0
"""Seconds to wait while other processes write to an SQLite file; each takes milliseconds."""


def open_storage(
    place: str, *, heartbeat: int, on_dead: Callable[[FrozenTrial], None], tracking_uri: str = ""
) -> RDBStorage:
    """Open an SQLite file, made if missing, or a PostgreSQL database. Trials whose process died are tried again.

    Args:
        place: A path or a URL.
        heartbeat: Seconds between a trial's signs of life.
        on_dead: Told of each trial whose process died, once, by the process that found it.
        tracking_uri: MLflow's own store, which must be another one.

    Raises:
        Mistake: The place cannot be reached, holds something else, or is MLflow's.
    """

    def retry(study: Study, dead: FrozenTrial) -> None:
        with quietly():
            RetryHeartbeatStaleTrialCallback(max_retry=MOST_RETRIES)(study, dead)
        on_dead(dead)

    shown, is_file = masked(place), "://" not in place
    if not is_file and not re.match(r"postgresql(\+psycopg)?://", place):
        raise Mistake(
            f"`storage` must be a file or postgresql://user@host/database, got {shown!r}. For one machine, use a file."
        )
    make = partial(
        RDBStorage, heartbeat_interval=heartbeat, grace_period=MISSED * heartbeat, heartbeat_stale_trial_callback=retry
    )
    try:
        if tracking_uri and _database(str(place_of(place)) if is_file else place) == _database(tracking_uri):
            raise Mistake(f"`storage` is {shown!r}, which is MLflow's own database. Choose another one for studies.")
        if is_file:
            return _open_file(place, make)
        return _open_database(make, re.sub(r"^postgresql://", "postgresql+psycopg://", place))
    except Mistake:
        raise
    except Exception as error:  # Optuna, SQLAlchemy and the drivers each raise their own types.
        reason = re.split(r" \[SQL:| \(Background on", one_line(error))[0]
        cure = (
            "Name another file, or put a whole copy in its place."
            if is_file
            else "Check that the server runs, the database is there, and the name and password (PGPASSWORD) are right."
        )
        raise Mistake(f"`storage` is {shown!r}, which cannot be used: {reason} {cure}") from error


def _open_file(place: str, make: Callable[..., RDBStorage]) -> RDBStorage:
    path = place_of(place)
    path.parent.mkdir(parents=True, exist_ok=True)

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(path, PATIENCE, isolation_level=None, check_same_thread=False)

    journal = path if path.exists() else path.with_suffix(".journal")
    if journal.is_file() and journal.open("rb").read(10) == b'{"op_code"':
        raise Mistake(
            f"`storage` is {place!r}, but the studies in {journal.name} were kept by an earlier version, as a "
            "journal. Copy them into an SQLite file as docs/search.md says, or move the journal away to begin anew."
        )
    if path.exists():
        with closing(connect()) as database:
            database.execute("BEGIN IMMEDIATE")
            (found,) = database.execute("PRAGMA quick_check(1)").fetchone()
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if found != "ok":
            raise sqlite3.DatabaseError(found)
        if tables and not tables & {"studies", "version_info"}:  # Those that Optuna makes first.
            raise Mistake(f"`storage` is {place!r}, which holds another program's tables. Name another file.")
    storage = _open_database(make, "sqlite://", creator=connect, poolclass=sqlalchemy.NullPool)
    # Optuna reads the state of a trial and then sets it. Other processes must not do so in between, so the lock to
    # write is taken first.
    sqlalchemy.event.listen(storage.engine, "begin", lambda opened: opened.exec_driver_sql("BEGIN IMMEDIATE"))
    return storage


def _open_database(make: Callable[..., RDBStorage], url: str, **engine: Any) -> RDBStorage:
    for tries_left in reversed(range(TRIES)):
        try:
            with quietly():
                return make(url, engine_kwargs=engine)
        except Exception as error:
            # Of several processes that find an empty database at once, one makes the tables, and the others fail.
            if not tries_left or not re.search("already exists|UNIQUE constraint failed", str(error)):
                raise
        time.sleep(1)
    raise AssertionError("not reached")


def _database(uri: str) -> object:
    """What two names of one database have in common."""
    if "://" not in uri or uri.startswith("sqlite:"):
        return Path(uri.removeprefix("sqlite:///")).expanduser().resolve()
    parts = urlsplit(uri)
    return parts.scheme.partition("+")[0], parts.hostname or "localhost", parts.port or 5432, parts.path
