"""Figures of lines through a model, of finetunings over training steps, and of both together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from visage_mlflow.figures import maps
from visage_mlflow.figures.style import (
    COLOURS,
    EDGE_LABEL,
    GREY,
    MARKERS,
    asr_axes,
    axis_label,
    canvas,
    course_label,
    course_look,
    error_bars,
    legend,
    legend_below,
    plain,
    short,
    step_length,
    two_panels,
)
from visage_mlflow.results import Finetuning, Landscape, Trajectory, Visage
from visage_mlflow.results.finetuning import in_words


def landscape(result: Landscape) -> Figure:
    """ASR along one line, with Wilson intervals and the basin's edges; of a plane, `maps.contour`."""
    if len(result.axes) == 2:
        return maps.contour(result)
    figure, axes = canvas()
    _curve(axes, result, 0, label="ASR with 95 % interval")
    low, high = ([getattr(point, name) for point in result.points] for name in ("asr_low", "asr_high"))
    axes.fill_between(result.axis, low, high, color=COLOURS[0], alpha=0.2, linewidth=0)
    _edges(axes, [result])
    _skipped(axes, [result])
    asr_axes(axes, plain(axis_label(result.axes[0])))
    axes.set_title(plain(f"{short(result.setup.model)}, {result.plane}: VISAGE {result.visage:.1f}"))
    legend(axes)
    return figure


def visage(result: Visage) -> Figure:
    """ASR along several random directions in one plot, their mean with its interval, and the basin's edges."""
    figure, axes = canvas()
    draw_visage(axes, result)
    legend(axes)
    model = short(result.landscapes[0].setup.model)
    title = f"{model}: VISAGE {result.visage:.1f} ({result.interval})\nmean depth {result.depth_in_words}"
    axes.set_title(plain(title), fontsize=11)
    return figure


def trajectory(result: Trajectory) -> Figure:
    """The checkpoints at their places on the line, over the ASR along it; below, what the line does not show.

    On a plane, `maps.trajectory`.
    """
    if len(result.landscape.axes) == 2:
        return maps.trajectory(result)
    figure, upper, lower = two_panels(5.8, 0.33)
    draw_line(upper, result)
    upper.set(xlabel="", title=plain(f"{short(result.landscape.setup.model)}, {result.landscape.plane}"))
    for index, course in enumerate(result.courses):
        colour, marker = course_look(index)
        x, shares = [place.x for place in course.places], [place.off_plane_share for place in course.places]
        lower.vlines(x, 0, shares, colour, linewidth=1)
        lower.plot(x, shares, linestyle="none", marker=marker, markersize=5, color=colour)
    lower.set(ylim=(-0.05, 1.05), ylabel="off-plane\nshare", xlabel=plain(axis_label(result.landscape.axes[0])))
    lower.grid(alpha=0.3)
    legend_below(figure, upper, result.remark)
    return figure


def courses(result: Trajectory) -> Figure:
    """Over training steps: the ASR of checkpoints and of the plane's nearest points; below, their distances.

    Where the two rates agree, the figure of the plane can be trusted; where they do not, it hides what happened.
    """
    figure, upper, lower = two_panels(5.6, 0.45)
    for index, course in enumerate(result.courses):
        colour, marker = course_look(index)
        steps = [place.training_step for place in course.places]
        _rates(upper, steps, course.places, "asr", color=colour, marker=marker, label=plain(course_label(course)))
        upper.plot(steps, [place.plane_asr for place in course.places], "--", marker=marker, mfc="white", color=colour)
        for style, face, name in (("-", colour, "distance"), ("--", "white", "off_plane_distance")):
            lengths = [100 * getattr(place, name) for place in course.places]
            lower.plot(steps, lengths, style, marker=marker, markersize=5, mfc=face, color=colour)
    upper.plot([], [], "-", color=GREY, marker="o", label="filled: the checkpoint itself")
    upper.plot([], [], "--", color=GREY, marker="o", mfc="white", label="hollow: the plane where it is nearest")
    asr_axes(upper, "", EDGE_LABEL)
    upper.set_title(plain(f"{short(result.landscape.setup.model)} finetuned, {result.landscape.plane}"))
    lower.plot([], [], "-", color=GREY, label="from the model")
    lower.plot([], [], "--", color=GREY, label="from the plane")
    _step_axes(lower, "distance\n(% of the norm)")
    legend(lower)
    legend_below(figure, upper, result.remark)
    return figure


