"""Planes (or lines) of weights, and projection onto them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from visage_mlflow.geometry.axes import Floats, axis
from visage_mlflow.geometry.directions import PARALLEL_SINE, Combination, Difference, Direction, gram, norm

__all__ = ["Plane", "Projection", "axis"]


@dataclass(frozen=True)
class Projection:
    """Where weights lie on a plane, and how far from it. Distances are Frobenius norms over all weights together."""

    x: float
    """Steps along the plane's first direction."""
    y: float
    """Steps along the second direction; 0.0 on a line."""
    distance: float
    """From the plane's origin to the weights."""
    off_plane_distance: float
    """From the nearest point of the plane to the weights."""
    off_plane_share: float
    """The share `off_plane_distance` / `distance`, 0 to 1; 0.0 for the origin itself."""


class Plane:
    """The weights reached from an origin along one direction (a line) or two.

    Args:
        weights: The origin, as `model.named_parameters()` names its tensors.
        x: First direction.
        y: Second direction, not necessarily orthogonal to the first; None for a line.

    Raises:
        ValueError: A direction has length zero, the two are parallel (the sine of their angle is at most 1e-6), or
            a tensor holds NaN or infinity.
    """

    def __init__(self, weights: Mapping[str, Tensor], x: Direction, y: Direction | None = None) -> None:
        self.weights = weights
        self.directions = [x] if y is None else [x, y]
        products = gram(weights, self.directions)
        self._lengths = np.sqrt(np.diag(products))
        if not (self._lengths > 0).all():
            which = "x" if self._lengths[0] == 0 else "y"
            raise ValueError(f"Direction `{which}` has length zero, so it spans nothing. Use weights that differ.")
        self._cosines: Floats = products / np.outer(self._lengths, self._lengths)
        if y is not None:
            slope = float(products[0, 1] / products[0, 0])
            rest = norm(weights, Combination([(1.0, y), (-slope, x)]))
            if rest <= PARALLEL_SINE * self._lengths[1]:
                raise ValueError("Directions `x` and `y` are parallel and span only a line. Leave out `y`.")

    def project(self, other_weights: Mapping[str, Tensor]) -> Projection:
        """The nearest point of the plane to `other_weights`, by least squares over all weights together.

        Reads every tensor twice, in float64: for the coordinates, and to measure what they leave over. Tensors that
        only `other_weights` has are not looked at.

        Raises:
            ValueError: `other_weights` lacks a tensor, has one of another shape, or one with NaN or infinity.
        """
        difference = Difference(other_weights)
        products = gram(self.weights, [*self.directions, difference])
        distance = math.sqrt(products[-1, -1])
        if distance == 0:
            return Projection(x=0.0, y=0.0, distance=0.0, off_plane_distance=0.0, off_plane_share=0.0)
        along = products[:-1, -1] / self._lengths
        steps = [float(step) for step in np.linalg.solve(self._cosines, along) / self._lengths]
        parts = [(-step, direction) for step, direction in zip(steps, self.directions, strict=True)]
        off_plane = norm(self.weights, Combination([(1.0, difference), *parts]))
        return Projection(
            x=steps[0],
            y=steps[1] if len(steps) == 2 else 0.0,
            distance=distance,
            off_plane_distance=off_plane,
            off_plane_share=min(1.0, off_plane / distance),
        )
