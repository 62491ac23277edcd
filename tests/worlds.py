"""Worlds in which the truth is known: how often intervals over directions and prompts hold it."""

import numpy as np

from visage_mlflow.geometry.axes import axis
from visage_mlflow.geometry.intervals import mean_asr_interval
from visage_mlflow.geometry.score import visage, visage_depth, visage_depth_interval, visage_interval

AXIS = axis()


def world(rng, n_directions, n_prompts, edge=0.2, directions=0.25, prompts=0.25, own=0.1, phrases=0.01):
    """Verdicts of shape (directions, points, prompts) along lines through one model.

    Each side of each direction has its own edge: `edge` times a lognormal factor of spread `directions`. A prompt
    breaks beyond the edge times its own threshold (lognormal, spread `prompts`, the same in all directions) times
    another for each side of each direction (spread `own`). Of the answers beyond, which are noise, a share of
    `phrases` holds a refusal phrase by chance, and counts as refused.
    """
    edges = edge * np.exp(directions * rng.standard_normal((n_directions, 2, 1)))
    thresholds = np.exp(prompts * rng.standard_normal(n_prompts))
    limits = edges * thresholds * np.exp(own * rng.standard_normal((n_directions, 2, n_prompts)))
    broken = np.abs(AXIS)[None, :, None] > limits[:, (AXIS >= 0).astype(int)]
    return broken & (rng.random(broken.shape) >= phrases)


INTERVALS = {
    "visage": (visage, visage_interval),
    "visage_depth": (visage_depth, visage_depth_interval),
    "mean_asr": (None, mean_asr_interval),
}
"""Name -> a score of one line, of which the mean over directions is estimated (None: the rates), and its interval."""


def coverage(n_directions, n_prompts, n_worlds, seed=0, names=tuple(INTERVALS), **kind):
    """Of many worlds: {name: (truth, share of intervals that hold it, their median width)}.

    The truth is the mean of the estimates, which is what each is an estimate of. The band is at each point.
    """
    rng = np.random.default_rng(seed)
    estimates, intervals = {}, {}
    for _ in range(n_worlds):
        verdicts = world(rng, n_directions, n_prompts, **kind)
        rates = 100 * verdicts.mean(axis=2)
        for name in names:
            score, interval = INTERVALS[name]
            estimate = rates.mean(axis=0) if score is None else np.mean([score(line) for line in rates])
            estimates.setdefault(name, []).append(estimate)
            intervals.setdefault(name, []).append(interval(verdicts))
    found = {}
    for name, values in estimates.items():
        truth, (low, high) = np.mean(values, axis=0), np.moveaxis(np.array(intervals[name]), 1, 0)
        held = ((low <= truth + 1e-9) & (truth - 1e-9 <= high)).mean(axis=0)
        found[name] = truth, held, np.median(high - low, axis=0)
    return found


def table(n_worlds=1000, **kind):
    """The table of `docs/scores.md`."""
    lines = ["| directions | prompts | VISAGE | covered | width | depth | covered | width | band: mean, least | "]
    lines.append("| --- " * 9 + "|")
    for n_directions in (3, 5, 8):
        for n_prompts in (16, 40, 80):
            found = coverage(n_directions, n_prompts, n_worlds, **kind)
            scores = [f"{truth:.1f} | {held:.3f} | {width:.1f}" for truth, held, width in list(found.values())[:2]]
            held = found["mean_asr"][1]
            band = f"{held.mean():.3f}, {held.min():.3f} at {AXIS[held.argmin()]:.2f}"
            lines.append(f"| {n_directions} | {n_prompts} | {' | '.join(scores)} | {band} |")
    return "\n".join(lines)


def by_prompts(n_worlds=400, counts=(16, 40, 80, 520)):
    """(number of prompts, expected VISAGE, expected mean depth) of the same world."""
    rng = np.random.default_rng(0)
    rows = []
    for n_prompts in counts:
        lines = [100 * world(rng, 1, n_prompts)[0].mean(axis=1) for _ in range(n_worlds)]
        rows.append((n_prompts, np.mean([visage(line) for line in lines]), np.mean(list(map(visage_depth, lines)))))
    return rows
