"""Pages of landscapes and trajectories for a browser: one HTML file each, which needs no network."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from visage_mlflow.figures.style import (
    ASR_COLOURS,
    COLOURS,
    GREY,
    asr_colour,
    axis_label,
    closeness,
    course_label,
    course_look,
    number,
    short,
)
from visage_mlflow.pages import hover
from visage_mlflow.pages.hover import Answers, about, about_place, about_point, as_markup, by_place, in_lines
from visage_mlflow.pages.shell import page_of
from visage_mlflow.results import Course, Landscape, Mark, Response, Trajectory

# Matplotlib's markers of courses -> Plotly's.
SYMBOLS = {
    "o": "circle", "s": "square", "^": "triangle-up", "D": "diamond", "v": "triangle-down", "P": "cross", "X": "x",
}  # fmt: skip
COLOUR_SCALE = {"colorscale": ASR_COLOURS, "colorbar": {"title": {"text": "ASR (%)"}, "thickness": 16}}
Outline = list[float | None]


def landscape(result: Landscape, responses: Sequence[Response]) -> str:
    """A page with a line's curve, or a plane's map and surface; hovering shows the answer to the first prompt.

    `responses` are those at its points, found by their `x` and `y`; some or all may be missing.
    """
    title = f"{short(result.setup.model)}, {result.plane}: VISAGE {number(result.visage)}"
    return page_of(title, about(result, responses), _charts(result, by_place(responses)))


def trajectory(result: Trajectory, responses: Sequence[Response]) -> str:
    """The page of a landscape with finetunings drawn into it; `responses` are those at the landscape's points."""
    line = result.landscape
    charts = _charts(line, by_place(responses))
    for index, course in enumerate(result.courses):
        _add_course(charts[0], course, index, is_plane=len(line.axes) == 2)
    paragraphs = about(line, responses) + [hover.CHECKPOINTS] * (len(line.axes) == 2)
    if result.remark:
        paragraphs.append(f"Remark: {result.remark}")
    return page_of(f"Finetunings of {short(line.setup.model)}, {line.plane}", paragraphs, charts)


def _charts(result: Landscape, answers: Answers) -> list[Any]:
    return [_curve(result, answers)] if len(result.axes) == 1 else [_map(result, answers), _surface(result, answers)]


def _curve(result: Landscape, answers: Answers) -> Any:
    figure = go.Figure()
    above = [point.asr_high - point.asr for point in result.points]
    below = [point.asr - point.asr_low for point in result.points]
    figure.add_scatter(
        x=result.axis, y=_or_none(result.asr), mode="lines+markers", name="ASR with 95 % interval",
        error_y={"type": "data", "array": _or_none(above), "arrayminus": _or_none(below), "thickness": 1},
        line={"color": COLOURS[0]}, text=[about_point(point, answers) for point in result.points], hoverinfo="text",
    )  # fmt: skip
    if missing := [point for point in result.points if math.isnan(point.asr)]:
        figure.add_scatter(
            x=[point.x for point in missing], y=[50.0 for _ in missing], mode="markers", name="not measured",
            marker={"color": GREY, "symbol": "x-thin-open", "size": 8},
            text=[about_point(point, {}) for point in missing], hoverinfo="text",
        )  # fmt: skip
    _arrange(figure, result)
    figure.update_yaxes(range=[-4, 104], title="attack success rate (%)")
    return figure


def _map(result: Landscape, answers: Answers) -> Any:
    x, y = (axis.steps for axis in result.axes)
    asr = [_or_none(row) for row in result.rows]
    flat = go.Figure()
    levels = {"start": 10, "end": 90, "size": 10}
    flat.add_contour(
        x=x, y=y, z=asr, contours=levels, zmin=0, zmax=100, line={"width": 0, "smoothing": 0},
        hoverinfo="skip", **COLOUR_SCALE,
    )  # fmt: skip
    edge = {"start": 50, "end": 50, "size": 1, "coloring": "lines"}
    flat.add_contour(
        x=x, y=y, z=asr, contours=edge, colorscale=[[0, "black"], [1, "black"]], showscale=False,
        line={"width": 3, "smoothing": 0}, hoverinfo="skip", name="edge (ASR 50 %)", showlegend=True,
    )  # fmt: skip
    cells = _missing_cells(result)
    if cells:
        # Covers the cells with a missing corner, half of which Plotly fills.
        flat.add_scatter(
            x=[x for xs, _ in cells for x in xs], y=[y for _, ys in cells for y in ys],
            mode="lines", line_width=0, fill="toself", fillcolor="#f2f2f2",
            fillpattern={"shape": "/", "fgcolor": "#a0a0a0", "bgcolor": "#f2f2f2", "size": 8},
            name="not measured", hoverinfo="skip",
        )  # fmt: skip
    flat.add_scatter(
        x=[point.x for point in result.points], y=[point.y for point in result.points], mode="markers",
        marker={"color": "white", "size": 4, "line": {"color": "black", "width": 0.5}},
        text=[about_point(point, answers) for point in result.points], hoverinfo="text",
        name="points of the grid", showlegend=False,
    )  # fmt: skip
    for mark in (Mark(result.setup.model, 0.0, 0.0), *result.marks):
        _add_mark(flat, mark, is_model=mark not in result.marks)
    _arrange(flat, result)
    return flat


