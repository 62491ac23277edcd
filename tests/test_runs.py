"""How runs are named, how they end, and how several processes share one, on a real store."""

import contextlib

import mlflow
import pytest
from datasets import Dataset
from sqlalchemy import event
from sqlalchemy.engine import Engine

from visage_mlflow.config import EvaluateConfig
from visage_mlflow.results import Response
from visage_mlflow.text.errors import Mistake
from visage_mlflow.tracking import dead_runs, lookup, runs


@pytest.mark.parametrize(
    ("given", "kept"), [("mine", "mine"), ("brave-fox-12", "evaluation of it"), ("brave-fox", "brave-fox")]
)
def test_a_run_that_mlflow_run_made_keeps_its_name_unless_it_was_made_up(client, monkeypatch, given, kept):
    run_id = client.create_run("0", run_name=given).info.run_id
    monkeypatch.setenv(runs.RUN_ID, run_id)
    with runs.tracked("evaluate", EvaluateConfig(), name="evaluation of it") as run:
        assert run.id == run_id
    assert client.get_run(run_id).info.run_name == kept


def test_a_finished_run_takes_no_numbers_of_another_command(client, monkeypatch):
    with runs.tracked("evaluate", EvaluateConfig()) as first:
        first.metrics({"asr": 5.0})
    monkeypatch.setenv(runs.RUN_ID, first.id)
    with pytest.raises(Mistake, match=f"`{runs.RUN_ID}` is '{first.id}', a run that is finished"):
        with runs.tracked("evaluate", EvaluateConfig()) as run:
            run.metrics({"asr": 50.0})
    assert client.get_run(first.id).data.metrics["asr"] == 5.0


def test_a_run_of_its_own_is_named_by_what_it_measures(client):
    with runs.tracked("evaluate", EvaluateConfig(), name="evaluation of it") as run:
        pass
    assert client.get_run(run.id).info.run_name == "evaluation of it"
    assert client.get_run(run.id).info.status == "FINISHED"


# How runs end


@pytest.fixture
def log(client):
    """A function that tells status and tags of a run."""

    def of(run_id):
        found = client.get_run(run_id)
        return found.info.status, {
            name: text
            for name, text in found.data.tags.items()
            if name.startswith("visage.") and not name.startswith(dead_runs.PROCESS)
        }

    return of


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (ValueError("`safe` is\n 3."), "FAILED", "`safe` is 3."),
        (ZeroDivisionError(), "FAILED", "ZeroDivisionError."),
        (RuntimeError("x" * 9000), "FAILED", "x" * 8000),
        (KeyboardInterrupt(), "KILLED", None),
    ],
    ids=["ours", "empty", "long", "interrupt"],
)
def test_a_run_that_failed_says_why_and_one_that_was_interrupted_is_killed(log, error, status, reason):
    with pytest.raises(type(error)), runs.tracked("evaluate", EvaluateConfig()) as run:
        raise error
    ended, tags = log(run.id)
    assert (ended, tags.get("visage.reason")) == (status, reason) and tags["visage.kind"] == "evaluate"


@pytest.mark.parametrize("error", [None, ValueError("bad"), KeyboardInterrupt()], ids=["none", "ours", "interrupt"])
def test_a_run_on_which_others_work_stays_open_however_this_process_ends(log, error):
    with contextlib.suppress(ValueError, KeyboardInterrupt):
        with runs.tracked("search", EvaluateConfig(), goes_on=lambda: True) as run:
            if error:
                raise error
    assert log(run.id)[0] == "RUNNING"


def test_whether_others_work_on_a_run_is_asked_at_its_end(log):
    others = [True]
    with runs.tracked("search", EvaluateConfig(), goes_on=lambda: bool(others)) as run:
        others.clear()
    assert log(run.id)[0] == "FINISHED"


# Runs inside others


def test_a_nested_run_is_in_the_experiment_of_its_parent_and_ends_alone(client, log, monkeypatch):
    mlflow.set_experiment("of my own")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "of my own")
    with runs.tracked("search", EvaluateConfig()) as outer:
        monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
        mlflow.set_experiment("another")
        with pytest.raises(ValueError), runs.tracked("trial", EvaluateConfig(), nested=True) as inner:
            raise ValueError("out of memory")
        with runs.tracked("trial", EvaluateConfig(), nested=True) as second:
            second.metrics({"asr": 5.0})
        assert log(outer.id)[0] == "RUNNING"
    three = [client.get_run(run.id) for run in (outer, inner, second)]
    assert len({run.info.experiment_id for run in three}) == 1
    assert client.get_experiment(three[0].info.experiment_id).name == "of my own"
    assert [run.info.status for run in three] == ["FINISHED", "FAILED", "FINISHED"]
    assert [run.data.tags.get("mlflow.parentRunId") for run in three] == [None, outer.id, outer.id]
    assert three[2].data.metrics == {"asr": 5.0} and three[0].data.metrics == {}


# Runs that others began


def begun(config=None, **options):
    with runs.tracked("search", config or EvaluateConfig(), goes_on=lambda: True, **options) as run:
        run.metrics({"n_complete": 1.0}, step=1)
    return run.id


def test_a_run_that_another_process_began_is_gone_on_with_and_ended(client, log):
    run_id = begun()
    with runs.joined(run_id, EvaluateConfig(), goes_on=lambda: False) as run:
        assert run.id == run_id
        run.metrics({"n_complete": 2.0}, step=2)
    assert log(run_id)[0] == "FINISHED"
    assert [(one.step, one.value) for one in client.get_metric_history(run_id, "n_complete")] == [(1, 1.0), (2, 2.0)]
    assert len(client.search_runs([client.get_run(run_id).info.experiment_id])) == 1


