"""An Optuna study of mixtures: what it proposes, whom it lets in, and how it reads as a result."""

import dataclasses
import gc
import math
import random

import made
import optuna
import planted
import pytest
from optuna.trial import TrialState, create_trial

from visage_mlflow.results import Search
from visage_mlflow.search import checks
from visage_mlflow.search import study as studies
from visage_mlflow.search.sampler import Sampler
from visage_mlflow.text.errors import Mistake

NAN = math.nan


@pytest.fixture(autouse=True)
def quick():
    """No look at every object in memory after each trial."""
    gc.freeze()
    yield
    gc.unfreeze()


def run(study, config):
    planted.run(study, config)
    return [trial.params for trial in study.trials]


@pytest.fixture
def opened():
    """A function that opens a study in one storage, as each process does."""
    storage = optuna.storages.InMemoryStorage()
    return lambda config: studies.open_study(config, storage)


# What is proposed


def proposed(study, config):
    """What the next trial would be told to try; it is left running."""
    return studies.suggest(study.ask(), config.space())


@pytest.mark.parametrize("n_before", [0, 12])
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


@pytest.mark.parametrize("n_before", [0, 12])
def test_another_seed_or_number_proposes_something_else(n_before):
    first, second = planted.settings(max(n_before, 1), seed=0, patience=0), planted.settings(seed=1)
    study = planted.in_memory(first)
    if n_before:
        run(study, first)
    # Two processes with one seed begin trials of different numbers.
    tried = [proposed(study, first), proposed(study, first)]
    study.sampler = Sampler(0)
    tried += [proposed(study, first), proposed(planted.in_memory(second), second)]
    assert len({str(values) for values in tried}) == 4


def test_a_study_that_stopped_and_went_on_tries_what_an_undisturbed_one_does(opened):
    config = planted.settings(11, seed=7)
    whole = run(planted.in_memory(config), config)
    for n_trials in (1, 7, 11):
        part = planted.with_more(config, n_trials)
        assert run(opened(part)[0], part) == whole[:n_trials]


def test_what_is_proposed_lies_in_the_ranges_and_fixed_values_are_not_proposed():
    config = planted.settings(safe="3..5", benign=7, learning_rate="1e-4..2e-4", epochs="1.5..1.6", lora_rank=8)
    study = planted.in_memory(config)
    for _ in range(10):
        tried = proposed(study, config)
        assert list(tried) == ["safe", "learning_rate", "epochs"] and tried["safe"] in (3, 4, 5)
        assert 1e-4 <= tried["learning_rate"] <= 2e-4 and 1.5 <= tried["epochs"] <= 1.6


# Who is let in


def test_the_first_to_open_a_study_makes_it_and_later_ones_join_with_other_settings_that_decide_no_number(opened):
    config = planted.settings(3)
    study, is_first = opened(config)
    assert is_first and study.user_attrs[studies.SCENARIO] == config.decisive()
    changed = {"output_dir": "there", "batch_size": 1, "lean": True, "keep_checkpoints": True, "heartbeat": 9}
    again, is_first = opened(dataclasses.replace(config, n_trials=9, safe=" 0 .. 1.2e2", **changed))
    assert not is_first and again.study_name == "mixtures"
    assert opened(dataclasses.replace(config, study="other"))[1]


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"safe": "0..121"}, "safe=0..120 (now 0..121)"),
        ({"margin_min": 0.5}, "margin_min=None (now 0.5)"),
        ({"seed": 1, "max_asr": 5.0}, "max_asr=10.0 (now 5.0), seed=0 (now 1)"),
        ({"objective": "pareto"}, "objective=utility (now pareto)"),
    ],
)
def test_a_study_of_another_scenario_or_space_is_refused_with_the_difference(opened, changes, difference):
    config = planted.settings()
    opened(config)
    with pytest.raises(Mistake) as caught:
        opened(dataclasses.replace(config, **changes))
    assert str(caught.value) == (
        f"`study` is 'mixtures', which was begun with {difference}. Name a new `study`, or go on with its settings."
    )


def test_a_setting_that_the_version_which_began_the_study_did_not_have_is_told(opened):
    config = planted.settings()
    study, _ = opened(config)
    without = {name: value for name, value in config.decisive().items() if name != "warmup"}
    study.set_user_attr(studies.SCENARIO, {**without, "gone": 3})
    with pytest.raises(Mistake, match=r"begun with gone=3 \(now None\), warmup=None \(now 0\.25\)\."):
        opened(config)


