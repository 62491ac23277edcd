"""Statistics of pairs: the same prompts, or the same directions, asked of two models."""

from __future__ import annotations

import math
from statistics import NormalDist


def fewer_or_equal(k: int, other: int) -> float:
    """P(X <= k) for X binomial in k + other trials of probability 1/2; 1.0 without trials.

    >>> fewer_or_equal(0, 3)
    0.125
    """
    n = k + other
    return float(sum(math.comb(n, i) for i in range(k + 1)) / 2**n)


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
