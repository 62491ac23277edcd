"""What is asked of the tracking store: the status of a run, finetunings and their checkpoints, files behind a URI."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException

from visage_mlflow.config.fields import ALL_CHECKPOINTS
from visage_mlflow.results import Response
from visage_mlflow.results.finetuning import in_words
from visage_mlflow.text.errors import Mistake, is_full_disk, one_line
from visage_mlflow.tracking.active import DELETED, check_active, is_deleted
from visage_mlflow.tracking.connection import client
from visage_mlflow.tracking.retries import ask

KINDS = ("finetune", "trial")
"""Kinds of runs that finetune."""


@dataclass(frozen=True)
class FinetuneRun:
    """What later steps need of a finetune run: its base, its checkpoints' URIs by training step, and its data."""

    id: str
    model: str
    checkpoints: tuple[tuple[str, int], ...]
    name: str = ""

    @property
    def uris(self) -> list[str]:
        """Of the checkpoints, in order."""
        return [uri for uri, _ in self.checkpoints]


def look_up(run_id: str, setting: str = "run") -> FinetuneRun:
    """Look up a finetune run, or a trial of a search, and its checkpoints, in order of training.

    Raises:
        Mistake: There is no such run, it is not a finetune run, or it has no checkpoints; `setting` named it.
    """
    try:
        found = ask(lambda: client().get_run(run_id))
    except MlflowException as error:
        why = f"{one_line(error)} Check the id, and MLFLOW_TRACKING_URI."
        raise Mistake(f"`{setting}` is {run_id!r}: {why}") from error
    check_active(found, f"`{setting}`", "give the id of another run")
    kind = found.data.tags.get("visage.kind", "another project's")
    if kind not in KINDS:
        raise Mistake(
            f"`{setting}` is {run_id!r}, which is no finetune run but {kind}. Give the id of a finetune run."
        )
    # A set: the server has one twice whose answer was lost on its way.
    outputs = {(output.step, output.model_id) for output in (found.outputs.model_outputs if found.outputs else [])}
    if not outputs:
        status = found.info.status
        raise Mistake(f"`{setting}` is {run_id!r}, which has no checkpoints (status {status}). Finetune again.")
    settings = settings_of(run_id)
    counts = {kind: settings[kind] for kind in ("harmful", "safe", "benign", "task")}
    checkpoints = tuple((f"models:/{model}", step) for step, model in sorted(outputs))
    return FinetuneRun(run_id, settings["model"], checkpoints, in_words(counts))


def kind_of(run_id: str, setting: str = "run") -> str:
    """Kind of a finished run.

    Raises:
        Mistake: There is no such run, or it did not finish; `setting` named it.
    """
    try:
        found = ask(lambda: client().get_run(run_id))
    except MlflowException as error:
        why = f"{one_line(error)} Check the id, and MLFLOW_TRACKING_URI."
        raise Mistake(f"`{setting}` is {run_id!r}, which the tracking server does not have: {why}") from error
    check_active(found, f"`{setting}`", "give the id of another run")
    if found.info.status != "FINISHED":
        raise Mistake(f"`{setting}` is {run_id!r}, which is not finished but {found.info.status}. Run it again.")
    return str(found.data.tags.get("visage.kind", "another run"))


def artifact(run_id: str, name: str) -> Path:
    """A file of a run, brought here.

    Raises:
        Mistake: The run does not have it.
    """
    target = tempfile.mkdtemp(dir=_downloads().name)
    try:
        return Path(ask(lambda: mlflow.artifacts.download_artifacts(f"runs:/{run_id}/{name}", dst_path=target)))
    except (MlflowException, OSError) as error:
        if is_full_disk(error):
            raise
        raise Mistake(f"`run` is {run_id!r}, which has no {name}: {one_line(error)} Run it again.") from error


def responses(run_id: str, name: str = "responses.jsonl") -> list[Response]:
    """What a model answered in a run.

    Raises:
        Mistake: The run does not have them, or another version wrote them.
    """
    # Not splitlines(): JSON text may hold U+2028 and its like, which that takes for line ends.
    lines = artifact(run_id, name).read_text(encoding="utf-8").split("\n")
    try:
        return [Response(**json.loads(line)) for line in lines if line]
    except (TypeError, ValueError) as error:
        raise Mistake(
            f"`run` is {run_id!r}, whose {name} cannot be read: {one_line(error)} Measure it again with this version."
        ) from error


def settings_of(run_id: str) -> dict[str, Any]:
    """The settings of a run."""
    text = ask(lambda: mlflow.artifacts.load_text(f"runs:/{run_id}/config.json"))
    return dict(json.loads(text))


def status_of(run_id: str) -> str:
    """Status of a run; "" if the tracking server does not have it, `DELETED` if it is in the trash."""
    try:
        found = ask(lambda: client().get_run(run_id))
    except MlflowException:
        return ""
    return DELETED if is_deleted(found) else str(found.info.status)


def experiments() -> list[str]:
    """Ids of all experiments."""
    return [experiment.experiment_id for experiment in ask(lambda: client().search_experiments())]


@cache
def _downloads() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="visage-")


@cache  # Weights and tokenizer are loaded one after the other, and would copy the files twice.
def fetch(uri: str) -> Path:
    """Bring the files behind ``runs:/…`` or ``models:/…`` into a local folder.

    Raises:
        Mistake: There is no such run, model or path, or it is a checkpoint whose files are not all there. It begins
            with what is wrong; who asked says which setting named the URI.
    """
    # A run's files are copied: into a folder that goes when the process does.
    target = tempfile.mkdtemp(dir=_downloads().name) if uri.startswith("runs:/") else None
    try:
        status = ask(lambda: _model_status(uri))
        if status not in ("", "READY"):
            raise Mistake(f"which was cut off while it was kept ({status}). Finetune again.")
        return Path(ask(lambda: mlflow.artifacts.download_artifacts(uri, dst_path=target)))
    except (MlflowException, OSError) as error:
        if is_full_disk(error):
            raise
        raise Mistake(
            f"which the tracking server does not have: {one_line(error)} Check the id, and MLFLOW_TRACKING_URI."
        ) from error


def _model_status(uri: str) -> str:
    """Status of the logged model behind ``models:/m-…`` or ``runs:/<run id>/<name>``; "" if it is no such model."""
    scheme, _, rest = uri.partition(":/")
    first, _, path = rest.partition("/")
    if scheme == "models":
        return str(client().get_logged_model(first).status) if first.startswith("m-") and not path else ""
    run = client().get_run(first)
    check_active(run, "whose run", "give another model")
    experiment = run.info.experiment_id
    models = client().search_logged_models([experiment], f"source_run_id = '{first}'")
    return next((str(model.status) for model in models if model.name == path.partition("/")[0]), "")


def unfolded(uris: Sequence[str], setting: str) -> list[str]:
    """The URIs that a setting names, each ``runs:/<run id>`` replaced by all checkpoints of that run."""
    runs = [(uri, ALL_CHECKPOINTS.fullmatch(uri)) for uri in uris]
    return [each for uri, run in runs for each in (look_up(run[1], setting).uris if run else [uri])]
