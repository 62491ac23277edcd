"""Entry points run many times at little cost: one prepared process, forked for each attempt, which may be killed.

Importing what an entry point needs takes seconds. So a server, this file run as a script, imports it once and then
forks a child for each request, which runs the entry point in its own folder as its command would, and exits.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import functools
import gc
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

ROOT = Path(__file__).parents[1]
IMPORTED = (
    *("torch", "transformers", "trl", "peft", "datasets", "mlflow", "optuna", "matplotlib.pyplot", "plotly"),
    *("transformers.models.llama.modeling_llama", "mlflow.data.huggingface_dataset", "mpl_toolkits.mplot3d"),
    *("mlflow.store.tracking.sqlalchemy_store", "mlflow.store.artifact.local_artifact_repo", "optuna.visualization"),
    *(
        "visage_mlflow.studies.landscape",
        "visage_mlflow.studies.finetuning",
        "visage_mlflow.search.study",
        "visage_mlflow.pages.landscape",
    ),
)


# In the server


def serve() -> None:
    """Fork a child for each request on stdin, and tell on stdout how it ended, one line of JSON each."""
    import torch

    torch.set_num_threads(1)
    for name in IMPORTED:
        importlib.import_module(name)
    reply = os.fdopen(os.dup(1), "w", buffering=1)
    print(json.dumps({"threads": len(os.listdir("/proc/self/task"))}), file=reply)
    for line in sys.stdin:
        request = json.loads(line)
        if "modules" in request:
            learn(request["modules"])
            answer: Any = len(sys.modules)
        elif "wait" in request:
            answer = ended(request["wait"], request["seconds"])
        else:
            if "serve" in request:
                importlib.import_module("mlflow.server.fastapi_app")
            sys.stdout.flush()
            gc.freeze()  # A child that looked through all that is imported when it ends would take seconds for that.
            answer = os.fork()
            if answer == 0:
                reply.close()
                sys.exit(serve_tracking(**request) if "serve" in request else child(**request))
        print(json.dumps(answer), file=reply)


def learn(path: str) -> None:
    """Import what an attempt had imported, so that later ones need not."""
    for name in json.loads(Path(path).read_text()):
        with contextlib.suppress(Exception):
            importlib.import_module(name)


def ended(pid: int, seconds: float) -> int | None:
    """The exit status of a child, negative for a signal; None if it has not ended in time."""
    deadline = time.monotonic() + seconds
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            return None
        time.sleep(0.005)


def serve_tracking(serve: str, port: int, **artifacts: Any) -> None:
    """Be a tracking server over a folder."""
    import server

    os.setpgid(0, 0)
    server.serve(serve, port, **artifacts)


def child(
    entry_point: str,
    flags: list[str],
    folder: str,
    environment: dict[str, str],
    log: str,
    errors: str = "",
    memory: int = 0,
    is_counted: bool = False,
) -> int:
    """Run an entry point as its command would, which says all into one file, or errors into another; its status."""
    os.setpgid(0, 0)
    os.chdir(folder)
    os.environ.update(environment)
    with open(os.devnull) as nothing, open(log, "a") as said, open(errors or log, "a") as complained:
        for number, file in enumerate((nothing, said, complained)):
            os.dup2(file.fileno(), number)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    faulthandler.register(signal.SIGUSR1, sys.stderr)  # Says where an attempt is that does not end.
    import mlflow

    from visage_mlflow.measuring import measure

    mlflow.set_tracking_uri(environment["MLFLOW_TRACKING_URI"])
    respond = measure.respond

    def counted(*arguments: Any, **settings: Any) -> Any:
        """A mark for each point that is begun, which nothing takes back; a model's scale is none."""
        if len(arguments[2]) != measure.N_ORDINARY:
            with open("begun", "a") as file:
                file.write(".")
        return respond(*arguments, **settings)

    if is_counted:
        measure.respond = counted
    if memory:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + memory, used + memory))
    sys.argv = [f"{ROOT}/experiments/{entry_point}.py", *flags]
    module = importlib.import_module(f"experiments.{entry_point}")
    from visage_mlflow import config
    from visage_mlflow.commands import command_line

    status = command_line.run(getattr(config, f"{entry_point.title()}Config"), module.main)
    if path := environment.get("FAULTS_MODULES"):
        Path(path).write_text(json.dumps(sorted(sys.modules)))
    return status


# In the test


@dataclass
class Server:
    """The prepared process."""

    process: subprocess.Popen[str]

    def ask(self, **request: Any) -> Any:
        """What it answers."""
        assert self.process.stdin and self.process.stdout
        print(json.dumps(request), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())


@contextlib.contextmanager
def server(log: TextIO) -> Iterator[Server]:
    """The prepared process, which ends with the block."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    single = dict.fromkeys(names, "1") | {"JE_ARROW_MALLOC_CONF": "background_thread:false"}  # Of pyarrow.
    environment = os.environ | single | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(Path(__file__).resolve())]
    process = subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
    )
    try:
        assert process.stdout
        ready = json.loads(process.stdout.readline())
        assert ready["threads"] == 1, "a process with threads cannot be forked safely"
        yield Server(process)
    finally:
        assert process.stdin
        process.stdin.close()
        process.wait(timeout=60)


@functools.cache
def shared() -> Server:
    """One for all tests of this process, for as long as that lives."""
    stack = contextlib.ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(server(stack.enter_context(tempfile.TemporaryFile("w"))))


@dataclass
class Attempt:
    """One process that runs an entry point, and how it ended."""

    place: Place
    pid: int
    began: float = field(default_factory=time.monotonic)

    def send(self, number: int) -> None:
        """Send a signal."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def wait(self, seconds: float = 120.0) -> int | None:
        """Its exit status; None if it has not ended by then."""
        status: int | None = self.place.server.ask(wait=self.pid, seconds=seconds)
        return status


@dataclass
class Place:
    """A folder in which one command is run again and again."""

    server: Server
    folder: Path
    entry_point: str
    settings: dict[str, Any]
    environment: dict[str, str] = field(default_factory=dict)

    def start(self, *, memory: int = 0, **more: Any) -> Attempt:
        """Begin an attempt."""
        flags = [text for name, value in {**self.settings, **more}.items() for text in (f"--{name}", str(value))]
        environment = {"MLFLOW_TRACKING_URI": f"sqlite:///{self.folder / 'mlflow.db'}", **self.environment}
        pid = self.server.ask(
            entry_point=self.entry_point,
            flags=flags,
            folder=str(self.folder),
            environment=environment,
            log=str(self.folder / "log"),
            memory=memory,
            is_counted=True,
        )
        return Attempt(self, pid)

    def run(self, **more: Any) -> int | None:
        """An attempt that is left alone; its exit status."""
        return self.start(**more).wait()

    def killed(self, after: float, number: int = signal.SIGKILL) -> tuple[int | None, float]:
        """An attempt that gets a signal after so many seconds; its exit status, and the seconds it took to end."""
        attempt = self.start()
        if (status := attempt.wait(after)) is not None:
            return status, 0.0
        attempt.send(number)
        sent = time.monotonic()
        return attempt.wait(), time.monotonic() - sent

    @property
    def log(self) -> str:
        """What all attempts said."""
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def begun(self) -> int:
        """Points that all attempts together began to compute."""
        path = self.folder / "begun"
        return path.stat().st_size if path.exists() else 0


if __name__ == "__main__":
    serve()
