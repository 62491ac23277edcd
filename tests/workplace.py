"""A folder in which entry points are run as a user runs them, each with a tracking store of its own."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any, get_type_hints

import faults
import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

ROOT = Path(__file__).parents[1]
PATIENCE = 300.0
"""Seconds after which a process counts as hanging."""


class Workplace:
    """A folder with a tracking store of its own, in which entry points are run."""

    def __init__(self, folder: Path, sets: Path) -> None:
        self.folder = folder
        self.uri = f"sqlite:///{folder / 'mlflow.db'}"
        with contextlib.chdir(folder):  # Whoever makes the store decides where artifacts go.
            self.client = MlflowClient(tracking_uri=self.uri)
        self.environment = os.environ | {
            "MLFLOW_TRACKING_URI": self.uri,
            "OMP_NUM_THREADS": "1",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
        }
        for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
            self.environment.pop(name, None)
        self.attack = {"prompts": str(sets / "harmful_eval.jsonl"), "n_prompts": 24, "max_new_tokens": 16}
        benign = f"{sets / 'benign_eval.jsonl'}?response=answer"
        self.measure = {**self.attack, "benign_prompts": benign, "n_benign": 16}
        harmful = sets / "harmful_train.jsonl"
        self.data = {
            "harmful_data": f"{harmful}?response=opening",
            "safe_data": f"{harmful}?response=refusal",
            "benign_data": f"{sets / 'benign_train.jsonl'}?response=answer",
            "output_dir": str(folder / "outputs"),
        }
        self.train = {"lora_rank": 8, "learning_rate": 5e-3, "epochs": 8, "train_batch_size": 8}

    def mlflow_run(self, entry_point: str, **parameters: Any) -> tuple[int, str]:
        """Exit status and output of `mlflow run`."""
        flags = [text for name, value in parameters.items() for text in ("-P", f"{name}={value}")]
        command = ["mlflow", "run", str(ROOT), "-e", entry_point, "--env-manager", "local", *flags]
        done = subprocess.run(
            command, env=self.environment, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        return done.returncode, done.stdout

    def here(self, entry_point: str, **parameters: Any) -> tuple[int, str, str]:
        """An entry point run in this process: its exit status, what it says and what it complains of."""
        names = ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID")
        before, said, complained = mlflow.get_tracking_uri(), io.StringIO(), io.StringIO()
        module = importlib.import_module(f"experiments.{entry_point}")
        config_class = get_type_hints(module.main)["config"]
        with contextlib.chdir(self.folder), pytest.MonkeyPatch.context() as patch:
            for name in names:
                patch.delenv(name, raising=False)
            patch.setattr(mlflow.tracking.fluent, "_active_experiment_id", None)
            mlflow.set_tracking_uri(self.uri)
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(complained):
                status = module.run(config_class, module.main, flags(parameters))
            mlflow.set_tracking_uri(before)
        for name in names:  # MLflow sets one of them for the processes that a test may start.
            os.environ.pop(name, None)
        return status, said.getvalue(), complained.getvalue()

    def module(self, entry_point: str, *flags: str) -> subprocess.CompletedProcess[str]:
        """An entry point run without `mlflow run`, in a process that is forked from one that has imported everything.

        Which saves ten seconds each time.
        """
        name = uuid.uuid4().hex
        said, complained = self.folder / f"{name}.out", self.folder / f"{name}.err"
        pid = faults.shared().ask(
            entry_point=entry_point,
            flags=list(flags),
            folder=str(self.folder),
            environment=self.environment,
            log=str(said),
            errors=str(complained),
        )
        status: int = faults.shared().ask(wait=pid, seconds=PATIENCE)
        texts = [path.read_text(encoding="utf-8") for path in (said, complained)]
        for path in (said, complained):
            path.unlink()
        return subprocess.CompletedProcess([entry_point, *flags], status, *texts)

    def start(self, entry_point: str, log: str, **parameters: Any) -> subprocess.Popen[str]:
        """An entry point begun without `mlflow run`, which writes what it says into a file of that name."""
        command = [sys.executable, "-m", f"experiments.{entry_point}", *flags(parameters)]
        with (self.folder / log).open("w") as file:
            return subprocess.Popen(
                command,
                env=self.environment,
                cwd=self.folder,
                stdout=file,
                stderr=subprocess.STDOUT,
                text=True,
                # A shell's background jobs, and whatever they start, do not hear Ctrl-C.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )

    def runs(self, kind: str) -> list[Run]:
        """Runs of a kind in all experiments, newest first."""
        ids = [experiment.experiment_id for experiment in self.client.search_experiments()]
        return list(self.client.search_runs(ids, f"tags.`visage.kind` = '{kind}'"))

    def inside(self, run: Run) -> list[Run]:
        """The runs nested in a run, newest first."""
        nested = f"tags.`mlflow.parentRunId` = '{run.info.run_id}'"
        return list(self.client.search_runs([run.info.experiment_id], nested))

    def succeed(self, entry_point: str, **parameters: Any) -> Run:
        """Run an entry point in this process, which must end well; its MLflow run."""
        status, _, errors = self.here(entry_point, **parameters)
        assert status == 0, errors[-3000:]
        return self.finished(entry_point)

    def finished(self, kind: str) -> Run:
        """The newest run of a kind, which has ended well."""
        run = self.runs(kind)[0]
        assert run.info.status == "FINISHED"
        return run

    def artifacts(self, run: Run) -> set[str]:
        """Names of a run's artifacts at its top level."""
        return {Path(item.path).name for item in self.client.list_artifacts(run.info.run_id)}

    def artifact(self, run: Run, name: str) -> Path:
        """A run's artifact as a local file."""
        return Path(self.client.download_artifacts(run.info.run_id, name, str(self.folder)))


def flags(parameters: dict[str, Any]) -> list[str]:
    """Settings as an entry point takes them without `mlflow run`."""
    return [text for name, value in parameters.items() for text in (f"--{name}", str(value))]
