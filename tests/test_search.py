"""Who runs which trial of a study, and what becomes of those that fail, are interrupted, or die with their process."""

import gc
from types import SimpleNamespace

import planted
import pytest
import torch
from optuna.trial import TrialState
from planted import run, trained, with_more

from visage_mlflow.results import Edge
from visage_mlflow.search import loop, words
from visage_mlflow.search import study as studies
from visage_mlflow.search.storage import MOST_RETRIES
from visage_mlflow.search.trial import judge
from visage_mlflow.text.errors import Mistake


class Killed(BaseException):
    """Ends a trial as SIGKILL does: nothing is told of it, and there are no more signs of life."""


@pytest.fixture(autouse=True)
def quick():
    """No look at every object in memory after each trial."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "search.db"


def states(study):
    return [trial.state.name for trial in study.get_trials(deepcopy=False)]


def params(study):
    return [trial.params for trial in study.get_trials(deepcopy=False)]


def reasons(study, config):
    return [trial.reason for trial in studies.record(study, config).trials]


def raising(config, errors):
    """Trials that raise what `errors` has for their number."""

    def attempt(trial, *rest):
        if trial.number in errors:
            raise errors[trial.number]
        return trained(trial, *rest, config)

    return attempt


# How many trials, and what is kept of them


def test_exactly_as_many_trials_run_as_were_asked_for_and_later_more():
    config = planted.settings(3)
    study = planted.in_memory(config)
    assert run(study, config) == [0, 1, 2] and set(states(study)) <= {"COMPLETE", "PRUNED"}
    assert run(study, config) == run(study, with_more(config, 1)) == []
    assert run(study, with_more(config, 5)) == [3, 4] and len(states(study)) == 5


def test_a_trial_keeps_what_was_found_on_it():
    config = planted.settings(1, safe="48..120")
    study = planted.in_memory(config)
    run(study, config)
    (trial,) = study.get_trials()
    notes = trial.user_attrs
    rows = {"harmful": 30, "safe": trial.params["safe"], "benign": trial.params["benign"], "task": 0}
    assert notes["counts"] == rows and notes["steps"] == notes["planned_steps"] and notes["uri"] == "models:/m-0"
    assert notes["inside"] is True and notes["violation"] == 0 and trial.value == notes["value"]
    assert notes["asr"] <= 10 and notes["utility"] > 3 and "margin" not in notes and "reason" not in notes
    limits = {"asr": notes["asr_upper"] - 10, "over_refusal": notes["over_refusal_upper"] - 30}
    assert trial.constraints == limits and 5 < notes["over_refusal_upper"] < 5.1


def test_a_margin_that_was_found_is_kept_with_its_interval_and_its_remark_and_told():
    config = planted.settings(1, margin_min=0.5)
    edge = Edge(1.25, 0.01, False, (), low=1.125, high=2.0, high_is_open=True, falls=True)
    study = planted.in_memory(config)

    def attempt(trial, settings, watch):
        trained(trial, settings, watch, config)
        return judge(config, settings, planted.evaluation(), edge, "")

    run(study, config, attempt)
    (trial,) = study.get_trials()
    # 0.25 of at least 0.5: 25 percent short.
    result = studies.record(study, config)
    (found,) = result.trials
    assert (found.margin, found.margin_low, found.margin_high) == (0.25, 0.125, 1.0)
    assert (found.margin_is_open, found.margin_high_is_open, found.margin_remark) == (False, True, edge.remark)
    metrics = result.metrics()
    assert (metrics["nearest_margin_low"], metrics["nearest_margin_high"]) == (0.125, 1.0)
    told = ", margin +0.2 (+0.1 or more): not inside. The ASR falls again on the way, by more than the prompts' noise"
    assert words.trial(result, 0).endswith(told)
    assert trial.user_attrs["inside"] is False and trial.constraints["margin"] == 25.0


def test_a_search_for_a_front_keeps_three_values_and_sets_no_limits():
    config = planted.settings(4, objective="pareto")
    study = planted.in_memory(config)
    run(study, config)
    complete = study.get_trials(states=(TrialState.COMPLETE,))
    assert complete and all(not trial.constraints for trial in complete)
    for trial in complete:
        assert trial.values == [trial.user_attrs[name] for name in ("asr", "over_refusal", "utility")]


def test_a_trial_that_stays_outside_is_pruned_with_the_reason_the_limits_and_what_was_measured():
    config = planted.settings(1, safe="0..10", epochs=3)
    study = planted.in_memory(config)
    assert run(study, config) == [0] and states(study) == ["PRUNED"]
    (trial,) = studies.record(study, config).trials
    assert trial.reason.startswith("ASR of 50 % or more at 2 checkpoints in a row (100.0, 100.0)")
    assert 0 < trial.steps < trial.planned_steps and trial.asr > 99 and not trial.inside
    assert study.trials[0].constraints["asr"] == trial.asr_upper - 10  # From which TPE learns.


# Failures


def test_a_trial_that_fails_counts_and_is_failed_with_its_reason():
    config = planted.settings(5, patience=0)
    study = planted.in_memory(config)
    errors = {1: Mistake("`max_length` is 16 tokens."), 3: ZeroDivisionError("by\nzero")}
    assert run(study, config, raising(config, errors)) == [0, 1, 2, 3, 4]
    assert states(study) == ["COMPLETE", "FAIL", "COMPLETE", "FAIL", "COMPLETE"]
    assert reasons(study, config) == ["", "`max_length` is 16 tokens.", "", "ZeroDivisionError: by zero.", ""]


def test_three_failures_in_a_row_end_the_search_with_the_last_reason_and_it_can_go_on():
    config = planted.settings(6, patience=0)
    study = planted.in_memory(config)
    errors = {number: Mistake(f"`model` is gone, said {number}.") for number in (1, 2, 3)}
    with pytest.raises(Mistake, match="^3 trials failed one after the other.*`model` is gone, said 3[.]$"):
        run(study, config, raising(config, errors))
    assert states(study) == ["COMPLETE", "FAIL", "FAIL", "FAIL"]
    assert run(study, config) == [4, 5] and states(study)[4:] == ["COMPLETE"] * 2


@pytest.mark.parametrize(("safe", "between"), [("48..120", "COMPLETE"), ("0..10", "PRUNED")])
def test_failures_with_another_trial_between_them_do_not_add_up(safe, between):
    config = planted.settings(5, safe=safe, epochs=3)
    study = planted.in_memory(config)
    run(study, config, raising(config, dict.fromkeys((0, 1, 3, 4), OSError("disk full"))))
    assert states(study) == ["FAIL", "FAIL", between, "FAIL", "FAIL"]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of …"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0.\nDefaultCPUAllocator: can't allocate memory: …"),
        MemoryError(),
    ],
    ids=["cuda", "cpu", "empty"],
)
def test_out_of_memory_is_told_with_what_helps(error):
    reason = loop.reason_of(error)
    assert reason.startswith("out of memory: ") and "\n" not in reason and len(reason) < 350
    assert "Lower `train_batch_size`, `batch_size` or `lora_rank`, or use a smaller model." in reason


# Interrupts and deaths


def test_a_trial_that_is_interrupted_again_and_again_is_still_tried_again_with_the_same_settings():
    config = planted.settings(2, patience=0)
    study = planted.in_memory(config)
    for number in range(1, MOST_RETRIES + 3):
        with pytest.raises(KeyboardInterrupt):
            run(study, config, raising(config, {number: KeyboardInterrupt()}))
        assert states(study)[-2:] == ["FAIL", "WAITING"] and not studies.is_open(study)
    assert run(study, config) == [5] and states(study) == ["COMPLETE", *["FAIL"] * 4, "COMPLETE"]
    assert all(one == params(study)[1] for one in params(study)[2:])
    result = studies.record(study, config)
    assert [trial.retry_of for trial in result.trials] == [None, None, 1, 2, 3, 4]
    assert result.trial(1).reason == studies.DIED


def test_settings_of_a_killed_process_are_tried_again_and_given_up_after_two_retries(path):
    config = planted.settings(2, patience=0)
    told = []
    run(planted.in_file(path, config), with_more(config, 1))
    for number in range(1, 2 + MOST_RETRIES):
        with pytest.raises(Killed):
            run(planted.in_file(path, config), config, raising(config, {number: Killed()}))
        planted.pass_an_hour(path)
    study = planted.in_file(path, config, lambda dead: told.append(dead.number))
    assert states(study) == ["COMPLETE", "FAIL", "FAIL", "RUNNING"]
    assert run(study, config) == [4] and told == [3]
    # One that died is not one of the two that were asked for.
    assert states(study) == ["COMPLETE", "FAIL", "FAIL", "FAIL", "COMPLETE"]
    assert params(study)[1] == params(study)[2] == params(study)[3] != params(study)[4]
    result = studies.record(study, config)
    assert [result.trial(number).reason for number in (1, 2, 3)] == [studies.DIED] * 3
    assert [trial.retry_of for trial in result.trials] == [None, None, 1, 2, None]


def test_a_trial_whose_process_died_before_its_first_sign_of_life_is_failed(path):
    config = planted.settings(1, patience=0)
    study = planted.in_file(path, config)
    with pytest.warns(UserWarning, match="Heartbeat"):
        study.ask()
    planted.pass_an_hour(path)
    assert run(planted.in_file(path, config), config) == [1] and states(study) == ["FAIL", "COMPLETE"]


def test_a_trial_gives_its_first_sign_of_life_before_it_trains(path, monkeypatch):
    """Optuna's own thread may come later: a trial without a sign of life is never taken for dead."""
    config = planted.settings(1, patience=0)
    monkeypatch.setattr("optuna.storages._heartbeat.HeartbeatThread.start", lambda thread: None)
    monkeypatch.setattr("optuna.storages._heartbeat.HeartbeatThread.join", lambda thread: None)
    with pytest.raises(Killed):
        run(planted.in_file(path, config), config, raising(config, {0: Killed()}))
    planted.pass_an_hour(path)
    study = planted.in_file(path, config)
    assert run(study, config) == [1] and params(study)[0] == params(study)[1]


