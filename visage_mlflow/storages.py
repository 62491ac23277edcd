"""Where Optuna studies are kept, so that a trial whose process died is told from one that is slow."""

from __future__ import annotations

import json
import math
import os
import re
import socket
import time
import warnings
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import optuna
import psutil
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages._heartbeat import BaseHeartbeat
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, TrialState

from visage_mlflow.record.files import one_line

Stale = Callable[[optuna.Study, FrozenTrial], None]
"""Called with a trial that was told to have failed because its process died."""

BEATS = 4
"""A trial is dead when as many signs of life in a row are missing."""
TRIES = 5
PROCESS = "visage:process"
BEAT = "visage:heartbeat"


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
        raise ValueError(
            f"`storage` must be a file or postgresql://user@host/database, got {shown!r}. For one machine, use a file."
        )
    url = re.sub(r"^postgresql://", "postgresql+psycopg://", place)
    if _database(url) == _database(tracking_uri):
        raise ValueError(f"`storage` is {shown!r}, which is MLflow's own database. Make another one for studies.")
    try:
        return _open_database(url, heartbeat, on_stale, TRIES)
    except Exception as error:  # Optuna, SQLAlchemy and the driver each raise their own types.
        reason = re.split(r" \[SQL:| \(Background on", one_line(error).replace(url, shown))[0]
        raise ValueError(
            f"`storage` is {shown!r}, which cannot be used: {reason} Check that the server runs, the database is "
            f"there, and the name and password (PGPASSWORD) are right."
        ) from error


def without_password(url: str) -> str:
    """A URL as it may be shown and logged.

    >>> without_password("postgresql://ann:secret@host/studies")
    'postgresql://ann:***@host/studies'
    """
    return re.sub(r"(://[^/@:]*):[^/@]*@", r"\1:***@", url)


class _Heartbeat(BaseHeartbeat):
    """What both kinds of storage need besides Optuna's heartbeat: which process a trial runs in."""

    def _mark(self, trial_id: int) -> None:
        storage: Any = self
        storage.set_trial_system_attr(trial_id, PROCESS, _this_process())

    def _dead(self, study_id: int, grace: float) -> list[int]:
        """Running trials whose process on this machine is gone, and those that never gave a sign of life."""
        storage: Any = self
        running: list[FrozenTrial] = storage.get_all_trials(study_id, deepcopy=False, states=(TrialState.RUNNING,))
        return [trial._trial_id for trial in running if is_gone(trial, grace)]


class Journal(JournalStorage, _Heartbeat):
    """Optuna's journal with a heartbeat, which Optuna gives to databases only.

    Args:
        path: The file.
        interval: Seconds between a trial's signs of life.
        on_stale: Told of each dead trial.
    """

    def __init__(self, path: str, interval: int, on_stale: Stale) -> None:
        self._interval = interval
        self._on_stale = on_stale
        self._marked: set[int] = set()
        super().__init__(JournalFileBackend(path))

    def record_heartbeat(self, trial_id: int) -> None:
        """Note that a trial's process lives."""
        try:
            if trial_id not in self._marked:
                self._marked.add(trial_id)
                self._mark(trial_id)
            self.set_trial_system_attr(trial_id, BEAT, time.time())
        except UpdateFinishedTrialError:
            pass  # It was taken for dead. Its process finds out when it tells the result.

    def _get_stale_trial_ids(self, study_id: int) -> list[int]:
        grace = BEATS * self._interval
        running = self.get_all_trials(study_id, deepcopy=False, states=(TrialState.RUNNING,))
        silent = [
            trial._trial_id
            for trial in running
            if BEAT in trial.system_attrs and time.time() - trial.system_attrs[BEAT] > grace
        ]
        return sorted({*silent, *self._dead(study_id, grace)})

    def get_heartbeat_interval(self) -> int | None:
        """Seconds between signs of life."""
        return self._interval

    def get_heartbeat_stale_trial_callback(self) -> Stale | None:
        """What is told of dead trials."""
        return self._on_stale


class Database(RDBStorage, _Heartbeat):
    """Optuna's database, whose heartbeat misses trials that died before the first one, and waits for the others."""

    def record_heartbeat(self, trial_id: int) -> None:
        """Note that a trial's process lives."""
        try:
            if PROCESS not in self.get_trial_system_attrs(trial_id):
                self._mark(trial_id)
            super().record_heartbeat(trial_id)
        except UpdateFinishedTrialError:
            pass  # As in a journal.

    def _get_stale_trial_ids(self, study_id: int) -> list[int]:
        assert self.heartbeat_interval is not None
        dead = self._dead(study_id, BEATS * self.heartbeat_interval)
        return sorted({*super()._get_stale_trial_ids(study_id), *dead})


def is_mine(trial: FrozenTrial) -> bool:
    """Whether a trial runs, or ran, in this process."""
    return bool(trial.system_attrs.get(PROCESS) == _this_process())


def is_gone(trial: FrozenTrial, grace: float = math.inf) -> bool:
    """Whether the process of a trial does not live any more, as far as can be told on this machine.

    Args:
        trial: The trial.
        grace: Seconds after which one that never gave a sign of life is gone.
    """
    process = trial.system_attrs.get(PROCESS)
    if process is None:
        started = trial.datetime_start
        return started is not None and (datetime.now().astimezone() - started.astimezone()).total_seconds() > grace
    if process["host"] != socket.gethostname():
        return False
    try:
        # Numbers of processes are used again; the moment of birth tells two of them apart.
        return bool(abs(psutil.Process(process["pid"]).create_time() - process["since"]) > 1)
    except psutil.NoSuchProcess:
        return True


def _this_process() -> dict[str, str | float]:
    return {"host": socket.gethostname(), "pid": os.getpid(), "since": psutil.Process().create_time()}


def _open_database(url: str, heartbeat: int, on_stale: Stale, tries: int) -> Database:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
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
        raise ValueError(
            f"`storage` is {place!r}, where no file can be read and written: {error.strerror}. Choose another place."
        ) from error
    except (KeyError, TypeError, AttributeError, AssertionError, RuntimeError) as error:
        raise ValueError(
            f"`storage` is {place!r}, which Optuna {optuna.__version__} cannot read ({one_line(error)}). Another "
            "version may have written it: name another file."
        ) from error


def _check_journal(path: Path, place: str) -> None:
    """Raise ValueError for a file that is no whole journal; Optuna would write on behind a line that was cut off."""
    lock = JournalFileSymlinkLock(str(path))
    lock.acquire()
    try:
        lines = path.read_bytes().split(b"\n")
    finally:
        lock.release()
    if lines[-1]:
        raise ValueError(
            f"`storage` is {place!r}, whose last line, {len(lines)}, is cut off. Delete that line to go on with what "
            "stands before it, or name another file."
        )
    for number, line in enumerate(lines[:-1], start=1):
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        if not isinstance(entry, dict) or "op_code" not in entry:
            raise ValueError(
                f"`storage` is {place!r}, whose line {number} is no entry of an Optuna journal. Name another file."
            )


def _database(url: str) -> tuple[object, ...]:
    """What two URLs of one database have in common."""
    parts = urlsplit(url)
    try:
        return (parts.scheme.partition("+")[0], parts.hostname or "localhost", parts.port or 5432, parts.path)
    except ValueError:  # The port is no number.
        return (url,)
