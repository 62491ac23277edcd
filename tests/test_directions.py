"""Displacements of weights: random ones, differences and combinations, their lengths, angles and products."""

import math

import pytest
import torch
from vectors import cosine

from visage_mlflow.geometry.blocks import BLOCK
from visage_mlflow.geometry.directions import (
    Combination,
    Difference,
    Materialized,
    RandomDirection,
    inner,
    norm,
    orthogonal,
    primitives,
)


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


def test_a_random_delta_depends_on_seed_and_name_alone(weights):
    weight = weights["layer.weight"]
    first = RandomDirection(seed=3).delta("layer.weight", weight)
    direction = RandomDirection(seed=3)
    torch.manual_seed(9)
    direction.delta("embed.weight", weights["embed.weight"])
    assert torch.equal(direction.delta("layer.weight", weight), first)
    assert not torch.equal(RandomDirection(seed=4).delta("layer.weight", weight), first)
    assert not torch.equal(direction.delta("other.weight", weight), first)
    assert first.dtype == torch.float32 and first.shape == weight.shape


def test_the_layer_norm_gives_each_tensor_noise_as_long_as_itself(weights):
    for name in ("embed.weight", "layer.weight", "layer.bias"):
        delta = RandomDirection(seed=0).displacement(name, weights[name])
        assert delta.dtype == torch.float64
        assert float(delta.norm()) == pytest.approx(float(weights[name].double().norm()), rel=1e-6)


def test_the_row_norm_gives_each_output_row_noise_as_long_as_itself(weights):
    kernel = weights["embed.weight"].view(5, 8, 4, 2)  # Rows are the index of dimension 0, however many follow.
    delta = RandomDirection(seed=0, norm="row").displacement("conv.weight", kernel)
    torch.testing.assert_close(delta.flatten(1).norm(dim=1), kernel.flatten(1).double().norm(dim=1), rtol=1e-6, atol=0)


def test_noise_is_float16_and_its_length_is_exact_all_the_same(weights):
    weight = weights["layer.weight"]
    ((scale, noise),) = RandomDirection(seed=0).terms("layer.weight", weight)
    assert noise.dtype == torch.float16 and noise.shape == weight.shape
    # The scale is a float32, which is good to 6e-8.
    assert scale * float(noise.double().norm()) == pytest.approx(float(weight.double().norm()), rel=1e-7)
    ((one, rows),) = RandomDirection(seed=0, norm="row").terms("layer.weight", weight)
    assert one == 1 and rows.dtype == torch.float32


def test_the_row_norm_takes_a_vector_as_one_row(weights):
    bias = weights["layer.bias"]
    row, layer = (RandomDirection(seed=0, norm=norm).delta("layer.bias", bias) for norm in ("row", "layer"))
    assert torch.equal(row, layer)


def test_a_random_direction_looks_gaussian():
    delta = RandomDirection(seed=0).displacement("w", torch.ones(200, 200))
    # Unit variance: 40,000 values with the norm of 40,000 ones. The fourth moment of a standard Gaussian is 3.
    assert abs(float(delta.mean())) < 0.02
    assert float((delta**4).mean()) == pytest.approx(3, rel=0.05)


@pytest.mark.parametrize("norm", ["layer", "row"])
@pytest.mark.parametrize(
    ("name", "weight"),
    [
        ("model.norm.weight", torch.ones(4)),
        ("input_layernorm.weight", torch.ones(4, 4)),
        ("steps", torch.arange(4)),
        ("zero", torch.zeros(4, 4)),
        ("empty", torch.zeros(0, 4)),
    ],
)
def test_norms_whole_numbers_and_zeros_do_not_move(name, weight, norm):
    direction = RandomDirection(seed=0, norm=norm)
    assert torch.equal(direction.displacement(name, weight), torch.zeros(weight.shape, dtype=torch.float64))
    assert torch.equal(direction.delta(name, weight), torch.zeros(weight.shape))


