"""What a projection returns: where finetunings went, on one landscape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from visage_mlflow.results.base import Number, Result
from visage_mlflow.results.landscape import Landscape


@dataclass(frozen=True)
class Place:
    """A checkpoint's nearest point on a line or plane, in steps, and what the plane does not show.

    Attributes:
        distance: From the model at the origin, as a share of the norm of its weights.
        off_plane_distance: From the plane, as a share of the same.
        off_plane_share: The second over the first, 0 to 1.
        asr: Of the checkpoint itself, in percent.
        plane_asr: Of the plane at (x, y): what differs from `asr` is hidden by the projection.
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
        step: Where; the farthest step looked at if it never crosses (`is_open`); 0 if the model itself is outside.
        distance: `step`, as a share of the norm of the model's weights.
        is_open: The edge is at least that far.
        measured: (step, ASR) of each model looked at, increasing.
    """

    step: Number
    distance: Number
    is_open: bool
    measured: tuple[tuple[float, Number], ...]

    @property
    def margin(self) -> float:
        """How much farther a model at step 1 can go before it leaves, in units of the way it went; below 0: it left.

        A lower bound if the edge is open.
        """
        return self.step - 1


@dataclass(frozen=True)
class Course:
    """The checkpoints of one finetuning, in order of training, and the edge along the direction of the last one.

    The margin is `edge.margin`; `edge` is None where none was looked for.
    """

    name: str
    places: tuple[Place, ...]
    edge: Edge | None


@dataclass(frozen=True, eq=False)
class Trajectory(Result):
    """Where finetunings went from one model, on one landscape; and how far the edge is in a random direction.

    `remark` is for the reader of the picture, and empty if there is nothing to say.
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
