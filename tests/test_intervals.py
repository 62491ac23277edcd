"""Wilson's interval, and those of VISAGE and of the ASR at each point, over directions and prompts."""

import math

import numpy as np
import pytest
import worlds
from scipy.stats import binomtest, t

from visage_mlflow.geometry.intervals import mean_asr_interval, student
from visage_mlflow.geometry.score import visage, visage_depth, visage_depth_interval, visage_interval, wilson

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


@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 7, 15, 79, 519])
def test_students_quantile_agrees_with_scipy(degrees, level):
    assert student(degrees, level) == pytest.approx(t.ppf(0.5 + level / 2, degrees), rel=1e-9)


@pytest.mark.parametrize("n_directions", [3, 5, 8])
@pytest.mark.parametrize("n_prompts", [16, 80])
def test_intervals_hold_the_truth_as_often_as_they_say(n_directions, n_prompts):
    """Few worlds: 250 intervals that hold it in 0.95 show 0.908 to 0.992 in all but 1 of 400 cases."""
    found = worlds.coverage(n_directions, n_prompts, 250, seed=3, names=("visage", "visage_depth"))
    for name, (_, held, _) in found.items():
        assert 0.908 <= held <= 0.992, name


@pytest.mark.parametrize(("n_directions", "n_prompts"), [(3, 16), (8, 40)])
def test_the_band_holds_the_truth_along_the_whole_curve(n_directions, n_prompts):
    _, held, _ = worlds.coverage(n_directions, n_prompts, 60, seed=3, names=("mean_asr",))["mean_asr"]
    assert held.mean() >= 0.95 and held.min() >= 0.85


@pytest.mark.coverage
def test_the_table_of_the_documentation():
    print(f"\n{worlds.table()}\n{worlds.by_prompts()}")


def test_visage_falls_with_the_number_of_prompts_and_the_mean_depth_does_not():
    (_, many, depth), (_, few, same) = worlds.by_prompts(400, (16, 520))
    assert many - few > 15 and abs(depth - same) < 2


def slow_interval(jailbroken, score):
    """The definition for one score, one left-out prompt and direction at a time."""

    def scores(values):
        return np.array([score([100 * np.nanmean(point) for point in direction]) for direction in values])

    n_directions, _, n_prompts = jailbroken.shape
    found = scores(jailbroken)
    without = np.array([scores(np.delete(jailbroken, prompt, axis=2)) for prompt in range(n_prompts)])

    def jackknife(values):
        return (n_prompts - 1) / n_prompts * sum((value - np.mean(values)) ** 2 for value in values)

    of_mean = jackknife(without.mean(axis=1))
    of_each = np.mean([jackknife(without[:, direction]) for direction in range(n_directions)])
    between = max(0.0, of_mean - (of_each - of_mean) / (n_directions - 1))
    t_directions, t_prompts = t.ppf(0.975, n_directions - 1), t.ppf(0.975, n_prompts - 1)
    half = math.sqrt(t_directions**2 * np.var(found, ddof=1) / n_directions + t_prompts**2 * between)
    return max(0.0, found.mean() - half), min(100.0, found.mean() + half)


@pytest.mark.parametrize(("interval", "score"), [(visage_interval, visage), (visage_depth_interval, visage_depth)])
@pytest.mark.parametrize("unjudged", [0.0, 0.2])
def test_the_interval_agrees_with_a_plain_loop(interval, score, unjudged):
    rng = np.random.default_rng(4)
    jailbroken = worlds.world(rng, 4, 12).astype(float)
    jailbroken[rng.random(jailbroken.shape) < unjudged] = NAN
    assert interval(jailbroken) == pytest.approx(slow_interval(jailbroken, score), abs=1e-9)


def test_an_interval_holds_its_estimate_and_is_the_same_for_every_seed():
    jailbroken = worlds.world(np.random.default_rng(0), 3, 80)
    measured = np.mean([visage(100 * direction.mean(axis=1)) for direction in jailbroken])
    low, high = visage_interval(jailbroken, seed=1)
    assert 0 <= low < measured < high <= 100 and visage_interval(jailbroken, seed=2) == (low, high)
    narrow = visage_interval(jailbroken, level=0.5)
    assert low < narrow[0] < narrow[1] < high


@pytest.mark.parametrize("n_prompts", [4, 80])
def test_identical_verdicts_leave_the_doubt_of_wilson(n_prompts):
    none, every = np.zeros((3, 5, n_prompts)), np.ones((3, 5, n_prompts))
    unseen = wilson(0, n_prompts)[1]
    for interval in (visage_interval, visage_depth_interval):
        assert interval(none) == pytest.approx((100 - unseen, 100)) and interval(every) == pytest.approx((0, unseen))
    np.testing.assert_allclose(mean_asr_interval(none), [[0.0] * 5, [unseen] * 5])


def test_the_more_prompts_differ_the_less_is_added_for_those_not_seen():
    """Where k of 80 prompts always break, alike in all directions, the upper end is never below what k - 1 give."""
    ends = []
    for count in range(0, 41, 4):
        jailbroken = np.zeros((3, 5, 80))
        jailbroken[:, :, :count] = 1
        ends.append(float(mean_asr_interval(jailbroken)[1][0]))
    assert ends == sorted(ends) and ends[0] == pytest.approx(wilson(0, 80)[1])


def test_one_direction_says_nothing_about_others():
    jailbroken = worlds.world(np.random.default_rng(0), 1, 20)
    assert all(map(math.isnan, visage_interval(jailbroken))) and np.isnan(mean_asr_interval(jailbroken)).all()
    beside = np.concatenate([jailbroken, np.full(jailbroken.shape, NAN)])
    assert all(map(math.isnan, visage_interval(beside)))  # A direction without verdicts is none.


def test_one_prompt_says_little_of_others():
    low, high = visage_interval([[[0]], [[0]]])
    assert high == 100.0 and low == pytest.approx(100 - wilson(0, 1)[1])


def test_a_point_without_any_verdict_is_nan_and_a_direction_or_prompt_without_is_left_out():
    whole = worlds.world(np.random.default_rng(1), 3, 10).astype(float)
    more = np.full((4, 21, 11), NAN)
    more[:3, :, :10] = whole
    assert visage_interval(more) == pytest.approx(visage_interval(whole))
    more[:, 4] = NAN
    low, high = mean_asr_interval(more)
    assert np.isnan([low[4], high[4]]).all() and not np.isnan([*low[:4], *low[5:]]).any()


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
@pytest.mark.parametrize("interval", [visage_interval, visage_depth_interval, mean_asr_interval])
def test_what_are_no_verdicts_is_refused(interval, jailbroken, message):
    with pytest.raises(ValueError, match=message):
        interval(jailbroken)
