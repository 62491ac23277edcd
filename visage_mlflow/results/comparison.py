"""What comparing two models returns: how their rates and scores differ, with intervals, and what could not be seen."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from visage_mlflow.results.base import Number, Result
from visage_mlflow.results.evaluation import Setup

NAMES = {"asr": "ASR", "over_refusal": "over-refusal", "visage": "VISAGE", "visage_depth": "mean depth"}


@dataclass(frozen=True)
class Difference:
    """How one number differs between two models, in percentage points: the other one's - the first one's.

    Attributes:
        name: "asr", "over_refusal", "visage" or "visage_depth".
        first: The first model's, in percent, over what was judged in both.
        second: The other model's.
        difference: `second` - `first`.
        low: Where the 95 % interval of the difference begins; NaN if there is none.
        high: Where it ends.
        n: Prompts that were judged in both.
        only_first: Prompts of a rate that counted with the first model alone; None for a score.
        only_second: Those that counted with the other alone.
        p_value: McNemar's exact test of these two, two-sided; None for a score.
    """

    name: str
    first: Number
    second: Number
    difference: Number
    low: Number
    high: Number
    n: int
    only_first: int | None = None
    only_second: int | None = None
    p_value: float | None = None

    @property
    def is_seen(self) -> bool:
        """Whether the interval leaves out 0 and, for a rate, McNemar's test agrees (p at most 0.05)."""
        return (self.low > 0 or self.high < 0) and (self.p_value is None or self.p_value <= 0.05)

    @property
    def half_width(self) -> float:
        """Half of the interval: about the smallest difference that could have been seen."""
        return (self.high - self.low) / 2

    @property
    def verdict(self) -> str:
        """What the interval says of a difference."""
        if math.isnan(self.low):
            return "no interval" if math.isnan(self.difference) else "one direction: no interval over directions"
        if self.is_seen:
            return "a difference"
        why = " by McNemar's test (p above 0.05)" if self.low > 0 or self.high < 0 else ""
        return f"no difference seen{why}; one below {self.half_width:.1f} points could hardly have been"

    def in_words(self) -> str:
        """One line."""
        if math.isnan(self.difference):
            return f"{NAMES[self.name]}: nothing was judged in both"
        interval = "" if math.isnan(self.low) else f" (95 % interval {self.low:+.1f} to {self.high:+.1f})"
        test = ""
        if self.p_value is not None:
            test = (
                f"; {self.only_first} of {self.n} prompts counted with the first model alone, {self.only_second} with "
                f"the other alone, McNemar p = {self.p_value:.3g}"
            )
        return (
            f"{NAMES[self.name]}: {self.first:.1f} and {self.second:.1f} %, difference {self.difference:+.1f} points"
            f"{interval}{test}: {self.verdict}"
        )


@dataclass(frozen=True, eq=False)
class Comparison(Result):
    """Two models on the same prompts and random directions.

    Attributes:
        first: What decided the first model's measurement.
        second: The same of the other.
        differences: In the order of `NAMES`; those that were not measured are left out.
        n_directions: Random directions whose landscapes are compared; 0 without.
        same_directions: Whether a seed is one direction in both models, since their tensors have the same names and
            shapes (only its length follows each tensor's norm); None where that is not known.
    """

    kind: ClassVar[str] = "comparison"
    first: Setup
    second: Setup
    differences: tuple[Difference, ...]
    n_directions: int
    same_directions: bool | None

    @property
    def about_directions(self) -> str:
        """How the directions are paired, as a sentence; empty without directions."""
        if self.n_directions == 0:
            return ""
        many = "one random direction" if self.n_directions == 1 else f"{self.n_directions} random directions"
        if self.same_directions is None:
            return f"Over {many} of the same seeds, the same in both if the models have the same tensors."
        if self.same_directions:
            return f"Over {many}, the same in both: same seeds and tensors, each scaled to its model's own norms."
        return f"Over {many} each, not paired: the models have different tensors, so a seed is another direction."

    def metrics(self) -> dict[str, float]:
        """Name -> number, as logged."""
        numbers: dict[str, float] = {}
        for one in self.differences:
            given = {
                "difference": one.difference,
                "difference_low": one.low,
                "difference_high": one.high,
                "seen": math.nan if math.isnan(one.low) else float(one.is_seen),
                "p_value": one.p_value,
                "n_discordant": None if one.only_first is None else one.only_first + (one.only_second or 0),
            }
            numbers |= {
                f"{one.name}_{name}": float(value)
                for name, value in given.items()
                if value is not None and not math.isnan(value)
            }
        return numbers
