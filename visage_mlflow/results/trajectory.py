"""What a projection returns: where the checkpoints of finetunings lie on one landscape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from visage_mlflow.results.base import Number, Result
from visage_mlflow.results.landscape import Landscape


@dataclass(frozen=True)
class Place:
    """A checkpoint's nearest point on a line or plane, in steps, and what the plane does not show.

    Attributes:
        distance: Distance from the model at the origin, as a share of the norm of that model's weights.
        off_plane_distance: Distance from the plane, as a share of the same norm.
        off_plane_share: `off_plane_distance` / `distance`, 0 to 1.
        asr: ASR of the checkpoint itself, in percent.
        plane_asr: ASR of the plane's nearest point, in percent. If it differs from `asr`, the projection hides why.
    """

    uri: str
    training_step: int
    x: Number
    y: Number
    distance: Number
    off_plane_distance: Number
    off_plane_share: Number
    asr: Number
    asr_low: Number
    asr_high: Number
    plane_asr: Number
    plane_asr_low: Number
    plane_asr_high: Number


@dataclass(frozen=True)
class Edge:
    """Where the ASR along one direction first crosses 50 %, found by bisection.

    Attributes:
        step: Where the ASR crosses 50 %; the farthest measured step if it never does; 0 if it is at least 50 % at 0.
        distance: The length of `step`, as a share of the norm of the model's weights.
        is_open: Whether the ASR never crosses 50 %, so that the edge lies beyond `step`.
        measured: (step, ASR) of each measured model, in increasing order of steps.
    """

    step: Number
    distance: Number
    is_open: bool
    measured: tuple[tuple[float, Number], ...]

    @property
    def margin(self) -> float:
        """How far a model at step 1 can go on before it leaves the basin, as a share of its distance; negative if it
        has left. A lower bound if the edge is open."""
        return self.step - 1


@dataclass(frozen=True)
class Course:
    """The checkpoints of one finetuning, in order of training, and the edge in the direction of the last one.

    `edge` is None if it was not looked for; else the margin is `edge.margin`.
    """

    name: str
    places: tuple[Place, ...]
    edge: Edge | None


@dataclass(frozen=True, eq=False)
class Trajectory(Result):
    """Where finetunings of one model went on one landscape, and where the edge is in a random direction.

    `remark` is printed under the figures; it may be empty.
    """

    kind: ClassVar[str] = "trajectory"
    landscape: Landscape
    courses: tuple[Course, ...]
    random_edge: Edge | None
    remark: str

    @property
    def places(self) -> list[Place]:
        """The checkpoints of all courses."""
        return [place for course in self.courses for place in course.places]
