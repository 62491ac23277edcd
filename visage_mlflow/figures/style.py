"""What figures and pages share: colours, names and axis labels, canvases, and legends."""

from __future__ import annotations

import math
import textwrap
import unicodedata
from collections.abc import Sequence
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.container import Container
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties

from visage_mlflow.results import Axis, Course

# Okabe and Ito's colours, which stay apart for colour-blind readers, and markers, which stay apart in print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "#767676"

EDGE_LABEL = "edge (ASR 50 %)"
"""What margins lead to; not the line of `max_asr`, up to which a model counts as inside."""

# On the map of a plane, dark blue is safe and yellow is not. Courses drawn over it have colours that the map lacks.
ASR_COLOURS = "cividis"
COURSE_COLOURS = ("#D55E00", "#56B4E9", "#CC79A7", "#009E73", "#000000")


def canvas(height: float = 4.2) -> tuple[Figure, Axes]:
    """A figure with one panel, 960 pixels wide; `height` is in inches of 150 pixels."""
    figure = Figure(figsize=(6.4, height), layout="constrained", dpi=150)
    return figure, figure.subplots()


def two_panels(height: float, ratio: float) -> tuple[Figure, Axes, Axes]:
    """A figure with two panels over the same x; the lower one is `ratio` times as high as the upper one."""
    figure = Figure(figsize=(6.4, height), layout="constrained", dpi=150)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(1, ratio))
    return figure, upper, lower


def legend(axes: Axes) -> None:
    """A legend on white ground, so that curves behind it do not cross its words, where it covers least."""
    axes.legend(loc="best", fontsize=8, framealpha=0.9, edgecolor="none")


def legend_below(figure: Figure, axes: Axes, remark: str = "", columns: int = 2) -> None:
    """A panel's legend below the figure, where it covers nothing, with the remark as its title."""
    # Error bars first, as drawn: matplotlib puts them last.
    entries = list(zip(*axes.get_legend_handles_labels(), strict=True))
    handles, labels = zip(*sorted(entries, key=lambda one: not isinstance(one[0], Container)), strict=True)
    look: dict[str, Any] = {"loc": "outside lower center", "fontsize": 8, "frameon": False, "columnspacing": 1.4}
    below = figure.legend(handles, labels, ncols=columns, **look)
    if remark:
        below.set_title(plain(wrapped(remark)), prop=FontProperties(size=8, style="italic"))


def asr_axes(axes: Axes, xlabel: str, edge_label: str | None = None) -> None:
    """Show the ASR as y, with room for markers at 0 and 100 %, and a line at the edge, 50 %."""
    axes.axhline(50, color=GREY, linewidth=0.6, linestyle=":", label=edge_label)
    axes.set(ylim=(-4, 104), xlabel=xlabel, ylabel="attack success rate (%)")
    axes.grid(alpha=0.3)


def error_bars(measured: Sequence[Any], name: str) -> list[list[float]]:
    """Distances of `<name>_low` and of `<name>_high` from `<name>`, two lists as `errorbar` takes them."""
    values = [(getattr(one, name), getattr(one, f"{name}_low"), getattr(one, f"{name}_high")) for one in measured]
    return [[value - low for value, low, _ in values], [high - value for value, _, high in values]]


def short(uri: str) -> str:
    """A model's name, short enough for a title."""
    name = clean(uri).rstrip("/").split("/")[-1]
    if uri.startswith("models:/m-"):
        return f"model {name[2:10]}"
    return name if len(name) <= 28 else f"{name[:12]}…{name[-8:]}"


def axis_label(axis: Axis) -> str:
    """What a direction is, and how long a step of 1 along it."""
    what, notes = axis.kind, []
    if axis.kind == "random":
        what, notes = "step along random direction", [f"seed {axis.seed}"]
    elif axis.kind == "difference":
        what = f"towards {short(axis.to or 'another model')}"
    elif axis.kind == "component":
        what = "principal component"
        if axis.explained_variance is not None:
            notes = [f"{percent(axis.explained_variance)} of variance"]
    notes.append(step_length(axis))
    if axis.angle is not None:
        notes.append(f"made orthogonal, was {axis.angle:.0f}°")
    return f"{what} ({'; '.join(notes)})"


def step_length(axis: Axis) -> str:
    """The length of a step of 1, in words."""
    return f"1 = {percent(axis.relative_norm)} of the weights' norm"


def course_label(course: Course) -> str:
    """A course's name and its margin to the edge (ASR 50 %) with the interval, if one was looked for."""
    if course.edge is None:
        return clean(course.name)
    if course.edge.starts_outside:
        return f"{clean(course.name)}, began outside"
    # With the sign that typesetters use: a hyphen is too short to be seen in a small legend.
    margin = course.edge.margin_in_words.replace("-", "−")
    falls = ", falls" if course.edge.falls else ""
    returns = ", comes back" if course.edge.comes_back else ""
    return f"{clean(course.name)}, margin {margin}{falls}{returns}"


def course_look(index: int) -> tuple[str, str]:
    """Colour and marker of a trajectory's course, the same in all figures."""
    return COURSE_COLOURS[index % len(COURSE_COLOURS)], MARKERS[index % len(MARKERS)]


def asr_colour(asr: float) -> str:
    """The colour that an ASR in percent has on a map; white if it was not measured."""
    return "#ffffff" if math.isnan(asr) else to_hex(colormaps[ASR_COLOURS](asr / 100))


def closeness(off_plane_share: float) -> float:
    """Relative size of a checkpoint's marker, 0.5 to 1: the farther from the plane, the smaller."""
    return 1 - 0.5 * off_plane_share


def percent(share: float) -> str:
    """A share (0 to 1) in two digits, or as whole percent.

    >>> percent(0.00213), percent(0.95), percent(1.1)
    ('0.21 %', '95 %', '110 %')
    """
    value = 100 * share
    return f"{value:.2g} %" if value < 99.5 else f"{value:.0f} %"


def number(value: float, digits: int = 1) -> str:
    """A number as text; NaN is "not measured"."""
    return "not measured" if math.isnan(value) else f"{value:.{digits}f}".replace("-", "−")


def clean(text: str) -> str:
    """The text on one line, without control characters."""
    return " ".join("".join(" " if unicodedata.category(one)[0] == "C" else one for one in text).split())


def plain(text: str) -> str:
    """The text for matplotlib, which reads what stands between dollars as mathematics and skips labels after "_"."""
    escaped = text.replace("$", r"\$")
    return f" {escaped}" if escaped.startswith("_") else escaped


def wrapped(text: str, columns: int = 95) -> str:
    """The text in lines of at most `columns` characters, except for longer words."""
    return "\n".join(textwrap.wrap(clean(text), columns))
