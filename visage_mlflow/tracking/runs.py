"""The life of a run, and the ways to write to it. All that is in MLflow can be made again from what is on disk."""

from __future__ import annotations

import json
import os
import re
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import mlflow
from mlflow.entities import DatasetInput, InputTag, LoggedModelOutput, Metric, Param, RunTag
from mlflow.tracking.context.registry import resolve_tags

from visage_mlflow.measuring.tally import TALLY
from visage_mlflow.results import Result
from visage_mlflow.results.base import flat
from visage_mlflow.text.errors import Mistake, ServerAway, one_line
from visage_mlflow.text.printing import masked, shown
from visage_mlflow.tracking.active import check_active, check_experiment, while_active
from visage_mlflow.tracking.artifacts import check_arrived, keep
from visage_mlflow.tracking.connection import checked, client
from visage_mlflow.tracking.dead_runs import close_dead_runs, process_tag
from visage_mlflow.tracking.lookup import settings_of
from visage_mlflow.tracking.retries import ask

if TYPE_CHECKING:
    from datasets import Dataset
    from matplotlib.figure import Figure

EXPERIMENT = "visage_mlflow"
RUN_ID, EXPERIMENT_ID = "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID"
"""Variables with the run that `mlflow run` made for this process, and with the experiment that new runs go into."""
CONFIG = "config.json"
MADE_UP_NAME = re.compile(r"[a-z]+-[a-z]+-\d+")
"""How MLflow names a run that nobody named."""
LONGEST_PARAMETER, LONGEST_TAG = 6000, 8000
"""Characters that MLflow takes."""

Answer = TypeVar("Answer")

_open: list[Run] = []
"""Runs that are open in this process, the innermost last."""


