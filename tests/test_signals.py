"""What a signal does to a command, and that none outlives the `mlflow run` that started it."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from visage_mlflow.commands import signals

ROOT = Path(__file__).parents[1]
PATIENCE = 300
BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


@pytest.fixture(autouse=True)
def heard():
    """As started in a terminal: what a shell starts in the background, this test run for instance, ignores Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def send(number):
    os.kill(os.getpid(), number)
    time.sleep(0.1)  # Python calls the handler between two steps.


@BOTH
def test_a_signal_interrupts_and_the_handlers_from_before_come_back(number):
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), signals.as_interrupts():
        send(number)
    assert signal.getsignal(number) == before


@BOTH
def test_a_second_signal_right_after_the_first_lets_the_run_be_closed(monkeypatch, number):
    monkeypatch.setattr(signals, "TOGETHER", 1e6)
    with signals.as_interrupts():
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)
        send(number)


def test_a_later_signal_interrupts_again(monkeypatch):
    monkeypatch.setattr(signals, "TOGETHER", 0.0)
    with signals.as_interrupts():
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                send(signal.SIGTERM)


def test_a_signal_that_the_shell_had_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with signals.as_interrupts():
            send(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


# What outlives whom

COMMAND = """
import sys, time
from visage_mlflow.commands.command_line import run
from visage_mlflow.config import EvaluateConfig

def main(config):
    print("works", flush=True)
    time.sleep(600)

sys.exit(run(EvaluateConfig, main, []))
"""
LAUNCHER = """
import subprocess, sys
subprocess.Popen(["bash", "-c", sys.argv[1]]).wait()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell a process that its parent ended")
@pytest.mark.parametrize("before", ["", "true && "], ids=["alone", "after another command"])
def test_a_command_ends_with_the_mlflow_run_that_started_it(before):
    """As `mlflow run` starts one, by itself or after activating an environment."""
    command = f"{before}{sys.executable} -c '{COMMAND}'"
    process = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, command],
        env={**os.environ, "MLFLOW_RUN_ID": "0" * 32},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout.readline() == "works\n"
    below = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    said, _ = process.communicate(timeout=PATIENCE)  # Ends when nobody can write any more.
    _, alive = psutil.wait_procs(below, timeout=PATIENCE)
    assert not alive and said.endswith("stopped\n")


@pytest.mark.skipif(sys.platform != "linux", reason="as above")
@pytest.mark.parametrize(("run_id", "expected"), [("", 0), ("0" * 32, signal.SIGTERM)])
def test_without_mlflow_run_a_command_may_outlive_its_shell(monkeypatch, run_id, expected):
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    found, system = ctypes.c_int(-1), ctypes.CDLL(None)
    with signals.as_interrupts():
        system.prctl(2, ctypes.byref(found))  # PR_GET_PDEATHSIG
    system.prctl(signals.PR_SET_PDEATHSIG, 0)
    assert found.value == expected


MEASURE = """
import sys
from visage_mlflow.benchmark import machine
from visage_mlflow.commands import signals
from visage_mlflow.config import LandscapeConfig
print("ready", flush=True)
with signals.as_interrupts():
    machine.peak_memory_ratio(LandscapeConfig(model=sys.argv[1]))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
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
