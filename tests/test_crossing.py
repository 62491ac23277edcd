"""The first crossing of 50 %: closed forms, and what cannot be measured."""

import math

import pytest

from visage_mlflow.geometry.crossing import HALVINGS, SCAN, first_crossing

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
