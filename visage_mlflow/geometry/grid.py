"""Grid points of a line or plane, and which of them lie past the basin's edge."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

Steps = tuple[float, ...]
"""A place: steps along each axis."""


def grid(axes: Sequence[Sequence[float]]) -> list[Steps]:
    """All points of a grid, the first axis running fastest.

    >>> grid([[0, 1], [5, 6]])
    [(0.0, 5.0), (1.0, 5.0), (0.0, 6.0), (1.0, 6.0)]
    """
    return [tuple(map(float, reversed(place))) for place in itertools.product(*reversed(axes))]


def by_distance(axes: Sequence[Sequence[float]], *, far_first: bool = False) -> list[Steps]:
    """All points of a grid, from the origin to its rim or back; each axis is as long as its farthest step.

    >>> by_distance([[-2, 0, 1]])
    [(0.0,), (1.0,), (-2.0,)]
    """
    reach = [max(map(abs, axis)) for axis in axes]

    def distance(place: Steps) -> float:
        return max(abs(step) / far for step, far in zip(place, reach, strict=True))

    return sorted(grid(axes), key=distance, reverse=far_first)


def past_the_edge(axes: Sequence[Sequence[float]], asr: Mapping[Steps, float], outside_after: int) -> set[Steps]:
    """Points behind `outside_after` points in a row at 100, going outward from the origin; never the origin.

    On a plane, the way to a point is the straight line of grid points nearest to the ray through it; what lies past
    the edge itself counts as 100 there. The more is known, the more points lie past the edge.

    Args:
        axes: Increasing steps of each axis; 0 is one of them.
        asr: ASR in percent by point, as far as it is known.
        outside_after: How many points; 0 leaves no point out.
    """
    past: set[Steps] = set()
    if outside_after == 0:
        return past
    origin = [list(axis).index(0) for axis in axes]
    offsets = itertools.product(*(range(-zero, len(axis) - zero) for axis, zero in zip(axes, origin, strict=True)))
    for offset in sorted(offsets, key=lambda each: max(map(abs, each))):  # A way leads through smaller rings only.
        in_a_row = 0
        for inner in _way(offset):
            place = _place(axes, origin, inner)
            in_a_row = in_a_row + 1 if place in past or asr.get(place) == 100 else 0
            if in_a_row == outside_after:
                past.add(_place(axes, origin, offset))
                break
    return past


def _place(axes: Sequence[Sequence[float]], origin: Sequence[int], offset: Sequence[int]) -> Steps:
    return tuple(float(axis[zero + each]) for axis, zero, each in zip(axes, origin, offset, strict=True))


def _way(offset: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Offsets from the origin to `offset`, both left out, nearest to the straight line between them."""
    length = max(map(abs, offset))
    for ring in range(1, length):
        yield tuple(round(each * ring / length) for each in offset)
