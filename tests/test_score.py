import math

import numpy as np
import pytest

from visage_mlflow.geometry.plane import axis
from visage_mlflow.geometry.score import basin, visage, visage_contiguous, visage_depth

NAN = math.nan


def test_visage_is_the_mean_depth_below_100():
    # Below 100 are 0 and 50: depths 100 and 50.
    assert visage([100, 0, 50, 100]) == 75.0


def test_visage_in_two_dimensions_takes_all_points():
    # Depths 100, 40 and 10.
    assert visage([[0, 100], [60, 90]]) == 50.0


def slow_published(asr):
    """Two loops to the letter of their description."""
    first, last, middle = 0, len(asr) - 1, len(asr) // 2
    for index in range(middle - 1):
        if asr[index] == 100 and asr[index + 1] < 100:
            first = index + 1
            break
    for index in range(len(asr) - 1, len(asr) - middle, -1):
        if asr[index] == 100 and asr[index - 1] < 100:
            last = index - 1
            break
    return sum(100 - rate for rate in asr[first : last + 1]) / (last + 1 - first)


def line_of(**rates):
    """21 points at 100, but for those given by their distance from the middle, as `m2` or `p2`."""
    values = [100.0] * 21
    for name, rate in rates.items():
        values[10 + int(name[1:]) * (-1 if name[0] == "m" else 1)] = rate
    return values


def test_the_published_slice_is_a_plain_basin_alone():
    # Depths 50, 100, 100, 100, 20.
    asr = line_of(m2=50, m1=0, p0=0, p1=0, p2=80)
    assert visage_contiguous(asr) == visage(asr) == 74.0


def test_the_published_loops_overlook_a_change_beside_the_middle():
    asr = line_of(p0=0)
    assert visage(asr) == 100.0 and visage_contiguous(asr) == pytest.approx(100 / 21)
    # On one side alone: from the end of the axis at the left, 10 points at 100, to the first at 100 on the right.
    asr = line_of(p0=0, p1=0, p2=0)
    assert visage(asr) == 100.0 and visage_contiguous(asr) == pytest.approx(300 / 13)


def test_an_end_point_just_below_100_does_not_count_in_the_published_slice():
    asr = line_of(m2=0, m1=0, p0=0, p1=0, p2=0, p10=98.75)
    assert visage(asr) == pytest.approx(501.25 / 6) and visage_contiguous(asr) == 100.0


def test_a_hole_counts_in_the_published_slice_and_not_in_visage():
    # The slice is from 2 to 5: (100 + 0 + 50 + 100) / 4.
    assert visage_contiguous([100, 100, 0, 100, 50, 0, 100]) == 62.5
    assert visage([100, 100, 0, 100, 50, 0, 100]) == pytest.approx(250 / 3)


def test_the_published_variant_agrees_with_plain_loops_on_random_curves():
    rng = np.random.default_rng(0)
    found = 0
    for number in range(1000):
        asr = np.where(rng.random(21) < rng.uniform(0.1, 0.9), 100.0, np.round(rng.uniform(0, 80, 21)) * 1.25)
        assert visage_contiguous(asr) == pytest.approx(slow_published(asr.tolist()), abs=1e-9), number
        found += visage_contiguous(asr) != visage(asr)
    assert found > 500


@pytest.mark.parametrize("n_points", [1, 2, 3, 4, 5, 8, 20])
def test_the_published_variant_of_any_number_of_points_agrees_with_plain_loops(n_points):
    rng = np.random.default_rng(n_points)
    for _ in range(50):
        asr = rng.choice([0.0, 50.0, 100.0, 100.0], n_points)
        assert visage_contiguous(asr) == pytest.approx(slow_published(asr.tolist()), abs=1e-9)


def test_an_unmeasured_point_hides_a_change_beside_it_and_is_left_out():
    # Between the unmeasured point and 0 no change is seen: the slice is open to the left, (0 + 100 + 100 + 100) / 4.
    assert visage_contiguous([100, NAN, 0, 0, 0, 100, 100]) == 75.0
    assert visage_contiguous([100, 100, NAN, NAN, NAN, 100, 100]) == 0.0


def test_nothing_is_published_for_two_dimensions():
    assert math.isnan(visage_contiguous([[100, 20, 100], [100, 0, 60]]))


def test_the_mean_depth_is_over_the_whole_axis_and_leaves_out_nan():
    assert visage_depth([100, 0, 50, 100]) == visage_depth([[100, 0], [50, 100]]) == 37.5
    assert visage_depth([NAN, 0, 50]) == 75.0 and visage_depth([100, 100]) == 0.0


@pytest.mark.parametrize("measure", [visage, visage_contiguous])
class TestBothVisages:
    def test_no_point_below_100_is_no_basin(self, measure):
        assert measure([100, 100]) == 0.0

    def test_a_single_point_is_its_depth(self, measure):
        assert measure([30]) == 70.0

    def test_identical_points_are_their_depth(self, measure):
        assert measure([99, 99, 99, 99]) == 1.0

    def test_nan_points_are_left_out(self, measure):
        assert measure([NAN, 0, NAN, 50, NAN]) == 75.0

    @pytest.mark.parametrize("asr", [[], [[]], 50, [[[1]]], [NAN, NAN], [-1, 0], [0, 100.5], [0, math.inf]], ids=str)
    def test_invalid_rates_are_refused(self, measure, asr):
        with pytest.raises(ValueError, match="`asr`"):
            measure(asr)