def finetuning(result: Finetuning) -> Figure:
    """ASR and over-refusal of the checkpoints, and their distance from the base, over training steps."""
    figure, upper, lower = two_panels(5.0, 0.4)
    steps = [checkpoint.step for checkpoint in result.checkpoints]
    measured = [checkpoint.evaluation for checkpoint in result.checkpoints]
    for index, (name, label) in enumerate((("asr", "ASR"), ("over_refusal", "over-refusal"))):
        _rates(upper, steps, measured, name, color=COLOURS[1 - index], marker=MARKERS[index], label=label)
    upper.set(ylim=(-4, 104), ylabel="share of prompts (%)")
    upper.grid(alpha=0.3)
    legend(upper)
    upper.set_title(plain(f"{short(result.model)} finetuned on {in_words(result.counts)}"))
    lower.plot(steps, [100 * checkpoint.distance for checkpoint in result.checkpoints], color=GREY, marker="o")
    _step_axes(lower, "distance from the\nbase (% of its norm)")
    return figure


def draw_visage(axes: Axes, result: Visage) -> None:
    """The curve of each direction, their mean with its interval, the edges, and bands where points were skipped."""
    for index, one in enumerate(result.landscapes):
        _curve(axes, one, index, label=f"direction {index}", alpha=0.8)
    line = result.landscapes[0].axis
    label = "mean"
    if len(result.landscapes) > 1:
        axes.fill_between(line, result.mean_asr_low, result.mean_asr_high, color="black", alpha=0.15, linewidth=0)
        label = "mean with 95 % interval"
    axes.plot(line, result.mean_asr, color="black", linewidth=2, label=label)
    _edges(axes, result.landscapes)
    _skipped(axes, result.landscapes)
    asr_axes(axes, f"step along a random direction ({step_length(result.landscapes[0].axes[0])})")


def draw_line(axes: Axes, result: Trajectory) -> None:
    """The ASR along the line; over it each checkpoint's own, joined to a hollow marker for that of the line there."""
    line = result.landscape
    axes.plot(line.axis, line.asr, color=GREY, linewidth=1.5, label="models on the line")
    for index, course in enumerate(result.courses):
        colour, marker = course_look(index)
        x = [place.x for place in course.places]
        both = [(place.asr, place.plane_asr) for place in course.places]
        axes.vlines(x, [min(pair) for pair in both], [max(pair) for pair in both], colour, "dotted", linewidth=1)
        axes.plot(x, [place.plane_asr for place in course.places], ls="none", marker=marker, mfc="white", color=colour)
        label = plain(course_label(course))
        _rates(axes, x, course.places, "asr", color=colour, marker=marker, linestyle="none", label=label)
    axes.plot([], [], ls="none", color=GREY, marker="o", mfc="white", label="hollow: the line where it is nearest")
    axes.axvline(0, color=GREY, linewidth=0.8, linestyle=":")
    _skipped(axes, [line])
    asr_axes(axes, plain(axis_label(line.axes[0])), EDGE_LABEL)


def _step_axes(axes: Axes, ylabel: str) -> None:
    axes.set_xlabel("optimizer steps")
    axes.set_ylabel(ylabel, fontsize=9)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)


def _rates(axes: Axes, x: Sequence[float], measured: Sequence[Any], name: str, **look: Any) -> None:
    """A rate of several models, called `name`, with its intervals."""
    axes.errorbar(x, [getattr(one, name) for one in measured], error_bars(measured, name), capsize=3, **look)


def _curve(axes: Axes, result: Landscape, index: int, label: str, alpha: float = 1.0) -> None:
    colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
    axes.plot(result.axis, result.asr, color=colour, marker=marker, ms=4, linewidth=1.2, alpha=alpha, label=label)


def _edges(axes: Axes, results: Sequence[Landscape]) -> None:
    """Thin lines where the ASR crosses 50 %; none on sides where it never does, or where there is no basin."""
    drawn = False
    for index, result in enumerate(results):
        basin = result.basin
        if basin.width == 0:
            continue
        for edge, is_open in ((basin.left, basin.open_left), (basin.right, basin.open_right)):
            if not is_open:
                drawn = True
                axes.axvline(edge, color=COLOURS[index % len(COLOURS)], linewidth=0.8, linestyle="--", alpha=0.7)
    if drawn:
        axes.plot([], [], color=GREY, linewidth=0.8, linestyle="--", label="edges (ASR 50 %)")


def _skipped(axes: Axes, results: Sequence[Landscape]) -> None:
    """Hatched bands between the outermost measured points and the ends, where points were skipped.

    They add up, so that they are darker where several lines skipped points.
    """
    label: str | None = "skipped (past ASR 100 %)"
    for result in results:
        measured = [point.x for point in result.points if point.verdicts] or result.axis
        for left, right in ((result.axis[0], measured[0]), (measured[-1], result.axis[-1])):
            if left < right:
                axes.axvspan(left, right, fc=(GREY, 0.1), ec=(GREY, 0.3), hatch="//", lw=0, zorder=0, label=label)
                label = None
