"""One figure of an alignment and finetunings from it: basin, trajectories, and rates of all models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from visage_mlflow.figures import lines, maps
from visage_mlflow.figures.style import COLOURS, error_bars, plain
from visage_mlflow.results import Trajectory, Visage


def overview(basin: Visage, ways: Trajectory, table: Sequence[Mapping[str, Any]]) -> Figure:
    """The basin, the trajectories of the finetunings, and the rates of all models, side by side.

    Args:
        basin: VISAGE of the aligned model.
        ways: The finetunings that started from it.
        table: Rows with `model`, `asr` and `over_refusal`, and the intervals of both.
    """
    figure = Figure(figsize=(16, 5.6), layout=ConstrainedLayoutEngine(w_pad=0.12), dpi=130)
    left, middle, right = figure.subplots(1, 3)
    lines.draw_visage(left, basin)
    left.set_title(f"Aligned model, random directions: VISAGE {basin.visage:.1f}")
    if len(ways.landscape.axes) == 2:
        maps.name_axes(figure, middle, ways.landscape, maps.draw_courses(middle, ways))
        middle.set_title("Ways of the finetunings (markers: checkpoints)")
    else:
        lines.draw_line(middle, ways)
        middle.set_title("Towards the finetuned models (markers: checkpoints)")
    _bars(right, table)
    for axes, columns in ((left, 3), (middle, 2), (right, 2)):
        # Below, since data fill these panels; constrained layout makes the room.
        axes.set_title(axes.get_title(), fontsize=11)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=columns, fontsize=8, frameon=False)
    return figure


def _bars(axes: Axes, table: Sequence[Mapping[str, Any]]) -> None:
    for index, (name, label) in enumerate((("asr", "ASR"), ("over_refusal", "over-refusal"))):
        values, error = [row[name] for row in table], error_bars([SimpleNamespace(**row) for row in table], name)
        places = [place + (index - 0.5) * 0.38 for place in range(len(table))]
        axes.bar(places, values, 0.36, color=COLOURS[1 - index], label=label, yerr=error, capsize=3, ecolor="black")
    axes.set_xticks(range(len(table)), [plain(row["model"]) for row in table])
    axes.set(ylim=(0, 104), ylabel="share of prompts (%)", title="Attacks that succeed, ordinary prompts refused")
    axes.grid(axis="y", alpha=0.3)