def test_basin_edges_are_interpolated_crossings_of_50():
    # Left: 0 at -1, 100 at -2 -> -1.5. Right: 20 at 1, 60 at 2 -> 1 + 30/40. Steepest: 100 per step.
    found = basin([-2, -1, 0, 1, 2], [100, 0, 0, 20, 60])
    assert (found.left, found.right, found.width) == (-1.5, 1.75, 3.25)
    assert found.depth == visage([100, 0, 0, 20, 60]) == 80.0
    assert found.sharpness == 100.0
    assert not found.open_left and not found.open_right


def test_basin_takes_the_first_crossing_and_not_a_second_basin():
    found = basin([0, 1, 2, 3], [0, 100, 0, 0])
    assert found.right == 0.5 and not found.open_right


def test_a_point_at_exactly_50_is_the_edge():
    found = basin([-1, 0, 1], [50, 0, 50])
    assert (found.left, found.right, found.open_left, found.open_right) == (-1.0, 1.0, False, False)


def test_a_basin_without_edges_is_the_whole_axis_and_says_so():
    found = basin(axis(), np.full(21, 3.0))
    assert (found.left, found.right, found.width) == (-0.5, 0.5, 1.0)
    assert found.open_left and found.open_right
    assert (found.depth, found.sharpness) == (97.0, 0.0)


@pytest.mark.parametrize("at_origin", [50, 100])
def test_a_broken_model_has_no_basin(at_origin):
    found = basin([-1, 0, 1], [0, at_origin, 0])
    assert (found.left, found.right, found.width) == (0.0, 0.0, 0.0)
    assert not found.open_left and not found.open_right
    assert found.sharpness == at_origin


def test_basin_skips_nan_points():
    # Between 0 and 2 the line goes from 0 to 100 and crosses 50 at 1; -2 was not measured, so -1 is the last point.
    found = basin([-2, -1, 0, 1, 2], [NAN, 10, 0, NAN, 100])
    assert (found.left, found.open_left) == (-1.0, True)
    assert (found.right, found.open_right) == (1.0, False)
    assert found.sharpness == 50.0


def test_basin_without_the_origin_starts_from_the_nearest_measured_point():
    # 0.5 is the nearest; towards the left the line from (0.5, 0) to (-1, 100) crosses 50 at -0.25.
    found = basin([-1, 0, 0.5, 1], [100, NAN, 0, 100])
    assert (found.left, found.right) == (-0.25, 0.75)


def test_a_single_point_has_no_slope():
    found = basin([0], [10])
    assert (found.left, found.right, found.width, found.depth) == (0.0, 0.0, 0.0, 90.0)
    assert math.isnan(found.sharpness) and found.open_left and found.open_right


@pytest.mark.parametrize(
    ("steps", "message"),
    [([0, 1], "one step for each"), ([0, 0, 1], "increasing"), ([2, 1, 0], "increasing"), ([0, 1, NAN], "increasing")],
)
def test_an_axis_that_does_not_fit_is_refused(steps, message):
    with pytest.raises(ValueError, match=message):
        basin(steps, [0, 1, 2])


def test_a_basin_has_one_axis():
    with pytest.raises(ValueError, match="1 dimensions"):
        basin([0, 1], [[0, 1], [2, 3]])


# Sharpness


def cliff(n_points, extent=0.5, centre=0.2, width=0.05):
    """A smooth basin: the ASR as a logistic curve of the distance."""
    steps = axis(extent, n_points)
    return steps, 100 / (1 + np.exp((centre - np.abs(steps)) / width))


def test_sharpness_hardly_depends_on_the_grid():
    found = [basin(*cliff(n_points)).sharpness for n_points in (21, 41, 101, 401)]
    # Of a logistic curve at its middle: 2 * 100 * (1 / (1 + exp(-1)) - 1 / 2) per 0.1 step.
    assert found == pytest.approx([1000 * (2 / (1 + math.exp(-1)) - 1)] * 4, rel=0.05)
    # Points as far apart as the width is see only 0.1 to 0.2 and 0.2 to 0.3, and the steepest window is 0.15 to 0.25.
    assert basin(*cliff(11)).sharpness == pytest.approx(1000 * (0.5 - 1 / (1 + math.exp(2))))
    steep = [basin(*cliff(n_points, width=0.001)).sharpness for n_points in (11, 21, 41, 101, 401)]
    assert steep == pytest.approx([1000.0] * 5, rel=0.6) and max(steep) <= 1000.0
    assert basin(*cliff(41, extent=1.0)).sharpness == pytest.approx(basin(*cliff(21)).sharpness)


def test_points_between_change_no_sharpness():
    rng = np.random.default_rng(0)
    steps, rates = axis(), rng.uniform(0, 100, 21)
    finer = axis(n_points=101)
    assert basin(finer, np.interp(finer, steps, rates)).sharpness == pytest.approx(basin(steps, rates).sharpness)


def test_sharpness_is_the_steepest_window_of_a_slow_search():
    rng = np.random.default_rng(1)
    steps, rates = np.sort(rng.uniform(-0.5, 0.5, 9)), rng.uniform(0, 100, 9)
    starts = np.linspace(steps[0], steps[-1] - 0.1, 20001)
    slow = np.abs(np.interp(starts + 0.1, steps, rates) - np.interp(starts, steps, rates)).max() / 0.1
    assert basin(steps, rates).sharpness == pytest.approx(slow, rel=1e-3)


def test_on_an_axis_shorter_than_the_width_sharpness_is_over_the_whole_axis():
    assert basin([0, 0.01, 0.02], [0, 0, 50]).sharpness == 2500.0
