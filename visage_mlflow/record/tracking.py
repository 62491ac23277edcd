"""The tracking server. The only file that imports mlflow."""

from __future__ import annotations

import json
import logging
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput
from mlflow.exceptions import MlflowException

from visage_mlflow.record.files import flat, let_go, one_line
from visage_mlflow.record.results import Result

if TYPE_CHECKING:
    from datasets import Dataset
    from matplotlib.figure import Figure

EXPERIMENT = "visage_mlflow"
RUN_ID = "MLFLOW_RUN_ID"
LONGEST_PARAMETER, LONGEST_TAG = 6000, 8000
MADE_UP_NAME = re.compile(r"[a-z]+-[a-z]+-\d+")

# A new store's 40 lines of schema migration say nothing to somebody who waits for a result.
for noisy in ("alembic", "mlflow.store.db.utils"):
    logging.getLogger(noisy).setLevel(logging.WARNING)
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")


@dataclass(frozen=True)
class Run:
    """An open MLflow run, and the few ways in which this project writes to one."""

    id: str

    def metrics(self, values: Mapping[str, float], step: int | None = None, model_uri: str | None = None) -> None:
        """Log numbers; with `model_uri`, on that logged model too."""
        model_id = model_uri.removeprefix("models:/") if model_uri and model_uri.startswith("models:/m-") else None
        mlflow.log_metrics({name: float(value) for name, value in values.items()}, step=step, model_id=model_id)

    def history(self, history: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        """Log numbers by step."""
        for step, numbers in history:
            mlflow.log_metrics(dict(numbers), step=step)

    def tag(self, name: str, value: str) -> None:
        """Set ``visage.<name>``."""
        mlflow.set_tag(f"visage.{name}", value[:LONGEST_TAG])

    def result(self, result: Result, name: str) -> None:
        """Keep a result as a JSON file."""
        mlflow.log_text(result.to_json(), name)

    def lines(self, rows: Sequence[Any], name: str) -> None:
        """Keep dataclass rows as JSON Lines."""
        mlflow.log_text("".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows), name)

    def text(self, text: str, name: str) -> None:
        """Keep a text file."""
        mlflow.log_text(text, name)

    def figure(self, figure: Figure, name: str) -> None:
        """Keep a figure."""
        mlflow.log_figure(figure, name)

    def dataset(self, dataset: Dataset, counts: Mapping[str, int]) -> None:
        """Record what was trained on: digest, and rows by kind."""
        tags = {f"visage.{kind}": str(count) for kind, count in counts.items()}
        mlflow.log_input(mlflow.data.from_huggingface(dataset, name="mixture"), context="training", tags=tags)

    def checkpoint(self, folder: Path, step: int) -> str:
        """Keep a checkpoint's files as a LoggedModel of this run; returns its URI, ``models:/m-…``."""
        model = mlflow.initialize_logged_model(
            name=folder.name, source_run_id=self.id, params={"step": str(step)}, model_type="chat"
        )
        client = MlflowClient()
        client.log_model_artifacts(model.model_id, str(folder))
        mlflow.finalize_logged_model(model.model_id, "READY")
        client.log_outputs(self.id, [LoggedModelOutput(model.model_id, step)])
        return f"models:/{model.model_id}"


@contextmanager
def tracked(
    kind: str,
    config: Any,
    *,
    name: str | None = None,
    nested: bool = False,
    goes_on: Callable[[], bool] = lambda: False,
) -> Iterator[Run]:
    """An MLflow run of one kind, with its settings; FAILED after an exception, KILLED after an interrupt.

    The first run of a process that `mlflow run` started is the one that `mlflow run` made.

    Args:
        kind: Tag `visage.kind`: the entry point.
        config: The frozen dataclass of its settings; kept as ``config.json`` and as parameters.
        name: The run's name in the UI, where charts tell runs apart by it. One given to `mlflow run` stays.
        nested: Whether it is a step inside the run that is open.
        goes_on: Asked in the end whether other processes still work on the run, so that it stays open.
    """
    outer = mlflow.active_run() if nested else None
    try:
        if not nested and not os.environ.get(RUN_ID) and not os.environ.get("MLFLOW_EXPERIMENT_NAME"):
            mlflow.set_experiment(EXPERIMENT)
        active = mlflow.start_run(
            run_name=None if _is_named() else name,
            experiment_id=outer.info.experiment_id if outer else None,
            nested=nested,
        )
    except MlflowException as error:
        raise ValueError(
            f"The tracking store cannot be used: {one_line(error)} Check MLFLOW_TRACKING_URI (and MLFLOW_RUN_ID)."
        ) from error
    with _ending(goes_on):
        mlflow.set_tag("visage.kind", kind)
        _log_settings(active, asdict(config))
        yield Run(active.info.run_id)