def test_a_study_of_another_program_is_refused_and_one_whose_maker_died_at_once_is_made_whole(monkeypatch):
    monkeypatch.setattr(studies, "PATIENCE", 0.0)
    storage, config = optuna.storages.InMemoryStorage(), planted.settings()
    bare = optuna.create_study(storage=storage, study_name="mixtures")
    study, is_first = studies.open_study(config, storage)
    assert not is_first and study.user_attrs[studies.SCENARIO] == config.decisive()
    bare.set_user_attr(studies.SCENARIO, None)
    bare.add_trial(create_trial(value=1.0))
    with pytest.raises(Mistake, match="^`study` is 'mixtures', which another program made. Name a new `study`[.]$"):
        studies.open_study(config, storage)


def test_the_run_of_a_study_is_waited_for_and_none_if_none_comes(opened, monkeypatch):
    monkeypatch.setattr(studies, "PATIENCE", 0.0)
    study, _ = opened(planted.settings())
    assert studies.wait_for(study, studies.RUN) is None
    study.set_user_attr(studies.RUN, "abc")
    assert studies.wait_for(study, studies.RUN) == "abc"


# Which trials count


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
    assert (result.leading, result.best, result.nearest) == (2, None, 2)


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
        assert (result.best, result.nearest, result.front, result.checks) == (None, None, (), ())
        study.add_trial(create_trial(state=TrialState.FAIL, user_attrs={"reason": "out of memory"}))


def test_a_trial_that_died_after_it_was_judged_is_not_among_those_inside():
    config = planted.settings()
    study = planted.in_memory(config)
    noted(study, state=TrialState.FAIL)
    result = studies.record(study, config)
    assert result.best is None and result.metrics()["n_inside"] == 0
    assert not result.trials[0].inside


@pytest.mark.parametrize("seed", range(10))
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


def checked(study, config, number, asr):
    """Note a whole check of a trial, each training of the same ASR."""
    checks.run(
        study, config, lambda: [studies.record(study, config).trial(number)], lambda *_: planted.evaluation(asr)
    )


def test_the_best_is_the_trial_whose_check_holds_and_without_one_the_nearest_was_nearest_to_holding():
    config = planted.settings()
    study = planted.in_memory(config)
    for value in (3.0, 3.5, 4.0):
        noted(study, value=value)
    result = studies.record(study, config)
    assert (result.leading, result.best, result.nearest, result.checks) == (0, None, 0, ())
    checked(study, config, 0, 20.0)
    checked(study, config, 1, 12.0)
    result = studies.record(study, config)
    assert (result.best, result.nearest) == (None, 1) and [one.holds for one in result.checks] == [False, False]
    checked(study, config, 2, 5.0)
    result = studies.record(study, config)
    assert (result.leading, result.best, result.nearest, result.checks[2].holds) == (0, 2, 2, True)


# Trials


def test_a_search_keeps_the_settings_and_trials_that_it_is_to_be_read_with(tmp_path):
    config = planted.settings(2, safe="48..120", benign=30, margin_min=0.25, max_asr=12.5, task=3, task_data="r.csv")
    study = planted.in_memory(config)
    planted.run(study, config, lambda *one: planted.trained(*one, config, planted.evaluation(task_nll=2.0)))
    study.enqueue_trial({"safe": 60})
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
    one, _, waiting = result.trials
    assert (one.number, one.state, one.reason, one.inside) == (0, "complete", "", True)
    assert one.params == study.trials[0].params and one.counts["safe"] == one.params["safe"]
    assert one.seconds >= 0 and one.steps == one.planned_steps and one.utility == 2.0
    assert math.isnan(one.margin) and one.margin_is_open is False and one.retry_of is None
    assert waiting.state == "waiting" and math.isnan(waiting.seconds)
    result.save(tmp_path / "search.json")
    assert Search.load(tmp_path / "search.json") == result


@pytest.mark.parametrize(
    ("state", "notes", "expected"),
    [
        (TrialState.FAIL, {}, ("failed", studies.DIED)),
        (TrialState.FAIL, {"reason": "outside the basin"}, ("failed", studies.DIED)),
        (TrialState.FAIL, {"reason": "out of memory", studies.FAILED: True}, ("failed", "out of memory")),
        (TrialState.FAIL, {"reason": studies.SURPLUS}, ("failed", studies.SURPLUS)),
        (TrialState.PRUNED, {"reason": "outside the basin"}, ("pruned", "outside the basin")),
        (TrialState.RUNNING, {}, ("running", "")),
        (TrialState.WAITING, {"retry_of": 3, "reason": "of the one that died"}, ("waiting", "")),
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
