"""Principal components of displacements, against closed forms and the SVD of the whole matrix."""

import math

import numpy as np
import pytest
import torch
from vectors import cosine

from visage_mlflow.geometry.components import components
from visage_mlflow.geometry.directions import Combination, Difference, norm
from visage_mlflow.geometry.plane import Plane

SHAPES = {"a": (30, 20), "b": (50,), "empty": (0, 3)}
SIZE = 650


@pytest.fixture
def weights():
    generator = torch.Generator().manual_seed(3)
    return {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in SHAPES.items()}


def at(weights, flat, dtype=torch.float64):
    """The weights moved by one vector over all of them."""
    moved, first = {}, 0
    for name, weight in weights.items():
        part = torch.as_tensor(flat[first : first + weight.numel()]).view(weight.shape)
        moved[name], first = (weight + part).to(dtype), first + weight.numel()
    return moved


def flat(weights, direction):
    """A displacement as one vector over all weights: float64, (SIZE,)."""
    return np.concatenate([direction.displacement(name, weight).flatten().numpy() for name, weight in weights.items()])


def basis(count, seed=0):
    """Random orthonormal vectors, of shape (count, SIZE)."""
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(SIZE, count)))[0].T


def differences(weights, vectors, dtype=torch.float64):
    return [Difference(at(weights, vector, dtype)) for vector in vectors]


def test_planted_axes_come_back_with_their_shares_and_the_length_of_the_longest(weights):
    # (±3, 0) and (0, ±1) along orthonormal axes: squares of 18 and 2 out of 20.
    axes = basis(2)
    planted = np.array([[3, 0], [0, 1], [-3, 0], [0, -1]]) @ axes
    first, second = components(weights, differences(weights, planted))
    assert (first.explained_variance, second.explained_variance) == pytest.approx((0.9, 0.1), rel=1e-12)
    np.testing.assert_allclose(np.abs(flat(weights, first.direction) @ axes.T), [3, 0], atol=1e-9)
    # The last displacement, (0, -1), has no negative coordinate along either.
    np.testing.assert_allclose(flat(weights, second.direction), -3 * axes[1], atol=1e-9)


@pytest.mark.parametrize("n", [2, 3, 10])
def test_points_planted_in_a_plane_through_the_origin_lie_on_the_plane_found(weights, n):
    points = np.random.default_rng(n).normal(size=(n, 2)) * [2, 0.3]
    found = components(weights, differences(weights, points @ basis(2, seed=n)))
    assert sum(each.share_from_origin for each in found) == pytest.approx(1, abs=1e-12)
    plane = Plane(weights, *(each.direction for each in found))
    for vector in points @ basis(2, seed=n):
        place = plane.project(at(weights, vector))
        assert place.off_plane_share < 1e-7
        # Coordinates on axes that are orthogonal and equally long keep all distances.
        assert math.hypot(place.x, place.y) * norm(weights, found[0].direction) == pytest.approx(place.distance)


@pytest.mark.parametrize("noise", [0.0, 0.05, 1.0])
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_components_are_those_of_a_singular_value_decomposition(weights, noise, count, dtype):
    rng = np.random.default_rng(5)
    planted = rng.normal(size=(8, 3)) @ (np.diag([4, 2, 1]) @ basis(3)) + noise * rng.normal(size=(8, SIZE)) / 10
    displacements = differences(weights, planted, dtype)
    matrix = np.stack([flat(weights, each) for each in displacements])  # (checkpoints, parameters): never built by us.
    _, values, rows = np.linalg.svd(matrix, full_matrices=False)
    found = components(weights, displacements, count)
    shares = [each.share_from_origin for each in found]
    assert shares == pytest.approx((values**2 / (values**2).sum())[:count], rel=1e-9)
    centred = matrix - matrix.mean(axis=0)
    explained = ((centred @ rows[:count].T) ** 2).sum(axis=0) / (centred**2).sum()
    assert [each.explained_variance for each in found] == pytest.approx(explained, rel=1e-6, abs=1e-9)
    longest = np.linalg.norm(matrix, axis=1).max()
    for index, each in enumerate(found):
        vector = flat(weights, each.direction)
        assert np.linalg.norm(vector) == pytest.approx(longest, rel=1e-9)
        assert abs(vector @ rows[index]) == pytest.approx(longest, rel=1e-9)
        assert vector @ matrix[-1] > 0


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_components_are_orthogonal_and_equally_long(weights, noise):
    rng = np.random.default_rng(7)
    # The second spreads ten thousand times less than the first.
    planted = rng.normal(size=(6, 2)) * [1, 1e-4] @ basis(2) + 1e-5 * noise * rng.normal(size=(6, SIZE))
    displacements = differences(weights, planted)
    first, second = components(weights, displacements)
    assert abs(cosine(weights, first.direction, second.direction)) < 1e-6
    longest = max(norm(weights, each) for each in displacements)
    assert norm(weights, first.direction) == pytest.approx(longest, rel=1e-9)
    assert norm(weights, second.direction) == pytest.approx(longest, rel=1e-6)


