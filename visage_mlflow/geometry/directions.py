"""Displacements of every weight of a model: random, towards other weights, and linear combinations.

Weights are any ``Mapping[str, Tensor]`` named as ``model.named_parameters()`` names them, so that a tied tensor
appears once. A direction yields one tensor at a time; only `Materialized` ever holds a whole displacement.
"""

from __future__ import annotations

import copy
import hashlib
import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from visage_mlflow.geometry import blocks
from visage_mlflow.geometry.blocks import Term, whole
from visage_mlflow.geometry.parts import Part, Parts, known_parts, part_of

PARALLEL_SINE = 1e-6
"""Directions at an angle with a sine up to this count as parallel: float32 rounding alone makes one of 6e-8."""


class Direction(ABC):
    """A displacement of every weight, yielded tensor by tensor. Tensors that are not floating point never move."""

    @abstractmethod
    def terms(self, name: str, weight: Tensor) -> list[Term]:
        """The displacement at step 1 of the tensor called `name`, as coefficients × tensors of the shape of `weight`.

        They are added in order, in float64; there are none if the tensor does not move.
        """

    def among(self, parts: Parts | None) -> Direction:
        """The same direction among parameters of which it is known what they are, or None: by their names."""
        return self

    def displacement(self, name: str, weight: Tensor) -> Tensor:
        """The sum of the `terms`: float64, of the shape of `weight`."""
        return whole(weight, self.terms(name, weight))

    def delta(self, name: str, weight: Tensor) -> Tensor:
        """The `displacement`, rounded to float32."""
        return self.displacement(name, weight).float()


