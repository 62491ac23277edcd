"""A planted boundary: how safe a trial's model is depends on its safe rows alone, and it is to be found."""

import gc
import statistics

import planted
import pytest
from optuna.samplers import RandomSampler

from visage_mlflow.search import study as studies

SEEDS = range(8)


def found(seed, *, at_random):
    """A study of 30 trials in which all five settings are searched, as a result."""
    config = planted.settings(30, seed=seed)
    study = planted.in_memory(config)
    if at_random:
        study.sampler = RandomSampler(seed=seed)
    planted.run(study, config)
    return studies.record(study, config)


@pytest.fixture(scope="module", autouse=True)
def no_old_objects_to_collect():
    """Garbage is collected after each trial, which takes long where other tests have left many objects."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def searches():
    """By the search, and at random; one for each seed."""
    return [[found(seed, at_random=way) for seed in SEEDS] for way in (False, True)]


def test_30_trials_find_a_mixture_inside_within_10_percent_of_the_boundary_with_nearly_every_seed(searches):
    nearest = [min(one.counts["safe"] for one in result.trials if one.inside) for result in searches[0]]
    assert min(nearest) >= planted.BOUNDARY
    assert sum(rows <= 1.1 * planted.BOUNDARY for rows in nearest) >= 0.8 * len(SEEDS), nearest


def test_the_leading_trial_is_nearer_to_the_boundary_than_that_of_trials_at_random_on_the_average(searches):
    by_search, at_random = (
        [result.trial(result.leading).counts["safe"] for result in results] for results in searches
    )
    assert statistics.mean(by_search) < statistics.mean(at_random), (by_search, at_random)


def test_trials_that_are_ended_save_a_third_of_their_steps(searches):
    pruned = [trial for result in searches[0] for trial in result.trials if trial.state == "pruned"]
    assert 0 < statistics.mean(trial.steps / trial.planned_steps for trial in pruned) < 2 / 3


def test_the_chosen_mixture_is_truly_inside_where_the_one_that_only_looked_best_often_is_not():
    """16 whole studies, checks included, in worlds with hard and easy prompts and seeds that differ.

    Of 200, 94 chose a mixture, and all 94 were inside; by measured rates 91 of 200 were.
    """
    best, by_rates = [], []
    for number in range(16):
        config = planted.settings(30, seed=number)
        world = planted.World(config, number)
        result = world.search()
        assert result.checks and all(check.holds == (check.trial == result.best) for check in result.checks)
        best += [world.holds(result, result.best)] if result.best is not None else []
        by_rates.append(world.holds(result, planted.by_measured_rates(result, 20)))
    assert len(best) >= 6 and sum(best) >= 0.9 * len(best), best
    assert sum(by_rates) <= 0.75 * len(by_rates), by_rates
