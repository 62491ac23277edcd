"""Runs and experiments in MLflow's trash: refused where they are named, with the command that restores them."""

import pytest

from visage_mlflow.config import EvaluateConfig
from visage_mlflow.language.uris import locate
from visage_mlflow.text.errors import Mistake
from visage_mlflow.tracking import dead_runs, lookup, runs


@pytest.fixture
def run_id(client):
    """A finetune run in an experiment of its own."""
    experiment = client.create_experiment("old")
    return client.create_run(experiment, tags={"visage.kind": "finetune"}).info.run_id


@pytest.fixture(params=["run", "experiment"])
def cure(request, client, run_id):
    """The run is deleted, by itself or with its experiment; the command that restores it."""
    experiment = client.get_run(run_id).info.experiment_id
    if request.param == "run":
        client.delete_run(run_id)
        return f"`mlflow runs restore --run-id {run_id}`"
    client.delete_experiment(experiment)
    return f"`mlflow experiments restore --experiment-id {experiment}`"


def adopted(run_id, monkeypatch):
    monkeypatch.setenv(runs.RUN_ID, run_id)
    with runs.tracked("evaluate", EvaluateConfig()):
        pytest.fail("something was measured")


def joined(run_id, monkeypatch):
    with runs.joined(run_id, EvaluateConfig(), goes_on=lambda: True):
        pytest.fail("something was measured")


USES = {
    "MLFLOW_RUN_ID": adopted,
    "study": joined,
    "run": lambda run_id, _: lookup.look_up(run_id),
    "`run`": lambda run_id, _: lookup.kind_of(run_id),
    "to": lambda run_id, _: lookup.unfolded([f"runs:/{run_id}"], "to"),
    "model": lambda run_id, _: locate(f"runs:/{run_id}/model", lookup.fetch),
    "`checkpoints`": lambda run_id, _: locate(f"runs:/{run_id}/model", lookup.fetch, "checkpoints"),
}


@pytest.mark.parametrize("use", USES)
def test_a_deleted_run_is_refused_with_its_cure_wherever_it_is_named(run_id, cure, monkeypatch, use):
    with pytest.raises(Mistake) as caught:
        USES[use](run_id, monkeypatch)
    said = str(caught.value)
    assert use in said and cure in said and "deleted" in said and "\n" not in said


def test_no_run_is_begun_in_a_deleted_experiment(client, monkeypatch):
    number = client.create_experiment("old")
    client.delete_experiment(number)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "old")
    with pytest.raises(Mistake, match=rf"'old' is deleted.*experiments restore --experiment-id {number}`"):
        with runs.tracked("evaluate", EvaluateConfig()):
            pass


@pytest.mark.parametrize("is_deleted", [True, False])
def test_the_experiment_that_mlflow_is_told_by_its_number_is_the_one(client, monkeypatch, is_deleted):
    number = client.create_experiment("mine")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", number)
    if not is_deleted:
        with runs.tracked("evaluate", EvaluateConfig()) as run:
            assert client.get_run(run.id).info.experiment_id == number
        return
    client.delete_experiment(number)
    with pytest.raises(Mistake, match="'mine' is deleted"), runs.tracked("evaluate", EvaluateConfig()):
        pytest.fail("something was measured")


@pytest.mark.parametrize("number", ["999", "401"])
def test_an_experiment_that_is_not_there_names_the_variable(client, monkeypatch, number):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", number)
    with pytest.raises(Mistake, match=f"{number}.* Check .*MLFLOW_EXPERIMENT_ID"):
        with runs.tracked("evaluate", EvaluateConfig()):
            pytest.fail("something was measured")


def test_a_run_that_is_deleted_while_it_is_worked_on_says_so(client):
    with pytest.raises(Mistake, match="run in progress .* deleted run.* same command again"):
        with runs.tracked("evaluate", EvaluateConfig()) as run:
            client.delete_run(run.id)
            run.metrics({"asr": 5.0})


def test_the_error_of_a_run_that_was_deleted_meanwhile_stays_the_one_that_is_told(client):
    with pytest.raises(ZeroDivisionError):
        with runs.tracked("evaluate", EvaluateConfig()) as run:
            client.delete_run(run.id)
            raise ZeroDivisionError


def test_a_deleted_run_of_a_process_that_died_is_left_alone(client, run_id):
    client.delete_run(run_id)
    assert lookup.status_of(run_id) == "DELETED"
    dead_runs.close(run_id, "its process died")
    assert "visage.reason" not in client.get_run(run_id).data.tags
