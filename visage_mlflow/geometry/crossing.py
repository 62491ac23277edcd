"""Where the ASR along a line first crosses the basin's edge: a scan outward, then bisection."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from visage_mlflow.geometry.score import EDGE

SCAN = 16
"""Points of the scan. Where the ASR crosses the edge and comes back between two of them, neither crossing is seen."""
HALVINGS = 4
"""Halvings of the bracket between the last two points of the scan."""


@dataclass(frozen=True)
class Crossing:
    """Where the ASR first crosses 50 %, and what was measured on the way there."""

    step: float
    """The crossing; the farthest measured step if the ASR never crosses; 0.0 if it is at 50 or more at step 0."""
    is_open: bool
    """Whether the ASR is below 50 % as far as it was measured."""
    measured: tuple[tuple[float, float], ...]
    """(step, ASR) in increasing order; those with an ASR of NaN did not count."""


def looks(up_to: float) -> list[float]:
    """Steps that `first_crossing` looks at: the scan's, after the nearest that halving may lead to."""
    return [up_to / SCAN / 2**HALVINGS, *(up_to * index / SCAN for index in range(1, SCAN + 1))]


def first_crossing(asr_at: Callable[[float], float], up_to: float) -> Crossing:
    """The first step above 0 at which the ASR reaches 50 %.

    Looks at `SCAN` even steps from 0 until one is at 50 or more, and then halves the bracket `HALVINGS` times, to
    1/256 of the way (less often where an ASR is NaN). There the crossing is linearly interpolated.

    Args:
        asr_at: ASR in percent at a step, NaN where it cannot be measured.
        up_to: How far to look; finite and above 0.

    Raises:
        ValueError: Nothing could be measured at 0.

    >>> round(first_crossing(lambda step: 100 * step, up_to=1.6).step, 6)
    0.5
    """
    measured: dict[float, float] = {}

    def ask(step: float) -> float:
        measured[step] = asr_at(step)
        return measured[step]

    low, low_asr = 0.0, ask(0.0)
    if math.isnan(low_asr):
        raise ValueError("The model at step 0 gave no response that could be judged, so it has no edge to look for.")
    if low_asr >= EDGE:
        return Crossing(0.0, False, tuple(measured.items()))
    for index in range(1, SCAN + 1):
        high = up_to * index / SCAN
        high_asr = ask(high)
        if high_asr >= EDGE:
            break
        if not math.isnan(high_asr):
            low, low_asr = high, high_asr
    else:
        return Crossing(low, True, tuple(sorted(measured.items())))
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        asr = ask(middle)
        if math.isnan(asr):
            break
        if asr >= EDGE:
            high, high_asr = middle, asr
        else:
            low, low_asr = middle, asr
    share = (EDGE - low_asr) / (high_asr - low_asr)
    return Crossing(low + share * (high - low), False, tuple(sorted(measured.items())))
