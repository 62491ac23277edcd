"""Storages of Optuna studies in which trials give signs of life, so that a dead one is told from a slow one."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages._heartbeat import BaseHeartbeat
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from visage_mlflow.tracking import processes
from visage_mlflow.tracking.processes import this_process

Stale = Callable[[optuna.Study, FrozenTrial], None]
"""Called with a trial that was told to have failed because its process died."""

BEATS = 4
"""A trial is dead when as many signs of life in a row are missing."""
PROCESS = "visage:process"
BEAT = "visage:heartbeat"


class _Heartbeat(BaseHeartbeat):
    """What both kinds of storage need besides Optuna's heartbeat: which process a trial runs in."""

    def _mark(self, trial_id: int) -> None:
        storage: Any = self
        storage.set_trial_system_attr(trial_id, PROCESS, this_process())

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
    return bool(trial.system_attrs.get(PROCESS) == this_process())


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
    return processes.is_gone(process)
