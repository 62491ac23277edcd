"""What decides a model held somewhere in weight space changes what it is known by, and nothing else does."""

import random

import numpy as np
import pytest
import torch

from visage_mlflow.geometry.directions import (
    Combination,
    Difference,
    Direction,
    Materialized,
    RandomDirection,
    orthogonal,
)
from visage_mlflow.geometry.identity import Weights, definition, digest, displaced
from visage_mlflow.geometry.perturb import perturbed
from visage_mlflow.language.weights import stored_weights


def weights(seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    shapes = {"layer.weight": (6, 4), "layer.bias": (6,), "norm.weight": (6,), "scalar": ()}
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}


class Unknown(Direction):
    """Of a kind that this project does not know."""

    def terms(self, name, weight):
        return [(1.0, torch.ones_like(weight))]


# Digests of weights


def with_one_bit(held, name, at, bit):
    changed = {each: tensor.clone() for each, tensor in held.items()}
    flat = changed[name].reshape(-1).numpy().view(np.uint8)
    flat[at] ^= 1 << bit
    return changed


def test_every_single_bit_of_every_tensor_changes_the_digest():
    held, rng = weights(), random.Random(0)
    found = {digest(held)}
    places = [(name, at) for name, tensor in held.items() for at in range(tensor.nbytes)]
    for name, at in places:
        found.add(digest(with_one_bit(held, name, at, rng.randrange(8))))
    assert len(found) == 1 + len(places) == 1 + 4 * (24 + 6 + 6 + 1)


@pytest.mark.parametrize("n_elements", [2**17 - 1, 2**17, 2**17 + 1, 2**18 + 5])
def test_the_digest_reaches_the_last_element_of_large_tensors(n_elements):
    held = {"large": torch.zeros(n_elements)}
    before = digest(held)
    for at in (0, 2**17 - 2, n_elements - 1):
        changed = held["large"].clone()
        changed[at] = 1
        assert digest({"large": changed}) != before


def test_names_shapes_and_dtypes_change_the_digest():
    held = {"a": torch.zeros(2, 6), "b": torch.zeros(3)}
    others = [
        {"c": held["a"], "b": held["b"]},
        {"a": torch.zeros(6, 2), "b": held["b"]},
        {"a": torch.zeros(12), "b": held["b"]},
        {"a": torch.zeros(2, 6, dtype=torch.int32), "b": held["b"]},
        {"a": torch.zeros(2, 12, dtype=torch.bfloat16), "b": held["b"]},
        {"a": held["a"]},
        {"a": held["a"], "b": torch.zeros(0)},
        {"a": held["a"], "b": held["b"], "c": torch.zeros(0)},
        {"a": held["a"], "b": -held["b"]},
        {},
    ]
    assert len({digest(each) for each in [held, *others]}) == 1 + len(others)


def test_neither_order_nor_memory_nor_views_nor_gradients_change_the_digest():
    held = weights()
    before = digest(held)
    assert digest(dict(reversed(held.items()))) == before
    assert digest({name: tensor.clone() for name, tensor in held.items()}) == before
    assert digest({name: torch.nn.Parameter(tensor) for name, tensor in held.items()}) == before
    strided = {name: torch.stack([tensor, tensor], -1)[..., 0] for name, tensor in held.items()}
    assert not strided["layer.weight"].is_contiguous() and digest(strided) == before
    across = {**held, "layer.weight": held["layer.weight"].T.contiguous().T}
    assert across["layer.weight"].stride() == (1, 6) and digest(across) == before
    assert digest(Weights(held)) == Weights(held).digest == before


def test_weights_on_disk_have_the_digest_of_those_in_memory(aligned_folder, chat, tmp_path):
    kept = stored_weights(str(aligned_folder), tmp_path)
    assert digest(kept) == kept.digest == digest(chat.weights) == digest(dict(chat.weights))


def test_weights_that_know_their_digest_take_it_once(monkeypatch):
    held = Weights(weights())
    before = digest(held)
    monkeypatch.setattr("visage_mlflow.geometry.identity.split", None)
    assert digest(held) == before
    with pytest.raises(TypeError):
        digest(dict(held))


# Where a model is held


def test_the_model_itself_is_one_place_whatever_the_directions():
    held = weights()
    rest = {"weights": digest(held), "moves": []}
    difference, noise = Difference(weights(1)), RandomDirection(seed=3)
    assert displaced(held, [], []) == rest
    for steps in ((0.0, 0.0), (-0.0, 0.0)):
        assert displaced(held, [difference, noise], steps) == rest
        assert displaced(held, [Unknown(), noise], steps) == rest
    assert displaced(held, [Combination([(1.0, noise), (-1.0, noise)])], [0.7]) == rest


def test_a_whole_step_to_another_model_is_that_model():
    held, end = weights(), weights(1)
    there = displaced(end, [], [])
    assert displaced(held, [Difference(end)], [1.0]) == there != displaced(held, [], [])
    assert displaced(held, [Difference(end), RandomDirection()], [1.0, 0.0]) == there
    assert displaced(held, [Combination([(0.5, Difference(end))])], [2.0]) == there
    assert displaced(weights(2), [Difference(Weights(end))], [1]) == there
    # The second direction of a plane holds the first.
    first = Difference(end)
    second = orthogonal(held, Difference(weights(2)), to=first)
    assert displaced(held, [first, second], [1.0, 0.0]) == there


