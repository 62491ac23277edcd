"""An Optuna study of mixtures: what it proposes, whom it lets in, and how it reads as a result."""

import dataclasses
import gc
import math
import random
import time

import made
import optuna
import planted
import pytest
from optuna.trial import TrialState, create_trial

from visage_mlflow.results import Checkpoint, Search
from visage_mlflow.search import heartbeats, loop
from visage_mlflow.search import storage as storages
from visage_mlflow.search import study as studies
from visage_mlflow.search.sampler import Sampler
from visage_mlflow.search.trial import judge

NAN = math.nan
ELSEWHERE = {"host": "another-host", "pid": 1, "since": 0.0}
"""A process that nothing can be known of here."""


@pytest.fixture(autouse=True)
def quick():
    """No look at every object in memory after each trial."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "search.journal")


def journal(path, config, on_stale=studies.take_up):
    """The study as one more process opens it."""
    storage = storages.open_storage(path, heartbeat=config.heartbeat, on_stale=on_stale)
    return studies.open_study(config, storage)


def run(study, config):
    loop.run(study, config, lambda one: planted.trained(one, config))
    return [trial.params for trial in study.trials]


# What is proposed


def proposed(study, config):
    """What the next trial would be told to try; it is left running."""
    return studies.suggest(study.ask(), config.space())


@pytest.mark.parametrize("n_before", [0, 5, 12])
def test_seed_and_number_of_a_trial_decide_what_it_tries_whatever_the_process_was_asked_before(n_before):
    """At random (up to 8 trials), and by TPE."""
    config = planted.settings(max(n_before, 1), seed=3, patience=0)
    studied = [planted.in_memory(config) for _ in range(2)]
    if n_before:
        for study in studied:
            run(study, config)
    elsewhere = planted.in_memory(config)
    used = studied[1].sampler = Sampler(3)
    elsewhere.sampler = used
    for _ in range(4):
        proposed(elsewhere, config)  # Uses random numbers of the second study's sampler.
    assert proposed(studied[0], config) == proposed(studied[1], config)


def test_another_seed_or_number_proposes_something_else():
    first, second = planted.settings(seed=0), planted.settings(seed=1)
    study = planted.in_memory(first)
    tried = [proposed(study, first), proposed(study, first), proposed(planted.in_memory(second), second)]
    assert len({str(values) for values in tried}) == 3


@pytest.mark.filterwarnings("ignore:Heartbeat of storage")
@pytest.mark.parametrize("n_before", [0, 12])
def test_processes_with_one_seed_do_not_repeat_each_other(path, n_before):
    config = planted.settings(max(n_before, 1), patience=0)
    first, _ = journal(path, config)
    if n_before:
        run(first, config)
    others = [journal(path, config)[0] for _ in range(3)]
    tried = [proposed(study, config) for study in (first, *others) for _ in range(2)]
    assert len({str(values) for values in tried}) == 8


def test_a_study_that_stopped_and_went_on_tries_what_an_undisturbed_one_does(path, tmp_path):
    config = planted.settings(14, seed=7)
    whole = run(journal(str(tmp_path / "whole"), config)[0], config)
    for n_trials in (1, 6, 7, 11, 14):
        part = planted.with_more(config, n_trials)
        tried = run(journal(path, part)[0], part)
        assert tried == whole[:n_trials]
    assert run(planted.in_memory(config), config) == whole


def test_what_is_proposed_lies_in_the_ranges_and_fixed_values_are_not_proposed():
    config = planted.settings(safe="3..5", benign=7, learning_rate="1e-4..2e-4", epochs="1.5..1.6", lora_rank=8)
    study = planted.in_memory(config)
    for _ in range(20):
        tried = proposed(study, config)
        assert list(tried) == ["safe", "learning_rate", "epochs"] and tried["safe"] in (3, 4, 5)
        assert 1e-4 <= tried["learning_rate"] <= 2e-4 and 1.5 <= tried["epochs"] <= 1.6


# Who is let in


def test_the_first_to_open_a_study_makes_it_and_later_ones_join(path):
    config = planted.settings(3)
    study, is_first = journal(path, config)
    assert is_first and study.user_attrs[studies.SCENARIO] == config.decisive()
    again, is_first = journal(path, planted.with_more(config, 10))
    assert not is_first and again.study_name == "mixtures"
    assert journal(path, dataclasses.replace(config, study="other"))[1]


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"harmful": 31}, "harmful=30 (now 31)"),
        ({"safe": "0..121"}, "safe=0..120 (now 0..121)"),
        ({"lora_rank": 8}, "lora_rank=4..32 (now 8)"),
        ({"model": "org/other"}, "model=org/model (now org/other)"),
        ({"margin_min": 0.5}, "margin_min=None (now 0.5)"),
        ({"seed": 1, "max_asr": 5.0}, "max_asr=10.0 (now 5.0), seed=0 (now 1)"),
        ({"objective": "pareto"}, "objective=utility (now pareto)"),
    ],
)
def test_a_study_of_another_scenario_or_space_is_refused_with_the_difference(path, changes, difference):
    config = planted.settings()
    journal(path, config)
    with pytest.raises(ValueError) as caught:
        journal(path, dataclasses.replace(config, **changes))
    assert str(caught.value) == (
        f"`study` is 'mixtures', which was begun with {difference}. Name a new `study`, or go on with its settings."
    )


def test_what_decides_no_number_may_change(path):
    config = planted.settings(3)
    journal(path, config)
    _, is_first = journal(
        path,
        dataclasses.replace(
            config, n_trials=9, output_dir="there", batch_size=1, lean=True, keep_checkpoints=True, heartbeat=5
        ),
    )
    assert not is_first


def test_the_same_range_written_in_another_way_is_the_same(path):
    journal(path, planted.settings(safe="0..120", learning_rate="1e-4..1e-3", benign=30))
    changed = planted.settings(safe="0 .. 120.0", learning_rate="0.0001..0.001", benign="30")
    assert not journal(path, changed)[1]


def test_a_setting_that_the_version_which_began_the_study_did_not_have_is_told(path):
    config = planted.settings()
    study, _ = journal(path, config)
    without = {name: value for name, value in config.decisive().items() if name != "warmup"}
    study.set_user_attr(studies.SCENARIO, {**without, "gone": 3})
    with pytest.raises(ValueError, match=r"begun with gone=3 \(now None\), warmup=None \(now 0\.25\)\."):
        journal(path, config)


def test_a_study_of_another_program_is_refused(path, monkeypatch):
    monkeypatch.setattr(studies, "BRIEFLY", 0.3)
    storage = storages.open_storage(path, heartbeat=30, on_stale=studies.take_up)
    optuna.create_study(storage=storage, study_name="mixtures").add_trial(create_trial(value=1.0))
    with pytest.raises(ValueError, match="^`study` is 'mixtures', which another program made. Name a new `study`[.]$"):
        journal(path, planted.settings())


def test_a_study_whose_maker_died_at_once_is_made_whole(path, monkeypatch):
    monkeypatch.setattr(studies, "BRIEFLY", 0.3)
    storage = storages.open_storage(path, heartbeat=30, on_stale=studies.take_up)
    optuna.create_study(storage=storage, study_name="mixtures")
    config = planted.settings()
    study, is_first = journal(path, config)
    assert not is_first and study.user_attrs[studies.SCENARIO] == config.decisive()


def test_the_run_of_a_study_is_waited_for_and_empty_if_none_comes(path, monkeypatch):
    monkeypatch.setattr(studies, "BRIEFLY", 0.05)
    study, _ = journal(path, planted.settings())
    assert studies.wait_for_run(study) == ""
    study.set_user_attr(studies.RUN, "abc")
    assert studies.wait_for_run(study) == "abc"


# Who takes what


@pytest.mark.parametrize("objective", ["utility", "pareto"])
def test_the_process_in_which_the_last_trial_ended_checks_the_best_one(path, objective):
    config = planted.settings(2, patience=0, objective=objective)
    study, _ = journal(path, config)
    assert studies.takes_check(study)
    run(study, config)
    assert studies.takes_check(study) and not studies.is_open(study)
    others(study, TrialState.COMPLETE)
    assert not studies.takes_check(study) and studies.is_open(study)
    studies.close(study)
    assert not studies.takes_check(study) and not studies.is_open(study)
    others(study, TrialState.COMPLETE)  # There were more trials after that.
    assert studies.is_open(study)


def others(study, state, process=ELSEWHERE, **more):
    """Add a trial that runs, or ran, in another process."""
    system_attrs = {} if process is None else {heartbeats.PROCESS: process}
    values = [1.0] * len(study.directions) if state == TrialState.COMPLETE else None
    study.add_trial(create_trial(state=state, values=values, system_attrs=system_attrs, **more))


def test_a_trial_that_died_or_was_not_needed_is_not_the_last_one(path):
    config = planted.settings(1, patience=0)
    study, _ = journal(path, config)
    run(study, config)
    others(study, TrialState.FAIL)
    others(study, TrialState.FAIL, user_attrs={"reason": studies.SURPLUS})
    assert studies.takes_check(study)
    others(study, TrialState.FAIL, user_attrs={"reason": "outside the basin"})
    assert studies.takes_check(study)
    others(study, TrialState.FAIL, user_attrs={"reason": "out of memory", studies.FAILED: True})
    assert not studies.takes_check(study)


def test_where_the_process_of_the_last_trial_is_gone_whoever_is_left_checks_the_best_one(path):
    config = planted.settings(1, patience=0)
    study, _ = journal(path, config)
    run(study, config)
    others(study, TrialState.COMPLETE)
    assert not studies.takes_check(study)
    others(study, TrialState.COMPLETE, {**heartbeats.this_process(), "since": 0.0})
    assert studies.takes_check(study)


def test_a_study_is_open_while_another_living_process_runs_a_trial(path):
    config = planted.settings(1, patience=0)
    study, _ = journal(path, config)
    run(study, config)
    others(study, TrialState.RUNNING, heartbeats.this_process())
    others(study, TrialState.RUNNING, {**heartbeats.this_process(), "since": 0.0})  # Its process is gone.
    assert not studies.is_open(study)
    others(study, TrialState.RUNNING)
    assert studies.is_open(study)


# Taking up


def dead(params, **notes):
    return create_trial(
        state=TrialState.FAIL,
        params=params,
        distributions={name: optuna.distributions.IntDistribution(0, 120) for name in params},
        user_attrs=notes,
    )


def test_a_dead_trials_settings_are_put_in_line_with_its_number():
    study = planted.in_memory(planted.settings())
    study.add_trial(dead({"safe": 7}))
    studies.take_up(study, study.trials[0])
    assert study.trials[1].state == TrialState.WAITING
    assert study.trials[1].user_attrs == {"retry_of": 0, "retries": 1}
    assert proposed(study, planted.settings())["safe"] == 7


@pytest.mark.parametrize(
    ("retries", "is_blamed", "after"),
    [(0, True, 1), (1, True, 2), (2, True, None), (2, False, 2), (None, True, 1), (None, False, 0)],
)
def test_a_trial_is_taken_up_a_few_times_and_an_interrupt_is_not_blamed_on_it(retries, is_blamed, after):
    study = planted.in_memory(planted.settings())
    study.add_trial(dead({"safe": 7}, **({} if retries is None else {"retries": retries})))
    studies.take_up(study, study.trials[0], is_blamed)
    assert [trial.user_attrs["retries"] for trial in study.trials[1:]] == ([] if after is None else [after])


def test_a_trial_that_died_before_it_was_told_anything_leaves_nothing_to_take_up():
    study = planted.in_memory(planted.settings())
    study.add_trial(dead({}))
    studies.take_up(study, study.trials[0])
    assert len(study.trials) == 1


@pytest.mark.parametrize(
    ("state", "notes", "does"),
    [
        (TrialState.COMPLETE, {}, True),
        (TrialState.PRUNED, {"reason": "outside"}, True),
        (TrialState.RUNNING, {}, True),
        (TrialState.WAITING, {}, True),
        (TrialState.FAIL, {"reason": "out of memory", studies.FAILED: True}, True),
        (TrialState.FAIL, {}, False),
        (TrialState.FAIL, {"reason": "outside"}, False),
        (TrialState.FAIL, {"reason": studies.SURPLUS}, False),
    ],
)
def test_dead_and_surplus_trials_are_not_among_those_asked_for(state, notes, does):
    values = {"value": 1.0} if state == TrialState.COMPLETE else {}
    assert studies.counts(create_trial(state=state, user_attrs=notes, **values)) is does


def test_a_trial_is_surplus_if_enough_that_count_began_before_it():
    study = planted.in_memory(planted.settings())
    for state in (TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING, TrialState.RUNNING):
        study.add_trial(create_trial(state=state))
    trials = study.trials
    assert [studies.is_surplus(trial, trials, 1) for trial in trials] == [False, True, True, True]
    assert [studies.is_surplus(trial, trials, 2) for trial in trials] == [False, False, False, True]
    assert not any(studies.is_surplus(trial, trials, 3) for trial in trials)


def test_what_takes_up_a_trial_that_is_about_to_be_told_dead_is_not_surplus():
    study = planted.in_memory(planted.settings())
    study.add_trial(create_trial(state=TrialState.RUNNING))
    study.add_trial(create_trial(state=TrialState.RUNNING, user_attrs={"retry_of": 0}))
    study.add_trial(create_trial(state=TrialState.RUNNING))
    assert [studies.is_surplus(trial, study.trials, 1) for trial in study.trials] == [False, False, True]


def test_a_trial_that_died_is_told_as_dead_whatever_it_had_noted():
    for notes in ({}, {"reason": "outside the basin"}):
        assert studies.as_trial(create_trial(state=TrialState.FAIL, user_attrs=notes)).reason == studies.DIED
    failed = create_trial(state=TrialState.FAIL, user_attrs={"reason": "out of memory", studies.FAILED: True})
    assert studies.as_trial(failed).reason == "out of memory"


# Read as a result


def noted(study, *, state=TrialState.COMPLETE, inside=True, value=3.0, violation=0.0, **notes):
    """Add a trial with what a search notes on one."""
    rates = dict.fromkeys(("asr", "over_refusal", "utility"), 5.0)
    said = {"inside": inside, "value": value, "violation": violation, **rates, **notes}
    values = {"value": value} if state == TrialState.COMPLETE else {}
    study.add_trial(create_trial(state=state, user_attrs=said, **values))


def test_the_best_is_the_least_value_inside_and_the_nearest_the_one_that_breaks_the_limits_least():
    config = planted.settings()
    study = planted.in_memory(config)
    noted(study, inside=False, value=1.0, violation=0.5)
    noted(study, value=3.0)
    noted(study, value=2.9)
    noted(study, value=2.95)
    noted(study, state=TrialState.PRUNED, inside=False, value=2.0, violation=50.0)
    result = studies.record(study, config)
    assert (result.best, result.nearest) == (2, 2)


def test_where_none_is_inside_the_nearest_breaks_the_limits_least_pruned_ones_too():
    config = planted.settings()
    study = planted.in_memory(config)
    noted(study, inside=False, value=1.0, violation=5.0)
    noted(study, inside=False, value=3.0, violation=0.5)
    noted(study, inside=False, value=2.0, violation=0.5)
    noted(study, state=TrialState.PRUNED, inside=False, value=9.0, violation=0.25)
    result = studies.record(study, config)
    assert (result.best, result.nearest) == (None, 3)


def test_a_study_without_trials_or_with_failed_ones_alone_has_neither():
    config = planted.settings()
    study = planted.in_memory(config)
    for _ in range(2):
        result = studies.record(study, config)
        assert (result.best, result.nearest, result.front, result.check) == (None, None, (), None)
        study.add_trial(create_trial(state=TrialState.FAIL, user_attrs={"reason": "out of memory"}))


def test_a_trial_that_died_after_it_was_judged_is_not_among_those_inside():
    config = planted.settings()
    study = planted.in_memory(config)
    noted(study, state=TrialState.FAIL)
    result = studies.record(study, config)
    assert result.best is None and result.metrics()["n_inside"] == 0
    assert not result.trials[0].inside


@pytest.mark.parametrize("seed", range(20))
def test_the_front_is_what_comparing_every_two_trials_finds(seed):
    generator = random.Random(seed)
    n = generator.randint(0, 15)
    trials = [made.trial(i, *(float(generator.randint(0, 4)) for _ in range(3))) for i in range(n)]

    def beats(one, other):
        pairs = [(one.asr, other.asr), (one.over_refusal, other.over_refusal), (one.utility, other.utility)]
        return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)

    slowly = tuple(one.number for one in trials if not any(beats(other, one) for other in trials))
    assert studies.front(trials) == slowly


def test_equal_trials_are_all_on_the_front_and_pruned_ones_never():
    assert studies.front([made.trial(3), made.trial(8), made.trial(9, utility=9.0)]) == (3, 8)
    config = planted.settings()
    study = planted.in_memory(config)
    noted(study, asr=50.0, inside=False)
    noted(study, state=TrialState.PRUNED, asr=0.0, over_refusal=0.0, utility=0.0, inside=False)
    assert studies.record(study, config).front == (0,)


def test_a_trial_of_which_something_is_not_known_is_not_on_the_front():
    unknown = [made.trial(number, *rates) for number, rates in enumerate(((NAN, 0, 0), (0, NAN, 0), (0, 0, NAN)))]
    assert studies.front(unknown) == () and studies.front([*unknown, made.trial(3, 90.0, 90.0, 9.0)]) == (3,)


def test_the_check_is_shown_for_the_best_trial_only():
    config = planted.settings()
    study = planted.in_memory(config)
    noted(study, value=3.0)
    whole = planted.evaluation(7.5, 5.0, NAN)
    studies.keep_check(study, 0, whole, 12.5)
    result = studies.record(study, config)
    assert result.check == whole and result.unseen_asr == 12.5
    noted(study, value=2.0)
    result = studies.record(study, config)
    assert result.check is None and math.isnan(result.unseen_asr)
    studies.keep_check(study, 1, planted.evaluation(2.5, task_nll=1.5), 0.0)
    result = studies.record(study, config)
    assert result.check.task_nll == 1.5 and result.unseen_asr == 0.0


def test_where_trials_were_measured_on_all_prompts_none_is_unseen():
    config = planted.settings()
    study = planted.in_memory(config)
    noted(study)
    studies.keep_check(study, 0, planted.evaluation(7.5), NAN)
    result = studies.record(study, config)
    assert result.check.asr == 7.5 and math.isnan(result.unseen_asr)


def test_a_check_is_not_shown_where_no_trial_is_the_best():
    config = planted.settings()
    study = planted.in_memory(config)
    studies.keep_check(study, 0, planted.evaluation(), NAN)
    assert studies.record(study, config).check is None


def test_a_search_keeps_the_settings_that_it_is_to_be_read_with(tmp_path):
    config = planted.settings(4, safe="48..120", benign=30, margin_min=0.25, max_asr=12.5, task=3, task_data="r.csv")
    study = planted.in_memory(config)

    def attempt(one):
        one.watch(Checkpoint("models:/m-0", one.watch.planned_steps, 0.001, planted.evaluation()))
        return judge(config, one.settings, planted.evaluation(task_nll=2.0), None, "")

    loop.run(study, config, attempt)
    result = studies.record(study, config)
    assert (result.study, result.model, result.objective) == ("mixtures", "org/model", "utility")
    assert (result.utility_name, result.max_asr, result.margin_min) == ("task_nll", 12.5, 0.25)
    assert result.space == {
        "safe": "48..120",
        "benign": "30",
        "learning_rate": "0.0001..0.001",
        "epochs": "1.0..3.0",
        "lora_rank": "4..32",
    }
    result.save(tmp_path / "search.json")
    assert Search.load(tmp_path / "search.json") == result and result.trial(result.best).utility == 2.0


# Trials


def test_a_finished_trial_has_its_notes_and_how_long_it_took():
    config = planted.settings(1, safe="48..120")
    study = planted.in_memory(config)
    began = time.monotonic()
    run(study, config)
    (one,) = studies.record(study, config).trials
    assert (one.number, one.state, one.reason, one.inside) == (0, "complete", "", True)
    assert one.params == study.trials[0].params and one.counts["safe"] == one.params["safe"]
    assert 0 <= one.seconds <= time.monotonic() - began and one.steps == one.planned_steps
    assert math.isnan(one.margin) and one.margin_is_open is False and one.retry_of is None


@pytest.mark.parametrize(
    ("state", "notes", "expected"),
    [
        (TrialState.FAIL, {}, ("failed", studies.DIED)),
        (TrialState.FAIL, {"reason": "out of memory", studies.FAILED: True}, ("failed", "out of memory")),
        (TrialState.FAIL, {"reason": studies.SURPLUS}, ("failed", studies.SURPLUS)),
        (TrialState.PRUNED, {"reason": "outside the basin"}, ("pruned", "outside the basin")),
        (TrialState.RUNNING, {}, ("running", "")),
        (TrialState.WAITING, {"retry_of": 3}, ("waiting", "")),
    ],
)
def test_a_trial_that_is_not_complete_says_why_and_has_nan_for_what_was_not_measured(state, notes, expected):
    study = planted.in_memory(planted.settings())
    study.add_trial(create_trial(state=state, user_attrs=notes))
    one = studies.as_trial(study.trials[0])
    assert (one.state, one.reason) == expected and one.retry_of == notes.get("retry_of")
    numbers = (one.asr, one.asr_low, one.over_refusal_high, one.utility, one.margin, one.violation, one.value)
    assert all(math.isnan(number) for number in numbers)
    assert (one.inside, one.steps, one.planned_steps, one.uri, one.run, one.counts) == (False, 0, 0, "", "", {})


def test_a_trial_that_waits_or_runs_took_no_time_that_is_known():
    study = planted.in_memory(planted.settings())
    study.enqueue_trial({"safe": 3})
    assert math.isnan(studies.as_trial(study.trials[0]).seconds)
    study.ask()
    assert math.isnan(studies.as_trial(study.trials[0]).seconds) and study.trials[0].state == TrialState.RUNNING


def test_optunas_log_and_its_warnings_are_quiet(path, capfd, recwarn):
    config = planted.settings(2)
    run(journal(path, config)[0], config)
    assert capfd.readouterr().err == "" and not recwarn.list
