"""A search in several processes, of which some are killed, interrupted or begun again, over each kind of storage."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import faults
import optuna
import pytest
from mlflow.entities import Run
from optuna.trial import FrozenTrial, TrialState
from workplace import Workplace, flags

from visage_mlflow.results import Search
from visage_mlflow.search.study import DIED, SURPLUS

PASSWORD = "salt-and-vinegar"
PATIENCE = 300
"""Seconds after which something that was waited for counts as not happening."""
ENDED = (TrialState.COMPLETE, TrialState.PRUNED)
STOPPED = (130, -signal.SIGINT)
"""Both are 130 in a shell. Python ends by the signal where that fell into code made from text, as in dataclasses."""


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    """The URL, password included, of a database in a server of its own, which is gone afterwards."""
    programs = server_programs()
    is_root = os.geteuid() == 0  # PostgreSQL does not run as root.
    if programs is None:
        pytest.skip("no PostgreSQL server is installed: neither on PATH nor under /usr/lib/postgresql")
    if is_root and "postgres" not in {user.pw_name for user in pwd.getpwall()}:
        pytest.skip("PostgreSQL does not run as root, and there is no user postgres to run it as")
    # Not under tmp_path: as root, that lies in a folder that nobody else may enter.
    folder = Path(tempfile.mkdtemp(prefix="visage-postgresql-"))
    (folder / "password").write_text(PASSWORD)
    if is_root:
        for path in (folder, folder / "password"):
            shutil.chown(path, "postgres")

    def call(program: str, *arguments: str) -> None:
        user: dict[str, Any] = {"user": "postgres", "group": "postgres", "extra_groups": ()} if is_root else {}
        command = [programs / program, "-D", folder / "data", *arguments]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE, **user)
        assert done.returncode == 0, done.stdout + done.stderr

    try:
        call("initdb", "-A", "scram-sha-256", "-U", "ann", f"--pwfile={folder / 'password'}")
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        settings = {"listen_addresses": "'127.0.0.1'", "port": port, "unix_socket_directories": "''", "fsync": "off"}
        with (folder / "data" / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = {value}\n" for name, value in settings.items())
        call("pg_ctl", "-l", str(folder / "log"), "-w", "start")
        try:
            yield f"postgresql://ann:{PASSWORD}@127.0.0.1:{port}/postgres"
        finally:
            call("pg_ctl", "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder)


def server_programs() -> Path | None:
    """The folder of the newest PostgreSQL server; None where there is none."""
    on_path = [Path(found).resolve().parent for found in [shutil.which("initdb")] if found]
    packaged = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
    folders = on_path + packaged[::-1]
    return next((path for path in folders if (path / "initdb").exists() and (path / "pg_ctl").exists()), None)


@pytest.fixture(params=["file", "postgresql"])
def storage(request: pytest.FixtureRequest) -> str:
    """What `storage` is given; a file's name is taken from the folder in which the search runs."""
    return request.getfixturevalue("postgresql") if request.param == "postgresql" else "studies/search.db"


@pytest.fixture
def place(tmp_path: Path, sets: Path) -> Workplace:
    return Workplace(tmp_path, sets)


@pytest.fixture
def settings(place: Workplace, aligned_folder: Path) -> dict[str, Any]:
    """Of a study whose trials take seconds."""
    searched = {"safe": "0..10", "benign": "0..10", "learning_rate": "2e-3..1e-2", "epochs": "2..3", "lora_rank": 8}
    more = {"model": aligned_folder, "harmful": 20, "dtype": "float32", "train_batch_size": 8, "n_checkpoints": 2}
    more |= {"n_prompts": 8, "n_benign": 4, "margin_up_to": 0}
    return {**place.measure, **place.data, **searched, **more}


class Study:
    """A study as another process sees it, once a trial was tracked."""

    def __init__(self, storage: str, place: Workplace) -> None:
        self.url = storage.replace("postgresql:", "postgresql+psycopg:")
        if "://" not in storage:
            self.url = f"sqlite:///{place.folder / storage}"
        self.place = place

    @cached_property
    def opened(self) -> optuna.Study:
        """Read only. Before the search made its tables, this would make them itself."""
        return optuna.load_study(study_name="mixtures", storage=self.url)

    def trials(self) -> list[FrozenTrial]:
        """As they are now."""
        return self.opened.get_trials() if self.place.runs("trial") else []

    def ended(self) -> list[FrozenTrial]:
        """Trials with a result."""
        return [trial for trial in self.trials() if trial.state in ENDED]

    def running_in(self, number: int) -> FrozenTrial | None:
        """The trial that trains in the process of that number, with its MLflow run."""
        for trial in self.trials():
            if trial.state == TrialState.RUNNING and "run" in trial.user_attrs:
                run = self.place.client.get_run(trial.user_attrs["run"])
                if run.data.params.get("output_dir", "").endswith(f"outputs-{number}"):
                    return trial
        return None


@dataclass
class Process:
    """A search, forked from a process that has imported everything."""

    pid: int
    status: int | None = None

    def wait(self) -> int | None:
        """Its exit status, negative for a signal; None if it does not end."""
        self.status = faults.shared().ask(wait=self.pid, seconds=PATIENCE)
        return self.status


