"""The tracking server. The only file that imports mlflow; what it does to a run, it does by the run's id."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.tracking import fluent

from visage_mlflow.text.errors import Mistake, one_line
from visage_mlflow.text.printing import masked
from visage_mlflow.tracking import local_files, outages, outbox
from visage_mlflow.tracking.operations import DO, MADE_UP_ID, OpenRun, as_open
from visage_mlflow.tracking.outages import Away, is_away, reason

if TYPE_CHECKING:
    from datasets import Dataset

EXPERIMENT = "visage_mlflow"
RUN_ID = "MLFLOW_RUN_ID"
MADE_UP_NAME = re.compile(r"[a-z]+-[a-z]+-\d+")
Answer = TypeVar("Answer")

# A new store's 40 lines of schema migration say nothing to somebody who waits for a result, nor does a traceback of
# an error that is told in a line.
logging.getLogger("alembic").setLevel(logging.WARNING)
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")


def begin(name: str | None, tags: Mapping[str, str], experiment: str | None = None, *, nested: bool) -> OpenRun:
    """Make a run, inside the one that is open or at the top; or adopt the one that `mlflow run` made.

    Raises:
        Away: A nested run's server is away.
        ValueError: The tracking store cannot be used.
    """
    with _opening(nested):
        if not nested and not os.environ.get(RUN_ID) and not os.environ.get("MLFLOW_EXPERIMENT_NAME"):
            mlflow.set_experiment(EXPERIMENT)
        run_name = None if _is_named() else name
        return as_open(mlflow.start_run(run_name=run_name, experiment_id=experiment, nested=nested, tags=dict(tags)))


def resume(run_id: str, *, is_first: bool) -> OpenRun:
    """Open a run that another process began; `is_first` if none is open in this process.

    Raises:
        ValueError: The tracking store cannot be used.
    """
    with _opening(nested=False):
        if is_first:
            mlflow.set_experiment(experiment_id=MlflowClient().get_run(run_id).info.experiment_id)
        return as_open(mlflow.start_run(run_id=run_id, nested=True))


def is_innermost(run_id: str) -> bool:
    """Whether MLflow would put a nested run into this one."""
    innermost = mlflow.active_run()
    return innermost is not None and bool(innermost.info.run_id == run_id)


def leave(run_id: str) -> None:
    """Take a run off MLflow's stack of open ones, without a word to the server."""
    os.environ.pop(RUN_ID, None)
    stack = fluent._active_run_stack.get()
    stack[:] = [run for run in stack if run.info.run_id != run_id]
    if monitor := fluent.run_id_to_system_metrics_monitor.pop(run_id, None):
        monitor.finish()


@contextmanager
def _opening(nested: bool) -> Iterator[None]:
    if not store().startswith("http"):
        from mlflow.store.db import utils

        utils.MAX_RETRY_COUNT = 3  # Ten tries, each after twice the pause, would be two minutes.
    with outages.starting(place(), nested), outages.quick(), local_files.alone(store()):
        yield


def _is_named() -> bool:
    """Whether the user named the run that `mlflow run` made for this process; names made up by MLflow do not count."""
    run_id = os.environ.get(RUN_ID)
    return bool(run_id) and not MADE_UP_NAME.fullmatch(MlflowClient().get_run(run_id).info.run_name or "")


def send(operation: outbox.Operation, payload: Path | None = None) -> str:
    """Do an operation; the id of what was made, or "".

    Raises:
        Away: The server is away.
        Exception: The server refused it, for a reason in it.
    """
    before = sys.exc_info()[1]
    try:
        return DO[operation["do"]](mlflow, operation, payload) or ""
    except Exception as error:
        if is_away(error, before):
            raise Away(reason(error)) from error
        raise


def described(dataset: Dataset, name: str) -> dict[str, Any]:
    """A data set as MLflow records it: digest, source, columns and size."""
    content: dict[str, Any] = mlflow.data.from_huggingface(dataset, name=name).to_dict()
    return {key: content.get(key) for key in ("name", "digest", "source_type", "source", "schema", "profile")}


def with_context(tags: Mapping[str, str]) -> dict[str, str]:
    """Tags with those of who runs what, as MLflow gives to each run that it makes."""
    return dict(mlflow.tracking.context.registry.resolve_tags(dict(tags)))


def store() -> str:
    """URI of the tracking store."""
    return str(mlflow.get_tracking_uri())


