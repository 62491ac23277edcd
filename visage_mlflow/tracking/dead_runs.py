"""Signs of life of open runs, and the closing of those whose process died."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from visage_mlflow.tracking import client, uploads
from visage_mlflow.tracking.operations import OpenRun
from visage_mlflow.tracking.outages import reason
from visage_mlflow.tracking.outbox import say
from visage_mlflow.tracking.processes import is_gone, is_here, space, this_process

HEARTBEAT = "visage.heartbeat"
"""Tag: JSON with host, pid and since (birth) of the process, the space its number counts in, and at (Unix time)."""
SHARED = "visage.shared"
"""Tag of a run on which several processes work; each writes its own signs of life over those of the others."""
INTERVAL = 30.0
"""Seconds between two signs of life."""
MOST_MISSED = 10
"""Signs of life in a row that may be missing of a process that cannot be looked at: its machine may be slow."""
LONGEST_WITHOUT = 24 * 3600.0
"""Seconds after which a run that never gave a sign of life counts as dead: earlier versions gave none."""
DIED = "its process died"


def sign() -> str:
    """A sign of life of this process, as a tag's value."""
    return json.dumps({**this_process(), "space": space(), "at": round(time.time(), 3)})


@dataclass
class Beats:
    """Gives signs of life of this process' open runs, on a thread of its own."""

    runs: list[str] = field(default_factory=list)
    _thread: threading.Thread | None = None
    _stop: threading.Event = field(default_factory=threading.Event)

    def start(self, run_id: str) -> None:
        """Begin with a run, whose first sign is there."""
        self.runs.append(run_id)
        if self._thread is None:
            self._stop = threading.Event()
            self._thread = threading.Thread(target=self._beat, args=(self._stop,), name="heartbeat", daemon=True)
            self._thread.start()

    def stop(self, run_id: str) -> None:
        """End with a run."""
        if run_id in self.runs:
            self.runs.remove(run_id)
        if not self.runs and self._thread is not None:
            self._stop.set()
            self._thread = None

    def _beat(self, stop: threading.Event) -> None:
        while not stop.wait(INTERVAL):
            for run_id in list(self.runs):
                if run_id in self.runs:
                    _beat(run_id)


def _beat(run_id: str) -> None:
    try:
        client.send({"do": "log", "run": run_id, "tags": {HEARTBEAT: sign()}})
    except Exception as error:  # The server is away, or does not know the run yet. The next sign makes up for it.
        logging.getLogger(__name__).debug("no sign of life of %s: %s", run_id, reason(error))


def close_dead_runs() -> list[str]:
    """Set the runs of this project KILLED whose process died; their ids. None where the server is away just now."""
    try:
        kept = uploads.waiting()
        dead = [run.id for run in client.running() if run.id not in kept and is_dead(run, time.time())]
        for run_id in dead:
            client.close(run_id, DIED)
    except Exception as error:  # Whoever starts next looks again.
        say(f"Runs whose process died were not looked for: {reason(error)}")
        return []
    if dead:
        say(f"{len(dead)} run{'s' * (len(dead) > 1)} of processes that died: set KILLED ({', '.join(dead)}).")
    return dead


def is_dead(run: OpenRun, now: float) -> bool:
    """Whether the process of an open run does not live any more.

    Args:
        run: The run.
        now: Unix time.
    """
    last = _last_sign(run)
    if not last:
        return now - run.began > LONGEST_WITHOUT
    silent = now - last["at"]
    if not is_here(last):
        return bool(silent > MOST_MISSED * INTERVAL)
    is_shared = SHARED in run.tags or run.tags.get("visage.kind") == "search"
    return is_gone(last) and bool(silent > 2 * INTERVAL or not is_shared)


def _last_sign(run: OpenRun) -> Mapping[str, Any]:
    try:
        last = json.loads(run.tags.get(HEARTBEAT, "{}"))
        return {**last, **{name: float(last[name]) for name in ("at", "pid", "since")}} if last["host"] else {}
    except (ValueError, TypeError, KeyError, AttributeError):  # None, somebody else's, or cut off.
        return {}
