"""What a projection returns: where the checkpoints of finetunings lie on one landscape."""

from __future__ import annotations

import math
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
class Turn:
    """Where the ASR along a direction crosses 50 %: out of the basin, or back in."""

    step: float
    leads_out: bool


@dataclass(frozen=True)
class Edge:
    """Where the ASR along one direction first crosses 50 %, found by bisection.

    Attributes:
        step: Where the ASR crosses 50 %; the farthest measured step if it never does; 0 if it is at least 50 % at 0.
        distance: The length of `step`, as a share of the norm of the model's weights.
        is_open: Whether the ASR never crosses 50 %, so that the edge lies beyond `step`.
        measured: (step, ASR) of each measured model, in increasing order of steps.
        verdicts: For each of these the verdict on each prompt; empty where only its ASR is known.
        low: Where the 95 % interval of `step` begins; NaN if no verdicts are known.
        high: Where it ends; the farthest measured step if `high_is_open`.
        high_is_open: Whether the interval has no end as far as was measured.
        turns: All crossings that were seen. One between two looks that comes back before the next is not.
        falls: Whether the ASR falls on the way out by more than the prompts' noise; see `geometry.crossing.falls`.
        resolution: The widest gap between neighbouring looks: what is narrower may have been passed over.
    """

    step: Number
    distance: Number
    is_open: bool
    measured: tuple[tuple[float, Number], ...]
    verdicts: tuple[tuple[str, ...], ...] = ()
    low: Number = math.nan
    high: Number = math.nan
    high_is_open: bool = False
    turns: tuple[Turn, ...] = ()
    falls: bool = False
    resolution: Number = math.nan

    @property
    def margin(self) -> float:
        """How far the edge (ASR 50 %) is beyond a model at step 1, as a share of its distance; negative if the way to
        the model crosses the edge before it. A lower bound if the edge is open."""
        return self.step - 1

    @property
    def comes_back(self) -> bool:
        """Whether the ASR falls below 50 % again past the edge."""
        return any(not turn.leads_out for turn in self.turns)

    @property
    def margin_in_words(self) -> str:
        """The margin with its interval, in no more digits than that allows."""
        return rounded(self.margin, self.low - 1, self.high - 1, self.is_open, self.high_is_open, sign="+")

    @property
    def distance_in_words(self) -> str:
        """The edge's distance with its interval, in percent of the norm of the model's weights."""
        scale = 100 * self.distance / self.step if self.step else 0.0
        at = (100 * self.distance, scale * self.low, scale * self.high)
        return f"{rounded(*at, self.is_open, self.high_is_open)} % of the norm"

    @property
    def remark(self) -> str:
        """What makes one number too little: empty, or a sentence."""
        said = []
        if self.falls:
            said.append("The ASR falls again on the way, by more than the prompts' noise")
        if self.comes_back:
            crossings = ", ".join(f"{turn.step:.2f} ({'out' if turn.leads_out else 'in'})" for turn in self.turns)
            said.append(f"{'it' if said else 'The ASR'} crosses 50 % at {crossings} of the way")
        return f"{'; '.join(said)}." if said else ""


@dataclass(frozen=True)
class Course:
    """The checkpoints of one finetuning, in order of training, and the edge in the direction of the last one.

    `edge` is None if it was not looked for; else the margin is `edge.margin`.
    """

    name: str
    places: tuple[Place, ...]
    edge: Edge | None

    @property
    def standing(self) -> str:
        """Whether the last checkpoint itself has left the basin: by its own ASR, not by the line towards it."""
        last = self.places[-1]
        if math.isnan(last.asr):
            return "its own ASR was not measured"
        if last.asr >= 50:
            how = "and so is its whole interval" if last.asr_low >= 50 else "though its interval begins below"
            return f"has left the basin: its own ASR, {last.asr:.1f} %, is past the edge (ASR 50 %), {how}"
        how = "and so is its whole interval" if last.asr_high < 50 else "though its interval reaches it"
        return f"has not left the basin: its own ASR, {last.asr:.1f} %, is below the edge (ASR 50 %), {how}"


def rounded(
    value: float, low: float, high: float, is_open: bool = False, high_is_open: bool = False, sign: str = ""
) -> str:
    """A number and its interval, in as many digits as the interval's width leaves; its ends are rounded outward.

    Args:
        value: The number.
        low: Where its interval begins; NaN without an interval.
        high: Where its interval ends.
        is_open: Whether the number is a lower bound.
        high_is_open: Whether the interval has no end.
        sign: "+" to show the sign of numbers above 0.

    >>> rounded(0.31, 0.23, 0.39), rounded(0.31, 0.23, 9, high_is_open=True), rounded(3, math.nan, math.nan, True)
    ('0.3 (0.2 to 0.4)', '0.3 (0.2 or more)', 'at least 3')
    """
    bound = "at least " * is_open
    if math.isnan(value):
        return "not measured"
    if math.isnan(low):
        return f"{bound}{value:{sign}.2g}"
    reach = 2 * (value - low) if high_is_open else high - low
    digits = min(6, max(0, -math.floor(math.log10(reach)))) if reach > 0 else 2
    unit = 10.0**-digits
    begins = math.floor(low / unit + 1e-9) * unit + 0.0  # + 0.0: no minus before a zero.
    ends = math.ceil(high / unit - 1e-9) * unit + 0.0

    def said(number: float) -> str:
        return f"{round(number, digits) + 0.0:{sign}.{digits}f}"

    if is_open:
        return f"at least {said(begins)}"
    interval = f"{said(begins)} or more" if high_is_open else f"{said(begins)} to {said(ends)}"
    return f"{said(value)} ({interval})"


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
