import math

import pytest
import torch
from torch import nn

from visage_mlflow.geometry.blocks import BLOCK
from visage_mlflow.geometry.directions import Combination, Difference, Materialized, RandomDirection
from visage_mlflow.geometry.perturb import perturbed


class Tiny(nn.Module):
    """A tied head, a norm, a frozen whole-number parameter, and a tensor that spans several blocks."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.embed = nn.Embedding(6, 4)
        self.layer = nn.Linear(4, BLOCK // 2 + 3)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 6, bias=False)
        self.codes = nn.Parameter(torch.arange(3), requires_grad=False)
        with torch.no_grad():
            for parameter in self.parameters():
                if parameter.is_floating_point():
                    parameter.normal_(generator=generator)
        self.head.weight = self.embed.weight
        self.to(dtype)


def snapshot(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def same(model, weights):
    return all(torch.equal(parameter, weights[name]) for name, parameter in model.named_parameters())


def moved_away(weights, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: weight.float() + torch.randn(weight.shape, generator=generator) if weight.is_floating_point() else weight
        for name, weight in weights.items()
    }


@pytest.fixture
def model():
    return Tiny()


def test_the_model_holds_base_plus_steps_times_directions(model):
    before = snapshot(model)
    a, b = RandomDirection(seed=0), RandomDirection(seed=1, norm="row")
    with perturbed(model, [a, b], steps=[0.1, -0.2]):
        for name, parameter in model.named_parameters():
            base = before[name]
            expected = base.double() + 0.1 * a.displacement(name, base) - 0.2 * b.displacement(name, base)
            # The products of step and scale are rounded in another order, which float32 hardly sees.
            torch.testing.assert_close(parameter, expected.to(base.dtype), rtol=1e-6, atol=0)
    assert same(model, before)


def test_weights_return_bit_for_bit_after_an_error(model):
    before = snapshot(model)
    with pytest.raises(RuntimeError, match="out of memory"), perturbed(model, [RandomDirection(seed=0)], steps=[0.3]):
        assert not torch.equal(model.layer.weight, before["layer.weight"])
        raise RuntimeError("out of memory")
    assert same(model, before)


def test_weights_return_bit_for_bit_when_a_direction_fails_half_way(model):
    before = snapshot(model)
    end = {"embed.weight": torch.zeros(6, 4)}
    with pytest.raises(ValueError, match="layer"), perturbed(model, [Difference(end)], steps=[1.0]):
        pytest.fail("the block must not run")
    assert same(model, before)


def test_weights_return_bit_for_bit_after_an_interrupt(model):
    before = snapshot(model)
    with pytest.raises(KeyboardInterrupt), perturbed(model, [RandomDirection()], steps=[0.3]):
        raise KeyboardInterrupt
    assert same(model, before)


def test_many_points_there_and_back_leave_bfloat16_weights_bit_for_bit():
    model = Tiny(torch.bfloat16)
    before = snapshot(model)
    for step in (0.1, 0.2, -0.3, 50.0):
        with perturbed(model, [RandomDirection(seed=0)], steps=[step]):
            pass
    assert same(model, before)


def test_nan_and_negative_zero_return_with_the_same_bits():
    model = nn.Module()
    bits = torch.tensor([0x7FC1, 0x8000, 0x3F80], dtype=torch.int32).to(torch.int16)  # An odd NaN, -0.0, 1.0.
    model.weight = nn.Parameter(bits.view(torch.bfloat16).clone())
    with perturbed(model, [Difference({"weight": torch.ones(3)})], steps=[0.5]):
        assert not torch.equal(model.weight.detach().view(torch.int16), bits)
    assert torch.equal(model.weight.detach().view(torch.int16), bits)


def test_what_does_not_move_is_never_written(model):
    versions = {name: p._version for name, p in model.named_parameters()}  # Counts writes in place.
    pointers = {name: p.data_ptr() for name, p in model.named_parameters()}
    with perturbed(model, [RandomDirection(seed=0)], steps=[0.3]):
        assert torch.equal(model.codes, torch.arange(3))
    assert {name: p.data_ptr() for name, p in model.named_parameters()} == pointers
    written = {name for name, p in model.named_parameters() if p._version != versions[name]}
    assert written == {"embed.weight", "layer.weight", "layer.bias"}


def test_tied_weights_move_once(model):
    before = model.embed.weight.detach().clone()
    delta = RandomDirection(seed=0).displacement("embed.weight", before)
    with perturbed(model, [RandomDirection(seed=0)], steps=[0.5]):
        assert model.head.weight is model.embed.weight
        assert torch.equal(model.head.weight, (before.double() + 0.5 * delta).float())
    assert torch.equal(model.head.weight, before)


def test_a_step_of_one_along_a_difference_is_the_end_exactly(model):
    end = moved_away(snapshot(model))
    end["layer.weight"][0] = 1e-30  # The sum end - weight, even in float64, would lose it.
    with perturbed(model, [RandomDirection(), Difference(end)], steps=[0.0, 1.0]):
        assert same(model, end)
    with perturbed(model, [Combination([(2.0, Difference(end))])], steps=[0.5]):
        assert same(model, end)


def test_tensors_that_end_where_they_start_stay_exactly_at_every_step(model):
    before = snapshot(model)
    for step in (0.1, -0.3, 1.7):
        with perturbed(model, [Difference(before)], steps=[step]):
            assert same(model, before)


def test_a_rounded_model_is_computed_from_the_stored_base():
    base = snapshot(Tiny())
    model = Tiny(torch.bfloat16)
    direction = RandomDirection(seed=2)
    with perturbed(model, [direction], steps=[0.01], weights=base):
        for name, parameter in model.named_parameters():
            value = base[name].double() + 0.01 * direction.displacement(name, base[name])
            assert torch.equal(parameter, value.to(parameter.dtype))
    assert same(model, {name: weight.to(dict(model.named_parameters())[name].dtype) for name, weight in base.items()})


def test_a_rounded_model_reaches_the_rounded_end():
    base = snapshot(Tiny())
    end = moved_away(base)
    model = Tiny(torch.bfloat16)
    with perturbed(model, [Difference(end)], steps=[1.0], weights=base):
        for name, parameter in model.named_parameters():
            assert torch.equal(parameter, end[name].to(parameter.dtype))


def test_a_stored_base_that_is_the_model_itself_is_still_restored(model):
    before = snapshot(model)
    with perturbed(model, [RandomDirection()], steps=[0.5], weights=model.state_dict()):
        assert not same(model, before)
    assert same(model, before)


def test_a_materialized_direction_gives_the_same_bits(model):
    before = snapshot(model)
    with perturbed(model, [RandomDirection(seed=4)], steps=[0.2]):
        held = snapshot(model)
    with perturbed(model, [Materialized(RandomDirection(seed=4), before)], steps=[0.2]):
        assert same(model, held)


def test_the_number_of_threads_does_not_change_a_bit(model):
    threads = torch.get_num_threads()
    try:
        held = []
        for torch_threads in (1, 2):
            torch.set_num_threads(torch_threads)
            with perturbed(model, [RandomDirection(seed=0)], steps=[0.123]):
                held.append(snapshot(model))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(held[0][name], held[1][name]) for name in held[0])


def test_blocks_nest(model):
    before = snapshot(model)
    end = moved_away(before)
    with perturbed(model, [Difference(end)], steps=[1.0]):
        with perturbed(model, [RandomDirection()], steps=[0.5]):
            assert not same(model, end)
        assert same(model, end)
    assert same(model, before)


def test_a_transposed_parameter_moves_and_returns():
    model = nn.Module()
    model.weight = nn.Parameter(torch.arange(6.0).view(2, 3).t())
    end = {"weight": torch.ones(3, 2)}
    with perturbed(model, [Difference(end)], steps=[1.0]):
        assert torch.equal(model.weight, torch.ones(3, 2))
    assert torch.equal(model.weight, torch.arange(6.0).view(2, 3).t())


def test_gradients_work_inside_and_after(model):
    with perturbed(model, [RandomDirection()], steps=[0.1]):
        assert torch.is_grad_enabled()
        model.embed.weight.sum().backward()
    assert torch.equal(model.embed.weight.grad, torch.ones(6, 4))


def test_no_directions_change_nothing(model):
    before = snapshot(model)
    with perturbed(model, [], steps=[]):
        assert same(model, before)


@pytest.mark.parametrize(
    ("steps", "message"), [([0.1, 0.2], "one number per direction, got 2 for 1"), ([math.nan], "finite")]
)
def test_bad_steps_are_refused_before_anything_moves(model, steps, message):
    with pytest.raises(ValueError, match=message), perturbed(model, [RandomDirection()], steps=steps):
        pytest.fail("the block must not run")


def test_an_offloaded_parameter_is_refused():
    with pytest.raises(ValueError, match="`weight` is offloaded"):
        with perturbed(nn.Linear(2, 2, device="meta"), [RandomDirection()], steps=[0.1]):
            pytest.fail("the block must not run")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer.bias": None}, "lacks the parameter `layer.bias`"),
        ({"layer.bias": torch.zeros(2)}, "`layer.bias` with shape"),
        ({"layer.bias": torch.zeros(BLOCK // 2 + 3)}, "`layer.bias` is not `weights` rounded"),
    ],
)
def test_a_stored_base_of_another_model_is_refused(model, change, message):
    weights = {name: weight for name, weight in (snapshot(model) | change).items() if weight is not None}
    before = snapshot(model)
    with pytest.raises(ValueError, match=message), perturbed(model, [RandomDirection()], [0.1], weights=weights):
        pytest.fail("the block must not run")
    assert same(model, before)
