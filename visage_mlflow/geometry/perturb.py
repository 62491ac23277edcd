"""Hold a model at base + sum(step * direction), and put it back bit for bit."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from visage_mlflow.geometry.blocks import LARGE_BLOCK, Term, blocks, merged, whole
from visage_mlflow.geometry.directions import Direction, primitives
from visage_mlflow.geometry.parts import known_parts, parts_of

PROBE = 64
"""How many leading values of each tensor are compared to check that a model holds its stored weights, rounded."""


@contextmanager
def perturbed(
    model: nn.Module,
    directions: Sequence[Direction],
    steps: Sequence[float],
    weights: Mapping[str, Tensor] | None = None,
) -> Iterator[None]:
    """Hold `model` at base + sum(step * direction) inside the block, and put it back after it.

    Every value is computed in float64 and rounded once to the parameter's dtype, so a step of 1 along a `Difference`
    gives the end weights exactly. Restoring is exact, also after an exception or an interrupt. Parameters that no
    direction moves, that are not floating point, or that do not count (`parts_of`) are never written. Tied weights
    move once. Blocks nest if `weights` is left out: the inner one then starts from the perturbed values.

    Args:
        model: Changed in place, on whatever device and in whatever dtype it is.
        directions: What to move along.
        steps: One finite number for each direction. Zeros cost nothing.
        weights: The stored base, if the model is a rounded copy of it (float32 weights of a bfloat16 model): values
            are computed from it, and restoring is rounding it again. Without it, each parameter that moves is
            cloned for the time of the block.

    Raises:
        ValueError: Directions and steps differ in number; a step is not finite; a parameter has no values in memory
            (offloaded); `weights` lacks a parameter, has it in another shape, or is not what the model holds.
    """
    if len(directions) != len(steps):
        raise ValueError(f"`steps` must give one number per direction, got {len(steps)} for {len(directions)}.")
    if not all(map(math.isfinite, steps)):
        raise ValueError(f"`steps` must be finite numbers, got {list(steps)}.")
    moves = primitives([(float(step), direction) for step, direction in zip(steps, directions, strict=True)])
    own = parts_of(model)
    # The directions and their lengths were told from `weights`, so these decide, be it by their names.
    parts = own if weights is None else known_parts(weights)
    moves = [(step, direction.among(parts)) for step, direction in moves]
    # Detached views, unlike `.data`, show autograd the writes, so that a backward pass across them fails.
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters() if name in own}
    absent = [name for name, parameter in parameters.items() if parameter.is_meta]
    if absent:
        raise ValueError(f"Parameter `{absent[0]}` is offloaded (meta device) and cannot be moved. Load it in memory.")
    bases = {} if weights is None else _stored_bases(parameters, weights)
    written: dict[str, Tensor] = {}
    try:
        for name, parameter in parameters.items() if moves else ():
            base = bases[name] if name in bases else parameter.clone()
            terms = [(step * factor, part) for step, move in moves for factor, part in move.terms(name, base)]
            if terms and parameter.is_floating_point():
                written[name] = base
                _write_sum(parameter, merged([(1.0, base), *terms]))
        yield
    finally:
        for name, base in written.items():
            parameters[name].copy_(base)


def _stored_bases(parameters: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The stored tensor of each parameter, without those that share its memory: these would move with it."""
    bases = {}
    for name, parameter in parameters.items():
        if name not in weights:
            raise ValueError(f"`weights` lacks the parameter `{name}`. Pass the weights that the model was made from.")
        base = weights[name].detach()
        if base.shape != parameter.shape:
            raise ValueError(
                f"`weights` has `{name}` with shape {tuple(base.shape)}, the model with {tuple(parameter.shape)}. "
                "Pass the weights that the model was made from."
            )
        probe = base.flatten()[:PROBE].to(parameter.device, parameter.dtype)
        if not torch.equal(probe.nan_to_num(), parameter.flatten()[:PROBE].nan_to_num()):
            raise ValueError(
                f"The model's `{name}` is not `weights` rounded to {parameter.dtype}: it holds other weights, or is "
                "perturbed already. Pass the weights that the model was made from."
            )
        if base.untyped_storage().data_ptr() != parameter.untyped_storage().data_ptr():
            bases[name] = base
    return bases


def _write_sum(parameter: Tensor, terms: Sequence[Term]) -> None:
    """Write sum(coefficient * tensor), added in order in float64, into `parameter`."""
    if not parameter.is_contiguous():
        parameter.copy_(whole(parameter, terms))
        return
    for block, (total,) in blocks(parameter, [terms], LARGE_BLOCK):
        parameter.view(-1)[block] = total
