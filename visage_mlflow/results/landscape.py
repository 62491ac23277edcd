"""What measuring a line or plane returns: a landscape, and VISAGE over several of them."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import ClassVar

from visage_mlflow.results.base import Number, Percent, Result
from visage_mlflow.results.evaluation import Setup


@dataclass(frozen=True)
class Point:
    """One point of a line (`y` is 0) or plane: where it is, in steps, its rates in percent, and the verdict on each
    prompt; a point that was skipped has no verdicts."""

    x: float
    y: float
    asr: Percent
    asr_low: Percent
    asr_high: Percent
    coherent_asr: Percent
    n_unjudged: int
    verdicts: tuple[str, ...]
    n_empty: int = 0


@dataclass(frozen=True)
class Edges:
    """The basin along a line: see `geometry.score.basin`."""

    left: Number
    right: Number
    width: Number
    depth: Percent
    sharpness: Number
    open_left: bool
    open_right: bool

    @property
    def in_words(self) -> str:
        """Both edges; "(open)" behind an end of the line up to which the ASR never reaches 50 %."""
        if math.isnan(self.width):
            return "not measured"
        if self.width == 0 and not self.open_left:
            return "no basin"
        return f"{self.left:+.3f}{' (open)' * self.open_left} to {self.right:+.3f}{' (open)' * self.open_right}"


@dataclass(frozen=True)
class Axis:
    """One direction of a line or plane, and the grid's steps along it.

    Attributes:
        kind: "random"; "difference", to another model; or "component", a principal one of several differences.
        relative_norm: Length of a step of 1, as a share of the norm of the model's weights.
        steps: Where the grid's points are, increasing.
        basin: The basin along this axis, on the line through the model.
        seed: For a random direction: its seed.
        norm: For a random direction: what it is scaled to, "layer" or "row".
        to: For a difference: URI of the model that it leads to.
        angle: Its angle to the first axis before it was made orthogonal to that, in degrees.
        explained_variance: For a component: its share of the differences' variance around their mean, 0 to 1.
        share_from_origin: The same of their squared lengths, so around the model itself.
        realised: The share of its steps that rounding to the dtype of the model leaves, where it is farthest from 1.
    """

    kind: str
    relative_norm: Number
    steps: tuple[float, ...]
    basin: Edges
    seed: int | None = None
    norm: str | None = None
    to: str | None = None
    angle: Number | None = None
    explained_variance: Number | None = None
    share_from_origin: Number | None = None
    realised: Number | None = None


@dataclass(frozen=True)
class Mark:
    """Another model that the plane was laid through, and where it lies there, in steps."""

    uri: str
    x: Number
    y: Number


@dataclass(frozen=True, eq=False)
class Landscape(Result):
    """ASR on a line (one axis) or plane (two) through a model; points in order of y, then x."""

    kind: ClassVar[str] = "landscape"
    plane: str
    setup: Setup
    axes: tuple[Axis, ...]
    marks: tuple[Mark, ...]
    points: tuple[Point, ...]
    visage: Percent
    visage_contiguous: Percent
    visage_depth: Percent

    def __post_init__(self) -> None:
        expected = math.prod(len(axis.steps) for axis in self.axes)
        if len(self.points) != expected:
            raise ValueError(f"must have a point for each of the grid's {expected} places, got {len(self.points)}")

    @property
    def axis(self) -> list[float]:
        """Steps along the first axis, in order."""
        return list(self.axes[0].steps)

    @property
    def asr(self) -> list[float]:
        """ASR of the points, in percent; of a plane, row by row."""
        return [point.asr for point in self.points]

    @property
    def rows(self) -> list[list[float]]:
        """ASR by row, in percent: one row for each step along y, one number in it for each step along x."""
        width = len(self.axes[0].steps)
        return [self.asr[first : first + width] for first in range(0, len(self.points), width)]

    @property
    def basin(self) -> Edges:
        """The basin along the first axis, through the model."""
        return self.axes[0].basin

    def metrics(self) -> dict[str, float]:
        """Name -> number, as logged; names for the second axis begin with ``y_``."""
        numbers = {"visage": self.visage, "visage_depth": self.visage_depth}
        if not math.isnan(self.visage_contiguous):  # It is of lines alone.
            numbers["visage_contiguous"] = self.visage_contiguous
        for prefix, axis in zip(("", "y_"), self.axes, strict=False):
            edges = {f"{prefix}basin_{name}": float(value) for name, value in asdict(axis.basin).items()}
            names = ("relative_norm", "angle", "explained_variance", "share_from_origin", "realised")
            given = {name: getattr(axis, name) for name in names}
            numbers |= edges | {prefix + name: value for name, value in given.items() if value is not None}
        return numbers


@dataclass(frozen=True, eq=False)
class Visage(Result):
    """VISAGE over several random directions: the mean of theirs, with an interval, in percent.

    `mean_asr` is the mean over directions at each step, with intervals of its own. Of one direction there is no
    interval, and its ends are NaN.
    """

    kind: ClassVar[str] = "visage"
    landscapes: tuple[Landscape, ...]
    mean_asr: tuple[Percent, ...]
    mean_asr_low: tuple[Percent, ...]
    mean_asr_high: tuple[Percent, ...]
    visage: Percent
    visage_low: Percent
    visage_high: Percent
    visage_contiguous: Percent
    visage_depth: Percent
    visage_depth_low: Percent
    visage_depth_high: Percent

    @property
    def interval(self) -> str:
        """The interval of VISAGE in words."""
        if math.isnan(self.visage_low):
            return "one direction: no interval over directions"
        return f"95 % interval {self.visage_low:.1f} to {self.visage_high:.1f}"

    @property
    def depth_in_words(self) -> str:
        """The mean depth over the points measured, with its interval if there is one."""
        if math.isnan(self.visage_depth_low):
            return f"{self.visage_depth:.1f}"
        return f"{self.visage_depth:.1f} ({self.visage_depth_low:.1f} to {self.visage_depth_high:.1f})"

    def metrics(self) -> dict[str, float]:
        """Name -> number, as logged: overall, and per direction."""
        names = [name for name in self.__dataclass_fields__ if name.startswith("visage")]
        numbers = {name: float(getattr(self, name)) for name in names if not math.isnan(getattr(self, name))}
        for index, landscape in enumerate(self.landscapes):
            numbers |= {f"direction_{index}_{name}": value for name, value in landscape.metrics().items()}
        for side in ("left", "right", "width"):
            values = [float(getattr(landscape.basin, side)) for landscape in self.landscapes]
            numbers[f"basin_{side}"] = sum(values) / len(values)
        for side in ("open_left", "open_right"):  # Directions that are open there; the mean edge is then a least one.
            numbers[f"basin_{side}"] = float(sum(getattr(landscape.basin, side) for landscape in self.landscapes))
        return numbers
