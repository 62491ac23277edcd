"""Where the points of a line or plane lie: steps along each axis, the grid they span, and what lies past the edge."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

Steps = tuple[float, ...]
"""A place on a line or plane: steps along each of its axes."""


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

    The steps are evenly spaced, except that the inner points nearest to 0 and to 1 are moved onto them.

    Args:
        n_points: At least 4, so that 0 and 1 are inner points; at least 2 if `extra` is 0.
        extra: How far to go beyond each model, as a multiple of their distance; not negative.

    Returns:
        Strictly increasing float64 array of shape (n_points,) from -extra to 1 + extra.

    >>> interpolation_axis(n_points=5, extra=0.5)
    array([-0.5,  0. ,  0.5,  1. ,  1.5])
    """
    steps = np.linspace(-extra, 1 + extra, n_points)
    if extra > 0:
        # Only inner points below 0.5 may become 0, and their mirror images become 1: so these always differ.
        nearest = 1 + int(np.argmin(np.abs(steps[1 : n_points // 2])))
        steps[nearest], steps[n_points - 1 - nearest] = 0.0, 1.0
    return steps


def spanning_axis(
    marks: Sequence[float], n_points: int = 21, extra: float = 0.5, exactly: Sequence[float] = (0.0,)
) -> Floats:
    """Steps over 0 and all marks, and `extra` beyond them; evenly spaced, except for points moved onto `exactly`.

    Args:
        marks: What must lie on the axis, in steps; finite, not all of them 0.
        n_points: At least 4.
        extra: How far to go beyond the outermost of 0 and the marks, as a multiple of their distance; not negative.
        exactly: Increasing steps, 0.0 first, onto which inner points are moved; those after 0.0 only if points are
            left for them.

    Returns:
        Strictly increasing float64 array of shape (n_points,); 0.0 is one of its points.

    >>> spanning_axis([0.5, 1.0], n_points=5, extra=0.5)
    array([-0.5,  0. ,  0.5,  1. ,  1.5])
    """
    low, high = min([0.0, *marks]), max([0.0, *marks])
    steps = np.linspace(low - extra * (high - low), high + extra * (high - low), n_points)
    free = 1  # The ends stay, or a mark might fall off the axis.
    for step in exactly:
        if step not in steps and free < n_points - 1:
            nearest = free + int(np.argmin(np.abs(steps[free : n_points - 1] - step)))
            if steps[nearest - 1] < step < steps[nearest + 1]:
                steps[nearest] = step
                free = nearest + 1
    return steps


def grid(axes: Sequence[Sequence[float]]) -> list[Steps]:
    """All points of a grid; steps along the first axis change fastest.

    >>> grid([[0, 1], [5, 6]])
    [(0.0, 5.0), (1.0, 5.0), (0.0, 6.0), (1.0, 6.0)]
    """
    return [tuple(map(float, reversed(place))) for place in itertools.product(*reversed(axes))]


def by_distance(axes: Sequence[Sequence[float]], *, far_first: bool = False) -> list[Steps]:
    """All points of a grid in order of their distance from the origin, where each axis' farthest step counts as 1.

    >>> by_distance([[-2, 0, 1]])
    [(0.0,), (1.0,), (-2.0,)]
    """
    reach = [max(map(abs, axis)) for axis in axes]

    def distance(place: Steps) -> float:
        return max(abs(step) / far for step, far in zip(place, reach, strict=True))

    return sorted(grid(axes), key=distance, reverse=far_first)


def past_the_edge(axes: Sequence[Sequence[float]], asr: Mapping[Steps, float], outside_after: int) -> set[Steps]:
    """Points that lie behind `outside_after` points in a row with an ASR of 100, seen from the origin.

    On a plane, the way to a point is the straight line of grid points nearest to the ray through it; a point that
    lies past the edge itself counts as 100 there. The more is known, the more points lie past the edge.

    Args:
        axes: Increasing steps of each axis; 0 is one of them.
        asr: ASR in percent by point, as far as it is known.
        outside_after: How many points in a row; with 0 no point lies past the edge.
    """
    past: set[Steps] = set()
    if outside_after == 0:
        return past
    origin = [list(axis).index(0) for axis in axes]

    def place(offset: Iterable[int]) -> Steps:
        return tuple(float(axis[zero + each]) for axis, zero, each in zip(axes, origin, offset, strict=True))

    offsets = itertools.product(*(range(-zero, len(axis) - zero) for axis, zero in zip(axes, origin, strict=True)))
    # From the origin outward: the way to a point leads only through points that were looked at before.
    for offset in sorted(offsets, key=lambda each: max(map(abs, each))):
        in_a_row, length = 0, max(map(abs, offset))
        for ring in range(1, length):
            inner = place(round(each * ring / length) for each in offset)
            in_a_row = in_a_row + 1 if inner in past or asr.get(inner) == 100 else 0
            if in_a_row == outside_after:
                past.add(place(offset))
                break
    return past
