"""Several processes that begin at once on a store that is not there yet."""

import os
import sys

import mlflow
from prepared import start

from visage_mlflow.config import EvaluateConfig
from visage_mlflow.tracking import runs


def evaluate(folder):
    os.chdir(folder)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID"):
        os.environ.pop(name, None)
    mlflow.set_tracking_uri(None)  # The default: a SQLite file in the folder.
    sys.stdout = sys.stderr = open("log", "a")
    with runs.tracked("evaluate", EvaluateConfig()):
        pass


def test_four_commands_begun_at_once_in_an_empty_folder_all_finish_in_one_experiment(tmp_path):
    processes = [start(evaluate, tmp_path) for _ in range(4)]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4, (tmp_path / "log").read_text()[-3000:]
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(runs.EXPERIMENT)
    found = client.search_runs([experiment.experiment_id])
    assert [run.info.status for run in found] == ["FINISHED"] * 4
    assert not list(tmp_path.glob("*lock*"))