def test_the_plane_goes_through_the_origin_and_not_through_the_mean(weights):
    # Far away along the first axis, spread only along the second: of the plane through the mean, the first axis would
    # not be the largest component. Squares: 3 · 100 along the first, 2 along the second.
    axes = basis(2)
    planted = np.array([[10, -1], [10, 0], [10, 1]]) @ axes
    first, second = components(weights, differences(weights, planted))
    np.testing.assert_allclose(np.abs(flat(weights, first.direction) @ axes.T), [math.sqrt(101), 0], atol=1e-9)
    assert (first.share_from_origin, second.share_from_origin) == pytest.approx((300 / 302, 2 / 302), rel=1e-12)
    # Around the mean, (10, 0), they vary along the second alone.
    assert (first.explained_variance, second.explained_variance) == pytest.approx((0, 1), abs=1e-9)


def test_equally_large_components_still_span_the_plane(weights):
    axes = basis(2)
    found = components(weights, differences(weights, axes))
    assert [each.share_from_origin for each in found] == pytest.approx([0.5, 0.5])
    plane = Plane(weights, *(each.direction for each in found))
    assert max(plane.project(at(weights, vector)).off_plane_share for vector in axes) < 1e-9


def test_a_checkpoint_that_is_the_origin_itself_adds_nothing(weights):
    planted = np.array([[3, 0], [0, 1]]) @ basis(2)
    without = components(weights, differences(weights, planted))
    with_it = components(weights, differences(weights, [np.zeros(SIZE), *planted]))
    for one, other in zip(without, with_it, strict=True):
        assert one.share_from_origin == pytest.approx(other.share_from_origin, rel=1e-12)
        assert cosine(weights, one.direction, other.direction) == pytest.approx(1, abs=1e-12)


def test_the_order_of_the_checkpoints_before_the_last_changes_nothing(weights):
    planted = np.random.default_rng(1).normal(size=(5, SIZE))
    shuffled = planted[[2, 0, 3, 1, 4]]
    for one, other in zip(
        components(weights, differences(weights, planted)),
        components(weights, differences(weights, shuffled)),
        strict=True,
    ):
        np.testing.assert_allclose(flat(weights, one.direction), flat(weights, other.direction), atol=1e-9)


def one_line(caught):
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".")
    return message


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_displacements_are_refused(weights, n):
    with pytest.raises(ValueError) as caught:
        components(weights, differences(weights, basis(2)[:n]))
    assert f"2 components need at least 2 displacements, got {n}" in one_line(caught)


@pytest.mark.parametrize(
    ("factors", "spanned"), [((0, 0, 0), 0), ((1, 1, 1), 1), ((1, 0, 0), 1), ((0.5, 1.0, -2.0), 1)]
)
def test_checkpoints_on_a_line_or_at_the_origin_span_no_plane(weights, factors, spanned):
    # Small whole numbers, so that weights and displacements are exact.
    whole = {name: (8 * weight).round() for name, weight in weights.items()}
    line = np.random.default_rng(0).integers(-4, 5, size=SIZE).astype(float)
    with pytest.raises(ValueError) as caught:
        components(whole, differences(whole, [factor * line for factor in factors], torch.float32))
    assert f"span only {spanned} dimensions, 2 are needed" in one_line(caught)


def test_weights_that_are_not_finite_are_refused_by_name(weights):
    broken = at(weights, basis(1)[0])
    broken["b"][3] = math.inf
    with pytest.raises(ValueError, match="^Tensor `b` has NaN or infinity"):
        components(weights, [Difference(broken), *differences(weights, basis(2))])


def test_combinations_can_be_displacements_too(weights):
    one, other = differences(weights, basis(2))
    first, second = components(weights, [Combination([(3.0, one)]), Combination([(-1.0, other)])])
    assert (first.share_from_origin, second.share_from_origin) == pytest.approx((0.9, 0.1))
