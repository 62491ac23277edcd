"""Intervals around rates and scores: Wilson's for one rate, Student's for means over directions and prompts.

Everything is in percent, 0 to 100. NaN marks what was not judged, and is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from visage_mlflow.geometry.axes import Floats

Scores = Callable[[Floats], Floats]
"""ASR in percent of shape (..., points), with NaN -> scores of shape (..., scores)."""


def wilson(successes: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval for a share (Wilson, 1927), in percent.

    Args:
        successes: How many succeeded, 0 to `trials`.
        trials: How many were judged.
        level: Confidence, between 0 and 1.

    Returns:
        The interval (low, high) in percent; (nan, nan) without trials.

    Raises:
        ValueError: A count is negative, `successes` exceeds `trials`, or `level` is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"`level` must be between 0 and 1, got {level}. Use 0.95 for a 95 % interval.")
    if not 0 <= successes <= trials:
        raise ValueError(f"`successes` must be between 0 and `trials`, got {successes} of {trials}.")
    if trials == 0:
        return math.nan, math.nan
    z = NormalDist().inv_cdf(0.5 + level / 2)
    share = successes / trials
    centre = share + z * z / (2 * trials)
    spread = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 100 / (1 + z * z / trials)
    # At the ends the formula gives 0 and 100, but for rounding.
    low = 0.0 if successes == 0 else scale * (centre - spread)
    high = 100.0 if successes == trials else scale * (centre + spread)
    return low, high


def student(degrees: int, level: float = 0.95) -> float:
    """Two-sided quantile of Student's t for whole degrees of freedom, by bisection of its closed form.

    >>> round(student(2), 3)
    4.303
    """
    if degrees < 1:
        raise ValueError(f"`degrees` must be at least 1, got {degrees}.")

    def inside(angle: float) -> float:
        # Abramowitz and Stegun, 26.7.3 and 26.7.4, at t = sqrt(degrees) * tan(angle).
        cosine, odd = math.cos(angle), degrees % 2
        term, total = (cosine if odd else 1.0), 0.0
        for power in range(1 if odd else 0, degrees - 1, 2):
            total += term
            term *= cosine * cosine * (power + 1) / (power + 2)
        within = math.sin(angle) * total
        return 2 / math.pi * (angle + within) if odd else within

    low, high = 0.0, math.pi / 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if inside(middle) < level else (low, middle)
    return math.sqrt(degrees) * math.tan(low)


def mean_asr_interval(jailbroken: ArrayLike, level: float = 0.95) -> tuple[Floats, Floats]:
    """Intervals of the expected ASR at each point, over directions and prompts of this kind.

    Takes and refuses the same as `over_directions`.

    Returns:
        Low and high, each of shape (points,), in percent; NaN at a point where fewer than two directions were judged.
    """
    return over_directions(jailbroken, lambda asr: asr, level)


def over_directions(jailbroken: ArrayLike, scores: Scores, level: float = 0.95) -> tuple[Floats, Floats]:
    """Intervals of scores, averaged over directions: what they are expected to be for other directions and as many
    other prompts of the same kind.

    The squared half width is t² × variance of the mean between directions + t² × variance between prompts, each with
    its own degrees of freedom. The latter is the delete-one jackknife's, which leaves the number of prompts as it is,
    but for one: resampling with replacement would leave fewer different prompts, and VISAGE depends on their number.
    Of the jackknife's variance that of single directions is taken off, since it is between directions, too.

    Prompts that all do the same show no variance and still say little of others: up to Wilson's bound for 0 of n of
    them may do the opposite. The interval holds what that would change, in full where all prompts agree at all points,
    and less the more of them ever differ from the others, down to nothing at one half.

    Args:
        jailbroken: Whether each prompt succeeded, of shape (directions, points, prompts): bool, or 0, 1 and NaN.
            NaN was not judged and is left out of its point; so is a point, or a direction, without any verdict.
        scores: From ASR of shape (..., points) to scores in percent of shape (..., scores). If there is one for each
            point, that one is of its point alone, and its variance is at least that of the points beside it: where a
            basin breaks, few directions often agree at one point by luck.
        level: Confidence, between 0 and 1.

    Returns:
        Low and high, each of shape (scores,), in percent; NaN where fewer than two directions have the score.

    Raises:
        ValueError: The array is empty, has another number of dimensions, has other values, or is all NaN.
    """
    verdicts = _verdicts(jailbroken)
    judged = ~np.isnan(verdicts)
    succeeded, ones = np.where(judged, verdicts, 0.0), judged.astype(np.float64)
    hits, trials = succeeded.sum(axis=2), ones.sum(axis=2)
    found = scores(_percent(hits, trials))  # (directions, scores)
    without = scores(np.moveaxis(_percent(hits[:, :, None] - succeeded, trials[:, :, None] - ones), 2, 0))
    without = np.where(np.isnan(without), found, without)  # (prompts, directions, scores)
    own = found.shape[1] == verdicts.shape[1] > 1
    means, squares, unseen = np.full((3, found.shape[1]), math.nan)
    for index in range(found.shape[1]):
        used = ~np.isnan(found[:, index])
        n_directions = int(used.sum())
        if n_directions < 2:
            continue
        places = slice(index, index + 1) if own else slice(None)
        seen, answers = judged[used, places], succeeded[used, places]
        prompts = seen.any(axis=(0, 1))
        n_prompts = int(prompts.sum())
        means[index] = found[used, index].mean()
        squares[index] = student(n_directions - 1, level) ** 2 * found[used, index].var(ddof=1) / n_directions
        if n_prompts > 1:
            between = _prompt_variance(without[prompts][:, used, index])
            squares[index] += student(n_prompts - 1, level) ** 2 * between
        usual = 2 * answers.sum(axis=2, keepdims=True) > seen.sum(axis=2, keepdims=True)
        differ = float((seen & (answers != usual)).any(axis=(0, 1)).sum()) / n_prompts
        unseen[index] = wilson(0, n_prompts, level)[1] / 100 * max(0.0, 1 - 2 * differ)
    if own:
        beside = np.pad(squares, 1, constant_values=math.nan)
        squares = np.fmax(np.fmax(beside[:-2], beside[2:]), squares)
    half = np.sqrt(squares)
    low = np.maximum(0.0, np.minimum(means - half, means - unseen * means))
    high = np.minimum(100.0, np.maximum(means + half, means + unseen * (100 - means)))
    return low, high


def _prompt_variance(without: Floats) -> float:
    """Variance of a mean over directions that comes from the prompts all of them share, from the scores without one
    prompt each, of shape (prompts, directions)."""
    n_prompts, n_directions = without.shape  # Delete-one: (n - 1)/n times the sum of squares.
    scale = (int(n_prompts) - 1) ** 2 / int(n_prompts)
    of_mean = scale * float(without.mean(axis=1).var(ddof=1))
    of_each = scale * float(without.var(axis=0, ddof=1).mean())
    between: float = of_mean - (of_each - of_mean) / (n_directions - 1)
    return max(0.0, between)


def _verdicts(jailbroken: ArrayLike) -> Floats:
    verdicts = np.asarray(jailbroken, dtype=np.float64)
    judged = ~np.isnan(verdicts)
    if verdicts.ndim != 3 or not judged.any():
        raise ValueError(
            f"`jailbroken`, of shape {verdicts.shape}, must be (directions, points, prompts) with a verdict."
        )
    if not np.isin(verdicts[judged], (0, 1)).all():
        raise ValueError("`jailbroken` must hold only False, True (0, 1) and NaN; these are verdicts, not percent.")
    return verdicts


def _percent(hits: Floats, trials: Floats) -> Floats:
    """Elementwise share in percent; NaN without trials."""
    shares: Floats = np.divide(100 * hits, trials, out=np.full_like(hits, math.nan), where=trials > 0)
    return shares
