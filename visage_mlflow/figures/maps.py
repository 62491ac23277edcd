"""Figures of planes: contour maps, surfaces, and finetunings drawn over a map.

Where nothing was measured, the map is hatched and has no colour.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure
from matplotlib.patheffects import AbstractPathEffect, withStroke
from mpl_toolkits.mplot3d.art3d import Poly3DCollection

from visage_mlflow.figures.style import (
    ASR_COLOURS,
    EDGE_LABEL,
    GREY,
    asr_colour,
    axis_label,
    canvas,
    closeness,
    course_label,
    course_look,
    legend_below,
    plain,
    short,
)
from visage_mlflow.results import Course, Landscape, Trajectory

MISSING_LABEL = "not measured"
WHITE_OUTLINE: list[AbstractPathEffect] = [withStroke(linewidth=3.5, foreground="white")]


def contour(result: Landscape) -> Figure:
    """ASR on a plane as a map, with the line where it crosses 50 %, the model, and the models that the plane holds."""
    figure, axes = canvas(5.6)
    filled = draw_map(axes, result)
    draw_marks(axes, result)
    name_axes(figure, axes, result, filled)
    axes.set_title(plain(f"{short(result.setup.model)}, {result.plane}: VISAGE {result.visage:.1f}"), fontsize=11)
    legend_below(figure, axes, columns=4)
    return figure


def surface(result: Landscape) -> Figure:
    """ASR on a plane as a surface over it, with the line where it crosses 50 %."""
    figure = Figure(figsize=(6.4, 5.6), layout="constrained", dpi=150)
    axes: Any = figure.add_subplot(projection="3d", computed_zorder=False)
    x, y, asr = _grid(result)
    # Cell by cell: matplotlib's own surface draws cells that have a corner missing.
    corners = ((0, 0), (0, 1), (1, 1), (1, 0))
    cells = [
        [(x[column + right], y[row + up], result.rows[row + up][column + right]) for up, right in corners]
        for row in range(len(y) - 1)
        for column in range(len(x) - 1)
    ]
    whole = [cell for cell in cells if all(math.isfinite(height) for *_, height in cell)]
    drawn = Poly3DCollection(whole, cmap=ASR_COLOURS, edgecolors=(1, 1, 1, 0.35), linewidths=0.4)
    drawn.set_array([sum(height for *_, height in cell) / 4 for cell in whole])
    drawn.set_clim(0, 100)
    axes.add_collection3d(drawn)
    if _crosses(asr):
        axes.contour(x, y, asr, levels=[50], colors="black", linewidths=2.2, zorder=3)
        axes.plot([], [], [], color="black", linewidth=2.2, label=f"{EDGE_LABEL}, also where the surface hides it")
        axes.legend(loc="upper left", fontsize=8, frameon=False)
    axes.set(xlim=(x[0], x[-1]), ylim=(y[0], y[-1]), zlim=(0, 100))
    # In short lines: the layout makes no room for slanted labels.
    for axis, set_label in zip(result.axes, (axes.set_xlabel, axes.set_ylabel), strict=True):
        set_label(plain(axis_label(axis)).replace(" (", "\n(", 1).replace("; ", ";\n"), fontsize=7.5, labelpad=14)
    axes.set_zlabel("attack success rate (%)", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.locator_params(nbins=5)
    # Flat and from above, or the near side of a basin hides its ground.
    axes.set_box_aspect((4, 4, 1.8), zoom=0.92)
    axes.view_init(elev=48, azim=-58)
    axes.set_title(plain(f"{short(result.setup.model)}, {result.plane}: VISAGE {result.visage:.1f}"), fontsize=11)
    return figure


def trajectory(result: Trajectory) -> Figure:
    """Arrows from checkpoint to checkpoint of each finetuning, over the map of the plane."""
    figure, axes = canvas(6.2)
    filled = draw_courses(axes, result)
    name_axes(figure, axes, result.landscape, filled)
    axes.set_title(plain(f"{short(result.landscape.setup.model)} finetuned, {result.landscape.plane}"), fontsize=11)
    legend_below(figure, axes, result.remark)
    return figure


def draw_map(axes: Axes, result: Landscape) -> QuadContourSet:
    """The filled contours, the edge, the grid's points, and the model; the axes end where the grid does."""
    x, y, asr = _grid(result)
    axes.set(xlim=(x[0], x[-1]), ylim=(y[0], y[-1]))
    axes.patch.set(facecolor="#f2f2f2", edgecolor="#a0a0a0", hatch="////", linewidth=0)
    # A cell with a missing corner stays blank as a whole, or its half would be drawn from three corners.
    filled = axes.contourf(x, y, asr, levels=range(0, 101, 10), cmap=ASR_COLOURS, vmin=0, vmax=100, corner_mask=False)
    if _crosses(asr):
        line = axes.contour(x, y, asr, levels=[50], colors="black", linewidths=2.2, corner_mask=False)
        line.set_path_effects(WHITE_OUTLINE)
        axes.plot([], [], color="black", linewidth=2.2, label=EDGE_LABEL)
    measured = [point for point in result.points if math.isfinite(point.asr)]
    dots = [point.x for point in measured], [point.y for point in measured]
    axes.scatter(*dots, s=4, color="white", edgecolors="black", linewidths=0.3, zorder=2.5)
    axes.plot(0, 0, "*", color="white", markeredgecolor="black", markersize=13, zorder=6, ls="none", label="model")
    if np.ma.is_masked(asr):
        _hatched(axes)
    return filled


