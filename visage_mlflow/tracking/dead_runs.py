"""Runs that were left open by processes which died: told by the tags in which each process of a run says who it is."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping

from mlflow.exceptions import MlflowException

from visage_mlflow.text.printing import tell
from visage_mlflow.tracking.connection import client
from visage_mlflow.tracking.lookup import experiments, status_of
from visage_mlflow.tracking.processes import is_gone, this_process
from visage_mlflow.tracking.retries import ask, reason

PROCESS = "visage.process."
"""What the names of a run's tags begin with that hold its processes: one each, as several may work on a search."""
DIED = "its process died"


def process_tag() -> dict[str, str]:
    """The tag by which a run knows this process."""
    process = this_process()
    host = re.sub(r"[^A-Za-z0-9.-]", "-", str(process["host"]))  # Names of tags take no other characters.
    return {f"{PROCESS}{host}-{process['pid']}": json.dumps(process)}


def is_dead(tags: Mapping[str, str]) -> bool:
    """Whether all processes that worked on a run are certainly gone, by the run's tags."""
    processes = [json.loads(value) for name, value in tags.items() if name.startswith(PROCESS)]
    return bool(processes) and all(map(is_gone, processes))


def close_dead_runs() -> list[str]:
    """Set the open runs of this project KILLED whose processes are all gone; their ids."""
    wanted = "attributes.status = 'RUNNING' AND tags.`visage.kind` LIKE '%'"
    open_runs = ask(lambda: client().search_runs(experiments(), wanted, max_results=1000))
    dead = [run.info.run_id for run in open_runs if is_dead(run.data.tags)]
    try:
        for run_id in dead:
            close(run_id, DIED)
    except MlflowException as error:  # Somebody deleted one meanwhile. The next command looks again.
        tell(f"Not all runs whose process died were closed: {reason(error)}", sys.stderr)
    if dead:
        tell(f"{len(dead)} run{'s' * (len(dead) > 1)} of processes that died: KILLED ({', '.join(dead)}).", sys.stderr)
    return dead


def close(run_id: str, reason: str) -> None:
    """Set a run KILLED whose process died, if it is still open, and the models that it was about to keep FAILED."""
    if status_of(run_id) != "RUNNING":
        return
    ask(lambda: client().set_tag(run_id, "visage.reason", reason))
    experiment = ask(lambda: client().get_run(run_id)).info.experiment_id
    for model in ask(lambda: client().search_logged_models([experiment], f"source_run_id = '{run_id}'")):
        if str(model.status) == "PENDING":
            ask(lambda: client().finalize_logged_model(model.model_id, "FAILED"))  # noqa: B023
    ask(lambda: client().set_terminated(run_id, "KILLED"))
