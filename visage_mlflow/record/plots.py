"""Results become figures. Nothing is computed here but where to draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from visage_mlflow.record.results import Finetuning, Landscape, Trajectory, Visage

# Okabe and Ito's colours, which stay apart for colour-blind readers, and markers, which stay apart in print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")
GREY = "#767676"
RANDOM_STEP = "step along a random direction (1 = norm of the weights)"
LINE_STEP = "position on the line (0 = base, 1 = last checkpoint)"


def landscape(result: Landscape) -> Figure:
    """ASR along one line, with Wilson intervals and the basin's edges."""
    figure, axes = _canvas()
    _curve(axes, result, 0, label="ASR with 95 % interval")
    low, high = ([getattr(point, name) for point in result.points] for name in ("asr_low", "asr_high"))
    axes.fill_between(result.axis, low, high, color=COLOURS[0], alpha=0.2, linewidth=0)
    _edges(axes, [result])
    _skipped(axes, [result])
    _asr_axes(axes, RANDOM_STEP if result.plane == "1d-random" else "position on the line (0 = model, 1 = other end)")
    axes.set_title(f"{_short(result.setup.model)}, {result.plane}: VISAGE {result.visage:.1f}")
    _legend(axes)
    return figure


def visage(result: Visage) -> Figure:
    """ASR along several random directions in one plot, their mean, and the basin's edges."""
    figure, axes = _canvas()
    _visage_panel(axes, result)
    model = _short(result.landscapes[0].setup.model)
    axes.set_title(
        f"{model}: VISAGE {result.visage:.1f} (95 % interval {result.visage_low:.1f} to {result.visage_high:.1f})"
    )
    return figure


def trajectory(result: Trajectory) -> Figure:
    """The checkpoints at their places on the line, over the ASR along it; below, what the line does not show."""
    figure = Figure(figsize=(6.4, 5.4), layout="constrained", dpi=150)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    line = result.landscape
    upper.plot(line.axis, line.asr, color=GREY, linewidth=1.5, label="models on the line")
    _places(upper, result, 1, label="checkpoints themselves")
    _skipped(upper, [line])
    _asr_axes(upper, "")
    x, shares = [place.x for place in result.places], [place.off_plane_share for place in result.places]
    # Training steps as shades: as labels they would lie on each other where checkpoints crowd.
    steps = upper.scatter(
        x,
        [place.asr for place in result.places],
        c=[place.training_step for place in result.places],
        cmap="cividis",
        s=36,
        zorder=3,
        edgecolors="black",
        linewidths=0.6,
    )
    figure.colorbar(steps, ax=upper, label="optimizer step", pad=0.02)
    _legend(upper)
    share = 100 * float(line.direction["relative_norm"])
    ends = f"From {_short(line.setup.model)} to {_short(str(line.direction['to']))}"
    upper.set_title(f"{ends},\n{share:.2g} % of the weights' norm away")
    lower.vlines(x, 0, shares, COLOURS[1])
    lower.plot(x, shares, linestyle="none", marker=MARKERS[1], color=COLOURS[1])
    lower.set(ylim=(-0.03, 1.03), ylabel="off-plane\nshare", xlabel=LINE_STEP)
    lower.grid(alpha=0.3)
    return figure


def finetuning(result: Finetuning) -> Figure:
    """ASR and over-refusal of the checkpoints, and their distance from the base, over training steps."""
    figure = Figure(figsize=(6.4, 5.0), layout="constrained", dpi=150)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1.2))
    steps = [checkpoint.step for checkpoint in result.checkpoints]
    for index, (name, label) in enumerate((("asr", "ASR"), ("over_refusal", "over-refusal"))):
        measured = [checkpoint.evaluation for checkpoint in result.checkpoints]
        upper.errorbar(
            steps,
            [getattr(one, name) for one in measured],
            yerr=_error_bars(measured, name),
            color=COLOURS[1 - index],
            marker=MARKERS[index],
            capsize=3,
            label=label,
        )
    upper.set(ylim=(-4, 104), ylabel="share of prompts (%)")
    upper.grid(alpha=0.3)
    _legend(upper)
    upper.set_title(f"{_short(result.model)} finetuned on {_counts(result.counts)}")
    lower.plot(steps, [100 * checkpoint.distance for checkpoint in result.checkpoints], color=GREY, marker="o")
    lower.set(xlabel="optimizer steps", ylabel="distance from the\nbase (% of its norm)")
    lower.set_ylim(bottom=0)
    lower.grid(alpha=0.3)
    return figure


def overview(basin: Visage, trajectories: Mapping[str, Trajectory], table: Sequence[Mapping[str, Any]]) -> Figure:
    """The whole story: the basin, the ways out of it, and the models' rates side by side.

    Args:
        basin: VISAGE of the aligned model.
        trajectories: Name of the data -> its trajectory.
        table: Rows with `model`, `asr` and `over_refusal`, and the intervals of both.
    """
    figure = Figure(figsize=(15, 5.2), layout="constrained", dpi=130)
    left, middle, right = figure.subplots(1, 3)
    _visage_panel(left, basin)
    left.set_title(f"Aligned model, random directions: VISAGE {basin.visage:.1f}")
    for index, (name, result) in enumerate(trajectories.items(), start=1):
        line = result.landscape
        share = 100 * float(line.direction["relative_norm"])
        middle.plot(
            line.axis,
            line.asr,
            color=COLOURS[index],
            linewidth=1.5,
            label=f"{name} data (last is {share:.2g} % of the norm away)",
        )
        _places(middle, result, index)
    middle.axvline(0, color=GREY, linewidth=0.8, linestyle=":")
    _asr_axes(middle, "position (0 = aligned model, 1 = last checkpoint)")
    middle.set_title("Towards the finetuned models (markers: checkpoints)")
    _bars(right, table)
    for axes, columns in ((left, 3), (middle, 1), (right, 2)):
        # Below, since curves fill these panels; constrained layout makes the room.
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=columns, fontsize=8, frameon=False)
    return figure


