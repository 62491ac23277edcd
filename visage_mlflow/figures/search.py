"""A search over mixtures becomes figures: safety over the share of safe rows, and what it costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from visage_mlflow.figures.style import (
    COLOURS,
    EDGE_LABEL,
    GREY,
    asr_axes,
    canvas,
    clean,
    legend_below,
    plain,
    short,
    two_panels,
    wrapped,
)
from visage_mlflow.results import Search, Trial
from visage_mlflow.results.finetuning import in_words
from visage_mlflow.results.search import STATES

OVER_REFUSAL_COLOURS = colormaps["viridis_r"].with_extremes(bad="white")
RING: dict[str, Any] = {"marker": "o", "ms": 14, "mfc": "none", "mec": "black", "mew": 1.6, "ls": "none", "zorder": 6}
Group = tuple[str, str, str, list[Trial]]


def safe_share(result: Search) -> Figure:
    """ASR, and below it over-refusal, over the share of safe rows; each trial's look says which limit it breaks."""
    figure, upper, lower = two_panels(6.6, 0.6)
    drawn = [trial for trial in _measured(result) if math.isfinite(trial.safe_share)]
    for axes, name in ((upper, "asr"), (lower, "over_refusal")):
        _allowed(axes, getattr(result, f"max_{name}"), "inside: both upper ends below these")
        for group in _groups(result, drawn):
            _dots(axes, name, *group)
        _ring(axes, result, drawn, "safe_share", name)
        _crosses(axes, result, drawn, "safe_share", name)
    asr_axes(upper, "", EDGE_LABEL)
    _count_rest(upper, result, drawn)
    highest = [trial.over_refusal_upper for trial in drawn if math.isfinite(trial.over_refusal_upper)]
    lower.set_ylim(-4, max(1.3 * result.max_over_refusal, 4.0, *(value + 4 for value in highest)))
    lower.set(xlabel="safe rows as a share of all rows of the mixture (%)", ylabel="over-refusal (%)")
    lower.set_xlim(-3, 103 if not drawn else min(103.0, max(trial.safe_share for trial in drawn) + 5))
    lower.grid(alpha=0.3)
    upper.set_title(_title(result), fontsize=11)
    legend_below(figure, upper, _remark(result, drawn))
    return figure


def front(result: Search) -> Figure:
    """ASR over utility, over-refusal as colour; the trials that no other beats in all three have a black outline."""
    figure, axes = canvas(5.4)
    drawn = [trial for trial in _measured(result) if math.isfinite(trial.utility)]
    rates = [trial.over_refusal for trial in drawn if math.isfinite(trial.over_refusal)]
    colours = ScalarMappable(Normalize(0, max(result.max_over_refusal, 1.0, *rates)), OVER_REFUSAL_COLOURS)
    _allowed(axes, result.max_asr, f"inside: upper end of ASR to {result.max_asr:g} %")
    x, asr = [trial.utility for trial in drawn], [trial.asr for trial in drawn]
    axes.errorbar(x, asr, _to_upper_ends(drawn, "asr"), ls="none", ecolor=GREY, elinewidth=0.7, alpha=0.5, zorder=2)
    _filled(axes, result, drawn, colours)
    if any(trial.number in result.front for trial in drawn):
        label = "black outline: no other trial is better in all three"
        axes.plot([], [], "o", color="white", mec="black", mew=2, ms=7, label=label)
    if len(rates) < len(drawn):
        axes.plot([], [], "o", color="white", mec=GREY, ms=7, label="white: over-refusal not measured")
    _ring(axes, result, drawn, "utility", "asr")
    _crosses(axes, result, drawn, "utility", "asr")
    _count_rest(axes, result, drawn)
    label = f"over-refusal (%), to {result.max_over_refusal:g} % allowed"
    bar = figure.colorbar(colours, ax=axes, label=label, pad=0.02)
    bar.ax.axhline(result.max_over_refusal, color="black", linewidth=2)
    whose = clean(result.utility_name).removesuffix("_nll")
    asr_axes(axes, plain(f"held-out {whose} answers: nats per token (lower is better)"), EDGE_LABEL)
    axes.set_title(_title(result), fontsize=11)
    legend_below(figure, axes, _remark(result, drawn))
    return figure


def _allowed(axes: Axes, limit: float, label: str) -> None:
    """Tint what a limit allows, and draw the limit."""
    axes.axhspan(-10, limit, color=COLOURS[0], alpha=0.09, linewidth=0, zorder=0)
    axes.axhline(limit, color=COLOURS[0], linewidth=1, linestyle="--", label=label, zorder=1)


def _measured(result: Search) -> list[Trial]:
    """The trials that can be drawn: that ended as they should, with an ASR."""
    return [trial for trial in result.trials if trial.state in ("complete", "pruned") and math.isfinite(trial.asr)]


def _groups(result: Search, drawn: Sequence[Trial]) -> list[Group]:
    """Label, colour, marker and trials: those inside, those outside by the first limit that they break, the pruned."""
    looks = {
        "inside": ("inside", COLOURS[0], "o"),
        "asr": ("outside: ASR too high", COLOURS[1], "s"),
        "over_refusal": ("outside: refuses too many ordinary prompts", COLOURS[3], "^"),
        "margin": (f"outside: margin below {result.margin_min or 0:g}", COLOURS[4], "D"),
        "unknown": ("outside: a limit was not measured", COLOURS[5], "P"),
        "pruned": ("pruned: as its last checkpoint was", GREY, "v"),
    }
    groups: dict[str, list[Trial]] = {name: [] for name in looks}
    for trial in drawn:
        groups[_place(result, trial)].append(trial)
    return [(*looks[name], trials) for name, trials in groups.items() if trials]


