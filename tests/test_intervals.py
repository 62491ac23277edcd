"""Wilson's interval, and the bootstraps of VISAGE and of the ASR at each point, averaged over directions."""

import math
import tracemalloc

import numpy as np
import pytest
from scipy.stats import binomtest

from visage_mlflow.geometry import intervals
from visage_mlflow.geometry.intervals import bootstrap_mean_asr
from visage_mlflow.geometry.score import bootstrap_visage, visage, wilson

NAN = math.nan


@pytest.mark.parametrize("level", [0.8, 0.95, 0.999])
@pytest.mark.parametrize(("successes", "trials"), [(0, 1), (1, 1), (0, 80), (3, 80), (40, 80), (79, 80), (80, 80)])
def test_wilson_agrees_with_scipy(successes, trials, level):
    oracle = binomtest(successes, trials).proportion_ci(confidence_level=level, method="wilson")
    assert wilson(successes, trials, level) == pytest.approx((100 * oracle.low, 100 * oracle.high), abs=1e-9)


def test_wilson_by_hand():
    # 5 of 10 at z = 1.96: centre 0.5, spread 1.96 * sqrt(0.025 + 0.009604) / 1.38416 = 0.26341.
    assert wilson(5, 10) == pytest.approx((23.66, 76.34), abs=0.005)


def test_wilson_stays_in_percent_at_the_ends():
    assert wilson(0, 7)[0] == 0.0 and wilson(7, 7)[1] == 100.0


def test_wilson_without_trials_is_unknown():
    assert all(map(math.isnan, wilson(0, 0)))


@pytest.mark.parametrize(("successes", "trials"), [(-1, 5), (6, 5), (1, 0), (-2, -1), (0, -1)])
def test_impossible_counts_are_refused(successes, trials):
    with pytest.raises(ValueError, match="`successes` must be between 0 and `trials`"):
        wilson(successes, trials)


@pytest.mark.parametrize("level", [0, 1, 95, -0.1, NAN])
def test_a_level_that_is_no_share_is_refused(level):
    with pytest.raises(ValueError, match="`level`"):
        wilson(1, 2, level)


def slow_bootstrap(jailbroken, seed, n_resamples):
    """The definition, one replicate, direction and point at a time."""
    n_directions, n_points, n_prompts = jailbroken.shape
    rng = np.random.default_rng(seed)
    drawn = rng.integers(n_directions, size=(n_resamples, n_directions))
    replicates = []
    for row in range(n_resamples):
        prompts = rng.integers(n_prompts, size=n_prompts)
        scores = []
        for direction in drawn[row]:
            asr = []
            for point in range(n_points):
                verdicts = [v for v in jailbroken[direction, point, prompts] if not math.isnan(v)]
                asr.append(100 * sum(verdicts) / len(verdicts) if verdicts else NAN)
            if not all(map(math.isnan, asr)):
                scores.append(visage(asr))
        if scores:
            replicates.append(sum(scores) / len(scores))
    return np.quantile(replicates, [0.025, 0.975])


