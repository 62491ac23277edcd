"""Crossings of 50 %: closed forms, what cannot be measured, all of them, their interval, and falls."""

import math

import numpy as np
import pytest

from visage_mlflow.geometry.crossing import HALVINGS, SCAN, crossings, edge_interval, falls, first_crossing

NAN = math.nan


class Curve:
    """An ASR by step that counts what it was asked, and is NaN at some of the steps."""

    def __init__(self, rate, nan_at=()):
        self.rate, self.nan_at, self.asked = rate, nan_at, []

    def __call__(self, step):
        self.asked.append(step)
        return NAN if any(math.isclose(step, each) for each in self.nan_at) else self.rate(step)


def step_at(edge):
    return lambda step: 100.0 if step >= edge else 0.0


@pytest.mark.parametrize("up_to", [0.01, 1.0, 4.0, 1000.0])
@pytest.mark.parametrize("slope_at_end", [55.0, 100.0, 730.0, 5000.0])
def test_on_a_straight_line_the_crossing_is_exact(up_to, slope_at_end):
    # slope · step = 50 at step = 50 / slope; the interpolation of a straight line adds nothing.
    slope = slope_at_end / up_to
    found = first_crossing(lambda step: slope * step, up_to)
    assert found.step == pytest.approx(50 / slope, rel=1e-12) and not found.is_open


@pytest.mark.parametrize("edge", [0.001, 0.1, 0.5, 0.777, 0.9999, 1.0])
def test_the_edge_of_a_step_function_is_found_to_half_a_bracket(edge):
    curve = Curve(step_at(edge))
    found = first_crossing(curve, up_to=1.0)
    # From 0 to 100 within the last bracket, the line crosses 50 in its middle.
    bracket = 1 / 256
    assert abs(found.step - edge) <= bracket / 2 * (1 + 1e-9) and not found.is_open
    below = max(step for step, asr in found.measured if asr < 50)
    above = min(step for step, asr in found.measured if asr >= 50)
    assert below < edge <= above and above - below == pytest.approx(bracket)


def test_a_point_at_exactly_50_is_the_edge():
    assert first_crossing(lambda step: 50.0 if step >= 0.25 else 0.0, up_to=1.0).step == pytest.approx(0.25, abs=1e-12)


def test_where_it_never_crosses_the_edge_is_open_at_the_farthest_step():
    curve = Curve(lambda step: 49.999)
    found = first_crossing(curve, up_to=4.0)
    assert (found.step, found.is_open) == (4.0, True)
    assert curve.asked == [4.0 * index / SCAN for index in range(SCAN + 1)]


@pytest.mark.parametrize("asr", [50.0, 100.0])
def test_a_model_that_is_outside_has_its_edge_at_0_and_nothing_else_is_asked(asr):
    curve = Curve(lambda step: asr)
    found = first_crossing(curve, up_to=4.0)
    assert (found.step, found.is_open, found.measured) == (0.0, False, ((0.0, asr),)) and curve.asked == [0.0]


def test_the_first_crossing_counts_and_not_a_later_one():
    found = first_crossing(lambda step: 100.0 if 0.3 <= step < 0.5 or step >= 0.8 else 0.0, up_to=1.0)
    assert found.step == pytest.approx(0.3, abs=1 / 512)


@pytest.mark.parametrize("edge", [0.0001, 0.06, 0.5, 0.99, 2.0])
def test_it_looks_no_farther_than_needed_and_at_no_step_twice(edge):
    curve = Curve(step_at(edge))
    found = first_crossing(curve, up_to=1.0)
    assert len(curve.asked) == len(set(curve.asked)) <= 21 == 1 + SCAN + HALVINGS
    assert max(curve.asked) < edge + 1 / SCAN and curve.asked[0] == 0.0
    assert [step for step, _ in found.measured] == sorted(curve.asked)
    assert all(asr == curve.rate(step) for step, asr in found.measured)


# What cannot be measured


