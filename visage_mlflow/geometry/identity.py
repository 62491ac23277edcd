"""What identifies a model that is held somewhere in weight space: the contents of its weights, not their names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from visage_mlflow.geometry.blocks import split
from visage_mlflow.geometry.directions import (
    Combination,
    Difference,
    Direction,
    Materialized,
    RandomDirection,
    primitives,
)
from visage_mlflow.geometry.parts import PLAIN, Parts, known_parts, part_of, parts_of


class Weights(dict[str, Tensor]):
    """Weights that are never changed again, so that their digest is computed only once.

    Args:
        tensors: Name and tensor, or a mapping.
        parts: What each of them is to a direction; None leaves that to their names.
    """

    def __init__(
        self, tensors: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]] = (), parts: Parts | None = None
    ) -> None:
        super().__init__(tensors)
        self.parts = parts

    @classmethod
    def of(cls, model: nn.Module) -> Weights:
        """The parameters of a model that count (`parts_of`), detached, and what they are."""
        parts = parts_of(model)
        return cls(((name, each.detach()) for name, each in model.named_parameters() if name in parts), parts)

    @cached_property
    def digest(self) -> str:
        """See `digest`."""
        return digest(dict(self))


def digest(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of all tensors, with their names, dtypes and shapes, in hexadecimal.

    The order of names and the device of the tensors do not matter. A mapping with a `digest` of its own, such as
    `Weights`, is not read again.
    """
    if isinstance(known := getattr(weights, "digest", None), str):
        return known
    whole = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach()
        whole.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        for block in split(tensor):
            whole.update(block.cpu().contiguous().view(torch.uint8).numpy().data)
    return whole.hexdigest()


def displaced(
    weights: Mapping[str, Tensor], directions: Sequence[Direction], steps: Sequence[float]
) -> dict[str, Any] | None:
    """What decides the values of weights + sum(step * direction), as plain JSON; None if a direction is unknown.

    Directions with a step of 0 are left out. A step of exactly 1 to another model, with no other step, gives that
    model's weights exactly, and is identified by these.
    """
    moves = primitives(list(zip(map(float, steps), directions, strict=True)))
    if len(moves) == 1 and moves[0][0] == 1 and type(end := moves[0][1]) is Difference:
        return {"weights": digest(end.end_weights), "moves": []}
    defined = [(factor, definition(direction, weights)) for factor, direction in moves]
    if any(what is None for _, what in defined):
        return None
    return {"weights": digest(weights), "moves": [[factor, what] for factor, what in defined]}


def definition(direction: Direction, weights: Mapping[str, Tensor]) -> list[Any] | None:
    """What decides how a direction moves these weights, as plain JSON; None if its class is not known here.

    A subclass of a known class is not known: it may move the weights in another way.

    >>> definition(RandomDirection(seed=3), {})
    ['random', 3, 'layer']
    """
    if type(direction) is RandomDirection:
        known = known_parts(weights) if direction.parts is None else direction.parts
        return [
            "random",
            direction.seed,
            direction.norm,
            *_described({n: part_of(known, n, w) for n, w in weights.items()}),
        ]
    if type(direction) is Difference:
        return ["difference", digest(direction.end_weights)]
    if type(direction) is Materialized:
        if digest(direction.weights) != digest(weights):
            return None  # It holds the displacement of other weights.
        inside = definition(direction.direction, direction.weights)
        # A materialized random direction keeps every bit; others are rounded to float32.
        return inside if isinstance(direction.direction, RandomDirection) or inside is None else ["rounded", inside]
    if type(direction) is Combination:
        parts = [(factor, definition(each, weights)) for factor, each in direction.parts]
        return None if any(what is None for _, what in parts) else ["sum", [[factor, what] for factor, what in parts]]
    return None


def _described(parts: Parts) -> list[str]:
    """SHA-256, in hexadecimal, of what is more than one tensor with its output rows first; none if nothing is."""
    described = {name: [part.is_norm, part.experts, part.output] for name, part in parts.items() if part != PLAIN}
    return [hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()] if described else []
