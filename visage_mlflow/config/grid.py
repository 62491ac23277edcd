"""Settings of lines and planes: how many points, how far, along which axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from visage_mlflow.config.attack import AttackConfig
from visage_mlflow.config.compute import WorkersConfig
from visage_mlflow.config.fields import (
    ALL_CHECKPOINTS,
    MOST_POINTS,
    at_least,
    check_grid,
    check_line,
    finite_above_zero,
    one_of,
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
    """How the points of a line are measured."""

    outside_after: int = setting(
        0, "Skip the points past this many in a row at an ASR of 100, going outward from the model; 0 skips none."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 0, ("outside_after",))


@dataclass(frozen=True, kw_only=True)
class PlaneConfig(LineConfig):
    """The grid on a line or plane: each axis has its own scale."""

    n_points: int = setting(21, "Grid points per axis. Odd, so that one is the model itself.")
    extent: float = setting(0.5, "How far each way along a random axis, in units of each tensor's norm.")
    extra: float = setting(0.5, "How far past the ends along any other axis, in units of the distance between them.")
    norm: str = setting("layer", f"What a random direction is scaled to: each {' or '.join(NORMS)}'s own norm.")
    y_n_points: int | None = setting(None, "Grid points along the second axis. null: as along the first.")
    y_extent: float | None = setting(None, "As `extent`, along the second axis. null: the same.")
    y_extra: float | None = setting(None, "As `extra`, along the second axis. null: the same.")

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("norm", self.norm, NORMS)
        for name in ("extent", "extra", "y_extent", "y_extra"):  # Of those, too, that the plane does not use.
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise Mistake(f"`{name}` must be a finite number, got {value}. Try 0.5.")

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
        """Raise ValueError for grid settings that the plane cannot use."""
        names = ("n_points", "extent", "extra")
        kinds = AXES[plane]
        for name in names:
            value = getattr(self, f"y_{name}")
            if len(kinds) == 1 and value is not None:
                raise Mistake(f"`y_{name}` is {value}, but plane={plane} has no second axis. Leave it out.")
        used, unused = ("extent", "extra") if kinds[-1] == "random" else ("extra", "extent")
        if (value := getattr(self, f"y_{unused}")) is not None:
            raise Mistake(
                f"`y_{unused}` is {value}, but the second axis of plane={plane} reaches by `y_{used}`. Use that."
            )
        for index, kind in enumerate(kinds):
            given = [index == 1 and getattr(self, f"y_{name}") is not None for name in names]
            n_points, extent, extra = (f"y_{name}" if own else name for name, own in zip(names, given, strict=True))
            values = dict(zip((n_points, extent, extra), self.axis_settings()[index], strict=True))
            if (count := self.count_points(plane)) > MOST_POINTS:
                raise Mistake(
                    f"`{n_points}` is {values[n_points]}, which makes {count} points of plane={plane}, more than "
                    f"{MOST_POINTS}. Try 101."
                )
            if kind == "random":
                check_grid(int(values[n_points]), n_points)
                finite_above_zero(extent, values[extent], 0.5)
            else:
                check_line(int(values[n_points]), values[extra], n_points, extra)


def check_ends(plane: str, uris: Sequence[str]) -> None:
    """Raise ValueError for a number of other models that cannot span a plane."""
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
