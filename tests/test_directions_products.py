"""Lengths, angles and Gram-Schmidt: inner products of directions over all weights together."""

import math

import pytest
import torch

from visage_mlflow.geometry.blocks import BLOCK
from visage_mlflow.geometry.directions import (
    Combination,
    Difference,
    RandomDirection,
    cosine,
    inner,
    norm,
    orthogonal,
    primitives,
)
from visage_mlflow.geometry.materialized import Materialized


@pytest.fixture
def weights():
    generator = torch.Generator().manual_seed(1)
    return {
        "embed.weight": torch.randn(40, 8, generator=generator),
        "layer.weight": torch.randn(8, 8, generator=generator) * 3,
        "layer.bias": torch.randn(8, generator=generator),
        "final_norm.weight": torch.ones(8),
        "steps": torch.arange(4),
    }


def by_hand(**tensors):
    """A direction with these values, as the way to them from weights of zero."""
    return Difference({name: torch.tensor(values) for name, values in tensors.items()})


def test_inner_products_sum_over_all_tensors():
    weights = {"v": torch.zeros(2), "w": torch.zeros(1, 2)}
    a, b = by_hand(v=[1.0, 2.0], w=[[3.0, 0.0]]), by_hand(v=[5.0, -1.0], w=[[2.0, 7.0]])
    # <a, b> = 1*5 - 2*1 + 3*2 + 0*7 = 9; |a|² = 1 + 4 + 9 = 14; |b|² = 25 + 1 + 4 + 49 = 79.
    assert inner(weights, a, b) == 9.0
    assert norm(weights, a) == pytest.approx(math.sqrt(14), rel=1e-15)
    assert cosine(weights, a, b) == pytest.approx(9 / math.sqrt(14 * 79), rel=1e-15)
    assert cosine(weights, a, a) == pytest.approx(1.0)


def test_inner_products_keep_what_float32_would_lose():
    # Beside 2**30, float32 numbers are 128 apart, so ones added to it are lost. Sized to end inside a block.
    size = BLOCK + 5
    weights = {"big": torch.zeros(1), "ones": torch.zeros(size)}
    direction = Difference({"big": torch.tensor([2.0**15]), "ones": torch.ones(size)})
    assert inner(weights, direction, direction) == 2.0**30 + size


def test_inner_products_of_trainable_parameters_build_no_graph():
    weights = {"w": torch.nn.Parameter(torch.ones(3))}
    direction = Difference({"w": torch.nn.Parameter(torch.full((3,), 3.0))})
    assert not direction.displacement("w", weights["w"]).requires_grad
    assert inner(weights, direction, RandomDirection()) == pytest.approx(
        2 * float(RandomDirection().displacement("w", weights["w"]).sum())
    )


def test_inner_products_with_nan_name_the_tensor():
    with pytest.raises(ValueError, match="`w` has NaN"):
        norm({"w": torch.zeros(1)}, Difference({"w": torch.tensor([math.nan])}))


def test_no_weights_have_length_zero():
    assert norm({}, RandomDirection()) == 0.0


def test_a_multiple_of_no_difference_is_exactly_zero(weights):
    assert norm(weights, Combination([(0.3, Difference(weights))])) == 0.0


def test_no_angle_with_a_direction_of_length_zero(weights):
    with pytest.raises(ValueError, match="length zero"):
        cosine(weights, RandomDirection(), Difference(weights))


@pytest.mark.parametrize("mixed_in", [0.0, 0.5, 1000.0])
def test_orthogonal_is_orthogonal_over_all_weights_and_as_long_as_the_first(weights, mixed_in):
    first = RandomDirection(seed=0)
    direction = Combination([(7.0, RandomDirection(seed=1)), (mixed_in, first)])
    second = orthogonal(weights, direction, to=first)
    assert norm(weights, second) == pytest.approx(norm(weights, first), rel=1e-9)
    assert abs(cosine(weights, second, first)) < 1e-9
    assert inner(weights, second, direction) > 0
    stored = Materialized(second, weights)
    assert abs(cosine(weights, stored, first)) < 1e-6


