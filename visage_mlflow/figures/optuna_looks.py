"""Optuna's figures in the house's look: what they are called, where their parts stand, and ticks of logarithms."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from visage_mlflow.figures.style import COLOURS, GREY, legend_below

INSIDE, OUTSIDE = "inside the limits", "outside the limits"


def tidy(name: str, figure: Figure, panels: list[Any]) -> None:
    """Make a figure that Optuna drew look like the others.

    Args:
        name: "history", "importances", "contour" or "slice".
        figure: With constrained layout.
        panels: Its axes, without the one of a colour bar.
    """
    for axes in panels:
        _repaint(axes)
    ARRANGE[name](figure, panels)


def log_ticks(low: float, high: float) -> list[float]:
    """Two ticks or more between two numbers above 0: powers of two from 1 on, else 1, 3, 10, …, or closer ones.

    None, if the numbers are too close.

    >>> log_ticks(4, 20), log_ticks(1e-4, 2e-3), log_ticks(2e-3, 9e-3)
    ([4.0, 8.0, 16.0], [0.0001, 0.0003, 0.001], [0.002, 0.005])
    """
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    choices = [
        [float(f"{digit}e{decade}") for decade in decades for digit in digits]
        for digits in ((1, 3), (1, 2, 5), (3, 6, 9), range(1, 10))
    ]
    if low >= 1:
        choices.insert(0, [2.0**power for power in range(math.ceil(math.log2(high)) + 1)])
    inside = ([tick for tick in ticks if low <= tick <= high] for ticks in choices)
    return next((ticks for ticks in inside if len(ticks) > 1), [])


def _repaint(axes: Axes) -> None:
    """The house's look over Optuna's: white, with a light grid, in small letters, and logarithms in plain numbers."""
    axes.set_facecolor("white")
    axes.set_axisbelow(True)
    axes.grid(color="#b0b0b0", alpha=0.3)
    axes.tick_params(labelsize=8, colors="black", which="both")
    for spine in axes.spines.values():
        spine.set(visible=True, color="black", linewidth=0.8)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set(color="black", fontsize=9)
        if axis.get_scale() == "log":
            _name_logarithms(axis)


def _name_logarithms(axis: Any) -> None:
    ticks = log_ticks(*sorted(axis.get_view_interval()))
    axis.set_major_locator(FixedLocator(ticks) if ticks else MaxNLocator(3))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def _look(part: Any, label: str, **look: Any) -> None:
    """What markers look like, and their name in the legend if there are any."""
    part.set(label=label if len(part.get_offsets()) else "", **look)


def _arrange_history(figure: Figure, panels: list[Any]) -> None:
    (axes,) = panels
    inside, outside = axes.collections
    _look(inside, INSIDE, color=COLOURS[0])
    _look(outside, OUTSIDE, color=GREY)
    for line in axes.get_lines():
        label = "best inside so far" if any(map(math.isfinite, line.get_ydata())) else ""
        line.set(color=COLOURS[1], label=label, drawstyle="steps-post", alpha=1)
    axes.set_title("Utility of the finished trials", fontsize=11)
    axes.set_xlabel("trial")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.get_legend().remove()
    legend_below(figure, axes, columns=3)


def _arrange_importances(figure: Figure, panels: list[Any]) -> None:
    (axes,) = panels
    for bar in axes.patches:
        bar.set_color(COLOURS[0])
    for text in axes.texts:
        text.set(text=f" {text.get_text()}", fontsize=8)
    axes.grid(visible=False, axis="y")
    axes.set_title("What decides the utility of the finished trials", loc="left", fontsize=11)
    axes.set(xlabel="importance (share of all, PED-ANOVA)", ylabel="setting")
    axes.get_legend().remove()


def _arrange_contour(figure: Figure, panels: list[Any]) -> None:
    (axes,) = panels
    inside, outside = axes.collections[-2:]
    for part, label, face, edge in ((inside, INSIDE, "black", "white"), (outside, OUTSIDE, "#cccccc", "black")):
        look = {"facecolor": face, "edgecolor": edge, "linewidth": 0.8, "sizes": [34]}
        _look(part, label, **look, clip_on=False, zorder=5)
    bar = figure.axes[-1]
    _repaint(bar)
    axes.set_title("Utility between the finished trials", fontsize=11)
    legend_below(figure, axes)


def _arrange_slice(figure: Figure, panels: list[Any]) -> None:
    """In rows of three, as wide as the other figures."""
    inside, what = panels[-1].collections[0], panels[0].get_ylabel()
    inside.colorbar.remove()
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    grid = GridSpec(rows, columns, figure)
    for index, axes in enumerate(panels):
        axes.set_subplotspec(grid[index])
        axes.tick_params(labelleft=index % columns == 0)
        axes.set_ylabel(what if index % columns == 0 else "", fontsize=9)
        # Optuna's colours say how late a trial came, on a scale of their own in each panel.
        axes.collections[0].set_array(None)
        _look(axes.collections[0], INSIDE, color=COLOURS[0])
        _look(axes.collections[1], OUTSIDE, color=GREY)
    figure.set_size_inches(6.4, 1.2 + 2.3 * rows)
    figure.suptitle("Utility of the finished trials over each setting", fontsize=11)
    legend_below(figure, panels[0])


ARRANGE: dict[str, Callable[[Figure, list[Any]], None]] = {
    "history": _arrange_history,
    "importances": _arrange_importances,
    "contour": _arrange_contour,
    "slice": _arrange_slice,
}
"""How to make each figure tidy, once Optuna has drawn it."""