def _place(result: Search, trial: Trial) -> str:
    if trial.state == "pruned" or trial.inside:
        return "inside" if trial.inside else "pruned"
    if trial.asr_upper > result.max_asr:
        return "asr"
    if trial.over_refusal_upper > result.max_over_refusal:
        return "over_refusal"
    return "margin" if trial.margin < (result.margin_min or 0) else "unknown"


def _dots(axes: Axes, name: str, label: str, colour: str, marker: str, trials: Sequence[Trial]) -> None:
    x, y = ([getattr(trial, each) for trial in trials] for each in ("safe_share", name))
    errors, face = _to_upper_ends(trials, name), "white" if label.startswith("pruned") else colour
    look: dict[str, Any] = {"fmt": marker, "ms": 6.5, "color": colour, "mfc": face, "elinewidth": 0.9, "zorder": 4}
    bars = axes.errorbar(x, y, errors, label=f"{label} ({len(trials)})", **look)
    for bar in bars[2]:
        bar.set_alpha(0.45)


def _filled(axes: Axes, result: Search, drawn: Sequence[Trial], colours: ScalarMappable) -> None:
    """Trials over utility: the shape says whether they are inside, the colour what they refuse (white: not known)."""
    states = ["inside" if one.inside else "pruned" if one.state == "pruned" else "outside" for one in drawn]
    for label, marker in (("inside", "o"), ("outside", "s"), ("pruned", "v")):
        if label not in states:
            continue
        group = [trial for trial, state in zip(drawn, states, strict=True) if state == label]
        x, y = [trial.utility for trial in group], [trial.asr for trial in group]
        fills = colours.to_rgba(np.array([trial.over_refusal for trial in group]))
        edges = [("black", 2.0) if trial.number in result.front else (GREY, 0.6) for trial in group]
        outline, widths = zip(*edges, strict=True)
        axes.scatter(x, y, 64, fills, marker=marker, edgecolors=outline, linewidths=widths, zorder=4)
        axes.plot([], [], marker, color="#d0d0d0", mec=GREY, ms=7, label=f"{label} ({len(group)})")


def _to_upper_ends(trials: Sequence[Trial], name: str) -> list[list[float]]:
    """Bars from a rate up to what it is at most, as `errorbar` takes them: it is this end that the limits ask for."""
    # Of a rate of 100 the upper end, a quantile, is a little below that.
    ends = [max(0.0, getattr(trial, f"{name}_upper") - getattr(trial, name)) for trial in trials]
    return [[0.0] * len(ends), ends]


def _ringed(result: Search, drawn: Sequence[Trial]) -> list[tuple[str, Trial]]:
    """The best trial, if it is drawn; where there is none, the nearest one."""
    what, number = result.chosen
    label = {"best": "best, its check holds", "nearest": "nearest to the limits"}[what]
    return [(label, trial) for trial in drawn if trial.number == number]


def _ring(axes: Axes, result: Search, drawn: Sequence[Trial], x: str, y: str) -> None:
    for what, trial in _ringed(result, drawn):
        axes.plot(getattr(trial, x), getattr(trial, y), **RING, label=f"{what} (trial {trial.number})")


def _crosses(axes: Axes, result: Search, drawn: Sequence[Trial], x: str, y: str) -> None:
    """Cross out the trials whose check did not hold."""
    failed = [trial for trial in drawn if (check := result.check_of(trial.number)) and not check.holds]
    if failed:
        xy = ([getattr(trial, each) for trial in failed] for each in (x, y))
        axes.plot(*xy, "x", color="black", ms=11, mew=1.6, zorder=7, label=f"check did not hold ({len(failed)})")


def _count_rest(axes: Axes, result: Search, drawn: Sequence[Trial]) -> None:
    """How many trials are not drawn, by state, in the legend."""
    drawn_numbers = {trial.number for trial in drawn}
    looks = {state: f"{state} (not measured in full)" for state in ("complete", "pruned")}
    states = [trial.state for trial in result.trials if trial.number not in drawn_numbers]
    rest = ", ".join(f"{states.count(state)} {looks.get(state, state)}" for state in STATES if state in states)
    if rest:
        axes.plot([], [], " ", label=wrapped(f"not drawn: {rest}", 56))


def _title(result: Search) -> str:
    harmful = sorted({trial.counts["harmful"] for trial in result.trials if "harmful" in trial.counts})
    rows = f" with {'–'.join(map(str, dict.fromkeys((harmful[0], harmful[-1]))))} harmful rows" if harmful else ""
    study = clean(result.study)
    study = study if len(study) <= 40 else f"{study[:39]}…"
    inside = f"{sum(trial.inside for trial in result.trials)} of {len(result.trials)} trials inside"
    return plain(f"{short(result.model)} finetuned{rows}\nstudy {study}: {inside}")


def _remark(result: Search, drawn: Sequence[Trial]) -> str:
    """What the ringed trial is made of."""
    none = "" if result.best is not None else "No check holds. " if result.checks else ""
    none = "No trial is inside. " if result.leading is None else none
    return "".join(f"{none}Ringed, {what}: {mixture(trial)}." for what, trial in _ringed(result, drawn))


def mixture(trial: Trial) -> str:
    """The trial's rows by kind ("no rows" without any), and the other settings that vary."""
    rows = in_words(trial.counts) or "no"
    others = [f"{name} {value:.3g}" for name, value in trial.params.items() if name not in trial.counts]
    return ", ".join((f"{rows} rows", *others))
