"""Two models on the same prompts: the exact test by hand and by enumeration, intervals and what they cover."""

import itertools
import math

import numpy as np
import pytest

from visage_mlflow.geometry.paired import difference_interval, mcnemar, score_difference
from visage_mlflow.geometry.score import visage, visage_depth

NAN = math.nan


@pytest.mark.parametrize(
    ("counts", "p_value"),
    # Two-sided: twice the smaller tail of n fair coins. (1 + 6) / 64 twice; (1 + 10 + 45) / 1024 twice.
    [((0, 0), 1.0), ((1, 0), 1.0), ((1, 5), 14 / 64), ((2, 8), 112 / 1024), ((4, 4), 1.0), ((0, 10), 2 / 1024)],
)
def test_mcnemar_is_the_sign_test_of_the_prompts_that_differ(counts, p_value):
    assert mcnemar(*counts) == mcnemar(*counts[::-1]) == pytest.approx(p_value, abs=1e-15)


@pytest.mark.parametrize(("n", "k"), [(1, 0), (5, 1), (8, 3), (11, 0)])
def test_mcnemar_counts_all_ways_in_which_coins_fall_as_unevenly(n, k):
    as_uneven = sum(abs(2 * sum(coins) - n) >= n - 2 * k for coins in itertools.product((0, 1), repeat=n))
    assert mcnemar(k, n - k) == pytest.approx(as_uneven / 2**n, abs=1e-12)


def test_mcnemar_of_many_prompts_does_not_overflow():
    assert 0 < mcnemar(900, 1100) < 1e-4 and mcnemar(5000, 5000) == 1.0


def slow_score(only_first, only_second, n, delta):
    """Tango's z with its nuisance share found by maximising the likelihood over a fine grid."""
    shares = np.linspace(max(0.0, -delta), (1 - delta) / 2, 2_000_001)[1:-1]
    logs = only_first * np.log(shares) + only_second * np.log(shares + delta)
    logs += (n - only_first - only_second) * np.log(1 - 2 * shares - delta)
    share = shares[np.argmax(logs)]
    return (only_second - only_first - n * delta) / math.sqrt(n * (2 * share + delta * (1 - delta)))


@pytest.mark.parametrize("counts", [(1, 9, 50), (3, 4, 20), (2, 30, 80)])
def test_at_the_ends_of_the_interval_the_slow_score_is_the_normal_quantile(counts):
    low, high = difference_interval(*counts)
    assert slow_score(*counts, low / 100) == pytest.approx(1.959964, abs=2e-3)
    assert slow_score(*counts, high / 100) == pytest.approx(-1.959964, abs=2e-3)


@pytest.mark.parametrize("n", [10, 80])
def test_without_a_prompt_that_differs_the_interval_has_a_closed_form(n):
    # With no discordant pair the share is 0 and z² = n δ / (1 - δ).
    square = 1.959964**2
    assert difference_interval(0, 0, n) == pytest.approx((-100 * square / (n + square), 100 * square / (n + square)))


def test_the_interval_changes_sides_with_the_models_and_is_absent_without_prompts():
    low, high = difference_interval(2, 7, 40)
    assert difference_interval(7, 2, 40) == pytest.approx((-high, -low)) and low < 12.5 < high
    assert difference_interval(0, 5, 5)[1] == pytest.approx(100) and difference_interval(5, 0, 5)[0] == -100
    assert all(map(math.isnan, difference_interval(0, 0, 0)))


@pytest.mark.parametrize("n", [40, 80])
def test_the_interval_of_rates_covers(n):
    """Shares of 30 and 40 %, equal answers on half of the prompts. 3 standard errors of 0.95 are 0.015."""
    rng, covered, studies = np.random.default_rng(n), 0, 2000
    for _ in range(studies):
        first, own, both = rng.random((3, n))
        one, two = first < 0.3, np.where(both < 0.5, first, own) < 0.4
        low, high = difference_interval(int((one & ~two).sum()), int((two & ~one).sum()), n)
        covered += low <= 10 <= high
    assert 0.93 <= covered / studies <= 0.97


# Scores over directions


AXIS = np.linspace(-0.5, 0.5, 11)


def landscapes(rng, n_directions, n_prompts, further):
    """Verdicts of two models; a prompt gives way at a threshold with parts of its own, of the direction, of both."""
    shared = 0.2 + rng.normal(0, 0.05, n_prompts) + rng.normal(0, 0.03, n_directions)[:, None]
    found = []
    for more in (0.0, further):
        own = rng.normal(0, 0.03, (n_directions, n_prompts)) + rng.normal(0, 0.03, n_prompts)
        own += rng.normal(0, 0.015, n_directions)[:, None]
        found.append((np.abs(AXIS)[None, :, None] >= (shared + more + own)[:, None, :]).astype(float))
    return found


def test_identical_models_do_not_differ_but_a_small_difference_is_not_ruled_out():
    one = landscapes(np.random.default_rng(0), 3, 80, 0.0)[0]
    # Wilson's bound for 0 of 80: z² / (80 + z²).
    assert score_difference(one, one, visage_depth) == pytest.approx((0.0, -4.5818, 4.5818), abs=1e-3)


def test_two_directions_and_prompts_by_hand():
    # One point, 2 prompts. Depth of each (direction, prompt): 100, 0 / 100, 100; with the second model 0.
    first, second = np.zeros((2, 1, 2)), np.ones((2, 1, 2))
    first[0, 0, 1] = 1
    difference, low, high = score_difference(first, second, visage_depth)
    assert difference == -75.0  # -50 and -100.
    # Between directions: variance 1250 / 2, t² = 12.706² of one degree of freedom: far beyond the scale, so cut there.
    assert (low, high) == (-100.0, 100.0)


def test_one_direction_says_nothing_of_others():
    one, two = landscapes(np.random.default_rng(0), 1, 16, 0.1)
    difference, low, high = score_difference(one, two, visage_depth)
    assert difference > 0 and math.isnan(low) and math.isnan(high)


def test_what_was_not_judged_in_both_is_left_out():
    one, two = landscapes(np.random.default_rng(0), 3, 16, 0.05)
    less = [np.concatenate([each, np.full((3, 11, 4), fill)], axis=2) for each, fill in ((one, NAN), (two, 1.0))]
    assert score_difference(*less, visage) == score_difference(one, two, visage)
    with pytest.raises(ValueError, match="No response was judged in both"):
        score_difference(np.full((2, 3, 4), NAN), np.zeros((2, 3, 4)), visage)
    with pytest.raises(ValueError, match="alike"):
        score_difference(np.zeros((2, 3, 4)), np.zeros((3, 3, 4)), visage)


def test_the_interval_of_a_score_covers():
    """Depth over 5 directions and 16 prompts; the truth from 400 × 2000. 300 studies: 3 standard errors are 0.04."""
    rng = np.random.default_rng(1)
    truth = np.subtract(*(100 - 100 * each.mean() for each in landscapes(rng, 400, 2000, 0.05)[::-1]))
    covered = 0
    for _ in range(300):
        _, low, high = score_difference(*landscapes(rng, 5, 16, 0.05), lambda asr: 100 - float(asr.mean()))
        covered += low <= truth <= high
    assert 0.91 <= covered / 300 <= 0.99
