"""The tracking server. The only file that imports mlflow."""

from __future__ import annotations

import json
import logging
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput
from mlflow.exceptions import MlflowException

from visage_mlflow.record.results import Landscape, Response, Result, Trajectory, Visage

if TYPE_CHECKING:
    from datasets import Dataset
    from matplotlib.figure import Figure

EXPERIMENT = "visage_mlflow"
RUN_ID = "MLFLOW_RUN_ID"
LONGEST_PARAMETER = 6000
MADE_UP_NAME = re.compile(r"[a-z]+-[a-z]+-\d+")
PLACE_LABELS = ("uri", "training_step", "asr_low", "asr_high", "plane_asr_low", "plane_asr_high")

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

    def history(self, landscape: Landscape) -> None:
        """ASR along the first axis, through the model, as a metric history: MLflow's charts overlay runs.

        The step is the position in percent.
        """
        for point in landscape.points:
            if point.y != 0 or not point.verdicts:  # A skipped one was not measured, so it has no place in a history.
                continue
            step = round(100 * point.x)
            mlflow.log_metrics({"asr": point.asr, "coherent_asr": point.coherent_asr}, step=step)

    def mean_history(self, visage: Visage) -> None:
        """The mean ASR of several directions as a metric history."""
        for position, asr in zip(visage.landscapes[0].axis, visage.mean_asr, strict=True):
            mlflow.log_metric("asr", asr, step=round(100 * position))

    def places(self, trajectory: Trajectory) -> None:
        """Where each checkpoint lies, at its training step, and the margins.

        Of several finetunings, the numbers of the first begin with ``trajectory_0_``, and a tag says which it is.
        """
        for index, course in enumerate(trajectory.courses):
            prefix = f"trajectory_{index}_" if len(trajectory.courses) > 1 else ""
            mlflow.set_tag(f"visage.trajectory_{index}", course.name)
            for place in course.places:
                numbers = {name: value for name, value in asdict(place).items() if name not in PLACE_LABELS}
                named = {prefix + ("checkpoint_asr" if name == "asr" else name): n for name, n in numbers.items()}
                mlflow.log_metrics(named, step=place.training_step)
            if course.edge:
                mlflow.log_metrics({f"{prefix}margin": course.edge.margin, f"{prefix}edge": course.edge.distance})
        if trajectory.random_edge:
            mlflow.log_metric("random_edge", trajectory.random_edge.distance)

    def result(self, result: Result, name: str) -> None:
        """Keep a result as a JSON file."""
        mlflow.log_text(result.to_json(), name)

    def lines(self, rows: Sequence[Any], name: str) -> None:
        """Keep dataclass rows as JSON Lines."""
        mlflow.log_text("".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows), name)

    def responses(self, responses: Sequence[Response], name: str = "responses.jsonl") -> None:
        """Keep every prompt, response and verdict."""
        self.lines(responses, name)

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
def tracked(kind: str, config: Any, *, name: str | None = None, nested: bool = False) -> Iterator[Run]:
    """An MLflow run of one kind, with its settings; FAILED after an exception, KILLED after an interrupt.

    The first run of a process that `mlflow run` started is the one that `mlflow run` made.

    Args:
        kind: Tag `visage.kind`: the entry point.
        config: The frozen dataclass of its settings; kept as ``config.json`` and as parameters.
        name: The run's name in the UI, where charts tell runs apart by it. One given to `mlflow run` stays.
        nested: Whether it is a step inside the run that is open.
    """
    try:
        if not nested and not os.environ.get(RUN_ID) and not os.environ.get("MLFLOW_EXPERIMENT_NAME"):
            mlflow.set_experiment(EXPERIMENT)
        active = mlflow.start_run(run_name=None if _is_named() else name, nested=nested)
    except MlflowException as error:
        raise ValueError(
            f"The tracking store cannot be used: {_reason(error)} "
            f"Check MLFLOW_TRACKING_URI, and MLFLOW_RUN_ID if it is set."
        ) from error
    run = Run(active.info.run_id)
    status = "FAILED"
    try:
        mlflow.set_tag("visage.kind", kind)
        _log_settings(active, asdict(config))
        yield run
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        mlflow.end_run(status)


def _is_named() -> bool:
    """Whether the user named the run that `mlflow run` made for this process; names made up by MLflow do not count."""
    run_id = os.environ.get(RUN_ID)
    return bool(run_id) and not MADE_UP_NAME.fullmatch(MlflowClient().get_run(run_id).info.run_name or "")


def _log_settings(active: Any, settings: dict[str, Any]) -> None:
    mlflow.log_text(json.dumps(settings, indent=1, sort_keys=True), "config.json")
    # `mlflow run` has logged some already, as they were typed; logging those again with another text would raise.
    flat = {name: str(value) for name, value in _flat(settings) if name not in active.data.params}
    mlflow.log_params({name: value[:LONGEST_PARAMETER] for name, value in flat.items()})


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


@cache
def _downloads() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="visage-")


@cache  # Weights and tokenizer are loaded one after the other, and would copy the files twice.
def fetch(uri: str) -> Path:
    """Bring the files behind ``runs:/…`` or ``models:/…`` into a local folder.

    Raises:
        ValueError: There is no such run, model or path.
    """
    # A run's files are copied, gigabytes of weights perhaps: into a folder that goes when the process does.
    target = tempfile.mkdtemp(dir=_downloads().name) if uri.startswith("runs:/") else None
    try:
        return Path(mlflow.artifacts.download_artifacts(uri, dst_path=target))
    except (MlflowException, OSError) as error:
        raise ValueError(
            f"`model` is {uri!r}, which the tracking server does not have: {_reason(error)} "
            f"Check the id, and MLFLOW_TRACKING_URI."
        ) from error


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


def finetune_run(run_id: str, setting: str = "run") -> FinetuneRun:
    """Look up a finetune run and its checkpoints, in order of training.

    Raises:
        ValueError: There is no such run, it is not a finetune run, or it has no checkpoints.
    """
    try:
        found = MlflowClient().get_run(run_id)
    except MlflowException as error:
        reason = _reason(error)
        raise ValueError(f"`{setting}` is {run_id!r}: {reason} Check the id, and MLFLOW_TRACKING_URI.") from error
    kind = found.data.tags.get("visage.kind", "another project's")
    if kind != "finetune":
        raise ValueError(
            f"`{setting}` is {run_id!r}, which is no finetune run but {kind}. Give the id of a finetune run."
        )
    outputs = found.outputs.model_outputs if found.outputs else []
    checkpoints = sorted(((f"models:/{output.model_id}", output.step) for output in outputs), key=lambda pair: pair[1])
    if not checkpoints:
        raise ValueError(
            f"`{setting}` is {run_id!r}, which has no checkpoints (status {found.info.status}). Finetune again."
        )
    with tempfile.TemporaryDirectory() as folder:
        path = mlflow.artifacts.download_artifacts(f"runs:/{run_id}/config.json", dst_path=folder)
        settings = json.loads(Path(path).read_text(encoding="utf-8"))
    counts = [f"{settings[kind]} {kind}" for kind in ("harmful", "safe", "benign", "task") if settings[kind]]
    return FinetuneRun(run_id, settings["model"], tuple(checkpoints), " + ".join(counts))


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") + "."
