"""What a signal leaves behind: a run that is KILLED, and no process; on real processes and a real store."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from visage_mlflow.commands import signals
from visage_mlflow.tracking import client as tracking

ROOT = Path(__file__).parents[1]
PATIENCE = 300
WORK = {
    "sleeps": "time.sleep(60)",
    # Python only prints what is raised in there.
    "swallows": """
class Swallowing:
    def __del__(self):
        time.sleep(3)
Swallowing()
time.sleep(60)
""",
    "has a child": "child = subprocess.Popen(['sleep', '300']); print(child.pid, flush=True); child.wait()",
    "closes slowly": "slow.append(2); time.sleep(60)",
}
SCRIPT = """
import subprocess, sys, time
from experiments import command_line
from visage_mlflow.config import EvaluateConfig

def main(config):
    from visage_mlflow.record import runs
    slow = [0]
    with runs.tracked("evaluate", config, goes_on=lambda: time.sleep(slow[-1]) or False) as run:
        print(run.id, flush=True)
        {}
sys.exit(command_line.run(EvaluateConfig, main, []))
"""


def script(work):
    return SCRIPT.format(WORK[work].strip().replace("\n", "\n        "))


@pytest.fixture
def started(client):
    """A function that starts a script as an entry point; nothing that it started outlives the test."""
    processes = []

    def start(work, prefix=(), **environment):
        process = subprocess.Popen(
            [*prefix, sys.executable, "-c", script(work)],
            env={**os.environ, "MLFLOW_TRACKING_URI": tracking.store(), "OMP_NUM_THREADS": "1", **environment},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        processes.append(process)
        return process, process.stdout.readline().strip()

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def end(process):
    """Exit status, and what was said."""
    _, said = process.communicate(timeout=PATIENCE)
    return process.returncode, said


def test_a_signal_ends_the_run_as_killed_and_the_children(client, started):
    process, run_id = started("has a child")
    child = psutil.Process(int(process.stdout.readline()))
    process.send_signal(signal.SIGTERM)
    status, said = end(process)
    assert status == 130 and said.endswith("\nstopped\n") and "Traceback" not in said
    assert client.get_run(run_id).info.status == "KILLED"
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_an_interrupt_that_python_swallowed_comes_again(client, started):
    process, run_id = started("swallows")
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    status, said = end(process)
    assert status == 130 and "Exception ignored" in said
    assert client.get_run(run_id).info.status == "KILLED"


def test_a_second_signal_lets_the_run_be_closed_and_a_third_ends_at_once(client, started):
    patient, run_id = started("closes slowly")
    hasty, other_id = started("closes slowly")
    for process, n_signals in ((patient, 2), (hasty, 3)):
        for _ in range(n_signals):
            process.send_signal(signal.SIGTERM)
            time.sleep(0.5)
    status, _ = end(hasty)
    assert status == 128 + signal.SIGTERM and client.get_run(other_id).info.status == "RUNNING"
    status, said = end(patient)
    assert status == 130 and "once more ends at once" in said
    assert client.get_run(run_id).info.status == "KILLED"


def test_a_run_whose_mlflow_run_is_gone_is_killed(client):
    """As `mlflow run` starts a command: through bash, which outlives it."""
    run_id = client.create_run("0", run_name="brave-fox-12").info.run_id
    launcher = f"""
import subprocess, sys
subprocess.Popen(["bash", "-c", '"$0" -c "$1"; true', sys.executable, {script("sleeps")!r}]).wait()
"""
    environment = {**os.environ, "MLFLOW_TRACKING_URI": tracking.store(), "MLFLOW_RUN_ID": run_id}
    process = subprocess.Popen(
        [sys.executable, "-c", launcher], env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdout.readline().decode().strip() == run_id
    below = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    _, alive = psutil.wait_procs(below, timeout=PATIENCE)
    assert not alive and client.get_run(run_id).info.status == "KILLED"
    assert b"`mlflow run` is gone" in process.communicate()[0]


def test_without_mlflow_run_nobody_is_watched(monkeypatch):
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    assert signals.mlflow_run() is None


MEASURE = """
import sys
from experiments import signals
from visage_mlflow import machine
from visage_mlflow.config import LandscapeConfig
print("ready", flush=True)
with signals.handled():
    machine.peak_memory_ratio(LandscapeConfig(model=sys.argv[1]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_the_process_that_measures_memory_ends_with_the_one_that_started_it(tmp_path, number):
    process = subprocess.Popen(
        [sys.executable, "-c", MEASURE, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.readline()
    deadline = time.monotonic() + PATIENCE
    while not (below := psutil.Process(process.pid).children(recursive=True)):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    process.communicate(timeout=PATIENCE)
    _, alive = psutil.wait_procs(below, timeout=PATIENCE)
    assert not alive and process.returncode != 0