def wait_for(what: Callable[[], Any], log: Callable[[], str]) -> Any:
    """What it returns once that is something."""
    deadline = time.monotonic() + PATIENCE
    while not (found := what()):
        assert time.monotonic() < deadline, log()
        time.sleep(0.1)
    return found


@contextlib.contextmanager
def searching(place: Workplace, n: int, settings: dict[str, Any]) -> Iterator[tuple[list[Process], Callable[[], str]]]:
    """Processes that run one command at the same time, and what they said. None outlives this.

    Each has an `output_dir` of its own, by which its trials are known.
    """
    logs = [place.folder / f"process-{number}.log" for number in range(n)]
    processes = [
        Process(
            faults.shared().ask(
                entry_point="search",
                flags=flags({**settings, "output_dir": place.folder / f"outputs-{number}"}),
                folder=str(place.folder),
                environment=place.environment,
                log=str(log),
            )
        )
        for number, log in enumerate(logs)
    ]
    try:
        yield processes, lambda: "\n".join(log.read_text()[-3000:] for log in logs)
    finally:
        for process in processes:
            if process.status is None:
                os.kill(process.pid, signal.SIGKILL)
                process.wait()


def the_run(place: Workplace) -> Run:
    """The one run that the study has."""
    (run,) = place.runs("search")
    return run


@pytest.mark.parametrize(("storage", "n", "n_trials"), [("file", 3, 3), ("postgresql", 2, 2)], indirect=["storage"])
def test_a_study_in_several_processes_ends_as_if_none_had_been_killed(
    place: Workplace, settings: dict[str, Any], storage: str, n: int, n_trials: int
) -> None:
    study = Study(storage, place)
    with searching(place, n, {**settings, "n_trials": n_trials, "storage": storage}) as (processes, log):
        trial, number = wait_for(
            lambda: next(((trial, k) for k in range(n) if (trial := study.running_in(k))), None), log
        )
        os.kill(processes[number].pid, signal.SIGKILL)
        expected = [-signal.SIGKILL if k == number else 0 for k in range(n)]
        assert [process.wait() for process in processes] == expected, log()
        assert PASSWORD not in log()
    trials = study.trials()
    dead = trials[trial.number]
    assert len(study.ended()) == n_trials and dead.state == TrialState.FAIL
    rest = [other for other in trials if other.state not in ENDED and other.number != dead.number]
    assert {(other.state, other.user_attrs.get("reason")) for other in rest} <= {(TrialState.FAIL, SURPLUS)}

    run = the_run(place)
    assert run.info.status == "FINISHED"
    children = place.inside(run)
    by_id = {child.info.run_id: child for child in children}
    assert len(place.runs("trial")) == len(children) == n_trials + 1
    assert sorted(child.info.status for child in children) == ["FINISHED"] * n_trials + ["KILLED"]
    assert by_id[trial.user_attrs["run"]].info.status == "KILLED"
    assert by_id[trial.user_attrs["run"]].data.tags["visage.reason"] == DIED
    assert {child.data.tags["visage.kind"] for child in children} == {"trial"}
    assert {other.user_attrs["run"] for other in study.ended()} == set(by_id) - {trial.user_attrs["run"]}
    result = Search.load(place.artifact(run, "search.json"))
    assert result.n_ended == len(trials)
    (again,) = [other for other in result.trials if other.retry_of == dead.number]
    assert again.state in ("complete", "pruned") and again.params == trial.params
    assert {name: run.data.metrics[f"n_{name}"] for name in ("running", "waiting")} == {"running": 0, "waiting": 0}
    assert (result.check is None) == (result.best is None)

    config = place.artifact(run, "config.json").read_text()
    shown = [run.data.params["storage"], *run.data.params.values(), *run.data.tags.values(), config]
    assert not [text for text in shown if PASSWORD in text]
    assert shown[0] == storage.replace(PASSWORD, "***")


def test_a_study_that_is_interrupted_goes_on_with_the_same_trial_and_ends_when_it_has_its_trials(
    place: Workplace, settings: dict[str, Any]
) -> None:
    settings |= {"n_trials": 1, "storage": "search.db"}
    study = Study("search.db", place)
    interrupted = []
    for number in (signal.SIGTERM, signal.SIGINT):
        with searching(place, 1, settings) as (processes, log):
            interrupted.append(wait_for(lambda: study.running_in(0), log))
            os.kill(processes[0].pid, number)
            assert processes[0].wait() in STOPPED, log()
            assert "Traceback" not in log()
        assert place.client.get_run(interrupted[-1].user_attrs["run"]).info.status == "KILLED"
        assert the_run(place).info.status == "KILLED"
    parent = the_run(place).info.run_id
    with searching(place, 1, settings) as (processes, log):
        assert processes[0].wait() == 0, log()
    run = the_run(place)
    assert (run.info.run_id, run.info.status) == (parent, "FINISHED") and len(place.inside(run)) == 3
    (again,) = study.ended()
    assert [again.user_attrs["retry_of"], interrupted[1].user_attrs["retry_of"]] == [1, 0]
    assert again.params == interrupted[1].params == interrupted[0].params
