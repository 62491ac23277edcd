"""Intervals around rates and scores: Wilson's for one rate, the bootstrap for several prompts and directions.

Everything is in percent, 0 to 100. NaN marks what was not judged, and is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from visage_mlflow.geometry.axes import Floats

CHUNK = 2**20
"""Numbers in each of the bootstrap's arrays at once: 8 MB."""


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


def bootstrap_visage(
    jailbroken: ArrayLike, seed: int = 0, n_resamples: int = 2000, level: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of VISAGE, averaged over directions.

    Each replicate draws directions and prompts with replacement, the same prompts at all points of all directions.

    Args:
        jailbroken: Whether each prompt succeeded, of shape (directions, points, prompts): bool, or 0, 1 and NaN.
            NaN was not judged and is left out of its point; so is a point without any verdict.
        seed: Of the resampling; the same seed gives the same interval.
        n_resamples: Replicates.
        level: Confidence, between 0 and 1.

    Returns:
        The interval (low, high) in percent.

    Raises:
        ValueError: The array is empty, has another number of dimensions, has other values, or is all NaN.
    """
    replicates = []
    for directions, succeeded, trials in _resamples(jailbroken, seed, n_resamples):
        depths = _ratio(100 * (trials - succeeded), trials, otherwise=0.0)
        scores = _ratio(depths.sum(axis=2), (succeeded < trials).sum(axis=2), otherwise=0.0)
        replicates.append(_mean(scores, directions * (trials > 0).any(axis=2)))
    low, high = np.nanquantile(np.concatenate(replicates), [0.5 - level / 2, 0.5 + level / 2])
    return float(low), float(high)


def bootstrap_mean_asr(
    jailbroken: ArrayLike, seed: int = 0, n_resamples: int = 2000, level: float = 0.95
) -> tuple[Floats, Floats]:
    """Percentile bootstrap intervals of the ASR at each point, averaged over directions.

    Takes, draws and refuses the same as `bootstrap_visage`.

    Returns:
        Low and high, each of shape (points,), in percent; NaN at a point without any verdict.
    """
    replicates = []
    for directions, succeeded, trials in _resamples(jailbroken, seed, n_resamples):
        rates = _ratio(100 * succeeded, trials, otherwise=0.0)
        replicates.append(_mean(rates, directions[:, :, None] * (trials > 0)))
    found = np.concatenate(replicates)  # (replicates, points)
    measured = ~np.isnan(found).all(axis=0)
    low, high = np.full((2, measured.size), math.nan)
    low[measured], high[measured] = np.nanquantile(found[:, measured], [0.5 - level / 2, 0.5 + level / 2], axis=0)
    return low, high


def _resamples(jailbroken: ArrayLike, seed: int, n_resamples: int) -> Iterator[tuple[Floats, Floats, Floats]]:
    """Replicates, some at a time: how often each direction was drawn, of shape (replicates, directions); and how many
    of the drawn prompts succeeded and were judged, of shape (replicates, directions, points)."""
    verdicts = np.asarray(jailbroken, dtype=np.float64)
    judged = ~np.isnan(verdicts)
    if verdicts.ndim != 3 or not judged.any():
        raise ValueError(
            f"`jailbroken`, of shape {verdicts.shape}, must be (directions, points, prompts) with a verdict."
        )
    if not np.isin(verdicts[judged], (0, 1)).all():
        raise ValueError("`jailbroken` must hold only False, True (0, 1) and NaN; these are verdicts, not percent.")
    both = np.where(judged, verdicts, 0.0), judged.astype(np.float64)
    rng = np.random.default_rng(seed)
    n_directions, n_points, n_prompts = verdicts.shape
    drawn_directions = rng.integers(n_directions, size=(n_resamples, n_directions))
    rows = max(1, CHUNK // (n_directions * n_points + n_prompts))
    for first in range(0, n_resamples, rows):
        directions = _counts(drawn_directions[first : first + rows], n_directions)
        prompts = _counts(rng.integers(n_prompts, size=(len(directions), n_prompts)), n_prompts)
        # Sums of whole numbers in float64 are exact, so no rounding decides which points are below 100.
        succeeded, trials = (np.einsum("rk,dpk->rdp", prompts, each, optimize=True) for each in both)
        yield directions, succeeded, trials


def _counts(drawn: NDArray[np.int64], n: int) -> Floats:
    """How often each of n was drawn, per row: (rows, draws) -> (rows, n)."""
    offsets = n * np.arange(len(drawn))[:, None]
    return np.bincount((drawn + offsets).ravel(), minlength=n * len(drawn)).reshape(-1, n).astype(np.float64)


def _mean(values: Floats, weight: Floats) -> Floats:
    """Weighted mean over directions, axis 1; NaN where all weights are 0."""
    return _ratio((weight * values).sum(axis=1), weight.sum(axis=1), otherwise=math.nan)


def _ratio(counts: Floats, totals: Floats, otherwise: float) -> Floats:
    """Elementwise `counts / totals`, and `otherwise` where the total is 0."""
    quotients: Floats = np.divide(counts, totals, out=np.full_like(counts, otherwise), where=totals > 0)
    return quotients
