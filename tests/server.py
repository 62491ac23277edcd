"""A real tracking server on this machine that a test stops and starts again."""

from __future__ import annotations

import os
import signal
import socket
import urllib.error
import urllib.request
from pathlib import Path

import faults


class Server:
    """MLflow's server over one folder, always on one port; forked from the process that has imported it."""

    def __init__(
        self,
        prepared: faults.Server,
        folder: Path,
        *,
        root: str = "mlflow-artifacts:/",
        destination: str = "",
        serves: bool = True,
    ) -> None:
        """By default it serves artifacts from its folder; else `root` is where its clients find theirs."""
        self.artifacts = {"root": root, "destination": destination or f"{folder}/artifacts", "serves": serves}
        self.prepared = prepared
        self.folder = folder
        folder.mkdir()
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.pid = 0

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self.pid = self.prepared.ask(serve=str(self.folder), port=self.port, **self.artifacts)
        while not self.answers():
            assert self.prepared.ask(wait=self.pid, seconds=0.1) is None, (self.folder / "log").read_text()[-3000:]

    def stop(self) -> None:
        """End it as a crash does: connections are refused from now on."""
        os.kill(self.pid, signal.SIGKILL)
        self.prepared.ask(wait=self.pid, seconds=60)

    def answers(self) -> bool:
        """Whether it is there."""
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


def serve(folder: str, port: int, *, root: str, destination: str, serves: bool) -> None:
    """What `mlflow server` starts, in this process."""
    os.environ |= {
        "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{folder}/mlflow.db",
        "_MLFLOW_SERVER_ARTIFACT_ROOT": root,
    }
    if serves:
        os.environ |= {"_MLFLOW_SERVER_ARTIFACT_DESTINATION": destination, "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true"}
    with open(f"{folder}/log", "a") as log:
        for number in (1, 2):
            os.dup2(log.fileno(), number)
    os.chdir(folder)
    import uvicorn
    from mlflow.server.fastapi_app import app

    uvicorn.run(app, port=port, log_level="warning")
