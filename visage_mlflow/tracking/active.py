"""Runs and experiments in MLflow's trash: they can be read until `mlflow gc` ends them, but they take nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mlflow.entities import Experiment, LifecycleStage, Run
from mlflow.exceptions import MlflowException

from visage_mlflow.text.errors import Mistake
from visage_mlflow.tracking.connection import client
from visage_mlflow.tracking.retries import ask

DELETED = "DELETED"


def is_deleted(run: Run) -> bool:
    """Whether a run is in the trash, by itself or with its experiment."""
    return bool(run.info.lifecycle_stage != LifecycleStage.ACTIVE)


def check_active(run: Run, named: str, otherwise: str) -> None:
    """Raise Mistake for a run that was deleted; `named` says who named it, and `otherwise` what else can be done."""
    if not is_deleted(run):
        return
    number = run.info.experiment_id
    experiment = ask(lambda: client().get_experiment(number))
    what, cure = "a deleted run", f"runs restore --run-id {run.info.run_id}"
    if experiment.lifecycle_stage != LifecycleStage.ACTIVE:
        what = f"a run of the deleted experiment {experiment.name!r}"
        cure = f"experiments restore --experiment-id {number}"
    raise Mistake(f"{named} is {run.info.run_id!r}, {what}. Restore it with `mlflow {cure}`, or {otherwise}.")


def check_experiment(found: Experiment | None) -> None:
    """Raise Mistake for an experiment that was deleted: MLflow opens no run in it, and makes no other of its name."""
    if found is not None and found.lifecycle_stage != LifecycleStage.ACTIVE:
        raise Mistake(
            f"The experiment {found.name!r} is deleted. Restore it with `mlflow experiments restore --experiment-id "
            f"{found.experiment_id}`, or set MLFLOW_EXPERIMENT_NAME to another name."
        )


@contextmanager
def while_active(run_id: str) -> Iterator[None]:
    """Inside, a refusal of the tracking store that comes of the run's deletion meanwhile says so."""
    try:
        yield
    except MlflowException as error:
        try:
            run = ask(lambda: client().get_run(run_id))
        except MlflowException:
            raise error from None
        check_active(run, "The run in progress", "give the same command again, which begins another and goes on")
        raise