def test_orthogonal_by_hand():
    # (3, 4) against (2, 0): the rest is (0, 4), rescaled to length 2.
    second = orthogonal({"w": torch.zeros(2)}, by_hand(w=[3.0, 4.0]), to=by_hand(w=[2.0, 0.0]))
    assert second.displacement("w", torch.zeros(2)).tolist() == [0.0, 2.0]


def test_orthogonal_refuses_parallel_and_empty_directions(weights):
    first, nothing = RandomDirection(seed=0), Difference(weights)
    multiple = Materialized(Combination([(-0.3, first)]), weights)  # Parallel but for float32 rounding.
    for direction, to in ((first, first), (multiple, first), (nothing, first), (first, nothing)):
        with pytest.raises(ValueError, match="parallel, or one has length zero"):
            orthogonal(weights, direction, to=to)


@pytest.mark.parametrize("length", [1e-3, 1.0, 50.0])
def test_orthogonal_is_as_long_as_asked_for(weights, length):
    first, direction = RandomDirection(seed=0), Combination([(3.0, RandomDirection(seed=1)), (2.0, RandomDirection())])
    second = orthogonal(weights, direction, to=first, length=length)
    assert norm(weights, second) == pytest.approx(length, rel=1e-9)
    assert abs(cosine(weights, second, first)) < 1e-9
    assert cosine(weights, second, orthogonal(weights, direction, to=first)) == pytest.approx(1)


@pytest.mark.parametrize("sine", [1e-1, 1e-3, 1e-5])
def test_orthogonal_directions_of_nearly_parallel_ones_are_orthogonal_all_the_same(weights, sine):
    first = RandomDirection(seed=0)
    second = orthogonal(weights, Combination([(1.0, first), (sine, RandomDirection(seed=1))]), to=first)
    assert abs(cosine(weights, second, first)) < 1e-6
    assert norm(weights, second) == pytest.approx(norm(weights, first), rel=1e-6)


# Combinations dissolved


def test_primitives_are_what_combinations_are_made_of_each_once_with_coefficients_added_up():
    a, b, c = (RandomDirection(seed=seed) for seed in range(3))
    inner_one = Combination([(2.0, a), (3.0, b)])
    outer = Combination([(10.0, inner_one), (1.0, c), (5.0, a)])
    # 0.5 · outer = 12.5 a + 15 b + 0.5 c, and -1 · b beside it.
    assert primitives([(0.5, outer), (-1.0, b)]) == [(12.5, a), (14.0, b), (0.5, c)]


def test_primitives_whose_coefficients_cancel_are_dropped():
    a, b = RandomDirection(seed=0), RandomDirection(seed=1)
    assert primitives([(1.0, Combination([(0.5, a), (1.0, b)])), (-0.5, a)]) == [(1.0, b)]
    assert primitives([(0.0, a), (0.0, Combination([(1.0, b)]))]) == [] == primitives([])
    assert primitives([(0.3, a), (-0.3, a)]) == []


def test_directions_that_are_equal_but_not_the_same_stay_apart():
    a, twin = RandomDirection(seed=0), RandomDirection(seed=0)
    assert primitives([(1.0, a), (-1.0, twin)]) == [(1.0, a), (-1.0, twin)]


def test_primitives_are_the_same_displacement(weights):
    end = {name: weight + 1 for name, weight in weights.items()}
    first = Difference(end)
    second = orthogonal(weights, RandomDirection(seed=1), to=first)
    parts = [(0.7, first), (-0.2, second), (0.1, Combination([(1.0, first), (-2.0, second)]))]
    dissolved = primitives(parts)
    assert len(dissolved) == 2
    for name, weight in weights.items():
        torch.testing.assert_close(
            Combination(dissolved).displacement(name, weight), Combination(parts).displacement(name, weight)
        )