def test_a_whole_step_and_anything_else_is_not_that_model():
    held, end = weights(), weights(1)
    there = displaced(end, [], [])
    for directions, steps in [
        ([Difference(end)], [1.0 + 2**-52]),
        ([Difference(end)], [-1.0]),
        ([Difference(end), RandomDirection()], [1.0, 1e-300]),
        ([Materialized(Difference(end), held)], [1.0]),  # Rounded, so almost there.
        ([RandomDirection()], [1.0]),
    ]:
        assert displaced(held, directions, steps) not in (there, displaced(held, [], []), None)


def test_whatever_decides_where_a_model_is_held_makes_another_place():
    held, end = weights(), weights(1)
    places = [
        (held, [RandomDirection(seed=0)], [0.1]),
        (held, [RandomDirection(seed=0)], [0.1 + 1e-17 + 2**-56]),
        (held, [RandomDirection(seed=0)], [-0.1]),
        (held, [RandomDirection(seed=1)], [0.1]),
        (held, [RandomDirection(seed=0, norm="row")], [0.1]),
        (end, [RandomDirection(seed=0)], [0.1]),
        (held, [RandomDirection(seed=0), RandomDirection(seed=1)], [0.1, 0.1]),
        (held, [RandomDirection(seed=1), RandomDirection(seed=0)], [0.1, 0.2]),
        (held, [Difference(end)], [0.1]),
        (held, [Difference(weights(2))], [0.1]),
        (held, [Materialized(Difference(end), held)], [0.1]),
        (held, [Combination([(2.0, RandomDirection(seed=0))])], [0.1]),
    ]
    found = [str(displaced(*place)) for place in places]
    assert len(set(found)) == len(places)
    assert str(displaced(held, [Combination([(2.0, RandomDirection(seed=0))])], [0.05])) == found[0]


def test_the_line_along_a_planes_first_direction_is_the_line_of_its_own():
    held = weights()
    first = RandomDirection(seed=0)
    second = orthogonal(held, RandomDirection(seed=1), to=first)
    for step in (-0.5, 0.05, 0.35):
        assert displaced(held, [first, second], [step, 0.0]) == displaced(held, [RandomDirection(seed=0)], [step])


def test_a_random_direction_in_memory_is_the_one_that_is_drawn_anew():
    held = weights()
    for norm in ("layer", "row"):
        drawn = RandomDirection(seed=4, norm=norm)
        kept = Materialized(drawn, held)
        assert displaced(held, [kept], [0.3]) == displaced(held, [drawn], [0.3])
        inside = [Combination([(1.0, each), (0.5, RandomDirection(seed=5))]) for each in (kept, drawn)]
        assert len({str(displaced(held, [each], [0.3])) for each in inside}) == 1


def test_a_direction_in_memory_that_was_made_for_other_weights_is_not_the_one_of_these():
    held, others = weights(), weights(1)
    foreign = Materialized(RandomDirection(seed=4), others)
    name, own = "layer.weight", RandomDirection(seed=4)
    assert not torch.equal(foreign.delta(name, held[name]), own.delta(name, held[name]))
    assert displaced(held, [foreign], [0.3]) is None and displaced(held, [foreign], [0.0]) is not None
    assert displaced(others, [foreign], [0.3]) == displaced(others, [own], [0.3])


@pytest.mark.parametrize(
    "direction",
    [
        Unknown(),
        Combination([(1.0, RandomDirection()), (1.0, Unknown())]),
        Combination([(1.0, Combination([(1.0, Unknown())]))]),
        Materialized(Unknown(), weights()),
        Materialized(Combination([(1.0, Unknown())]), weights()),
    ],
)
def test_a_direction_of_an_unknown_kind_leads_to_no_known_place(direction):
    held = weights()
    assert displaced(held, [direction], [0.1]) is None
    assert displaced(held, [RandomDirection(), direction], [0.1, 0.1]) is None
    assert displaced(held, [RandomDirection(), direction], [0.1, 0.0]) is not None


def test_a_kind_made_from_a_known_one_is_unknown_if_it_moves_otherwise():
    class Doubled(RandomDirection):
        def terms(self, name, weight):
            return [(2 * factor, tensor) for factor, tensor in super().terms(name, weight)]

    assert definition(Doubled(seed=3), weights()) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_places_that_are_equal_hold_equal_weights_bit_for_bit(dtype):
    """Many random pairs of ways: where both are known by the same, the slow way finds the same weights."""
    rng = random.Random(1)
    held = weights()
    pool = [RandomDirection(seed=0), RandomDirection(seed=0, norm="row"), Difference(weights(1))]
    pool += [Materialized(each, held) for each in pool]
    pool += [Combination([(rng.choice([0.5, 1.0, -1.0]), a), (rng.choice([0.0, 1.0]), b)]) for a in pool for b in pool]

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            for name, tensor in held.items():
                self.register_parameter(name.replace(".", "_"), torch.nn.Parameter(tensor.to(dtype, copy=True)))

        def named_parameters(self, *args, **kwargs):
            for name in held:
                yield name, getattr(self, name.replace(".", "_"))

    found = {}
    model, n_shared = Model(), 0
    for _ in range(400):
        directions = rng.choices(pool, k=rng.choice([1, 2]))
        steps = [rng.choice([0.0, 0.5, 1.0, -0.5]) for _ in directions]
        with perturbed(model, directions, steps, weights=held):
            there = digest({name: parameter.detach().clone() for name, parameter in model.named_parameters()})
        where = str(displaced(held, directions, steps))
        n_shared += where in found
        assert found.setdefault(where, there) == there, (directions, steps)
    assert n_shared > 50
