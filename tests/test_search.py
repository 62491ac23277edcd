"""Who runs which trial, and what becomes of those that fail or die; and that the search finds a planted boundary."""

import gc
import multiprocessing
import os
import signal
import statistics
import threading
import time

import optuna
import planted
import pytest
import torch
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import RandomSampler
from optuna.trial import TrialState

from visage_mlflow.results import Edge
from visage_mlflow.search import heartbeats
from visage_mlflow.search import loop as search
from visage_mlflow.search import storage as storages
from visage_mlflow.search import study as studies
from visage_mlflow.search.trial import judge

LONG_AGO = 1e6
"""Seconds, far more than any grace."""


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Neither a look at every object in memory after each trial, nor whole seconds between looks at the study."""
    monkeypatch.setattr(search, "POLL", 0.05)
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def journal(tmp_path):
    """A function that opens a study of one journal, as each process does; it takes dead trials up again."""

    def opened(config, on_stale=studies.take_up):
        storage = storages.open_storage(
            str(tmp_path / "search.journal"), heartbeat=config.heartbeat, on_stale=on_stale
        )
        return studies.open_study(config, storage)[0]

    return opened


def states(study):
    return [trial.state.name for trial in study.get_trials(deepcopy=False)]


def reasons(study):
    return [trial.user_attrs.get("reason") for trial in study.get_trials(deepcopy=False)]


def params(study):
    return [trial.params for trial in study.get_trials(deepcopy=False)]


def run(study, config, attempt=None, **options):
    """Run a study; returns the numbers that were told."""
    told = []
    search.run(study, config, attempt or (lambda one: planted.trained(one, config)), told=told.append, **options)
    return told


def failing_at(config, errors):
    """Attempts that raise what `errors` has for their number."""

    def attempt(one):
        if one.number in errors:
            raise errors[one.number]
        return planted.trained(one, config)

    return attempt


# How many trials


@pytest.mark.parametrize("n_trials", [1, 2, 7])
def test_exactly_as_many_trials_run_as_were_asked_for(n_trials):
    config = planted.settings(n_trials)
    study = planted.in_memory(config)
    assert run(study, config) == list(range(n_trials))
    assert len(states(study)) == n_trials and set(states(study)) <= {"COMPLETE", "PRUNED"}


def test_a_study_that_has_its_trials_is_left_as_it_is():
    config = planted.settings(3)
    study = planted.in_memory(config)
    run(study, config)
    assert run(study, config) == [] and run(study, planted.with_more(config, 1)) == [] and len(states(study)) == 3


def test_more_trials_asked_for_later_go_on_where_it_stopped():
    config = planted.settings(3)
    study = planted.in_memory(config)
    run(study, config)
    assert run(study, planted.with_more(config, 5)) == [3, 4] and len(states(study)) == 5


def test_a_trial_keeps_what_was_found_on_it():
    config = planted.settings(4, safe="48..120")
    study = planted.in_memory(config)
    run(study, config)
    for trial in study.get_trials():
        notes = trial.user_attrs
        assert notes["counts"] == {"harmful": 30, "safe": trial.params["safe"], "benign": notes["counts"]["benign"],
                                   "task": 0}  # fmt: skip
        assert notes["steps"] == notes["planned_steps"] and notes["uri"] == f"models:/m-{trial.number}"
        assert notes["inside"] is True and notes["violation"] == 0 and trial.value == notes["value"]
        assert notes["asr"] <= 10 and notes["utility"] > 3 and "margin" not in notes and "reason" not in notes
        assert trial.constraints == {"asr": notes["asr"] - 10, "over_refusal": -15.0}


def test_a_margin_that_was_found_is_kept_with_whether_it_is_a_lower_bound():
    config = planted.settings(1, margin_min=0.5)
    study = planted.in_memory(config)

    def attempt(one):
        planted.trained(one, config)
        edge = Edge(1.25, 0.01, False, ((0.0, 0.0), (1.25, 50.0)))
        return judge(config, one.settings, planted.evaluation(), edge, "")

    run(study, config, attempt)
    (trial,) = study.get_trials()
    # 0.25 of at least 0.5: 25 percent short.
    assert (trial.user_attrs["margin"], trial.user_attrs["margin_is_open"]) == (0.25, False)
    assert trial.user_attrs["violation"] == 25.0 and trial.user_attrs["inside"] is False
    assert trial.constraints["margin"] == 25.0


def test_a_search_for_a_front_keeps_three_values_and_sets_no_limits():
    config = planted.settings(6, objective="pareto")
    study = planted.in_memory(config)
    run(study, config)
    complete = study.get_trials(states=(TrialState.COMPLETE,))
    assert complete and all(not trial.constraints for trial in complete)
    for trial in complete:
        assert trial.values == [trial.user_attrs[name] for name in ("asr", "over_refusal", "utility")]


# Failures


def test_a_trial_that_fails_is_failed_with_its_reason_and_does_not_stop_the_study():
    config = planted.settings(5, patience=0)
    study = planted.in_memory(config)
    errors = {1: ValueError("`max_length` is 16 tokens."), 3: ZeroDivisionError("by\nzero")}
    assert run(study, config, failing_at(config, errors)) == [0, 1, 2, 3, 4]
    assert states(study) == ["COMPLETE", "FAIL", "COMPLETE", "FAIL", "COMPLETE"]
    assert reasons(study) == [None, "`max_length` is 16 tokens.", None, "ZeroDivisionError: by zero.", None]


def test_three_failures_in_a_row_end_the_search_with_the_last_reason():
    config = planted.settings(9, patience=0)
    study = planted.in_memory(config)
    errors = {number: ValueError(f"`model` is gone, said {number}.") for number in (1, 2, 3)}
    with pytest.raises(ValueError, match="^3 trials failed one after the other.*`model` is gone, said 3[.]$"):
        run(study, config, failing_at(config, errors))
    assert states(study) == ["COMPLETE", "FAIL", "FAIL", "FAIL"]


def test_failures_with_a_success_between_them_do_not_add_up():
    config = planted.settings(6, patience=0)
    study = planted.in_memory(config)
    run(study, config, failing_at(config, dict.fromkeys((0, 1, 3, 4), OSError("disk full"))))
    assert states(study) == ["FAIL", "FAIL", "COMPLETE", "FAIL", "FAIL", "COMPLETE"]


def test_a_pruned_trial_between_failures_is_no_failure():
    config = planted.settings(5, safe="0..10")
    study = planted.in_memory(config)
    run(study, config, failing_at(config, dict.fromkeys((0, 1, 3, 4), OSError("disk full"))))
    assert states(study) == ["FAIL", "FAIL", "PRUNED", "FAIL", "FAIL"]


def test_a_study_that_was_ended_by_failures_can_go_on():
    config = planted.settings(5, patience=0)
    study = planted.in_memory(config)
    with pytest.raises(ValueError, match="3 trials failed"):
        run(study, config, failing_at(config, dict.fromkeys(range(3), OSError("disk full"))))
    assert run(study, config) == [3, 4]
    assert states(study) == ["FAIL"] * 3 + ["COMPLETE"] * 2


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of …"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: …"),
        MemoryError(),
        MemoryError("Unable to allocate 3 GiB for an array"),
    ],
    ids=["cuda", "cpu", "empty", "numpy"],
)
def test_out_of_memory_is_told_with_what_helps(error):
    config = planted.settings(2, patience=0)
    study = planted.in_memory(config)
    run(study, config, failing_at(config, {0: error}))
    assert states(study) == ["FAIL", "COMPLETE"]
    reason = reasons(study)[0]
    assert reason.startswith("out of memory: ") and "\n" not in reason and len(reason) < 350
    assert "Lower `train_batch_size`, `batch_size` or `lora_rank`, or use a smaller model." in reason


def test_a_reason_is_one_line_with_the_kind_of_error_unless_it_is_ours():
    assert search.explained(ValueError("`a` is\n 3. ")) == "`a` is 3."
    assert search.explained(KeyError("weights")) == "KeyError: 'weights'."
    assert search.explained(RuntimeError("shape\nmismatch")) == "RuntimeError: shape mismatch."
    assert search.explained(RuntimeError("")) == "RuntimeError: RuntimeError."


def test_a_checkpoint_that_cannot_be_judged_fails_its_trial():
    config = planted.settings(2, patience=0)
    study = planted.in_memory(config)

    def attempt(one):
        if one.number:
            return planted.trained(one, config)
        return judge(config, one.settings, planted.evaluation(nll=float("nan")), None, "")

    run(study, config, attempt)
    assert states(study) == ["FAIL", "COMPLETE"] and "could not be measured" in reasons(study)[0]


def test_a_trial_that_stays_outside_is_pruned_with_the_reason_and_what_was_measured():
    config = planted.settings(1, safe="0..10", epochs=3)
    study = planted.in_memory(config)
    assert run(study, config) == [0]
    (trial,) = study.get_trials()
    assert trial.state == TrialState.PRUNED
    assert trial.user_attrs["reason"].startswith("outside the basin at 2 checkpoints in a row (ASR 100.0, 100.0)")
    assert 0 < trial.user_attrs["steps"] < trial.user_attrs["planned_steps"]
    assert trial.user_attrs["asr"] > 99 and trial.user_attrs["inside"] is False


# Interrupts


def test_an_interrupt_ends_the_search_and_the_same_settings_are_tried_when_it_goes_on():
    config = planted.settings(4, patience=0)
    study = planted.in_memory(config)
    with pytest.raises(KeyboardInterrupt):
        run(study, config, failing_at(config, {2: KeyboardInterrupt()}))
    assert states(study) == ["COMPLETE", "COMPLETE", "FAIL", "WAITING"]
    assert run(study, config) == [3, 4]
    assert states(study) == ["COMPLETE", "COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert params(study)[3] == params(study)[2] and study.trials[3].user_attrs["retry_of"] == 2
    assert sum(map(studies.counts, study.trials)) == 4


def test_a_trial_that_is_interrupted_again_and_again_is_still_taken_up():
    config = planted.settings(1, patience=0)
    study = planted.in_memory(config)
    for number in range(studies.MOST_RETRIES + 2):
        with pytest.raises(KeyboardInterrupt):
            run(study, config, failing_at(config, {number: KeyboardInterrupt()}))
    run(study, config)
    assert states(study)[-1] == "COMPLETE" and all(one == params(study)[0] for one in params(study))


# Deaths


def die(study, config, is_told_of=lambda number: None):
    """Run the study in a process that is killed in its next trial, once this has given a sign of life."""

    def attempt(one):
        trials = study.get_trials(deepcopy=False)
        while heartbeats.BEAT not in trials[one.number].system_attrs:
            time.sleep(0.01)
            trials = study.get_trials(deepcopy=False)
        os.kill(os.getpid(), signal.SIGKILL)

    process = multiprocessing.get_context("fork").Process(target=search.run, args=(study, config, attempt))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL


def test_a_trial_whose_process_was_killed_is_failed_and_its_settings_are_tried_again(journal):
    config = planted.settings(3, patience=0)
    die(journal(config), config)
    study = journal(config)
    assert states(study) == ["RUNNING"]
    run(study, config)
    assert states(study) == ["FAIL"] + ["COMPLETE"] * 3 and reasons(study) == [None] * 4
    # Died at once; the settings went to the trial that began next.
    assert params(study)[1] == params(study)[0] and study.trials[1].user_attrs["retry_of"] == 0
    result = studies.record(study, config)
    assert result.trial(0).reason == studies.DIED and result.trial(1).retry_of == 0


def test_settings_that_kill_every_process_are_given_up_after_a_few(journal):
    config = planted.settings(2, patience=0)
    for _ in range(1 + studies.MOST_RETRIES):
        die(journal(config), config)
    study = journal(config)
    run(study, config)
    killed = 1 + studies.MOST_RETRIES
    assert states(study) == ["FAIL"] * killed + ["COMPLETE"] * 2
    assert all(one == params(study)[0] for one in params(study)[:killed])
    assert params(study)[killed] != params(study)[0]


def test_a_trial_that_died_is_not_one_of_those_asked_for(journal):
    config = planted.settings(2, patience=0)
    study = journal(config)
    run(study, planted.with_more(config, 1))
    die(journal(config), config)
    assert sum(map(studies.counts, journal(config).get_trials())) == 2  # It may still come to an end.
    run(study, config)
    assert states(study) == ["COMPLETE", "FAIL", "COMPLETE"]


def test_a_dead_trial_is_told_of_once(journal):
    config = planted.settings(2, patience=0)
    die(journal(config), config)
    told = []
    for _ in range(2):
        run(journal(config, on_stale=lambda study, dead: told.append(dead.number)), config)
    assert told == [0]


def take_for_dead(study, number):
    """Fail a running trial as another process does that has not heard of it for long, and take it up again."""
    dead = study.get_trials(deepcopy=False)[number]
    study._storage.set_trial_state_values(dead._trial_id, TrialState.FAIL)
    studies.take_up(study, study.get_trials()[number])


def test_a_trial_that_was_taken_for_dead_while_it_ran_is_given_up_without_an_error(journal):
    config = planted.settings(2, patience=0)
    study = journal(config)

    def attempt(one):
        if one.number == 0:
            take_for_dead(journal(config), 0)
        return planted.trained(one, config)

    assert run(study, config, attempt) == [1, 2]
    assert states(study) == ["FAIL", "COMPLETE", "COMPLETE"] and params(study)[1] == params(study)[0]
    assert study.trials[0].values is None


def test_a_trial_that_was_taken_for_dead_and_then_failed_is_given_up_too(journal):
    config = planted.settings(2, patience=0)
    study = journal(config)

    def attempt(one):
        if one.number == 0:
            take_for_dead(journal(config), 0)
            raise OSError("disk full")
        return planted.trained(one, config)

    assert run(study, config, attempt) == [1, 2] and states(study) == ["FAIL", "COMPLETE", "COMPLETE"]
    assert reasons(study)[0] is None


def test_a_trial_that_is_taken_for_dead_as_it_is_about_to_tell_its_result_is_given_up_too(journal):
    config = planted.settings(2, patience=0, objective="pareto")
    study, other = journal(config), journal(config)

    class Slow(search.Objective):
        """Whose first trial is taken for dead after all was noted on it."""

        def __call__(self, trial):
            values = super().__call__(trial)
            if trial.number == 0:
                take_for_dead(other, 0)
            return values

    objective = Slow(config, lambda one: planted.trained(one, config))
    objective.run_in(study)
    assert states(study) == ["FAIL", "WAITING"]


def test_a_trial_that_is_taken_for_dead_as_it_is_about_to_be_pruned_is_given_up_too(journal):
    config = planted.settings(1, safe="0..10", epochs=3)
    study, other = journal(config), journal(config)

    class Slow(search.Objective):
        """Whose first trial is taken for dead after it was noted why it was ended."""

        def __call__(self, trial):
            try:
                return super().__call__(trial)
            except optuna.TrialPruned:
                take_for_dead(other, trial.number)
                raise

    Slow(config, lambda one: planted.trained(one, config)).run_in(study)
    assert states(study) == ["FAIL", "WAITING"]
    assert sum(map(studies.counts, study.trials)) == 1


# Several processes


def test_two_threads_with_one_journal_end_with_exactly_the_trials_asked_for(journal):
    config = planted.settings(9, patience=0)
    told, errors = [], []

    def work():
        try:
            told.append(run(journal(config), config))
        except BaseException as error:
            errors.append(error)

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert not errors
    study = journal(config)
    ended = [number for numbers in told for number in numbers]
    assert len(ended) == len(set(ended)) == 9 == sum(map(studies.counts, study.trials))
    others = [trial for trial in study.trials if trial.number not in ended]
    assert all(trial.user_attrs["reason"] == studies.SURPLUS for trial in others)
    tried = [str(trial.params) for trial in study.trials if trial.number in ended]
    assert len(set(tried)) == 9


def work_on(study, config):
    search.run(study, config, lambda one: planted.trained(one, config))


def test_two_processes_with_one_journal_end_with_exactly_the_trials_asked_for(journal):
    config = planted.settings(9, patience=0)
    fork = multiprocessing.get_context("fork")
    workers = [fork.Process(target=work_on, args=(journal(config), config)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    study = journal(config)
    complete = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
    assert len(complete) == 9 == sum(map(studies.counts, study.trials))
    assert len({str(trial.params) for trial in complete}) == 9
    assert not {"RUNNING", "WAITING"} & set(states(study))


def test_a_process_waits_for_a_trial_that_runs_in_another_and_takes_it_up_when_that_one_dies(journal):
    config = planted.settings(1, patience=0)
    other = journal(config)
    process = multiprocessing.get_context("fork").Process(target=hang, args=(other, config))
    process.start()
    study = journal(config)
    while not any(heartbeats.BEAT in trial.system_attrs for trial in study.get_trials(deepcopy=False)):
        assert process.is_alive()
        time.sleep(0.02)
    worker = threading.Thread(target=run, args=(study, config))
    worker.start()
    worker.join(0.5)
    assert worker.is_alive() and states(study) == ["RUNNING"]
    process.kill()
    process.join(60)
    worker.join(60)
    assert states(study) == ["FAIL", "COMPLETE"] and params(study)[0] == params(study)[1]


def hang(study, config):
    search.run(study, config, lambda one: time.sleep(LONG_AGO))


def test_a_trial_that_began_after_enough_others_is_not_run():
    config = planted.settings(2, patience=0)
    study = planted.in_memory(config)
    run(study, config)
    study.enqueue_trial({"safe": 3})
    tried = []
    assert run(study, config, tried.append) == [] and tried == []
    assert states(study) == ["COMPLETE", "COMPLETE", "FAIL"] and reasons(study)[2] == studies.SURPLUS
    assert sum(map(studies.counts, study.trials)) == 2


def test_a_surplus_trial_makes_place_when_more_are_asked_for():
    config = planted.settings(1, patience=0)
    study = planted.in_memory(config)
    run(study, config)
    study.enqueue_trial({"safe": 3})
    run(study, config)
    assert run(study, planted.with_more(config, 2)) == [2] and states(study) == ["COMPLETE", "FAIL", "COMPLETE"]


def test_nothing_is_warned_of(journal, recwarn):
    config = planted.settings(3)
    run(journal(config), config)
    assert not [warning for warning in recwarn if warning.category is ExperimentalWarning]


# The planted boundary

SEEDS = range(5)


def found(seed, sampler=None):
    """A study of 30 trials with a planted boundary, as a result."""
    config = planted.settings(30, seed=seed)
    study = planted.in_memory(config)
    if sampler:
        study.sampler = sampler
    run(study, config)
    return studies.record(study, config)


@pytest.fixture(scope="module")
def searches():
    """One for each seed."""
    level = optuna.logging.get_verbosity()
    gc.freeze()
    results = [found(seed) for seed in SEEDS]
    gc.unfreeze()
    optuna.logging.set_verbosity(level)
    return results


def test_30_trials_find_a_mixture_within_10_percent_of_the_planted_boundary_whatever_the_seed(searches):
    least = [min(one.counts["safe"] for one in result.trials if one.inside) for result in searches]
    assert all(planted.BOUNDARY <= safe <= 1.1 * planted.BOUNDARY for safe in least), least


def test_the_best_mixture_is_inside_and_within_10_percent_of_the_planted_boundary(searches):
    best = [result.trial(result.best) for result in searches]
    assert all(one.inside and one.asr <= 10 for one in best)
    safe = [one.counts["safe"] for one in best]
    assert all(planted.BOUNDARY <= count <= 1.1 * planted.BOUNDARY for count in safe), safe


def test_the_search_beats_as_many_trials_at_random(searches):
    at_random = [found(seed, RandomSampler(seed=seed)) for seed in SEEDS]
    best, random = (
        statistics.median(result.trial(result.best).value for result in results) for results in (searches, at_random)
    )
    assert best < random, (best, random)


def test_trials_that_are_ended_spend_less_than_half_the_steps_of_complete_ones(searches):
    steps = {
        state: [one.steps for result in searches for one in result.trials if one.state == state]
        for state in ("pruned", "complete")
    }
    assert len(steps["pruned"]) >= 5 * len(SEEDS)
    assert statistics.mean(steps["pruned"]) < statistics.mean(steps["complete"]) / 2
