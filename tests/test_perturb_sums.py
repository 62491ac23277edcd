"""What a model holds on a plane whose directions share parts: the exact sum, rounded once.

A value is computed in float64 and rounded once to the parameter's dtype, so it may miss the exact sum by half a step
of that dtype, plus what float64 loses: each of n products and n sums at most 2**-53 of the terms' sizes together.
A plain float64 sum, term by term, has the same bound. Merging adds in another order, so the two may round to different
neighbours, but only where the exact sum lies within float64's error of the middle between these. That is no rare case:
with steps of 0.3 and -0.7, sums of float32 numbers are tenths of one of their steps, and about one in a hundred lies
in the middle but for the rounding of 0.3 itself. Hence one step is the bound, and not equality, except where the
coefficients are exact (the end of a difference, terms that cancel), which is tested to the last bit. Where the terms
almost cancel, the float64 error may be many steps of a tiny result, and the bound has both parts.
"""

import numpy as np
import pytest
import torch
from torch import nn

from visage_mlflow.geometry.directions import Combination, Difference, Materialized, RandomDirection, orthogonal
from visage_mlflow.geometry.perturb import perturbed


class Tiny(nn.Module):
    """A tied head, an empty parameter, a norm, and one that is not contiguous in memory."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.embed = nn.Embedding(60, 40)
        self.head = nn.Linear(40, 60, bias=False)
        self.head.weight = self.embed.weight
        self.norm = nn.LayerNorm(40)
        self.transposed = nn.Parameter(torch.empty(30, 50).t())
        self.every_other = nn.Parameter(torch.empty(20, 8)[:, ::2])
        self.empty = nn.Parameter(torch.empty(0, 4))
        self.scalar = nn.Parameter(torch.tensor(0.0))
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.normal_(generator=generator)
        for name, parameter in list(self.named_parameters()):
            parameter.data = parameter.data.to(dtype)
            assert name != "transposed" or not parameter.is_contiguous()


def snapshot(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def bits(weights):
    return {name: weight.float().contiguous().view(torch.int32) for name, weight in weights.items()}


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(bits(left)[name], bits(right)[name]) for name in left)


def ended(weights, seed, size=0.1):
    generator = torch.Generator().manual_seed(seed)
    return {name: w.float() + size * torch.randn(w.shape, generator=generator) for name, w in weights.items()}


def check(held, base, directions, steps, n_rounded=12):
    """Compare with the sum of all terms, one by one, in 80-bit floats: 2,000 times finer than float64."""
    for name, found in held.items():
        terms = [(1.0, base[name])]
        for direction, step in zip(directions, steps, strict=True):
            terms += [(step * factor, tensor) for factor, tensor in direction.terms(name, base[name])]
        products = [np.longdouble(factor) * tensor.double().numpy().astype(np.longdouble) for factor, tensor in terms]
        exact = sum(products[1:], products[0])
        sizes = sum((np.abs(product) for product in products[1:]), np.abs(products[0]))
        digits = {torch.float32: 24, torch.bfloat16: 8}[found.dtype]
        _, exponent = np.frexp(np.abs(exact).astype(np.float64))
        half_ulp = np.ldexp(1.0, exponent - digits - 1)
        miss = np.abs(found.double().numpy().astype(np.longdouble) - exact)
        assert (miss <= half_ulp * (1 + 1e-6) + n_rounded * 2.0**-53 * sizes).all(), name
        plain = base[name].double()
        for factor, tensor in terms[1:]:
            plain = plain + factor * tensor.double()
        plain = plain.to(found.dtype)
        # The neighbour at most, where the sum has not cancelled.
        kept = torch.tensor(np.abs(exact) > 1e-6 * sizes)
        one_step = torch.tensor(2 * half_ulp)
        assert (((plain.double() - found.double()).abs() <= one_step) | ~kept).all(), name


def planes(base):
    """Pairs of directions that share parts."""
    one, other = Difference(ended(base, 1)), Difference(ended(base, 2))
    random, noise = RandomDirection(seed=0), RandomDirection(seed=1, norm="row")
    small = Difference(ended(base, 3, size=1e-4))
    return {
        "combinations of the same": (
            Combination([(0.5, one), (1.5, other)]),
            Combination([(2.0, one), (-1.0, other)]),
        ),
        "two differences": (one, other),
        "2d-interpolation": (one, orthogonal(base, other, to=one)),
        "2d-random": (random, orthogonal(base, noise, to=random)),
        "2d-interpolation-random": (small, orthogonal(base, random, to=small, length=1.0)),
        "the same direction twice": (random, random),
        "two that are equal": (Difference(one.end_weights), Difference(one.end_weights)),
        "nested": (Combination([(1.0, Combination([(0.3, one)])), (0.2, random)]), Combination([(-0.1, one)])),
        "materialized": (Materialized(random, base), Combination([(0.4, random), (0.1, Materialized(one, base))])),
    }


KINDS = list(planes({"w": torch.ones(2)}))
STEPS = [(0.3, -0.7), (1.0, 1.0), (-0.5, 1.5), (1 / 3, 0.1), (1e-6, -1e-6), (1.0, 0.0), (0.0, 1.0)]


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("kind", KINDS)
def test_directions_that_share_parts_give_the_exact_sum_rounded_once(kind, steps):
    model = Tiny()
    base = snapshot(model)
    directions = planes(base)[kind]
    with perturbed(model, directions, steps):
        held = snapshot(model)
        assert model.head.weight is model.embed.weight
    check(held, base, directions, steps)
    assert same(snapshot(model), base)


@pytest.mark.parametrize("kind", KINDS)
def test_a_bfloat16_model_holds_the_exact_sum_of_the_float32_weights_rounded_once(kind):
    base = snapshot(Tiny())
    model = Tiny(torch.bfloat16)
    before = snapshot(model)
    directions = planes(base)[kind]
    with perturbed(model, directions, (0.3, -0.7), weights=base):
        held = snapshot(model)
    check(held, base, directions, (0.3, -0.7))
    assert same(snapshot(model), before)


def test_directions_that_cancel_leave_the_model_untouched():
    model = Tiny()
    versions = {name: parameter._version for name, parameter in model.named_parameters()}  # Counts writes in place.
    one, random = Difference(ended(snapshot(model), 1)), RandomDirection()
    for directions, steps in (
        ([one, Combination([(-2.0, one)])], (0.6, 0.3)),
        ([random, random], (0.1, -0.1)),
        ([Combination([(1.0, one), (1.0, random)]), one, random], (0.25, -0.25, -0.25)),
    ):
        with perturbed(model, directions, steps):
            assert {name: parameter._version for name, parameter in model.named_parameters()} == versions


def test_equal_differences_of_opposite_sign_give_the_weights_back_exactly():
    model = Tiny()
    base = snapshot(model)
    end = ended(base, 1, size=1e20)  # A weight added to this and taken away again would be lost.
    with perturbed(model, [Difference(end), Difference(end)], (0.3, -0.3)):
        assert same(snapshot(model), base)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_step_1_of_one_of_two_directions_is_the_other_model_bit_for_bit(dtype):
    base = snapshot(Tiny())
    end = ended(base, 1)
    for name in end:
        end[name].mul_(torch.where(torch.arange(end[name].numel()).view(end[name].shape) % 7 == 0, 1e-30, 1.0))
    model = Tiny(dtype)
    before = snapshot(model)
    one = Difference(end)
    second = orthogonal(base, Difference(ended(base, 2)), to=one)
    for directions, steps in (([one, second], (1.0, 0.0)), ([second, one], (0.0, 1.0)), ([one], (1.0,))):
        with perturbed(model, directions, steps, weights=base):
            assert same(snapshot(model), {name: weight.to(dtype) for name, weight in end.items()})
        assert same(snapshot(model), before)


def test_two_steps_of_one_half_are_the_other_model_bit_for_bit():
    model = Tiny()
    end = ended(snapshot(model), 1)
    one = Difference(end)
    with perturbed(model, [one, one], (0.5, 0.5)):
        assert same(snapshot(model), end)
    with perturbed(model, [one, Combination([(1.0, one)])], (1.5, -0.5)):
        assert same(snapshot(model), end)
    tiny = {name: 1e-20 * weight for name, weight in end.items()}  # Lost, if half a weight were ever beside it.
    with perturbed(model, [Difference(tiny), Difference(tiny)], (0.5, 0.5)):
        assert same(snapshot(model), tiny)


def test_a_difference_to_weights_that_are_the_models_own_memory_moves_and_restores():
    # The end is read while the model is written, if both are the same memory.
    model = Tiny()
    base = snapshot(model)
    own = dict(model.named_parameters())
    with perturbed(model, [Difference(own), RandomDirection()], (0.5, 0.0)):
        assert same(snapshot(model), base)
    assert same(snapshot(model), base)


def test_an_empty_model_can_be_perturbed():
    model = nn.Module()
    model.empty = nn.Parameter(torch.empty(0, 3))
    with perturbed(model, [RandomDirection(), Difference({"empty": torch.empty(0, 3)})], (0.1, 0.2)):
        assert model.empty.shape == (0, 3)


def test_restoring_is_exact_when_the_block_fails_on_a_plane():
    model = Tiny()
    base = snapshot(model)
    for directions in planes(base).values():
        with pytest.raises(RuntimeError, match="out of memory"), perturbed(model, directions, (0.3, -0.7)):
            raise RuntimeError("out of memory")
        assert same(snapshot(model), base)
