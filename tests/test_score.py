import math

import numpy as np
import pytest

from visage_mlflow.geometry.plane import axis
from visage_mlflow.geometry.score import basin, visage, visage_contiguous

NAN = math.nan


def test_visage_is_the_mean_depth_below_100():
    # Below 100 are 0 and 50: depths 100 and 50.
    assert visage([100, 0, 50, 100]) == 75.0


def test_visage_in_two_dimensions_takes_all_points():
    # Depths 100, 40 and 10.
    assert visage([[0, 100], [60, 90]]) == 50.0


def test_visage_skips_holes_and_the_published_code_does_not():
    # The hole counts as depth 0 in the slice: (100 + 0 + 50) / 3.
    assert visage([100, 0, 100, 50, 100]) == 75.0
    assert visage_contiguous([100, 0, 100, 50, 100]) == 50.0


def test_visage_contiguous_takes_the_smallest_box():
    # Points below 100 at (0, 1) and (1, 2): the box is rows 0-1, columns 1-2, depths 80, 0, 0, 40.
    asr = [[100, 20, 100], [100, 100, 60], [100, 100, 100]]
    assert visage_contiguous(asr) == 30.0


@pytest.mark.parametrize("measure", [visage, visage_contiguous])
class TestBothVisages:
    def test_no_point_below_100_is_no_basin(self, measure):
        assert measure([100, 100]) == 0.0

    def test_a_single_point_is_its_depth(self, measure):
        assert measure([30]) == 70.0

    def test_identical_points_are_their_depth(self, measure):
        assert measure([[99, 99], [99, 99]]) == 1.0

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