def place() -> str:
    """The tracking store as it may be shown."""
    return masked(store())


# What is asked of the server


def _ask(question: Callable[[], Answer]) -> Answer:
    return outages.ask(question, outbox.settle, place())


def _found(run_id: str) -> Any:
    """A run by its id, or by the one that was made up for it while the server was away."""
    try:
        return MlflowClient().get_run(run_id)
    except MlflowException as error:
        if is_away(error) or not re.fullmatch("[0-9a-f]{32}", run_id):
            raise
        made = MlflowClient().search_runs(_experiments(), f"tags.`{MADE_UP_ID}` = '{run_id}'", max_results=1)
        if not made:
            raise
        return made[0]


def _experiments() -> list[str]:
    return [experiment.experiment_id for experiment in MlflowClient().search_experiments()]


def status_of(run_id: str) -> str:
    """Status of a run; "" if the tracking server does not have it."""
    try:
        return str(_ask(lambda: _found(run_id)).info.status)
    except MlflowException:
        return ""


def running() -> list[OpenRun]:
    """The runs of this project that are open."""
    wanted = "attributes.status = 'RUNNING' AND tags.`visage.kind` LIKE '%'"
    return [as_open(run) for run in MlflowClient().search_runs(_experiments(), wanted, max_results=1000)]


def close(run_id: str, reason: str) -> None:
    """Set a run KILLED whose process died, if it is still open, and what it was about to keep FAILED."""
    if status_of(run_id) != "RUNNING":
        return
    client = MlflowClient()
    client.set_tag(run_id, "visage.reason", reason)
    experiment = client.get_run(run_id).info.experiment_id
    for model in client.search_logged_models([experiment], f"source_run_id = '{run_id}'"):
        if str(model.status) == "PENDING":
            client.finalize_logged_model(model.model_id, "FAILED")
    client.set_terminated(run_id, "KILLED")


@cache
def _downloads() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="visage-")


@cache  # Weights and tokenizer are loaded one after the other, and would copy the files twice.
def fetch(uri: str) -> Path:
    """Bring the files behind ``runs:/…`` or ``models:/…`` into a local folder.

    Raises:
        ValueError: There is no such run, model or path.
    """
    if waiting := outbox.files_of(uri.removeprefix("models:/")):
        return waiting
    # A run's files are copied: into a folder that goes when the process does.
    target = tempfile.mkdtemp(dir=_downloads().name) if uri.startswith("runs:/") else None
    try:
        return Path(_ask(lambda: mlflow.artifacts.download_artifacts(_known(uri), dst_path=target)))
    except (MlflowException, OSError) as error:
        raise Mistake(
            f"`model` is {uri!r}, which the tracking server does not have: {one_line(error)} "
            f"Check the id, and MLFLOW_TRACKING_URI."
        ) from error


def _known(uri: str) -> str:
    """A model's URI with the server's id in it, where the id was made up."""
    if not re.fullmatch("models:/m-[0-9a-f]{32}", uri):
        return uri
    name, client = uri.removeprefix("models:/"), MlflowClient()
    try:
        client.get_logged_model(name)
    except MlflowException as error:
        if is_away(error):
            raise
        for model in client.search_logged_models(_experiments(), f"tags.`{MADE_UP_ID}` = '{name}'", max_results=1):
            return f"models:/{model.model_id}"
    return uri


def find(run_id: str, setting: str) -> tuple[str, tuple[tuple[str, int], ...]]:
    """The kind of a run, and the URIs of the checkpoints that it kept, by training step.

    Raises:
        ValueError: There is no such run, or the server is away; `setting` named it.
    """
    try:
        found = _ask(lambda: _found(run_id))
    except MlflowException as error:
        why = f"{one_line(error)} Check the id, and MLFLOW_TRACKING_URI."
        raise Mistake(f"`{setting}` is {run_id!r}: {why}") from error
    outputs = found.outputs.model_outputs if found.outputs else []
    checkpoints = sorted(((f"models:/{output.model_id}", output.step) for output in outputs), key=lambda pair: pair[1])
    return found.data.tags.get("visage.kind", "another project's"), tuple(checkpoints)


def settings_of(run_id: str) -> dict[str, Any]:
    """The settings of a run."""
    text = _ask(lambda: mlflow.artifacts.load_text(f"runs:/{_found(run_id).info.run_id}/config.json"))
    return dict(json.loads(text))