def seed_of(seed: int, number: int) -> int:
    """Seed of the direction of that number in a run with that seed: number 0 has the run's own seed; the others' are
    hashes of both, so that runs with neighbouring seeds share no direction.

    >>> seed_of(7, 0)
    7
    """
    if number == 0:
        return seed
    digest = hashlib.sha256(f"direction {number} of {seed}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


class RandomDirection(Direction):
    """A Gaussian direction with each tensor (or row) as long as the weights it moves (Peng et al., 2024).

    A pure function of seed and tensor name: nothing drawn before or after changes it. Parameters of normalization
    layers do not move. Experts that are stacked in one tensor are scaled each by itself, as if they were tensors.

    Args:
        seed: Which direction.
        norm: How long the noise is. "layer" gives each tensor's noise the Frobenius norm of that tensor; "row" gives
            each output row, in tensors of two or more dimensions, the norm of that row.
        parts: What each parameter is. By default the weights that the direction is used with tell it (`among`), and
            where they do not, the names do: as in the paper's code, but for more families of models.

    Raises:
        ValueError: `norm` is unknown; or, when used, a tensor holds NaN or infinity.
    """

    def __init__(self, seed: int = 0, norm: str = "layer", parts: Parts | None = None) -> None:
        if norm not in ("layer", "row"):
            raise ValueError(f"`norm` must be 'layer' or 'row', got {norm!r}.")
        self.seed = seed
        self.norm = norm
        self.parts = parts

    def among(self, parts: Parts | None) -> Direction:
        if parts is None or self.parts is not None:
            return self
        known = copy.copy(self)
        known.parts = parts
        return known

    def terms(self, name: str, weight: Tensor) -> list[Term]:
        part = part_of(self.parts, name, weight)
        if part.is_norm or not weight.is_floating_point():
            return []
        noise = _gaussian(f"{self.seed}:{name}", weight.shape).to(weight.device)
        length, noise_length = (self._lengths(part, tensor) for tensor in (weight.detach(), noise))
        if not torch.isfinite(length).all():
            raise ValueError(f"Tensor `{name}` holds NaN or infinity, so it has no norm to scale a direction to.")
        # The quotient is rounded to float32, so that a last bit of the norms, which depends on the number of
        # threads that summed them, cannot reach the noise.
        scale = torch.where(noise_length > 0, length / noise_length, 0.0).float()
        if scale.numel() == 1:
            return [(float(scale), noise)]
        return [(1.0, part.split(noise.float()).mul_(scale).reshape(weight.shape))]

    def _lengths(self, part: Part, tensor: Tensor) -> Tensor:
        """Norms of what is scaled by itself, float64, of a shape that stretches to that of `part.split(tensor)`."""
        experts = part.split(tensor)
        if self.norm == "layer" or experts.ndim < 3:
            each = torch.stack([blocks.length(expert) for expert in experts])
            return each.view(-1, *[1] * (experts.ndim - 1))
        dims = tuple(dim for dim in range(1, experts.ndim) if dim != 1 + part.output)
        norms: Tensor = torch.linalg.vector_norm(experts, dim=dims, keepdim=True, dtype=torch.float64)
        return norms


def _gaussian(key: str, shape: torch.Size) -> Tensor:
    """Standard Gaussian noise rounded to float16, the same for the same key and shape, whatever was drawn before.

    float16 keeps 11 bits of each number, which no use of a random direction can tell from 24, and takes half the
    memory in a direction that is kept.
    """
    digest = hashlib.sha256(key.encode()).digest()
    generator = torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    noise = torch.empty(shape, dtype=torch.float16)
    for block in blocks.split(noise):
        block.copy_(torch.randn(block.shape, generator=generator, dtype=torch.float32))
    return noise


class Difference(Direction):
    """From the weights to `end_weights`, not normalized: step 0 is the weights, step 1 is `end_weights` exactly.

    Raises ValueError, when used, if `end_weights` lacks the tensor or has another shape.
    """

    def __init__(self, end_weights: Mapping[str, Tensor]) -> None:
        self.end_weights = end_weights

    def terms(self, name: str, weight: Tensor) -> list[Term]:
        if not weight.is_floating_point():
            return []
        end = self.end_weights.get(name)
        if end is None or end.shape != weight.shape or not end.is_floating_point():
            found = "missing" if end is None else f"{tuple(end.shape)}, {end.dtype}"
            raise ValueError(
                f"Tensor `{name}` has shape {tuple(weight.shape)} in the start weights; in the end weights it is: "
                f"{found}. Use two models of the same architecture, neither of them quantized."
            )
        # In this order step 1 first takes the weight away, which leaves an exact zero, and then adds the end.
        # Adding end - weight would lose the low bits of an end far smaller than its weight.
        return [(-1.0, weight.detach()), (1.0, end.detach())]

    def check(self, weights: Mapping[str, Tensor]) -> None:
        """Compare every tensor up front, so that a long run does not fail half way.

        Raises ValueError if tensors are missing, extra, of another shape, or hold NaN or infinity on either side.
        """
        end = self.end_weights
        both = [name for name in weights if name in end]
        shapes = {name: (tuple(weights[name].shape), tuple(end[name].shape)) for name in both}
        problems = {
            "missing from the end weights": [name for name in weights if name not in end],
            "only in the end weights": [name for name in end if name not in weights],
            "of another shape": [f"{name} {a} -> {b}" for name, (a, b) in shapes.items() if a != b],
            "with NaN or infinity in the start weights": [n for n in both if not torch.isfinite(weights[n]).all()],
            "with NaN or infinity in the end weights": [n for n in both if not torch.isfinite(end[n]).all()],
        }
        found = [f"{len(names)} {what} ({', '.join(names[:5])})" for what, names in problems.items() if names]
        if found:
            cure = "Both sides must be sound checkpoints of the same architecture."
            raise ValueError(f"No direction between these weights. Tensors: {'; '.join(found)}. {cure}")


class Combination(Direction):
    """A linear combination of directions, such as ``Combination([(2.0, a), (-0.5, b)])``; coefficients are finite."""

    def __init__(self, parts: Sequence[tuple[float, Direction]]) -> None:
        self.parts = [(float(coefficient), direction) for coefficient, direction in parts]
        coefficients = [coefficient for coefficient, _ in self.parts]
        if not coefficients or not all(map(math.isfinite, coefficients)):
            raise ValueError(f"`parts` must be directions with finite coefficients, got coefficients {coefficients}.")

    def terms(self, name: str, weight: Tensor) -> list[Term]:
        return [
            (coefficient * factor, tensor)
            for coefficient, direction in self.parts
            if coefficient != 0
            for factor, tensor in direction.terms(name, weight)
        ]

    def among(self, parts: Parts | None) -> Combination:
        return Combination([(coefficient, direction.among(parts)) for coefficient, direction in self.parts])


class Materialized(Direction):
    """A direction kept in memory from its first use on, so that it is computed only once.

    A `RandomDirection` takes 2 bytes for each weight that moves (4 with ``norm="row"`` and for stacked experts), which
    is 0.27 GB for 135M parameters and 14 GB for 7B, and stays the same to the last bit. Other directions take 4 bytes
    and are rounded to float32, so that a step of 1 along a materialized `Difference` reaches its end only to about
    1e-7.
    """

    def __init__(self, direction: Direction, weights: Mapping[str, Tensor]) -> None:
        self.direction, self.weights = direction, weights
        self._kept: dict[str, tuple[torch.Size, list[Term]]] | None = None
        self._lock = threading.Lock()  # Several threads may use it at once.

    def terms(self, name: str, weight: Tensor) -> list[Term]:
        with self._lock:
            if self._kept is None:
                drawn = self.direction.among(known_parts(self.weights))
                self._kept = {each: _keep(drawn, each, held) for each, held in self.weights.items()}
        shape, terms = self._kept.get(name, (None, []))
        if shape != weight.shape:
            raise ValueError(
                f"Tensor `{name}` of shape {tuple(weight.shape)} was not among the weights that this direction was "
                "materialized for. Materialize it for these weights."
            )
        return terms


def _keep(direction: Direction, name: str, weight: Tensor) -> tuple[torch.Size, list[Term]]:
    """What is kept of a direction for one tensor, and the tensor's shape."""
    terms = direction.terms(name, weight)
    if len(terms) > 1 or any(tensor.data_ptr() == weight.data_ptr() for _, tensor in terms):
        terms = [(1.0, whole(weight, terms).float())]
    # All zeros take no memory.
    return weight.shape, [(factor, tensor) for factor, tensor in terms if factor != 0 and bool(tensor.any())]


def primitives(parts: Sequence[tuple[float, Direction]]) -> list[tuple[float, Direction]]:
    """The same displacement (but for rounding) without `Combination`: each other direction once, with its coefficient.

    This takes fewer terms: of a plane's two directions, the second is usually a combination that contains the first.
    Directions whose coefficients add up to 0 are left out.
    """
    found: dict[int, tuple[float, Direction]] = {}
    for coefficient, direction in parts:
        inside = primitives(direction.parts) if isinstance(direction, Combination) else [(1.0, direction)]
        for factor, each in inside:
            total, _ = found.get(id(each), (0.0, each))
            found[id(each)] = total + coefficient * factor, each
    return [(coefficient, direction) for coefficient, direction in found.values() if coefficient != 0]


def gram(weights: Mapping[str, Tensor], directions: Sequence[Direction]) -> NDArray[np.float64]:
    """Inner products of n directions over all weights together, of shape (n, n), in one pass over the tensors.

    Raises ValueError if a displacement holds NaN or infinity; the message names the tensor.
    """
    directions = [direction.among(known_parts(weights)) for direction in directions]
    total = np.zeros((len(directions), len(directions)))
    for name, weight in weights.items():
        for _, parts in blocks.blocks(weight, [direction.terms(name, weight) for direction in directions]):
            # Not torch.dot, which wakes up threads for every block: 50 times slower on busy cores.
            total += [[float((left * right).sum()) for right in parts] for left in parts]
        if not np.isfinite(total).all():
            raise ValueError(f"Tensor `{name}` has NaN or infinity in the weights or in a direction.")
    return total


def inner(weights: Mapping[str, Tensor], a: Direction, b: Direction) -> float:
    """Inner product <a, b> over all weights together, accumulated in float64, tensor by tensor."""
    return float(gram(weights, [a] if a is b else [a, b])[0, -1])


def norm(weights: Mapping[str, Tensor], a: Direction) -> float:
    """Frobenius norm of a direction over all weights together."""
    return math.sqrt(inner(weights, a, a))


def orthogonal(
    weights: Mapping[str, Tensor], direction: Direction, to: Direction, length: float | None = None
) -> Combination:
    """The part of `direction` that is orthogonal to `to` over all weights together (Gram-Schmidt).

    It is rescaled to `length`, above 0, or else to the length of `to`.

    Raises:
        ValueError: The two are parallel (the sine of their angle is at most 1e-6), or one has length zero.
    """
    products = gram(weights, [direction, to])
    own_length, to_length = math.sqrt(products[0, 0]), math.sqrt(products[1, 1])
    overlap = float(products[0, 1] / products[1, 1]) if to_length > 0 else 0.0
    rest = Combination([(1.0, direction), (-overlap, to)])
    rest_length = norm(weights, rest)  # Measured, since a difference of squares would lose half the digits.
    if to_length == 0 or rest_length <= PARALLEL_SINE * own_length:
        raise ValueError(
            f"`direction` (length {own_length:.6g}) has no part orthogonal to `to` (length {to_length:.6g}): they are "
            "parallel, or one has length zero. Use two directions that differ."
        )
    scale = (to_length if length is None else length) / rest_length
    return Combination([(scale, direction), (-scale * overlap, to)])