@contextmanager
def joined(run_id: str, config: Any, *, goes_on: Callable[[], bool]) -> Iterator[Run]:
    """A run that another process began, to work on it as well, or to go on with it.

    The run that `mlflow run` made for this process, if it did, is put inside it.

    Args:
        run_id: Of the run.
        config: The settings of this process.
        goes_on: As for `tracked`.
    """
    with ExitStack() as stack:
        if os.environ.get(RUN_ID):
            stack.enter_context(tracked("worker", config, name="worker"))
            mlflow.set_tag("mlflow.parentRunId", run_id)
        else:
            mlflow.set_experiment(experiment_id=MlflowClient().get_run(run_id).info.experiment_id)
        mlflow.start_run(run_id=run_id, nested=True)
        stack.enter_context(_ending(goes_on))
        yield Run(run_id)


@contextmanager
def _ending(goes_on: Callable[[], bool]) -> Iterator[None]:
    """Close the active run, with the status that it ends in."""
    status = "FAILED"
    try:
        yield
        status = "FINISHED"
    except KeyboardInterrupt as error:
        status = "KILLED"
        let_go(error)  # One that fell into a write to SQLite would hold its lock, and the run could not be closed.
        raise
    except Exception as error:
        mlflow.set_tag("visage.reason", one_line(error)[:LONGEST_TAG])
        raise
    finally:
        run_id, is_shared = mlflow.active_run().info.run_id, goes_on()
        mlflow.end_run("RUNNING" if is_shared else status)
        if is_shared and not goes_on():  # The last of the others ended in between.
            MlflowClient().set_terminated(run_id, status)


def status_of(run_id: str) -> str:
    """Status of a run; "" if the tracking server does not have it."""
    try:
        return str(MlflowClient().get_run(run_id).info.status)
    except MlflowException:
        return ""


def close(run_id: str, reason: str) -> None:
    """Set a run KILLED whose process died, if it is still open."""
    if status_of(run_id) == "RUNNING":
        MlflowClient().set_tag(run_id, "visage.reason", reason)
        MlflowClient().set_terminated(run_id, "KILLED")


def store() -> str:
    """URI of the tracking store."""
    return str(mlflow.get_tracking_uri())


def _is_named() -> bool:
    """Whether the user named the run that `mlflow run` made for this process; names made up by MLflow do not count."""
    run_id = os.environ.get(RUN_ID)
    return bool(run_id) and not MADE_UP_NAME.fullmatch(MlflowClient().get_run(run_id).info.run_name or "")


def _log_settings(active: Any, settings: dict[str, Any]) -> None:
    mlflow.log_text(json.dumps(settings, indent=1, sort_keys=True), "config.json")
    # `mlflow run` has logged some already, as they were typed; logging those again with another text would raise.
    texts = {name: str(value) for name, value in flat(settings) if name not in active.data.params}
    mlflow.log_params({name: value[:LONGEST_PARAMETER] for name, value in texts.items()})


@cache
def _downloads() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="visage-")


@cache  # Weights and tokenizer are loaded one after the other, and would copy the files twice.
def fetch(uri: str) -> Path:
    """Bring the files behind ``runs:/…`` or ``models:/…`` into a local folder.

    Raises:
        ValueError: There is no such run, model or path.
    """
    # A run's files are copied: into a folder that goes when the process does.
    target = tempfile.mkdtemp(dir=_downloads().name) if uri.startswith("runs:/") else None
    try:
        return Path(mlflow.artifacts.download_artifacts(uri, dst_path=target))
    except (MlflowException, OSError) as error:
        raise ValueError(
            f"`model` is {uri!r}, which the tracking server does not have: {one_line(error)} "
            f"Check the id, and MLFLOW_TRACKING_URI."
        ) from error


def find(run_id: str, setting: str) -> tuple[str, tuple[tuple[str, int], ...]]:
    """The kind of a run, and the URIs of the checkpoints that it kept, by training step.

    Raises:
        ValueError: There is no such run; `setting` named it.
    """
    try:
        found = MlflowClient().get_run(run_id)
    except MlflowException as error:
        reason = one_line(error)
        raise ValueError(f"`{setting}` is {run_id!r}: {reason} Check the id, and MLFLOW_TRACKING_URI.") from error
    outputs = found.outputs.model_outputs if found.outputs else []
    checkpoints = sorted(((f"models:/{output.model_id}", output.step) for output in outputs), key=lambda pair: pair[1])
    return found.data.tags.get("visage.kind", "another project's"), tuple(checkpoints)


def settings_of(run_id: str) -> dict[str, Any]:
    """The settings of a run."""
    settings: dict[str, Any] = json.loads(mlflow.artifacts.load_text(f"runs:/{run_id}/config.json"))
    return settings
