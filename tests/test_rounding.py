"""What rounding leaves of a displacement: by hand, in closed form, and from all weights instead of a sample."""

import math
from statistics import NormalDist

import pytest
import torch

from visage_mlflow.geometry import rounding
from visage_mlflow.geometry.directions import Difference, RandomDirection
from visage_mlflow.geometry.rounding import alignment, is_taken, realised, realised_at_random

BF16 = torch.bfloat16


def spread(values, n):
    """Weights between 1 and 2, where the numbers of bfloat16 are 1/128 apart, on these; and normal moves from them."""
    generator = torch.Generator().manual_seed(0)
    base = 1 + torch.randint(16, 112, (n,), generator=generator) / 128
    return base, base + values / 128 * torch.randn(n, generator=generator)


def normal_share(s):
    """<round(x), x> / <x, x> for x normal with a spread of s: each boundary at k - 1/2 adds 2 s phi((k - 1/2) / s)."""
    return sum(2 * s * NormalDist().pdf((k - 0.5) / s) for k in range(1, 20)) / s**2


def test_a_move_below_half_the_distance_of_two_numbers_is_lost_and_one_above_it_is_made_too_long():
    weights = {"w": torch.tensor([1.0])}  # The next number of bfloat16 is 1 + 1/128.
    ends = Difference({"w": torch.tensor([1 + 1 / 128])})
    shares = realised(weights, [ends], [(0.25,), (0.625,), (1.0,), (2.0,), (0.0,)], BF16)
    assert shares[:4] == pytest.approx([0.0, 1.6, 1.0, 1.0]) and math.isnan(shares[4])
    assert realised(weights, [ends], [(0.25,)], torch.float32) == [1.0]


def test_the_share_is_of_squared_length_over_all_tensors_and_directions():
    weights = {"a": torch.tensor([1.0, 1.0]), "b": torch.tensor([8.0]), "n": torch.tensor([3])}
    first = Difference({"a": torch.tensor([1.5, 1.0]), "b": torch.tensor([8.0]), "n": torch.tensor([3])})
    second = Difference({"a": torch.tensor([1.0, 1.0]), "b": torch.tensor([8.02]), "n": torch.tensor([3])})
    # Wanted: 0.5 and 0.02, a third of the distance at 8, which is lost.
    expected = 0.25 / (0.25 + 0.02**2)
    assert realised(weights, [first, second], [(1.0, 1.0)], BF16) == pytest.approx([expected], rel=1e-5)


@pytest.mark.parametrize("s", [0.1, 0.3, 0.5, 1.0])
def test_normal_moves_from_the_grid_have_the_share_and_the_alignment_of_their_closed_forms(s):
    base, end = spread(s, 400_000)
    (share,) = realised({"w": base}, [Difference({"w": end})], [(1.0,)], BF16)
    assert share == pytest.approx(normal_share(s), abs=0.01)
    assert alignment({"w": end}, BF16) == pytest.approx(math.exp(-2 * (math.pi * s) ** 2), abs=0.005)


def test_the_threshold_of_alignment_is_where_too_little_is_realised():
    s = math.sqrt(-math.log(rounding.ALIGNED) / 2) / math.pi
    assert not is_taken(normal_share(0.95 * s)) and is_taken(normal_share(1.05 * s))


def test_moves_from_weights_that_lie_anywhere_come_out_right_on_average():
    weights = {"w": 1 + torch.rand(400_000, generator=torch.Generator().manual_seed(0))}
    end = Difference({"w": weights["w"] + 2e-3})
    assert realised(weights, [end], [(0.5,), (1.0,)], BF16) == pytest.approx([1.0, 1.0], abs=0.02)
    assert alignment(weights, BF16) == 0.0


def test_weights_that_the_dtype_holds_have_no_alignment_and_neither_have_those_of_float16():
    weights = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    assert alignment({"w": weights.to(BF16).float()}, BF16) == 0.0
    assert alignment({"w": weights.half().float()}, BF16) == 0.0
    assert alignment({"w": weights}, torch.float32) == 0.0
    assert alignment({}, BF16) == 0.0


def test_a_sample_tells_what_all_weights_tell(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    shapes = {"model.a": (300, 500), "model.b": (500, 300), "model.c": (1000,), "model.norm": (10,)}
    weights = {name: torch.randn(shape, generator=generator).to(BF16).float() for name, shape in shapes.items()}
    end = Difference({name: w + 0.002 * torch.randn(w.shape, generator=generator) for name, w in weights.items()})
    directions, steps = [end, RandomDirection(seed=1)], [(1.0, 0.0), (0.5, 0.002), (0.0, 0.3)]
    everything = realised(weights, directions, steps, BF16), alignment(end.end_weights, BF16)
    monkeypatch.setattr(rounding, "SAMPLE", 60_000)
    sample = realised(weights, directions, steps, BF16), alignment(end.end_weights, BF16)
    assert sample[0] == pytest.approx(everything[0], abs=0.02) and sample[1] == pytest.approx(everything[1], abs=0.01)
    assert sample[0] != everything[0]


def test_noise_of_a_finetunings_length_is_lost_on_the_grid_and_taken_beside_it():
    weights = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    stored = {"w": weights.to(BF16).float()}
    assert realised_at_random(stored, 1e-3, BF16) < 0.6 and is_taken(realised_at_random(stored, 0.05, BF16))
    assert is_taken(realised_at_random({"w": weights}, 1e-3, BF16))
    assert is_taken(realised_at_random(stored, 1e-3, torch.float32))


def test_a_model_with_few_weights_is_not_taken_for_one_on_the_grid_because_of_a_draw():
    """Of 400 weights that lie anywhere, one draw of noise is off by more than the tolerance more often than not."""
    for seed in range(40):
        weights = torch.randn(400, generator=torch.Generator().manual_seed(seed))
        assert is_taken(realised_at_random({f"w{seed}": weights}, 1e-3, BF16))
        assert not is_taken(realised_at_random({f"w{seed}": weights.to(BF16).float()}, 1e-3, BF16))