@dataclass(frozen=True)
class Run:
    """An open MLflow run, and the few ways in which this project writes to one."""

    id: str
    experiment: str

    def metrics(self, values: Mapping[str, float], step: int | None = None, model_uri: str | None = None) -> None:
        """Log numbers; with `model_uri`, on that logged model too."""
        model_id = model_uri.removeprefix("models:/") if model_uri and model_uri.startswith("models:/m-") else None
        self._log(metrics=self._measured(values, step or 0, model_id))

    def history(self, history: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        """Log numbers by step."""
        self._log(metrics=[metric for step, numbers in history for metric in self._measured(numbers, step)])

    def tag(self, name: str, value: str) -> None:
        """Set ``visage.<name>``."""
        self._log(tags={f"visage.{name}": value[:LONGEST_TAG]})

    def result(self, result: Result, name: str) -> None:
        """Keep a result as a JSON file."""
        self.text(result.to_json(), name)

    def lines(self, rows: Sequence[Any], name: str) -> None:
        """Keep dataclass rows as JSON Lines."""
        self.text("".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows), name)

    def text(self, text: str, name: str) -> None:
        """Keep a text file."""
        keep(lambda: client().log_text(self.id, text, name), self.id)

    def figure(self, figure: Figure, name: str) -> None:
        """Keep a figure."""
        keep(lambda: client().log_figure(self.id, figure, name), self.id)

    def dataset(self, dataset: Dataset, counts: Mapping[str, int]) -> None:
        """Record what was trained on: digest, and rows by kind."""
        content = mlflow.data.from_huggingface(dataset, name="mixture").to_dict()
        names = ("name", "digest", "source_type", "source", "schema", "profile")
        entity = mlflow.entities.Dataset(**{name: content.get(name) for name in names})
        tags = {f"visage.{kind}": str(count) for kind, count in counts.items()} | {"mlflow.data.context": "training"}
        inputs = [DatasetInput(entity, [InputTag(*pair) for pair in tags.items()])]
        self._ask(lambda: client().log_inputs(self.id, inputs))

    def checkpoint(self, folder: Path, step: int) -> str:
        """Keep a checkpoint's files as a LoggedModel of this run; returns its URI, ``models:/m-…``.

        It is READY, and among the run's outputs, only when all files are there.
        """
        about = {"tags": _all_tags({}), "params": {"step": str(step)}, "model_type": "chat"}
        made = self._ask(lambda: client().create_logged_model(self.experiment, folder.name, self.id, **about))
        keep(lambda: client().log_model_artifacts(made.model_id, str(folder)), self.id)
        self._ask(lambda: client().finalize_logged_model(made.model_id, "READY"))
        self._ask(lambda: client().log_outputs(self.id, [LoggedModelOutput(made.model_id, step)]))
        return f"models:/{made.model_id}"

    def _measured(self, numbers: Mapping[str, float], step: int, model_id: str | None = None) -> list[Metric]:
        now = int(1000 * time.time())
        return [
            Metric(name, float(value), now, step, model_id=model_id, run_id=self.id) for name, value in numbers.items()
        ]

    def _settings(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Keep settings, with which it shows at the start whether files can be kept; they are returned as kept."""
        settings = without_secrets(settings)
        text = json.dumps(settings, indent=1, sort_keys=True)
        keep(lambda: client().log_text(self.id, text, CONFIG), self.id, is_first=True)
        return settings

    def _ask(self, call: Callable[[], Answer]) -> Answer:
        with while_active(self.id):
            return ask(call)

    def _log(
        self,
        metrics: Sequence[Metric] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        all_params = [Param(*pair) for pair in (params or {}).items()]
        all_tags = [RunTag(*pair) for pair in (tags or {}).items()]
        self._ask(lambda: client().log_batch(self.id, metrics, all_params, all_tags))


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

    Raises:
        Mistake: The tracking store cannot be used.
        ServerAway: The tracking server stays away.
    """
    is_first = not _open
    with checked():
        begun = _begin(name, {"visage.kind": kind, **process_tag()}, _open[-1] if nested and _open else None)
    run = Run(begun.info.run_id, begun.info.experiment_id)
    with _ending(run, goes_on):
        if is_first:
            close_dead_runs()
        settings = run._settings(asdict(config))
        if is_first:
            check_arrived(begun, CONFIG)
        # `mlflow run` has logged some already, as they were typed; logging those again with another text would raise.
        texts = {setting: str(value) for setting, value in flat(settings) if setting not in begun.data.params}
        run._log(params={setting: text[:LONGEST_PARAMETER] for setting, text in texts.items()})
        before = replace(TALLY)
        try:
            yield run
        finally:
            if counts := TALLY.since(before):
                run.metrics(counts)


@contextmanager
def joined(run_id: str, config: Any, *, goes_on: Callable[[], bool]) -> Iterator[Run]:
    """A run that another process began, to work on it as well, or to go on with it.

    The run that `mlflow run` made for this process, if it did, is put inside it.

    Args:
        run_id: Of the run.
        config: The settings of this process.
        goes_on: As for `tracked`, whose errors it raises, too.
    """
    with ExitStack() as stack:
        is_first = not os.environ.get(RUN_ID)
        if not is_first:
            worker = stack.enter_context(tracked("worker", config, name="worker"))
            worker._log(tags={"mlflow.parentRunId": run_id})
        with checked():
            found = ask(lambda: client().get_run(run_id))
            check_active(found, "The study's run", "give `study` another name")
            run = Run(run_id, found.info.experiment_id)
            run._log(tags=process_tag())
            ask(lambda: client().update_run(run_id, "RUNNING"))
        stack.enter_context(_ending(run, goes_on))
        if is_first:
            close_dead_runs()
        run._settings(begun_with(run_id) or asdict(config))
        yield run


def begun_with(run_id: str) -> dict[str, Any] | None:
    """The settings that a run was begun with; None if they cannot be read."""
    try:
        return settings_of(run_id)
    except Exception:  # Each kind of store raises its own types. Whether it can be written to shows next.
        return None


def _begin(name: str | None, tags: Mapping[str, str], outer: Run | None) -> mlflow.entities.Run:
    """A new run inside the outer one; without that, the one that `mlflow run` made; without that, one at the top."""
    client()  # Makes a new store in a way that lets several processes begin at once.
    if outer:
        return _new_run(outer.experiment, name, {**tags, "mlflow.parentRunId": outer.id})
    if run_id := os.environ.pop(RUN_ID, ""):
        return _adopt(run_id, name, tags)
    return _new_run(_experiment(), name, tags)


def _experiment() -> str:
    """Id of the experiment that the user named for MLflow, or else this project's, which is made if need be."""
    name, number = os.environ.get("MLFLOW_EXPERIMENT_NAME"), os.environ.get(EXPERIMENT_ID)
    if number and not name:
        with checked():
            check_experiment(ask(lambda: client().get_experiment(number)))
        return number
    name = name or EXPERIMENT
    check_experiment(ask(lambda: client().get_experiment_by_name(name)))
    found = ask(lambda: mlflow.set_experiment(name))
    os.environ.pop(EXPERIMENT_ID, None)  # MLflow sets it for processes that this one starts; it was not the user.
    return str(found.experiment_id)


def _new_run(experiment: str, name: str | None, tags: Mapping[str, str]) -> mlflow.entities.Run:
    """A run with MLflow's own tags, too, of who runs what."""
    return ask(lambda: client().create_run(experiment, tags=_all_tags(tags), run_name=name))


def _all_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """These tags and MLflow's own, which hold names of users and files as the system has them."""
    return {key: shown(text) for key, text in resolve_tags(dict(tags)).items()}


def without_secrets(settings: Any) -> Any:
    """Settings, nested as they are, whose texts show no password."""
    if isinstance(settings, dict):
        return {name: without_secrets(value) for name, value in settings.items()}
    if isinstance(settings, list | tuple):
        return [without_secrets(value) for value in settings]
    return masked(settings) if isinstance(settings, str) else settings


def _adopt(run_id: str, name: str | None, tags: Mapping[str, str]) -> mlflow.entities.Run:
    """The run that `mlflow run` made, with the name that the user gave it, or else this one."""
    made = ask(lambda: client().get_run(run_id))
    check_active(made, f"`{RUN_ID}`", "unset it")
    if made.info.status == "FINISHED":
        raise Mistake(
            f"`{RUN_ID}` is {run_id!r}, a run that is finished: new numbers would mix with its own. Unset it."
        )
    is_unnamed = not made.info.run_name or MADE_UP_NAME.fullmatch(made.info.run_name)
    ask(lambda: client().update_run(run_id, "RUNNING", name if is_unnamed else None))
    Run(run_id, made.info.experiment_id)._log(tags=tags)
    return made


@contextmanager
def _ending(run: Run, goes_on: Callable[[], bool]) -> Iterator[None]:
    """Close a run that was begun, with the status that it ends in. One whose server is away stays open."""
    _open.append(run)
    try:
        yield
        _end(run, "FINISHED", goes_on)
    except ServerAway:
        raise
    except KeyboardInterrupt as error:
        # The interrupt may have hit a write to SQLite, and the frames of that would keep the database locked.
        traceback.clear_frames(error.__traceback__)
        with suppress(ServerAway, Mistake):
            _end(run, "KILLED", goes_on)
        raise
    except BaseException as error:
        with suppress(ServerAway, Mistake):
            run.tag("reason", one_line(error))
            _end(run, "FAILED", goes_on)
        raise
    finally:
        _open.remove(run)


def _end(run: Run, status: str, goes_on: Callable[[], bool]) -> None:
    if not goes_on():
        run._ask(lambda: client().set_terminated(run.id, status))
