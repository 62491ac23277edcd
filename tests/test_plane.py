import math

import numpy as np
import pytest
import torch

from visage_mlflow.geometry.directions import Combination, Difference, Direction, RandomDirection, cosine, orthogonal
from visage_mlflow.geometry.plane import Plane, Projection, axis, interpolation_axis, spanning_axis


@pytest.fixture
def weights():
    generator = torch.Generator().manual_seed(2)
    return {"a": torch.randn(50, 40, generator=generator), "b": torch.randn(30, generator=generator)}


def moved(weights, direction):
    return {name: (weight + direction.displacement(name, weight)).float() for name, weight in weights.items()}


class Constant(Direction):
    """A direction that is given by hand."""

    def __init__(self, *values):
        self.values = torch.tensor(values, dtype=torch.float64)

    def terms(self, name, weight):
        return [(1.0, self.values)]


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


@pytest.mark.parametrize(("n_points", "extra", "cure"), [(3, 0.5, 4), (2, 0.5, 4), (1, 0, 2), (0, 0, 2)])
def test_an_interpolation_axis_with_too_few_points_is_refused(n_points, extra, cure):
    with pytest.raises(ValueError, match=rf"`n_points` must be at least {cure}.*Try {cure}\."):
        interpolation_axis(n_points, extra)


@pytest.mark.parametrize("extra", [-0.1, math.nan, math.inf])
def test_an_interpolation_axis_with_a_bad_extra_is_refused(extra):
    with pytest.raises(ValueError, match="`extra` must be"):
        interpolation_axis(extra=extra)


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


@pytest.mark.parametrize("marks", [[0.0], [0.0, -0.0], [], [math.nan], [1.0, math.inf], [-math.inf]], ids=str)
def test_marks_that_span_no_axis_are_refused(marks):
    with pytest.raises(ValueError, match="`marks` must be finite and not all 0"):
        spanning_axis(marks)


@pytest.mark.parametrize("n_points", [3, 1, 0, -1])
def test_a_spanning_axis_with_too_few_points_is_refused(n_points):
    with pytest.raises(ValueError, match=f"`n_points` must be at least 4, got {n_points}"):
        spanning_axis([1.0], n_points)


@pytest.mark.parametrize("extra", [-0.1, math.nan, math.inf])
def test_a_spanning_axis_with_a_bad_extra_is_refused(extra):
    with pytest.raises(ValueError, match="`extra` must be"):
        spanning_axis([1.0], extra=extra)


def test_a_projection_by_hand():
    plane = Plane({"w": torch.tensor([1.0, 1.0, 1.0])}, x=Constant(2, 0, 0), y=Constant(1, 1, 0))
    # The difference is (5, 3, 4) = 1 * (2, 0, 0) + 3 * (1, 1, 0) + (0, 0, 4), of length sqrt(50).
    place = plane.project({"w": torch.tensor([6.0, 4.0, 5.0])})
    assert (place.x, place.y) == pytest.approx((1, 3))
    assert place.distance == pytest.approx(math.sqrt(50))
    assert place.off_plane_distance == pytest.approx(4)
    assert place.off_plane_share == pytest.approx(4 / math.sqrt(50))


def test_a_projection_on_a_line_by_hand():
    # (3, 4) along (2, 0): 1.5 steps, 4 left over out of 5.
    place = Plane({"w": torch.zeros(2)}, x=Constant(2, 0)).project({"w": torch.tensor([3.0, 4.0])})
    assert (place.x, place.y) == pytest.approx((1.5, 0))
    assert (place.off_plane_distance, place.off_plane_share) == pytest.approx((4, 0.8))


@pytest.mark.parametrize("norm", ["layer", "row"])
def test_projecting_a_point_of_the_plane_gives_its_coordinates(weights, norm):
    x, y = RandomDirection(seed=0, norm=norm), RandomDirection(seed=1, norm=norm)
    point = moved(weights, Combination([(0.3, x), (-0.7, y)]))
    place = Plane(weights, x=x, y=y).project(point)
    assert (place.x, place.y) == pytest.approx((0.3, -0.7), abs=1e-5)
    assert place.off_plane_share < 1e-5


