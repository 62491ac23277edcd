"""The bootstrap of the ASR at each point, averaged over directions."""

import math
import tracemalloc

import numpy as np
import pytest

from visage_mlflow.geometry import intervals
from visage_mlflow.geometry.intervals import bootstrap_mean_asr

NAN = math.nan


def verdicts(shape, seed=0, unjudged=0.0):
    """Prompts that break at random, more of them the farther out the point."""
    rng = np.random.default_rng(seed)
    values = (rng.random(shape) < np.linspace(0.1, 0.9, shape[1])[:, None]).astype(float)
    values[rng.random(shape) < unjudged] = NAN
    return values


def slow_bootstrap(jailbroken, seed, n_resamples, level=0.95):
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
def test_the_bootstrap_agrees_with_a_plain_loop(shape, unjudged, monkeypatch):
    jailbroken = verdicts(shape, unjudged=unjudged)
    expected = slow_bootstrap(jailbroken, seed=4, n_resamples=120)
    np.testing.assert_allclose(bootstrap_mean_asr(jailbroken, seed=4, n_resamples=120), expected, atol=1e-9)
    monkeypatch.setattr(intervals, "CHUNK", 100)  # A few replicates at a time.
    np.testing.assert_allclose(bootstrap_mean_asr(jailbroken, seed=4, n_resamples=120), expected, atol=1e-9)


def test_a_point_without_any_verdict_is_nan_and_the_others_do_not_see_it():
    jailbroken = verdicts((2, 3, 4))
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


def test_it_holds_the_measured_mean_and_repeats_itself():
    jailbroken = verdicts((3, 11, 80)) == 1
    mean = 100 * jailbroken.mean(axis=(0, 2))
    low, high = bootstrap_mean_asr(jailbroken, seed=1)
    assert low.shape == high.shape == (11,) and (low >= 0).all() and (high <= 100).all()
    assert (low < mean).all() and (mean < high).all()
    again = bootstrap_mean_asr(jailbroken, seed=1)
    assert np.array_equal(again[0], low) and np.array_equal(again[1], high)
    assert not np.array_equal(bootstrap_mean_asr(jailbroken, seed=2)[0], low)
    narrow = bootstrap_mean_asr(jailbroken, seed=1, level=0.5)
    assert (low < narrow[0]).all() and (narrow[1] < high).all()


def test_it_needs_bounded_memory():
    jailbroken = np.zeros((3, 441, 80), dtype=bool)  # A 21 x 21 plane: 42 MB per array of all replicates.
    tracemalloc.start()
    bootstrap_mean_asr(jailbroken, n_resamples=4000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 96e6


def test_a_level_or_a_number_of_resamples_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="`level`"):
        bootstrap_mean_asr([[[1]]], level=95)
    with pytest.raises(ValueError, match="`n_resamples`"):
        bootstrap_mean_asr([[[1]]], n_resamples=0)
