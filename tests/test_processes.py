"""Which runs are of processes that died, told from those of slow ones, of other machines, and of other projects."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from visage_mlflow.config import EvaluateConfig
from visage_mlflow.tracking import client as tracking
from visage_mlflow.tracking import dead_runs as beats
from visage_mlflow.tracking import processes, runs

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def gone():
    """A process that ended."""
    child = subprocess.Popen(["sleep", "60"])
    there = {**processes.this_process(), "pid": child.pid, "since": psutil.Process(child.pid).create_time()}
    child.kill()
    child.wait()
    return there


def test_this_process_lives_and_one_that_ended_does_not(gone):
    assert not processes.is_gone(processes.this_process()) and processes.is_gone(gone)


def test_a_zombie_is_gone():
    child = subprocess.Popen(["true"])
    there = {**processes.this_process(), "pid": child.pid, "since": psutil.Process(child.pid).create_time()}
    while psutil.Process(child.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    assert processes.is_gone(there)
    child.wait()


def test_another_process_with_the_same_number_is_another():
    assert processes.is_gone({**processes.this_process(), "since": 1.0})


@pytest.mark.parametrize("elsewhere", [{"host": "another"}, {"space": "another container"}])
def test_of_a_process_elsewhere_nothing_can_be_told(gone, elsewhere):
    assert not processes.is_gone({**gone, **elsewhere}) and not processes.is_here({**gone, **elsewhere})


# Which open runs are dead


def open_run(process, age, kind="evaluate", began=1000.0, **tags):
    sign = json.dumps({**process, "at": 10_000.0 - age})
    return tracking.OpenRun("run", "0", began, {"visage.kind": kind, beats.HEARTBEAT: sign, **tags}, frozenset())


@pytest.mark.parametrize(
    ("elsewhere", "kind", "tags", "age", "dead"),
    [
        ({}, "evaluate", {}, 0, True),
        ({}, "search", {}, 59, False),
        ({}, "search", {}, 61, True),
        ({}, "main", {beats.SHARED: "true"}, 59, False),
        ({}, "main", {beats.SHARED: "true"}, 61, True),
        ({"host": "another"}, "evaluate", {}, 299, False),
        ({"host": "another"}, "evaluate", {}, 301, True),
        ({"space": "another"}, "evaluate", {}, 299, False),
    ],
)
def test_a_run_is_dead_at_once_or_after_a_grace(gone, elsewhere, kind, tags, age, dead):
    assert beats.is_dead(open_run({**gone, **elsewhere}, age, kind, **tags), 10_000.0) == dead


def test_a_run_whose_process_lives_is_never_dead_however_slow():
    assert not beats.is_dead(open_run(processes.this_process(), 9_000), 10_000.0)


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", "{", '{"at": 1}', '{"host": "a", "at": "x"}'])
def test_a_run_without_signs_of_life_is_dead_after_a_day(text):
    run = tracking.OpenRun("run", "0", 0.0, {beats.HEARTBEAT: text} if text else {}, frozenset())
    assert not beats.is_dead(run, 86_399.0) and beats.is_dead(run, 86_401.0)


# On a real store


def test_a_run_gives_signs_of_life_until_it_ends(client, monkeypatch):
    monkeypatch.setattr(beats, "INTERVAL", 0.05)

    def last(run_id):
        return json.loads(client.get_run(run_id).data.tags[beats.HEARTBEAT])

    with runs.tracked("main", EvaluateConfig()) as outer, runs.tracked("step", EvaluateConfig(), nested=True) as inner:
        first = [last(outer.id), last(inner.id)]
        assert first[0].keys() == {"host", "pid", "since", "space", "at"} and first[0]["pid"] == os.getpid()
        deadline = time.monotonic() + 20
        while any(last(run.id)["at"] <= before["at"] for run, before in zip((outer, inner), first, strict=True)):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    time.sleep(0.2)
    ended = last(outer.id)
    time.sleep(0.2)
    assert last(outer.id) == ended


KILLED = """
import os, signal, sys
from pathlib import Path
from visage_mlflow.config import EvaluateConfig
from visage_mlflow.record import runs
with runs.tracked("main", EvaluateConfig()) as outer, runs.tracked("finetune", EvaluateConfig(), nested=True) as run:
    model = run._put({"do": "model", "id": "m-1", "name": "checkpoint", "step": 1, "experiment": run.experiment})
    print(outer.id, run.id, model, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_next_run_closes_those_of_a_killed_process_and_no_other(client, tmp_path, capsys):
    environment = {**os.environ, "MLFLOW_TRACKING_URI": tracking.store()}
    with runs.tracked("search", EvaluateConfig()) as mine:
        done = subprocess.run(
            [sys.executable, "-c", KILLED], env=environment, cwd=ROOT, capture_output=True, text=True
        )
        *dead, model = done.stdout.split()
        strangers = client.create_run("0").info.run_id
        assert {client.get_run(run_id).info.status for run_id in (*dead, mine.id, strangers)} == {"RUNNING"}
        assert "died" not in capsys.readouterr().err
        runs._open.clear()  # As another process, which has no run open yet.
        with runs.tracked("evaluate", EvaluateConfig(), nested=True):
            pass
        runs._open.append(mine)
        ended = [client.get_run(run_id) for run_id in (*dead, mine.id, strangers)]
    assert [run.info.status for run in ended] == ["KILLED", "KILLED", "RUNNING", "RUNNING"]
    assert {run.data.tags["visage.reason"] for run in ended[:2]} == {beats.DIED}
    assert str(client.get_logged_model(model).status) == "FAILED" and not ended[1].outputs.model_outputs
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and said[0].startswith("2 runs of processes that died")
