"""Which open runs are of processes that died, told from those of other processes, machines and projects."""

import json
import os
import signal
import subprocess
import time

import mlflow
import psutil
import pytest
from prepared import start

from visage_mlflow.config import EvaluateConfig
from visage_mlflow.language.uris import locate
from visage_mlflow.text.errors import Mistake
from visage_mlflow.tracking import connection, dead_runs, lookup, processes, runs


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
    assert not processes.is_gone({**gone, **elsewhere})


def test_a_run_is_dead_when_all_its_processes_certainly_are(gone):
    tags = {"visage.kind": "search", "visage.process.a-1": json.dumps(gone)}
    elsewhere = {"visage.process.b-1": json.dumps({**gone, "host": "another"})}
    assert dead_runs.is_dead(tags) and not dead_runs.is_dead(tags | elsewhere)
    assert not dead_runs.is_dead(tags | dead_runs.process_tag())
    assert not dead_runs.is_dead({"visage.kind": "evaluate"})  # Nothing is known of its process.


def test_a_process_goes_by_its_host_and_number_as_a_name_that_mlflow_takes(monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "Ann's 🖥")
    (name,) = dead_runs.process_tag()
    assert name == f"visage.process.Ann-s---{os.getpid()}"


# On a real store


def killed_in_a_checkpoint(uri, folder):
    """A run and one inside, killed when half of the checkpoint's files are in the store."""
    mlflow.set_tracking_uri(uri)
    client = connection.client()
    with runs.tracked("main", EvaluateConfig()) as outer:
        with runs.tracked("finetune", EvaluateConfig(), nested=True) as inner:

            def log_half(model, files):
                mlflow.MlflowClient.log_model_artifacts(client, model, str(folder / "half"))
                (folder / "ids").write_text(f"{outer.id} {inner.id} {model}")
                os.kill(os.getpid(), signal.SIGKILL)

            client.log_model_artifacts = log_half
            inner.checkpoint(folder / "checkpoint-4", 4)


def test_the_next_command_closes_the_runs_of_a_killed_process_and_no_other(client, tmp_path, capsys, monkeypatch):
    for name in ("half", "checkpoint-4"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text("{}")
    (tmp_path / "checkpoint-4" / "adapter_model.safetensors").write_bytes(b"1")
    process = start(killed_in_a_checkpoint, connection.store(), tmp_path)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    outer, inner, model = (tmp_path / "ids").read_text().split()
    with runs.tracked("search", EvaluateConfig()) as mine:
        monkeypatch.setattr(runs, "_open", [])  # As another process, which has no run open yet.
        strangers = client.create_run("0").info.run_id
        with runs.tracked("evaluate", EvaluateConfig()):
            pass
        monkeypatch.undo()
        ended = [client.get_run(run_id) for run_id in (outer, inner, mine.id, strangers)]
    assert [run.info.status for run in ended] == ["KILLED", "KILLED", "RUNNING", "RUNNING"]
    assert {run.data.tags["visage.reason"] for run in ended[:2]} == {dead_runs.DIED}
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and said[0].startswith("2 runs of processes that died: KILLED (")
    # Half a checkpoint is nobody's model.
    assert str(client.get_logged_model(model).status) == "FAILED" and not ended[1].outputs.model_outputs
    for uri in (f"models:/{model}", f"runs:/{inner}/checkpoint-4"):
        with pytest.raises(Mistake, match=r"cut off while it was kept \(FAILED\)"):
            locate(uri, lookup.fetch)
