"""The life of a run: begun, written to, ended. It goes on while the tracking server is away."""

from __future__ import annotations

import json
import os
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visage_mlflow.measuring.tally import TALLY
from visage_mlflow.results import Result
from visage_mlflow.results.base import flat
from visage_mlflow.text.errors import let_go, one_line
from visage_mlflow.tracking import client, dead_runs, interrupts, outages, outbox, uploads
from visage_mlflow.tracking.operations import measured, milliseconds
from visage_mlflow.tracking.outages import Away, patience

if TYPE_CHECKING:
    from datasets import Dataset
    from matplotlib.figure import Figure

LONGEST_PARAMETER, LONGEST_TAG = 6000, 8000

_beats = dead_runs.Beats()
_open: list[Run] = []


@dataclass(frozen=True)
class Run:
    """An open MLflow run, and the few ways in which this project writes to one."""

    id: str
    experiment: str = ""

    def metrics(self, values: Mapping[str, float], step: int | None = None, model_uri: str | None = None) -> None:
        """Log numbers; with `model_uri`, on that logged model too."""
        model_id = model_uri.removeprefix("models:/") if model_uri and model_uri.startswith("models:/m-") else None
        self._log(metrics=measured(values, step or 0), model=model_id)

    def history(self, history: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        """Log numbers by step."""
        self._log(metrics=[one for step, numbers in history for one in measured(numbers, step)])

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
        self._file(name, lambda path: path.write_text(text, encoding="utf-8"))

    def figure(self, figure: Figure, name: str) -> None:
        """Keep a figure."""
        self._file(name, figure.savefig)

    def dataset(self, dataset: Dataset, counts: Mapping[str, int]) -> None:
        """Record what was trained on: digest, and rows by kind."""
        tags = {f"visage.{kind}": str(count) for kind, count in counts.items()} | {"mlflow.data.context": "training"}
        self._put({"do": "dataset", "dataset": client.described(dataset, "mixture"), "tags": tags})

    def checkpoint(self, folder: Path, step: int) -> str:
        """Keep a checkpoint's files as a LoggedModel of this run; returns its URI, ``models:/m-…``.

        While the server is away, the files are copied into the outbox, and the id is made up: `tracking.fetch` finds
        the files by it in this process, and, once they are uploaded, on the server in any other one.
        """
        made_up = f"m-{uuid.uuid4().hex}"
        about = {"name": folder.name, "step": step, "experiment": self.experiment}
        model = self._put({"do": "model", "id": made_up, **about})
        self._put({"do": "model files", "model": model}, folder)
        self._put({"do": "model ready", "model": model, "step": step})
        return f"models:/{model}"

    def _log(self, **what: Any) -> None:
        self._put({"do": "log", **what})

    def _file(self, name: str, write: Callable[[Path], object]) -> None:
        with tempfile.TemporaryDirectory(prefix="visage-") as folder:
            path = Path(folder) / Path(name).name
            write(path)
            self._put({"do": "file", "name": name}, path)

    def _put(self, operation: outbox.Operation, payload: Path | None = None) -> str:
        box = outbox.current()
        operation = {**operation, "run": self.id}
        return box.put(operation, payload) if box else client.send(operation, payload)


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
        ValueError: The tracking store cannot be used.
    """
    is_first = not _open
    tags = {"visage.kind": kind, dead_runs.HEARTBEAT: dead_runs.sign()}
    with ExitStack() as stack:
        with interrupts.held():
            run, known = _begin(name, tags, nested)
            stack.enter_context(_ending(run, goes_on, run.id))
        if is_first:
            dead_runs.close_dead_runs()
        run.text(json.dumps(asdict(config), indent=1, sort_keys=True), "config.json")
        # `mlflow run` has logged some already, as they were typed; logging those again with another text would raise.
        texts = {setting: str(value) for setting, value in flat(asdict(config)) if setting not in known}
        run._log(params={setting: value[:LONGEST_PARAMETER] for setting, value in texts.items()})
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
        goes_on: As for `tracked`, whose error it raises, too.
    """
    with ExitStack() as stack:
        is_first = not os.environ.get(client.RUN_ID)
        if not is_first:
            worker = stack.enter_context(tracked("worker", config, name="worker"))
            worker._log(tags={"mlflow.parentRunId": run_id})
        with interrupts.held():
            there = client.resume(run_id, is_first=is_first)
            run = Run(there.id, there.experiment)
            stack.enter_context(_ending(run, goes_on, f"{run_id}-{os.getpid()}"))
        run._log(tags={dead_runs.SHARED: "true", dead_runs.HEARTBEAT: dead_runs.sign()})
        if is_first:
            dead_runs.close_dead_runs()
        yield run


def upload() -> list[uploads.Upload]:
    """Send what is in the outboxes of this machine's processes that ended to the tracking server.

    Raises:
        ValueError: Some of it is for another tracking server; the rest was sent.
    """
    return uploads.upload(client.place(), client.send, lambda run_id: client.close(run_id, dead_runs.DIED))


def _begin(name: str | None, tags: dict[str, str], nested: bool) -> tuple[Run, frozenset[str]]:
    """A run, and the names of the parameters that it has. One whose server is away is called by an id made up here."""
    outer = _open[-1] if nested and _open else None
    box = outbox.current()
    if outer is None or box is None or client.is_innermost(outer.id):
        try:
            if outer and box and box.kept() and not box.flush(0):
                raise Away("what came before waits")
            there = client.begin(name, tags, outer.experiment if outer else None, nested=nested)
            return Run(there.id, there.experiment), there.params
        except Away:
            if outer is None:
                raise
    assert outer is not None and box is not None
    tags = client.with_context({**tags, "mlflow.parentRunId": outer.id})
    about = {"experiment": outer.experiment, "name": name, "tags": tags, "time": milliseconds()}
    made = box.put({"do": "create", "id": uuid.uuid4().hex, **about})
    return Run(made, outer.experiment), frozenset()


@contextmanager
def _ending(run: Run, goes_on: Callable[[], bool], folder: str) -> Iterator[None]:
    """Close a run that was begun, with the status that it ends in."""
    status = "FAILED"
    with ExitStack() as stack:
        if outbox.current() is None:
            stack.enter_context(outbox.opened(outbox.Outbox(uploads.root() / folder, client.place(), client.send)))
        _open.append(run)
        _beats.start(run.id)
        try:
            yield
            status = "FINISHED"
        except KeyboardInterrupt as error:
            status = "KILLED"
            interrupts.notice()
            let_go(error)  # One that fell into a write to SQLite would hold its lock, and the run could not be closed.
            raise
        except Exception as error:
            run.tag("reason", one_line(error))
            raise
        finally:
            with interrupts.held(), outages.quick("2") if status == "KILLED" else nullcontext():
                _close(run, status, goes_on)


def _close(run: Run, status: str, goes_on: Callable[[], bool]) -> None:
    box = outbox.current()
    assert box is not None
    _beats.stop(run.id)
    try:
        is_shared = goes_on()
        run._put({"do": "end", "status": "RUNNING" if is_shared else status, "time": milliseconds()})
        if is_shared and not goes_on():  # The last of the others ended in between.
            run._put({"do": "end", "status": status, "time": milliseconds()})
    finally:
        _open.remove(run)
        client.leave(run.id)
        if not _open:
            try:
                box.flush(1.0 if status == "KILLED" else patience())
            finally:
                box.close()
                if box.folder.exists():
                    uploads.leave(box.folder)
