"""A search in two processes, of which one is killed, over each kind of storage."""

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
from functools import cached_property
from pathlib import Path
from typing import Any

import faults
import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState
from workplace import Workplace, flags

from visage_mlflow.results import Search
from visage_mlflow.search.study import DIED, SURPLUS

PASSWORD = "salt-and-vinegar"
PATIENCE = 300
"""Seconds after which something that was waited for counts as not happening."""
ENDED = (TrialState.COMPLETE, TrialState.PRUNED)


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
    """Of a study whose trials take seconds, and whose dead are found 12 seconds after their last sign of life."""
    searched = {"safe": "0..10", "benign": 0, "learning_rate": "2e-3..1e-2", "epochs": 2, "lora_rank": 8}
    more = {"model": aligned_folder, "harmful": 20, "dtype": "float32", "train_batch_size": 8, "n_checkpoints": 1}
    more |= {
        "n_prompts": 8,
        "n_benign": 4,
        "n_check_prompts": 8,
        "n_check_benign": 8,
        "max_asr": 90,
        "outside_asr": 95,
        "max_over_refusal": 95,
        "check_seeds": 2,
        "max_checks": 1,
        "margin_up_to": 0,
        "n_trials": 2,
        "heartbeat": 3,
    }
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


def wait_for(what: Callable[[], Any], log: Callable[[], str]) -> Any:
    """What it returns once that is something."""
    deadline = time.monotonic() + PATIENCE
    while not (found := what()):
        assert time.monotonic() < deadline, log()
        time.sleep(0.1)
    return found


@contextlib.contextmanager
def searching(
    place: Workplace, n: int, settings: dict[str, Any]
) -> Iterator[tuple[Callable[[int], Any], list[int], Callable[[], str]]]:
    """Processes that run one command at the same time, each with an `output_dir` by which its trials are known.

    A function that waits for the end of one, and returns its exit status (negative for a signal); their ids; and a
    function that returns what they said. None outlives this.
    """
    logs = [place.folder / f"process-{number}.log" for number in range(n)]
    server = faults.shared()
    ids = [
        server.ask(
            entry_point="search",
            flags=flags({**settings, "output_dir": place.folder / f"outputs-{number}"}),
            folder=str(place.folder),
            environment=place.environment,
            log=str(log),
        )
        for number, log in enumerate(logs)
    ]
    alive = set(ids)

    def wait(number: int) -> Any:
        status = server.ask(wait=ids[number], seconds=PATIENCE)
        if status is not None:
            alive.remove(ids[number])
        return status

    try:
        yield wait, ids, lambda: "\n".join(log.read_text()[-3000:] for log in logs)
    finally:
        for one in alive:
            os.kill(one, signal.SIGKILL)
            server.ask(wait=one, seconds=PATIENCE)


def test_a_study_in_two_processes_ends_as_if_none_had_been_killed(
    place: Workplace, settings: dict[str, Any], storage: str
) -> None:
    study = Study(storage, place)
    with searching(place, 2, {**settings, "storage": storage}) as (wait, ids, log):
        trial, number = wait_for(
            lambda: next(((trial, k) for k in range(2) if (trial := study.running_in(k))), None), log
        )
        os.kill(ids[number], signal.SIGKILL)
        assert (wait(number), wait(1 - number)) == (-signal.SIGKILL, 0), log()
        assert PASSWORD not in log()
    trials = study.trials()
    dead = trials[trial.number]
    assert len(study.ended()) == 2 and dead.state == TrialState.FAIL
    rest = [other for other in trials if other.state not in ENDED and other.number != dead.number]
    assert {(other.state, other.user_attrs.get("reason")) for other in rest} <= {(TrialState.FAIL, SURPLUS)}

    (run,) = place.runs("search")
    assert run.info.status == "FINISHED"
    by_id = {child.info.run_id: child for child in place.runs("trial")}
    killed = by_id.pop(trial.user_attrs["run"])
    assert (killed.info.status, killed.data.tags["visage.reason"]) == ("KILLED", DIED)
    assert [child.info.status for child in by_id.values()] == ["FINISHED"] * 2
    assert {child.info.run_id for child in place.inside(run)} > set(by_id)
    assert [check.info.status for check in place.runs("check")] == ["FINISHED"] * len(place.runs("check"))
    assert {other.user_attrs["run"] for other in study.ended()} == set(by_id)
    result = Search.load(place.artifact(run, "search.json"))
    assert result.n_ended == len(trials)
    (again,) = [other for other in result.trials if other.retry_of == dead.number]
    assert again.state in ("complete", "pruned") and again.params == trial.params
    assert (result.checks == ()) == (result.leading is None)

    config = place.artifact(run, "config.json").read_text()
    shown = [run.data.params["storage"], *run.data.params.values(), *run.data.tags.values(), config]
    assert not [text for text in shown if PASSWORD in text]
    assert shown[0] == storage.replace(PASSWORD, "***")
