"""What each operation on a run asks of MLflow, which is handed in: `tracking` alone imports it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from visage_mlflow.tracking import local_files
from visage_mlflow.tracking.outbox import Operation

MADE_UP_ID = "visage.id"
"""Tag of a run or model whose id was made up while the server was away: what was called so then is found by it."""


@dataclass(frozen=True)
class OpenRun:
    """A run that the server has: its experiment, when it began (Unix time), its tags and names of its parameters."""

    id: str
    experiment: str
    began: float
    tags: Mapping[str, str]
    params: frozenset[str]


def as_open(run: Any) -> OpenRun:
    """A run of MLflow's."""
    info = run.info
    return OpenRun(info.run_id, info.experiment_id, info.start_time / 1000, run.data.tags, frozenset(run.data.params))


def measured(numbers: Mapping[str, float], step: int) -> list[tuple[str, str, int, int]]:
    """Numbers with when they were measured; as text, so that one that is not finite fits into JSON."""
    return [(name, repr(float(value)), milliseconds(), step) for name, value in numbers.items()]


def milliseconds() -> int:
    """Now, as MLflow counts time."""
    return int(1000 * time.time())


def _create(mlflow: Any, one: Operation, payload: Path | None) -> str:
    tags = {**one["tags"], MADE_UP_ID: one["id"]}
    return str(mlflow.MlflowClient().create_run(one["experiment"], one["time"], tags, one["name"]).info.run_id)


def _log(mlflow: Any, one: Operation, payload: Path | None) -> None:
    metrics = [
        mlflow.entities.Metric(name, float(value), time, step, model_id=one.get("model"), run_id=one["run"])
        for name, value, time, step in one.get("metrics", [])
    ]
    params = [mlflow.entities.Param(*pair) for pair in one.get("params", {}).items()]
    tags = [mlflow.entities.RunTag(*pair) for pair in one.get("tags", {}).items()]
    mlflow.MlflowClient().log_batch(one["run"], metrics, params, tags)


def _put_file(mlflow: Any, one: Operation, payload: Path | None) -> None:
    assert payload is not None
    if folder := _artifact_folder(mlflow, mlflow.get_tracking_uri(), one["run"]):
        local_files.put(payload, folder, one["name"])
    else:
        mlflow.MlflowClient().log_artifact(one["run"], str(payload), one["name"].rpartition("/")[0] or None)


@lru_cache(maxsize=64)
def _artifact_folder(mlflow: Any, place: str, run_id: str) -> Path | None:
    """Where a run's artifacts are on this machine; None where a server or a cloud has them."""
    uri = mlflow.tracking.artifact_utils.get_artifact_uri(run_id)
    if not mlflow.utils.uri.is_local_uri(uri, is_tracking_or_registry_uri=False):
        return None
    return Path(mlflow.utils.file_utils.local_file_uri_to_path(uri))


def _put_dataset(mlflow: Any, one: Operation, payload: Path | None) -> None:
    entities = mlflow.entities
    tags = [entities.InputTag(*pair) for pair in one["tags"].items()]
    mlflow.MlflowClient().log_inputs(one["run"], [entities.DatasetInput(entities.Dataset(**one["dataset"]), tags)])


def _create_model(mlflow: Any, one: Operation, payload: Path | None) -> str:
    tags = mlflow.tracking.context.registry.resolve_tags({MADE_UP_ID: one["id"]})
    params = {"step": str(one["step"])}
    create = mlflow.MlflowClient().create_logged_model
    return str(create(one["experiment"], one["name"], one["run"], tags, params, "chat").model_id)


def _put_model_files(mlflow: Any, one: Operation, payload: Path | None) -> None:
    mlflow.MlflowClient().log_model_artifacts(one["model"], str(payload))


def _finish_model(mlflow: Any, one: Operation, payload: Path | None) -> None:
    """Only now it is whole, and may be its run's."""
    client = mlflow.MlflowClient()
    client.finalize_logged_model(one["model"], "READY")
    outputs = client.get_run(one["run"]).outputs
    # An answer may have been lost on its way; MLflow would list the model twice.
    if not outputs or one["model"] not in {output.model_id for output in outputs.model_outputs}:
        client.log_outputs(one["run"], [mlflow.entities.LoggedModelOutput(one["model"], one["step"])])


def _end(mlflow: Any, one: Operation, payload: Path | None) -> None:
    mlflow.MlflowClient().set_terminated(one["run"], one["status"], one["time"])


DO: dict[str, Callable[[Any, Operation, Path | None], str | None]] = {
    "create": _create,
    "log": _log,
    "file": _put_file,
    "dataset": _put_dataset,
    "model": _create_model,
    "model files": _put_model_files,
    "model ready": _finish_model,
    "end": _end,
}