def _surface(result: Landscape, answers: Answers) -> Any:
    figure = go.Figure()
    x, y = (axis.steps for axis in result.axes)
    texts = [about_point(point, answers) for point in result.points]
    rows = np.array(texts, dtype=object).reshape(len(y), len(x))
    asr = [_or_none(row) for row in result.rows]
    # `text`, since on a surface a hover template is shown as it stands.
    figure.add_surface(x=x, y=y, z=asr, cmin=0, cmax=100, text=rows, hoverinfo="text", **COLOUR_SCALE)
    names = [{"title": {"text": in_lines(axis_label(axis)), "font": {"size": 11}}} for axis in result.axes]
    asr_axis = {"range": [0, 100], "title": {"text": "ASR (%)"}}
    scene = {"xaxis": names[0], "yaxis": names[1], "zaxis": asr_axis, "aspectratio": {"x": 1, "y": 1, "z": 0.5}}
    camera = {"eye": {"x": 0.9, "y": -1.4, "z": 1.2}}
    figure.update_layout(scene={**scene, "aspectmode": "manual", "camera": camera}, margin={"t": 20, "b": 0})
    return figure


def _missing_cells(result: Landscape) -> list[tuple[Outline, Outline]]:
    """x and y of the outline of each cell that has a corner missing, with None at its end."""
    (x, y), rows = (axis.steps for axis in result.axes), result.rows
    return [
        ([left, right, right, left, left, None], [low, low, high, high, low, None])
        for row, (low, high) in enumerate(itertools.pairwise(y))
        for column, (left, right) in enumerate(itertools.pairwise(x))
        if any(map(math.isnan, rows[row][column : column + 2] + rows[row + 1][column : column + 2]))
    ]


def _add_mark(figure: Any, mark: Mark, is_model: bool) -> None:
    look = {"symbol": "star" if is_model else "x", "size": 16 if is_model else 11, "color": "white"}
    figure.add_scatter(
        x=[mark.x], y=[mark.y], mode="markers", marker={**look, "line": {"color": "black", "width": 1.5}},
        name="model" if is_model else as_markup(short(mark.uri)),
        hoverinfo="skip",  # Or the text of the grid's point below it would be hidden.
    )  # fmt: skip


def _add_course(figure: Any, course: Course, index: int, is_plane: bool) -> None:
    """On a plane a line from the model through the checkpoints; on a line each checkpoint's ASR at its place."""
    colour, symbol = course_look(index)
    start = [0.0] if is_plane else []
    figure.add_scatter(
        x=start + [place.x for place in course.places],
        y=start + _or_none([place.y if is_plane else place.asr for place in course.places]),
        mode="lines+markers" if is_plane else "markers",
        name=as_markup(course_label(course)),
        line={"color": colour, "width": 3},
        marker={
            # Size 0 at the model, which has its own marker.
            "size": [0 for _ in start] + [14 * closeness(place.off_plane_share) for place in course.places],
            "color": [colour for _ in start] + [asr_colour(place.asr) for place in course.places],
            "symbol": SYMBOLS[symbol],
            "opacity": 1,
            "line": {"color": colour, "width": 2},
        },
        text=["" for _ in start] + [about_place(course.name, place) for place in course.places],
        hoverinfo="text",
    )


def _arrange(figure: Any, result: Landscape) -> None:
    figure.update_layout(
        template="plotly_white",
        hovermode="closest",
        hoverlabel={"align": "left", "namelength": 0},
        legend={"orientation": "h", "y": -0.22, "yanchor": "top"},
        margin={"l": 80, "r": 20, "t": 20, "b": 80},
    )
    figure.update_xaxes(title=in_lines(axis_label(result.axes[0])), zeroline=False)
    if len(result.axes) == 2:
        figure.update_yaxes(title=in_lines(axis_label(result.axes[1])), zeroline=False)


def _or_none(values: Sequence[float]) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values]
