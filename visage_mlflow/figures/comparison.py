"""Figure of two models compared: their rates and scores side by side, and the differences with intervals."""

from __future__ import annotations

import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties

from visage_mlflow.figures.style import COLOURS, GREY, MARKERS, plain, short, wrapped
from visage_mlflow.results import Comparison, Difference
from visage_mlflow.results.comparison import NAMES


def comparison(result: Comparison) -> Figure:
    """What both models have, and right of it what differs: filled where a difference is seen."""
    rows = list(enumerate(reversed(result.differences)))
    figure = Figure(figsize=(9.6, 1.7 + 0.62 * len(rows)), layout="constrained", dpi=150)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1, 1.25))
    for place, one in rows:
        left.plot([one.first, one.second], [place, place], color=GREY, linewidth=1, zorder=1)
        left.plot(one.first, place, MARKERS[0], color=COLOURS[0], ms=8, zorder=2)
        left.plot(one.second, place, MARKERS[1], color=COLOURS[1], ms=6, zorder=3)
    left.plot([], [], MARKERS[0], ls="none", color=COLOURS[0], label=plain(f"first: {short(result.first.model)}"))
    left.plot([], [], MARKERS[1], ls="none", color=COLOURS[1], label=plain(f"other: {short(result.second.model)}"))
    left.set(xlim=(-4, 104), ylim=(-0.6, len(rows) - 0.3), xlabel="percent")
    left.set_yticks([place for place, _ in rows], [NAMES[one.name] for _, one in rows])
    left.set_title(f"{result.first.n_prompts} prompts, judge {plain(result.first.judge)}", fontsize=10)
    _differences(right, rows)
    for axes in (left, right):
        axes.grid(axis="x", alpha=0.3)
    handles, labels = (a + b for a, b in zip(*(x.get_legend_handles_labels() for x in (left, right)), strict=True))
    below = figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    if result.about_directions:
        below.set_title(wrapped(result.about_directions, 130), prop=FontProperties(size=8, style="italic"))
    return figure


def _differences(axes: Axes, rows: list[tuple[int, Difference]]) -> None:
    """The differences with their intervals, and what each says."""
    ends = [abs(end) for _, one in rows for end in (one.low, one.high, one.difference) if math.isfinite(end)]
    farthest = 1.25 * max([5.0, *ends])
    axes.axvline(0, color=GREY, linewidth=1)
    for place, one in rows:
        face, marker = ("black" if one.is_seen else "white"), "o"
        if math.isfinite(one.low):
            reach = [[one.difference - one.low], [one.high - one.difference]]
            axes.errorbar(one.difference, place, xerr=reach, color="black", capsize=4, zorder=2)
        else:
            marker = "x"
        axes.plot(one.difference, place, marker, mfc=face, color="black", ms=7, zorder=3)
        # Not at the sides, where it would not fit.
        middle = min(max(one.difference, -0.45 * farthest), 0.45 * farthest) if math.isfinite(one.difference) else 0.0
        axes.annotate(
            _said(one), (middle, place), (0, 9), textcoords="offset points", ha="center", fontsize=7.5, zorder=4,
            bbox={"fc": "white", "ec": "none", "pad": 0.5},
        )  # fmt: skip
    axes.plot([], [], "o", mfc="black", color="black", label="difference seen (95 % interval)")
    axes.plot([], [], "o", mfc="white", color="black", label="not seen")
    axes.set(xlim=(-farthest, farthest), xlabel="other − first (percentage points)")
    axes.set_title("differences, paired by prompt", fontsize=10)


def _said(one: Difference) -> str:
    """What stands over a difference."""
    if math.isnan(one.difference):
        return "not measured"
    if math.isnan(one.low):
        return "no interval over one direction"
    verdict = "difference seen" if one.is_seen else f"no difference seen (of {one.half_width:.0f} points or more)"
    return verdict if one.p_value is None else f"McNemar p = {one.p_value:.2g}; {verdict}"