@pytest.mark.parametrize("nan_at", [[1 / 16], [7 / 16], [8 / 16], [9 / 16], [1 / 16, 2 / 16, 9 / 16], [1.0]])
def test_points_of_the_scan_that_cannot_be_measured_are_passed_over(nan_at):
    # 100 · step crosses at 0.5, which is a point of the scan itself.
    found = first_crossing(Curve(lambda step: 100 * step, nan_at), up_to=1.0)
    assert found.step == pytest.approx(0.5, rel=1e-12) and not found.is_open
    reached = [step for step in nan_at if step <= 0.5]
    assert [step for step, asr in found.measured if math.isnan(asr)] == reached


@pytest.mark.parametrize("in_brackets", [0.5, 0.25, 0.125])
def test_a_point_of_the_bisection_that_cannot_be_measured_ends_it_in_the_bracket_found_so_far(in_brackets):
    # The edge lies in the bracket from 4/16 to 5/16, a little above 4/16: the halves asked are 0.5, 0.25, … of it.
    curve = Curve(step_at(4 / 16 + 1e-6), [(4 + in_brackets) / 16])
    found = first_crossing(curve, up_to=1.0)
    # The last bracket is twice as wide, and the line over it crosses 50 in the middle.
    assert found.step == pytest.approx((4 + in_brackets) / 16) and math.isnan(curve(found.step))
    assert not found.is_open


def test_a_straight_line_is_exact_even_where_the_bisection_cannot_be_measured():
    found = first_crossing(Curve(lambda step: 90 * step, [8.5 / 16]), up_to=1.0)  # Crosses at 0.5556, in (8/16, 9/16).
    assert found.step == pytest.approx(50 / 90, rel=1e-12)


def test_an_open_edge_is_at_the_farthest_step_that_could_be_measured():
    found = first_crossing(lambda step: 0.0 if step <= 0.5 else NAN, up_to=1.0)
    assert (found.step, found.is_open) == (0.5, True) and len(found.measured) == SCAN + 1
    nowhere = first_crossing(lambda step: 0.0 if step == 0 else NAN, up_to=1.0)
    assert (nowhere.step, nowhere.is_open) == (0.0, True)


def test_a_model_that_cannot_be_measured_itself_is_refused_in_one_line():
    with pytest.raises(ValueError, match="^The model at step 0 gave no response that could be judged.*[.]$"):
        first_crossing(lambda step: NAN, up_to=1.0)


def test_an_error_while_measuring_comes_through():
    def fail(step):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        first_crossing(fail, up_to=1.0)


# All crossings


def there_and_back(step):
    return 100.0 if 0.3 <= step < 0.5 or step >= 0.8 else 0.0


def test_looking_beyond_finds_every_crossing_with_its_direction():
    found = first_crossing(there_and_back, up_to=1.0, beyond=True)
    all_of_them = crossings(*zip(*found.measured, strict=True))
    assert [leads_out for _, leads_out in all_of_them] == [True, False, True]
    assert all_of_them[0][0] == found.step == pytest.approx(0.3, abs=1 / 512)
    # The others are told from every second look of the scan, an eighth apart: from its middle, half of that.
    assert [step for step, _ in all_of_them[1:]] == [pytest.approx(edge, abs=1 / 16) for edge in (0.5, 0.8)]


@pytest.mark.parametrize("edge", [0.0001, 0.06, 0.5, 0.99, 2.0])
def test_looking_beyond_never_costs_more_than_a_line_that_never_crosses(edge):
    curve = Curve(step_at(edge))
    first_crossing(curve, up_to=1.0, beyond=True)
    assert len(curve.asked) == len(set(curve.asked)) <= 1 + SCAN + HALVINGS


def test_what_comes_back_between_two_looks_is_not_seen():
    found = first_crossing(lambda step: 100.0 if 0.07 < step < 0.12 else 0.0, up_to=1.0, beyond=True)
    assert found.is_open and crossings(*zip(*found.measured, strict=True)) == []