def _bars(axes: Axes, table: Sequence[Mapping[str, Any]]) -> None:
    for index, (name, label) in enumerate((("asr", "ASR"), ("over_refusal", "over-refusal"))):
        values = [row[name] for row in table]
        error = [
            [value - row[f"{name}_low"] for value, row in zip(values, table, strict=True)],
            [row[f"{name}_high"] - value for value, row in zip(values, table, strict=True)],
        ]
        places = [place + (index - 0.5) * 0.38 for place in range(len(table))]
        axes.bar(places, values, 0.36, color=COLOURS[1 - index], label=label, yerr=error, capsize=3, ecolor="black")
    axes.set_xticks(range(len(table)), [row["model"] for row in table])
    axes.set(ylim=(0, 104), ylabel="share of prompts (%)", title="Attacks that succeed, ordinary prompts refused")
    axes.grid(axis="y", alpha=0.3)


def _legend(axes: Axes) -> None:
    """Where it covers least, on white, so that curves behind it do not cross its words."""
    axes.legend(loc="best", fontsize=8, framealpha=0.9, edgecolor="none")


def _canvas() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6.4, 4.2), layout="constrained", dpi=150)
    return figure, figure.subplots()


def _visage_panel(axes: Axes, result: Visage) -> None:
    for index, one in enumerate(result.landscapes):
        _curve(axes, one, index, label=f"direction {one.direction['seed']}", alpha=0.8)
    axes.plot(result.landscapes[0].axis, result.mean_asr, color="black", linewidth=2, label="mean")
    _edges(axes, result.landscapes)
    _skipped(axes, result.landscapes)
    _asr_axes(axes, RANDOM_STEP)
    _legend(axes)


def _curve(axes: Axes, result: Landscape, index: int, label: str, alpha: float = 1.0) -> None:
    colour = COLOURS[index % len(COLOURS)]
    marker = MARKERS[index % len(MARKERS)]
    axes.plot(
        result.axis, result.asr, color=colour, marker=marker, markersize=4, linewidth=1.2, alpha=alpha, label=label
    )


def _edges(axes: Axes, results: Sequence[Landscape]) -> None:
    """Thin lines where the ASR crosses 50 %; sides on which it never does have none."""
    for index, result in enumerate(results):
        basin = result.basin
        for edge, is_open in ((basin.left, basin.open_left), (basin.right, basin.open_right)):
            if not is_open:
                axes.axvline(edge, color=COLOURS[index % len(COLOURS)], linewidth=0.8, linestyle="--", alpha=0.7)
    axes.plot([], [], color=GREY, linewidth=0.8, linestyle="--", label="edges (ASR 50 %)")


def _skipped(axes: Axes, results: Sequence[Landscape]) -> None:
    """Bands from the outermost measured points to the ends that were skipped; darker where several lines skipped."""
    label: str | None = "skipped (past the edge)"
    for result in results:
        measured = [point.step for point in result.points if point.verdicts]
        for left, right in ((result.axis[0], measured[0]), (measured[-1], result.axis[-1])):
            if left < right:
                axes.axvspan(left, right, fc=(GREY, 0.1), ec=(GREY, 0.3), hatch="//", lw=0, zorder=0, label=label)
                label = None


def _places(axes: Axes, result: Trajectory, index: int, label: str | None = None) -> None:
    places = result.places
    error = [[p.asr - p.asr_low for p in places], [p.asr_high - p.asr for p in places]]
    axes.errorbar(
        [place.x for place in places],
        [place.asr for place in places],
        yerr=error,
        linestyle="none",
        marker=MARKERS[index],
        markersize=7,
        color=COLOURS[index],
        capsize=3,
        label=label,
    )


def _error_bars(measured: Sequence[Any], name: str) -> list[list[float]]:
    values = [(getattr(one, name), getattr(one, f"{name}_low"), getattr(one, f"{name}_high")) for one in measured]
    return [[value - low for value, low, _ in values], [high - value for value, _, high in values]]


def _asr_axes(axes: Axes, xlabel: str) -> None:
    axes.axhline(50, color=GREY, linewidth=0.6, linestyle=":")
    axes.set(ylim=(-4, 104), xlabel=xlabel, ylabel="attack success rate (%)")
    axes.grid(alpha=0.3)


def _short(uri: str) -> str:
    """A model's name as a title holds it; of a logged model's id, what tells it from others."""
    name = uri.rstrip("/").split("/")[-1]
    if uri.startswith("models:/m-"):
        return f"model {name[2:10]}"
    return name if len(name) <= 28 else f"{name[:12]}…{name[-8:]}"


def _counts(counts: Mapping[str, int]) -> str:
    return " + ".join(f"{count} {kind}" for kind, count in counts.items() if count)
