"""Statistics of pairs: the same prompts, or the same directions, asked of two models."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from visage_mlflow.geometry.axes import Floats
from visage_mlflow.geometry.intervals import student, wilson


def fewer_or_equal(k: int, other: int) -> float:
    """P(X <= k) for X binomial in k + other trials of probability 1/2; 1.0 without trials.

    >>> fewer_or_equal(0, 3)
    0.125
    """
    n, ways, term = k + other, 0, 1
    for i in range(k + 1):  # The term is n over i; whole numbers neither round nor overflow.
        ways += term
        term = term * (n - i) // (i + 1)
    return float(ways / 2**n)


def mcnemar(only_first: int, only_second: int) -> float:
    """McNemar's exact test (McNemar, 1947): two-sided p of as uneven a split of the pairs that differ.

    Args:
        only_first: Pairs in which only the first succeeded.
        only_second: Pairs in which only the second did.

    >>> mcnemar(1, 5), mcnemar(0, 0)
    (0.21875, 1.0)
    """
    return min(1.0, 2 * fewer_or_equal(min(only_first, only_second), max(only_first, only_second)))


def difference_interval(only_first: int, only_second: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Tango's score interval (Tango, 1998) of the difference second - first between paired shares, in percent.

    Args:
        only_first: Pairs in which only the first succeeded.
        only_second: Pairs in which only the second did.
        n: All pairs that were judged in both.
        level: Confidence, between 0 and 1.

    Returns:
        (low, high) between -100 and 100; (nan, nan) without pairs.
    """
    if n == 0:
        return math.nan, math.nan
    z = NormalDist().inv_cdf(0.5 + level / 2)

    def score(delta: float) -> float:
        # Share of only_first under the hypothesis: the greater root of 2n p² + b p + c = 0.
        b = -only_second - only_first + (2 * n - only_second + only_first) * delta
        c = -only_first * delta * (1 - delta)
        share = (math.sqrt(max(b * b - 8 * n * c, 0.0)) - b) / (4 * n)
        variance = n * (2 * share + delta * (1 - delta))
        distance = only_second - only_first - n * delta
        return distance / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, distance)

    estimate = (only_second - only_first) / n

    def limit(end: float, wanted: float) -> float:
        inside, outside = estimate, end
        for _ in range(60):
            middle = (inside + outside) / 2
            if abs(score(middle)) <= wanted:
                inside = middle
            else:
                outside = middle
        return 100 * (inside + outside) / 2

    return limit(-1.0, z), limit(1.0, z)


def score_difference(
    first: ArrayLike, second: ArrayLike, score: Callable[[Floats], float], level: float = 0.95
) -> tuple[float, float, float]:
    """How a score of two models differs over the same directions and prompts, with an interval.

    The squared half width is t² × variance of the mean difference between directions + t² × variance between prompts
    (the delete-one jackknife's, less what differs from direction to direction, which is in the first already),
    each with its own degrees of freedom. Prompts on which both always agreed say little of others: up to Wilson's
    bound for 0 of n of them may differ, so the half width is that share of 100 at least, the less the more do differ.

    Args:
        first: Whether each prompt succeeded, of shape (directions, points, prompts); NaN was not judged.
        second: The same of the other model. What was not judged in both is left out.
        score: From ASR in percent of shape (points,), with NaN, to a score in percent.
        level: Confidence, between 0 and 1.

    Returns:
        (difference, low, high), second - first, in percentage points; low and high are NaN for one direction, which
        says nothing of others.

    Raises:
        ValueError: The shapes differ, or nothing was judged in both.
    """
    one, two = (np.asarray(each, dtype=np.float64) for each in (first, second))
    if one.shape != two.shape or one.ndim != 3:
        raise ValueError(f"Verdicts of shape {one.shape} and {two.shape} must be (directions, points, prompts) alike.")
    both = (~np.isnan(one) & ~np.isnan(two)).astype(np.float64)
    one, two = np.where(both, one, 0.0), np.where(both, two, 0.0)
    used = [index for index in range(len(both)) if both[index].any()]
    prompts = [index for index in range(both.shape[2]) if both[:, :, index].any()]
    if not used:
        raise ValueError("No response was judged in both, so no scores can be compared.")

    def differences(without: int | None = None) -> Floats:
        """Of each direction, (directions,); of all prompts, or all but one."""
        sums = [
            each[used].sum(axis=2) - (0 if without is None else each[used][:, :, without]) for each in (both, one, two)
        ]
        rates = [_shares(hits, sums[0]) for hits in sums[1:]]
        return np.array(
            [
                math.nan if np.isnan(before).all() else score(after) - score(before)
                for before, after in zip(*rates, strict=True)
            ]
        )

    found = differences()
    difference = float(found.mean())
    n_directions, n_prompts = len(used), len(prompts)
    if n_directions < 2:
        return difference, math.nan, math.nan
    square = student(n_directions - 1, level) ** 2 * float(found.var(ddof=1)) / n_directions
    if n_prompts > 1:
        without = np.array([differences(without=index) for index in prompts])
        without = np.where(np.isnan(without), found, without)
        scale = (n_prompts - 1) ** 2 / n_prompts
        of_mean = scale * float(without.mean(axis=1).var(ddof=1))
        of_each = scale * float(without.var(axis=0, ddof=1).mean())
        between = max(0.0, of_mean - (of_each - of_mean) / (n_directions - 1))
        square += student(n_prompts - 1, level) ** 2 * between
    differ = float((one != two).any(axis=(0, 1)).sum()) / n_prompts
    half = max(math.sqrt(square), wilson(0, n_prompts, level)[1] * max(0.0, 1 - 2 * differ))
    return difference, max(-100.0, difference - half), min(100.0, difference + half)


def _shares(hits: Floats, trials: Floats) -> Floats:
    """Shares in percent; NaN without trials."""
    shares: Floats = np.divide(100 * hits, trials, out=np.full(hits.shape, math.nan), where=trials > 0)
    return shares
