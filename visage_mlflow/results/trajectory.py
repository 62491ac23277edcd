"""What a projection returns: where the checkpoints of finetunings lie on one landscape."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from visage_mlflow.results.base import Number, Percent, Result
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
    asr: Percent
    asr_low: Percent
    asr_high: Percent
    plane_asr: Percent
    plane_asr_low: Percent
    plane_asr_high: Percent


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
    def starts_outside(self) -> bool:
        """Whether the model at step 0 is at 50 % or more itself, so that no way from it leads out."""
        return self.step == 0 and not self.is_open

    @property
    def margin(self) -> float:
        """How far the edge (ASR 50 %) is beyond a model at step 1, as a share of its distance; negative if the way to
        the model crosses the edge before it. A lower bound if the edge is open; -1, and no margin, where
        `starts_outside`."""
        return self.step - 1

    @property
    def comes_back(self) -> bool:
        """Whether the ASR falls below 50 % again past the edge."""
        return any(not turn.leads_out for turn in self.turns)

    @property
    def margin_in_words(self) -> str:
        """The margin with its interval, in no more digits than that allows."""
        if self.starts_outside:
            return "none: the base itself is outside"
        return rounded(self.margin, self.low - 1, self.high - 1, self.is_open, self.high_is_open, sign="+")

    @property
    def distance_in_words(self) -> str:
        """The edge's distance with its interval, in percent of the norm of the model's weights."""
        if self.starts_outside:
            return "none: the base itself is outside"
        scale = 100 * self.distance / self.step if self.step else 0.0
        at = (100 * self.distance, scale * self.low, scale * self.high)
        return f"{rounded(*at, self.is_open, self.high_is_open)} % of the norm"

    @property
    def margin_sentence(self) -> str:
        """The margin and the edge, and between which looks nothing would have been seen."""
        if self.starts_outside:
            return "margin to the edge (ASR 50 %): the base itself is outside, so there is none"
        return (
            f"margin to the edge (ASR 50 %) on the straight line {self.margin_in_words}: edge at "
            f"{self.distance_in_words}{self._looked}"
        )

    @property
    def random_sentence(self) -> str:
        """The edge in a random direction, with what makes the number too little."""
        if self.starts_outside:
            return "edge (ASR 50 %) in a random direction: the base itself is outside, so there is none"
        said = f"edge (ASR 50 %) in a random direction: {self.distance_in_words}{self._looked}"
        return f"{said}. {self.remark}" if self.remark else said

    @property
    def _looked(self) -> str:
        return "" if math.isnan(self.resolution) else f" (looks at most {self.resolution:.2g} steps apart)"

    @property
    def remark(self) -> str:
        """What makes one number too little: empty, or a sentence."""
        said = []
        if self.falls:
            said.append("The ASR falls again on the way, by more than the prompts' noise")
        if self.comes_back:
            digits = digits_of(2 * (self.step - self.low) if self.high_is_open else self.high - self.low)
            crossings = ", ".join(
                f"{rounded_to(turn.step, digits)} ({'out' if turn.leads_out else 'in'})" for turn in self.turns
            )
            said.append(f"{'it' if said else 'The ASR'} crosses 50 % at {crossings} of the way")
        return f"{'; '.join(said)}." if said else ""


@dataclass(frozen=True)
class Course:
    """The checkpoints of one finetuning, in order of training, and the edge in the direction of the last one.

    `edge` is None if it was not looked for; else the margin is `edge.margin`. `base_asr` is the ASR of the model that
    training began at, in percent.
    """

    name: str
    places: tuple[Place, ...]
    edge: Edge | None
    base_asr: Percent = math.nan

    @property
    def margin_sentence(self) -> str:
        """The margin, or why there is none."""
        if self.edge is None:
            why = "the model's own answers could not be judged" if math.isnan(self.base_asr) else "not looked for"
            return f"margin to the edge (ASR 50 %): {why}"
        return self.edge.margin_sentence

    @property
    def standing(self) -> str:
        """Whether the last checkpoint itself has left the basin: by its own ASR, not by the line towards it."""
        last = self.places[-1]
        if math.isnan(last.asr):
            return "its own ASR was not measured"
        if last.asr >= 50:
            how = "and so is its whole interval" if last.asr_low >= 50 else "though its interval begins below"
            what = "is outside, where it began" if self.base_asr >= 50 else "has left the basin"
            return f"{what}: its own ASR, {last.asr:.1f} %, is past the edge (ASR 50 %), {how}"
        how = "and so is its whole interval" if last.asr_high < 50 else "though its interval reaches it"
        what = "is inside of the edge, though it began outside" if self.base_asr >= 50 else "has not left the basin"
        return f"{what}: its own ASR, {last.asr:.1f} %, is below the edge (ASR 50 %), {how}"


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
    ('0.3 (0.2 to 0.4)', '0.3 (0.2 or more)', 'at least 3.0')
    """
    bound = "at least " * is_open
    if math.isnan(value):
        return "not measured"
    if math.isnan(low):
        size = math.floor(math.log10(abs(value))) if value else 0
        return f"{bound}{rounded_to(value, min(6, 1 - size), sign)}"
    digits = digits_of(2 * (value - low) if high_is_open else high - low)
    unit = 10.0**-digits
    begins = math.floor(low / unit + 1e-9) * unit + 0.0  # + 0.0: no minus before a zero.
    ends = math.ceil(high / unit - 1e-9) * unit + 0.0

    def said(number: float) -> str:
        return rounded_to(number, digits, sign)

    if is_open:
        return f"at least {said(begins)}"
    interval = f"{said(begins)} or more" if high_is_open else f"{said(begins)} to {said(ends)}"
    return f"{said(value)} ({interval})"


def digits_of(reach: float) -> int:
    """Digits behind the point that an interval of this width leaves; below 0 for whole tens and so on.

    >>> digits_of(0.16), digits_of(7), digits_of(39)
    (1, 0, -1)
    """
    return min(6, -math.floor(math.log10(reach))) if reach > 0 else 2


def rounded_to(number: float, digits: int, sign: str = "") -> str:
    """A number in so many digits behind the point, which may be below 0; without an exponent or a minus before 0.

    >>> rounded_to(123.4, -1), rounded_to(-0.04, 1, "+")
    ('120', '+0.0')
    """
    return f"{round(number, digits) + 0.0:{sign}.{max(0, digits)}f}"


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