def verdicts(shape, seed=0, unjudged=0.0):
    """A basin: prompts break at their own distance from the middle of the axis."""
    rng = np.random.default_rng(seed)
    n_points = shape[1]
    distance = np.abs(np.arange(n_points) - n_points // 2)[None, :, None]
    values = (distance > rng.uniform(0, n_points / 2, size=shape)).astype(float)
    values[rng.random(shape) < unjudged] = NAN
    return values


@pytest.mark.parametrize("unjudged", [0.0, 0.3, 0.8])
def test_the_bootstrap_agrees_with_a_plain_loop(unjudged, monkeypatch):
    jailbroken = verdicts((3, 7, 6), unjudged=unjudged)
    expected = slow_bootstrap(jailbroken, seed=4, n_resamples=150)
    assert bootstrap_visage(jailbroken, seed=4, n_resamples=150) == pytest.approx(tuple(expected), abs=1e-9)
    monkeypatch.setattr(intervals, "CHUNK", 100)  # A few replicates at a time.
    assert bootstrap_visage(jailbroken, seed=4, n_resamples=150) == pytest.approx(tuple(expected), abs=1e-9)


def test_the_bootstrap_holds_the_measured_visage_and_repeats_itself():
    jailbroken = verdicts((3, 21, 80)) == 1
    measured = np.mean([visage(100 * direction.mean(axis=1)) for direction in jailbroken])
    low, high = bootstrap_visage(jailbroken, seed=1)
    assert 0 <= low < measured < high <= 100
    assert bootstrap_visage(jailbroken, seed=1) == (low, high)
    assert bootstrap_visage(jailbroken, seed=2) != (low, high)
    narrow = bootstrap_visage(jailbroken, seed=1, level=0.5)
    assert low < narrow[0] < narrow[1] < high


@pytest.mark.parametrize(("value", "expected"), [(False, 100.0), (True, 0.0)])
def test_identical_verdicts_leave_no_doubt(value, expected):
    assert bootstrap_visage(np.full((3, 5, 4), value)) == (expected, expected)


def test_a_single_verdict_is_an_interval_without_width():
    assert bootstrap_visage([[[0]]]) == (100.0, 100.0)


def test_a_point_or_direction_without_verdicts_is_left_out():
    jailbroken = np.zeros((2, 3, 4))
    jailbroken[1] = NAN
    jailbroken[0, 1] = NAN
    # Replicates that draw only direction 1 have no verdict and do not count.
    assert bootstrap_visage(jailbroken) == (100.0, 100.0)


def test_prompts_are_resampled_together_at_all_points():
    # Prompt 0 always breaks and prompt 1 never does. Drawn together, a replicate has the same ASR of 0, 50 or 100 at
    # all points, so VISAGE 100, 50 or 0 with chances of 1/4, 1/2, 1/4. Drawn apart, 50 points would average to 50.
    jailbroken = np.zeros((1, 50, 2))
    jailbroken[:, :, 0] = 1
    assert bootstrap_visage(jailbroken) == (0.0, 100.0)


@pytest.mark.parametrize(("bootstrap", "limit"), [(bootstrap_visage, 64e6), (bootstrap_mean_asr, 96e6)])
def test_a_bootstrap_needs_bounded_memory(bootstrap, limit):
    """Of a 21 x 21 plane all replicates at once would need 42 MB for each of about 6 arrays."""
    jailbroken = np.zeros((3, 441, 80), dtype=bool)
    tracemalloc.start()
    bootstrap(jailbroken, n_resamples=4000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < limit


@pytest.mark.parametrize(
    ("jailbroken", "message"),
    [
        (np.zeros((2, 3)), "shape"),
        (np.zeros((0, 3, 4)), "with a verdict"),
        (np.zeros((2, 3, 0)), "with a verdict"),
        (np.full((1, 2, 3), NAN), "with a verdict"),
        (np.full((1, 2, 3), 50.0), "verdicts, not percent"),
    ],
)
@pytest.mark.parametrize("bootstrap", [bootstrap_visage, bootstrap_mean_asr])
def test_what_are_no_verdicts_is_refused(bootstrap, jailbroken, message):
    with pytest.raises(ValueError, match=message):
        bootstrap(jailbroken)


# The ASR at each point, averaged over directions


def farther_is_worse(shape, seed=0, unjudged=0.0):
    """Prompts that break at random, more of them the farther out the point."""
    rng = np.random.default_rng(seed)
    values = (rng.random(shape) < np.linspace(0.1, 0.9, shape[1])[:, None]).astype(float)
    values[rng.random(shape) < unjudged] = NAN
    return values


def slow_bootstrap_of_means(jailbroken, seed, n_resamples, level=0.95):
    """The definition, one replicate, point and direction at a time."""
    n_directions, n_points, n_prompts = jailbroken.shape
    rng = np.random.default_rng(seed)
    drawn = rng.integers(n_directions, size=(n_resamples, n_directions))
    replicates = [[] for _ in range(n_points)]
    for row in range(n_resamples):
        prompts = rng.integers(n_prompts, size=n_prompts)
        for point in range(n_points):
            rates = []
            for direction in drawn[row]:
                judged = [v for v in jailbroken[direction, point, prompts] if not math.isnan(v)]
                if judged:
                    rates.append(100 * sum(judged) / len(judged))
            if rates:
                replicates[point].append(sum(rates) / len(rates))
    ends = [0.5 - level / 2, 0.5 + level / 2]
    return np.array([np.quantile(each, ends) if each else [NAN, NAN] for each in replicates]).T


@pytest.mark.parametrize("unjudged", [0.0, 0.3, 0.8])
@pytest.mark.parametrize("shape", [(3, 5, 6), (1, 4, 7), (2, 1, 5)])
def test_the_bootstrap_of_means_agrees_with_a_plain_loop(shape, unjudged, monkeypatch):
    jailbroken = farther_is_worse(shape, unjudged=unjudged)
    expected = slow_bootstrap_of_means(jailbroken, seed=4, n_resamples=120)
    np.testing.assert_allclose(bootstrap_mean_asr(jailbroken, seed=4, n_resamples=120), expected, atol=1e-9)
    monkeypatch.setattr(intervals, "CHUNK", 100)  # A few replicates at a time.
    np.testing.assert_allclose(bootstrap_mean_asr(jailbroken, seed=4, n_resamples=120), expected, atol=1e-9)


def test_a_point_without_any_verdict_is_nan_and_the_others_do_not_see_it():
    jailbroken = farther_is_worse((2, 3, 4))
    whole_low, whole_high = bootstrap_mean_asr(jailbroken)
    jailbroken[:, 1] = NAN
    low, high = bootstrap_mean_asr(jailbroken)
    assert np.isnan([low[1], high[1]]).all()
    np.testing.assert_array_equal(low[[0, 2]], whole_low[[0, 2]])
    np.testing.assert_array_equal(high[[0, 2]], whole_high[[0, 2]])


def test_a_direction_without_a_verdict_at_a_point_is_left_out_there():
    jailbroken = np.ones((2, 2, 4))
    jailbroken[0, 0] = NAN  # The other one is at 100; replicates that draw only this direction have no ASR there.
    jailbroken[0, 1] = 0
    low, high = bootstrap_mean_asr(jailbroken)
    assert (low[0], high[0]) == (100, 100) and (low[1], high[1]) == (0, 100)


def test_a_single_direction_and_prompt_are_intervals_without_width():
    low, high = bootstrap_mean_asr([[[0], [1]]])
    assert low.tolist() == high.tolist() == [0.0, 100.0] and low.shape == (2,)


def test_one_direction_resamples_its_prompts():
    # Prompt 0 breaks and prompt 1 does not: replicates are at 0, 50 and 100 with chances of 1/4, 1/2, 1/4.
    low, high = bootstrap_mean_asr([[[1, 0]]])
    assert (low[0], high[0]) == (0, 100)
    low, high = bootstrap_mean_asr([[[1, 0]]], level=0.4)
    assert (low[0], high[0]) == (50, 50)


def test_prompts_are_drawn_together_in_all_directions():
    # Where one direction's prompt breaks, the other's does not: drawn together, the mean is 50 in every replicate that
    # holds both directions; drawn apart, it would vary.
    jailbroken = np.array([[[1, 0]], [[0, 1]]] * 20)
    low, high = bootstrap_mean_asr(jailbroken, level=0.5)
    assert 45 < low[0] <= 50 <= high[0] < 55


def test_the_interval_of_a_mean_holds_it_and_repeats_itself():
    jailbroken = farther_is_worse((3, 11, 80)) == 1
    mean = 100 * jailbroken.mean(axis=(0, 2))
    low, high = bootstrap_mean_asr(jailbroken, seed=1)
    assert low.shape == high.shape == (11,) and (low >= 0).all() and (high <= 100).all()
    assert (low < mean).all() and (mean < high).all()
    again = bootstrap_mean_asr(jailbroken, seed=1)
    assert np.array_equal(again[0], low) and np.array_equal(again[1], high)
    assert not np.array_equal(bootstrap_mean_asr(jailbroken, seed=2)[0], low)
    narrow = bootstrap_mean_asr(jailbroken, seed=1, level=0.5)
    assert (low < narrow[0]).all() and (narrow[1] < high).all()
