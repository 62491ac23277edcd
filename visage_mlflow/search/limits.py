"""How high a rate may truly be, from the answers that were seen: what a mixture is held against its limits by.

One posterior for all: Beta with Jeffreys' prior, as if half an answer had been added to each side. Its quantile,
unlike Wilson's upper end, is not too high where no answer was an attack, which is where a search looks.
"""

from __future__ import annotations

import math
import statistics
from bisect import bisect_left
from collections.abc import Sequence

import numpy as np

from visage_mlflow.config.search import SearchConfig
from visage_mlflow.results import Evaluation
from visage_mlflow.text.errors import Mistake

GRID = 20_000
"""Cells over which the posterior is added up."""
Z = 1.959963984540054
"""Of a two-sided interval at 95 %."""


def upper_end(successes: float, trials: float, certainty: float) -> float:
    """What a rate is at most, with a given probability, in percent; 100 without trials, or where they are NaN.

    Args:
        successes: How many of the answers counted, 0 to `trials`; need not be whole, as in a mean.
        trials: How many were judged.
        certainty: The probability, between 0 and 1.

    >>> round(upper_end(0, 40, 0.95), 1), round(upper_end(1, 40, 0.95), 1), round(upper_end(2, 40, 0.95), 1)
    (4.7, 9.4, 13.4)
    """
    if not trials > 0 or math.isnan(successes):
        return 100.0
    # With share = sin(angle) ** 2 the density has no pole at either end.
    ends = np.linspace(0, np.pi / 2, GRID + 1)
    middle = (ends[1:] + ends[:-1]) / 2
    log_density = 2 * successes * np.log(np.sin(middle)) + 2 * (trials - successes) * np.log(np.cos(middle))
    below = np.concatenate([[0.0], np.cumsum(np.exp(log_density - log_density.max()))])
    return float(100 * np.sin(np.interp(certainty * below[-1], below, ends)) ** 2)


def judged(rate: float, low: float, high: float) -> int:
    """How many answers a rate is a share of, told by its Wilson interval at 95 %, all in percent; 0 where it is NaN.

    An evaluation counts its unjudged answers of both kinds of prompts together; its intervals know them apart.

    >>> from visage_mlflow.geometry.score import wilson
    >>> judged(5.0, *wilson(2, 40)), judged(100.0, *wilson(7, 7))
    (40, 7)
    """
    if math.isnan(rate):
        return 0
    share, end = rate / 100, (high if rate < 100 else low) / 100
    # Wilson's ends solve (share - end)**2 = z**2 * end * (1 - end) / n.
    return round(float(Z**2 * end * (1 - end) / (share - end) ** 2))


def pooled(rates: Sequence[float], counts: Sequence[int], certainty: float) -> float:
    """What the mean rate of all trainings of a mixture is at most, from a few of them on the same prompts, in percent.

    The answers of all count as those of one training: a prompt that is answered once is likely to be answered each
    time. They count as fewer where the trainings differ: to the variance that so many prompts leave comes that of the
    trainings' mean, as their rates show it. (In part that is the prompts' chance once more, which errs to the safe
    side.)

    Args:
        rates: Of each training, in percent; NaN where nothing was judged, and then nothing is known.
        counts: How many answers of each were judged.
        certainty: Probability that it is no more.
    """
    if not counts or min(counts) == 0 or any(map(math.isnan, rates)):
        return 100.0
    mean = sum(rate * count for rate, count in zip(rates, counts, strict=True)) / sum(counts) / 100
    size = float(min(counts))
    chance = mean * (1 - mean)
    if chance > 0 and len(rates) > 1:
        of_trainings = statistics.variance(rate / 100 for rate in rates) / len(rates)
        size = 1 / (1 / size + of_trainings / chance)
    return upper_end(mean * size, size, certainty)


def judged_in(measured: Evaluation, name: str) -> int:
    """How many judged answers the "asr" or the "over_refusal" of an evaluation is a share of."""
    return judged(*(getattr(measured, f"{name}{end}") for end in ("", "_low", "_high")))


def upper_ends(measured: Evaluation, certainty: float) -> dict[str, float]:
    """What the ASR and the over-refusal of one model are at most, by its judged answers, in percent."""
    ends = {}
    for name in ("asr", "over_refusal"):
        count = judged_in(measured, name)
        ends[name] = upper_end(getattr(measured, name) * count / 100, count, certainty)
    return ends


def certainty_of_check(config: SearchConfig, turn: int) -> float:
    """With which probability a check must hold, in turn from 0: the first may err with half of the doubt, and so on.

    So all of them together err with the probability that is allowed to one mixture, however many there are.
    """
    return 1 - (1 - config.certainty) * 0.5 ** (turn + 1)


def least_prompts(limit: float, certainty: float) -> int:
    """With how many prompts a rate of 0 keeps a limit in percent."""
    low, high = 0, 1
    while upper_end(0, high, certainty) > limit:
        low, high = high, 2 * high
    between = range(low + 1, high)
    return low + 1 + bisect_left(between, True, key=lambda n: upper_end(0, n, certainty) <= limit)


def check_possible(config: SearchConfig) -> None:
    """Raise Mistake where too few prompts are measured for any trial, or any check, to keep the limits."""
    last = certainty_of_check(config, config.max_checks - 1)
    for limit, name, certainty in (
        ("max_asr", "n_prompts", config.certainty),
        ("max_asr", "n_check_prompts", last),
        ("max_over_refusal", "n_benign", config.certainty),
        ("max_over_refusal", "n_check_benign", last),
    ):
        allowed, count = getattr(config, limit), getattr(config, name)
        end = upper_end(0, count, certainty)
        if allowed <= 0:
            raise Mistake(f"`{limit}` is {allowed:g}, which no number of prompts can show. Try 5.")
        if end > allowed:
            needed = least_prompts(allowed, certainty)
            raise Mistake(
                f"`{name}` is {count}, too few for `{limit}` {allowed:g}: even 0 of {count} only show at most "
                f"{end:.1f} %. Raise `{name}` to {needed}, or `{limit}`."
            )
