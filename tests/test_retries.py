"""Which errors mean that the tracking server is away, and how long it is waited for."""

import sqlite3
import time

import mlflow
import optuna
import pytest
import requests
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, TEMPORARILY_UNAVAILABLE

from visage_mlflow.config import EvaluateConfig
from visage_mlflow.text.errors import Mistake, ServerAway, explained
from visage_mlflow.tracking import connection, retries, runs

LOCKED = sqlite3.OperationalError("database is locked")


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """As a process that has not asked yet."""
    monkeypatch.setattr(retries, "_is_known_to_be_away", False)


@pytest.fixture
def slept(monkeypatch):
    """The pauses that were made, in seconds, on a clock that only they move."""
    pauses = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    monkeypatch.setattr(time, "monotonic", lambda: float(sum(pauses)))
    return pauses


def failing(times, error=LOCKED):
    """A function that raises an error some times before it answers."""
    left = [times]

    def call():
        left[0] -= 1
        if left[0] >= 0:
            raise error
        return "answer"

    return call


@pytest.mark.parametrize(
    ("error", "away"),
    [
        (ConnectionRefusedError(), True),
        (TimeoutError(), True),
        (requests.ConnectionError(), True),
        (requests.HTTPError(response=type("Response", (), {"status_code": 503})), True),
        (requests.HTTPError(response=type("Response", (), {"status_code": 403})), False),
        (OSError(28, "No space left on device"), False),
        (FileNotFoundError(), False),
        (ValueError("failed with error code 502"), True),
        (ValueError("failed with error code 404"), False),
        (LOCKED, True),
        (sqlite3.OperationalError("unable to open database file"), False),
        (mlflow.MlflowException("(sqlite3.OperationalError) database is locked", TEMPORARILY_UNAVAILABLE), True),
        (mlflow.MlflowException("(sqlite3.OperationalError) disk is full", TEMPORARILY_UNAVAILABLE), False),
        (mlflow.MlflowException("busy", TEMPORARILY_UNAVAILABLE), True),
        (mlflow.MlflowException("no such run", RESOURCE_DOES_NOT_EXIST), False),
    ],
    ids=str,
)
def test_only_what_goes_by_itself_is_waited_for(error, away):
    assert retries.is_away(error) == away


def test_what_led_to_an_error_counts():
    with pytest.raises(ValueError) as caught:
        try:
            raise ConnectionRefusedError
        except OSError as error:
            raise ValueError("unknown") from error
    assert retries.is_away(caught.value)


def test_a_server_that_comes_back_is_said_to_be_away_once_and_its_answer_is_had(slept, capsys):
    assert retries.ask(failing(4)) == "answer"
    assert slept == [0.5, 1, 2, 4]
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "The tracking server is away, trying again for 30 s: database is locked."


def test_pauses_double_up_to_ten_seconds_and_end_with_the_wait(slept, monkeypatch):
    monkeypatch.setenv("VISAGE_WAIT", "40")
    with pytest.raises(ServerAway):
        retries.ask(failing(100))
    assert slept == [0.5, 1, 2, 4, 8, 10, 10, 4.5]


def test_who_waited_in_vain_tries_once_each_time_until_there_is_an_answer(slept, capsys):
    for _ in range(3):
        with pytest.raises(ServerAway):
            retries.ask(failing(100))
    assert sum(slept) == 30 and len(capsys.readouterr().err.splitlines()) == 1
    assert retries.ask(failing(0)) == retries.ask(failing(1)) == "answer"


def test_what_is_refused_is_raised_at_once(slept):
    with pytest.raises(KeyError):
        retries.ask(failing(1, KeyError("a")))
    assert not slept


def test_an_outage_ends_a_search_and_does_not_count_as_a_failure_of_its_trial(slept):
    study = optuna.create_study()
    with pytest.raises(ServerAway):
        study.optimize(lambda trial: retries.ask(failing(100)), n_trials=2, catch=(Exception,))
    assert [trial.state for trial in study.trials] == [optuna.trial.TrialState.RUNNING]


@pytest.mark.parametrize("text", ["x", "-1", "nan", "inf"])
def test_a_wait_that_is_no_number_is_refused(monkeypatch, text):
    monkeypatch.setenv("VISAGE_WAIT", text)
    with pytest.raises(Mistake, match=f"`VISAGE_WAIT` must be .* got '{text}'"):
        retries.patience()


# Servers that cannot be used


@pytest.mark.parametrize("nested", [False, True])
def test_a_run_whose_server_is_away_at_the_start_says_to_give_the_command_again(monkeypatch, client, capsys, nested):
    before = connection.store()
    mlflow.set_tracking_uri("http://ann:vinegar@127.0.0.1:9")
    monkeypatch.setenv("VISAGE_WAIT", "0.1")
    with pytest.raises(ServerAway) as caught, runs.tracked("evaluate", EvaluateConfig(), nested=nested):
        pass
    mlflow.set_tracking_uri(before)
    told, said = explained(caught.value), capsys.readouterr()
    assert "MLFLOW_TRACKING_URI, which is http://***@127.0.0.1:9" in told and "give the same command again" in told
    assert len(said.err.splitlines()) == 1 and "vinegar" not in told + said.err + said.out


@pytest.mark.parametrize("uri", ["nonsense://host", "sqlite:////proc/there/is/none.db"])
def test_a_store_that_cannot_be_used_is_the_users_to_mend(client, uri):
    before = connection.store()
    mlflow.set_tracking_uri(uri)
    with pytest.raises(Mistake) as caught, runs.tracked("evaluate", EvaluateConfig()):
        pass
    mlflow.set_tracking_uri(before)
    assert str(caught.value).count("MLFLOW_TRACKING_URI") == 1 and "\n" not in str(caught.value)


def test_a_run_that_mlflow_run_did_not_make_is_the_users_to_mend(client, monkeypatch):
    monkeypatch.setenv(runs.RUN_ID, "0" * 32)
    with pytest.raises(Mistake, match="MLFLOW_RUN_ID"), runs.tracked("evaluate", EvaluateConfig()):
        pass
