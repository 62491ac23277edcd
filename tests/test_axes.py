"""Steps along axes, and which grid points lie past the edge: by hand, against a slow oracle, and in any order."""

import itertools
import math
import random
from fractions import Fraction

import numpy as np
import pytest

from visage_mlflow.geometry.axes import axis, by_distance, grid, interpolation_axis, past_the_edge, spanning_axis

NAN = math.nan
FIVE, SEVEN = ([float(step) for step in range(-half, half + 1)] for half in (2, 3))
UNEVEN = [-0.3, -0.1, 0.0, 0.2, 0.25, 0.9, 1.0, 1.1]  # And longer on one side: places count, not distances.


def test_the_default_axis_is_the_papers():
    steps = axis()
    assert steps.dtype == np.float64 and steps.shape == (21,)
    np.testing.assert_allclose(steps, np.linspace(-0.5, 0.5, 21), atol=1e-15)


@pytest.mark.parametrize(("extent", "n_points"), [(0.5, 21), (0.3, 7), (1 / 3, 101), (1e-9, 3)])
def test_an_axis_is_symmetric_and_holds_zero_and_its_ends_exactly(extent, n_points):
    steps = axis(extent, n_points)
    assert np.array_equal(steps, -steps[::-1])
    assert steps[n_points // 2] == 0.0 and steps[-1] == extent and len(steps) == n_points
    assert (np.diff(steps) > 0).all()


@pytest.mark.parametrize("extent", [0, -0.5, math.nan, math.inf])
def test_an_axis_without_extent_is_refused(extent):
    with pytest.raises(ValueError, match="`extent` must be a positive finite number"):
        axis(extent=extent)


@pytest.mark.parametrize(("n_points", "cure"), [(20, 21), (2, 3), (1, 3), (0, 3), (-5, 3)])
def test_an_axis_that_skips_the_model_is_refused_with_a_number_that_works(n_points, cure):
    with pytest.raises(ValueError, match=rf"odd and at least 3, got {n_points}.*Try {cure}\."):
        axis(n_points=n_points)


@pytest.mark.parametrize("extra", [0, 0.01, 0.3, 0.5, 1, 7.3, 1000])
@pytest.mark.parametrize("n_points", [4, 5, 6, 7, 20, 21, 50])
def test_an_interpolation_axis_always_holds_both_models_and_both_ends(n_points, extra):
    steps = interpolation_axis(n_points, extra)
    assert len(steps) == n_points and (np.diff(steps) > 0).all()
    assert 0.0 in steps and 1.0 in steps
    assert steps[0] == -extra and steps[-1] == 1 + extra


def test_an_interpolation_axis_moves_only_the_points_nearest_to_the_models():
    # 21 points are 0.1 apart and hit 0 and 1 already; of 6 points, 0.4 apart, -0.1 becomes 0 and 1.1 becomes 1.
    np.testing.assert_allclose(interpolation_axis(), np.linspace(-0.5, 1.5, 21), atol=1e-15)
    np.testing.assert_allclose(interpolation_axis(6, 0.5), [-0.5, 0, 0.3, 0.7, 1, 1.5], atol=1e-15)


def test_an_interpolation_axis_without_extra_may_be_the_two_models():
    assert interpolation_axis(2, extra=0).tolist() == [0.0, 1.0]


MARKS = ([1.0], [-1.0], [0.4, 1.0], [1.0, 0.0], [-0.3, 2.5, 0.1], [1e-9], [0.0, 1e6, -1.0], [1 / 3, -2 / 3])


@pytest.mark.parametrize("extra", [0.01, 0.1, 0.5, 1, 7.3])
@pytest.mark.parametrize("n_points", [4, 5, 6, 7, 20, 21, 50])
@pytest.mark.parametrize("marks", MARKS, ids=str)
def test_a_spanning_axis_holds_the_model_exactly_and_every_mark_inside(marks, n_points, extra):
    steps = spanning_axis(marks, n_points, extra)
    assert steps.dtype == np.float64 and steps.shape == (n_points,) and (np.diff(steps) > 0).all()
    assert (steps == 0).sum() == 1
    assert steps[0] <= min(marks) and max(marks) <= steps[-1]
    # All but the one that was moved are evenly spaced, and go `extra` of the marks' distance beyond them.
    low, high = min(0.0, *marks), max(0.0, *marks)
    even = np.linspace(low - extra * (high - low), high + extra * (high - low), n_points)
    assert (np.abs(steps - even) > 1e-12 * (high - low)).sum() <= 1
    # Half a step, unless the nearest is an end: that stays, and its neighbour moves instead.
    at_an_end = np.argmin(np.abs(even)) in (0, n_points - 1)
    assert np.abs(steps - even).max() <= (even[1] - even[0]) * (1 if at_an_end else 0.5) * (1 + 1e-9)


@pytest.mark.parametrize("extra", [0, 0.001, 0.01])
@pytest.mark.parametrize("marks", [[-0.01, 1.0], [-1.0, 0.01], [-1e-12, 1.0], [-0.2, 0.2]], ids=str)
def test_a_spanning_axis_never_moves_its_ends_away_from_a_mark(marks, extra):
    steps = spanning_axis(marks, 5, extra)
    assert 0.0 in steps and (np.diff(steps) > 0).all()
    assert steps[0] <= marks[0] and marks[1] <= steps[-1]


def test_a_spanning_axis_without_extra_ends_at_its_outermost_mark():
    assert spanning_axis([0.5, 2.0], 5, extra=0).tolist() == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert spanning_axis([-2.0], 5, extra=0).tolist() == [-2.0, -1.5, -1.0, -0.5, 0.0]


def test_a_spanning_axis_moves_only_the_point_nearest_to_the_model():
    # From -0.7 to 1.7 in steps of 0.6: -0.7, -0.1, 0.5, 1.1, 1.7. The marks are 1 apart, with 0.7 beyond each.
    np.testing.assert_allclose(spanning_axis([1.0], 5, extra=0.7), [-0.7, 0, 0.5, 1.1, 1.7], atol=1e-15)


def test_a_spanning_axis_holds_another_step_exactly_where_there_is_room():
    # From -1 to 2 in steps of 0.5 the points nearest to 0 and 1.1 are 0 and 1.
    assert spanning_axis([-0.5, 1.5], 7, 0.25, exactly=(0.0, 1.1)).tolist() == [-1, -0.5, 0, 0.5, 1.1, 1.5, 2]
    # From -15.5 to 6.5 in steps of 5.5: 0 takes the last inner point, and the end stays.
    assert spanning_axis([-10.0, 1.0], 5, 0.5, exactly=(0.0, 1.0)).tolist() == [-15.5, -10, -4.5, 0, 6.5]


# Grids


def test_a_grid_has_every_pair_once_the_first_axis_running_fastest():
    assert grid([[-1, 0, 1], [0, 5]]) == [(-1.0, 0.0), (0.0, 0.0), (1.0, 0.0), (-1.0, 5.0), (0.0, 5.0), (1.0, 5.0)]
    assert all(isinstance(step, float) for place in grid([[0, 1], [0, 2]]) for step in place)
    assert grid([[-1, 0, 1]]) == [(-1.0,), (0.0,), (1.0,)] and grid([[0.0], []]) == []


def test_points_by_distance_begin_at_the_origin_and_measure_each_axis_by_its_own_reach():
    # Of reach 2 and 0.1: (1, 0) is half way out, (0, 0.1) all the way.
    order = by_distance([[0, 1, 2], [0, 0.1]])
    assert order[:2] == [(0.0, 0.0), (1.0, 0.0)] and set(order[2:]) == {(2.0, 0.0), (0.0, 0.1), (1.0, 0.1), (2.0, 0.1)}
    assert by_distance([[-1, 0, 1]], far_first=True) == [(-1.0,), (1.0,), (0.0,)]


# By hand


@pytest.mark.parametrize(
    ("outside_after", "past"), [(0, []), (1, [-4, -3, 2, 3, 4, 5]), (2, [3, 4, 5]), (3, []), (99, [])]
)
def test_on_a_line_the_sides_count_alone_and_what_is_not_at_100_or_not_known_breaks_the_row(outside_after, past):
    # Outward on the right: 100, 100, 50, 100, 100. On the left: 0, 100, not yet known, 100. The model counts for none.
    asr = {0: 100, -1: 0, -2: 100, -4: 100, 1: 100, 2: 100, 3: 50, 4: 100, 5: 100}
    found = past_the_edge([range(-4, 6)], {(float(step),): rate for step, rate in asr.items()}, outside_after)
    assert sorted(found) == [(step,) for step in past]


def test_on_five_by_five_points():
    # The way to a point of the outer ring has one inner point: half of (2, ±1) is (1, ±½), nearest to (1, 0), since a
    # half is rounded to the even number; half of (2, 2) is (1, 1), and half of (2, 0) is (1, 0).
    asr = dict.fromkeys(grid([FIVE, FIVE]), 0.0)
    assert past_the_edge([FIVE, FIVE], asr, 1) == set()
    right = {(2, -1), (2, 0), (2, 1)}
    assert past_the_edge([FIVE, FIVE], asr | {(1, 0): 100, (-1, 1): 100}, 1) == right | {(-2, 2)}
    assert past_the_edge([FIVE, FIVE], asr | {(1, 0): 99.9, (-1, 1): NAN}, 1) == set()
    # With one inner point on each way, no two are in a row.
    assert past_the_edge([FIVE, FIVE], dict.fromkeys(asr, 100.0), 2) == set()


def test_on_seven_by_seven_points():
    asr = dict.fromkeys(grid([SEVEN, SEVEN]), 0.0)
    # Behind (1, 0) are (2, -1), (2, 0), (2, 1), and (3, 0), (3, ±1), whose ways begin there. The way to (3, ±2) is
    # (1, ±1), (2, ±1): the second of these lies past the edge, and counts as 100.
    found = past_the_edge([SEVEN, SEVEN], asr | {(1, 0): 100.0}, 1)
    assert found == {(2, y) for y in (-1, 0, 1)} | {(3, y) for y in (-2, -1, 0, 1, 2)}
    # Ways: (3, 0) by (1, 0), (2, 0); (3, 1) by (1, 0), (2, 1); (3, 2) by (1, 1), (2, 1); (3, 3) by (1, 1), (2, 2).
    asr |= {(1, 0): 100.0, (2, 0): 100.0, (2, 1): 100.0, (2, 2): 100.0}
    assert past_the_edge([SEVEN, SEVEN], asr, 2) == {(3, 0), (3, 1)}
    assert past_the_edge([SEVEN, SEVEN], asr | {(1, 1): 100.0}, 2) == {(3, 0), (3, 1), (3, 2), (3, 3)}


def test_an_axis_without_the_model_is_refused():
    with pytest.raises(ValueError):
        past_the_edge([[0.1, 0.2]], {}, 1)


# By an oracle


def nearest(offset, ring):
    """Of the grid points in a ring, the one nearest to the ray through an offset, by trying all; even ones if tied."""
    aim = [Fraction(each * ring, max(map(abs, offset))) for each in offset]
    around = itertools.product(range(-ring, ring + 1), repeat=len(offset))
    on_ring = [each for each in around if max(map(abs, each)) == ring]
    return min(on_ring, key=lambda each: (math.dist(each, aim), sum(one % 2 for one in each)))


def slowly(offsets, asr, outside_after):
    """The rule by recursion, on offsets: somewhere on the way out there were `outside_after` in a row at 100."""

    def is_past(offset):
        way = [nearest(offset, ring) for ring in range(1, max(map(abs, offset)))]
        at_100 = "".join("x" if is_past(each) or asr.get(each) == 100 else "." for each in way)
        return outside_after > 0 and "x" * outside_after in at_100

    return {offset for offset in offsets if is_past(offset)}


@pytest.mark.parametrize("outside_after", [0, 1, 2, 3])
@pytest.mark.parametrize(("n_axes", "n_draws"), [(1, 100), (2, 2)])
def test_the_rule_is_that_of_a_slow_oracle(n_axes, n_draws, outside_after):
    draw = random.Random(outside_after)
    for _ in range(n_draws):
        offsets = list(itertools.product(range(-2, 6), repeat=n_axes))
        by_offset = {offset: draw.choice([0.0, 100.0, 100.0, 100.0, NAN]) for offset in offsets if draw.random() < 0.9}
        place = {offset: tuple(UNEVEN[each + 2] for each in offset) for offset in offsets}
        found = past_the_edge([UNEVEN] * n_axes, {place[each]: by_offset[each] for each in by_offset}, outside_after)
        assert found == {place[offset] for offset in slowly(offsets, by_offset, outside_after)}
        assert (0.0,) * n_axes not in found


@pytest.mark.parametrize("outside_after", [1, 2])
@pytest.mark.parametrize("n_workers", [1, 2, 5])
def test_any_order_of_measuring_by_any_number_of_workers_leaves_out_the_same_points(outside_after, n_workers):
    # Points past the edge are at 50 here, where they are measured at all: that must not tell, either.
    draw = random.Random(2)
    axes = [SEVEN, SEVEN]
    for _ in range(5):
        truth = {place: draw.choice([0.0, 100.0, 100.0, 100.0]) for place in grid(axes)}
        expected = past_the_edge(axes, truth, outside_after)
        truth |= dict.fromkeys(expected, 50.0)
        known, waiting = {}, draw.sample(sorted(truth), len(truth))
        while waiting:
            # Each worker takes a point while the others' are not known yet.
            taken, waiting = waiting[:n_workers], waiting[n_workers:]
            wanted = [place for place in taken if place not in past_the_edge(axes, known, outside_after)]
            known |= {place: truth[place] for place in wanted}
        assert past_the_edge(axes, known, outside_after) == expected
        assert set(truth) - expected <= set(known)