def draw_marks(axes: Axes, result: Landscape, besides: frozenset[str] = frozenset()) -> None:
    """The models that the plane was laid through, with their names; those in `besides` are drawn already."""
    for mark in result.marks:
        if mark.uri in besides or not (math.isfinite(mark.x) and math.isfinite(mark.y)):
            continue
        _make_room(axes, mark.x, mark.y)
        axes.plot(mark.x, mark.y, "X", color="white", markeredgecolor="black", markersize=9, zorder=5, clip_on=False)
        # Towards the middle, where there is room for the name.
        is_right, is_high = mark.x > sum(axes.get_xlim()) / 2, mark.y > sum(axes.get_ylim()) / 2
        offset = -8 if is_right else 8, -8 if is_high else 8
        sides: dict[str, Any] = {"ha": "right" if is_right else "left", "va": "top" if is_high else "bottom"}
        box = {"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.85}
        at, name = (mark.x, mark.y), plain(short(mark.uri))
        axes.annotate(name, at, offset, textcoords="offset points", fontsize=8, zorder=7, bbox=box, **sides)


def draw_courses(axes: Axes, result: Trajectory) -> QuadContourSet:
    """The map, and on it each course as arrows from the model.

    A checkpoint's marker is filled with the colour of its own ASR: where that differs from the map around it, the
    plane hides the reason. The farther a checkpoint is from the plane, the smaller its marker.
    """
    filled = draw_map(axes, result.landscape)
    for place in result.places:
        _make_room(axes, place.x, place.y)
    draw_marks(axes, result.landscape, besides=frozenset(place.uri for place in result.places))
    for index, course in enumerate(result.courses):
        _arrows(axes, course, index)
    axes.plot([], [], "o", color=asr_colour(100), mec=GREY, mew=1.8, ms=9, label="fill: ASR of the checkpoint itself")
    axes.plot([], [], "o", color="white", mec=GREY, mew=1.4, ms=4.5, label="small: mostly off the plane")
    return filled


def _arrows(axes: Axes, course: Course, index: int) -> None:
    colour, marker = course_look(index)
    places = [place for place in course.places if math.isfinite(place.x) and math.isfinite(place.y)]
    ways = [(0.0, 0.0), *((place.x, place.y) for place in places)]
    arrow = {"arrowstyle": "-|>", "color": colour, "linewidth": 1.8, "shrinkA": 0, "shrinkB": 3, "mutation_scale": 11}
    for start, end in itertools.pairwise(ways):
        if start != end:
            axes.annotate("", end, start, zorder=4, arrowprops={**arrow, "path_effects": WHITE_OUTLINE})
    for place in places:
        size, face = 10 * closeness(place.off_plane_share), asr_colour(place.asr)
        for edge, width in (("white", 4.4), (colour, 2.2)):
            axes.plot(place.x, place.y, marker, mfc=face, ms=size, mec=edge, mew=width, zorder=5, clip_on=False)
    axes.plot([], [], "-", marker=marker, color=colour, linewidth=1.8, label=plain(course_label(course)))


def name_axes(figure: Figure, axes: Axes, result: Landscape, filled: ScalarMappable) -> None:
    """Axis labels and the colour bar."""
    x_label, y_label = (plain(axis_label(axis)).replace(" (", "\n(", 1) for axis in result.axes)
    axes.set_xlabel(x_label, fontsize=9)
    axes.set_ylabel(y_label, fontsize=9)
    figure.colorbar(filled, ax=axes, label="attack success rate (%)", pad=0.02, ticks=range(0, 101, 20))


def _grid(result: Landscape) -> tuple[Any, Any, Any]:
    """Steps along x and y, and the ASR there with what is missing masked: (x,), (y,), (y, x)."""
    x, y = (np.array(axis.steps) for axis in result.axes)
    return x, y, np.ma.masked_invalid(np.array(result.rows, dtype=float))


def _crosses(asr: Any) -> bool:
    """Whether the ASR crosses 50 % anywhere; matplotlib warns of a contour that does not exist."""
    return bool((asr < 50).any() and (asr > 50).any())


def _make_room(axes: Axes, x: float, y: float) -> None:
    """Widen the axes to hold (x, y), if they do not yet; the ground beyond the grid is hatched, too."""
    for value, (low, high), widen in ((x, axes.get_xlim(), axes.set_xlim), (y, axes.get_ylim(), axes.set_ylim)):
        if value < low or value > high:
            room = 0.06 * (max(value, high) - min(value, low))
            widen(value - room if value < low else low, value + room if value > high else high)
            _hatched(axes)


def _hatched(axes: Axes) -> None:
    """Explain the hatching in the legend, once."""
    if MISSING_LABEL not in axes.get_legend_handles_labels()[1]:
        axes.fill([], [], fc="#f2f2f2", ec="#a0a0a0", hatch="////", lw=0, label=MISSING_LABEL)