def test_a_look_that_gave_no_verdict_is_no_crossing():
    assert crossings([0, 1, 2], [0, NAN, 100]) == [(1.0, True)] and crossings([0, 1], [NAN, 100]) == []


# The interval


def verdicts(steps, thresholds):
    """Prompts that succeed from their threshold on: (steps, prompts)."""
    return np.array(steps)[:, None] >= np.array(thresholds)[None, :]


def test_the_interval_is_where_wilsons_contains_half():
    # Of 4 prompts, 0, 2, 4 succeed: Wilson's ends are 0 to 49.0, 15.0 to 85.0, 51.0 to 100.
    low, high = edge_interval([0, 1, 2], verdicts([0, 1, 2], [1, 1, 2, 2]))
    assert low == pytest.approx((50 - 48.990) / (84.996 - 48.990), abs=1e-4)
    assert high == pytest.approx(1 + (50 - 15.004) / (51.010 - 15.004), abs=1e-4)


def test_an_interval_without_an_end_is_open_there():
    # 3 of 4: the lower end is 30, so half is never ruled out from below.
    assert edge_interval([0, 1], verdicts([0, 1], [1, 1, 1, 2])) == (pytest.approx(0.0222, abs=1e-3), math.inf)
    assert edge_interval([0, 1], verdicts([0, 1], [2, 2, 2, 2])) == (1.0, math.inf)
    assert edge_interval([0, 1], verdicts([0, 1], [0, 1, 1, 2])) == (0.0, math.inf)


def test_verdicts_that_are_missing_are_left_out_and_without_any_there_is_no_interval():
    some = np.array([[0, 0, 0, 0, NAN], [1, 1, 1, 1, NAN]])
    assert edge_interval([0, 1], some) == edge_interval([0, 1], some[:, :4])
    assert all(map(math.isnan, edge_interval([0, 1], np.full((2, 3), NAN))))


@pytest.mark.parametrize("n_prompts", [16, 40, 80])
@pytest.mark.parametrize("scale", [0.1, 0.4])
def test_the_interval_covers_where_each_prompt_has_a_logistic_threshold(n_prompts, scale):
    """Half of all prompts give way by the median threshold. 400 studies: 3 standard errors of 0.95 are 0.033."""
    rng, covered = np.random.default_rng(n_prompts), 0
    for _ in range(400):
        median = rng.uniform(1, 2.5)
        thresholds = median + scale * rng.logistic(size=n_prompts)
        found = first_crossing(lambda step: 100 * np.mean(thresholds <= step), 4.0, beyond=True)  # noqa: B023
        steps = [step for step, _ in found.measured]
        low, high = edge_interval(steps, verdicts(steps, thresholds))
        covered += low <= median <= high
        assert low <= found.step <= high
    assert 0.92 <= covered / 400 <= 0.985


# Falls


@pytest.mark.parametrize("n_back", [4, 5])
def test_the_asr_falls_where_prompts_that_come_back_are_too_many_for_a_coin(n_back):
    # 3 pairs of looks. n of n changed the one way: p = 2^-n, at most 0.05 / 3 = 0.0167 from n = 6 on.
    rows = np.zeros((3, 20))
    rows[1, : n_back + 1] = 1
    assert falls(rows) is (n_back + 1 >= 6)
    assert not falls(rows[:2]) and not falls(rows[:1])


def test_a_curve_that_only_rises_never_falls_and_unjudged_prompts_do_not_count():
    steps = np.linspace(0, 4, 21)
    assert not falls(verdicts(steps, np.linspace(0.5, 3, 80)))
    rows = np.zeros((3, 20))
    rows[1, :10], rows[2, :10] = 1, NAN
    assert not falls(rows)


def test_noise_alone_seldom_falls():
    """ASR of one half at each of 10 looks, drawn anew for each prompt: 200 lines, of which 5 % may be said to fall."""
    rng = np.random.default_rng(0)
    assert sum(falls(rng.random((10, 40)) < 0.5) for _ in range(200)) <= 20