def test_a_plane_through_two_models_holds_both(weights):
    ends = [moved(weights, Combination([(1e-4, RandomDirection(seed=seed))])) for seed in (5, 6)]
    x = Difference(ends[0])
    plane = Plane(weights, x=x, y=orthogonal(weights, Difference(ends[1]), to=x))
    first, second = (plane.project(end) for end in ends)
    assert (first.x, first.y) == pytest.approx((1, 0), abs=1e-9)
    assert max(first.off_plane_share, second.off_plane_share) < 1e-6
    assert second.y > 0


def test_a_projection_agrees_with_least_squares(weights):
    x, y = RandomDirection(seed=0), Combination([(1.0, RandomDirection(seed=0)), (0.1, RandomDirection(seed=1))])
    other = moved(weights, RandomDirection(seed=9))
    columns = [
        torch.cat([direction.displacement(name, weights[name]).flatten() for name in weights]).numpy()
        for direction in (x, y, Difference(other))
    ]
    steps, squares, *_ = np.linalg.lstsq(np.stack(columns[:2], axis=1), columns[2], rcond=None)
    place = Plane(weights, x=x, y=y).project(other)
    assert (place.x, place.y) == pytest.approx(tuple(steps), rel=1e-6)
    assert place.off_plane_distance == pytest.approx(math.sqrt(squares[0]), rel=1e-9)
    assert place.off_plane_share > 0.9


@pytest.mark.parametrize("sine", [1.0, 1e-2, 1e-4])
def test_coordinates_on_directions_that_are_nearly_parallel_are_still_found(weights, sine):
    x = RandomDirection(seed=0)
    aside = orthogonal(weights, RandomDirection(seed=1), to=x)
    y = Combination([(math.sqrt(1 - sine**2), x), (sine, aside)])
    assert cosine(weights, x, y) == pytest.approx(math.sqrt(1 - sine**2))
    exact = {
        name: weight.double() + 0.3 * x.displacement(name, weight) - 0.7 * y.displacement(name, weight)
        for name, weight in weights.items()
    }
    place = Plane(weights, x=x, y=y).project(exact)
    # The smallest eigenvalue of the cosines is about sine² / 2, so that much of float64's 16 digits is lost.
    assert (place.x, place.y) == pytest.approx((0.3, -0.7), abs=1e-14 / sine**2)
    assert place.off_plane_share < 1e-9


def test_the_origin_itself_projects_to_zeros(weights):
    assert Plane(weights, x=RandomDirection()).project(weights) == Projection(0.0, 0.0, 0.0, 0.0, 0.0)


def test_a_tiny_residual_is_measured_and_not_rounded_away():
    # In squares, 1e-10 beside 1 is 1e-20: a difference of squares in float64 would give 0.
    place = Plane({"w": torch.zeros(2)}, x=Constant(1, 0)).project({"w": torch.tensor([1.0, 1e-10])})
    assert place.off_plane_share == pytest.approx(1e-10, rel=1e-6)


def test_parallel_and_empty_directions_span_no_plane(weights):
    x = RandomDirection()
    with pytest.raises(ValueError, match="parallel"):
        Plane(weights, x=x, y=Combination([(-2.0, x)]))
    with pytest.raises(ValueError, match="`x` has length zero"):
        Plane(weights, x=Difference(weights))
    with pytest.raises(ValueError, match="`y` has length zero"):
        Plane(weights, x=x, y=Difference(weights))


def test_nan_weights_are_refused_by_name(weights):
    broken = {"a": weights["a"], "b": torch.full((30,), math.nan)}
    with pytest.raises(ValueError, match="`b`"):
        Plane(broken, x=RandomDirection())
    with pytest.raises(ValueError, match="`b`"):
        Plane(weights, x=RandomDirection()).project(broken)


def test_weights_of_another_architecture_are_refused(weights):
    with pytest.raises(ValueError, match="`b`.*missing.*same architecture"):
        Plane(weights, x=RandomDirection()).project({"a": weights["a"]})


def test_a_spanning_axis_holds_another_step_exactly_where_there_is_room():
    # From -1 to 2 in steps of 0.5 the points nearest to 0 and 1.1 are 0 and 1.
    assert spanning_axis([-0.5, 1.5], 7, 0.25, exactly=(0.0, 1.1)).tolist() == [-1, -0.5, 0, 0.5, 1.1, 1.5, 2]
    # From -15.5 to 6.5 in steps of 5.5: 0 takes the last inner point, and the end stays.
    assert spanning_axis([-10.0, 1.0], 5, 0.5, exactly=(0.0, 1.0)).tolist() == [-15.5, -10, -4.5, 0, 6.5]