def test_a_zero_row_stays_zero_among_others():
    delta = RandomDirection(seed=0, norm="row").delta("w", torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
    assert torch.equal(delta[0], torch.zeros(2))
    assert float(delta[1].norm()) == pytest.approx(5, rel=1e-6)


def test_a_scalar_moves_by_its_own_size():
    assert abs(float(RandomDirection(seed=0).delta("scale", torch.tensor(-2.5)))) == pytest.approx(2.5)


def test_an_unknown_norm_is_refused_with_the_allowed_ones():
    with pytest.raises(ValueError, match="`norm` must be 'layer' or 'row', got 'filter'"):
        RandomDirection(norm="filter")


def test_a_random_direction_of_a_nan_tensor_is_refused():
    with pytest.raises(ValueError, match="`w` holds NaN"):
        RandomDirection().delta("w", torch.tensor([1.0, math.nan]))


def test_a_random_delta_of_bfloat16_weights_has_their_norm():
    weight = torch.full((300, 300), 0.1, dtype=torch.bfloat16)
    expected = 300 * float(weight[0, 0])  # Summed in bfloat16 it would be off by percents.
    assert float(RandomDirection().displacement("w", weight).norm()) == pytest.approx(expected, rel=1e-6)


def test_a_difference_is_end_minus_start():
    weight, end = torch.tensor([1.0, 2.0]), torch.tensor([4.0, 1.5])
    assert Difference({"w": end}).displacement("w", weight).tolist() == [3.0, -0.5]
    assert Difference({"w": weight}).displacement("w", weight).tolist() == [0.0, 0.0]


def test_a_difference_of_whole_numbers_is_zero(weights):
    assert torch.equal(Difference({}).delta("steps", weights["steps"]), torch.zeros(4))


@pytest.mark.parametrize("end", [{}, {"w": torch.zeros(3, 2)}, {"w": torch.zeros(2, 3, dtype=torch.int8)}])
def test_a_difference_between_architectures_names_the_tensor_and_the_cure(end):
    with pytest.raises(ValueError, match=r"`w` has shape \(2, 3\).*same architecture"):
        Difference(end).delta("w", torch.zeros(2, 3))


def test_check_reports_every_problem_at_once():
    weights = {"a": torch.zeros(2), "b": torch.zeros(2), "c": torch.zeros(2), "d": torch.tensor([math.inf])}
    end = {"a": torch.zeros(3), "b": torch.tensor([0, math.nan]), "d": torch.zeros(1), "e": torch.zeros(1)}
    with pytest.raises(ValueError) as error:
        Difference(end).check(weights)
    for part in ("missing from the end weights (c)", "only in the end weights (e)", "a (2,) -> (3,)"):
        assert part in str(error.value)
    assert "infinity in the start weights (d)" in str(error.value)
    assert "infinity in the end weights (b)" in str(error.value)


def test_check_accepts_sound_weights_of_one_architecture(weights):
    Difference({name: weight + 1 for name, weight in weights.items()}).check(weights)


def test_a_combination_adds_multiples():
    a, b = Difference({"w": torch.tensor([1.0, 2.0])}), Difference({"w": torch.tensor([4.0, -2.0])})
    # From zero weights, 2 * (1, 2) - 0.5 * (4, -2) = (0, 5). A zero multiple is never looked up.
    combination = Combination([(2.0, a), (-0.5, b), (0.0, Difference({}))])
    assert combination.displacement("w", torch.zeros(2)).tolist() == [0.0, 5.0]
    assert Combination([(3.0, combination)]).delta("w", torch.zeros(2)).tolist() == [0.0, 15.0]


@pytest.mark.parametrize("parts", [[], [(math.nan, RandomDirection())], [(math.inf, RandomDirection())]])
def test_a_combination_of_nothing_or_of_nan_is_refused(parts):
    with pytest.raises(ValueError, match="`parts` must be"):
        Combination(parts)


def test_a_materialized_random_direction_is_the_same_to_the_last_bit(weights):
    direction = RandomDirection(seed=5)
    stored = Materialized(direction, weights)
    for name, weight in weights.items():
        assert torch.equal(stored.delta(name, weight), direction.delta(name, weight))
        assert torch.equal(stored.displacement(name, weight), direction.displacement(name, weight))
    (_, kept), (_, again) = (stored.terms("layer.weight", weights["layer.weight"])[0] for _ in range(2))
    assert kept is again and kept.dtype == torch.float16


def test_a_materialized_difference_is_one_tensor_of_its_own_rounded_to_float32(weights):
    weight = weights["layer.weight"]
    end = {name: weight + 1 if weight.is_floating_point() else weight for name, weight in weights.items()}
    ((one, kept),) = Materialized(Difference(end), weights).terms("layer.weight", weight)
    exact = end["layer.weight"].double() - weight.double()
    assert one == 1 and torch.equal(kept, exact.float())
    assert kept.data_ptr() not in (weight.data_ptr(), end["layer.weight"].data_ptr())


def test_a_materialized_direction_keeps_nothing_for_tensors_that_do_not_move(weights):
    assert Materialized(RandomDirection(), weights).terms("final_norm.weight", weights["final_norm.weight"]) == []


@pytest.mark.parametrize(("name", "shape"), [("other", (8, 8)), ("layer.weight", (64,))])
def test_a_materialized_direction_refuses_other_weights(weights, name, shape):
    with pytest.raises(ValueError, match=f"`{name}`.*Materialize it for these weights"):
        Materialized(RandomDirection(), weights).delta(name, torch.ones(shape))


# Lengths, angles and products over all weights together


def by_hand(**tensors):
    """A direction with these values, as the way to them from weights of zero."""
    return Difference({name: torch.tensor(values) for name, values in tensors.items()})


def test_inner_products_sum_over_all_tensors():
    weights = {"v": torch.zeros(2), "w": torch.zeros(1, 2)}
    a, b = by_hand(v=[1.0, 2.0], w=[[3.0, 0.0]]), by_hand(v=[5.0, -1.0], w=[[2.0, 7.0]])
    # <a, b> = 1*5 - 2*1 + 3*2 + 0*7 = 9; |a|² = 1 + 4 + 9 = 14; |b|² = 25 + 1 + 4 + 49 = 79.
    assert inner(weights, a, b) == 9.0
    assert norm(weights, a) == pytest.approx(math.sqrt(14), rel=1e-15)


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