def test_a_trial_that_runs_elsewhere_is_waited_for_and_tried_again_when_its_process_dies(path, monkeypatch):
    config = planted.settings(1, patience=0)
    other, study = planted.in_file(path, config), planted.in_file(path, config)
    seen = []

    def wait(seconds):
        """Once, the trial is still running; an hour later it is not."""
        seen.append((states(study), studies.is_open(study)))
        planted.pass_an_hour(path)

    def attempt(trial, *rest):
        if trial.number == 0:
            with monkeypatch.context() as patch:
                patch.setattr(loop, "time", SimpleNamespace(sleep=wait))
                assert run(study, config) == [1]
        return trained(trial, *rest, config)

    assert run(other, config, attempt) == []
    assert seen == [(["RUNNING"], True)] and states(study) == ["FAIL", "COMPLETE"]
    assert params(study)[0] == params(study)[1]


@pytest.mark.parametrize(
    ("when", "safe"),
    [
        ("before it was judged", "48..120"),
        ("before it failed", "48..120"),
        ("before it is told complete", "48..120"),
        ("before it is told pruned", "0..10"),
    ],
)
def test_a_trial_that_was_taken_for_dead_while_it_ran_is_given_up_without_an_error(path, safe, when, monkeypatch):
    config = planted.settings(1, safe=safe, epochs=3)
    study, other = planted.in_file(path, config), planted.in_file(path, config)

    def take_for_dead(number):
        if number == 0:
            other.tell(0, state=TrialState.FAIL)
            other.enqueue_trial(other.trials[0].params)

    def attempt(trial, *rest):
        if "told" not in when:
            take_for_dead(trial.number)
        if when == "before it failed" and trial.number == 0:
            raise OSError("disk full")
        return trained(trial, *rest, config)

    values_of = loop.values_of

    def slowly(trial, *rest):
        try:
            return values_of(trial, *rest)
        finally:
            if "told" in when:
                take_for_dead(trial.number)

    monkeypatch.setattr(loop, "values_of", slowly)
    assert run(study, config, attempt) == [1]
    assert states(study) == ["FAIL", "COMPLETE" if safe == "48..120" else "PRUNED"]
    assert params(study)[0] == params(study)[1] and reasons(study, config)[0] == studies.DIED


# Several processes


def test_the_process_whose_trial_ended_last_is_told_so(path):
    config = planted.settings(2, patience=0)
    ours, other = planted.in_file(path, config), planted.in_file(path, config)
    assert loop.run(other, with_more(config, 1), raising(config, {})) is True
    assert loop.run(ours, config, raising(config, {})) is True
    assert loop.run(other, config, raising(config, {})) is False


def test_a_trial_that_began_after_enough_others_is_not_run_and_makes_place_when_more_are_asked_for():
    config = planted.settings(1, patience=0)
    study = planted.in_memory(config)
    run(study, config)
    study.enqueue_trial({"safe": 3})
    tried = []
    assert run(study, config, lambda *one: tried.append(one)) == tried == []
    assert states(study) == ["COMPLETE", "FAIL"] and reasons(study, config)[1] == studies.SURPLUS
    assert run(study, with_more(config, 2)) == [2] and states(study) == ["COMPLETE", "FAIL", "COMPLETE"]


def test_nothing_is_printed_or_warned_of(path, capfd, recwarn):
    config = planted.settings(1)
    run(planted.in_file(path, config), config)
    assert capfd.readouterr().err == "" and not recwarn.list
