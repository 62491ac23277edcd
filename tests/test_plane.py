import math

import numpy as np
import pytest
import torch
from vectors import cosine

from visage_mlflow.geometry.directions import Combination, Difference, Direction, RandomDirection, orthogonal
from visage_mlflow.geometry.plane import Plane, Projection


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
