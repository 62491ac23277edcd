"""How runs are named, on a real store."""

import mlflow
import pytest
from mlflow import MlflowClient

from visage_mlflow.config import EvaluateConfig
from visage_mlflow.record import tracking


@pytest.fixture
def client(tmp_path, monkeypatch):
    """A store of its own, in its own folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(tracking.RUN_ID, raising=False)
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    yield MlflowClient()
    mlflow.set_tracking_uri(before)


@pytest.mark.parametrize(
    ("given", "kept"), [("mine", "mine"), ("brave-fox-12", "evaluation of it"), ("brave-fox", "brave-fox")]
)
def test_a_run_that_mlflow_run_made_keeps_its_name_unless_it_was_made_up(client, monkeypatch, given, kept):
    run_id = client.create_run("0", run_name=given).info.run_id
    monkeypatch.setenv(tracking.RUN_ID, run_id)
    with tracking.tracked("evaluate", EvaluateConfig(), name="evaluation of it") as run:
        assert run.id == run_id
    assert client.get_run(run_id).info.run_name == kept


def test_a_run_of_its_own_is_named_by_what_it_measures(client):
    with tracking.tracked("evaluate", EvaluateConfig(), name="evaluation of it") as run:
        pass
    assert client.get_run(run.id).info.run_name == "evaluation of it"
    assert client.get_run(run.id).info.status == "FINISHED"
