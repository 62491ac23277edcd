"""Axes of grid points, and planes (or lines) of weights with projection onto them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from visage_mlflow.geometry.directions import PARALLEL_SINE, Combination, Difference, Direction, gram, norm

Floats = NDArray[np.float64]


def axis(extent: float = 0.5, n_points: int = 21) -> Floats:
    """Evenly spaced steps from -extent to extent, exactly symmetric, with exactly 0.0 in the middle.

    Returns:
        Increasing float64 array of shape (n_points,).

    Raises:
        ValueError: `extent` is not a positive finite number, or `n_points` is even or below 3.

    >>> axis(extent=1.0, n_points=5)
    array([-1. , -0.5,  0. ,  0.5,  1. ])
    """
    if not (math.isfinite(extent) and extent > 0):
        raise ValueError(f"`extent` must be a positive finite number of steps, got {extent}. The paper uses 0.5.")
    if n_points < 3 or n_points % 2 == 0:
        raise ValueError(
            f"`n_points` must be odd and at least 3, got {n_points}: an even grid skips the unperturbed model. "
            f"Try {max(3, n_points + 1)}."
        )
    half = n_points // 2
    return extent * (np.arange(-half, half + 1) / half)


def interpolation_axis(n_points: int = 21, extra: float = 0.5) -> Floats:
    """Steps from one model (0) to another (1) and `extra` beyond each, with both models exactly on the axis.

    Evenly spaced, except that the inner points nearest to 0 and to 1 are moved onto them. The ends stay where they
    are.

    Args:
        n_points: At least 4, so that 0 and 1 are inner points; at least 2 if `extra` is 0.
        extra: How far to go beyond each model, as a multiple of their distance.

    Returns:
        Strictly increasing float64 array of shape (n_points,) from -extra to 1 + extra.

    Raises:
        ValueError: `extra` is negative or not finite, or there are too few points.

    >>> interpolation_axis(n_points=5, extra=0.5)
    array([-0.5,  0. ,  0.5,  1. ,  1.5])
    """
    if not (math.isfinite(extra) and extra >= 0):
        raise ValueError(f"`extra` must be zero or a positive finite number, got {extra}. The default is 0.5.")
    fewest = 2 if extra == 0 else 4
    if n_points < fewest:
        raise ValueError(
            f"`n_points` must be at least {fewest} with `extra` {extra}, got {n_points}: both ends and both models "
            f"are points of their own. Try {fewest}."
        )
    steps = np.linspace(-extra, 1 + extra, n_points)
    if extra > 0:
        # Only inner points below 0.5 may become 0, and their mirror images become 1: so these always differ.
        nearest = 1 + int(np.argmin(np.abs(steps[1 : n_points // 2])))
        steps[nearest], steps[n_points - 1 - nearest] = 0.0, 1.0
    return steps


def spanning_axis(
    marks: Sequence[float], n_points: int = 21, extra: float = 0.5, exactly: Sequence[float] = (0.0,)
) -> Floats:
    """Steps over all of 0 and the marks and `extra` beyond them, evenly spaced but for those moved onto others.

    Args:
        marks: What must lie on the axis, in steps; not all of them 0.
        n_points: At least 4.
        extra: How far to go on beyond the outermost of them, as a multiple of their distance.
        exactly: Increasing steps, 0.0 first, onto which inner points are moved; those after 0.0 if there is room.

    Returns:
        Strictly increasing float64 array of shape (n_points,), 0.0 one of its points.

    Raises:
        ValueError: `extra` is negative or not finite, there are too few points, or the marks are no distance apart.

    >>> spanning_axis([0.5, 1.0], n_points=5, extra=0.5)
    array([-0.5,  0. ,  0.5,  1. ,  1.5])
    """
    if not (math.isfinite(extra) and extra >= 0):
        raise ValueError(f"`extra` must be zero or a positive finite number, got {extra}. The default is 0.5.")
    if n_points < 4:
        raise ValueError(f"`n_points` must be at least 4, got {n_points}: the ends, the model and something between.")
    low, high = min([0.0, *marks]), max([0.0, *marks])
    if not (math.isfinite(high - low) and high > low):
        raise ValueError(f"`marks` must be finite and not all 0, got {list(marks)}: they span no axis.")
    steps = np.linspace(low - extra * (high - low), high + extra * (high - low), n_points)
    free = 1  # The ends stay, or a mark might fall off the axis.
    for step in exactly:
        if step not in steps and free < n_points - 1:
            nearest = free + int(np.argmin(np.abs(steps[free : n_points - 1] - step)))
            if steps[nearest - 1] < step < steps[nearest + 1]:
                steps[nearest] = step
                free = nearest + 1
    return steps


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


@dataclass(frozen=True)
class Component:
    """A principal component of displacements."""

    direction: Combination
    explained_variance: float
    """Its share of the squared lengths of all displacements together, 0 to 1."""
    spread: float
    """Root of the sum of the displacements' squared coordinates along it: a Frobenius norm over all weights."""


def components(weights: Mapping[str, Tensor], displacements: Sequence[Direction], count: int = 2) -> list[Component]:
    """Principal components of displacements from `weights`, as long as the longest displacement, largest first.

    They are taken from the origin, not from the mean, so that the plane they span holds the origin; and from the
    matrix of inner products, streamed tensor by tensor (Li et al., 2018, draw trajectories this way). Each points so
    that the last displacement has no negative coordinate along it.

    Args:
        weights: The origin.
        displacements: At least `count`.
        count: How many components.

    Raises:
        ValueError: There are too few displacements, or they span less than `count` dimensions.
    """
    if len(displacements) < count:
        raise ValueError(f"{count} components need at least {count} displacements, got {len(displacements)}.")
    products = gram(weights, displacements)
    variances, vectors = np.linalg.eigh(products)  # Increasing; columns are unit vectors.
    longest = math.sqrt(products.diagonal().max())
    found = []
    for index in range(1, count + 1):
        variance, vector = max(0.0, float(variances[-index])), vectors[:, -index]
        if variance <= PARALLEL_SINE**2 * float(variances[-1]):
            raise ValueError(
                f"The {len(displacements)} displacements span only {index - 1} dimensions, {count} are needed: the "
                f"models are identical or lie on one line. Use models that differ."
            )
        along = float(products[-1] @ vector)
        scale = math.copysign(longest / math.sqrt(variance), along if along != 0 else 1.0)
        parts = [(scale * float(part), each) for part, each in zip(vector, displacements, strict=True)]
        found.append(Component(Combination(parts), variance / float(variances.sum()), math.sqrt(variance)))
    return found