@pytest.mark.parametrize("status", ["FINISHED", "FAILED", "KILLED"])
def test_a_run_that_had_ended_is_open_while_it_is_gone_on_with(client, log, status):
    run_id = begun()
    client.set_terminated(run_id, status)
    with runs.joined(run_id, EvaluateConfig(), goes_on=lambda: False):
        assert log(run_id)[0] == "RUNNING"
    assert log(run_id)[0] == "FINISHED"


def test_a_run_that_was_joined_stays_open_while_others_work_on_it_or_fails_with_the_reason(log):
    run_id = begun()
    with runs.joined(run_id, EvaluateConfig(), goes_on=lambda: True):
        pass
    assert log(run_id)[0] == "RUNNING"
    with pytest.raises(ValueError), runs.joined(run_id, EvaluateConfig(), goes_on=lambda: False):
        raise ValueError("bad")
    assert (log(run_id)[0], log(run_id)[1]["visage.reason"]) == ("FAILED", "bad.")


def test_a_run_that_was_joined_is_in_the_experiment_it_began_in_and_so_are_its_trials(client, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "of my own")
    mlflow.set_experiment("of my own")
    run_id = begun()
    mlflow.set_experiment("another")
    with runs.joined(run_id, EvaluateConfig(), goes_on=lambda: False):
        with runs.tracked("trial", EvaluateConfig(), nested=True) as inner:
            pass
    experiments = {client.get_run(one).info.experiment_id for one in (run_id, inner.id)}
    assert len(experiments) == 1 and client.get_experiment(experiments.pop()).name == "of my own"
    assert client.get_run(inner.id).data.tags["mlflow.parentRunId"] == run_id


def test_the_run_that_mlflow_run_made_for_a_process_that_joins_is_put_inside(client, log, monkeypatch):
    run_id = begun()
    own = client.create_run(client.get_run(run_id).info.experiment_id, run_name="brave-fox-12").info.run_id
    monkeypatch.setenv(runs.RUN_ID, own)
    with runs.joined(run_id, EvaluateConfig(), goes_on=lambda: False) as run:
        assert run.id == run_id
    worker = client.get_run(own)
    assert (worker.info.run_name, worker.data.tags["visage.kind"]) == ("worker", "worker")
    assert worker.data.tags["mlflow.parentRunId"] == run_id
    assert (log(own)[0], log(run_id)[0], log(run_id)[1]["visage.kind"]) == ("FINISHED", "FINISHED", "search")


def test_the_settings_of_the_process_that_began_a_run_stay(client):
    run_id = begun(EvaluateConfig(n_prompts=7))
    with runs.joined(run_id, EvaluateConfig(n_prompts=8), goes_on=lambda: False):
        pass
    assert client.get_run(run_id).data.params["n_prompts"] == "7"
    assert lookup.settings_of(run_id)["n_prompts"] == 7


@pytest.mark.parametrize("end", ["\x85", "\u2028", "\u2029", "\r", "\n"])
def test_answers_that_hold_a_line_end_of_any_kind_are_read_back(end):
    said = [Response("p", f"a{end}b", "complied"), Response("q", None, "unjudged")]
    with runs.tracked("evaluate", EvaluateConfig()) as run:
        run.lines(said, "responses.jsonl")
    assert lookup.responses(run.id) == said


# Runs whose process died


def test_an_open_run_whose_process_died_is_killed_with_the_reason(log):
    run_id = begun()
    assert lookup.status_of(run_id) == "RUNNING"
    dead_runs.close(run_id, "its process died")
    assert (log(run_id)[0], log(run_id)[1]["visage.reason"]) == ("KILLED", "its process died")


@pytest.mark.parametrize("status", ["FINISHED", "FAILED"])
def test_a_run_that_had_ended_is_left_as_it_is(client, log, status):
    run_id = begun()
    client.set_terminated(run_id, status)
    dead_runs.close(run_id, "its process died")
    assert log(run_id)[0] == status and "visage.reason" not in log(run_id)[1]


def test_a_run_that_is_not_there_has_no_status_and_is_not_closed(client):
    assert lookup.status_of("0" * 32) == ""
    dead_runs.close("0" * 32, "its process died")


def test_a_history_is_logged_by_step(client):
    with runs.tracked("landscape", EvaluateConfig()) as run:
        run.history([(-50, {"asr": 100.0}), (0, {"asr": 0.0, "coherent_asr": 0.0})])
    assert [(one.step, one.value) for one in client.get_metric_history(run.id, "asr")] == [(-50, 100.0), (0, 0.0)]


def test_a_tag_that_is_too_long_is_cut(log):
    with runs.tracked("trial", EvaluateConfig()) as run:
        run.tag("reason", "x" * 9000)
        run.tag("state", "PRUNED")
    assert log(run.id)[1] == {"visage.kind": "trial", "visage.reason": "x" * 8000, "visage.state": "PRUNED"}


def test_an_interrupt_in_the_middle_of_a_write_to_the_store_leaves_the_run_killed(client):
    def interrupt(cursor, statement, parameters, context):
        if statement.startswith("INSERT INTO inputs"):
            cursor.execute(statement, parameters)  # The write lock is held from here on.
            raise KeyboardInterrupt

    event.listen(Engine, "do_execute", interrupt)
    try:
        with pytest.raises(KeyboardInterrupt), runs.tracked("finetune", EvaluateConfig()) as run:
            run.dataset(Dataset.from_list([{"prompt": "a"}]), {"safe": 1})
    finally:
        event.remove(Engine, "do_execute", interrupt)
    assert client.get_run(run.id).info.status == "KILLED"
