"""Settings of lines and planes: how many points, how far, along which axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from visage_mlflow.config.attack import AttackConfig
from visage_mlflow.config.compute import WorkersConfig
from visage_mlflow.config.fields import (
    ALL_CHECKPOINTS,
    LONGEST_AXIS,
    MOST_AXIS_POINTS,
    MOST_GRID_POINTS,
    check_odd,
    setting,
)
from visage_mlflow.text.errors import Mistake

AXES = {
    "1d-random": ("random",),
    "1d-interpolation": ("difference",),
    "2d-random": ("random", "random"),
    "2d-interpolation": ("difference", "difference"),
    "2d-interpolation-random": ("difference", "random"),
    "2d-pca": ("component", "component"),
}
"""What spans each plane, axis by axis."""
PLANES = tuple(AXES)
NORMS = ("layer", "row")


@dataclass(frozen=True, kw_only=True)
class LineConfig(AttackConfig, WorkersConfig):
    """The grid on a line, and how its points are measured."""

    outside_after: int = setting(
        0,
        "Skip the points past this many in a row at an ASR of 100, going outward from the model; 0 skips none.",
        least=0,
        most=1_000_000,
    )
    n_points: int = setting(21, "Grid points per axis. Odd, so that one is the model itself.", most=MOST_AXIS_POINTS)
    extent: float = setting(
        0.5, "How far each way along a random axis, in units of each tensor's norm.", above=0, most=LONGEST_AXIS
    )
    norm: str = setting(
        "layer", f"What a random direction is scaled to: each {' or '.join(NORMS)}'s own norm.", choices=NORMS
    )


@dataclass(frozen=True, kw_only=True)
class PlaneConfig(LineConfig):
    """The grid on a line or plane, between models or along random directions: each axis has its own scale."""

    extra: float = setting(
        0.5,
        "How far past the ends along any other axis, in units of the distance between them.",
        least=0,
        most=LONGEST_AXIS,
    )
    y_n_points: int | None = setting(
        None, "Grid points along the second axis. null: as along the first.", most=MOST_AXIS_POINTS
    )
    y_extent: float | None = setting(
        None, "As `extent`, along the second axis. null: the same.", above=0, most=LONGEST_AXIS
    )
    y_extra: float | None = setting(
        None, "As `extra`, along the second axis. null: the same.", least=0, most=LONGEST_AXIS
    )

    def axis_settings(self) -> tuple[tuple[int, float, float], tuple[int, float, float]]:
        """(n_points, extent, extra) of both axes."""
        first = self.n_points, self.extent, self.extra
        given = self.y_n_points, self.y_extent, self.y_extra
        second = [one if other is None else other for one, other in zip(first, given, strict=True)]
        return first, (int(second[0]), second[1], second[2])

    def count_points(self, plane: str) -> int:
        """Points on the grid of a plane."""
        counts = [n_points for n_points, *_ in self.axis_settings()][: len(AXES[plane])]
        return math.prod(counts)

    def check_axes(self, plane: str) -> None:
        """Raise Mistake for grid settings that the plane cannot use."""
        kinds = AXES[plane]
        if len(kinds) == 1:
            for name in ("y_n_points", "y_extent", "y_extra"):
                if (value := getattr(self, name)) is not None:
                    raise Mistake(f"`{name}` is {value}, but plane={plane} has no second axis. Leave it out.")
        used, unused = ("y_extent", "y_extra") if kinds[-1] == "random" else ("y_extra", "y_extent")
        if (value := getattr(self, unused)) is not None:
            raise Mistake(
                f"`{unused}` is {value}, but the second axis of plane={plane} reaches by `{used}`. Use that."
            )
        names = ("n_points", "n_points" if self.y_n_points is None else "y_n_points")
        for kind, name in zip(kinds, names, strict=False):
            check_points(kind, name, getattr(self, name))
        if (count := self.count_points(plane)) > MOST_GRID_POINTS:
            raise Mistake(
                f"`{names[-1]}` is {getattr(self, names[-1])}, which makes {count} points of plane={plane}, more than "
                f"{MOST_GRID_POINTS}. Try 101."
            )


def check_points(kind: str, name: str, n_points: int) -> None:
    """Raise Mistake for a number of points along an axis of that kind that would skip a model on it."""
    if kind == "random":
        check_odd(name, n_points, 3, "an even grid skips the unperturbed model")
    else:
        check_odd(name, n_points, 5, "both models must be on the line, and something past them")


def check_ends(plane: str, uris: Sequence[str]) -> None:
    """Raise Mistake for a number of other models that cannot span a plane."""
    if any(ALL_CHECKPOINTS.fullmatch(uri) for uri in uris):
        return  # How many there are is known when the run is looked up.
    n_ends = AXES[plane].count("difference")
    least, most = (3, math.inf) if "component" in AXES[plane] else (n_ends, n_ends)
    if least <= len(uris) <= most:
        return
    if most == 0:
        cure = f"Try plane={plane.replace('random', 'interpolation')}."
        raise Mistake(f"`to` is {', '.join(uris)!r}, but plane={plane} has no other end. {cure}")
    wanted = f"{least}{' or more' if most > least else ''} other model{'s' if least > 1 else ''}"
    cure = f"Give {'their URIs, separated by commas' if least > 1 else 'its URI'}."
    found = f"is {', '.join(uris)!r}, {len(uris)} of them" if uris else "is empty"
    raise Mistake(f"`to` {found}, but plane={plane} is spanned by {wanted}. {cure}")
